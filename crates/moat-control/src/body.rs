//! Request bodies: strict JSON with a position in the complaint, ids and names that must agree,
//! and the members that clients echo but do not own.

use moat_arm::{ApiError, ResourceId, document};
use serde_json::Value;

/// Members that are rendered, never stored.
pub(crate) const RENDERED: [&str; 5] = ["id", "name", "type", "etag", "systemData"];

/// Member of stored documents that the platform keeps for itself; never rendered, never taken from
/// a client.
pub(crate) const PRIVATE: &str = "moat";

/// Azure's limits on tags: how many, and how long names and values may be, in characters.
const TAGS_MAX: usize = 50;
const TAG_NAME_CHARS_MAX: usize = 512;
const TAG_VALUE_CHARS_MAX: usize = 256;

/// The request's JSON object.
pub(crate) fn object(text: Option<&str>) -> Result<Value, ApiError> {
    let text = text.unwrap_or_default();
    if text.trim().is_empty() {
        return Err(ApiError::bad_request(
            "InvalidRequestContent",
            "The request content was invalid: the request has no body.",
        ));
    }
    let value: Value = serde_json::from_str(text).map_err(|e| {
        ApiError::bad_request(
            "InvalidRequestContent",
            format!(
                "The request content was invalid and could not be deserialized: '{}'. Path '', line {}, position {}.",
                reason(&e),
                e.line(),
                e.column()
            ),
        )
    })?;
    if !value.is_object() {
        return Err(ApiError::bad_request(
            "InvalidRequestContent",
            "The request content was invalid and could not be deserialized: 'a JSON object is expected'. Path '', line 1, position 1.",
        ));
    }
    Ok(value)
}

/// serde_json's reason without the position it appends: ours stands in its own words.
fn reason(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.rsplit_once(" at line ").map(|(r, _)| r.to_owned()).unwrap_or(text)
}

/// An optional object: absent and empty bodies are `{}` (POST actions often have none).
pub(crate) fn object_or_empty(text: Option<&str>) -> Result<Value, ApiError> {
    match text {
        Some(t) if !t.trim().is_empty() => object(Some(t)),
        _ => Ok(Value::Object(serde_json::Map::new())),
    }
}

/// The name inside a body, if there, must be that of the path. Its id is read-only and ignored: clients put in what they
/// were answered, azure-cli sometimes the parent's.
pub(crate) fn agrees(body: &Value, id: &ResourceId) -> Result<(), ApiError> {
    let Some(given) = document::str_at(body, "name") else { return Ok(()) };
    let joined = id.names().join("/");
    if given.eq_ignore_ascii_case(id.name()) || given.eq_ignore_ascii_case(&joined) {
        return Ok(());
    }
    // AZURE: wording not observed
    Err(ApiError::bad_request(
        "InvalidRequestContent",
        format!("The name '{given}' in the request content does not match the resource '{id}' of the request path."),
    )
    .with_target("name"))
}

/// Removes what is rendered, and `properties.provisioningState`, which belongs to the service.
pub(crate) fn strip(body: &mut Value) {
    for name in RENDERED {
        document::remove(body, name);
    }
    document::remove(body, "properties.provisioningState");
}

/// `properties` must be an object and tags must be tags, so that nobody below needs to ask.
pub(crate) fn well_formed(body: &Value) -> Result<(), ApiError> {
    properties_form(body)?;
    tags(document::at(body, "tags"))
}

/// `properties`, if there, is an object.
pub(crate) fn properties_form(body: &Value) -> Result<(), ApiError> {
    if document::at(body, "properties").is_some_and(|p| !p.is_object()) {
        return Err(ApiError::bad_request(
            "InvalidRequestContent",
            "The request content was invalid and could not be deserialized: 'an object is expected'. Path 'properties'.",
        )
        .with_target("properties"));
    }
    Ok(())
}

/// Tags are an object of texts within Azure's limits.
fn tags(tags: Option<&Value>) -> Result<(), ApiError> {
    let Some(tags) = tags else { return Ok(()) };
    let Some(map) = tags.as_object() else {
        return Err(ApiError::bad_request(
            "InvalidRequestContent",
            "The request content was invalid and could not be deserialized: 'an object is expected'. Path 'tags'.",
        )
        .with_target("tags"));
    };
    // AZURE: wording not observed
    let invalid = |text: String| Err(ApiError::bad_request("InvalidTags", text).with_target("tags"));
    if map.len() > TAGS_MAX {
        return invalid(format!("A resource may have at most {TAGS_MAX} tags, {} were given.", map.len()));
    }
    for (name, value) in map {
        let Some(value) = value.as_str() else {
            return invalid(format!("The value of tag '{name}' is not a string."));
        };
        if name.is_empty()
            || name.chars().count() > TAG_NAME_CHARS_MAX
            || name.contains(['<', '>', '%', '&', '\\', '?', '/'])
        {
            return invalid(format!(
                "The tag name '{name}' is invalid: 1 to {TAG_NAME_CHARS_MAX} characters without < > % & \\ ? / are allowed."
            ));
        }
        if value.chars().count() > TAG_VALUE_CHARS_MAX {
            return invalid(format!("The value of tag '{name}' has more than {TAG_VALUE_CHARS_MAX} characters."));
        }
    }
    Ok(())
}

/// Percent-encodes a query value.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
