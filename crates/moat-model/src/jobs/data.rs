//! Where data lies: from the ways a job may name it to account, container and path.
//!
//! Known are data and model assets of the workspace, `azureml://` addresses of its datastores and of outputs of its
//! jobs, and `https` and `wasbs` addresses of blobs of accounts of this environment. Everything else would lead out of
//! it and is refused by name.

use moat_arm::{ApiError, ResourceId, Snapshot, document};
use serde_json::Value;

use super::refuse;
use crate::types::microsoft_machinelearningservices::{datastores, runs};

/// Type of storage accounts.
const ACCOUNTS: &str = "Microsoft.Storage/storageAccounts";
/// A chain of assets and outputs that name each other is followed this far.
const DEPTH_MAX: usize = 8;

/// A blob or a prefix of blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the storage account.
    pub account: String,
    /// Container.
    pub container: String,
    /// Path in it, without slashes at its ends; empty for all of it.
    pub path: String,
}

impl Place {
    /// The place `below` this one.
    #[must_use]
    pub fn join(&self, below: &str) -> Self {
        let parts = [self.path.as_str(), below.trim_matches('/')];
        let path: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
        Self { path: path.join("/"), ..self.clone() }
    }

    /// Its address on the wire, without a signature.
    pub fn url(&self) -> String {
        let path = self.path.split('/').map(crate::jobs::data::encode).collect::<Vec<_>>().join("/");
        format!("https://{}.blob.core.windows.net/{}/{path}", self.account, self.container)
    }
}

/// Percent-encodes one segment of a path.
fn encode(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Decodes `%41`; `None` where that gives no text.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16).and_then(|d| u8::try_from(d).ok());
        out.push(digit(bytes.next())? * 16 + digit(bytes.next())?);
    }
    String::from_utf8(out).ok()
}

/// Finds data in one workspace.
#[derive(Debug, Clone, Copy)]
pub struct Locator<'a> {
    /// The world.
    pub snapshot: &'a Snapshot,
    /// The workspace whose names are meant.
    pub workspace: &'a ResourceId,
}

/// Data that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Where.
    pub place: Place,
    /// `uri_file`, `uri_folder`, `mltable`, `custom_model`, ..., where an asset says so.
    pub kind: Option<String>,
}

