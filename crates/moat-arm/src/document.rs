//! Reading and editing JSON documents the way ARM does: property names without case, the client's
//! own fields and their order kept.

use serde_json::{Map, Value};

/// Finds a member of `object` without regard to case.
pub fn get<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let map = object.as_object()?;
    map.get(name).or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v))
}

/// Follows a dotted path such as `properties.addressSpace.addressPrefixes`, without regard to case.
/// A `null` on the way counts as absent.
pub fn at<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    let mut here = document;
    for name in path.split('.') {
        here = get(here, name)?;
    }
    (!here.is_null()).then_some(here)
}

/// [`at`], as text.
pub fn str_at<'a>(document: &'a Value, path: &str) -> Option<&'a str> {
    at(document, path)?.as_str()
}

/// [`at`], as an array; an absent or non-array value is empty.
pub fn array_at<'a>(document: &'a Value, path: &str) -> &'a [Value] {
    at(document, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// [`at`], as a boolean; the strings `true` and `false` count too (templates send them).
pub fn bool_at(document: &Value, path: &str) -> Option<bool> {
    match at(document, path)? {
        Value::Bool(b) => Some(*b),
        Value::String(s) if s.eq_ignore_ascii_case("true") => Some(true),
        Value::String(s) if s.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// [`at`], as an unsigned number; digits in a string count too.
pub fn u64_at(document: &Value, path: &str) -> Option<u64> {
    match at(document, path)? {
        Value::Number(n) => n.as_u64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

/// Sets `path`, making objects on the way; an existing member keeps its own spelling and place.
pub fn set(document: &mut Value, path: &str, value: Value) {
    let mut here = document;
    let mut parts = path.split('.').peekable();
    while let Some(name) = parts.next() {
        if !here.is_object() {
            *here = Value::Object(Map::new());
        }
        let Value::Object(map) = here else { return };
        let spelled = map
            .keys()
            .find(|k| k.as_str() == name)
            .or_else(|| map.keys().find(|k| k.eq_ignore_ascii_case(name)))
            .cloned()
            .unwrap_or_else(|| name.to_owned());
        let slot = map.entry(spelled).or_insert(Value::Null);
        if parts.peek().is_none() {
            *slot = value;
            return;
        }
        here = slot;
    }
}

/// Sets `path` only if it is absent or null.
pub fn set_default(document: &mut Value, path: &str, value: Value) {
    if at(document, path).is_none() {
        set(document, path, value);
    }
}

/// Removes the member at `path`, if there is one.
pub fn remove(document: &mut Value, path: &str) {
    let (parent, leaf) = match path.rsplit_once('.') {
        Some((p, l)) => (Some(p), l),
        None => (None, path),
    };
    let mut here = document;
    if let Some(parent) = parent {
        for name in parent.split('.') {
            let Value::Object(map) = here else { return };
            let Some(key) = map.keys().find(|k| k.eq_ignore_ascii_case(name)).cloned() else { return };
            let Some(next) = map.get_mut(&key) else { return };
            here = next;
        }
    }
    if let Value::Object(map) = here
        && let Some(key) = map.keys().find(|k| k.eq_ignore_ascii_case(leaf)).cloned()
    {
        map.shift_remove(&key);
    }
}

/// JSON merge patch (RFC 7396), member names matched without case.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (name, value) in patch {
        let spelled = map.keys().find(|k| k.eq_ignore_ascii_case(name)).cloned().unwrap_or_else(|| name.clone());
        if value.is_null() {
            map.shift_remove(&spelled);
        } else {
            merge(map.entry(spelled).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_match_without_case_and_keep_their_spelling() {
        let mut d = json!({"Properties": {"AddressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}});
        assert_eq!(array_at(&d, "properties.addressSpace.addressPrefixes").len(), 1);
        set(&mut d, "properties.provisioningState", json!("Succeeded"));
        assert_eq!(d["Properties"]["provisioningState"], "Succeeded");
        remove(&mut d, "properties.addressspace");
        assert_eq!(d, json!({"Properties": {"provisioningState": "Succeeded"}}));
    }

    #[test]
    fn merge_patch_follows_the_rfc() {
        let mut d = json!({"a": {"b": 1, "c": 2}, "tags": {"x": "1"}});
        merge(&mut d, &json!({"a": {"b": null, "d": 3}, "tags": {"y": "2"}}));
        assert_eq!(d, json!({"a": {"c": 2, "d": 3}, "tags": {"x": "1", "y": "2"}}));
    }
}
