//! Small edits that several types make to their documents.

use moat_arm::{ApiError, ResourceId, document};
use serde_json::{Value, json};

use super::microsoft_machinelearningservices::auto_network::{OWNER, SERVICE_PRINCIPAL};
use crate::resource_type::{TypeCtx, Write};

/// The array at a dotted path, to be edited.
pub(crate) fn array_mut<'a>(document: &'a mut Value, path: &str) -> Option<&'a mut Vec<Value>> {
    let mut here = document;
    for name in path.split('.') {
        let map = here.as_object_mut()?;
        let key = map.keys().find(|k| k.eq_ignore_ascii_case(name)).cloned()?;
        here = map.get_mut(&key)?;
    }
    here.as_array_mut()
}

/// Edits each element of the array at `path`, if there is one.
pub(crate) fn each(document: &mut Value, path: &str, mut edit: impl FnMut(&mut Value)) {
    for element in array_mut(document, path).into_iter().flatten() {
        edit(element);
    }
}

/// Members that are rendered and therefore not stored; clients send back what they were answered.
pub(crate) fn strip_rendered(part: &mut Value) {
    for name in ["id", "type", "etag", "properties.provisioningState"] {
        document::remove(part, name);
    }
}

/// Gives each part of a document the id and type that clients expect to see, and the version of the
/// document it is part of.
pub(crate) fn render_parts(id: &ResourceId, kind: &str, document: &mut Value, segment: &str) {
    let (text, part_type) = (id.as_str().to_owned(), format!("{kind}/{segment}"));
    let etag = document::at(document, "etag").cloned();
    each(document, &format!("properties.{segment}"), |part| {
        let name = document::str_at(part, "name").unwrap_or_default().to_owned();
        document::set(part, "id", json!(format!("{text}/{segment}/{name}")));
        document::set(part, "type", json!(part_type));
        if let Some(etag) = &etag {
            document::set(part, "etag", etag.clone());
        }
        document::set_default(part, "properties.provisioningState", json!("Succeeded"));
    });
}

/// Keeps the array of the document before when a write leaves it out.
pub(crate) fn keep_if_absent(write: &mut Write<'_>, path: &str) {
    if document::at(&write.body, path).is_none()
        && let Some(kept) = write.before.and_then(|b| document::at(b, path))
    {
        document::set(&mut write.body, path, kept.clone());
    }
}

/// Lists references to `ids` as ARM does: `[{"id": ...}]`.
pub(crate) fn id_list<'a>(ids: impl IntoIterator<Item = &'a ResourceId>) -> Value {
    ids.into_iter().map(|id| json!({ "id": id.as_str() })).collect()
}

/// A resource name of `Microsoft.Network`: 1-80 characters, begins with a letter or digit, ends with
/// one or an underscore (network-semantics 2.2).
pub(crate) fn network_name(id: &ResourceId) -> Result<(), ApiError> {
    name_rule(id.name(), 80).map_err(|()| {
        ApiError::bad_request(
            "InvalidResourceName",
            format!(
                "Resource name {} is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.",
                id.name()
            ),
        )
    })
}

/// The rule behind [`network_name`], for names inside documents.
pub(crate) fn name_rule(name: &str, longest: usize) -> Result<(), ()> {
    let word = |c: char| c.is_alphanumeric();
    let ok = name.chars().count() <= longest
        && name.starts_with(word)
        && name.ends_with(|c| word(c) || c == '_')
        && name.chars().all(|c| word(c) || matches!(c, '.' | '-' | '_'));
    if ok { Ok(()) } else { Err(()) }
}

/// Every element of the array at `path` has a name, and no two have the same one.
pub(crate) fn distinct_names(write: &Write<'_>, path: &str) -> Result<(), ApiError> {
    let mut seen = std::collections::BTreeSet::new();
    for element in document::array_at(&write.body, path) {
        let name = document::str_at(element, "name").unwrap_or_default();
        if name.is_empty() || name_rule(name, 80).is_err() {
            return Err(ApiError::bad_request(
                "InvalidResourceName",
                format!(
                    "Resource name {name} is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'."
                ),
            ));
        }
        if !seen.insert(name.to_lowercase()) {
            let place = path.rsplit('.').next().unwrap_or(path);
            return Err(ApiError::bad_request(
                "InvalidRequestFormat",
                format!(
                    "Cannot parse the request.  Additional details: duplicate resource name '{name}' in `{place}` of {}.",
                    write.id
                ),
            ));
        }
    }
    Ok(())
}

