//! Whole plans, as text.
#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use super::*;
use crate::edition::Edition;
use crate::types::microsoft_machinelearningservices::experiments;
use crate::types::testing::{GROUP, World, cluster, cluster_id, ml_world, store};
use moat_arm::document;
use serde_json::json;

fn id(tail: &str) -> String {
    format!("{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/moatws/{tail}")
}

fn world() -> World {
    let mut world = ml_world(Edition::Current);
    store(&mut world);
    world.put(&cluster_id("cpu"), cluster(json!({}))).unwrap();
    world.put(&id("environments/e/versions/1"), json!({"properties": {"image": "ubuntu:22.04"}})).unwrap();
    world
        .put(
            &id("codes/c/versions/1"),
            json!({"properties": {"codeUri": "https://moatstore1.blob.core.windows.net/code/guid/src"}}),
        )
        .unwrap();
    world
        .put(
            &id("data/d/versions/1"),
            json!({"properties": {"dataType": "uri_folder", "dataUri": "azureml://datastores/workspaceblobstore/paths/LocalUpload/h/src"}}),
        )
        .unwrap();
    world
}

fn job() -> Value {
    json!({"properties": {"jobType": "Command", "command": "python t.py --d ${{inputs.d}} --lr ${{inputs.lr}} --o ${{outputs.model}}",
    "computeId": cluster_id("cpu"), "codeId": id("codes/c/versions/1"),
    "environmentId": id("environments/e/versions/1"), "experimentName": "exp",
    "environmentVariables": {"A": "${{inputs.lr}}"}, "limits": {"timeout": "PT5M"},
    "inputs": {
        "d": {"jobInputType": "uri_folder", "uri": id("data/d/versions/1")},
        "lr": {"jobInputType": "literal", "value": "0.1"},
        "file": {"jobInputType": "uri_file", "mode": "Download",
            "uri": "azureml://subscriptions/s/resourcegroups/g/workspaces/moatws/datastores/workspaceblobstore/paths/a/b.csv"},
        "blob": {"jobInputType": "uri_file", "mode": "Direct", "uri": "https://moatstore1.blob.core.windows.net/data/x%20y.csv?sv=secret"},
    },
    "outputs": {
        "model": {"jobOutputType": "uri_folder"},
        "report": {"jobOutputType": "uri_file", "mode": "Upload", "uri": "azureml://datastores/workspaceblobstore/paths/out/${{name}}/r.csv"},
    }}})
}

#[test]
fn a_job_is_planned_whole() {
    let mut world = world();
    world.put(&id("jobs/happy_drain"), job()).unwrap();
    let stored = world.snapshot.get(&ResourceId::parse(&id("jobs/happy_drain")).unwrap()).unwrap().clone();
    let workspace = world.get(&id("")[..id("").len() - 1]);
    let text = format!("{:#?}", plan(&world.snapshot, &stored).unwrap());
    let text = text.replace(workspace["properties"]["workspaceId"].as_str().unwrap(), "WORKSPACE");
    let stored = world.snapshot.get(&stored.id.parent().unwrap()).unwrap();
    let text = text.replace(&experiments::experiment_id(stored, "exp"), "EXPERIMENT");
    assert!(!text.contains("secret"), "a signature in an address is not carried on");
    insta::assert_snapshot!(text);
}

