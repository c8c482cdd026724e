//! ScriptRuns of azureml-core (PROTOCOL 6.7): the run configuration as sent, the code as a snapshot.
//!
//! Folders are those of command jobs. Data references, frameworks and several nodes were refused when the run was
//! submitted (`script_runs::check`), and are again.

use moat_arm::{ApiError, ResourceId, Snapshot, document};
use serde_json::Value;

use super::data::{Locator, Place};
use super::{Environment, JobPlan, Source, command, refuse, variables};
use crate::types::microsoft_machinelearningservices::{datastores, experiments, runs, script_runs, snapshots};

/// Plans a script run.
pub(super) fn plan(snapshot: &Snapshot, id: &ResourceId, body: &Value) -> Result<JobPlan, ApiError> {
    let run = runs::Run::of(body);
    let definition = run.definition.as_ref().ok_or_else(|| refuse("UserError", "The run has no run configuration."))?;
    script_runs::check(definition)?;
    let workspace = id.parent().ok_or_else(|| ApiError::not_found(id))?;
    let locator = Locator { snapshot, workspace: &workspace };
    let artifacts = locator.datastore(datastores::ARTIFACT_STORE)?;
    let root = super::root(id.name());
    let mut all = variables::of_job(document::at(definition, "environment.environmentVariables"))?;
    all.extend(variables::of_job(document::at(definition, "environmentVariables"))?);
    all.extend(variables::of_platform(snapshot, &workspace, id.name(), experiments::of_job(body)));
    Ok(JobPlan {
        compute: command::compute(snapshot, &workspace, document::str_at(body, "properties.computeId"))?,
        program: script_runs::program(definition)?,
        folder: super::folder(&root),
        root,
        variables: all,
        token_variables: variables::TOKEN_VARIABLES.map(str::to_owned).to_vec(),
        environment: Environment::Definition(document::at(definition, "environment").cloned().unwrap_or_default()),
        code: code(&locator, &artifacts, run.code_snapshot.as_deref())?,
        inputs: Vec::new(),
        outputs: Vec::new(),
        artifacts: artifacts.join(&runs::artifact_prefix(id.name())),
        timeout_seconds: script_runs::timeout_seconds(definition),
        priority: run.priority,
        warnings: Vec::new(),
    })
}

/// The files of the snapshot, in the account that the artifacts are in.
fn code(locator: &Locator<'_>, artifacts: &Place, id: Option<&str>) -> Result<Option<Source>, ApiError> {
    let Some(id) = id else { return Ok(None) };
    let contents = snapshots::find(locator.snapshot, locator.workspace, id)
        .ok_or_else(|| refuse("UserError", format!("The code snapshot '{id}' of the run does not exist.")))?;
    let place = |blob: String| Place {
        account: artifacts.account.clone(),
        container: snapshots::CONTAINER.to_owned(),
        path: blob,
    };
    Ok(Some(Source::Blobs(contents.files.into_iter().map(|(path, blob)| (path, place(blob))).collect())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::types::microsoft_machinelearningservices::runs::{Kind, Run};
    use moat_arm::Batch;
    use serde_json::json;

    #[test]
    fn a_script_run_brings_the_files_of_its_snapshot() {
        let group = "/subscriptions/s/resourceGroups/g/providers";
        let id = |text: String| ResourceId::parse(&text).unwrap();
        let workspace = id(format!("{group}/Microsoft.MachineLearningServices/workspaces/w"));
        let mut batch = Batch::default();
        batch.put(workspace.clone(), json!({"location": "westus2", "properties": {"workspaceId": "w-1"}}));
        batch.put(id(format!("{group}/Microsoft.Storage/storageAccounts/acct1")), json!({"location": "westus2"}));
        let store =
            json!({"properties": {"datastoreType": "AzureBlob", "accountName": "acct1", "containerName": "azureml"}});
        batch.put(workspace.child("datastores", datastores::ARTIFACT_STORE), store);
        batch.put(workspace.child("computes", "cpu"), json!({"properties": {"computeType": "AmlCompute"}}));
        let files = [("lib/a.py".to_owned(), "p/lib/a.py".to_owned())].into();
        batch.put(
            snapshots::document_id(&workspace, "snap"),
            snapshots::Contents { files, ..Default::default() }.to_body(),
        );
        let mut body =
            json!({"properties": {"computeId": workspace.child("computes", "cpu").as_str(), "experimentName": "e"}});
        let definition = json!({"script": "t.py", "arguments": ["x"], "environment": {"name": "v1env", "environmentVariables": {"A": "1"}}});
        let snap = Some("snap".to_owned());
        Run { kind: Kind::Script, definition: Some(definition), code_snapshot: snap, ..Run::default() }.put(&mut body);
        let mut world = Snapshot::default();
        world.apply(&batch);
        let plan = super::super::plan_of(&world, &workspace.child("jobs", "r1"), &body).unwrap();
        assert_eq!(plan.program, ["python", "t.py", "x"]);
        assert_eq!((plan.variables["A"].as_str(), plan.variables["AZUREML_RUN_ID"].as_str()), ("1", "r1"));
        assert!(matches!(&plan.environment, Environment::Definition(d) if d["name"] == "v1env"));
        let place =
            Place { account: "acct1".to_owned(), container: "snapshots".to_owned(), path: "p/lib/a.py".to_owned() };
        assert_eq!(plan.code, Some(Source::Blobs(vec![("lib/a.py".to_owned(), place)])));
        assert_eq!(plan.artifacts.path, "ExperimentRun/dcid.r1");
    }
}
