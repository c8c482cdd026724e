//! `workspaces/jobs`: jobs as ARM shows them (PROTOCOL 6.6).
//!
//! A job is accepted if it can be planned ([`crate::jobs::plan_of`]) and never changes afterwards, but for what people
//! write on it. How it goes on is told by [`runs::Run`] in its private part, which the scheduler writes; what clients see
//! of that is rendered here. Not here: the run history, which shows the same document to other clients.

use std::collections::BTreeMap;

use moat_arm::{ApiError, Batch, ResourceId, Snapshot, document};
use serde_json::{Value, json};

use super::runs::{self, JOB_TYPE, Kind, Run, Status};
use super::{API_VERSIONS, assets, missing};
use crate::environment::{self, IDENTITY_WARNING, Interpreter, Offer};
use crate::jobs::pipeline::{self, Step};
use crate::jobs::{self, Environment};
use crate::refs;
use crate::resource_type::{Action, ActionResult, Completion, Refusal, ResourceType, Scope, TypeCtx, Write};
use crate::types::shape;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: JOB_TYPE,
    api_versions: API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Sync,
    location_required: false,
    inherit,
    refusals: &[
        Refusal { id: "job-name", requirements: &[], check: name },
        Refusal { id: "job-fixed", requirements: &[], check: fixed },
        Refusal { id: "job-runnable", requirements: &[], check: runnable },
    ],
    listed,
    settled: Some(|body| Status::of(body).is_none_or(Status::is_terminal)),
    complete,
    on_write: make_steps,
    render,
    actions: &[Action { name: "cancel", run: cancel }],
    not_found: missing::not_found,
    ..ResourceType::BLANK
};

/// Longest name of a job.
const NAME_CHARS_MAX: usize = 255;
/// The experiment of a job that names none.
const EXPERIMENT: &str = "Default";
/// Members of `properties` that people may change later.
const MUTABLE: [&str; 5] = ["tags", "properties", "displayName", "description", "isArchived"];
/// Members of `properties` that the platform renders; clients send them back.
const RENDERED: [&str; 2] = ["status", "parentJobName"];
/// What a job runs on unless it says so: one node, and as much shared memory as Azure gives a container.
const RESOURCES: [(&str, Preset); 2] = [("instanceCount", Preset::Count(1)), ("shmSize", Preset::Text("2g"))];

/// A default of a member.
#[derive(Debug, Clone, Copy, serde::Serialize)]
#[serde(untagged)]
enum Preset {
    Count(u64),
    Text(&'static str),
}

/// Takes out what the platform renders.
fn inherit(_: &TypeCtx<'_>, write: &mut Write<'_>) {
    for own in ["services.Tracking", "services.Studio", "outputs.default"] {
        document::remove(&mut write.body, &format!("properties.{own}"));
    }
    if let Some(Value::Object(members)) = document::at(&write.body, "properties.properties").cloned() {
        let kept = members.into_iter().filter(|(name, _)| !PLATFORM_PROPERTIES.contains(&name.as_str())).collect();
        document::set(&mut write.body, "properties.properties", Value::Object(kept));
    }
    // Rendered empty where there are none.
    for (member, default) in RESOURCES {
        let path = format!("properties.resources.{member}");
        if document::at(&write.body, &path) == Some(&json!(default)) {
            document::remove(&mut write.body, &path);
        }
    }
    if let Some(Value::Object(resources)) = document::at(&write.body, "properties.resources")
        && resources.values().all(Value::is_null)
    {
        document::remove(&mut write.body, "properties.resources");
    }
    for member in ["services", "outputs", "inputs", "environmentVariables", "parameters"] {
        if document::at(&write.body, &format!("properties.{member}")) == Some(&json!({})) {
            document::remove(&mut write.body, &format!("properties.{member}"));
        }
    }
    match write.before {
        None => {
            document::remove(&mut write.body, "properties.status");
        }
        Some(before) => {
            let kept = document::at(before, "properties").and_then(Value::as_object);
            for member in kept.into_iter().flat_map(|members| members.keys()) {
                shape::keep_if_absent(write, &format!("properties.{member}"));
            }
            if let Some(status) = document::at(before, "properties.status") {
                document::set(&mut write.body, "properties.status", status.clone());
            }
        }
    }
}

fn name(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let name = write.id.name();
    let ok = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        && name.len() <= NAME_CHARS_MAX;
    if ok {
        return Ok(());
    }
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "UserError",
        format!(
            "'{name}' is no name of a job: a letter or digit, then letters, digits, '-' and '_', at most {NAME_CHARS_MAX}."
        ),
    ))
}

