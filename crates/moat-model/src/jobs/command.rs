//! Command jobs of azure-ai-ml and of templates (PROTOCOL 6.6).
//!
//! Folders are those of Azure's runtime: code in `exe/wd`, an input `x` at `cap/data-capability/wd/INPUT_x` (a file below
//! it, under its own name), an output `y` at `cap/data-capability/wd/y`.

use moat_arm::{ApiError, ResourceId, Snapshot, document};
use serde_json::Value;

use super::data::{Locator, Place, output_uri};
use super::expression::{self, Names};
use super::{Environment, Input, JobPlan, Output, Source, refuse, settings, variables};
use crate::types::microsoft_machinelearningservices::{datastores, experiments, runs};

/// Inputs or outputs of one job.
const BINDINGS_MAX: usize = 200;
/// Longest name of an input or output.
const NAME_CHARS_MAX: usize = 255;

/// Plans a command job.
pub(super) fn plan(snapshot: &Snapshot, id: &ResourceId, body: &Value) -> Result<JobPlan, ApiError> {
    let empty = Value::Null;
    let properties = document::at(body, "properties").unwrap_or(&empty);
    let text = |path: &str| document::str_at(properties, path).filter(|t| !t.is_empty());
    job_type(text("jobType"))?;
    let workspace = id.parent().ok_or_else(|| ApiError::not_found(id))?;
    let run = id.name();
    let locator = Locator { snapshot, workspace: &workspace };

    let cluster = compute(snapshot, &workspace, text("computeId"))?;
    let size = snapshot.get(&cluster).and_then(|c| document::str_at(&c.body, "properties.properties.vmSize"));
    let settings = settings::read(properties, size.unwrap_or_default())?;
    let root = super::root(run);
    let data = super::data_folder(&root);

    let mut names = Names::default();
    let mut all = variables::of_job(document::at(properties, "environmentVariables"))?;
    let mut inputs = Vec::new();
    for (name, input) in bindings(properties, "inputs")? {
        let Some(given) = read_input(&locator, name, input, &data)? else { continue };
        let value = match given {
            Given::Text(value) => {
                all.insert(format!("AZUREML_PARAMETER_{name}"), value.clone());
                value
            }
            Given::Address(uri) => uri,
            Given::Files(input) => {
                let path = input.path.clone();
                inputs.push(input);
                path
            }
        };
        all.insert(format!("AZURE_ML_INPUT_{name}"), value.clone());
        names.inputs.insert(name.to_owned(), value);
    }
    let mut outputs = Vec::new();
    for (name, output) in bindings(properties, "outputs")? {
        // The platform's own: where the artifacts of the run lie (PROTOCOL 6.6).
        if name.eq_ignore_ascii_case("default") {
            continue;
        }
        let output = read_output(&locator, run, name, output, &data)?;
        all.insert(format!("AZURE_ML_OUTPUT_{name}"), output.path.clone());
        names.outputs.insert(name.to_owned(), output.path.clone());
        outputs.push(output);
    }
    all.extend(variables::of_platform(snapshot, &workspace, run, experiments::of_job(body)));

    let command = text("command")
        .ok_or_else(|| refuse("CommandMissing", "The job has no command to run.").with_target("properties.command"))?;
    if command.contains('\0') {
        return Err(refuse("InvalidCommand", "The command holds a zero byte.").with_target("properties.command"));
    }
    let command = expression::command(command, &names)?;
    let environment = text("environmentId").ok_or_else(|| {
        refuse("EnvironmentMissing", "The job names no environment.").with_target("properties.environmentId")
    })?;
    Ok(JobPlan {
        compute: cluster,
        program: vec!["/bin/bash".to_owned(), "-c".to_owned(), command],
        folder: super::folder(&root),
        root,
        variables: all,
        token_variables: variables::TOKEN_VARIABLES.map(str::to_owned).to_vec(),
        environment: Environment::Reference(environment.to_owned()),
        code: text("codeId").map(|reference| code(&locator, reference)).transpose()?,
        inputs,
        outputs,
        artifacts: locator.datastore(datastores::ARTIFACT_STORE)?.join(&runs::artifact_prefix(run)),
        timeout_seconds: settings.timeout_seconds,
        priority: settings.priority,
        warnings: Vec::new(),
    })
}

