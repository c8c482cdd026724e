//! GET and HEAD of one resource.

use moat_arm::access::rbac;
use moat_arm::{ApiError, ResourceId};
use moat_model::ResourceType;
use moat_model::resource_type::Scope;

use crate::request::{Decision, Method};
use crate::world::World;
use crate::{access, embedded, render};

/// Answers the document or the embedded child.
pub(crate) fn get(w: &World<'_>, kind: &'static ResourceType, id: &ResourceId) -> Result<Decision, ApiError> {
    access::require(w, &format!("{}/read", kind.name), Some(id))?;
    let body = read(w, kind, id)?;
    if w.request.method == Method::Head {
        return Ok(Decision::empty(204));
    }
    let mut decision = Decision::answer(200, body);
    if let Some(tag) = decision.body.as_ref().and_then(|b| b.get("etag")).and_then(|t| t.as_str()) {
        decision.headers.push(("ETag", tag.to_owned()));
    }
    Ok(decision)
}

/// The resource as a client sees it. Also what `reference()` in templates gives.
pub(crate) fn read(w: &World<'_>, kind: &'static ResourceType, id: &ResourceId) -> Result<serde_json::Value, ApiError> {
    if kind.name == rbac::ROLE_DEFINITIONS
        && let Some(role) = rbac::built_in(id.name())
    {
        return Ok(rbac::definition_document(role, id.subscription()));
    }
    let Scope::Embedded(array) = kind.scope else {
        if let Some(stored) = w.snapshot.get(id) {
            return Ok(render::resource(w, kind, stored));
        }
        w.group_of(id)?;
        return Err((kind.not_found)(&w.type_ctx(), id));
    };
    w.group_of(id)?;
    let holder = embedded::holder(w.snapshot, id)
        .ok_or_else(|| ApiError::not_found(&id.parent().unwrap_or_else(|| id.clone())))?;
    let parent_kind = w.find_or_refuse(&holder.id.resource_type())?;
    let element = embedded::find(&holder.body, array, id.name()).ok_or_else(|| not_found_child(id))?;
    Ok(render::child(w, parent_kind, kind, holder, element))
}

/// The network provider names children by their full id.
pub(crate) fn not_found_child(id: &ResourceId) -> ApiError {
    ApiError::new(404, "NotFound", format!("Resource {id} not found."))
}