/// A job that was submitted is what it is.
fn fixed(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let Some(before) = write.before else { return Ok(()) };
    let empty = serde_json::Map::new();
    let members = |body| document::at(body, "properties").and_then(Value::as_object).unwrap_or(&empty);
    for (member, value) in members(&write.body) {
        let free = MUTABLE.iter().chain(&RENDERED).any(|m| m.eq_ignore_ascii_case(member)) || value.is_null();
        if !free && document::get(document::at(before, "properties").unwrap_or(&Value::Null), member) != Some(value) {
            // AZURE: wording not observed.
            return Err(ApiError::new(
                409,
                "UserError",
                format!(
                    "The job '{}' exists, and '{member}' of a job cannot be changed. Submit another job under another name.",
                    write.id.name()
                ),
            )
            .with_target(format!("properties.{member}")));
        }
    }
    Ok(())
}

/// What cannot be run is not accepted.
fn runnable(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if write.before.is_some() || Run::of(&write.body).kind != Kind::Command {
        return Ok(());
    }
    if pipeline::is_pipeline(&write.body) {
        return steps(ctx, write).map(|_| ());
    }
    let plan = jobs::plan_of(ctx.snapshot, write.id, &write.body)?;
    environment_of(ctx.snapshot, write.id, &plan.environment).map(|_| ())
}

/// The environment on a machine that has everything: whether this one has it is known when the job is prepared.
fn environment_of(
    snapshot: &Snapshot,
    job: &ResourceId,
    asked: &Environment,
) -> Result<environment::Resolved, ApiError> {
    let interpreters =
        (6..=14).map(|minor| Interpreter { version: [3, minor, 0], path: format!("/usr/bin/python3.{minor}") });
    let offer = Offer { interpreters: interpreters.collect(), index: Some("https://index.invalid/simple".to_owned()) };
    let workspace = job.parent().ok_or_else(|| ApiError::not_found(job))?;
    match asked {
        Environment::Reference(reference) => environment::resolve(snapshot, &workspace, reference, &offer),
        Environment::Definition(definition) => environment::resolve_definition(definition, &offer),
    }
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let id = write.id.clone();
    for (member, value) in [("tags", json!({})), ("properties", json!({})), ("isArchived", json!(false))] {
        document::set_default(&mut write.body, &format!("properties.{member}"), value);
    }
    document::set_default(&mut write.body, "properties.experimentName", json!(EXPERIMENT));
    document::set_default(&mut write.body, "properties.displayName", json!(id.name()));
    if write.before.is_some() {
        return Ok(());
    }
    // Runs of other clients come with a part of their own.
    let mut run = Run::of(&write.body);
    if run.number == 0 {
        run.number = next_number(ctx.snapshot, &id);
    }
    if run.uuid.is_empty() {
        run.uuid = ctx.uuid("run").to_string();
    }
    if run.submitted_by.is_empty() {
        run.submitted_by = ctx.principal.to_owned();
    }
    run.created.get_or_insert(ctx.now);
    if pipeline::is_pipeline(&write.body) {
        run.kind = Kind::Pipeline;
        run.steps = steps(ctx, write)?.into_iter().map(|(step, _)| step.id.name().to_owned()).collect();
    }
    if run.kind == Kind::Command {
        let plan = jobs::plan_of(ctx.snapshot, &id, &write.body)?;
        let resolved = environment_of(ctx.snapshot, &id, &plan.environment)?;
        run.warnings = plan.warnings.into_iter().chain(resolved.warnings).collect();
    }
    run.put(&mut write.body);
    if Status::of(&write.body).is_none() {
        Status::NotStarted.put(&mut write.body);
    }
    Ok(())
}

