//! PUT: create or replace.

use moat_arm::{ApiError, ResourceId, Stored, document};
use moat_model::ResourceType;
use moat_model::resource_type::Scope;
use serde_json::{Value, json};

use super::{preconditions, write};
use crate::request::Decision;
use crate::world::World;
use crate::{access, body, embedded, locations, render};

/// Decides a PUT of a document or an embedded child.
pub(crate) fn put(w: &World<'_>, kind: &'static ResourceType, id: &ResourceId) -> Result<Decision, ApiError> {
    let action = format!("{}/write", kind.name);
    access::require(w, &action, Some(id))?;
    let mut body = body::object(w.request.body.as_deref())?;
    body::well_formed(&body)?;
    body::agrees(&body, id)?;
    let state = document::at(&body, "properties.provisioningState").cloned();
    body::strip(&mut body);
    match kind.scope {
        Scope::Embedded(array) => put_child(w, kind, array, id, &body),
        _ => {
            // Only the platform tells a document its state; clients echo it.
            let state = state.filter(|_| w.by_service());
            put_document(w, kind, id, body, state)
        }
    }
}

fn put_document(
    w: &World<'_>,
    kind: &'static ResourceType,
    id: &ResourceId,
    mut body: Value,
    state: Option<Value>,
) -> Result<Decision, ApiError> {
    lives_somewhere(w, kind, id)?;
    let before = w.snapshot.get(id).map(AsRef::as_ref);
    preconditions::check(w, before.map(|b| render::etag(&b.id.with_type_spelling(kind.name), b.seq)).as_deref())?;
    location(kind, id, before, &mut body)?;
    write::document(w, &write::Asked { kind, id, before, body, state, answer: write::Answer::Document })
}

fn put_child(
    w: &World<'_>,
    kind: &'static ResourceType,
    array: &str,
    id: &ResourceId,
    body: &Value,
) -> Result<Decision, ApiError> {
    w.group_of(id)?;
    let holder = embedded::holder(w.snapshot, id).ok_or_else(|| ApiError::parent_not_found(id))?;
    let parent_kind = w.find_or_refuse(&holder.id.resource_type())?;
    preconditions::check(
        w,
        embedded::find(&holder.body, array, id.name())
            .map(|_| render::etag(&holder.id.with_type_spelling(parent_kind.name), holder.seq))
            .as_deref(),
    )?;
    let before = embedded::find(&holder.body, array, id.name());
    // A child keeps the spelling it was created with.
    let name = before.and_then(|b| document::str_at(b, "name")).unwrap_or(id.name()).to_owned();
    let mut whole = holder.body.clone();
    embedded::splice(&mut whole, array, &name, embedded::stored_form(body, &name));
    let created = before.is_none();
    write::document(
        w,
        &write::Asked {
            kind: parent_kind,
            id: &holder.id,
            before: Some(holder),
            body: whole,
            state: None,
            answer: write::Answer::Child { kind, array, name: &name, created },
        },
    )
}

/// The group must exist and not be going away; for child documents the parent too.
pub(crate) fn lives_somewhere(w: &World<'_>, kind: &ResourceType, id: &ResourceId) -> Result<(), ApiError> {
    if let Some(group) = w.group_of(id)? {
        not_going(w, group)?;
    }
    let Some(parent) = id.parent() else { return Ok(()) };
    if let Some(stored) = w.snapshot.get(&parent) {
        not_going(w, stored)?;
    }
    let parent_is_resource = parent.namespace().is_some();
    if kind.on_demand {
        return match parent.parent().filter(|p| p.namespace().is_some() && w.snapshot.get(p).is_none()) {
            Some(_) => Err(ApiError::parent_not_found(&parent)),
            None => Ok(()),
        };
    }
    if matches!(kind.scope, Scope::Child | Scope::Extension)
        && parent_is_resource
        && !embedded::exists(&|i| w.snapshot.get(i).map(|d| &d.body), &parent)
    {
        return Err(ApiError::parent_not_found(id));
    }
    Ok(())
}

/// What is being deleted takes no more changes but the service's own.
pub(crate) fn not_going(w: &World<'_>, stored: &Stored) -> Result<(), ApiError> {
    if w.by_service() || document::str_at(&stored.body, "properties.provisioningState") != Some("Deleting") {
        return Ok(());
    }
    Err(if stored.id.namespace().is_none() {
        ApiError::new(
            409,
            "ResourceGroupBeingDeleted",
            format!(
                "The resource group '{}' is in deprovisioning state and cannot perform this operation.",
                stored.id.name()
            ),
        )
    } else {
        // AZURE: wording not observed
        ApiError::new(409, "Conflict", format!("The resource '{}' is being deleted.", stored.id))
    })
}

/// `location`: required where the table says so, one of the regions, and never changed.
fn location(kind: &ResourceType, id: &ResourceId, before: Option<&Stored>, body: &mut Value) -> Result<(), ApiError> {
    let given = document::str_at(body, "location").filter(|l| !l.trim().is_empty());
    let Some(given) = given else {
        if kind.location_required {
            return Err(ApiError::bad_request(
                "LocationRequired",
                "The location property is required for this definition.",
            ));
        }
        return Ok(());
    };
    let name = locations::check(given, kind.name)?;
    if let Some(old) = before.and_then(|b| document::str_at(&b.body, "location"))
        && locations::normalise(old) != name
    {
        return Err(ApiError::new(
            409,
            "InvalidResourceLocation",
            format!(
                "The resource '{}' already exists in location '{old}' in resource group '{}'. A resource with the same name cannot be created in location '{name}'. Please select a new resource name.",
                id.name(),
                id.resource_group().unwrap_or_default()
            ),
        ));
    }
    document::set(body, "location", json!(name));
    Ok(())
}
