//! Runs: find, make, change. A run that the scheduler moves along takes its status from nobody else; a tracked one
//! (made by MLflow or by hand) takes it from its client.

use moat_arm::{ApiError, Batch, ResourceId, Stored, document};
use moat_model::types::microsoft_machinelearningservices::runs::{Kind, PARENT, Run, RunError, Status};
use serde_json::{Map, Value, json};

use super::{Right, View};

/// Tags, and properties, of one run.
pub const TAGS_MAX: usize = 1_000;
/// Longest name of a tag, property or parameter.
pub const KEY_CHARS_MAX: usize = 255;
/// Longest value of a tag or property; MLflow puts lists of models into one.
pub const VALUE_CHARS_MAX: usize = 16_384;
/// Longest name of a run.
pub const NAME_CHARS_MAX: usize = 255;
/// Warnings kept with one run.
pub const WARNINGS_MAX: usize = 100;
/// Longest display name, description or warning.
pub const TEXT_CHARS_MAX: usize = 8_192;

/// The document of a run.
pub fn document_id(view: &View<'_>, name: &str) -> ResourceId {
    view.workspace.id.child("jobs", name)
}

/// What keeps a run's bulk apart from that of a namesake made later.
pub fn series_key(run: &Stored) -> String {
    let uuid = Run::of(&run.body).uuid;
    if uuid.is_empty() { format!("{}#{}", run.id.key(), run.created_seq) } else { uuid }
}

/// A tracked run as its client wants it.
#[derive(Debug, Clone, Default)]
pub struct NewRun {
    /// Its name; the service makes one where it is empty.
    pub name: String,
    /// Shown instead of the name.
    pub display_name: Option<String>,
    /// Name of its experiment.
    pub experiment: String,
    /// Tags.
    pub tags: Map<String, Value>,
    /// When it started, if the client says.
    pub started: Option<jiff::Timestamp>,
    /// The run it is a part of.
    pub parent: Option<String>,
}

/// Makes a tracked run, running from the start.
pub fn create(view: &View<'_>, new: &NewRun) -> Result<(ResourceId, Value, Batch), ApiError> {
    view.require(Right::SubmitRuns)?;
    let uuid = uuid::Uuid::new_v5(&view.ctx.seed, b"run");
    let name = if new.name.is_empty() { uuid.hyphenated().to_string() } else { new.name.clone() };
    well_named(&name)?;
    let id = document_id(view, &name);
    if view.snapshot.get(&id).is_some() {
        return Err(ApiError::new(409, "RunAlreadyExists", format!("There is a run '{name}' already.")));
    }
    if let Some(parent) = &new.parent {
        view.run(parent)?;
    }
    let mut tags = Map::new();
    merge_texts(&mut tags, &new.tags, TAGS_MAX, "tags")?;
    let mut body = json!({"properties": {
        "jobType": "Base",
        "displayName": new.display_name.clone().unwrap_or_else(|| name.clone()),
        "experimentName": new.experiment,
        "tags": tags,
        "properties": {},
        "isArchived": false,
    }});
    Status::Running.put(&mut body);
    let mut run = Run {
        kind: Kind::Tracked,
        number: next_number(view),
        uuid: uuid.hyphenated().to_string(),
        submitted_by: view.principal.object_id.clone(),
        created: Some(view.ctx.now),
        started: Some(new.started.unwrap_or(view.ctx.now)),
        ..Run::default()
    };
    if let Some(parent) = &new.parent {
        let _ = run.properties.insert(PARENT.to_owned(), json!(parent));
    }
    run.put(&mut body);
    let batch = written(view, Right::SubmitRuns, id.clone(), body.clone());
    Ok((id, body, batch))
}

/// The number that the next run of the workspace gets.
pub fn next_number(view: &View<'_>) -> u64 {
    view.runs().map(|d| Run::of(&d.body).number).max().unwrap_or(0) + 1
}

/// What a client may change about a run, in the run history's words (`CreateRunDto`).
pub fn patch(view: &View<'_>, run: &Stored, change: &Value) -> Result<(Value, Batch), ApiError> {
    view.require(Right::WriteRuns)?;
    let mut body = run.body.clone();
    let mut state = Run::of(&body);
    for (member, path) in [("displayName", "properties.displayName"), ("description", "properties.description")] {
        match document::get(change, member) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if text.chars().count() <= TEXT_CHARS_MAX => {
                document::set(&mut body, path, json!(text));
            }
            Some(_) => return Err(too_long(member, TEXT_CHARS_MAX)),
        }
    }
    if let Some(hidden) = document::bool_at(change, "hidden") {
        document::set(&mut body, "properties.isArchived", json!(hidden));
    }
    if let Some(Value::Object(added)) = document::at(change, "tags") {
        edit_tags(&mut body, added)?;
    }
    if let Some(Value::Object(added)) = document::at(change, "properties") {
        merge_texts(&mut state.properties, added, TAGS_MAX, "properties")?;
    }
    // Who runs elsewhere says how it is; the scheduler alone says it of what it runs.
    if state.kind == Kind::Tracked
        && let Some(text) = document::str_at(change, "status")
    {
        let status = serde_json::from_value(json!(text)).map_err(|_| {
            ApiError::bad_request("UserError", format!("'{text}' is no status of a run.")).with_target("status")
        })?;
        move_to(&mut body, &mut state, status, time_of(change, "endTimeUtc").unwrap_or(view.ctx.now));
    }
    state.put(&mut body);
    let batch = written(view, Right::WriteRuns, run.id.clone(), body.clone());
    Ok((body, batch))
}

