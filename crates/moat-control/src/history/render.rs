//! A job document as the run history shows it (PROTOCOL 6.6, 6.8).

use std::collections::BTreeMap;

use moat_arm::{Stored, document};
use moat_model::types::microsoft_machinelearningservices::runs::{Kind, Run, Status};
use serde_json::{Map, Value, json};

use super::{View, experiments, outputs, time};

/// What comes from elsewhere than the document.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    /// Parameters, from the tracking store.
    pub parameters: BTreeMap<String, String>,
    /// Name of a log to where it can be read.
    pub log_files: BTreeMap<String, String>,
}

/// Members of a Run object that clients read and that say nothing here.
const ABSENT: [&str; 10] = [
    "token",
    "tokenExpiryTimeUtc",
    "parentRunUuid",
    "cancelationReason",
    "name",
    "cancelUri",
    "diagnosticsUri",
    "completeUri",
    "jobSpecification",
    "primaryMetricName",
];

/// The Run object.
pub fn run(view: &View<'_>, stored: &Stored, beside: &Beside) -> Value {
    let name = stored.id.name();
    let state = Run::of(&stored.body);
    let at = |t: Option<jiff::Timestamp>| t.map(time);
    let parent = state.parent().map(str::to_owned);
    let status = Status::of(&stored.body).unwrap_or(Status::NotStarted);
    let member = |path: &str| document::at(&stored.body, &format!("properties.{path}")).cloned();
    let duration = state.started.zip(state.ended).map(|(from, to)| {
        let seconds = to.as_second().saturating_sub(from.as_second()).max(0);
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    });
    let mut shown = json!({
        "runNumber": state.number,
        "rootRunId": parent.as_deref().unwrap_or(name),
        "createdUtc": at(state.created),
        "createdBy": {
            "userObjectId": state.submitted_by, "userTenantId": view.ctx.tenant, "userName": state.submitted_by,
        },
        "userId": state.submitted_by,
        "error": error(&state),
        "warnings": warnings(&state),
        "revision": stored.seq,
        "runUuid": state.uuid,
        "rootRunUuid": state.uuid,
        "hasVirtualParent": false,
        "lastModifiedUtc": at(state.ended.or(state.started).or(state.created)),
        "duration": duration,
        "currentAttemptId": state.attempt.max(1),
        "runId": name,
        "parentRunId": parent,
        "experimentId": experiments::of_run(view, &stored.body).id,
        "status": status,
        "startTimeUtc": at(state.started),
        "endTimeUtc": if status.is_terminal() { at(state.ended) } else { None },
        "displayName": member("displayName").unwrap_or_else(|| json!(name)),
        "dataContainerId": data_container(name),
        "description": member("description"),
        "hidden": document::bool_at(&stored.body, "properties.isArchived").unwrap_or(false),
        "runType": run_type(state.kind),
        "runTypeV2": {"orchestrator": "Execution", "traits": [], "attribution": null, "computeType": null},
        "properties": properties(&stored.body, &state),
        "parameters": beside.parameters,
        "scriptName": state.definition.as_ref().and_then(|d| document::at(d, "script").cloned()),
        "target": target(&stored.body),
        "tags": member("tags").unwrap_or_else(|| json!({})),
        // Without assets there is nothing that a client would have to look up elsewhere (PROTOCOL 6.6).
        "inputs": {},
        "outputs": named_outputs(view, stored),
        "inputDatasets": [],
        "outputDatasets": [],
    });
    for member in ABSENT {
        shown[member] = Value::Null;
    }
    shown
}

/// `{name: {assetId, type}}`.
fn named_outputs(view: &View<'_>, stored: &Stored) -> Map<String, Value> {
    let all = outputs::of_run(view, stored).into_iter();
    all.map(|output| (output.name, json!({"assetId": output.asset, "type": output.kind}))).collect()
}