#[test]
fn outputs_of_jobs_are_inputs_of_others() {
    let mut world = world();
    world.put(&id("jobs/first"), job()).unwrap();
    let mut single = job();
    document::set(&mut single, "properties.outputs.single", json!({"jobOutputType": "uri_file"}));
    world.put(&id("jobs/second"), single).unwrap();
    let locator = |world: &World, uri: &str| {
        let workspace = ResourceId::parse(&id("jobs/x")).unwrap().parent().unwrap();
        Locator { snapshot: &world.snapshot, workspace: &workspace }
            .find(uri)
            .map(|l| l.place.path)
            .unwrap_or_else(|e| e.to_string())
    };
    assert_eq!(locator(&world, "azureml://jobs/first/outputs/model"), "azureml/first/model");
    assert_eq!(locator(&world, "azureml://jobs/first/outputs/model/paths/a/b"), "azureml/first/model/a/b");
    assert_eq!(
        locator(&world, "azureml://jobs/first/outputs/artifacts/paths/outputs"),
        "ExperimentRun/dcid.first/outputs"
    );
    assert_eq!(locator(&world, "azureml://jobs/second/outputs/single"), "azureml/second/single/single");
    assert_eq!(locator(&world, "azureml://jobs/second/outputs/report"), "out/second/r.csv");
    assert_eq!(locator(&world, "azureml:d:1"), "LocalUpload/h/src");
    assert_eq!(locator(&world, "azureml:d@latest"), "LocalUpload/h/src");
    assert_eq!(locator(&world, "wasbs://c@moatstore1.blob.core.windows.net/x/y"), "x/y");
    assert_eq!(locator(&world, "wasbs://c@moatstore1.blob.core.windows.net/"), "");
    let refused: Vec<String> = [
        "azureml://jobs/none/outputs/model",
        "azureml://jobs/first/outputs/other",
        "azureml://datastores/none/paths/x",
        "azureml://datastores/workspacefilestore/paths/x",
        "azureml://datastores/workspaceblobstore/paths/../x",
        "azureml://registries/r/data/d/versions/1",
        "azureml:none:1",
        "https://elsewhere.blob.core.windows.net/c/x",
        "https://example.com/x.csv",
        "https://moatstore1.blob.core.windows.net/c/%2e%2e/x",
        "wasbs://c@elsewhere.blob.core.windows.net/x",
        "abfss://c@moatstore1.dfs.core.windows.net/x",
        "./local",
    ]
    .iter()
    .map(|uri| locator(&world, uri))
    .collect();
    insta::assert_snapshot!(refused.join("\n"), @r"
(DataNotFound) 'azureml://jobs/none/outputs/model' names an output of a job that does not exist.
(DataNotFound) 'azureml://jobs/first/outputs/other' names an output of a job that does not exist.
(DatastoreNotFound) The datastore 'none' does not exist in workspace 'moatws'.
(DatastoreNotSupported) The datastore 'workspacefilestore' is of type AzureFile; jobs read and write datastores of type AzureBlob only.
(InvalidPath) The path of 'azureml://datastores/workspaceblobstore/paths/../x' holds '.', '..', a backslash or a control character.
(DataNotSupported) 'azureml://registries/r/data/d/versions/1' lies in a registry; registries are not served here.
(DataNotFound) The data 'azureml:none:1' that the job names does not exist.
(DataNotSupported) 'https://elsewhere.blob.core.windows.net/c/x' is no blob of a storage account of this environment; nodes fetch data from those only.
(DataNotSupported) 'https://example.com/x.csv' is no blob of a storage account of this environment; nodes fetch data from those only.
(InvalidPath) The path of 'https://moatstore1.blob.core.windows.net/c/%2e%2e/x' holds '.', '..', a backslash or a control character.
(DataNotSupported) 'wasbs://c@elsewhere.blob.core.windows.net/x' is no blob of a storage account of this environment; nodes fetch data from those only.
(DataNotSupported) 'abfss://c@moatstore1.dfs.core.windows.net/x' is read by 'abfss', which leads out of this environment. Put the data into a datastore.
(DataNotSupported) './local' names no data that is known here. Known are data assets (`azureml:NAME:VERSION`), datastores (`azureml://datastores/NAME/paths/PATH`), outputs of jobs (`azureml://jobs/NAME/outputs/NAME`) and blobs of this environment (`https://ACCOUNT.blob.core.windows.net/...`).
");
}

#[test]
fn assets_that_name_each_other_end() {
    let mut world = world();
    for (name, other) in [("a", "b"), ("b", "a")] {
        let body = json!({"properties": {"dataUri": format!("azureml:{other}:1")}});
        world.put(&id(&format!("data/{name}/versions/1")), body).unwrap();
    }
    let workspace = ResourceId::parse(&id("jobs/x")).unwrap().parent().unwrap();
    let error = Locator { snapshot: &world.snapshot, workspace: &workspace }.find("azureml:a:1").unwrap_err();
    assert!(error.message.contains("circle"), "{error}");
}
