//! Experiments of the run history: get, make, change, list.

use std::collections::BTreeMap;

use moat_arm::{ApiError, Batch, document};
use moat_model::types::microsoft_machinelearningservices::experiments as model;
use serde_json::{Map, Value, json};

use super::{View, time};

/// Experiments of one workspace.
pub const EXPERIMENTS_MAX: usize = 10_000;

/// One experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// Its name, as first spelled.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The stored part, or an empty object.
    body: Value,
}

impl Experiment {
    /// As the run history shows it.
    pub fn render(&self) -> Value {
        let member = |name: &str| document::at(&self.body, &format!("properties.{name}")).cloned();
        json!({
            "experimentId": self.id,
            "name": self.name,
            "description": member("description"),
            "createdUtc": member("createdUtc"),
            "tags": self.tags(),
            "archivedTime": member("archivedTime"),
            "retainForLifetimeOfWorkspace": false,
            "artifactLocation": null,
        })
    }

    /// Its tags.
    pub fn tags(&self) -> Map<String, Value> {
        document::at(&self.body, "properties.tags").and_then(Value::as_object).cloned().unwrap_or_default()
    }

    /// Whether it was archived.
    pub fn is_archived(&self) -> bool {
        document::at(&self.body, "properties.archivedTime").is_some()
    }

    /// When it was made, if a document says so.
    pub fn created(&self) -> Option<&str> {
        document::str_at(&self.body, "properties.createdUtc")
    }
}

/// Every experiment the caller may see: those with a document and those that a run names.
pub fn all(view: &View<'_>) -> Vec<Experiment> {
    let prefix = model::document_id(&view.workspace.id, "").key().to_owned();
    let mut found = BTreeMap::new();
    // A job sees the experiment of its own run.
    let own = view.principal.run.is_some();
    for stored in view.snapshot.with_key_prefix(&prefix) {
        let name = stored.id.name().to_owned();
        let _ = found.insert(name.to_lowercase(), experiment(view, &name, &stored.body));
    }
    let mut named = BTreeMap::new();
    for run in view.runs() {
        let name = model::of_job(&run.body);
        named.entry(name.to_lowercase()).or_insert_with(|| name.to_owned());
    }
    if own {
        found.retain(|key, _| named.contains_key(key));
    }
    for (key, name) in named {
        found.entry(key).or_insert_with(|| experiment(view, &name, &Value::Null));
    }
    found.into_values().collect()
}

fn experiment(view: &View<'_>, name: &str, body: &Value) -> Experiment {
    Experiment { name: name.to_owned(), id: model::experiment_id(view.workspace, name), body: body.clone() }
}

/// The experiment that a run belongs to.
pub fn of_run(view: &View<'_>, job: &Value) -> Experiment {
    let name = model::of_job(job);
    by_document(view, name).unwrap_or_else(|| experiment(view, name, &Value::Null))
}

/// By name or id.
pub fn find(view: &View<'_>, name_or_id: &str) -> Result<Experiment, ApiError> {
    // Most have a document; the rest, and ids, are looked for.
    let direct = if view.principal.run.is_none() { by_document(view, name_or_id) } else { None };
    direct
        .or_else(|| {
            all(view)
                .into_iter()
                .find(|e| e.name.eq_ignore_ascii_case(name_or_id) || e.id.eq_ignore_ascii_case(name_or_id))
        })
        .ok_or_else(|| {
            ApiError::new(
                404,
                "ExperimentNotFound",
                format!("Experiment '{name_or_id}' was not found in workspace '{}'.", view.workspace.id.name()),
            )
        })
}

fn by_document(view: &View<'_>, name: &str) -> Option<Experiment> {
    let stored = view.snapshot.get(&model::document_id(&view.workspace.id, name))?;
    Some(experiment(view, stored.id.name(), &stored.body))
}

/// The experiment with this name, made if it is not there.
pub fn get_or_create(view: &View<'_>, name: &str) -> Result<(Experiment, Batch), ApiError> {
    match find(view, name) {
        Ok(found) => Ok((found, Batch::default())),
        Err(_) => create(view, name, &Map::new()),
    }
}

/// A new experiment; its name must be free.
pub fn create(view: &View<'_>, name: &str, tags: &Map<String, Value>) -> Result<(Experiment, Batch), ApiError> {
    view.require(super::Right::WriteExperiments)?;
    well_named(name)?;
    if all(view).len() >= EXPERIMENTS_MAX {
        return Err(ApiError::bad_request(
            "ExperimentLimitReached",
            format!("A workspace has at most {EXPERIMENTS_MAX} experiments; delete some, or use another workspace."),
        ));
    }
    let body = json!({"properties": {"createdUtc": time(view.ctx.now), "description": null, "tags": tags, "archivedTime": null}});
    let made = experiment(view, name, &body);
    Ok((made, stored(view, name, body)))
}

/// What a client may change.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// New description.
    pub description: Option<String>,
    /// Tags added or replaced; null takes one away.
    pub tags: Map<String, Value>,
    /// Put away or brought back.
    pub archived: Option<bool>,
}

/// Changes an experiment.
pub fn change(view: &View<'_>, name_or_id: &str, change: &Change) -> Result<(Experiment, Batch), ApiError> {
    view.require(super::Right::WriteExperiments)?;
    let found = find(view, name_or_id)?;
    let mut body = if found.body.is_null() { json!({"properties": {}}) } else { found.body.clone() };
    if let Some(description) = &change.description {
        document::set(&mut body, "properties.description", json!(description));
    }
    let mut tags = found.tags();
    super::runs::merge_texts(&mut tags, &change.tags, super::runs::TAGS_MAX, "tags")?;
    document::set(&mut body, "properties.tags", Value::Object(tags));
    match change.archived {
        Some(true) if !found.is_archived() => {
            document::set(&mut body, "properties.archivedTime", json!(time(view.ctx.now)));
        }
        Some(false) => document::set(&mut body, "properties.archivedTime", Value::Null),
        _ => {}
    }
    let after = experiment(view, &found.name, &body);
    Ok((after, stored(view, &found.name, body)))
}

fn stored(view: &View<'_>, name: &str, body: Value) -> Batch {
    let mut batch = Batch::default();
    batch.audit.principal = view.principal.object_id.clone();
    batch.audit.operation = super::Right::WriteExperiments.action().to_owned();
    batch.put(model::document_id(&view.workspace.id, name), body);
    batch
}

fn well_named(name: &str) -> Result<(), ApiError> {
    let fits = !name.is_empty()
        && name.chars().count() <= model::NAME_CHARS_MAX
        && name.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' '));
    if fits {
        return Ok(());
    }
    // AZURE: wording not observed
    Err(ApiError::bad_request(
        "InvalidExperimentName",
        format!(
            "The experiment name '{}' is not allowed. It must be 1 to {} characters long, begin with a letter, a digit or '_', and hold only letters, digits, spaces, '_', '-' and '.'.",
            name.escape_debug(),
            model::NAME_CHARS_MAX
        ),
    ))
}
