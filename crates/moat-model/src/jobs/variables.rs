//! Variables that every job finds, whoever submitted it.

use std::collections::BTreeMap;

use moat_arm::{ApiError, ResourceId, Snapshot, document};
use serde_json::Value;

use super::refuse;
use crate::refs;
use crate::types::microsoft_machinelearningservices::experiments;

/// Variables that the agent fills with the run's token.
pub const TOKEN_VARIABLES: [&str; 2] = ["AZUREML_RUN_TOKEN", "MLFLOW_TRACKING_TOKEN"];
/// Variables of one job.
const VARIABLES_MAX: usize = 500;
/// Longest value.
const VALUE_BYTES_MAX: usize = 100_000;

/// Where MLflow of a workspace is reached.
pub fn tracking_uri(region: &str, workspace: &ResourceId) -> String {
    format!("azureml://{region}.api.azureml.ms/mlflow/v1.0{workspace}")
}

/// What the platform tells a run about itself.
pub(super) fn of_platform(
    snapshot: &Snapshot,
    workspace: &ResourceId,
    run: &str,
    experiment: &str,
) -> BTreeMap<String, String> {
    let region = refs::location_of(snapshot, workspace).unwrap_or_default();
    let stored = snapshot.get(workspace);
    let workspace_id = stored.and_then(|w| document::str_at(&w.body, "properties.workspaceId")).unwrap_or_default();
    let experiment_id = stored.map(|w| experiments::experiment_id(w, experiment)).unwrap_or_default();
    let endpoint = format!("https://{region}.api.azureml.ms");
    [
        ("AZUREML_RUN_ID", run),
        ("AZUREML_ROOT_RUN_ID", run),
        ("AZUREML_EXPERIMENT_NAME", experiment),
        ("AZUREML_EXPERIMENT_ID", &experiment_id),
        ("AZUREML_ARM_SUBSCRIPTION", workspace.subscription().unwrap_or_default()),
        ("AZUREML_ARM_RESOURCEGROUP", workspace.resource_group().unwrap_or_default()),
        ("AZUREML_ARM_WORKSPACE_NAME", workspace.name()),
        ("AZUREML_ARM_PROJECT_NAME", experiment),
        ("AZUREML_WORKSPACE_ID", workspace_id),
        ("AZUREML_WORKSPACE_SCOPE", workspace.as_str()),
        ("AZUREML_SERVICE_ENDPOINT", &endpoint),
        ("AZUREML_RUN_HISTORY_SERVICE_ENDPOINT", &endpoint),
        ("AZUREML_DISCOVERY_SERVICE_ENDPOINT", &format!("{endpoint}/discovery")),
        ("AZUREML_CURRENT_CLOUD", "AzureCloud"),
        ("AZUREML_DATA_CONTAINER_ID", &format!("dcid.{run}")),
        ("AZUREML_NODE_COUNT", "1"),
        ("MLFLOW_TRACKING_URI", &tracking_uri(&region, workspace)),
        ("MLFLOW_RUN_ID", run),
        ("MLFLOW_EXPERIMENT_NAME", experiment),
        ("MLFLOW_EXPERIMENT_ID", &experiment_id),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// The variables that a job sets itself. As in Azure, expressions in them are not resolved.
pub(super) fn of_job(given: Option<&Value>) -> Result<BTreeMap<String, String>, ApiError> {
    let invalid =
        |why: String| refuse("InvalidEnvironmentVariable", why).with_target("properties.environmentVariables");
    let members = match given {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(invalid("The environment variables of the job are no object.".to_owned())),
    };
    if members.len() > VARIABLES_MAX {
        return Err(invalid(format!("The job sets {} variables, at most {VARIABLES_MAX} are set.", members.len())));
    }
    let mut variables = BTreeMap::new();
    for (name, value) in members {
        let shown = name.escape_debug();
        if name.is_empty() || name.contains('=') || name.chars().any(char::is_control) {
            return Err(invalid(format!("'{shown}' is no name of a variable.")));
        }
        if TOKEN_VARIABLES.contains(&name.as_str()) {
            return Err(invalid(format!("'{shown}' holds the run's token and cannot be set by the job.")));
        }
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            // Clients send null for a variable without a value.
            Value::Null => String::new(),
            _ => return Err(invalid(format!("The value of '{shown}' is no text."))),
        };
        if value.len() > VALUE_BYTES_MAX || value.contains('\0') {
            return Err(invalid(format!(
                "The value of '{shown}' is longer than {VALUE_BYTES_MAX} bytes or holds a zero byte."
            )));
        }
        variables.insert(name.clone(), value);
    }
    Ok(variables)
}