impl Locator<'_> {
    /// What `uri` names.
    pub fn find(&self, uri: &str) -> Result<Located, ApiError> {
        self.follow(uri, DEPTH_MAX)
    }

    fn follow(&self, uri: &str, depth: usize) -> Result<Located, ApiError> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(refuse(
                "DataNotFound",
                format!("'{uri}' is reached by assets that name each other in a circle."),
            ));
        };
        if let Some(rest) = strip(uri, "azureml://") {
            return self.address(uri, rest, depth);
        }
        if let Some(rest) = strip(uri, "https://") {
            return self.blob(uri, rest).map(|place| Located { place, kind: None });
        }
        if let Some((container, rest)) = strip(uri, "wasbs://").and_then(|rest| rest.split_once('@')) {
            // The same blob: `wasbs://CONTAINER@ACCOUNT.blob.core.windows.net/PATH`.
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            return self.blob(uri, &format!("{host}/{container}/{path}")).map(|place| Located { place, kind: None });
        }
        let name = strip(uri, "azureml:").unwrap_or(uri);
        if name.starts_with('/') {
            let id = ResourceId::parse(name).map_err(|_| unknown(uri))?;
            return self.asset(uri, &id, depth);
        }
        if let Some((scheme, _)) = uri.split_once("://") {
            return Err(refuse(
                "DataNotSupported",
                format!(
                    "'{uri}' is read by '{scheme}', which leads out of this environment. Put the data into a datastore."
                ),
            ));
        }
        let container = |name: &str| self.workspace.child("data", name);
        let id = match (name.split_once('@'), name.rsplit_once(':')) {
            (Some((name, label)), _) if !name.is_empty() => container(name).child("labels", label),
            (None, Some((name, version))) if !name.is_empty() && !version.is_empty() => {
                container(name).child("versions", version)
            }
            _ => return Err(unknown(uri)),
        };
        self.asset(uri, &id, depth)
    }

    /// A data or model asset, by the id of a version or of a label.
    fn asset(&self, uri: &str, id: &ResourceId, depth: usize) -> Result<Located, ApiError> {
        let missing = || refuse("DataNotFound", format!("The data '{uri}' that the job names does not exist."));
        let parts: Vec<String> = id.resource_type().split('/').map(str::to_ascii_lowercase).collect();
        let holder = id.parent().ok_or_else(missing)?;
        let (stored, member, kind) = match parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["microsoft.machinelearningservices", "workspaces", collection @ ("data" | "models"), form] => {
                let id = match *form {
                    "versions" => id.clone(),
                    "labels" if id.name().eq_ignore_ascii_case("latest") => {
                        crate::types::microsoft_machinelearningservices::assets::latest(self.snapshot, &holder)
                            .ok_or_else(missing)?
                    }
                    _ => return Err(missing()),
                };
                let (member, kind) =
                    if *collection == "data" { ("dataUri", "dataType") } else { ("modelUri", "modelType") };
                (self.snapshot.get(&id).ok_or_else(missing)?, member, kind)
            }
            _ => return Err(refuse("DataNotSupported", format!("'{uri}' is neither a data nor a model asset."))),
        };
        let text = |path: String| document::str_at(&stored.body, &path).map(str::to_owned);
        let target = text(format!("properties.{member}")).ok_or_else(missing)?;
        // Relative names in an asset are those of the workspace it lies in.
        let workspace = holder.parent().ok_or_else(missing)?;
        let found = Locator { snapshot: self.snapshot, workspace: &workspace }.follow(&target, depth)?;
        Ok(Located { kind: text(format!("properties.{kind}")).or(found.kind), place: found.place })
    }

    /// What stands after `azureml://`.
    fn address(&self, uri: &str, rest: &str, depth: usize) -> Result<Located, ApiError> {
        let parts: Vec<&str> = rest.split('/').filter(|p| !p.is_empty()).collect();
        let is = |at: usize, word: &str| parts.get(at).is_some_and(|p| p.eq_ignore_ascii_case(word));
        if is(0, "registries") {
            return Err(refuse(
                "DataNotSupported",
                format!("'{uri}' lies in a registry; registries are not served here."),
            ));
        }
        let (workspace, parts) = match parts.as_slice() {
            [s, subscription, g, group, w, name, rest @ ..]
                if s.eq_ignore_ascii_case("subscriptions")
                    && g.eq_ignore_ascii_case("resourcegroups")
                    && (w.eq_ignore_ascii_case("workspaces")
                        || (w.eq_ignore_ascii_case("providers") && rest.len() >= 2)) =>
            {
                let scope = ResourceId::resource_group_scope(subscription, group);
                let (name, rest) =
                    if w.eq_ignore_ascii_case("providers") { (rest[1], &rest[2..]) } else { (*name, rest) };
                (scope.provider("Microsoft.MachineLearningServices", "workspaces", name), rest)
            }
            rest => (self.workspace.clone(), rest),
        };
        let here = Locator { snapshot: self.snapshot, workspace: &workspace };
        match parts {
            [collection, name, rest @ ..] if collection.eq_ignore_ascii_case("datastores") => {
                let path =
                    if rest.first().is_some_and(|p| p.eq_ignore_ascii_case("paths")) { &rest[1..] } else { rest };
                let place = here.datastore(name)?.join(&path.join("/"));
                Ok(Located { place: checked(uri, place)?, kind: None })
            }
            [collection, job, outputs, name, rest @ ..]
                if collection.eq_ignore_ascii_case("jobs") && outputs.eq_ignore_ascii_case("outputs") =>
            {
                let path =
                    if rest.first().is_some_and(|p| p.eq_ignore_ascii_case("paths")) { &rest[1..] } else { rest };
                let found = here.output(uri, job, name, depth)?;
                Ok(Located { place: checked(uri, found.place.join(&path.join("/")))?, kind: found.kind })
            }
            [collection, name, form, version]
                if ["data", "models"].iter().any(|c| c.eq_ignore_ascii_case(collection)) =>
            {
                here.asset(uri, &workspace.child(collection, name).child(form, version), depth)
            }
            _ => Err(unknown(uri)),
        }
    }

    /// A named output of a job, or its artifacts.
    fn output(&self, uri: &str, job: &str, name: &str, depth: usize) -> Result<Located, ApiError> {
        let id = self.workspace.child("jobs", job);
        let missing = || refuse("DataNotFound", format!("'{uri}' names an output of a job that does not exist."));
        let stored = self.snapshot.get(&id).ok_or_else(missing)?;
        if ["artifacts", "default"].iter().any(|n| n.eq_ignore_ascii_case(name)) {
            let place = self.datastore(datastores::ARTIFACT_STORE)?.join(&runs::artifact_prefix(job));
            return Ok(Located { place, kind: Some("uri_folder".to_owned()) });
        }
        let output = document::at(&stored.body, "properties.outputs").and_then(|o| document::get(o, name));
        let output = output.filter(|o| !o.is_null()).ok_or_else(missing)?;
        let kind = document::str_at(output, "jobOutputType").map(str::to_owned);
        let place = self.follow(&output_uri(stored.id.name(), name, output), depth)?.place;
        // A file without a path of its own lies in its folder under the name of the output.
        let own = document::str_at(output, "uri").is_some_and(|u| !u.is_empty());
        let is_file = kind.as_deref().is_some_and(|k| k.eq_ignore_ascii_case("uri_file"));
        Ok(Located { place: if is_file && !own { place.join(name) } else { place }, kind })
    }

    /// The container of a datastore.
    pub fn datastore(&self, name: &str) -> Result<Place, ApiError> {
        let id = self.workspace.child("datastores", name);
        let stored = self.snapshot.get(&id).ok_or_else(|| {
            refuse(
                "DatastoreNotFound",
                format!("The datastore '{name}' does not exist in workspace '{}'.", self.workspace.name()),
            )
        })?;
        let kind = document::str_at(&stored.body, "properties.datastoreType").unwrap_or_default();
        if !kind.eq_ignore_ascii_case("AzureBlob") {
            return Err(refuse(
                "DatastoreNotSupported",
                format!(
                    "The datastore '{name}' is of type {kind}; jobs read and write datastores of type AzureBlob only."
                ),
            ));
        }
        let text = |member: &str| document::str_at(&stored.body, &format!("properties.{member}")).unwrap_or_default();
        self.account(text("accountName"))?;
        Ok(Place {
            account: text("accountName").to_lowercase(),
            container: text("containerName").to_owned(),
            path: String::new(),
        })
    }

    /// `account.blob.core.windows.net/container/path`.
    fn blob(&self, uri: &str, rest: &str) -> Result<Place, ApiError> {
        let outside = || {
            refuse(
                "DataNotSupported",
                format!(
                    "'{uri}' is no blob of a storage account of this environment; nodes fetch data from those only."
                ),
            )
        };
        let rest = rest.split(['?', '#']).next().unwrap_or(rest);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = host.to_ascii_lowercase();
        let account = host.strip_suffix(".blob.core.windows.net").ok_or_else(outside)?;
        self.account(account).map_err(|_| outside())?;
        let path = decode(path).ok_or_else(|| unknown(uri))?;
        let (container, path) = path.split_once('/').unwrap_or((path.as_str(), ""));
        if container.is_empty() {
            return Err(unknown(uri));
        }
        let place = Place {
            account: account.to_owned(),
            container: container.to_owned(),
            path: path.trim_matches('/').to_owned(),
        };
        checked(uri, place)
    }

    fn account(&self, name: &str) -> Result<(), ApiError> {
        let exists = self.snapshot.of_type(ACCOUNTS).any(|d| d.id.name().eq_ignore_ascii_case(name));
        if exists {
            return Ok(());
        }
        Err(refuse(
            "StorageAccountNotFound",
            format!("The storage account '{name}' does not exist in this environment."),
        ))
    }
}