/// The run details that clients poll while they stream.
pub fn details(view: &View<'_>, stored: &Stored, beside: &Beside) -> Value {
    let full = run(view, stored, beside);
    let state = Run::of(&stored.body);
    let same = |name: &str| full.get(name).cloned().unwrap_or_default();
    json!({
        "runId": same("runId"),
        "runUuid": same("runUuid"),
        "parentRunUuid": null,
        "rootRunUuid": same("rootRunUuid"),
        "target": same("target"),
        "status": same("status"),
        "parentRunId": same("parentRunId"),
        "createdTimeUtc": same("createdUtc"),
        "startTimeUtc": same("startTimeUtc"),
        "endTimeUtc": same("endTimeUtc"),
        "error": same("error"),
        "warnings": same("warnings"),
        "tags": same("tags"),
        "properties": same("properties"),
        "parameters": same("parameters"),
        "services": {},
        "inputDatasets": [],
        "outputDatasets": [],
        "runDefinition": definition(&stored.body, &state),
        "logFiles": beside.log_files,
        "jobCost": null,
        "revision": same("revision"),
        "runTypeV2": same("runTypeV2"),
        "settings": {},
        "computeRequest": null,
        "compute": {"target": same("target"), "targetType": null, "vmSize": null, "instanceCount": 1},
        "createdBy": same("createdBy"),
        "computeDuration": same("duration"),
        "runNumber": same("runNumber"),
        "rootRunId": same("rootRunId"),
        "experimentId": same("experimentId"),
        "userProperties": {},
        "submittedBy": same("userId"),
    })
}

/// What `rundata` answers.
pub fn data(view: &View<'_>, stored: &Stored, beside: &Beside) -> Value {
    json!({
        "runMetadata": run(view, stored, beside),
        "runDefinition": definition(&stored.body, &Run::of(&stored.body)),
        "jobSpecification": null,
        "systemSettings": null,
    })
}

/// The container of a run's artifacts (`dcid.{run}`).
pub fn data_container(run: &str) -> String {
    format!("dcid.{run}")
}

fn run_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Command => "azureml.scriptrun",
        Kind::Script => "azureml.scriptrun",
        Kind::Pipeline => "azureml.PipelineRun",
        Kind::Tracked => "azureml.manual",
    }
}

fn definition(body: &Value, state: &Run) -> Value {
    state.definition.clone().unwrap_or_else(|| {
        json!({
            "script": null,
            "command": document::at(body, "properties.command"),
            "target": target(body),
            "framework": "Python",
        })
    })
}

fn target(body: &Value) -> Value {
    document::str_at(body, "properties.computeId")
        .map_or_else(|| json!("local"), |id| json!(id.rsplit('/').next().unwrap_or(id)))
}

fn error(state: &Run) -> Value {
    let Some(error) = &state.error else { return Value::Null };
    // `UserError` and `SystemError` are the roots that clients know; a code of ours is the reason below them.
    let root = match error.code.as_str() {
        "SystemError" | "ServiceError" => "ServiceError",
        _ => "UserError",
    };
    let inner = if error.code == root || error.code.is_empty() {
        Value::Null
    } else {
        json!({"code": error.code, "innerError": null})
    };
    json!({"error": {
        "code": root,
        "message": error.message,
        "messageFormat": null,
        "messageParameters": {},
        "referenceCode": null,
        "target": if error.phase.is_empty() { None } else { Some(&error.phase) },
        "details": [],
        "innerError": inner,
        "debugInfo": null,
    }, "correlation": null, "environment": null, "location": null, "time": state.ended.map(time), "componentName": null})
}

fn warnings(state: &Run) -> Value {
    if state.warnings.is_empty() {
        return Value::Null;
    }
    state.warnings.iter().map(|text| json!({"source": "Moat", "message": text})).collect()
}

/// The job's own properties and those of the run history, which win.
fn properties(body: &Value, state: &Run) -> Value {
    let mut all: Map<String, Value> =
        document::at(body, "properties.properties").and_then(Value::as_object).cloned().unwrap_or_default();
    all.extend(state.properties.clone());
    if let Some(snapshot) = &state.code_snapshot {
        all.entry("ContentSnapshotId").or_insert_with(|| json!(snapshot));
    }
    if let Some(limits) = &state.limits {
        all.entry("moat.limits").or_insert_with(|| json!(limits));
    }
    if let Some(node) = &state.node {
        all.entry("moat.node").or_insert_with(|| json!(node.rsplit('/').next().unwrap_or(node)));
    }
    Value::Object(all)
}