/// Adds, replaces or (with null) removes tags of a job document.
pub fn edit_tags(body: &mut Value, added: &Map<String, Value>) -> Result<(), ApiError> {
    let mut tags = document::at(body, "properties.tags").and_then(Value::as_object).cloned().unwrap_or_default();
    merge_texts(&mut tags, added, TAGS_MAX, "tags")?;
    document::set(body, "properties.tags", Value::Object(tags));
    Ok(())
}

/// A run whose status its client tells.
pub(super) fn move_to(body: &mut Value, run: &mut Run, status: Status, when: jiff::Timestamp) {
    if status.is_terminal() {
        run.ended = Some(when);
    } else {
        run.ended = None;
        if status == Status::Running && run.started.is_none() {
            run.started = Some(when);
        }
    }
    status.put(body);
}

/// Asks that a run ends. What already ended stays as it is; a tracked run has nobody who could end it, so it is over.
pub fn cancel(view: &View<'_>, run: &Stored) -> Result<(Value, Batch), ApiError> {
    view.require(Right::WriteRuns)?;
    let mut body = run.body.clone();
    let mut state = Run::of(&body);
    if Status::of(&body).is_some_and(|s| s.is_terminal() || matches!(s, Status::CancelRequested)) {
        return Ok((body, Batch::default()));
    }
    if state.kind == Kind::Tracked {
        move_to(&mut body, &mut state, Status::Canceled, view.ctx.now);
    } else {
        state.cancel_requested = Some(view.ctx.now);
        Status::CancelRequested.put(&mut body);
    }
    state.put(&mut body);
    let batch = written(view, Right::WriteRuns, run.id.clone(), body.clone());
    Ok((body, batch))
}

/// A client has seen the whole log of a run that only waits for this (PROTOCOL trap 5). Nothing otherwise.
pub fn log_seen(view: &View<'_>, run: &Stored) -> Batch {
    let mut state = Run::of(&run.body);
    let at_rest = Status::of(&run.body) == Some(Status::Finalizing) && state.verdict.is_some();
    if !at_rest || state.log_seen || view.principal.run.is_some() {
        return Batch::default();
    }
    state.log_seen = true;
    let mut body = run.body.clone();
    state.put(&mut body);
    let mut batch = written(view, Right::ReadRuns, run.id.clone(), body);
    batch.audit.operation = "Moat/runs/logSeen".to_owned();
    batch
}

/// Removes a run's document.
pub fn delete(view: &View<'_>, run: &Stored) -> Result<Batch, ApiError> {
    view.require(Right::WriteRuns)?;
    let mut body = run.body.clone();
    document::set(&mut body, "properties.isArchived", json!(true));
    Ok(written(view, Right::WriteRuns, run.id.clone(), body))
}

pub(super) fn written(view: &View<'_>, right: Right, id: ResourceId, body: Value) -> Batch {
    let mut batch = Batch::default();
    batch.audit.principal = view.principal.object_id.clone();
    batch.audit.operation = right.action().to_owned();
    batch.put(id, body);
    batch
}

/// Adds texts to a map of texts: values become text, null takes one away, bounds are kept.
pub(super) fn merge_texts(
    into: &mut Map<String, Value>,
    added: &Map<String, Value>,
    entries_max: usize,
    what: &str,
) -> Result<(), ApiError> {
    for (key, value) in added {
        if key.is_empty() || key.chars().count() > KEY_CHARS_MAX {
            return Err(too_long(&format!("a name in {what}"), KEY_CHARS_MAX));
        }
        let text = match value {
            Value::Null => {
                into.shift_remove(key);
                continue;
            }
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if text.chars().count() > VALUE_CHARS_MAX {
            return Err(too_long(&format!("'{key}' in {what}"), VALUE_CHARS_MAX));
        }
        let _ = into.insert(key.clone(), json!(text));
    }
    if into.len() > entries_max {
        return Err(
            ApiError::bad_request("UserError", format!("A run has at most {entries_max} {what}.")).with_target(what)
        );
    }
    Ok(())
}

fn too_long(what: &str, max: usize) -> ApiError {
    ApiError::bad_request("UserError", format!("{what} must be a text of 1 to {max} characters."))
}

/// Letters, digits, `-`, `_` and `.`: what can stand in a path, a blob's name and a folder's name alike.
pub fn well_named(name: &str) -> Result<(), ApiError> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits {
        return Ok(());
    }
    // AZURE: wording not observed
    Err(ApiError::bad_request(
        "InvalidRunId",
        format!(
            "The run id '{}' is not allowed. It must be 1 to {NAME_CHARS_MAX} characters long, begin with a letter or digit, and hold only letters, digits, '-', '_' and '.'.",
            name.escape_debug()
        ),
    ))
}

fn time_of(change: &Value, member: &str) -> Option<jiff::Timestamp> {
    document::str_at(change, member)?.parse().ok()
}

/// Records why a run failed, as its client says.
pub(super) fn set_error(run: &mut Run, error: &Value) {
    let text = |name: &str| document::str_at(error, name).unwrap_or_default().chars().take(TEXT_CHARS_MAX).collect();
    run.error = Some(RunError { code: text("code"), message: text("message"), phase: String::new() });
}
