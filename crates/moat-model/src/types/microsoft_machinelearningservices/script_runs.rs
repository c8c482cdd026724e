//! The run configuration of a ScriptRun (azureml-core), as its client sent it: what it runs, and what of it cannot run
//! here. Refused by name before anything is stored.

use moat_arm::{ApiError, document};
use serde_json::Value;

use super::snapshots;

/// Runs a command, as azureml-core documents it.
const SHELL: [&str; 2] = ["/bin/bash", "-c"];
/// What a run configuration may name, and what of it is run here.
const FRAMEWORK: &str = "Python";
/// Members whose content would have to be brought to the node by engines that are not here.
const DATA: [&str; 4] = ["dataReferences", "data", "outputData", "datacaches"];

/// Refuses a configuration that can never run here, before anything is stored.
pub fn check(definition: &Value) -> Result<(), ApiError> {
    let text = |member: &str| document::str_at(definition, member).filter(|t| !t.is_empty());
    match text("framework") {
        None => {}
        Some(framework) if framework.eq_ignore_ascii_case(FRAMEWORK) => {}
        Some(other) => {
            return Err(unsupported(format!(
                "The framework '{other}' of the run configuration is not supported; scripts run by '{FRAMEWORK}' are."
            )));
        }
    }
    if let Some(other) = text("communicator").filter(|c| !c.eq_ignore_ascii_case("None")) {
        return Err(unsupported(format!(
            "The communicator '{other}' of the run configuration is not supported; a run has one node here."
        )));
    }
    if let Some(nodes) = document::u64_at(definition, "nodeCount").filter(|n| *n > 1) {
        return Err(unsupported(format!(
            "The run configuration asks for {nodes} nodes (`node_count`); a run has one node here."
        )));
    }
    for member in DATA {
        if let Some(name) = document::at(definition, member).and_then(Value::as_object).and_then(|d| d.keys().next()) {
            return Err(unsupported(format!(
                "The run configuration has '{name}' in '{member}'; data of azureml-core is not brought to nodes here. Use a job of azure-ai-ml with inputs and outputs."
            )));
        }
    }
    if text("script").is_none() && text("command").is_none() {
        return Err(unsupported("The run configuration has neither a script nor a command."));
    }
    program(definition).map(drop)
}

/// Wall clock of the run, as the configuration bounds it.
pub fn timeout_seconds(definition: &Value) -> Option<u64> {
    document::u64_at(definition, "maxRunDurationSeconds").filter(|s| *s > 0)
}

/// The words of the program: a command by the shell, a script by the environment's interpreter.
pub fn program(definition: &Value) -> Result<Vec<String>, ApiError> {
    if let Some(command) = document::str_at(definition, "command").filter(|c| !c.trim().is_empty()) {
        return Ok(SHELL.into_iter().map(str::to_owned).chain([command.to_owned()]).collect());
    }
    let script = document::str_at(definition, "script").unwrap_or_default();
    if !snapshots::is_safe_path(script) {
        return Err(unsupported(format!("The script '{}' is no file of the snapshot.", script.escape_debug())));
    }
    let arguments = document::array_at(definition, "arguments");
    if let Some(odd) = arguments.iter().find(|a| a.is_object() || a.is_array()) {
        return Err(unsupported(format!(
            "The argument `{odd}` of the run configuration is no text or number; datasets as arguments are not supported."
        )));
    }
    let interpreter = "python".to_owned();
    Ok([interpreter, script.to_owned()].into_iter().chain(arguments.iter().map(argument)).collect())
}

fn argument(value: &Value) -> String {
    value.as_str().map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

fn unsupported(message: impl Into<String>) -> ApiError {
    // AZURE: wording not observed: Azure supports what is refused with this.
    ApiError::bad_request("UserError", message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_script_is_run_with_its_arguments_and_a_command_by_the_shell() {
        let script = json!({"script": "t.py", "arguments": ["--lr", 0.1, "a b"], "framework": "Python", "communicator": "None", "nodeCount": 1});
        check(&script).unwrap();
        assert_eq!(program(&script).unwrap(), ["python", "t.py", "--lr", "0.1", "a b"]);
        assert_eq!(program(&json!({"command": "ls -l"})).unwrap(), ["/bin/bash", "-c", "ls -l"]);
        assert_eq!(timeout_seconds(&json!({"maxRunDurationSeconds": 60})), Some(60));
    }

    #[test]
    fn what_cannot_run_is_refused_by_name() {
        let said = |change: Value| {
            let mut definition = json!({"script": "t.py"});
            definition.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            check(&definition).unwrap_err().message
        };
        insta::assert_snapshot!(said(json!({"framework": "PyTorch"})), @"The framework 'PyTorch' of the run configuration is not supported; scripts run by 'Python' are.");
        insta::assert_snapshot!(said(json!({"communicator": "Mpi"})), @"The communicator 'Mpi' of the run configuration is not supported; a run has one node here.");
        insta::assert_snapshot!(said(json!({"nodeCount": 2})), @"The run configuration asks for 2 nodes (`node_count`); a run has one node here.");
        insta::assert_snapshot!(said(json!({"data": {"iris": {}}})), @"The run configuration has 'iris' in 'data'; data of azureml-core is not brought to nodes here. Use a job of azure-ai-ml with inputs and outputs.");
        insta::assert_snapshot!(said(json!({"script": "../t.py"})), @"The script '../t.py' is no file of the snapshot.");
        insta::assert_snapshot!(said(json!({"arguments": [{"a": 1}]})), @r#"The argument `{"a":1}` of the run configuration is no text or number; datasets as arguments are not supported."#);
    }
}
