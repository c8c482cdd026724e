//! Codes, components, data, environments and models: containers of versions (PROTOCOL 6.4).
//!
//! A version names what lies elsewhere (a blob prefix, an image) and never changes what it names: jobs that ran with it
//! can be run again. Containers are made by the first version that is put into them. What a version of an environment
//! means is read by `crate::environment`, what a URI means by `crate::jobs`.

use std::collections::BTreeMap;

use moat_arm::{ApiError, Batch, ResourceId, Snapshot, document};
use serde_json::{Value, json};

use super::missing::not_found;
use super::{API_VERSIONS, pending_uploads};
use crate::resource_type::{Action, Completion, Refusal, ResourceType, Scope, TypeCtx, Write};
use crate::types::shape;

/// What differs between the collections.
struct Collection {
    /// Second to last part of the type's name.
    name: &'static str,
    /// Member that a version must have; empty: none.
    required: &'static str,
    /// Members of `properties` that a version keeps for good.
    fixed: &'static [&'static str],
    /// Defaults of `properties`.
    defaults: &'static [(&'static str, &'static str)],
    /// Maps of `properties` that are answered empty rather than not at all.
    maps: &'static [&'static str],
}

const COLLECTIONS: [Collection; 5] = [
    Collection { name: "codes", required: "codeUri", fixed: &["codeUri"], defaults: &[], maps: &[] },
    Collection { name: "components", required: "componentSpec", fixed: &["componentSpec"], defaults: &[], maps: &[] },
    Collection {
        name: "data",
        required: "dataUri",
        fixed: &["dataUri", "dataType"],
        defaults: &[("dataType", "uri_folder")],
        maps: &[],
    },
    Collection {
        name: "environments",
        required: "",
        fixed: &["image", "condaFile", "build", "osType"],
        defaults: &[("environmentType", "UserCreated"), ("osType", "Linux"), ("condaFile", "")],
        maps: &[],
    },
    Collection {
        name: "models",
        required: "modelUri",
        fixed: &["modelUri", "modelType"],
        defaults: &[("modelType", "custom_model"), ("stage", "Development")],
        maps: &["flavors"],
    },
];

/// Where a container keeps its newest version.
const LATEST: &str = "properties.latestVersion";
/// Longest name of an asset or version.
const NAME_CHARS_MAX: usize = 255;

const CONTAINER: ResourceType = ResourceType {
    api_versions: API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Sync,
    location_required: false,
    refusals: &[Refusal { id: "asset-name", requirements: &[], check: name }],
    not_found,
    listed,
    complete: |ctx, write| {
        defaults(&mut write.body);
        if let Some(latest) = write.before.and_then(|b| document::at(b, LATEST)) {
            document::set(&mut write.body, LATEST, latest.clone());
        }
        shape::note_author(ctx, write);
        Ok(())
    },
    render: render_container,
    ..ResourceType::BLANK
};

const VERSION: ResourceType = ResourceType {
    api_versions: API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Sync,
    location_required: false,
    on_demand: true,
    refusals: &[
        Refusal { id: "asset-name", requirements: &[], check: name },
        Refusal { id: "asset-complete", requirements: &[], check: required },
        Refusal { id: "asset-immutable", requirements: &[], check: immutable },
    ],
    not_found,
    listed,
    complete: complete_version,
    on_write: make_container,
    render: |_, _, body| shape::render_system_data(body),
    ..ResourceType::BLANK
};

/// Asks for a place to upload the files of a version to, before there is the version.
const UPLOAD: &[Action] = &[Action { name: "startPendingUpload", run: pending_uploads::start }];

/// Code containers.
pub static CODES: ResourceType =
    ResourceType { name: "Microsoft.MachineLearningServices/workspaces/codes", ..CONTAINER };
/// Code versions.
pub static CODE_VERSIONS: ResourceType =
    ResourceType { name: "Microsoft.MachineLearningServices/workspaces/codes/versions", actions: UPLOAD, ..VERSION };
/// Component containers.
pub static COMPONENTS: ResourceType =
    ResourceType { name: "Microsoft.MachineLearningServices/workspaces/components", ..CONTAINER };
/// Component versions.
pub static COMPONENT_VERSIONS: ResourceType = ResourceType {
    name: "Microsoft.MachineLearningServices/workspaces/components/versions",
    render: |_, id, body| {
        // Clients read both from the specification only.
        let name = id.parent().map(|container| container.name().to_owned()).unwrap_or_default();
        document::set_default(body, "properties.componentSpec.name", json!(name));
        document::set_default(body, "properties.componentSpec.version", json!(id.name()));
        render_specification(body);
        shape::render_system_data(body);
    },
    ..VERSION
};
/// Data containers.
pub static DATA: ResourceType = ResourceType { name: "Microsoft.MachineLearningServices/workspaces/data", ..CONTAINER };
/// Data versions.
pub static DATA_VERSIONS: ResourceType =
    ResourceType { name: "Microsoft.MachineLearningServices/workspaces/data/versions", actions: UPLOAD, ..VERSION };
