//! The blob service of an account: one document, `default`, made with the account. Its settings are kept and
//! answered; soft delete, versions and change feeds are not acted on and therefore refused when switched on.

use moat_arm::{ApiError, ResourceId, document};
use serde_json::{Value, json};

use crate::resource_type::{Completion, Refusal, ResourceType, Scope, TypeCtx, Write};

/// Its only name.
pub const NAME: &str = "default";

/// The blob service.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Storage/storageAccounts/blobServices",
    api_versions: super::API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Sync,
    location_required: false,
    refusals: &[
        Refusal { id: "blob-service-name", requirements: &[], check: only_default },
        Refusal { id: "blob-service-features", requirements: &[], check: nothing_unkept },
    ],
    complete: |_, write| {
        complete(&mut write.body);
        Ok(())
    },
    on_delete: |_, _, _, batch| {
        // It goes with its account only; then the operation of the batch is another one.
        if batch.audit.operation.eq_ignore_ascii_case("Microsoft.Storage/storageAccounts/blobServices/delete") {
            return Err(ApiError::new(
                405,
                "HttpMethodNotAllowed",
                "The blob service of a storage account cannot be deleted.",
            ));
        }
        Ok(())
    },
    ..ResourceType::BLANK
};

/// The service's id below its account.
pub fn id(account: &ResourceId) -> ResourceId {
    account.child("blobServices", NAME)
}

/// The document as it is made with an account.
pub(super) fn fresh() -> Value {
    let mut body = json!({"properties": {}});
    complete(&mut body);
    body
}

fn complete(body: &mut Value) {
    document::set_default(body, "properties.cors", json!({"corsRules": []}));
    document::set_default(body, "properties.deleteRetentionPolicy", json!({"enabled": false}));
}

fn only_default(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if write.id.name().eq_ignore_ascii_case(NAME) {
        return Ok(());
    }
    // AZURE: wording not observed
    Err(ApiError::bad_request("InvalidResourceName", format!("The blob service is named '{NAME}'.")))
}

fn nothing_unkept(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let switches = [
        "deleteRetentionPolicy.enabled",
        "containerDeleteRetentionPolicy.enabled",
        "isVersioningEnabled",
        "automaticSnapshotPolicyEnabled",
        "changeFeed.enabled",
        "restorePolicy.enabled",
        "lastAccessTimeTrackingPolicy.enable",
    ];
    for switch in switches {
        if document::bool_at(&write.body, &format!("properties.{switch}")) == Some(true) {
            return Err(ApiError::bad_request(
                "FeatureNotSupportedForAccount",
                format!("Moat keeps one version of a blob: '{switch}' cannot be switched on."),
            )
            .with_target(format!("properties.{switch}")));
        }
    }
    Ok(())
}
