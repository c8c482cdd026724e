//! Where a client may put the files of an asset before there is the asset: a fresh prefix in the workspace's blob
//! store, and a signature for that prefix alone.

use jiff::SignedDuration;
use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use super::datastores;
use crate::jobs::Locator;
use crate::resource_type::{ActionResult, TypeCtx};
use crate::storage::sas::{self, Grant, Target};
use crate::types::microsoft_storage::storage_accounts;

/// How long an upload may take.
const UPLOAD_TIME: SignedDuration = SignedDuration::from_hours(24);
/// Reading is part of it: clients look whether an upload of before is complete.
const PERMISSIONS: &str = "racwl";

/// The `startPendingUpload` action of versions.
pub(super) fn start(ctx: &TypeCtx<'_>, id: &ResourceId, asked: &Value) -> Result<ActionResult, ApiError> {
    let kind = document::str_at(asked, "pendingUploadType").unwrap_or("TemporaryBlobReference");
    if !["TemporaryBlobReference", "None"].iter().any(|k| k.eq_ignore_ascii_case(kind)) {
        // AZURE: wording not observed.
        return Err(ApiError::bad_request(
            "UserError",
            format!("'pendingUploadType' is '{kind}'; 'TemporaryBlobReference' is known."),
        ));
    }
    let workspace = id.parent().and_then(|container| container.parent()).ok_or_else(|| ApiError::not_found(id))?;
    let store = Locator { snapshot: ctx.snapshot, workspace: &workspace }.datastore(datastores::BLOB_STORE)?;
    let account = storage_accounts::find(ctx.snapshot, &store.account).ok_or_else(|| ApiError::not_found(id))?;
    let keys = storage_accounts::keys(&account.body);
    let key = keys.first().ok_or_else(|| ApiError::not_found(&account.id))?;
    let prefix = ctx.uuid("pending-upload").to_string();
    let place = store.join(&prefix);
    let grant = Grant {
        account: &store.account,
        container: &store.container,
        target: Target::Directory(&prefix),
        permissions: PERMISSIONS,
        start: None,
        expiry: ctx.now + UPLOAD_TIME,
    };
    let uri = place.url();
    let body = json!({
        "pendingUploadId": ctx.uuid("pending-upload-id").to_string(),
        "pendingUploadType": "TemporaryBlobReference",
        "blobReferenceForConsumption": {
            "blobUri": uri,
            "storageAccountArmId": account.id.as_str(),
            "credential": {"credentialType": "SAS", "sasUri": format!("{uri}?{}", sas::sign(&grant, key))},
        },
    });
    Ok(ActionResult { body, long_running: false, batch: Batch::default() })
}