fn job_type(given: Option<&str>) -> Result<(), ApiError> {
    match given {
        Some(kind) if kind.eq_ignore_ascii_case("Command") => Ok(()),
        Some(kind) => Err(refuse(
            "JobTypeNotSupported",
            format!("Jobs of type '{kind}' are not built; jobs of type 'Command' and pipelines of such run here."),
        )
        .with_target("properties.jobType")),
        None => Err(refuse("JobTypeMissing", "The job says no 'jobType'.").with_target("properties.jobType")),
    }
}

/// The cluster that a job names: by id, or by name as templates do.
pub(super) fn compute(
    snapshot: &Snapshot,
    workspace: &ResourceId,
    target: Option<&str>,
) -> Result<ResourceId, ApiError> {
    let refused = |code: &str, why: String| refuse(code, why).with_target("properties.computeId");
    // In a pipeline it is named as if it were a compute of the workspace.
    let is_serverless = |t: &str| t.rsplit(['/', ':']).next().is_some_and(|t| t.eq_ignore_ascii_case("serverless"));
    let Some(target) = target.filter(|t| !is_serverless(t)) else {
        return Err(refused(
            "ServerlessComputeNotSupported",
            "The job names no compute. Serverless compute comes with a later part; name a compute cluster.".to_owned(),
        ));
    };
    let name = target.strip_prefix("azureml:").unwrap_or(target);
    let id = ResourceId::parse(name).ok().filter(|_| name.starts_with('/'));
    let id = id.unwrap_or_else(|| workspace.child("computes", name));
    let missing = || refused("ComputeNotFound", format!("The compute '{target}' that the job names does not exist."));
    if id.parent().as_ref() != Some(workspace) {
        return Err(missing());
    }
    let stored = snapshot.get(&id).ok_or_else(missing)?;
    let kind = document::str_at(&stored.body, "properties.computeType").unwrap_or_default();
    if !kind.eq_ignore_ascii_case("AmlCompute") {
        return Err(refused(
            "ComputeNotSupported",
            format!("The compute '{}' is of type {kind}; jobs run on compute clusters (AmlCompute).", id.name()),
        ));
    }
    Ok(stored.id.clone())
}

fn code(locator: &Locator<'_>, reference: &str) -> Result<Source, ApiError> {
    let refused = |code: &str, why: String| refuse(code, why).with_target("properties.codeId");
    let name = reference.strip_prefix("azureml:").unwrap_or(reference);
    if !name.starts_with('/') {
        return Err(refused(
            "CodeNotSupported",
            format!("'{reference}' is no id of a code version; code from elsewhere (git, registries) is not fetched."),
        ));
    }
    let id = ResourceId::parse(name).ok();
    let stored = id.as_ref().and_then(|id| locator.snapshot.get(id));
    let uri = stored
        .filter(|d| d.id.resource_type().to_ascii_lowercase().ends_with("/codes/versions"))
        .and_then(|d| document::str_at(&d.body, "properties.codeUri"));
    let uri = uri.ok_or_else(|| refused("CodeNotFound", format!("The code '{reference}' does not exist.")))?;
    Ok(Source::BlobOrFolder(locator.find(uri)?.place))
}

/// The members of `inputs` or `outputs`, with names that are safe as folders and variables.
fn bindings<'a>(properties: &'a Value, member: &str) -> Result<Vec<(&'a str, &'a Value)>, ApiError> {
    let invalid = |why: String| refuse("InvalidBinding", why).with_target(format!("properties.{member}"));
    let members = match document::at(properties, member) {
        None => return Ok(Vec::new()),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(invalid(format!("'{member}' of the job is no object."))),
    };
    if members.len() > BINDINGS_MAX {
        return Err(invalid(format!("The job has {} {member}, at most {BINDINGS_MAX} are served.", members.len())));
    }
    let mut all: Vec<(&str, &Value)> = Vec::new();
    for (name, value) in members {
        let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
            && name.len() <= NAME_CHARS_MAX;
        if !plain {
            return Err(invalid(format!(
                "'{}' in {member} of the job is no name: a letter or '_', then letters, digits, '_', '-' and '.'.",
                name.escape_debug()
            )));
        }
        if !value.is_null() {
            all.push((name, value));
        }
    }
    all.sort_by_key(|(name, _)| *name);
    Ok(all)
}

/// What stands for an input.
enum Given {
    Text(String),
    Address(String),
    Files(Input),
}