/// Environment containers.
pub static ENVIRONMENTS: ResourceType =
    ResourceType { name: "Microsoft.MachineLearningServices/workspaces/environments", ..CONTAINER };
/// Environment versions.
pub static ENVIRONMENT_VERSIONS: ResourceType =
    ResourceType { name: "Microsoft.MachineLearningServices/workspaces/environments/versions", ..VERSION };
/// Model containers.
pub static MODELS: ResourceType =
    ResourceType { name: "Microsoft.MachineLearningServices/workspaces/models", ..CONTAINER };
/// Model versions.
pub static MODEL_VERSIONS: ResourceType = ResourceType {
    name: "Microsoft.MachineLearningServices/workspaces/models/versions",
    actions: UPLOAD,
    // Code is looked for by its hash below a container that need not be there; a model is not.
    listed_without_parent: false,
    ..VERSION
};

/// The newest version in a container.
pub fn latest(snapshot: &Snapshot, container: &ResourceId) -> Option<ResourceId> {
    let said = snapshot.get(container).and_then(|c| document::str_at(&c.body, LATEST));
    let said = said.and_then(|version| snapshot.get(&container.child("versions", version)));
    said.or_else(|| versions(snapshot, container).max_by_key(|v| v.created_seq)).map(|v| v.id.clone())
}

fn versions<'a>(
    snapshot: &'a Snapshot,
    container: &ResourceId,
) -> impl Iterator<Item = &'a std::sync::Arc<moat_arm::Stored>> {
    snapshot.below(container).filter(|d| d.id.resource_type().to_ascii_lowercase().ends_with("/versions"))
}

fn collection(version: &ResourceId) -> Option<&'static Collection> {
    let kind = version.resource_type();
    let name = kind.rsplit('/').nth(1)?;
    COLLECTIONS.iter().find(|c| c.name.eq_ignore_ascii_case(name))
}

fn name(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for name in write.id.names().into_iter().skip(1) {
        let ok = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && name.len() <= NAME_CHARS_MAX;
        if !ok {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "InvalidAssetName",
                format!(
                    "'{name}' is no name of an asset or version: a letter, digit or '_', then letters, digits, '-', '_' and '.', at most {NAME_CHARS_MAX}."
                ),
            ));
        }
    }
    Ok(())
}

fn required(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let Some(member) = collection(write.id).map(|c| c.required).filter(|m| !m.is_empty()) else { return Ok(()) };
    let path = format!("properties.{member}");
    match document::at(&write.body, &path) {
        Some(Value::String(text)) if !text.is_empty() => Ok(()),
        Some(Value::Object(members)) if !members.is_empty() => Ok(()),
        _ => Err(ApiError::bad_request(
            "UserError",
            format!("The version '{}' names nothing: '{member}' is missing.", write.id.name()),
        )
        .with_target(path)),
    }
}

/// Tags, description, stage and the archive mark may change; what a version names may not.
fn immutable(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let (Some(before), Some(collection)) = (write.before, collection(write.id)) else { return Ok(()) };
    for member in collection.fixed {
        let path = format!("properties.{member}");
        let (old, new) = (document::at(before, &path), document::at(&write.body, &path));
        let default = || collection.defaults.iter().find(|(m, _)| m == member).map(|(_, v)| json!(v));
        let same = matches!((old, new), (Some(Value::String(old)), Some(Value::String(new))) if same_path(old, new));
        if new.is_some() && new != old && !same && new.cloned() != old.cloned().or_else(default) {
            let uri = member.ends_with("Uri");
            // The first text is what azure-ai-ml compares with; of the other the wording was not observed.
            let text = if uri {
                "Asset paths cannot be updated.".to_owned()
            } else {
                format!(
                    "The version '{}' exists with another '{member}', and versions do not change. Use a new version.",
                    write.id.name()
                )
            };
            return Err(ApiError::new(409, "UserError", text).with_target(path));
        }
    }
    Ok(())
}

/// Whether two texts are one path in a datastore: what is in front of its name, ids of a workspace in some spelling, is
/// compared without case.
fn same_path(a: &str, b: &str) -> bool {
    const DATASTORES: &str = "/datastores/";
    match (a.split_once(DATASTORES), b.split_once(DATASTORES)) {
        (Some((a, path)), Some((b, other))) => a.starts_with("azureml:") && a.eq_ignore_ascii_case(b) && path == other,
        _ => a == b,
    }
}

/// The service tells the specification of a component with every scalar as a text, and what a command leaves out.
fn render_specification(body: &mut Value) {
    // AZURE: recordings show an address of a private feature, which today's azure-ai-ml refuses; what the service says
    // today was not observed. This is the one that people write.
    const SCHEMA: &str = "https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json";
    let Some(spec) = body.pointer_mut("/properties/componentSpec").filter(|s| s.is_object()) else { return };
    let as_text = |of: &mut Value, member: &str, default: &str| match document::bool_at(of, member) {
        Some(on) => document::set(of, member, json!(if on { "True" } else { "False" })),
        None => document::set_default(of, member, json!(default)),
    };
    as_text(spec, "is_deterministic", "True");
    for (_, input) in spec.get_mut("inputs").and_then(Value::as_object_mut).into_iter().flatten() {
        as_text(input, "optional", "False");
    }
    if document::str_at(spec, "type").is_some_and(|t| t.eq_ignore_ascii_case("command")) {
        document::set_default(spec, "resources", json!({"instance_count": "1"}));
        document::set_default(spec, "$schema", json!(SCHEMA));
    }
}