/// The compute that a document was made for, if it still exists and somebody other than the
/// service asks.
pub(crate) fn held_by_compute(ctx: &TypeCtx<'_>, body: &Value) -> Option<ResourceId> {
    if ctx.principal == SERVICE_PRINCIPAL {
        return None;
    }
    let compute = ResourceId::parse(document::str_at(body, OWNER)?).ok()?;
    ctx.snapshot.get(&compute).map(|c| c.id.clone())
}

/// Time as ARM writes it: UTC with seven digits.
pub(crate) fn time(t: jiff::Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S%.7fZ").to_string()
}

/// Where a document keeps who made and last changed it, and when.
const AUTHORS: &str = "moat.system";

/// Notes who writes a document, for [`render_system_data`].
pub(crate) fn note_author(ctx: &TypeCtx<'_>, write: &mut Write<'_>) {
    let (now, who) = (json!(time(ctx.now)), json!(ctx.principal));
    let before = write.before.and_then(|b| document::at(b, AUTHORS));
    let created = |member: &str, fresh: &Value| before.and_then(|b| b.get(member)).unwrap_or(fresh).clone();
    let authors = json!({
        "createdAt": created("createdAt", &now), "createdBy": created("createdBy", &who),
        "lastModifiedAt": now, "lastModifiedBy": who,
    });
    document::set(&mut write.body, AUTHORS, authors);
}

/// `systemData` of an answer, from what [`note_author`] noted.
pub(crate) fn render_system_data(body: &mut Value) {
    let Some(Value::Object(mut members)) = document::at(body, AUTHORS).cloned() else { return };
    for kind in ["createdByType", "lastModifiedByType"] {
        members.insert(kind.to_owned(), json!("Application"));
    }
    document::set(body, "systemData", Value::Object(members));
}

/// A system-assigned identity gets an object id of its own and keeps it. Those that a user made elsewhere are shown with
/// theirs; Moat has no such type, so they follow from the id.
pub(crate) fn complete_identity(ctx: &TypeCtx<'_>, write: &mut Write<'_>) {
    let system =
        document::str_at(&write.body, "identity.type").is_some_and(|t| t.to_lowercase().contains("systemassigned"));
    if system {
        let kept = write.before.and_then(|b| document::str_at(b, "identity.principalId")).map(str::to_owned);
        let principal = kept.unwrap_or_else(|| ctx.uuid("identity").to_string());
        document::set(&mut write.body, "identity.principalId", json!(principal));
    }
    if let Some(kind) = document::str_at(&write.body, "identity.type") {
        let kind = kind.to_lowercase();
        let known = ["SystemAssigned", "UserAssigned"].into_iter().filter(|k| kind.contains(&k.to_lowercase()));
        let spelled = known.collect::<Vec<_>>().join(",");
        document::set(&mut write.body, "identity.type", json!(if spelled.is_empty() { "None" } else { &spelled }));
    }
    let users = document::at(&write.body, "identity.userAssignedIdentities").and_then(Value::as_object);
    let users: serde_json::Map<String, Value> = users
        .into_iter()
        .flat_map(|map| map.keys())
        .map(|id| {
            let of = |what: &str| {
                let name = format!("{what} of {}", id.to_lowercase());
                uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, name.as_bytes()).to_string()
            };
            (spelled_id(id), json!({"principalId": of("principal"), "clientId": of("client")}))
        })
        .collect();
    if system || !users.is_empty() {
        document::set(&mut write.body, "identity.tenantId", json!(ctx.tenant));
    }
    if !users.is_empty() {
        document::set(&mut write.body, "identity.userAssignedIdentities", users.into());
    }
}

/// An id with `resourceGroups` as the service spells it.
fn spelled_id(text: &str) -> String {
    const SEGMENT: &str = "/resourcegroups/";
    match text.to_ascii_lowercase().find(SEGMENT) {
        Some(at) => format!("{}/resourceGroups/{}", &text[..at], &text[at + SEGMENT.len()..]),
        None => text.to_owned(),
    }
}
