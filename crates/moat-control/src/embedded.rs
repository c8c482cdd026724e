//! Children that live inside their parent's document: subnets, security rules, routes, peerings.

use moat_arm::{ResourceId, Stored, document};
use serde_json::Value;

use crate::body;

/// The position of the child called `name`, compared without case.
pub(crate) fn position(parent: &Value, array: &str, name: &str) -> Option<usize> {
    document::array_at(parent, array)
        .iter()
        .position(|e| document::str_at(e, "name").is_some_and(|n| n.eq_ignore_ascii_case(name)))
}

/// The child called `name`.
pub(crate) fn find<'a>(parent: &'a Value, array: &str, name: &str) -> Option<&'a Value> {
    position(parent, array, name).and_then(|at| document::array_at(parent, array).get(at))
}

/// Puts `element` in the place of the child of its name, or at the end.
pub(crate) fn splice(parent: &mut Value, array: &str, name: &str, element: Value) {
    let at = position(parent, array, name);
    match (document::array_at_mut(parent, array), at) {
        (Some(elements), Some(at)) => elements[at] = element,
        (Some(elements), None) => elements.push(element),
        (None, _) => document::set(parent, array, Value::Array(vec![element])),
    }
}

/// Takes the child called `name` out.
pub(crate) fn cut(parent: &mut Value, array: &str, name: &str) {
    if let Some(at) = position(parent, array, name)
        && let Some(elements) = document::array_at_mut(parent, array)
    {
        elements.remove(at);
    }
}

/// A child as it is stored: its name first, without the members that are rendered.
pub(crate) fn stored_form(element: &Value, name: &str) -> Value {
    let mut rest = element.clone();
    body::strip(&mut rest);
    let mut out = serde_json::Map::new();
    out.insert("name".to_owned(), Value::String(name.to_owned()));
    if let Value::Object(members) = rest {
        out.extend(members);
    }
    Value::Object(out)
}

/// Whether `id` names a document, or something inside the document of its parent: a child that
/// the table declares, or any array member with that name (front ends of a load balancer).
pub(crate) fn exists<'a>(get: &impl Fn(&ResourceId) -> Option<&'a Value>, id: &ResourceId) -> bool {
    if get(id).is_some() {
        return true;
    }
    let kind = id.resource_type();
    let Some((_, last)) = kind.rsplit_once('/') else { return false };
    if id.names().len() < 2 {
        return false;
    }
    let Some(parent) = id.parent() else { return false };
    get(&parent).is_some_and(|body| find(body, &format!("properties.{last}"), id.name()).is_some())
}

/// The stored document a child lives in.
pub(crate) fn holder<'a>(snapshot: &'a moat_arm::Snapshot, id: &ResourceId) -> Option<&'a Stored> {
    snapshot.get(&id.parent()?).map(AsRef::as_ref)
}
