//! DELETE: of a missing resource 204; of a parent, its children too.

use moat_arm::{ApiError, Batch, ResourceId, Stored, document};
use moat_model::ResourceType;
use moat_model::resource_type::{Completion, Scope};
use serde_json::json;

use super::preconditions;
use crate::operation::{self, Follows, Operation};
use crate::request::Decision;
use crate::world::World;
use crate::{access, embedded, render};

/// Decides a DELETE.
pub(crate) fn delete(w: &World<'_>, kind: &'static ResourceType, id: &ResourceId) -> Result<Decision, ApiError> {
    access::require(w, &format!("{}/delete", kind.name), Some(id))?;
    match kind.scope {
        Scope::Embedded(array) => delete_child(w, kind, array, id),
        _ => delete_document(w, kind, id),
    }
}

fn delete_document(w: &World<'_>, kind: &'static ResourceType, id: &ResourceId) -> Result<Decision, ApiError> {
    let Some(stored) = w.snapshot.get(id).map(AsRef::as_ref) else { return missing(w, id) };
    let tag = render::etag(&stored.id.with_type_spelling(kind.name), stored.seq);
    preconditions::check(w, Some(&tag))?;
    let mut batch = Batch::default();
    batch.audit.operation = format!("{}/delete", kind.name);
    let outcome = remove(w, kind, stored, &mut batch)?;
    if kind.scope == Scope::Extension {
        return Ok(Decision { batch, ..Decision::answer(200, render::resource(w, kind, stored)) });
    }
    let follows = match (kind.completion, outcome) {
        (_, Removal::Waits) => Follows::Removal,
        (Completion::Sync, Removal::Done) if !kind.answers_by_operation(w.api_version()) => {
            return Ok(Decision { batch, ..Decision::empty(200) });
        }
        (_, Removal::Done) => Follows::Commit,
    };
    Ok(accepted(w, &stored.id, follows, &operation::location(w, &stored.id, &stored.body), batch))
}

fn delete_child(
    w: &World<'_>,
    kind: &'static ResourceType,
    array: &str,
    id: &ResourceId,
) -> Result<Decision, ApiError> {
    let Some(holder) = embedded::holder(w.snapshot, id) else { return missing(w, id) };
    let Some(element) = embedded::find(&holder.body, array, id.name()) else { return missing(w, id) };
    let parent_kind = w.find_or_refuse(&holder.id.resource_type())?;
    preconditions::check(w, Some(&render::etag(&holder.id.with_type_spelling(parent_kind.name), holder.seq)))?;
    let mut batch = Batch::default();
    batch.audit.operation = format!("{}/delete", kind.name);
    (kind.on_delete)(&w.type_ctx(), id, element, &mut batch)?;
    let mut whole = holder.body.clone();
    embedded::cut(&mut whole, array, id.name());
    batch.put(holder.id.clone(), whole);
    let location = operation::location(w, &holder.id, &holder.body);
    match operation::of_completion(parent_kind.completion) {
        Some(_) => Ok(accepted(w, &holder.id, Follows::Commit, &location, batch)),
        None => Ok(Decision { batch, ..Decision::empty(200) }),
    }
}

/// 204, unless not even the group is there.
fn missing(w: &World<'_>, id: &ResourceId) -> Result<Decision, ApiError> {
    w.group_of(id)?;
    Ok(Decision::empty(204))
}

/// Whether a document is gone with this commit or waits for its reconciler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    Done,
    Waits,
}

/// Adds the removal of a document, of what is embedded in it and of what hangs below it.
pub(crate) fn remove(
    w: &World<'_>,
    kind: &'static ResourceType,
    stored: &Stored,
    batch: &mut Batch,
) -> Result<Removal, ApiError> {
    let ctx = w.type_ctx();
    (kind.on_delete)(&ctx, &stored.id, &stored.body, batch)?;
    for (child, array) in w.embedded_in(kind) {
        let segment = child.name.rsplit('/').next().unwrap_or_default();
        for element in document::array_at(&stored.body, array) {
            let name = document::str_at(element, "name").unwrap_or_default();
            (child.on_delete)(&ctx, &stored.id.child(segment, name), element, batch)?;
        }
    }
    // The reconciler takes down what really runs (it needs what hangs below to do that) and then
    // deletes as the service.
    if kind.completion == Completion::Reconciled && !w.by_service() {
        mark(stored, batch);
        return Ok(Removal::Waits);
    }
    let mut waits = false;
    for below in w.snapshot.below(&stored.id) {
        // Deeper ones come by recursion.
        if below.id.parent().as_ref() != Some(&stored.id) {
            continue;
        }
        if let Some(kind) = w.find(&below.id.resource_type()) {
            waits |= remove(w, kind, below, batch)? == Removal::Waits;
        } else {
            batch.delete(below.id.clone());
        }
    }
    if waits {
        mark(stored, batch);
        return Ok(Removal::Waits);
    }
    batch.delete(stored.id.clone());
    Ok(Removal::Done)
}

fn mark(stored: &Stored, batch: &mut Batch) {
    let mut body = stored.body.clone();
    document::set(&mut body, "properties.provisioningState", json!("Deleting"));
    batch.put(stored.id.clone(), body);
}

/// 202 with both poll URLs.
pub(crate) fn accepted(
    w: &World<'_>,
    target: &ResourceId,
    follows: Follows,
    location: &str,
    mut batch: Batch,
) -> Decision {
    if w.step || w.by_service() {
        return Decision { batch, ..Decision::empty(202) };
    }
    let urls = operation::begin(w, &Operation { target, follows, result: None, location }, &mut batch);
    Decision {
        headers: vec![
            ("Azure-AsyncOperation", urls.status),
            ("Location", urls.result),
            ("Retry-After", operation::RETRY_AFTER_SECONDS.to_owned()),
        ],
        batch,
        ..Decision::empty(202)
    }
}
