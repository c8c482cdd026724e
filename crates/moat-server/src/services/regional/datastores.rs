//! `/datastore/v1.0`: datastores in azureml-core's words, read from the same documents as ARM's (PROTOCOL 6.5, 6.7).

use moat_arm::{ApiError, Stored, document};
use moat_control::Method;
use moat_control::history::{Right, View};
use moat_model::types::microsoft_machinelearningservices::runs::{ARTIFACT_CONTAINER, blob_container};
use moat_model::types::microsoft_storage::storage_accounts;
use serde_json::{Value, json};

use super::ask::{Ask, Fail};
use super::blobs;
use crate::http::reply::Reply;

/// The default datastore of every workspace.
const DEFAULT: &str = "workspaceblobstore";
const ARTIFACTS: &str = "workspaceartifactstore";

pub(super) async fn answer(ask: &Ask<'_>, rest: &[&str]) -> Result<Reply, Fail> {
    match (ask.call.method, rest) {
        (Method::Get, ["default"]) => ask.read(Right::ReadDatastores, |view| one(view, DEFAULT)),
        (Method::Get, ["datastores", name]) => ask.read(Right::ReadDatastores, |view| one(view, name)),
        (Method::Get, ["datastores"]) => ask.read(Right::ReadDatastores, |view| {
            let prefix = view.workspace.id.child("datastores", "").key().to_owned();
            let mut names: Vec<String> =
                view.snapshot.with_key_prefix(&prefix).map(|d| d.id.name().to_owned()).collect();
            for own in [ARTIFACTS, DEFAULT] {
                if !names.iter().any(|n| n.eq_ignore_ascii_case(own)) {
                    names.insert(0, own.to_owned());
                }
            }
            let value: Vec<Value> = names.iter().filter_map(|name| shown(view, name).ok()).collect();
            Ok(super::list(value))
        }),
        (Method::Get, _) => Err(Fail::Api(super::not_served(ask.call))),
        _ => Err(Fail::Api(ApiError::new(
            405,
            "MethodNotAllowed",
            "Datastores are made and changed through Azure Resource Manager here (`azure-ai-ml`).",
        ))),
    }
    .map(|body| Reply::json(200, &body))
}

fn one(view: &View<'_>, name: &str) -> Result<Value, ApiError> {
    shown(view, name)
}

fn shown(view: &View<'_>, name: &str) -> Result<Value, ApiError> {
    let stored = view.snapshot.get(&view.workspace.id.child("datastores", name));
    let (account, container, tags) = match stored {
        Some(stored) => described(view, stored)?,
        None if name.eq_ignore_ascii_case(DEFAULT) => {
            let id = document::str_at(&view.workspace.body, "properties.workspaceId").unwrap_or_default();
            (blobs::account(view)?, blob_container(id), json!({}))
        }
        None if name.eq_ignore_ascii_case(ARTIFACTS) => {
            (blobs::account(view)?, ARTIFACT_CONTAINER.to_owned(), json!({}))
        }
        None => {
            return Err(ApiError::new(
                404,
                "DatastoreNotFound",
                format!("There is no datastore '{}' in workspace '{}'.", name.escape_debug(), view.workspace.id.name()),
            ));
        }
    };
    // A key opens the whole account: seeing a datastore does not mean seeing that.
    let key = storage_accounts::keys(&account.body).into_iter().next();
    let key = key.filter(|_| view.allows(Right::ReadSecrets)).map(|k| k.reveal());
    Ok(json!({
        "name": stored.map_or(name, |s| s.id.name()),
        "dataStoreType": "AzureBlob",
        "hasBeenValidated": true,
        "tags": tags,
        "isDefault": name.eq_ignore_ascii_case(DEFAULT),
        "azureStorageSection": {
            "accountName": account.id.name(),
            "containerName": container,
            "endpoint": "core.windows.net",
            "protocol": "https",
            "credentialType": if key.is_some() { "AccountKey" } else { "None" },
            "credential": key,
            "accountKey": key,
            "isSas": false,
            "sasToken": null,
            "areWorkspaceManagedIdentitiesAllowed": false,
            "subscriptionId": account.id.subscription(),
            "resourceGroup": account.id.resource_group(),
        },
    }))
}

fn described<'a>(view: &View<'a>, stored: &Stored) -> Result<(&'a Stored, String, Value), ApiError> {
    let text = |member: &str| document::str_at(&stored.body, &format!("properties.{member}")).unwrap_or_default();
    let kind = text("datastoreType");
    if !kind.eq_ignore_ascii_case("AzureBlob") {
        return Err(ApiError::bad_request(
            "UserError",
            format!(
                "The datastore '{}' is of type {kind}; azureml-core is served AzureBlob datastores only.",
                stored.id.name()
            ),
        ));
    }
    let name = text("accountName");
    let account = storage_accounts::find(view.snapshot, name).ok_or_else(|| {
        ApiError::new(404, "StorageAccountNotFound", format!("The storage account '{name}' does not exist."))
    })?;
    let tags = document::at(&stored.body, "properties.tags").cloned().unwrap_or_else(|| json!({}));
    Ok((account, text("containerName").to_owned(), tags))
}
