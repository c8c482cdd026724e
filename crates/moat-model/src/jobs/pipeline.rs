//! Pipelines: every step is a command job of its own, and the pipeline goes as its steps go. Pure.
//!
//! Where the outputs of a step will lie follows from its name, so all steps are read, and refused, when the pipeline is
//! submitted, and a step that reads what another one writes names the place and waits for it. Built are steps of type
//! `command` with a component of the workspace; azure-ai-ml makes an anonymous one of every command in a pipeline.
//! Not built: steps of other types, and expressions that are only a part of a text. Members of steps and components are
//! spelled as in YAML (`instance_count`), those of jobs as in JSON.

use std::collections::BTreeSet;

use moat_arm::{ApiError, ResourceId, Snapshot, document};
use serde_json::{Map, Value, json};

use super::data::output_uri;
use super::{command, refuse};
use crate::types::microsoft_machinelearningservices::datastores;

/// Steps of one pipeline.
const STEPS_MAX: usize = 100;
/// Has names of people as its members.
const SERVICES: &str = "services";
/// Members that a component or a step sets and that mean the same in a command job; a step goes before its component.
const CARRIED: [(&str, &str); 6] = [
    ("resources", "resources"),
    ("distribution", "distribution"),
    ("limits", "limits"),
    ("identity", "identity"),
    (SERVICES, SERVICES),
    ("queue_settings", "queueSettings"),
];

/// A step, as the job that it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its name in the pipeline.
    pub name: String,
    /// The job: `{pipeline}_{step}`.
    pub id: ResourceId,
    /// Names of the jobs that have to be completed before.
    pub after: BTreeSet<String>,
    /// The document of a command job.
    pub body: Value,
}

/// Whether a job document is one.
pub fn is_pipeline(body: &Value) -> bool {
    document::str_at(body, "properties.jobType").is_some_and(|kind| kind.eq_ignore_ascii_case("Pipeline"))
}

/// The steps of the pipeline `id`, each of which can run.
pub fn steps(snapshot: &Snapshot, id: &ResourceId, body: &Value) -> Result<Vec<Step>, ApiError> {
    let empty = Value::Null;
    let properties = document::at(body, "properties").unwrap_or(&empty);
    let workspace = id.parent().ok_or_else(|| ApiError::not_found(id))?;
    let pipeline = Pipeline { snapshot, id, workspace, properties };
    let nodes = document::at(properties, "jobs").and_then(Value::as_object);
    let nodes = nodes.filter(|nodes| (1..=STEPS_MAX).contains(&nodes.len())).ok_or_else(|| {
        refuse("InvalidPipeline", format!("A pipeline has 1 to {STEPS_MAX} steps.")).with_target("properties.jobs")
    })?;
    let steps: Vec<Step> =
        nodes.keys().map(|name| pipeline.step(name).map_err(|e| of_step(name, e))).collect::<Result<_, _>>()?;
    if let Some(name) = in_circle(&steps) {
        return Err(of_step(name, refuse("InvalidPipeline", "It waits for itself.")));
    }
    for step in &steps {
        command::plan(snapshot, &step.id, &step.body).map_err(|e| of_step(&step.name, e))?;
    }
    Ok(steps)
}

/// A refusal of something in a step.
pub fn of_step(name: &str, error: ApiError) -> ApiError {
    refuse(&error.code, format!("Step '{name}': {}", error.message)).with_target(format!("properties.jobs.{name}"))
}

/// A step that can never begin.
fn in_circle(steps: &[Step]) -> Option<&str> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    loop {
        let waiting: Vec<&Step> = steps.iter().filter(|s| !done.contains(s.id.name())).collect();
        let ready: Vec<&str> =
            waiting.iter().filter(|s| s.after.iter().all(|a| done.contains(a.as_str()))).map(|s| s.id.name()).collect();
        match (waiting.first(), ready.is_empty()) {
            (None, _) => return None,
            (Some(step), true) => return Some(&step.name),
            _ => done.extend(ready),
        }
    }
}

/// What an expression `${{parent...}}` names.
enum Bound<'a> {
    Input(&'a str),
    Output(&'a str),
    Step(&'a str, &'a str),
}

/// What a whole text is bound to; `None` for a text that is just that.
fn bound(text: &str) -> Result<Option<Bound<'_>>, ApiError> {
    if !text.contains("${{") {
        return Ok(None);
    }
    let expression = text.trim().strip_prefix("${{").and_then(|t| t.strip_suffix("}}")).map_or("", str::trim);
    match expression.split('.').collect::<Vec<_>>().as_slice() {
        ["parent", "inputs", name] => Ok(Some(Bound::Input(name))),
        ["parent", "outputs", name] => Ok(Some(Bound::Output(name))),
        ["parent", "jobs", step, "outputs", name] => Ok(Some(Bound::Step(step, name))),
        _ => Err(refuse(
            "InvalidExpression",
            format!(
                "'{text}' cannot be resolved: known are '${{{{parent.inputs.NAME}}}}', '${{{{parent.outputs.NAME}}}}' and '${{{{parent.jobs.STEP.outputs.NAME}}}}', each as a whole text."
            ),
        )),
    }
}

