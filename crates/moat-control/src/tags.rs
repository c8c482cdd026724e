//! `{scope}/providers/Microsoft.Resources/tags/default`: the tags of a subscription, group or
//! resource as a resource of their own.
//!
//! Those of a group or resource stand in its document. A subscription has no document; its tags are
//! the one thing that is stored under this type.

use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Map, Value, json};

use crate::catalogue::TAGS;
use crate::decide::method_not_allowed;
use crate::request::{Decision, Method};
use crate::verbs::put;
use crate::world::World;
use crate::{access, body};

/// Decides a request for the tags of what `id` hangs on.
pub(crate) fn decide(w: &World<'_>, id: &ResourceId) -> Result<Decision, ApiError> {
    let scope = id.parent().ok_or_else(|| ApiError::not_found(id))?;
    let verb = match w.request.method {
        Method::Get | Method::Head => "read",
        Method::Put | Method::Patch => "write",
        Method::Delete => "delete",
        Method::Post => return Err(method_not_allowed(w)),
    };
    access::require(w, &format!("{TAGS}/{verb}"), Some(id))?;
    if !id.name().eq_ignore_ascii_case("default") {
        return Err(ApiError::not_found(id));
    }
    w.group_of(&scope)?;
    let of_subscription = scope.namespace().is_none() && scope.resource_group().is_none();
    let stored = match of_subscription {
        true => w.snapshot.get(id),
        false => Some(w.snapshot.get(&scope).ok_or_else(|| ApiError::not_found(&scope))?),
    };
    let holder = if of_subscription { id } else { stored.map_or(&scope, |s| &s.id) };
    let old = stored.map(|s| tags_in(&s.body)).unwrap_or_default();
    let shown = if of_subscription { &scope } else { holder };
    let new = match w.request.method {
        Method::Put => given(w)?,
        Method::Patch => patched(w, old)?,
        Method::Delete => Map::new(),
        _ => return Ok(Decision::answer(200, render(shown, &old))),
    };
    if let Some(stored) = stored {
        put::not_going(w, stored)?;
    }
    let mut whole = stored.map_or_else(|| json!({}), |s| s.body.clone());
    document::set(&mut whole, "tags", Value::Object(new.clone()));
    body::well_formed(&whole)?;
    let mut batch = Batch::default();
    batch.put(holder.clone(), whole);
    batch.audit.operation = format!("{TAGS}/{verb}");
    let answer = match w.request.method {
        Method::Delete => Decision::empty(200),
        _ => Decision::answer(200, render(shown, &new)),
    };
    Ok(Decision { batch, ..answer })
}

fn tags_in(body: &Value) -> Map<String, Value> {
    document::at(body, "tags").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// The tags of the environment's subscription.
pub(crate) fn of_subscription(w: &World<'_>) -> Map<String, Value> {
    let id = ResourceId::parse(&format!("/subscriptions/{}/providers/{TAGS}/default", w.ctx.subscription)).ok();
    id.and_then(|id| w.snapshot.get(&id)).map(|s| tags_in(&s.body)).unwrap_or_default()
}

fn given(w: &World<'_>) -> Result<Map<String, Value>, ApiError> {
    let asked = body::object(w.request.body.as_deref())?;
    body::properties_form(&asked)?;
    match document::at(&asked, "properties.tags") {
        None => Ok(Map::new()),
        Some(Value::Object(tags)) => Ok(tags.clone()),
        Some(_) => Err(ApiError::bad_request(
            "InvalidRequestContent",
            "The request content was invalid and could not be deserialized: 'an object is expected'. Path 'properties.tags'.",
        )),
    }
}

fn patched(w: &World<'_>, old: Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    let asked = body::object(w.request.body.as_deref())?;
    let operation = document::str_at(&asked, "operation").unwrap_or_default().to_owned();
    let tags = given(w)?;
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    let mut out: Map<String, Value> = match operation.to_ascii_lowercase().as_str() {
        "replace" => return Ok(tags),
        "merge" => old.into_iter().filter(|(name, _)| !tags.keys().any(|t| same(t, name))).collect(),
        "delete" => {
            return Ok(old
                .into_iter()
                .filter(|(name, value)| !tags.iter().any(|(t, v)| same(t, name) && (v == value || v == "")))
                .collect());
        }
        _ => {
            return Err(ApiError::bad_request(
                "InvalidRequestContent",
                format!("The operation '{operation}' is not one of 'Merge', 'Replace', 'Delete'."),
            )
            .with_target("operation"));
        }
    };
    out.extend(tags);
    Ok(out)
}

fn render(scope: &ResourceId, tags: &Map<String, Value>) -> Value {
    json!({
        "id": format!("{scope}/providers/{TAGS}/default"), "name": "default", "type": TAGS,
        "properties": {"tags": tags},
    })
}
