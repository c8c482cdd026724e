//! Documents that a reconciler completes, on compute clusters.

use serde_json::json;

use super::{World, check, said};
use crate::request::{Decision, Origin};

const WS: &str = "{g}/providers/Microsoft.MachineLearningServices/workspaces/wks";

fn world() -> World {
    let mut w = World::with_group();
    w.have(
        "{n}/virtualNetworks/v",
        r#"{"location": "westus2", "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "subnets": [{"name": "d", "properties": {"addressPrefix": "10.0.0.0/24"}}]}}"#,
    );
    w.have(WS, r#"{"location": "westus2", "identity": {"type": "SystemAssigned"}, "properties": {}}"#);
    w
}

fn cluster() -> String {
    r#"{"location": "westus2", "properties": {"computeType": "AmlCompute", "properties": {"vmSize": "STANDARD_D2_V2",
        "vmPriority": "dedicated", "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 4, "nodeIdleTimeBeforeScaleDown": "PT1800S"},
        "subnet": {"id": "{n}/virtualNetworks/v/subnets/d"}}}}"#.to_owned()
}

fn poll_path(d: &Decision) -> String {
    let url = &d.headers.iter().find(|(n, _)| *n == "Azure-AsyncOperation").expect("trap 4: the header is there").1;
    assert!(url.contains("/locations/westus2/computeOperationsStatus/") && url.ends_with("&service=new"), "{url}");
    url.trim_start_matches("https://management.azure.com").to_owned()
}

