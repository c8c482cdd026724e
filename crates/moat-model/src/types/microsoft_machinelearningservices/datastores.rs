//! `workspaces/datastores`: which storage a workspace knows by which name (PROTOCOL 6.5).
//!
//! A workspace is made with four: two in blob containers (data, artifacts) and two in file shares. The blob ones carry
//! jobs; all other kinds are stored and checked, and a job that uses one is refused by name. Secrets live in the private
//! part of the document; system datastores have none of their own but use the account's key as it is now.

use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, missing, runs};
use crate::resource_type::{Action, ActionResult, Completion, Refusal, ResourceType, Scope, TypeCtx, Write};
use crate::types::microsoft_storage::{containers, storage_accounts};
use crate::types::shape;

/// The default store: data and code.
pub const BLOB_STORE: &str = "workspaceblobstore";
/// Where artifacts of runs lie.
pub const ARTIFACT_STORE: &str = "workspaceartifactstore";
const FILE_STORE: &str = "workspacefilestore";
const WORKING_DIRECTORY: &str = "workspaceworkingdirectory";

/// Where a document keeps its secrets.
const SECRETS: &str = "moat.secrets";
/// Whether the service made it.
const SYSTEM: &str = "moat.systemStore";

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.MachineLearningServices/workspaces/datastores",
    api_versions: API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Sync,
    location_required: false,
    inherit,
    refusals: &[
        Refusal { id: "datastore-name", requirements: &[], check: name },
        Refusal { id: "datastore-kind", requirements: &[], check: kind },
        Refusal { id: "datastore-credentials", requirements: &[], check: credentials },
        Refusal { id: "datastore-account", requirements: &[], check: account },
        Refusal { id: "datastore-system", requirements: &[], check: system },
    ],
    listed: |query, body| {
        let default = document::bool_at(body, "properties.isDefault").unwrap_or(false);
        let wanted = query.get("isdefault").map(|v| v.eq_ignore_ascii_case("true"));
        wanted.is_none_or(|wanted| wanted == default)
    },
    complete,
    on_write: one_default,
    render: |_, _, body| {
        document::remove(body, "properties.credentials.secrets");
        shape::render_system_data(body);
    },
    actions: &[Action { name: "listSecrets", run: list_secrets }],
    not_found: missing::not_found,
    ..ResourceType::BLANK
};

/// Kinds of datastores and the members that each must have.
const KINDS: [(&str, &[&str]); 5] = [
    ("AzureBlob", &["accountName", "containerName"]),
    ("AzureFile", &["accountName", "fileShareName"]),
    ("AzureDataLakeGen2", &["accountName", "filesystem"]),
    ("AzureDataLakeGen1", &["storeName"]),
    ("OneLake", &["artifact", "oneLakeWorkspaceName"]),
];
/// Kinds of credentials and the secret that each has; the name of the secret's kind is the same.
const CREDENTIALS: [(&str, &str); 5] = [
    ("None", ""),
    ("AccountKey", "key"),
    ("Sas", "sasToken"),
    ("ServicePrincipal", "clientSecret"),
    ("Certificate", "certificate"),
];

/// Adds the datastores that a workspace is made with, and their containers.
pub(super) fn make_system(ctx: &TypeCtx<'_>, workspace: &ResourceId, body: &Value, batch: &mut Batch) {
    let account = document::str_at(body, "properties.storageAccount").and_then(|id| ResourceId::parse(id).ok());
    let Some(account) = account.and_then(|id| ctx.snapshot.get(&id)) else { return };
    let workspace_id = document::str_at(body, "properties.workspaceId").unwrap_or_default();
    let share = workspace_id.replace('-', "");
    let mode = document::str_at(body, "properties.systemDatastoresAuthMode").unwrap_or("accessKey");
    let keyless = ["identity", "userDelegationSAS"].iter().any(|m| m.eq_ignore_ascii_case(mode));
    for (name, kind, place, value) in [
        (BLOB_STORE, "AzureBlob", "containerName", runs::blob_container(workspace_id)),
        (ARTIFACT_STORE, "AzureBlob", "containerName", runs::ARTIFACT_CONTAINER.to_owned()),
        (FILE_STORE, "AzureFile", "fileShareName", format!("azureml-filestore-{workspace_id}")),
        (WORKING_DIRECTORY, "AzureFile", "fileShareName", format!("code-{share}")),
    ] {
        let id = workspace.child("datastores", name);
        if ctx.snapshot.get(&id).is_some() {
            continue;
        }
        if kind == "AzureBlob" {
            containers::ensure(ctx, &account.id, &value, batch);
        }
        let mut write = Write {
            id: &id,
            before: None,
            body: json!({"properties": {
                "datastoreType": kind, "accountName": account.id.name(), place: value,
                "isDefault": name == BLOB_STORE, "endpoint": "core.windows.net", "protocol": "https",
                "credentials": {"credentialsType": if keyless { "None" } else { "AccountKey" }},
                "serviceDataAccessAuthIdentity": "None", "description": null, "tags": null, "properties": null,
                "subscriptionId": account.id.subscription(), "resourceGroup": account.id.resource_group(),
            }, "moat": {"systemStore": true}}),
        };
        shape::note_author(ctx, &mut write);
        let body = write.body;
        batch.put(id, body);
    }
}

