//! Runs and experiments in the shapes of MLflow's REST API.

use std::collections::BTreeMap;

use jiff::Timestamp;
use moat_arm::{Batch, Stored, document};
use moat_model::types::microsoft_machinelearningservices::runs::{Kind, Run, Status};
use serde_json::{Map, Value, json};

use super::experiments::Experiment;
use super::search::Searched;
use super::{Right, View, experiments, runs};

/// The tag that names a run.
pub const RUN_NAME: &str = "mlflow.runName";
/// The tag that names the run it is a part of.
pub const PARENT_RUN: &str = "mlflow.parentRunId";
/// The tag with a description.
pub const NOTE: &str = "mlflow.note.content";

/// A metric's latest value.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Its name.
    pub key: String,
    /// Value; NaN and the infinities are possible.
    pub value: f64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Step.
    pub step: i64,
}

impl Metric {
    /// As MLflow's clients read it. JSON has no NaN; protobuf's JSON writes it as a text.
    pub fn render(&self) -> Value {
        json!({"key": self.key, "value": number(self.value), "timestamp": self.timestamp, "step": self.step})
    }
}

fn number(value: f64) -> Value {
    match value {
        v if v.is_nan() => json!("NaN"),
        v if v == f64::INFINITY => json!("Infinity"),
        v if v == f64::NEG_INFINITY => json!("-Infinity"),
        v => json!(v),
    }
}

/// A number of a client: JSON's own, or protobuf's texts for what JSON lacks.
pub fn parse_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" | "nan" => Some(f64::NAN),
            "Infinity" | "inf" | "Inf" => Some(f64::INFINITY),
            "-Infinity" | "-inf" | "-Inf" => Some(f64::NEG_INFINITY),
            text => text.parse().ok(),
        },
        _ => None,
    }
}

/// An integer of a client: protobuf's JSON writes 64-bit ones as texts.
pub fn parse_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().filter(|f| f.fract() == 0.0).map(|f| f as i64)),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// What the tracking store knows of a run.
#[derive(Debug, Clone, Default)]
pub struct Logged {
    /// Latest values.
    pub metrics: Vec<Metric>,
    /// Parameters.
    pub params: BTreeMap<String, String>,
    /// Datasets, as logged.
    pub inputs: Vec<Value>,
}

/// MLflow's status of a run.
pub fn status(of: Status) -> &'static str {
    match of {
        Status::NotStarted | Status::Preparing | Status::Queued | Status::Starting => "SCHEDULED",
        Status::Running | Status::Finalizing | Status::CancelRequested => "RUNNING",
        Status::Completed => "FINISHED",
        Status::Failed => "FAILED",
        Status::Canceled => "KILLED",
    }
}

/// The status that a client's word means.
pub fn parse_status(text: &str) -> Option<Status> {
    Some(match text {
        "RUNNING" => Status::Running,
        "SCHEDULED" => Status::NotStarted,
        "FINISHED" => Status::Completed,
        "FAILED" => Status::Failed,
        "KILLED" => Status::Canceled,
        _ => return None,
    })
}

/// Where a run's artifacts are, as azureml-mlflow reads it: it finds workspace, experiment and run in the path.
pub fn artifact_uri(view: &View<'_>, host: &str, stored: &Stored) -> String {
    format!(
        "azureml://{host}/mlflow/v2.0{}/experiments/{}/runs/{}/artifacts",
        view.workspace.id,
        experiments::of_run(view, &stored.body).id,
        stored.id.name()
    )
}

/// `RunInfo`.
pub fn info(view: &View<'_>, host: &str, stored: &Stored) -> Value {
    let state = Run::of(&stored.body);
    let of = Status::of(&stored.body).unwrap_or(Status::NotStarted);
    let millis = |t: Option<Timestamp>| t.map(Timestamp::as_millisecond);
    json!({
        "run_id": stored.id.name(),
        "run_uuid": stored.id.name(),
        "run_name": name(stored),
        "experiment_id": experiments::of_run(view, &stored.body).id,
        "user_id": state.submitted_by,
        "status": status(of),
        "start_time": millis(state.started.or(state.created)),
        "end_time": if of.is_terminal() { millis(state.ended) } else { None },
        "artifact_uri": artifact_uri(view, host, stored),
        "lifecycle_stage": stage(is_archived(stored)),
    })
}

