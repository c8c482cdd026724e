//! Named outputs of runs, as assets that clients look up: a run tells ids, the data plane tells where they lie.
//!
//! Azure registers each named output of a job that completed as an asset under a name it makes up, and
//! `azure-ai-ml`'s `jobs.download` goes from name to id to address. Here the id says all there is to know, and nothing is
//! stored for it.

use moat_arm::{Stored, document};
use moat_model::jobs;
use moat_model::types::microsoft_machinelearningservices::runs::Status;
use serde_json::Value;

use super::View;

/// The platform's own output: where the artifacts of the run lie. Clients know where without asking.
const ARTIFACTS: &str = "default";
/// In the name of an asset, between those of its run and its output.
const BETWEEN: &str = "_output_data_";

/// One named output of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name in the job.
    pub name: String,
    /// `uri_file`, `uri_folder`, `mltable`, or in a client's words for models: `CustomModel`, `MLFlowModel`,
    /// `TritonModel`.
    pub kind: String,
    /// Id of the asset.
    pub asset: String,
    /// Where it lies: `azureml://subscriptions/...` where it is in a datastore.
    pub uri: String,
}

/// Those of one run. A run that did not complete has none.
pub fn of_run(view: &View<'_>, run: &Stored) -> Vec<Named> {
    if Status::of(&run.body) != Some(Status::Completed) {
        return Vec::new();
    }
    let all = document::at(&run.body, "properties.outputs").and_then(Value::as_object);
    let all = all.into_iter().flatten().filter(|(name, output)| *name != ARTIFACTS && output.is_object());
    all.map(|(name, output)| Named {
        name: name.clone(),
        kind: kind(document::str_at(output, "jobOutputType").unwrap_or("uri_folder")),
        asset: asset(view, run.id.name(), name),
        uri: whole(view, &jobs::output_uri(run.id.name(), name, output)),
    })
    .collect()
}

/// The output that an asset's id names, if it is one of this workspace's.
pub fn find(view: &View<'_>, asset: &str) -> Option<Named> {
    let (_, name) = asset.rsplit_once("/data/azureml_")?;
    // A run's name may hold what stands between the two.
    let mut runs = name.match_indices(BETWEEN).filter_map(|(at, _)| view.run(name.get(..at)?).ok());
    runs.find_map(|run| of_run(view, run).into_iter().find(|output| output.asset == asset))
}

fn asset(view: &View<'_>, run: &str, output: &str) -> String {
    let text = |path: &str| document::str_at(&view.workspace.body, path).unwrap_or_default();
    format!(
        "azureml://locations/{}/workspaces/{}/data/azureml_{run}{BETWEEN}{output}/versions/1",
        text("location"),
        text("properties.workspaceId"),
    )
}

fn kind(of_job: &str) -> String {
    match of_job {
        "custom_model" => "CustomModel",
        "mlflow_model" => "MLFlowModel",
        "triton_model" => "TritonModel",
        data => data,
    }
    .to_owned()
}

/// A short address of a datastore in its long form, which is the one that says in which workspace it is.
fn whole(view: &View<'_>, uri: &str) -> String {
    let Some(rest) = uri.strip_prefix("azureml://datastores/") else { return uri.to_owned() };
    let id = &view.workspace.id;
    format!(
        "azureml://subscriptions/{}/resourcegroups/{}/workspaces/{}/datastores/{rest}",
        id.subscription().unwrap_or_default(),
        id.resource_group().unwrap_or_default(),
        id.name(),
    )
}