/// A PUT that leaves the secret out keeps it: clients send back what they were answered.
fn inherit(_: &TypeCtx<'_>, write: &mut Write<'_>) {
    for member in ["datastoreType", "credentials"] {
        shape::keep_if_absent(write, &format!("properties.{member}"));
    }
}

fn name(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let name = write.id.name();
    let ok = name.len() <= 255 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if ok {
        return Ok(());
    }
    // AZURE: wording not observed.
    refuse(
        "name",
        format!("'{name}' is no name of a datastore: letters, digits, '_' and '-' are allowed, at most 255."),
    )
}

fn kind(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let given = document::str_at(&write.body, "properties.datastoreType").unwrap_or_default();
    let Some((_, members)) = KINDS.iter().find(|(kind, _)| kind.eq_ignore_ascii_case(given)) else {
        let known = KINDS.map(|(kind, _)| kind).join(", ");
        return refuse(
            "properties.datastoreType",
            format!("The datastore type '{given}' is not known. Known are: {known}."),
        );
    };
    for member in *members {
        let path = format!("properties.{member}");
        if document::at(&write.body, &path).is_none_or(|v| v.as_str() == Some("")) {
            return refuse(&path, format!("A datastore of type {given} needs '{member}'."));
        }
    }
    let was = write.before.and_then(|b| document::str_at(b, "properties.datastoreType"));
    match was {
        Some(was) if !was.eq_ignore_ascii_case(given) => refuse(
            "properties.datastoreType",
            format!("The datastore '{}' is of type {was}; its type cannot be changed.", write.id.name()),
        ),
        _ => Ok(()),
    }
}

fn credentials(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    const PATH: &str = "properties.credentials.credentialsType";
    let given = document::str_at(&write.body, PATH).unwrap_or_default();
    let Some((kind, secret)) = CREDENTIALS.iter().find(|(kind, _)| kind.eq_ignore_ascii_case(given)) else {
        let known = CREDENTIALS.map(|(kind, _)| kind).join(", ");
        return refuse(PATH, format!("The credentials type '{given}' is not known. Known are: {known}."));
    };
    let kept = write.before.is_some_and(|b| {
        document::str_at(b, PATH).is_some_and(|k| k.eq_ignore_ascii_case(kind)) && document::at(b, SECRETS).is_some()
            || document::bool_at(b, SYSTEM) == Some(true)
    });
    let sent = document::str_at(&write.body, &format!("properties.credentials.secrets.{secret}"));
    if secret.is_empty() || kept || sent.is_some_and(|s| !s.is_empty()) {
        return Ok(());
    }
    refuse("properties.credentials.secrets", format!("Credentials of type {kind} need 'secrets.{secret}'."))
}

/// Storage that does not exist in this environment cannot be reached from it. Azure looks too, unless it is asked not
/// to; such a datastore fails where it is used.
fn account(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if ctx.skip_validation {
        return Ok(());
    }
    let Some(name) = document::str_at(&write.body, "properties.accountName") else { return Ok(()) };
    let Some(account) = storage_accounts::find(ctx.snapshot, name) else {
        // AZURE: wording not observed; there the datastore is checked by reading from it.
        return refuse(
            "properties.accountName",
            format!("The storage account '{name}' does not exist in this environment."),
        );
    };
    let sent = document::str_at(&write.body, "properties.credentials.secrets.key");
    let sent = sent.filter(|_| document::bool_at(&write.body, "properties.skipValidation") != Some(true));
    if sent.is_some_and(|sent| !storage_accounts::keys(&account.body).iter().any(|key| key.reveal() == sent)) {
        return refuse(
            "properties.credentials.secrets",
            format!("The key is none of the storage account '{}'.", account.id.name()),
        );
    }
    Ok(())
}

/// What the service made keeps its place.
fn system(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let Some(before) = write.before.filter(|b| document::bool_at(b, SYSTEM) == Some(true)) else { return Ok(()) };
    for member in ["accountName", "containerName", "fileShareName"] {
        let path = format!("properties.{member}");
        if document::at(before, &path) != document::at(&write.body, &path) {
            // AZURE: wording not observed.
            return refuse(
                &path,
                format!("'{}' belongs to the workspace; its '{member}' cannot be changed.", write.id.name()),
            );
        }
    }
    Ok(())
}

