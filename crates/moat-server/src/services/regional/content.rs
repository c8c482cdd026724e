//! `/content`: code snapshots of azureml-core (PROTOCOL 6.7). Files go to the storage account by the client's own
//! connections; what is kept here is which files belong together.

use std::collections::BTreeMap;

use moat_arm::{ApiError, Batch, document};
use moat_control::Method;
use moat_control::history::{Right, View, time};
use moat_model::types::microsoft_machinelearningservices::snapshots::{
    self, CONTAINER, Contents, FILES_MAX, is_safe_path,
};
use moat_model::types::microsoft_storage::containers;
use serde_json::{Value, json};
use uuid::Uuid;

use super::ask::{Ask, Fail};
use super::blobs;
use crate::http::reply::Reply;
use crate::random;

/// Folders within folders.
const DEPTH_MAX: usize = 64;

type Answer = Result<Reply, Fail>;

pub(super) async fn answer(ask: &Ask<'_>, rest: &[&str]) -> Answer {
    match (ask.call.method, rest) {
        (Method::Get, ["snapshots", "latest", "metadata"]) => latest(ask),
        (Method::Post, ["snapshots", "getblob"]) => places(ask).await,
        (Method::Get, ["snapshots", id, "metadata"]) => metadata(ask, id),
        (Method::Get, ["snapshots", id, "sas"]) => addresses(ask, id),
        (Method::Post, ["snapshots", _, "zip"]) => Err(Fail::Api(ApiError::new(
            501,
            "NotImplemented",
            "Snapshots are not packed into archives here; ask for `/sas`, which lists the addresses of their files.",
        ))),
        (Method::Post, ["snapshots", "uri", _]) => Err(Fail::Api(ApiError::bad_request(
            "UserError",
            "Snapshots of git repositories are not made here: this environment has no way to the internet.",
        ))),
        (Method::Post, ["snapshots", id]) => create(ask, id).await,
        _ => Err(Fail::Api(super::not_served(ask.call))),
    }
}

/// Which snapshot the client may compare with: none, and this must be 200 (PROTOCOL 6.7). It keeps its own latest one.
fn latest(ask: &Ask<'_>) -> Answer {
    let now = ask.read(Right::ReadSnapshots, |view| Ok(time(view.ctx.now)))?;
    Ok(Reply::json(
        200,
        &json!({
            "id": Uuid::nil().to_string(), "parentId": null, "name": null, "tags": null, "properties": {},
            "root": {
                "name": "", "hash": null, "type": "Directory", "timestamp": now, "sasUrl": null, "absoluteUrl": null,
                "sizeBytes": 0, "sizeSet": true, "children": {},
            },
        }),
    ))
}

fn wrong(message: impl Into<String>) -> ApiError {
    ApiError::bad_request("UserError", message)
}

/// Addresses to upload files to, below a prefix of their own.
async fn places(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let names: Vec<String> =
        document::array_at(&body, "FileNames").iter().filter_map(Value::as_str).map(|n| n.replace('\\', "/")).collect();
    if names.len() > FILES_MAX {
        return Err(Fail::Api(wrong(format!("A snapshot has at most {FILES_MAX} files, got {}.", names.len()))));
    }
    if let Some(bad) = names.iter().find(|name| !is_safe_path(name)) {
        return Err(Fail::Api(wrong(format!("`{}` is no path of a file in a folder.", bad.escape_debug()))));
    }
    let prefix = random::uuid();
    let nodes = ask
        .write(Right::WriteSnapshots, move |view| {
            let mut batch = Batch::default();
            let account = blobs::account(view)?;
            containers::ensure(&view.type_ctx(), &account.id, CONTAINER, &mut batch);
            let node = |name: &String| {
                let url = blobs::sign(view, CONTAINER, &format!("{prefix}/{name}"), "rcw")?;
                Ok(json!({"fullName": name, "blobUri": url, "fileSize": 0}))
            };
            let nodes: Vec<Value> = names.iter().map(node).collect::<Result<_, ApiError>>()?;
            Ok((nodes, batch))
        })
        .await?;
    Ok(Reply::json(200, &json!({"fileNodes": nodes})))
}

async fn create(ask: &Ask<'_>, id: &str) -> Answer {
    let id = Uuid::try_parse(id).map_err(|_| wrong(format!("The snapshot id '{}' is no GUID.", id.escape_debug())))?;
    let (body, id) = (ask.body()?, id.hyphenated().to_string());
    let parent = ask
        .write(Right::WriteSnapshots, move |view| {
            let document = snapshots::document_id(&view.workspace.id, &id);
            let contents = contents(view, &body)?;
            let mut batch = Batch::default();
            batch.audit.principal = view.principal.object_id.clone();
            batch.audit.operation = Right::WriteSnapshots.action().to_owned();
            match snapshots::find(view.snapshot, &view.workspace.id, &id) {
                // Sent again because the answer was lost.
                Some(there) if there == contents => {}
                Some(_) => {
                    return Err(ApiError::new(409, "SnapshotExists", format!("There is a snapshot '{id}' already.")));
                }
                None => batch.put(document, contents.to_body()),
            }
            Ok((json!({"id": id, "parentId": contents.parent}), batch))
        })
        .await?;
    Ok(Reply::json(200, &parent))
}

