//! POST actions and GET readings of a type.

use moat_arm::{ApiError, ResourceId};
use moat_model::ResourceType;
use moat_model::resource_type::{Action, Scope};

use super::{get, put};
use crate::operation::{self, Follows, Operation};
use crate::request::Decision;
use crate::world::World;
use crate::{access, body};

/// Runs a POST action.
pub(crate) fn action(
    w: &World<'_>,
    kind: &'static ResourceType,
    action: &Action,
    id: &ResourceId,
) -> Result<Decision, ApiError> {
    access::require(w, &format!("{}/{}/action", kind.name, action.name), Some(id))?;
    exists(w, kind, id)?;
    let input = body::object_or_empty(w.request.body.as_deref())?;
    let outcome = (action.run)(&w.type_ctx(), id, &input)?;
    let mut batch = outcome.batch;
    batch.audit.operation = format!("{}/{}/action", kind.name, action.name);
    if !outcome.long_running {
        return Ok(match outcome.body {
            serde_json::Value::Null => Decision { batch, ..Decision::empty(200) },
            body => Decision { batch, ..Decision::answer(200, body) },
        });
    }
    let stored = w.snapshot.get(id).map(|d| &d.body).unwrap_or(&serde_json::Value::Null);
    let location = operation::location(w, id, stored);
    let follows = if kind.settled.is_some() { Follows::Settled } else { Follows::Commit };
    let result = (!outcome.body.is_null()).then_some(outcome.body);
    let urls = operation::begin(w, &Operation { target: id, follows, result, location: &location }, &mut batch);
    Ok(Decision {
        headers: vec![
            ("Azure-AsyncOperation", urls.status),
            ("Location", urls.result),
            ("Retry-After", operation::RETRY_AFTER_SECONDS.to_owned()),
        ],
        batch,
        ..Decision::empty(202)
    })
}

/// Answers a GET that is not a document.
pub(crate) fn reading(
    w: &World<'_>,
    kind: &'static ResourceType,
    reading: &Action,
    id: &ResourceId,
) -> Result<Decision, ApiError> {
    access::require(w, &format!("{}/{}/read", kind.name, reading.name), Some(id))?;
    exists(w, kind, id)?;
    let query: serde_json::Map<String, serde_json::Value> =
        w.request.query.iter().map(|(k, v)| (k.clone(), serde_json::Value::String(v.clone()))).collect();
    let outcome = (reading.run)(&w.type_ctx(), id, &serde_json::Value::Object(query))?;
    Ok(Decision::answer(200, outcome.body))
}

/// `locations` and the like are never stored; everything else must be there.
fn exists(w: &World<'_>, kind: &'static ResourceType, id: &ResourceId) -> Result<(), ApiError> {
    if kind.scope == Scope::Subscription && w.snapshot.get(id).is_none() {
        return Ok(());
    }
    if kind.on_demand && w.snapshot.get(id).is_none() {
        return put::lives_somewhere(w, kind, id);
    }
    get::read(w, kind, id).map(|_| ())
}