/// Where an output of the job `run` is to go: as it says, or to the workspace's own store.
pub fn output_uri(run: &str, name: &str, output: &Value) -> String {
    let uri = document::str_at(output, "uri").filter(|u| !u.is_empty());
    let default = format!("azureml://datastores/{}/paths/azureml/{run}/{name}/", datastores::BLOB_STORE);
    uri.map_or(default, |u| {
        u.replace("${{name}}", run)
            .replace("${{output_name}}", name)
            .replace("${{default_datastore}}", datastores::BLOB_STORE)
    })
}

/// A path that means one place to everybody who reads it.
fn checked(uri: &str, place: Place) -> Result<Place, ApiError> {
    let odd = place.path.contains('\\')
        || place.path.chars().any(char::is_control)
        || place.path.split('/').any(|s| matches!(s, "." | ".."));
    if odd {
        return Err(refuse(
            "InvalidPath",
            format!("The path of '{}' holds '.', '..', a backslash or a control character.", uri.escape_debug()),
        ));
    }
    Ok(place)
}

fn strip<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

fn unknown(uri: &str) -> ApiError {
    refuse(
        "DataNotSupported",
        format!(
            "'{}' names no data that is known here. Known are data assets (`azureml:NAME:VERSION`), datastores (`azureml://datastores/NAME/paths/PATH`), outputs of jobs (`azureml://jobs/NAME/outputs/NAME`) and blobs of this environment (`https://ACCOUNT.blob.core.windows.net/...`).",
            uri.escape_debug()
        ),
    )
}