/// What a snapshot is made of: files that were sent now, and files of its parent that did not change.
fn contents(view: &View<'_>, body: &Value) -> Result<Contents, ApiError> {
    let host = format!("https://{}.blob.core.windows.net/{CONTAINER}/", blobs::account(view)?.id.name().to_lowercase());
    let mut sent = BTreeMap::new();
    for node in document::array_at(body, "FileRevisionList.FileNodes") {
        let text = |member: &str| document::str_at(node, member).unwrap_or_default();
        let (path, uri) = (text("FullName").replace('\\', "/"), text("BlobUri"));
        let encoded = uri.split('?').next().and_then(|u| u.strip_prefix(&host)).unwrap_or_default();
        let blob = crate::http::request::decode(encoded).unwrap_or_default();
        // Only what this service gave out for this very path.
        let own = blob.split_once('/').is_some_and(|(prefix, name)| Uuid::try_parse(prefix).is_ok() && name == path);
        if !own || !is_safe_path(&path) {
            return Err(wrong(format!("The blob of `{}` is none that was given out for it.", path.escape_debug())));
        }
        let _ = sent.insert(path, blob);
    }
    let parent_id = document::str_at(body, "ParentSnapshotId").filter(|id| *id != Uuid::nil().to_string());
    let parent = parent_id.and_then(|id| snapshots::find(view.snapshot, &view.workspace.id, id)).unwrap_or_default();
    let tree = document::at(body, "DirTreeNode").cloned().unwrap_or_default();
    let mut paths = Vec::new();
    walk(&tree, "", 0, &mut paths)?;
    let mut files = BTreeMap::new();
    for path in paths {
        let blob = sent.get(&path).or_else(|| parent.files.get(&path)).ok_or_else(|| {
            // azureml-core forgets what it remembers of the parent and sends everything.
            wrong(format!("The file `{}` was neither sent nor is it in the parent snapshot.", path.escape_debug()))
        })?;
        let _ = files.insert(path, blob.clone());
    }
    let git = document::at(body, "Properties").cloned().unwrap_or_default();
    Ok(Contents { files, tree, git, parent: parent_id.map(str::to_owned) })
}

/// The paths of all files of a tree.
fn walk(node: &Value, path: &str, depth: usize, paths: &mut Vec<String>) -> Result<(), ApiError> {
    if depth > DEPTH_MAX || paths.len() > FILES_MAX {
        return Err(wrong(format!("A snapshot has at most {FILES_MAX} files, {DEPTH_MAX} folders deep.")));
    }
    for (name, child) in document::at(node, "children").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        if document::str_at(child, "type").is_some_and(|t| t.eq_ignore_ascii_case("Directory")) {
            walk(child, &path, depth + 1, paths)?;
        } else if is_safe_path(&path) {
            paths.push(path);
        } else {
            return Err(wrong(format!("`{}` is no path of a file in a folder.", path.escape_debug())));
        }
    }
    Ok(())
}

fn found(view: &View<'_>, id: &str) -> Result<Contents, ApiError> {
    snapshots::find(view.snapshot, &view.workspace.id, id)
        .ok_or_else(|| ApiError::new(404, "SnapshotNotFound", format!("There is no snapshot '{}'.", id.escape_debug())))
}

fn metadata(ask: &Ask<'_>, id: &str) -> Answer {
    let contents = ask.read(Right::ReadSnapshots, |view| found(view, id))?;
    Ok(Reply::json(
        200,
        &json!({
            "id": id, "parentId": contents.parent, "name": null, "tags": null, "properties": contents.git,
            "root": contents.tree,
        }),
    ))
}

/// The files with addresses at which they can be read.
fn addresses(ask: &Ask<'_>, id: &str) -> Answer {
    let children = ask.read(Right::ReadSnapshots, |view| {
        let files = found(view, id)?.files;
        let node = |(path, blob): (&String, &String)| {
            let url = blobs::sign(view, CONTAINER, blob, "r")?;
            Ok((path.clone(), json!({"name": path, "type": "File", "sasUrl": url, "children": {}})))
        };
        files.iter().map(node).collect::<Result<serde_json::Map<_, _>, ApiError>>()
    })?;
    Ok(Reply::json(200, &json!({"name": "", "type": "Directory", "children": children})))
}
