//! Containers. Templates, the data plane and the workspace's own set-up make them through the same documents.
//!
//! INVARIANT: each document has a private generation id that nobody can guess and that is never used again. Blobs
//! are kept under it, so a container that is made again under its old name is empty, whatever was going on while
//! the old one went.

use moat_arm::{ApiError, Batch, ResourceId, Snapshot, Stored, document};
use serde_json::{Value, json};

use super::blob_services;
use crate::resource_type::{Completion, Refusal, ResourceType, Scope, TypeCtx, Write};
use crate::storage::names;
use crate::types::shape;

/// Where a container's document keeps its generation.
const GENERATION: &str = "moat.generation";

/// Containers.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Storage/storageAccounts/blobServices/containers",
    api_versions: super::API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Sync,
    location_required: false,
    refusals: &[
        Refusal { id: "container-name", requirements: &[], check: name },
        Refusal { id: "container-public-access", requirements: &[], check: public_access },
    ],
    complete: |ctx, write| {
        complete(ctx, write.id, &mut write.body);
        Ok(())
    },
    ..ResourceType::BLANK
};

/// A container's id.
pub fn id(account: &ResourceId, name: &str) -> ResourceId {
    blob_services::id(account).child("containers", name)
}

/// Adds the container `name` of `account` to `batch`, unless it is there: how other types make what they need.
pub fn ensure(ctx: &TypeCtx<'_>, account: &ResourceId, name: &str, batch: &mut Batch) {
    let id = id(account, name);
    if ctx.snapshot.get(&id).is_some() {
        return;
    }
    let mut body = json!({"properties": {}});
    complete(ctx, &id, &mut body);
    batch.put(id, body);
}

/// The document of a container, by its exact name.
pub fn find<'a>(snapshot: &'a Snapshot, account: &ResourceId, name: &str) -> Option<&'a Stored> {
    if !names::is_container(name) {
        return None;
    }
    snapshot.get(&id(account, name)).map(AsRef::as_ref)
}

/// The id under which a container's blobs are kept.
pub fn generation(body: &Value) -> Option<&str> {
    document::str_at(body, GENERATION)
}

/// Generations of all containers there are.
pub fn generations(snapshot: &Snapshot) -> impl Iterator<Item = &str> {
    snapshot.of_type(TYPE.name).filter_map(|d| generation(&d.body))
}

fn complete(ctx: &TypeCtx<'_>, id: &ResourceId, body: &mut Value) {
    document::set_default(body, GENERATION, json!(ctx.uuid(&format!("container:{}", id.key())).to_string()));
    for (member, value) in [
        ("publicAccess", json!("None")),
        ("leaseStatus", json!("Unlocked")),
        ("leaseState", json!("Available")),
        ("defaultEncryptionScope", json!("$account-encryption-key")),
        ("denyEncryptionScopeOverride", json!(false)),
        ("hasImmutabilityPolicy", json!(false)),
        ("hasLegalHold", json!(false)),
    ] {
        document::set_default(body, &format!("properties.{member}"), value);
    }
    document::set(body, "properties.lastModifiedTime", json!(shape::time(ctx.now)));
}

fn name(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if names::is_container(write.id.name()) {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "InvalidResourceName",
        format!(
            "The container name '{}' is not allowed. It must be 3 to 63 characters long and hold lower-case letters, digits and single hyphens, with a letter or digit at both ends.",
            write.id.name()
        ),
    ))
}

fn public_access(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    match document::str_at(&write.body, "properties.publicAccess") {
        None | Some("None") => Ok(()),
        // Also where the account would allow it: nobody without a name is served here.
        Some(_) => Err(ApiError::new(
            409,
            "PublicAccessNotPermitted",
            "Public access is not permitted on this storage account.",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{GROUP, World};

    #[test]
    fn a_container_made_again_is_another() {
        let account = format!("{GROUP}/providers/Microsoft.Storage/storageAccounts/moatstore1");
        let mut world = World::new(Edition::Current);
        world.put(&account, json!({})).unwrap();
        let (account, path) =
            (ResourceId::parse(&account).unwrap(), format!("{account}/blobServices/default/containers/data"));
        let first = world.put(&path, json!({"properties": {}})).unwrap();
        let kept = world.put(&path, json!({"properties": {}, "moat": first["moat"]})).unwrap();
        assert_eq!(generation(&first), generation(&kept));
        assert_eq!(generations(&world.snapshot).count(), 1);
        let mut batch = Batch::default();
        world.with_ctx(|ctx| ensure(ctx, &account, "data", &mut batch));
        assert!(batch.is_empty(), "what is there stays");
        world.delete(&path).unwrap();
        world.with_ctx(|ctx| ensure(ctx, &account, "data", &mut batch));
        world.snapshot.apply(&batch);
        let again = find(&world.snapshot, &account, "data").unwrap();
        assert_ne!(generation(&again.body), generation(&first));
        assert!(find(&world.snapshot, &account, "Data").is_none(), "names are lower case");
    }

    #[test]
    fn names_and_public_access_are_checked() {
        let account = format!("{GROUP}/providers/Microsoft.Storage/storageAccounts/moatstore1");
        let mut world = World::new(Edition::Current);
        world.put(&account, json!({})).unwrap();
        let mut put = |name: &str, body| {
            world.put(&format!("{account}/blobServices/default/containers/{name}"), body).unwrap_err()
        };
        insta::assert_snapshot!(put("No", json!({})), @"(InvalidResourceName) The container name 'No' is not allowed. It must be 3 to 63 characters long and hold lower-case letters, digits and single hyphens, with a letter or digit at both ends.");
        insta::assert_snapshot!(put("yes", json!({"properties": {"publicAccess": "Blob"}})), @"(PublicAccessNotPermitted) Public access is not permitted on this storage account.");
    }
}
