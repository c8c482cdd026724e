//! PATCH: a merge patch (RFC 7396) on what is stored, then the same checks as PUT.

use moat_arm::{ApiError, ResourceId, document};
use moat_model::ResourceType;
use moat_model::resource_type::Scope;

use super::{get, preconditions, write};
use crate::decide::method_not_allowed;
use crate::request::Decision;
use crate::world::World;
use crate::{access, body, locations, render};

/// Decides a PATCH of a document. Embedded children have none in Azure.
pub(crate) fn patch(w: &World<'_>, kind: &'static ResourceType, id: &ResourceId) -> Result<Decision, ApiError> {
    access::require(w, &format!("{}/write", kind.name), Some(id))?;
    if matches!(kind.scope, Scope::Embedded(_)) {
        return Err(method_not_allowed(w));
    }
    let mut patch = body::object(w.request.body.as_deref())?;
    // Not its tags: a null takes one away. The merged document is checked below.
    body::properties_form(&patch)?;
    body::agrees(&patch, id)?;
    let state = document::at(&patch, "properties.provisioningState").cloned();
    body::strip(&mut patch);
    let Some(before) = w.snapshot.get(id).map(AsRef::as_ref) else {
        // The same 404 as GET's.
        return Err(get::read(w, kind, id).err().unwrap_or_else(|| ApiError::not_found(id)));
    };
    preconditions::check(w, Some(&render::etag(&before.id.with_type_spelling(kind.name), before.seq)))?;
    immutable_location(&patch, &before.body)?;
    document::remove(&mut patch, "location");
    let mut merged = before.body.clone();
    document::merge(&mut merged, &patch);
    body::well_formed(&merged)?;
    let state = state.filter(|_| w.by_service());
    write::document(
        w,
        &write::Asked {
            kind,
            id: &before.id,
            before: Some(before),
            body: merged,
            state,
            answer: write::Answer::Document,
        },
    )
}

fn immutable_location(patch: &serde_json::Value, before: &serde_json::Value) -> Result<(), ApiError> {
    let (Some(new), Some(old)) = (document::str_at(patch, "location"), document::str_at(before, "location")) else {
        return Ok(());
    };
    if locations::normalise(new) == locations::normalise(old) {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "PropertyChangeNotAllowed",
        format!("Changing property 'location' is not allowed; it is '{old}' and the request says '{new}'."),
    )
    .with_target("location"))
}