fn defaults(body: &mut Value) {
    for (member, value) in [("tags", json!({})), ("properties", json!({})), ("isArchived", json!(false))] {
        document::set_default(body, &format!("properties.{member}"), value);
    }
}

fn complete_version(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let collection = collection(write.id);
    for member in collection.map(|c| c.fixed).unwrap_or_default() {
        shape::keep_if_absent(write, &format!("properties.{member}"));
    }
    for (member, value) in collection.map(|c| c.defaults).unwrap_or_default() {
        document::set_default(&mut write.body, &format!("properties.{member}"), json!(value));
    }
    if collection.is_some_and(|c| c.name == "models") {
        let job = document::str_at(&write.body, "properties.modelUri").and_then(job_of).map(str::to_owned);
        document::set_default(&mut write.body, "properties.jobName", json!(job));
    }
    for member in collection.map(|c| c.maps).unwrap_or_default() {
        document::set_default(&mut write.body, &format!("properties.{member}"), json!({}));
    }
    document::set_default(&mut write.body, "properties.isAnonymous", json!(false));
    defaults(&mut write.body);
    shape::note_author(ctx, write);
    Ok(())
}

/// The job whose output a model is: `azureml://jobs/NAME/...`, or `runs:/NAME/...` as MLflow writes it.
fn job_of(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("azureml://jobs/").or_else(|| uri.strip_prefix("runs:/"))?;
    rest.split('/').next().filter(|name| !name.is_empty())
}

/// The container of a version, which remembers the version if it is new.
fn make_container(ctx: &TypeCtx<'_>, write: &Write<'_>, batch: &mut Batch) -> Result<(), ApiError> {
    let Some(id) = write.id.parent().filter(|_| write.before.is_none()) else { return Ok(()) };
    let stored = ctx.snapshot.get(&id);
    let mut body = stored.map_or_else(|| json!({"properties": {}}), |s| s.body.clone());
    let mut container = Write { id: &id, before: stored.map(|s| &s.body), body: std::mem::take(&mut body) };
    document::set(&mut container.body, LATEST, json!(write.id.name()));
    defaults(&mut container.body);
    if let Some(kind) = document::at(&write.body, "properties.dataType") {
        document::set_default(&mut container.body, "properties.dataType", kind.clone());
    }
    shape::note_author(ctx, &mut container);
    let body = container.body;
    batch.put(stored.map_or_else(|| id.clone(), |s| s.id.clone()), body);
    Ok(())
}

fn render_container(ctx: &TypeCtx<'_>, id: &ResourceId, body: &mut Value) {
    let newest = latest(ctx.snapshot, id).map(|v| v.name().to_owned());
    let highest = versions(ctx.snapshot, id).filter_map(|v| v.id.name().parse::<u64>().ok()).max();
    document::set(body, LATEST, newest.map_or(Value::Null, Value::String));
    document::set(body, "properties.nextVersion", json!(highest.unwrap_or(0).saturating_add(1).to_string()));
    shape::render_system_data(body);
}

/// `listViewType`, `hash`, `tags` and `stage` of lists.
fn listed(query: &BTreeMap<String, String>, body: &Value) -> bool {
    let text = |path: &str| document::str_at(body, path);
    let hash = query.get("hash").is_none_or(|hash| text("properties.properties.hash_sha256") == Some(hash.as_str()));
    let stage = query.get("stage").is_none_or(|stage| text("properties.stage") == Some(stage.as_str()));
    let tags = query.get("tags").or_else(|| query.get("$tags"));
    hash && stage && in_view(query, body) && tags.is_none_or(|tags| has_tags(tags, body))
}

/// `listViewType`: what is not archived, unless the client asks for it.
pub(super) fn in_view(query: &BTreeMap<String, String>, body: &Value) -> bool {
    let archived = document::bool_at(body, "properties.isArchived").unwrap_or(false);
    match query.get("listviewtype").map(|v| v.to_ascii_lowercase()).as_deref() {
        Some("all") => true,
        Some("archivedonly") => archived,
        _ => !archived,
    }
}

/// `a`, `a=b`, `a,b=c`: every one must be there.
pub(super) fn has_tags(wanted: &str, body: &Value) -> bool {
    wanted.split(',').map(str::trim).filter(|t| !t.is_empty()).all(|tag| {
        let (name, value) = tag.split_once('=').map_or((tag, None), |(n, v)| (n, Some(v)));
        let found = document::at(body, "properties.tags").and_then(|tags| tags.get(name));
        found.is_some_and(|found| value.is_none_or(|v| found.as_str() == Some(v)))
    })
}

#[cfg(test)]
#[path = "assets_tests.rs"]
mod tests;
