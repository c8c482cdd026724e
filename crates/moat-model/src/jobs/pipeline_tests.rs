//! Pipelines as azure-ai-ml sends them: which jobs their steps become, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use super::*;
use crate::edition::Edition;
use crate::types::testing::{GROUP, World, cluster, cluster_id, ml_world, store};

fn id(tail: &str) -> String {
    format!("{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/moatws/{tail}")
}

fn component(world: &mut World, name: &str, more: Value) {
    let mut spec = json!({"type": "command", "environment": "azureml:AzureML-sklearn-1.5@latest"});
    document::merge(&mut spec, &more);
    let body = json!({"properties": {"componentSpec": spec}});
    world.put(&id(&format!("components/{name}/versions/1")), body).unwrap();
}

/// One component writes, one reads.
fn world() -> World {
    let mut world = ml_world(Edition::Current);
    store(&mut world);
    world.put(&cluster_id("cpu"), cluster(json!({}))).unwrap();
    component(
        &mut world,
        "write",
        json!({"command": "echo ${{inputs.text}} > ${{outputs.out}}/x $[[${{inputs.no}}]]",
            "inputs": {"text": {"type": "string", "default": "hi"}, "no": {"type": "string", "optional": true}},
            "outputs": {"out": {"type": "uri_folder"}, "file": {"type": "uri_file"}}}),
    );
    component(
        &mut world,
        "read",
        json!({"command": "cat ${{inputs.d}}/x ${{inputs.f}}", "resources": {"instance_count": 1},
            "inputs": {"d": {"type": "uri_folder"}, "f": {"type": "uri_file", "optional": true}}}),
    );
    world
}

fn pipeline() -> Value {
    json!({"properties": {"jobType": "Pipeline", "experimentName": "e", "settings": {"default_compute": cluster_id("cpu")},
    "inputs": {"text": {"jobInputType": "literal", "value": "hello"}},
    "outputs": {"kept": {"jobOutputType": "uri_folder", "mode": "ReadWriteMount"}},
    "jobs": {
        "a": {"type": "command", "componentId": id("components/write/versions/1"),
            "inputs": {"text": {"job_input_type": "literal", "value": "${{parent.inputs.text}}"}},
            "outputs": {"out": {"type": "literal", "value": "${{parent.outputs.kept}}"}},
            "environment_variables": {"my_name": "x"}},
        "b": {"type": "command", "componentId": id("components/read/versions/1"), "inputs": {
            "d": {"job_input_type": "literal", "value": "${{parent.jobs.a.outputs.out}}"},
            "f": {"job_input_type": "literal", "value": "${{parent.jobs.a.outputs.file}}"}}},
    }}})
}

fn changed(path: &str, value: Value) -> Value {
    let mut body = pipeline();
    document::set(&mut body, &format!("properties.{path}"), value);
    body
}

#[test]
fn steps_are_jobs_that_wait_for_each_other() {
    let mut world = world();
    world.put(&id("jobs/p"), pipeline()).unwrap();
    let (a, b) = (world.get(&id("jobs/p_a")), world.get(&id("jobs/p_b")));
    assert_eq!(a["properties"]["inputs"]["text"]["value"], "hello");
    assert_eq!(a["properties"]["environmentVariables"]["my_name"], "x");
    // The pipeline's output lies where a client looks for it by the pipeline's name.
    let kept = "azureml://datastores/workspaceblobstore/paths/azureml/p/kept/";
    assert_eq!(a["properties"]["outputs"]["out"]["uri"], kept);
    assert_eq!(b["properties"]["inputs"]["d"]["uri"], kept);
    let file = "azureml://datastores/workspaceblobstore/paths/azureml/p_a/file/file";
    assert_eq!(b["properties"]["inputs"]["f"]["uri"], file);
    assert_eq!(b["moat"]["run"]["after"], json!(["p_a"]));
    assert_eq!(world.get(&id("jobs/p"))["moat"]["run"]["steps"], json!(["p_a", "p_b"]));
    assert_eq!((&a["moat"]["run"]["number"], &b["moat"]["run"]["number"]), (&json!(2), &json!(3)));
}

#[test]
fn what_cannot_run_is_refused_with_its_step() {
    let mut world = world();
    let bind = |value: &str| json!({"job_input_type": "literal", "value": value});
    let refused: Vec<String> = [
        changed("jobs", json!({})),
        changed("jobs.a.type", json!("sweep")),
        changed("jobs.a.componentId", json!(id("components/none/versions/1"))),
        changed("jobs.a.resources", json!({"instance_count": 2})),
        changed("jobs.a.services", json!({"my_ssh": {"job_service_type": "SSH"}})),
        changed("jobs.a.computeId", json!(id("computes/serverless"))),
        changed("jobs.a.inputs.text", bind("${{parent.inputs.none}}")),
        changed("jobs.a.inputs.text", bind("x ${{parent.inputs.text}}")),
        changed("jobs.a.inputs.text", bind("${{parent.jobs.a.outputs.out}}")),
        changed("jobs.b.inputs.d", bind("${{parent.jobs.c.outputs.out}}")),
        changed("jobs.b.inputs.d", bind("${{parent.jobs.a.outputs.none}}")),
        changed("jobs.b.inputs", json!({})),
    ]
    .into_iter()
    .map(|body| world.put(&id("jobs/p"), body).unwrap_err().to_string())
    .collect();
    insta::assert_snapshot!(refused.join("\n"));
}

#[test]
fn members_are_spelled_as_in_json() {
    let yaml = json!({"job_input_type": "literal", "value": "a_b", "x": [{"instance_count": 1}]});
    assert_eq!(in_json(&yaml), json!({"jobInputType": "literal", "value": "a_b", "x": [{"instanceCount": 1}]}));
}
