//! Who points at whom: reading ids out of documents, following them, and finding what still uses
//! a resource before it goes.
//!
//! A reference may lead to a document, to a child embedded in one (a subnet) or to a part with an
//! id of its own that is no resource (a backend pool of a balancer); [`find`] follows all three.
//! Not here: what a reference means. That is each type's business.

use moat_arm::{ApiError, ResourceId, Snapshot, document};
use serde_json::Value;

use crate::resource_type::{ResourceType, Scope, TypeCtx, Write};
use crate::types;

/// The texts at `path`, where `[]` after a name means "of each element":
/// `properties.ipConfigurations[].properties.subnet.id`.
pub fn texts<'a>(document: &'a Value, path: &str) -> Vec<&'a str> {
    values(document, path).into_iter().filter_map(Value::as_str).filter(|s| !s.is_empty()).collect()
}

/// The values at `path`, `[]` as in [`texts`].
pub fn values<'a>(document: &'a Value, path: &str) -> Vec<&'a Value> {
    match path.split_once("[]") {
        None => document::at(document, path).into_iter().collect(),
        Some((array, rest)) => {
            let rest = rest.strip_prefix('.').unwrap_or(rest);
            let elements = document::array_at(document, array).iter();
            if rest.is_empty() { elements.collect() } else { elements.flat_map(|e| values(e, rest)).collect() }
        }
    }
}

/// [`texts`] of several paths, as owned ids; what a type's `references` returns.
pub fn ids(document: &Value, paths: &[&str]) -> Vec<String> {
    paths.iter().flat_map(|p| texts(document, p)).map(str::to_owned).collect()
}

/// Finds what `id` names: a document, an embedded child or a part of a document.
pub fn find<'a>(snapshot: &'a Snapshot, id: &ResourceId) -> Option<&'a Value> {
    if let Some(stored) = snapshot.get(id) {
        return Some(&stored.body);
    }
    let parent = snapshot.get(&id.parent()?)?;
    let kind = id.resource_type();
    let array = match types::find(&kind).map(|t| t.scope) {
        Some(Scope::Embedded(array)) => array.to_owned(),
        // Parts such as `ipConfigurations` and `backendAddressPools` are named like their array.
        _ => format!("properties.{}", kind.rsplit('/').next()?),
    };
    named(document::array_at(&parent.body, &array), id.name())
}

/// The element called `name`, compared without case.
pub fn named<'a>(elements: &'a [Value], name: &str) -> Option<&'a Value> {
    elements.iter().find(|e| document::str_at(e, "name").is_some_and(|n| n.eq_ignore_ascii_case(name)))
}

/// Whether `text` is this id, in whatever case; without parsing, since back references compare with
/// every interface there is.
pub fn same(text: &str, id: &ResourceId) -> bool {
    text.trim_end_matches('/').eq_ignore_ascii_case(id.as_str())
}

/// The location of the document that `id` names or lies in, normalised by [`location_key`].
pub fn location_of(snapshot: &Snapshot, id: &ResourceId) -> Option<String> {
    let mut here = id.clone();
    loop {
        if let Some(stored) = snapshot.get(&here) {
            return document::str_at(&stored.body, "location").map(location_key);
        }
        here = here.parent()?;
    }
}

/// `West US 2` and `westus2` are one region.
pub fn location_key(location: &str) -> String {
    location.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect()
}

/// The referenced id, parsed; Azure's answer when it is no id at all.
pub fn parse(text: &str, path: &str) -> Result<ResourceId, ApiError> {
    let invalid = || {
        ApiError::bad_request(
            "LinkedInvalidPropertyId",
            format!(
                "Property id '{text}' at path '{path}' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{{subscriptionId}}' or '/providers/{{resourceProviderNamespace}}/'."
            ),
        )
    };
    let id = ResourceId::parse(text).map_err(|_| invalid())?;
    if id.subscription().is_none() || id.namespace().is_none() { Err(invalid()) } else { Ok(id) }
}

/// Checks every id at `path` of a write: it must be of type `kind`, exist, and lie in the region
/// of the writer (network-semantics 2.1, errors.md `invalid-ref`).
pub fn check(ctx: &TypeCtx<'_>, write: &Write<'_>, path: &str, kind: &str) -> Result<(), ApiError> {
    let here = document::str_at(&write.body, "location").map(location_key);
    for text in texts(&write.body, path) {
        let id = parse(text, path)?;
        let part_of_itself = id.is_within(write.id);
        if !id.resource_type().eq_ignore_ascii_case(kind) {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "InvalidRequestFormat",
                format!("Cannot parse the request. `{path}` expects the id of a `{kind}`, got '{text}'."),
            )
            .with_target(path));
        }
        let found = if part_of_itself { find_in(&write.body, &id) } else { find(ctx.snapshot, &id) };
        if found.is_none() {
            return Err(ApiError::invalid_reference(text, write.id));
        }
        if let (false, Some(here), Some(there)) = (part_of_itself, &here, location_of(ctx.snapshot, &id))
            && *here != there
        {
            return Err(ApiError::invalid_reference(text, write.id));
        }
    }
    Ok(())
}

/// A part of the document being written, by the id it will have.
fn find_in<'a>(body: &'a Value, id: &ResourceId) -> Option<&'a Value> {
    let kind = id.resource_type();
    named(document::array_at(body, &format!("properties.{}", kind.rsplit('/').next()?)), id.name())
}

/// Documents that refer to `id` or to something below it, in key order, `id` itself left out.
/// Walks the whole world: for tools and rare deletes, not for reads.
pub fn referrers(snapshot: &Snapshot, id: &ResourceId) -> Vec<ResourceId> {
    let points_here = |document: &Value, t: &ResourceType| {
        (t.references)(document).iter().any(|text| ResourceId::parse(text).is_ok_and(|target| target.is_within(id)))
    };
    snapshot
        .all()
        .filter(|d| d.id != *id)
        .filter(|d| types::find(&d.id.resource_type()).is_some_and(|t| points_here(&d.body, t)))
        .map(|d| d.id.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_walk_arrays_and_skip_what_is_absent() {
        let d = json!({"properties": {"ipConfigurations": [
            {"properties": {"subnet": {"id": "a"}}},
            {"properties": {}},
            {"properties": {"subnet": {"id": "b"}, "pools": [{"id": "p"}, {"id": "q"}]}},
        ]}});
        assert_eq!(texts(&d, "properties.ipConfigurations[].properties.subnet.id"), ["a", "b"]);
        assert_eq!(texts(&d, "properties.ipConfigurations[].properties.pools[].id"), ["p", "q"]);
        assert!(texts(&d, "properties.nothing[].id").is_empty());
    }

    #[test]
    fn a_text_that_is_no_id_is_refused_as_azure_does() {
        insta::assert_snapshot!(
            parse("mysubnet", "properties.subnet").unwrap_err(),
            @"(LinkedInvalidPropertyId) Property id 'mysubnet' at path 'properties.subnet' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'."
        );
    }
}
