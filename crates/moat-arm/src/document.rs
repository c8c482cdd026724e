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

/// [`array_at`], to change it; `None` if there is no array.
pub fn array_at_mut<'a>(document: &'a mut Value, path: &str) -> Option<&'a mut Vec<Value>> {
    let mut here = document;
    for name in path.split('.') {
        let map = here.as_object_mut()?;
        // The spelling that [`get`] finds.
        let spelled = match map.contains_key(name) {
            true => name.to_owned(),
            false => map.keys().find(|k| k.eq_ignore_ascii_case(name))?.clone(),
        };
        here = map.get_mut(&spelled)?;
    }
    here.as_array_mut()
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

/// Removes what is at `path`, in every spelling: a client may send one name twice, `MOAT` beside `Moat`, and
/// neither may stay.
pub fn remove(document: &mut Value, path: &str) {
    let Value::Object(map) = document else { return };
    match path.split_once('.') {
        None => map.retain(|name, _| !name.eq_ignore_ascii_case(path)),
        Some((first, rest)) => {
            let parents = map.iter_mut().filter(|(name, _)| name.eq_ignore_ascii_case(first));
            parents.for_each(|(_, parent)| remove(parent, rest));
        }
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
    fn arrays_are_changed_where_they_are_read() {
        let mut d = json!({"P": {"list": [0]}, "p": {"LIST": [1]}});
        array_at_mut(&mut d, "p.list").unwrap().push(json!(2));
        assert_eq!(array_at(&d, "p.list"), [json!(1), json!(2)]);
        assert!(array_at_mut(&mut d, "p.none").is_none() && array_at_mut(&mut d, "p").is_none());
    }

    #[test]
    fn no_spelling_of_a_removed_member_stays() {
        let mut d = json!({"MOAT": 1, "Moat": 2, "a": {"b": 1, "B": 2, "c": 3}, "A": {"B": 4}, "moats": 5});
        remove(&mut d, "moat");
        remove(&mut d, "a.b");
        remove(&mut d, "moats.x");
        assert_eq!(d, json!({"a": {"c": 3}, "A": {}, "moats": 5}));
    }

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