struct Pipeline<'a> {
    snapshot: &'a Snapshot,
    id: &'a ResourceId,
    workspace: ResourceId,
    properties: &'a Value,
}

impl<'a> Pipeline<'a> {
    fn step(&self, name: &str) -> Result<Step, ApiError> {
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
            return Err(refuse("InvalidPipeline", "Its name has other characters than letters, digits, '-' and '_'."));
        }
        let node = self.node(name)?;
        let component = self.component(node)?;
        let mut after = BTreeSet::new();
        let mut body = json!({"properties": {
            "jobType": "Command",
            "displayName": name,
            "experimentName": document::at(self.properties, "experimentName"),
            "command": document::at(component, "command"),
            "environmentId": document::at(component, "environment"),
            "inputs": self.inputs(node, component, &mut after)?,
            "outputs": self.outputs(name, component)?,
        }});
        let mut set = |member: &str, value: Value| document::set(&mut body, &format!("properties.{member}"), value);
        if let Some(code) = document::at(component, "code") {
            set("codeId", code.clone());
        }
        let compute =
            document::at(node, "computeId").or_else(|| document::at(self.properties, "settings.default_compute"));
        if let Some(compute) = compute {
            set("computeId", compute.clone());
        }
        for (theirs, ours) in CARRIED {
            if let Some(value) = document::at(node, theirs).or_else(|| document::at(component, theirs)) {
                set(ours, if theirs == SERVICES { by_name(value) } else { in_json(value) });
            }
        }
        if let Some(kind) = document::at(component, "distribution.type") {
            // Components say `type`, steps and jobs `distribution_type`.
            set("distribution.distributionType", kind.clone());
        }
        let mut variables = Map::new();
        for whose in [component, node] {
            if let Some(Value::Object(own)) = document::at(whose, "environment_variables") {
                variables.extend(own.clone());
            }
        }
        set("environmentVariables", Value::Object(variables));
        Ok(Step { name: name.to_owned(), id: self.job(name), after, body })
    }

    fn job(&self, step: &str) -> ResourceId {
        self.workspace.child("jobs", &format!("{}_{step}", self.id.name()))
    }

    fn node(&self, step: &str) -> Result<&'a Value, ApiError> {
        let nodes = document::at(self.properties, "jobs").and_then(Value::as_object);
        nodes
            .and_then(|nodes| nodes.get(step))
            .ok_or_else(|| refuse("InvalidPipeline", format!("There is no step '{step}' in the pipeline.")))
    }

    /// `componentSpec` of what a step runs.
    fn component(&self, node: &Value) -> Result<&'a Value, ApiError> {
        let command = |value: &Value| match document::str_at(value, "type") {
            None => Ok(()),
            Some(kind) if kind.eq_ignore_ascii_case("command") => Ok(()),
            Some(kind) => Err(refuse(
                "JobTypeNotSupported",
                format!("Steps of type '{kind}' are not built; steps of type 'command' run here."),
            )),
        };
        command(node)?;
        let reference = document::str_at(node, "componentId").unwrap_or_default();
        let id = ResourceId::parse(reference.strip_prefix("azureml:").unwrap_or(reference)).ok();
        let stored = id.and_then(|id| self.snapshot.get(&id));
        let component = stored.and_then(|d| document::at(&d.body, "properties.componentSpec")).ok_or_else(|| {
            refuse("ComponentNotFound", format!("The component '{reference}' does not exist in the workspace."))
        })?;
        command(component)?;
        Ok(component)
    }

    fn inputs(&self, node: &Value, component: &Value, after: &mut BTreeSet<String>) -> Result<Value, ApiError> {
        let mut inputs = Map::new();
        for (name, declared) in members(component, "inputs") {
            let given = document::at(node, "inputs").and_then(|i| document::get(i, name)).filter(|i| !i.is_null());
            let default = document::at(declared, "default");
            let input = match (given, default) {
                (Some(given), _) => self.input(declared, given, after)?,
                (None, Some(default)) => json!({"jobInputType": "literal", "value": default}),
                (None, None) if document::bool_at(declared, "optional") == Some(true) => continue,
                (None, None) => {
                    return Err(refuse("InputMissing", format!("Its component needs the input '{name}'.")));
                }
            };
            inputs.insert(name.to_owned(), input);
        }
        Ok(Value::Object(inputs))
    }

    fn input(&self, declared: &Value, given: &Value, after: &mut BTreeSet<String>) -> Result<Value, ApiError> {
        let mut input = match document::str_at(given, "value").map(bound).transpose()?.flatten() {
            None => in_json(given),
            Some(Bound::Output(name)) => {
                return Err(refuse("InvalidExpression", format!("The output '{name}' of the pipeline is no input.")));
            }
            Some(Bound::Input(name)) => {
                let input = document::at(self.properties, "inputs").and_then(|i| document::get(i, name));
                input
                    .filter(|i| !i.is_null())
                    .cloned()
                    .ok_or_else(|| refuse("InvalidExpression", format!("The pipeline has no input '{name}'.")))?
            }
            Some(Bound::Step(step, name)) => {
                let job = self.job(step);
                after.insert(job.name().to_owned());
                let output = self.output(step, name, self.component(self.node(step)?)?)?;
                let kind = document::str_at(&output, "jobOutputType").unwrap_or("uri_folder");
                let own = document::at(&output, "uri").is_some();
                let mut uri = output_uri(job.name(), name, &output);
                if kind == "uri_file" && !own {
                    // A file without a path of its own has the name of the output.
                    uri.push_str(name);
                }
                let wanted =
                    document::str_at(declared, "type").filter(|t| t.starts_with("uri_") || t.ends_with("_model"));
                json!({"jobInputType": wanted.unwrap_or(kind), "uri": uri})
            }
        };
        if let Some(mode) = document::at(given, "mode").or_else(|| document::at(declared, "mode")) {
            document::set_default(&mut input, "mode", mode.clone());
        }
        Ok(input)
    }

    fn outputs(&self, step: &str, component: &Value) -> Result<Value, ApiError> {
        let mut outputs = Map::new();
        for (name, _) in members(component, "outputs") {
            outputs.insert(name.to_owned(), self.output(step, name, component)?);
        }
        Ok(Value::Object(outputs))
    }

    /// An output of a step, where the step or the pipeline says that it goes.
    fn output(&self, step: &str, name: &str, component: &Value) -> Result<Value, ApiError> {
        let declared = document::at(component, "outputs").and_then(|o| document::get(o, name)).ok_or_else(|| {
            refuse("InvalidExpression", format!("The component of step '{step}' has no output '{name}'."))
        })?;
        let given = document::at(self.node(step)?, "outputs").and_then(|o| document::get(o, name));
        let given = given.filter(|g| !g.is_null());
        let bound = given.and_then(|g| document::str_at(g, "value")).map(bound).transpose()?.flatten();
        let mut output = match bound {
            None => given.map_or_else(|| json!({}), in_json),
            Some(Bound::Output(whole)) => self.whole_output(whole, declared)?,
            Some(_) => return Err(refuse("InvalidExpression", format!("The output '{name}' is bound to no output."))),
        };
        for (theirs, ours) in [("type", "jobOutputType"), ("mode", "mode")] {
            if let Some(value) = document::at(declared, theirs) {
                document::set_default(&mut output, ours, value.clone());
            }
        }
        Ok(output)
    }

    /// An output of the pipeline: where clients look for it under the name of the pipeline.
    fn whole_output(&self, name: &str, declared: &Value) -> Result<Value, ApiError> {
        let output = document::at(self.properties, "outputs").and_then(|o| document::get(o, name));
        let mut output = output
            .cloned()
            .filter(|o| !o.is_null())
            .ok_or_else(|| refuse("InvalidExpression", format!("The pipeline has no output '{name}'.")))?;
        let own = document::str_at(&output, "uri").is_some_and(|u| !u.is_empty());
        let kind = document::str_at(&output, "jobOutputType").or_else(|| document::str_at(declared, "type"));
        let mut uri = output_uri(self.id.name(), name, &output);
        if !own && kind == Some("uri_file") {
            uri = format!(
                "azureml://datastores/{}/paths/azureml/{}/{name}/{name}",
                datastores::BLOB_STORE,
                self.id.name()
            );
        }
        document::set(&mut output, "uri", json!(uri));
        Ok(output)
    }
}

fn members<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let found = document::at(value, name).and_then(Value::as_object);
    found.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

/// `job_input_type` as `jobInputType`, everywhere below.
fn in_json(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(members.iter().map(|(k, v)| (camel(k), in_json(v))).collect()),
        Value::Array(items) => Value::Array(items.iter().map(in_json).collect()),
        _ => value.clone(),
    }
}

/// The same, but the names of `value` itself stay as they are.
fn by_name(value: &Value) -> Value {
    let members = value.as_object().into_iter().flatten();
    Value::Object(members.map(|(name, value)| (name.clone(), in_json(value))).collect())
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_').filter(|p| !p.is_empty());
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (first, rest) = part.split_at(part.chars().next().map_or(0, char::len_utf8));
        out.push_str(&first.to_uppercase());
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
