//! A ScriptRun of azureml-core becomes a job document.

use moat_arm::{ApiError, Batch, document};
use moat_model::types::microsoft_machinelearningservices::runs::{Kind, PARENT, Run, Status};
use moat_model::types::microsoft_machinelearningservices::{script_runs as configuration, snapshots};
use serde_json::{Value, json};

use super::{Right, View, experiments, runs};

/// What azureml-core sends.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// Name that the client made; the service makes one where it is empty.
    pub run: String,
    /// Name of its experiment.
    pub experiment: String,
    /// The run configuration.
    pub definition: Value,
    /// Its code.
    pub snapshot: Option<String>,
    /// The run it is a part of.
    pub parent: Option<String>,
}

/// Stores the job, or says why it can never run. Answers its name.
pub fn submit(view: &View<'_>, submitted: &Submitted) -> Result<(String, Batch), ApiError> {
    view.require(Right::SubmitRuns)?;
    configuration::check(&submitted.definition)?;
    let uuid = uuid::Uuid::new_v5(&view.ctx.seed, b"run");
    let name = if submitted.run.is_empty() {
        format!("{}_{}_{}", submitted.experiment, view.ctx.now.as_second(), &uuid.simple().to_string()[..8])
    } else {
        submitted.run.clone()
    };
    runs::well_named(&name)?;
    let id = runs::document_id(view, &name);
    if view.snapshot.get(&id).is_some() {
        return Err(ApiError::new(409, "RunAlreadyExists", format!("There is a run '{name}' already.")));
    }
    if let Some(snapshot) = &submitted.snapshot
        && snapshots::find(view.snapshot, &view.workspace.id, snapshot).is_none()
    {
        return Err(ApiError::bad_request("UserError", format!("There is no code snapshot '{snapshot}'.")));
    }
    let compute = target(view, &submitted.definition)?;
    let (experiment, mut batch) = experiments::get_or_create(view, &submitted.experiment)?;
    let program = configuration::program(&submitted.definition)?;
    let tags = document::at(&submitted.definition, "tags").cloned().filter(Value::is_object);
    let mut body = json!({"properties": {
        "jobType": "Command",
        "command": program.join(" "),
        "displayName": name,
        "experimentName": experiment.name,
        "computeId": compute.as_str(),
        "environmentId": environment(view, &submitted.definition),
        "inputs": {}, "outputs": {}, "environmentVariables": {},
        "tags": tags.unwrap_or_else(|| json!({})),
        "properties": {},
        "isArchived": false,
    }});
    Status::NotStarted.put(&mut body);
    let mut run = Run {
        kind: Kind::Script,
        number: runs::next_number(view),
        uuid: uuid.hyphenated().to_string(),
        submitted_by: view.principal.object_id.clone(),
        created: Some(view.ctx.now),
        cluster: Some(compute.as_str().to_owned()),
        timeout_seconds: configuration::timeout_seconds(&submitted.definition),
        priority: document::u64_at(&submitted.definition, "priority").unwrap_or(0),
        definition: Some(submitted.definition.clone()),
        code_snapshot: submitted.snapshot.clone(),
        ..Run::default()
    };
    if let Some(parent) = &submitted.parent {
        let _ = run.properties.insert(PARENT.to_owned(), json!(view.run(parent)?.id.name()));
    }
    run.put(&mut body);
    let made = runs::written(view, Right::SubmitRuns, id, body);
    batch.audit = made.audit;
    batch.changes.extend(made.changes);
    Ok((name, batch))
}

/// The cluster that the configuration names.
fn target(view: &View<'_>, definition: &Value) -> Result<moat_arm::ResourceId, ApiError> {
    let name = document::str_at(definition, "target").unwrap_or_default();
    let found = view.snapshot.get(&view.workspace.id.child("computes", name)).filter(|_| !name.is_empty());
    let found = found.ok_or_else(|| {
        ApiError::bad_request(
            "UserError",
            format!(
                "The compute target '{}' does not exist in workspace '{}'; name a cluster of it.",
                name.escape_debug(),
                view.workspace.id.name()
            ),
        )
        .with_target("target")
    })?;
    match document::str_at(&found.body, "properties.computeType") {
        Some(kind) if kind.eq_ignore_ascii_case("AmlCompute") => Ok(found.id.clone()),
        kind => Err(ApiError::bad_request(
            "UserError",
            format!(
                "The compute target '{name}' is of type {}; runs need a cluster (AmlCompute).",
                kind.unwrap_or("unknown")
            ),
        )
        .with_target("target")),
    }
}

/// The environment as a job of ARM would name it. What is really built comes from the configuration itself.
fn environment(view: &View<'_>, definition: &Value) -> String {
    let text = |path: &str| document::str_at(definition, path).filter(|t| !t.is_empty());
    let name = text("environment.name").unwrap_or("azureml-core");
    let version = text("environment.version").unwrap_or("Autosave");
    format!("{}/environments/{name}/versions/{version}", view.workspace.id)
}
