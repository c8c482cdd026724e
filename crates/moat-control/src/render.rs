//! Documents as they are answered: the envelope around what is stored.

use moat_arm::{ResourceId, Stored, document};
use moat_model::ResourceType;
use moat_model::resource_type::{Completion, Scope};
use serde_json::{Map, Value, json};

use crate::catalogue::DEPLOYMENTS;
use crate::world::World;
use crate::{body, operation};

/// Namespace of etag guids; any constant does, it only has to stay.
const ETAGS: uuid::Uuid = uuid::Uuid::from_u128(0x6d6f_6174_6574_4167_8000_0000_0000_0001);

/// `W/"<guid>"`, the same for one version of one document on every read.
pub(crate) fn etag(id: &ResourceId, seq: u64) -> String {
    format!("W/\"{}\"", uuid::Uuid::new_v5(&ETAGS, format!("{seq}:{}", id.key()).as_bytes()))
}

/// Time as ARM writes it: UTC with seven digits.
pub(crate) fn time(t: jiff::Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S%.7fZ").to_string()
}

/// `properties.provisioningState` of a document; `None` for types that have none.
pub(crate) fn state(w: &World<'_>, kind: &ResourceType, stored: &Stored) -> Option<String> {
    let own = document::str_at(&stored.body, "properties.provisioningState");
    match kind.completion {
        _ if kind.scope == Scope::Extension => None,
        Completion::Reconciled => Some(own.unwrap_or("Succeeded").to_owned()),
        Completion::Sync => Some(own.unwrap_or("Succeeded").to_owned()),
        // What the service wrote stays; everything else follows the data plane.
        Completion::Applied | Completion::Accepted if matches!(own, Some("Failed" | "Deleting")) => {
            own.map(str::to_owned)
        }
        _ if kind.name == DEPLOYMENTS => {
            let running = w.ctx.applied < stored.seq || operation::still_deploying(w, &stored.body);
            Some(if running { "Running" } else { "Succeeded" }.to_owned())
        }
        Completion::Applied | Completion::Accepted if w.ctx.applied >= stored.seq => Some("Succeeded".to_owned()),
        Completion::Applied | Completion::Accepted => Some("Updating".to_owned()),
    }
}

/// A stored document in its envelope.
pub(crate) fn resource(w: &World<'_>, kind: &'static ResourceType, stored: &Stored) -> Value {
    let state = state(w, kind, stored);
    let id = stored.id.with_type_spelling(kind.name);
    let tag = (kind.scope != Scope::Extension).then(|| etag(&id, stored.seq));
    let mut out = envelope(&id, kind.name, tag.as_deref(), &stored.body);
    for (child, array) in w.embedded_in(kind) {
        let elements = document::array_at(&stored.body, array);
        let segment = child.name.rsplit('/').next().unwrap_or_default();
        let rendered: Vec<Value> = elements
            .iter()
            .map(|e| {
                let name = document::str_at(e, "name").unwrap_or_default();
                element(w, child, &id.child(segment, name), e, tag.as_deref(), state.as_deref())
            })
            .collect();
        document::set(&mut out, array, Value::Array(rendered));
    }
    if let Some(state) = state {
        document::set(&mut out, "properties.provisioningState", json!(state));
    }
    finish(w, kind, &id, out)
}

/// An embedded child in its envelope; it shares etag and state with the document it lives in.
pub(crate) fn child(
    w: &World<'_>,
    parent_kind: &'static ResourceType,
    kind: &'static ResourceType,
    holder: &Stored,
    value: &Value,
) -> Value {
    let parent_id = holder.id.with_type_spelling(parent_kind.name);
    let segment = kind.name.rsplit('/').next().unwrap_or_default();
    let id = parent_id.child(segment, document::str_at(value, "name").unwrap_or_default());
    let state = state(w, parent_kind, holder);
    element(w, kind, &id, value, Some(&etag(&parent_id, holder.seq)), state.as_deref())
}

fn element(
    w: &World<'_>,
    kind: &'static ResourceType,
    id: &ResourceId,
    value: &Value,
    tag: Option<&str>,
    state: Option<&str>,
) -> Value {
    let mut out = envelope(id, kind.name, tag, value);
    if let Some(state) = state {
        document::set(&mut out, "properties.provisioningState", json!(state));
    }
    finish(w, kind, id, out)
}

/// What the type adds; and nothing that the platform keeps for itself leaves it.
fn finish(w: &World<'_>, kind: &'static ResourceType, id: &ResourceId, mut out: Value) -> Value {
    (kind.render)(&w.type_ctx(), id, &mut out);
    document::remove(&mut out, body::PRIVATE);
    out
}

fn envelope(id: &ResourceId, kind: &str, tag: Option<&str>, stored: &Value) -> Value {
    let mut out = Map::new();
    out.insert("id".to_owned(), json!(id.as_str()));
    out.insert("name".to_owned(), json!(id.name()));
    out.insert("type".to_owned(), json!(kind));
    if let Some(tag) = tag {
        out.insert("etag".to_owned(), json!(tag));
    }
    if let Value::Object(members) = stored {
        for (name, value) in members {
            let rendered = body::RENDERED[..4].iter().any(|r| r.eq_ignore_ascii_case(name));
            // What the platform keeps for itself is there for `render`, and is taken out after it.
            if !rendered {
                out.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(out)
}
