//! Datastores: the ones of every workspace, their secrets, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]
use super::*;
use crate::edition::Edition;
use crate::types::testing::{GROUP, World, ml_world, store};

fn id(name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/moatws/datastores/{name}")
}

fn world() -> World {
    let mut world = ml_world(Edition::Current);
    store(&mut world);
    world
}

fn own_key(world: &World) -> String {
    storage_accounts::keys(&storage_accounts::find(&world.snapshot, "moatstore1").unwrap().body)[0].reveal()
}

#[test]
fn a_workspace_has_four_and_containers_for_them() {
    let mut world = world();
    let blob = world.get(&id(BLOB_STORE));
    let container = blob["properties"]["containerName"].as_str().unwrap().to_owned();
    assert!(container.starts_with("azureml-blobstore-") && blob["properties"]["isDefault"] == true);
    let account = storage_accounts::find(&world.snapshot, "moatstore1").unwrap().id.clone();
    for name in [container.as_str(), "azureml"] {
        assert!(containers::find(&world.snapshot, &account, name).is_some(), "{name}");
    }
    assert_eq!(world.get(&id(FILE_STORE))["properties"]["datastoreType"], "AzureFile");
    assert!(world.get(&id(WORKING_DIRECTORY))["properties"]["fileShareName"].as_str().unwrap().starts_with("code-"));
    // The key is the account's, also for a store that has none of its own, and is shown by this action alone.
    let secret = world.post(&id(ARTIFACT_STORE), "listSecrets", json!({"expirableSecret": true})).unwrap();
    assert_eq!(secret, json!({"secretsType": "AccountKey", "key": own_key(&world)}));
    assert!(!world.get(&id(ARTIFACT_STORE)).to_string().contains(&own_key(&world)));
    // Made once: a second write of the workspace changes nothing about them.
    let workspace = format!("{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/moatws");
    let body = world.snapshot.get(&ResourceId::parse(&workspace).unwrap()).unwrap().body.clone();
    world.put(&workspace, body).unwrap();
    assert_eq!(world.get(&id(BLOB_STORE))["properties"]["containerName"], container.as_str());
}

#[test]
fn one_is_the_default_and_secrets_stay_inside() {
    let mut world = world();
    let key = own_key(&world);
    let body = |secrets: Value| {
        json!({"properties": {"datastoreType": "AzureBlob", "accountName": "moatstore1", "containerName": "data",
            "isDefault": true, "credentials": {"credentialsType": "AccountKey", "secrets": secrets}}})
    };
    let stored = world.put(&id("mine"), body(json!({"secretsType": "AccountKey", "key": key}))).unwrap();
    assert!(stored["properties"]["credentials"].get("secrets").is_none());
    assert_eq!(world.get(&id(BLOB_STORE))["properties"]["isDefault"], false);
    // Sent back without the secret, as clients do.
    let again = world.snapshot.get(&ResourceId::parse(&id("mine")).unwrap()).unwrap().body.clone();
    world.put(&id("mine"), again).unwrap();
    assert_eq!(world.post(&id("mine"), "listSecrets", json!({})).unwrap()["key"], key.as_str());
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let mut world = world();
    let mut refused = |name: &str, properties: Value| {
        world.put(&id(name), json!({ "properties": properties })).unwrap_err().to_string()
    };
    let none = json!({"credentialsType": "None"});
    let all = [
        refused("a b", json!({})),
        refused("x", json!({"datastoreType": "Hdfs"})),
        refused("x", json!({"datastoreType": "AzureBlob", "accountName": "moatstore1", "credentials": none})),
        refused(
            "x",
            json!({"datastoreType": "AzureBlob", "accountName": "elsewhere", "containerName": "c", "credentials": none}),
        ),
        refused(
            "x",
            json!({"datastoreType": "AzureBlob", "accountName": "moatstore1", "containerName": "c",
            "credentials": {"credentialsType": "AccountKey"}}),
        ),
        refused(
            "x",
            json!({"datastoreType": "AzureBlob", "accountName": "moatstore1", "containerName": "c",
            "credentials": {"credentialsType": "AccountKey", "secrets": {"key": "AAAA"}}}),
        ),
        refused(
            BLOB_STORE,
            json!({"datastoreType": "AzureBlob", "accountName": "moatstore1", "containerName": "c",
            "credentials": {"credentialsType": "AccountKey"}}),
        ),
    ];
    insta::assert_snapshot!(all.join("\n"), @r"
(UserError) 'a b' is no name of a datastore: letters, digits, '_' and '-' are allowed, at most 255.
(UserError) The datastore type 'Hdfs' is not known. Known are: AzureBlob, AzureFile, AzureDataLakeGen2, AzureDataLakeGen1, OneLake.
(UserError) A datastore of type AzureBlob needs 'containerName'.
(UserError) The storage account 'elsewhere' does not exist in this environment.
(UserError) Credentials of type AccountKey need 'secrets.key'.
(UserError) The key is none of the storage account 'moatstore1'.
(UserError) 'workspaceblobstore' belongs to the workspace; its 'containerName' cannot be changed.
");
}