/// The steps of a pipeline, each with the warnings of its run.
fn steps(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<Vec<(Step, Vec<String>)>, ApiError> {
    let read = |step: Step| {
        if ctx.snapshot.get(&step.id).is_some() || step.id.name().len() > NAME_CHARS_MAX {
            return Err(ApiError::new(
                409,
                "UserError",
                format!("'{}' cannot be the job of a step: it exists, or is too long.", step.id.name()),
            ));
        }
        let plan = jobs::plan_of(ctx.snapshot, &step.id, &step.body)?;
        let resolved =
            environment_of(ctx.snapshot, &step.id, &plan.environment).map_err(|e| pipeline::of_step(&step.name, e))?;
        Ok((step, plan.warnings.into_iter().chain(resolved.warnings).collect()))
    };
    pipeline::steps(ctx.snapshot, write.id, &write.body)?.into_iter().map(read).collect()
}

/// The jobs that are the steps of a pipeline.
fn make_steps(ctx: &TypeCtx<'_>, write: &Write<'_>, batch: &mut Batch) -> Result<(), ApiError> {
    let whole = Run::of(&write.body);
    if write.before.is_some() || whole.kind != Kind::Pipeline {
        return Ok(());
    }
    for (number, (step, warnings)) in (whole.number + 1..).zip(steps(ctx, write)?) {
        let mut body = step.body;
        for (member, value) in [("tags", json!({})), ("properties", json!({})), ("isArchived", json!(false))] {
            document::set_default(&mut body, &format!("properties.{member}"), value);
        }
        let run = Run {
            number,
            uuid: ctx.uuid(&format!("run {}", step.name)).to_string(),
            submitted_by: whole.submitted_by.clone(),
            created: whole.created,
            after: step.after.into_iter().collect(),
            properties: [(runs::PARENT.to_owned(), json!(write.id.name()))].into_iter().collect(),
            warnings,
            ..Run::default()
        };
        run.put(&mut body);
        Status::NotStarted.put(&mut body);
        batch.put(step.id, body);
    }
    Ok(())
}

/// Runs of a workspace are counted from 1.
pub fn next_number(snapshot: &Snapshot, job: &ResourceId) -> u64 {
    let numbers = job.parent().map(|workspace| {
        let prefix = format!("{}/jobs/", workspace.key());
        snapshot.with_key_prefix(&prefix).filter_map(|d| document::u64_at(&d.body, "moat.run.number")).max()
    });
    numbers.flatten().unwrap_or(0) + 1
}

/// Names in `properties.properties` that belong to the platform.
const PLATFORM_PROPERTIES: [&str; 9] = [
    "_azureml.ComputeTargetType",
    "_azureml.ClusterName",
    "azureml.runsource",
    "azureml.DevPlatv2",
    "ContentSnapshotId",
    "ProcessInfoFile",
    "ProcessStatusFile",
    "moat.image",
    "moat.limits",
];

/// Properties that a run of Azure has, and two of ours: what an image means here, and what bounds the program.
fn properties(body: &Value, run: &Run) -> serde_json::Map<String, Value> {
    let mut all = serde_json::Map::new();
    let mut set = |name: &str, value: String| all.insert(name.to_owned(), json!(value));
    if run.kind == Kind::Command {
        set("azureml.runsource", "commandjob".to_owned());
        set("azureml.DevPlatv2", "true".to_owned());
    }
    if run.kind == Kind::Pipeline {
        set("azureml.runsource", "azureml.PipelineRun".to_owned());
        set("azureml.DevPlatv2", "true".to_owned());
    }
    if matches!(run.kind, Kind::Command | Kind::Script) {
        set("_azureml.ComputeTargetType", "amlctrain".to_owned());
        set("ProcessInfoFile", "azureml-logs/process_info.json".to_owned());
        set("ProcessStatusFile", "azureml-logs/process_status.json".to_owned());
        if let Some(cluster) = document::str_at(body, "properties.computeId") {
            set("_azureml.ClusterName", cluster.rsplit('/').next().unwrap_or(cluster).to_owned());
        }
        if let Some(code) = document::str_at(body, "properties.codeId").and_then(|c| ResourceId::parse(c).ok())
            && let Some(container) = code.parent()
        {
            set("ContentSnapshotId", container.name().to_owned());
        }
    }
    if run.warnings.iter().any(|w| w == IDENTITY_WARNING) {
        set("moat.image", IDENTITY_WARNING.to_owned());
    }
    if let Some(limits) = &run.limits {
        set("moat.limits", limits.clone());
    }
    all.extend(run.properties.clone());
    all
}

fn render(ctx: &TypeCtx<'_>, id: &ResourceId, body: &mut Value) {
    let run = Run::of(body);
    let workspace = id.parent();
    let region = workspace.as_ref().and_then(|w| refs::location_of(ctx.snapshot, w)).unwrap_or_default();
    document::remove(body, "properties.provisioningState");
    document::set_default(
        body,
        "properties.jobType",
        json!(if run.kind == Kind::Tracked { "Base" } else { "Command" }),
    );
    for member in ["inputs", "outputs", "tags", "environmentVariables", "services"] {
        document::set_default(body, &format!("properties.{member}"), json!({}));
    }
    for (_, input) in body.pointer_mut("/properties/inputs").and_then(Value::as_object_mut).into_iter().flatten() {
        if matches!(document::str_at(input, "jobInputType"), Some("uri_file" | "uri_folder")) {
            document::set_default(input, "mode", json!("ReadOnlyMount"));
        }
    }
    if document::str_at(body, "properties.jobType").is_some_and(|t| t.eq_ignore_ascii_case("Command")) {
        for (member, default) in RESOURCES {
            document::set_default(body, &format!("properties.resources.{member}"), json!(default));
        }
        document::set_default(body, "properties.parameters", json!({}));
    }
    for member in ["description", "computeId", "codeId", "limits", "identity", "componentId", "resources"] {
        document::set_default(body, &format!("properties.{member}"), Value::Null);
    }
    if let Some(parent) = run.parent() {
        document::set(body, "properties.parentJobName", json!(parent));
    }
    let mut own = properties(body, &run);
    if let Some(Value::Object(given)) = document::at(body, "properties.properties") {
        own.extend(given.clone());
    }
    document::set(body, "properties.properties", Value::Object(own));
    if let Some(workspace) = workspace {
        let tracking = jobs::tracking_uri(&region, &workspace);
        // The portal's own form of the workspace's id.
        let studio = format!(
            "https://ml.azure.com/runs/{}?wsid=/subscriptions/{}/resourcegroups/{}/workspaces/{}",
            id.name(),
            workspace.subscription().unwrap_or_default(),
            workspace.resource_group().unwrap_or_default(),
            workspace.name(),
        );
        for (name, endpoint) in [("Tracking", tracking), ("Studio", studio)] {
            let service = json!({
                "jobServiceType": name, "endpoint": endpoint, "port": null, "status": null, "errorMessage": null,
                "properties": null, "nodes": null,
            });
            document::set(body, &format!("properties.services.{name}"), service);
        }
    }
    // Exactly this form: clients split it at its slashes (PROTOCOL 6.6).
    let artifacts =
        format!("azureml://datastores/{}/{}", super::datastores::ARTIFACT_STORE, runs::artifact_prefix(id.name()));
    let default =
        json!({"jobOutputType": "uri_folder", "uri": artifacts, "mode": "ReadWriteMount", "description": null});
    document::set(body, "properties.outputs.default", default);
    if let Some(created) = run.created {
        let authors =
            json!({"createdAt": shape::time(created), "createdBy": run.submitted_by, "createdByType": "Application"});
        document::set(body, "systemData", authors);
    }
}

/// Ends a job; asked again, or of one that has ended, nothing more happens.
fn cancel(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value) -> Result<ActionResult, ApiError> {
    let stored = ctx.snapshot.get(id).ok_or_else(|| ApiError::not_found(id))?;
    let mut batch = Batch::default();
    let status = Status::of(&stored.body).unwrap_or(Status::NotStarted);
    let mut run = Run::of(&stored.body);
    if status.is_terminal() {
        return Ok(ActionResult { body: Value::Null, long_running: false, batch });
    }
    if run.cancel_requested.is_none() {
        let mut body = stored.body.clone();
        run.cancel_requested = Some(ctx.now);
        // Nobody moves a tracked run along but its client.
        let tracked = run.kind == Kind::Tracked;
        if tracked {
            run.ended = Some(ctx.now);
        }
        run.put(&mut body);
        // What is being stored stays so: the program has ended.
        if tracked {
            Status::Canceled.put(&mut body);
        } else if status != Status::Finalizing {
            Status::CancelRequested.put(&mut body);
        }
        batch.put(stored.id.clone(), body);
    }
    Ok(ActionResult { body: Value::Null, long_running: true, batch })
}

/// `listViewType`, `jobType`, `tag`, `experimentName` of lists.
fn listed(query: &BTreeMap<String, String>, body: &Value) -> bool {
    let same = |name: &str, path: &str, default: &str| {
        let wanted = query.get(name).filter(|w| !w.is_empty());
        wanted.is_none_or(|w| document::str_at(body, path).unwrap_or(default).eq_ignore_ascii_case(w))
    };
    // Steps are found by their pipeline.
    let run = Run::of(body);
    let is_step = run.kind == Kind::Command && run.parent().is_some();
    !is_step
        && assets::in_view(query, body)
        && same("jobtype", "properties.jobType", "Command")
        && same("experimentname", "properties.experimentName", EXPERIMENT)
        && query.get("tag").or_else(|| query.get("tags")).is_none_or(|tags| assets::has_tags(tags, body))
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
