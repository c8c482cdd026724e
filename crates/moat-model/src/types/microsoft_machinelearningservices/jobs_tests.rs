//! Jobs as documents: what is taken, refused, shown, cancelled and listed.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]
use super::*;
use crate::edition::Edition;
use crate::types::testing::{GROUP, World, cluster, cluster_id, ml_world, store};

fn id(tail: &str) -> String {
    format!("{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/moatws/{tail}")
}

fn world() -> World {
    let mut world = ml_world(Edition::Current);
    store(&mut world);
    world.put(&cluster_id("cpu"), cluster(json!({}))).unwrap();
    world.put(&id("environments/e/versions/1"), json!({"properties": {"image": "ubuntu:22.04"}})).unwrap();
    world
}

fn job() -> Value {
    json!({"properties": {"jobType": "Command", "command": "echo hi", "computeId": cluster_id("cpu"),
        "environmentId": id("environments/e/versions/1"), "experimentName": "exp"}})
}

#[test]
fn a_job_has_all_that_clients_read() {
    let mut world = world();
    world.put(&id("jobs/one"), job()).unwrap();
    world.put(&id("jobs/two"), job()).unwrap();
    let mut shown = world.get(&id("jobs/two"));
    let run = Run::of(&shown);
    assert_eq!((run.number, run.kind, run.submitted_by.as_str()), (2, Kind::Command, "owner"));
    document::remove(&mut shown, "moat");
    insta::assert_snapshot!(serde_json::to_string_pretty(&shown).unwrap(), @r#"
{
  "properties": {
    "jobType": "Command",
    "command": "echo hi",
    "computeId": "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/moatws/computes/cpu",
    "environmentId": "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/moatws/environments/e/versions/1",
    "experimentName": "exp",
    "tags": {},
    "properties": {
      "azureml.runsource": "commandjob",
      "azureml.DevPlatv2": "true",
      "_azureml.ComputeTargetType": "amlctrain",
      "ProcessInfoFile": "azureml-logs/process_info.json",
      "ProcessStatusFile": "azureml-logs/process_status.json",
      "_azureml.ClusterName": "cpu",
      "moat.image": "an image is an identity, not a filesystem: its registry is asked for the manifest over the node's network, but the program runs with this machine's Python and the packages of the environment's conda file"
    },
    "isArchived": false,
    "displayName": "two",
    "status": "NotStarted",
    "inputs": {},
    "outputs": {
      "default": {
        "jobOutputType": "uri_folder",
        "uri": "azureml://datastores/workspaceartifactstore/ExperimentRun/dcid.two",
        "mode": "ReadWriteMount",
        "description": null
      }
    },
    "environmentVariables": {},
    "services": {
      "Tracking": {
        "jobServiceType": "Tracking",
        "endpoint": "azureml://westus2.api.azureml.ms/mlflow/v1.0/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/moatws",
        "port": null,
        "status": null,
        "errorMessage": null,
        "properties": null,
        "nodes": null
      },
      "Studio": {
        "jobServiceType": "Studio",
        "endpoint": "https://ml.azure.com/runs/two?wsid=/subscriptions/s/resourcegroups/g/workspaces/moatws",
        "port": null,
        "status": null,
        "errorMessage": null,
        "properties": null,
        "nodes": null
      }
    },
    "resources": {
      "instanceCount": 1,
      "shmSize": "2g"
    },
    "parameters": {},
    "description": null,
    "codeId": null,
    "limits": null,
    "identity": null,
    "componentId": null
  },
  "systemData": {
    "createdAt": "1970-01-01T00:00:00.0000000Z",
    "createdBy": "owner",
    "createdByType": "Application"
  }
}
"#);
}

#[test]
fn a_job_is_what_it_was_submitted_as() {
    let mut world = world();
    world.put(&id("jobs/one"), job()).unwrap();
    let mut echoed = world.get(&id("jobs/one"));
    // What a client reads it can send back, with another description.
    document::set(&mut echoed, "properties.description", json!("new"));
    document::set(&mut echoed, "properties.status", json!("Completed"));
    let kept = world.put(&id("jobs/one"), echoed.clone()).unwrap();
    assert_eq!(kept["properties"]["description"], "new");
    assert_eq!(Status::of(&kept), Some(Status::NotStarted), "a client does not say how a job is");
    assert!(document::at(&kept, "properties.outputs.default").is_none());
    document::set(&mut echoed, "properties.command", json!("rm"));
    insta::assert_snapshot!(world.put(&id("jobs/one"), echoed).unwrap_err(), @"(UserError) The job 'one' exists, and 'command' of a job cannot be changed. Submit another job under another name.");
}

#[test]
fn cancel_asks_once_and_ends_what_nobody_moves() {
    let mut world = world();
    world.put(&id("jobs/one"), job()).unwrap();
    world.post(&id("jobs/one"), "cancel", Value::Null).unwrap();
    let asked = Run::of(&world.get(&id("jobs/one"))).cancel_requested;
    world.now += jiff::SignedDuration::from_secs(5);
    world.post(&id("jobs/one"), "cancel", Value::Null).unwrap();
    let shown = world.get(&id("jobs/one"));
    assert_eq!((Status::of(&shown), Run::of(&shown).cancel_requested), (Some(Status::CancelRequested), asked));
    assert!(!(TYPE.settled.unwrap())(&shown));
    let mut tracked = json!({"properties": {"status": "Running"}});
    Run { kind: Kind::Tracked, number: 9, ..Run::default() }.put(&mut tracked);
    world.store(&id("jobs/mlflow"), tracked);
    world.post(&id("jobs/mlflow"), "cancel", Value::Null).unwrap();
    assert_eq!(Status::of(&world.get(&id("jobs/mlflow"))), Some(Status::Canceled));
}

#[test]
fn what_cannot_run_is_not_accepted() {
    let mut world = world();
    let mut refused = |path: &str, value: Value| {
        let mut body = job();
        document::set(&mut body, path, value);
        world.put(&id("jobs/x"), body).unwrap_err().to_string()
    };
    let all = [
        refused("properties.jobType", json!("Sweep")),
        refused("properties.computeId", Value::Null),
        refused("properties.computeId", json!(cluster_id("other"))),
        refused("properties.environmentId", json!("azureml:nothing@latest")),
        refused("properties.environmentId", json!(id("environments/e/versions/2"))),
        refused("properties.codeId", json!(id("codes/c/versions/1"))),
        refused("properties.command", json!("echo ${{inputs.x}}")),
        refused("properties.distribution", json!({"distributionType": "PyTorch"})),
        refused("properties.resources", json!({"instanceCount": 2})),
        refused("properties.identity", json!({"identityType": "Managed"})),
        refused("properties.services", json!({"my_vscode": {"jobServiceType": "vs_code"}})),
        refused("properties.queueSettings", json!({"jobTier": "Spot"})),
        refused("properties.limits", json!({"timeout": "soon"})),
        refused("properties.inputs", json!({"d": {"jobInputType": "uri_folder", "uri": "https://example.com/x"}})),
        refused(
            "properties.inputs",
            json!({"d": {"jobInputType": "mltable", "uri": "azureml://datastores/workspaceblobstore/paths/x"}}),
        ),
        refused(
            "properties.outputs",
            json!({"o": {"jobOutputType": "uri_folder", "uri": "azureml://datastores/workspacefilestore/paths/x"}}),
        ),
        refused("properties.environmentVariables", json!({"AZUREML_RUN_TOKEN": "x"})),
    ];
    insta::assert_snapshot!(all.join("\n"), @r"
(JobTypeNotSupported) Jobs of type 'Sweep' are not built; jobs of type 'Command' and pipelines of such run here.
(ServerlessComputeNotSupported) The job names no compute. Serverless compute comes with a later part; name a compute cluster.
(ComputeNotFound) The compute '/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/moatws/computes/other' that the job names does not exist.
(EnvironmentNotFound) Environment 'nothing': There is no environment of that name and version in the workspace, and no curated one
(EnvironmentNotFound) Environment 'e:2': There is no environment of that name and version in the workspace, and no curated one
(CodeNotFound) The code '/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/moatws/codes/c/versions/1' does not exist.
(InvalidExpression) The command holds 'inputs.x', which cannot be resolved: the job's inputs are: none.
(SettingNotSupported) Distributed jobs (PyTorch) are not built: a job has one node.
(SettingNotSupported) The job asks for 2 nodes; a job has one node here.
(SettingNotSupported) A job runs with the token of its own run; the identity 'Managed' is not built.
(SettingNotSupported) The service 'my_vscode' (vs_code) would open a port of the node, which is not built.
(SettingNotSupported) The tier 'Spot' comes with serverless compute, which is not built.
(InvalidTimeout) The limit 'soon' is no time between a second and 90 days in the form PT1H30M.
(DataNotSupported) 'https://example.com/x' is no blob of a storage account of this environment; nodes fetch data from those only.
(InputNotSupported) The input 'd' is an 'mltable', which is not built. Use 'uri_file' or 'uri_folder'.
(DatastoreNotSupported) The datastore 'workspacefilestore' is of type AzureFile; jobs read and write datastores of type AzureBlob only.
(InvalidEnvironmentVariable) 'AZUREML_RUN_TOKEN' holds the run's token and cannot be set by the job.
");
}