/// The whole run.
pub fn run(view: &View<'_>, host: &str, stored: &Stored, logged: &Logged) -> Value {
    let pair = |(key, value): (&String, String)| json!({"key": key, "value": value});
    json!({
        "info": info(view, host, stored),
        "data": {
            "metrics": logged.metrics.iter().map(Metric::render).collect::<Vec<_>>(),
            "params": logged.params.iter().map(|(k, v)| pair((k, v.clone()))).collect::<Vec<_>>(),
            "tags": tags(stored).iter().map(|(k, v)| pair((k, v.clone()))).collect::<Vec<_>>(),
        },
        "inputs": {"dataset_inputs": logged.inputs, "model_inputs": []},
    })
}

/// What a run is found by.
pub fn searched(view: &View<'_>, host: &str, stored: &Stored, logged: &Logged) -> Searched {
    let info = info(view, host, stored);
    let text = |name: &'static str| (name, info[name].as_str().unwrap_or_default().to_owned());
    let time = |name: &'static str| info[name].as_i64().map(|t| (name, t));
    Searched {
        attributes: ["run_id", "run_name", "status", "artifact_uri", "user_id", "lifecycle_stage"].map(text).into(),
        times: ["start_time", "end_time"].into_iter().filter_map(time).collect(),
        metrics: logged.metrics.iter().map(|m| (m.key.clone(), m.value)).collect(),
        params: logged.params.clone(),
        tags: tags(stored),
    }
}

/// Put away: what MLflow calls deleted.
pub fn is_archived(stored: &Stored) -> bool {
    document::bool_at(&stored.body, "properties.isArchived").unwrap_or(false)
}

fn stage(archived: bool) -> &'static str {
    if archived { "deleted" } else { "active" }
}

fn name(stored: &Stored) -> String {
    document::str_at(&stored.body, "properties.displayName").unwrap_or(stored.id.name()).to_owned()
}

/// A run's tags, with those that MLflow's own pages need.
fn tags(stored: &Stored) -> BTreeMap<String, String> {
    let own = document::at(&stored.body, "properties.tags").and_then(Value::as_object);
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let mut tags: BTreeMap<String, String> = own.into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect();
    let _ = tags.insert(RUN_NAME.to_owned(), name(stored));
    if let Some(parent) = Run::of(&stored.body).parent() {
        let _ = tags.insert(PARENT_RUN.to_owned(), parent.to_owned());
    }
    if let Some(note) = document::str_at(&stored.body, "properties.description") {
        let _ = tags.entry(NOTE.to_owned()).or_insert_with(|| note.to_owned());
    }
    tags
}

/// Sets or (with null) removes tags. The name of a run is its display name, not a second truth.
pub fn tag(view: &View<'_>, run: &Stored, added: &Map<String, Value>) -> Result<Batch, moat_arm::ApiError> {
    view.require(Right::WriteRuns)?;
    let mut added = added.clone();
    let mut change = json!({});
    if let Some(name) = added.shift_remove(RUN_NAME).filter(Value::is_string) {
        change["displayName"] = name;
    }
    change["tags"] = Value::Object(added);
    runs::patch(view, run, &change).map(|(_, batch)| batch)
}

/// `runs/update`: of a run that the scheduler moves along only the name changes.
pub fn update(
    view: &View<'_>,
    run: &Stored,
    status: Option<Status>,
    end: Option<Timestamp>,
    name: Option<&str>,
) -> Result<(Value, Batch), moat_arm::ApiError> {
    let mut change = json!({});
    if let Some(name) = name {
        change["displayName"] = json!(name);
    }
    if let Some(status) = status
        && Run::of(&run.body).kind == Kind::Tracked
    {
        change["status"] = json!(status);
        if let Some(end) = end {
            change["endTimeUtc"] = json!(end.to_string());
        }
    }
    runs::patch(view, run, &change)
}

/// An experiment.
pub fn experiment(experiment: &Experiment, artifact_root: &str) -> Value {
    let tags: Vec<Value> = experiment.tags().iter().map(|(k, v)| json!({"key": k, "value": v})).collect();
    let millis = experiment.created().and_then(|t| t.parse::<Timestamp>().ok()).map(Timestamp::as_millisecond);
    json!({
        "experiment_id": experiment.id,
        "name": experiment.name,
        "artifact_location": artifact_root,
        "lifecycle_stage": stage(experiment.is_archived()),
        "creation_time": millis,
        "last_update_time": millis,
        "tags": tags,
    })
}
