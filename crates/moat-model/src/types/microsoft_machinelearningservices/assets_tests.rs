//! Assets as their clients meet them: versions, labels, hashes, what may change and what may not.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]
use super::*;
use crate::edition::Edition;
use crate::types::testing::{GROUP, World, ml_world, store};

fn id(tail: &str) -> String {
    format!("{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/moatws/{tail}")
}

fn world() -> World {
    let mut world = ml_world(Edition::Current);
    store(&mut world);
    world
}

#[test]
fn a_version_makes_its_container_and_is_the_latest() {
    let mut world = world();
    for version in ["1", "10", "9"] {
        let body = json!({"properties": {"image": "ubuntu:22.04"}});
        world.put(&id(&format!("environments/moatenv/versions/{version}")), body).unwrap();
    }
    let container = world.get(&id("environments/moatenv"));
    // The newest is the one made last; the next number is above the highest.
    assert_eq!(container["properties"]["latestVersion"], "9");
    assert_eq!(container["properties"]["nextVersion"], "11");
    let parent = ResourceId::parse(&id("environments/moatenv")).unwrap();
    assert_eq!(latest(&world.snapshot, &parent).unwrap().name(), "9");
    world.delete(&id("environments/moatenv/versions/9")).unwrap();
    assert_eq!(latest(&world.snapshot, &parent).unwrap().name(), "10");
}

#[test]
fn what_a_version_names_does_not_change() {
    let mut world = world();
    let (code, data, env) = (id("codes/c/versions/1"), id("data/d/versions/1"), id("environments/e/versions/1"));
    world.put(&code, json!({"properties": {"codeUri": "https://a/b/c"}})).unwrap();
    world.put(&data, json!({"properties": {"dataUri": "azureml://datastores/workspaceblobstore/paths/x"}})).unwrap();
    world.put(&env, json!({"properties": {"image": "ubuntu:22.04"}})).unwrap();
    // The same again, and what people write on it, is fine.
    let tagged = json!({"properties": {"codeUri": "https://a/b/c", "tags": {"k": "v"}, "isArchived": true}});
    assert_eq!(world.put(&code, tagged).unwrap()["properties"]["tags"]["k"], "v");
    world.put(&env, json!({"properties": {"image": "ubuntu:22.04", "osType": "Linux"}})).unwrap();
    let refused = [
        world.put(&code, json!({"properties": {"codeUri": "https://a/b/other"}})).unwrap_err(),
        world
            .put(&data, json!({"properties": {"dataUri": "azureml://datastores/workspaceblobstore/paths/y"}}))
            .unwrap_err(),
        world.put(&env, json!({"properties": {"image": "ubuntu:24.04"}})).unwrap_err(),
        world.put(&id("codes/c/versions/2"), json!({"properties": {}})).unwrap_err(),
        world.put(&id("data/a b/versions/2"), json!({"properties": {"dataUri": "x"}})).unwrap_err(),
    ];
    let text: Vec<String> = refused.iter().map(|e| format!("{} {e}", e.status)).collect();
    insta::assert_snapshot!(text.join("\n"), @r"
409 (UserError) Asset paths cannot be updated.
409 (UserError) Asset paths cannot be updated.
409 (UserError) The version '1' exists with another 'image', and versions do not change. Use a new version.
400 (UserError) The version '2' names nothing: 'codeUri' is missing.
400 (InvalidAssetName) 'a b' is no name of an asset or version: a letter, digit or '_', then letters, digits, '-', '_' and '.', at most 255.
");
}

#[test]
fn a_component_says_its_name_and_version_and_does_not_change() {
    let mut world = world();
    let version = id("components/train/versions/3");
    let spec = |command: &str| json!({"properties": {"componentSpec": {"type": "command", "command": command}}});
    world.put(&version, spec("ls")).unwrap();
    world.put(&version, spec("ls")).unwrap();
    assert_eq!(world.put(&version, spec("rm")).unwrap_err().status, 409);
    assert_eq!(world.put(&id("components/none/versions/1"), json!({"properties": {}})).unwrap_err().status, 400);
    let parsed = ResourceId::parse(&version).unwrap();
    let mut shown = world.get(&version);
    world.with_ctx(|ctx| (COMPONENT_VERSIONS.render)(ctx, &parsed, &mut shown));
    let shown = &shown["properties"]["componentSpec"];
    assert_eq!((&shown["name"], &shown["version"]), (&json!("train"), &json!("3")));
    assert_eq!(shown["resources"], json!({"instance_count": "1"}));
    let mut sent =
        json!({"properties": {"componentSpec": {"is_deterministic": false, "inputs": {"a": {"type": "x"}}}}});
    render_specification(&mut sent);
    let expected = json!({"is_deterministic": "False", "inputs": {"a": {"type": "x", "optional": "False"}}});
    assert_eq!(sent["properties"]["componentSpec"], expected);
}

#[test]
fn the_spelling_of_ids_in_front_of_a_datastore_is_no_other_path() {
    const PATH: &str = "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/store/paths/m.pkl";
    assert!(same_path(PATH, &PATH.replace("resourcegroups", "resourceGroups")));
    assert!(!same_path(PATH, &PATH.replace("m.pkl", "M.pkl")));
    assert!(!same_path("https://a/datastores/x", "https://A/datastores/x"));
}

#[test]
fn an_upload_gets_a_prefix_of_its_own_and_nothing_more() {
    let mut world = world();
    let version = id("codes/c/versions/1");
    let first =
        world.post(&version, "startPendingUpload", json!({"pendingUploadType": "TemporaryBlobReference"})).unwrap();
    let reference = &first["blobReferenceForConsumption"];
    let (uri, sas) = (reference["blobUri"].as_str().unwrap(), reference["credential"]["sasUri"].as_str().unwrap());
    assert!(uri.starts_with("https://moatstore1.blob.core.windows.net/azureml-blobstore-"), "{uri}");
    assert!(sas.starts_with(&format!("{uri}?")) && sas.contains("sr=d") && sas.contains("sdd=1"), "{sas}");
    // Every request has a seed of its own.
    world.put(&version, json!({"properties": {"codeUri": uri}})).unwrap();
    let second = world.post(&version, "startPendingUpload", json!({})).unwrap();
    assert_ne!(second["blobReferenceForConsumption"]["blobUri"], first["blobReferenceForConsumption"]["blobUri"]);
}

#[test]
fn lists_know_hash_tags_and_archive() {
    let body = json!({"properties": {"properties": {"hash_sha256": "abc"}, "tags": {"a": "b"}, "isArchived": true}});
    let ask = |pairs: &[(&str, &str)]| {
        let query = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        listed(&query, &body)
    };
    assert!(!ask(&[]));
    assert!(ask(&[("listviewtype", "All")]) && ask(&[("listviewtype", "ArchivedOnly"), ("hash", "abc")]));
    assert!(!ask(&[("listviewtype", "All"), ("hash", "other")]));
    assert!(ask(&[("listviewtype", "All"), ("tags", "a=b")]) && !ask(&[("listviewtype", "All"), ("tags", "a=c")]));
}