fn refuse(target: &str, message: String) -> Result<(), ApiError> {
    Err(ApiError::bad_request("UserError", message).with_target(target))
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let id = write.id;
    let body = &mut write.body;
    let secrets = document::at(body, "properties.credentials.secrets").filter(|s| s.is_object()).cloned();
    document::remove(body, "properties.credentials.secrets");
    if document::str_at(body, "properties.credentials.credentialsType").is_some_and(|k| k.eq_ignore_ascii_case("None"))
    {
        document::remove(body, SECRETS);
    }
    if let Some(secrets) = secrets {
        document::set(body, SECRETS, secrets);
    }
    document::remove(body, "properties.skipValidation");
    for (member, value) in [
        ("tags", json!({})),
        ("isDefault", json!(false)),
        ("serviceDataAccessAuthIdentity", json!("None")),
        ("subscriptionId", json!(id.subscription())),
        ("resourceGroup", json!(id.resource_group())),
    ] {
        document::set_default(body, &format!("properties.{member}"), value);
    }
    if document::at(body, "properties.accountName").is_some() {
        document::set_default(body, "properties.endpoint", json!("core.windows.net"));
        document::set_default(body, "properties.protocol", json!("https"));
    }
    // Where a service principal of a lake gets its tokens, and for what.
    let resource = match document::str_at(body, "properties.datastoreType").map(str::to_lowercase).as_deref() {
        Some("azuredatalakegen1") => Some("https://datalake.azure.net/"),
        Some("azuredatalakegen2") => Some("https://storage.azure.com/"),
        _ => None,
    };
    let principal = ["ServicePrincipal", "Certificate"];
    let given = document::str_at(body, "properties.credentials.credentialsType").unwrap_or_default();
    if let Some(resource) = resource.filter(|_| principal.iter().any(|p| p.eq_ignore_ascii_case(given))) {
        let authority = json!("https://login.microsoftonline.com");
        document::set_default(body, "properties.credentials.authorityUrl", authority);
        document::set_default(body, "properties.credentials.resourceUrl", json!(resource));
    }
    shape::note_author(ctx, write);
    Ok(())
}

/// A new default takes the mark from the one before.
fn one_default(ctx: &TypeCtx<'_>, write: &Write<'_>, batch: &mut Batch) -> Result<(), ApiError> {
    let Some(workspace) = write.id.parent() else { return Ok(()) };
    if document::bool_at(&write.body, "properties.isDefault") != Some(true) {
        return Ok(());
    }
    for other in ctx.snapshot.below(&workspace).filter(|d| d.id != *write.id) {
        let is_default = other.id.resource_type().eq_ignore_ascii_case(TYPE.name)
            && document::bool_at(&other.body, "properties.isDefault") == Some(true);
        if is_default {
            let mut body = other.body.clone();
            document::set(&mut body, "properties.isDefault", json!(false));
            batch.put(other.id.clone(), body);
        }
    }
    Ok(())
}

/// PROTOCOL trap 6: always the key itself, also where one that expires was asked for; clients sign with it.
fn list_secrets(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value) -> Result<ActionResult, ApiError> {
    let stored = ctx.snapshot.get(id).ok_or_else(|| ApiError::not_found(id))?;
    let given = document::str_at(&stored.body, "properties.credentials.credentialsType").unwrap_or("None");
    let kind = CREDENTIALS.iter().find(|(kind, _)| kind.eq_ignore_ascii_case(given)).map_or("None", |(kind, _)| kind);
    let account = document::str_at(&stored.body, "properties.accountName");
    let account = account.and_then(|name| storage_accounts::find(ctx.snapshot, name));
    let body = match (document::at(&stored.body, SECRETS), kind) {
        (_, "None") => {
            return Err(ApiError::bad_request(
                "UserError",
                format!("The datastore '{}' has no credentials; use your own token.", id.name()),
            ));
        }
        (Some(secrets), _) => {
            let mut secrets = secrets.clone();
            document::set(&mut secrets, "secretsType", json!(kind));
            secrets
        }
        (None, _) => {
            let key = account.and_then(|a| storage_accounts::keys(&a.body).into_iter().next());
            let key = key.ok_or_else(|| {
                ApiError::new(404, "UserError", format!("The storage account of datastore '{}' is gone.", id.name()))
            })?;
            json!({"secretsType": "AccountKey", "key": key.reveal()})
        }
    };
    Ok(ActionResult { body, long_running: false, batch: Batch::default() })
}

#[cfg(test)]
#[path = "datastores_tests.rs"]
mod tests;