fn read_input(locator: &Locator<'_>, name: &str, input: &Value, data: &str) -> Result<Option<Given>, ApiError> {
    let refused = |code: &str, why: String| refuse(code, why).with_target(format!("properties.inputs.{name}"));
    let kind = document::str_at(input, "jobInputType").unwrap_or_default().to_ascii_lowercase();
    if kind == "literal" {
        return Ok(match document::at(input, "value") {
            // An optional input that was not given.
            None => None,
            Some(Value::String(text)) => Some(Given::Text(text.clone())),
            Some(Value::Bool(value)) => Some(Given::Text(if *value { "True" } else { "False" }.to_owned())),
            Some(Value::Number(number)) => Some(Given::Text(number.to_string())),
            Some(_) => {
                return Err(refused("InputNotSupported", format!("The value of input '{name}' is no text or number.")));
            }
        });
    }
    let Some(uri) = document::str_at(input, "uri").filter(|u| !u.is_empty()) else {
        return Err(refused("InputMissing", format!("The input '{name}' of the job has no 'uri'.")));
    };
    let located = locator.find(uri).map_err(|e| e.with_target(format!("properties.inputs.{name}")))?;
    let asset = located.kind.as_deref().unwrap_or(&kind).to_ascii_lowercase();
    if kind == "mltable" || asset == "mltable" {
        return Err(refused(
            "InputNotSupported",
            format!("The input '{name}' is an 'mltable', which is not built. Use 'uri_file' or 'uri_folder'."),
        ));
    }
    let (source, file): (fn(Place) -> Source, bool) = match kind.as_str() {
        "uri_file" => (Source::Blob, true),
        "uri_folder" | "mlflow_model" | "triton_model" => (Source::Folder, false),
        "custom_model" => (Source::BlobOrFolder, true),
        _ => {
            return Err(refused(
                "InputNotSupported",
                format!("The input '{name}' is of type '{kind}', which is not known."),
            ));
        }
    };
    let read_only = match document::str_at(input, "mode").unwrap_or("ReadOnlyMount").to_ascii_lowercase().as_str() {
        "readonlymount" | "ro_mount" => true,
        "download" => false,
        "direct" => return Ok(Some(Given::Address(located.place.url()))),
        mode => {
            return Err(refused(
                "InputNotSupported",
                format!(
                    "The input '{name}' has the mode '{mode}', which is not built. Use 'ro_mount', 'download' or 'direct'."
                ),
            ));
        }
    };
    let mut path = format!("{data}/INPUT_{name}");
    if file && let Some(own) = located.place.path.rsplit('/').next().filter(|n| !n.is_empty()) {
        path = format!("{path}/{own}");
    }
    Ok(Some(Given::Files(Input { name: name.to_owned(), source: source(located.place), path, read_only })))
}

fn read_output(locator: &Locator<'_>, run: &str, name: &str, output: &Value, data: &str) -> Result<Output, ApiError> {
    let target = format!("properties.outputs.{name}");
    let refused = |why: String| refuse("OutputNotSupported", why).with_target(target.clone());
    let kind = document::str_at(output, "jobOutputType").unwrap_or("uri_folder").to_ascii_lowercase();
    let file = match kind.as_str() {
        "uri_folder" | "mlflow_model" | "custom_model" | "triton_model" => false,
        "uri_file" => true,
        _ => return Err(refused(format!("The output '{name}' is of type '{kind}', which is not built."))),
    };
    let even_if_failed =
        match document::str_at(output, "mode").unwrap_or("ReadWriteMount").to_ascii_lowercase().as_str() {
            "readwritemount" | "rw_mount" => true,
            "upload" => false,
            mode => {
                return Err(refused(format!(
                    "The output '{name}' has the mode '{mode}', which is not built. Use 'rw_mount' or 'upload'."
                )));
            }
        };
    if document::str_at(output, "assetName").is_some_and(|n| !n.is_empty()) {
        return Err(refused(format!(
            "The output '{name}' is to become an asset by itself, which is not built; register it after the job."
        )));
    }
    let mut place = locator.find(&output_uri(run, name, output)).map_err(|e| e.with_target(target.clone()))?.place;
    if place.path.is_empty() {
        return Err(refused(format!("The output '{name}' would fill a whole container; name a path in it.")));
    }
    let mut path = format!("{data}/{name}");
    if file {
        let custom = document::str_at(output, "uri").is_some_and(|u| !u.is_empty());
        let own = match place.path.rsplit_once('/') {
            Some((folder, own)) if custom => {
                let own = own.to_owned();
                place.path.truncate(folder.len());
                own
            }
            None if custom => {
                return Err(refused(format!(
                    "The output '{name}' would lie beside all others of its container; name a folder."
                )));
            }
            _ => name.to_owned(),
        };
        path = format!("{path}/{own}");
    }
    Ok(Output { name: name.to_owned(), path, file, destination: place, even_if_failed })
}