#[test]
fn a_cluster_is_done_when_its_reconciler_says_so() {
    let mut w = world();
    let path = format!("{WS}/computes/cpu1");
    let made = w.put(&path, &cluster());
    assert_eq!(made.status, 201, "{}", said(&made));
    assert_eq!(made.body.as_ref().unwrap()["properties"]["provisioningState"], "Creating");
    let poll = poll_path(&made);
    assert_eq!(w.get(&poll).body.unwrap()["status"], "InProgress");
    assert_eq!(w.get(&path).body.unwrap()["properties"]["provisioningState"], "Creating");

    // A client's word about the state counts nothing, the platform's does.
    w.send(&format!("PATCH {path}"), Some(r#"{"properties": {"provisioningState": "Succeeded"}}"#));
    assert_ne!(w.get(&path).body.unwrap()["properties"]["provisioningState"], "Succeeded");
    w.origin = Origin::Service;
    w.send(
        &format!("PATCH {path}"),
        Some(r#"{"properties": {"provisioningState": "Succeeded"}, "moat": {"secret": 1}}"#),
    );
    w.origin = Origin::Public;
    assert_eq!(w.get(&poll).body.unwrap()["status"], "Succeeded");
    let shown = w.get(&path).body.unwrap();
    assert_eq!(shown["properties"]["provisioningState"], "Succeeded");
    assert!(shown.get("moat").is_none());

    // What the platform keeps survives a client's PUT.
    let again = w.put(&path, &cluster());
    assert_eq!(again.status, 200, "{}", said(&again));
    poll_path(&again);
    let id = moat_arm::ResourceId::parse(&super::expand(&path)).unwrap();
    assert_eq!(w.snapshot.get(&id).unwrap().body["moat"], json!({"secret": 1}));
}

#[test]
fn a_cluster_is_deleted_by_its_reconciler() {
    let mut w = world();
    let path = format!("{WS}/computes/cpu1");
    w.have(&path, &cluster());
    let deleted =
        w.send(&format!("DELETE {path}?api-version=2023-08-01-preview&underlyingResourceAction=Delete"), None);
    assert_eq!(deleted.status, 202, "{}", said(&deleted));
    let poll = poll_path(&deleted);
    assert_eq!(w.get(&poll).body.unwrap()["status"], "InProgress");
    assert_eq!(w.get(&path).body.unwrap()["properties"]["provisioningState"], "Deleting");
    w.origin = Origin::Service;
    w.delete(&path);
    w.origin = Origin::Public;
    assert_eq!(w.get(&poll).body.unwrap()["status"], "Succeeded");
    assert_eq!(w.get(&path).status, 404);
}

#[test]
fn a_group_waits_for_its_clusters() {
    let mut w = world();
    w.have(&format!("{WS}/computes/cpu1"), &cluster());
    let deleted = w.delete("{g}");
    assert_eq!(deleted.status, 202);
    let location = deleted.headers.iter().find(|(n, _)| *n == "Location").unwrap().1.clone();
    let poll = location.trim_start_matches("https://management.azure.com").to_owned();
    check(&mut w, &format!("GET {poll}"), None, "202");
    check(
        &mut w,
        "PUT {n}/networkSecurityGroups/a",
        Some(r#"{"location": "westus2"}"#),
        "409 ResourceGroupBeingDeleted: The resource group 'g' is in deprovisioning state and cannot perform this operation.",
    );
    assert_eq!(crate::pending_deletions(&w.snapshot).len(), 0);
    w.origin = Origin::Service;
    w.delete(&format!("{WS}/computes/cpu1"));
    loop {
        let next = crate::pending_deletions(&w.snapshot);
        let Some(request) = next.first() else { break };
        let done = w.commit(request);
        assert!(done.status < 300, "{}", said(&done));
    }
    w.origin = Origin::Public;
    check(&mut w, &format!("GET {poll}"), None, "200");
    assert_eq!(w.get("{g}").status, 404);
    assert_eq!(w.snapshot.all().filter(|d| d.id.resource_group().is_some()).count(), 0);
}

#[test]
fn a_deletion_that_fails_below_is_taken_back() {
    let mut w = world();
    w.have(&format!("{WS}/computes/cpu1"), &cluster());
    let deleted = w.delete("{g}");
    let poll = deleted.headers.iter().find(|(n, _)| *n == "Location").unwrap().1.clone();
    let poll = poll.trim_start_matches("https://management.azure.com").to_owned();
    w.origin = Origin::Service;
    w.send(&format!("PATCH {WS}/computes/cpu1"), Some(r#"{"properties": {"provisioningState": "Failed"}}"#));
    let next = crate::pending_deletions(&w.snapshot);
    assert_eq!(next.len(), 1);
    let done = w.commit(&next[0]);
    assert_eq!(done.status, 200, "{}", said(&done));
    assert_eq!(crate::pending_deletions(&w.snapshot).len(), 0);
    w.origin = Origin::Public;
    assert_eq!(w.get("{g}").body.unwrap()["properties"]["provisioningState"], "Succeeded");
    let answer = w.get(&poll);
    assert_eq!(
        (answer.status, answer.body.unwrap()["error"]["code"].clone()),
        (409, json!("ResourceGroupDeletionBlocked"))
    );
    assert_eq!(w.get(&format!("{WS}/computes/cpu1")).status, 200);
}

#[test]
fn a_workspace_waits_for_its_clusters_too() {
    let mut w = world();
    w.have(&format!("{WS}/computes/cpu1"), &cluster());
    assert_eq!(w.delete(WS).status, 202);
    assert_eq!(w.get(WS).body.unwrap()["properties"]["provisioningState"], "Deleting");
    let late = said(&w.put(&format!("{WS}/computes/cpu2"), &cluster()));
    assert!(late.starts_with("409 Conflict: The resource"), "{late}");
    w.origin = Origin::Service;
    w.delete(&format!("{WS}/computes/cpu1"));
    let next = crate::pending_deletions(&w.snapshot);
    w.commit(&next[0]);
    assert_eq!(w.get(WS).status, 404);
}

#[test]
fn nodes_are_nobodys_documents() {
    let mut w = world();
    w.have(&format!("{WS}/computes/cpu1"), &cluster());
    assert_eq!(w.get(&format!("{WS}/computes/cpu1/nodes")).status, 404);
    assert_eq!(w.get(&format!("{WS}/computes/cpu1/nodes/n0")).status, 404);
    assert_eq!(w.put(&format!("{WS}/computes/cpu1/nodes/n0"), "{}").status, 404);
    assert_eq!(w.names(&format!("{WS}/computes")), ["cpu1"]);
    let list = w.get(&format!("{WS}/computes")).body.unwrap();
    assert!(list.get("nextLink").is_none());
}
