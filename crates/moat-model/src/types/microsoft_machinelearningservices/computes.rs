//! `Microsoft.MachineLearningServices/workspaces/computes`: compute clusters (`AmlCompute`).
//!
//! A document here says what was asked for. Whether nodes exist is told by node documents below it
//! (`nodes.rs`), written by the scheduler, which also writes `provisioningState`,
//! `allocationState`, `targetNodeCount` and `errors`; a client's write leaves those as they are.
//! What is refused stands in `compute_rules.rs`. Other kinds of compute are not here yet.

use std::sync::Arc;

use moat_arm::{ApiError, Batch, ResourceId, Snapshot, Stored, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, auto_network, compute_rules, nodes};
use crate::refs;
use crate::resource_type::{Action, ActionResult, Completion, ResourceType, Scope, TypeCtx, Write};
use crate::types::shape;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.MachineLearningServices/workspaces/computes",
    api_versions: API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Reconciled,
    location_required: false,
    inherit,
    refusals: compute_rules::ALL,
    complete,
    render,
    actions: &[
        Action { name: "listNodes", run: list_nodes },
        Action { name: "listKeys", run: not_for_clusters },
        Action { name: "start", run: not_for_clusters },
        Action { name: "stop", run: not_for_clusters },
        Action { name: "restart", run: not_for_clusters },
    ],
    references: |d| refs::ids(d, &[SUBNET]),
    ..ResourceType::BLANK
};

/// The subnet of a cluster.
pub(super) const SUBNET: &str = "properties.properties.subnet.id";
/// What the scheduler writes.
const STATE: [&str; 4] = ["allocationState", "allocationStateTransitionTime", "targetNodeCount", "errors"];
/// Nobody said whether nodes can be logged in to from outside.
const UNDECIDED: &str = "moat.remoteLoginNotSpecified";
/// Idle time before a node goes, unless the client says (AML-LIF-009).
const IDLE_DEFAULT: &str = "PT120S";

/// Every compute document, in key order.
pub fn all(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Stored>> {
    snapshot
        .in_groups("Microsoft.MachineLearningServices/workspaces")
        .into_iter()
        .flat_map(|workspace| snapshot.below(&workspace.id))
        .filter(|d| d.id.resource_type().eq_ignore_ascii_case(TYPE.name))
}

/// Computes that were created in this subnet, also while they have no node (AML-LIF-006).
pub fn in_subnet(snapshot: &Snapshot, subnet: &ResourceId) -> Vec<ResourceId> {
    all(snapshot)
        .filter(|d| auto_network::subnet(&d.body).is_some_and(|s| s.is_within(subnet)))
        .map(|d| d.id.clone())
        .collect()
}

/// The region a compute runs in, normalised.
pub fn region(body: &Value) -> Option<String> {
    document::str_at(body, "properties.computeLocation")
        .or_else(|| document::str_at(body, "location"))
        .map(refs::location_key)
}

/// Carries over what clients leave out or cannot set.
fn inherit(ctx: &TypeCtx<'_>, write: &mut Write<'_>) {
    let workspace = write.id.parent().and_then(|w| refs::location_of(ctx.snapshot, &w));
    let asked = document::str_at(&write.body, "properties.computeLocation").filter(|l| !l.is_empty());
    let here = document::str_at(&write.body, "location").filter(|l| !l.is_empty());
    // v1 says where the cluster runs in `computeLocation`; without any word it is the workspace's region.
    let region = asked.or(here).map(refs::location_key).or(workspace).unwrap_or_default();
    document::set_default(&mut write.body, "location", json!(region));
    document::set(&mut write.body, "properties.computeLocation", json!(region));
    let Some(before) = write.before else { return };
    // PROTOCOL trap 7: v2 sends `subnet: {}` when it changes something else.
    if document::str_at(&write.body, SUBNET).is_none_or(str::is_empty)
        && let Some(subnet) = document::at(before, "properties.properties.subnet")
    {
        document::set(&mut write.body, "properties.properties.subnet", subnet.clone());
    }
    for member in
        ["vmSize", "vmPriority", "osType", "enableNodePublicIp", "remoteLoginPortPublicAccess", "scaleSettings"]
    {
        shape::keep_if_absent(write, &format!("properties.properties.{member}"));
    }
    for member in ["computeType", "description", "disableLocalAuth"] {
        shape::keep_if_absent(write, &format!("properties.{member}"));
    }
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let now = shape::time(ctx.now);
    let (before, body) = (write.before, &mut write.body);
    for computed in ["currentNodeCount", "nodeStateCounts"] {
        document::remove(body, &format!("properties.properties.{computed}"));
    }
    // A password is checked by nobody here and never kept.
    document::remove(body, "properties.properties.userAccountCredentials.adminUserPassword");
    let fresh = [json!("Steady"), json!(now), json!(0), Value::Null];
    for (member, fresh) in STATE.into_iter().zip(fresh) {
        let path = format!("properties.properties.{member}");
        let kept = before.map(|b| document::at(b, &path).cloned().unwrap_or_default());
        document::set(body, &path, kept.unwrap_or(fresh));
    }
    document::set(body, "properties.computeType", json!("AmlCompute"));
    for (member, value) in [
        ("tags", json!({})),
        ("properties.description", json!("")),
        ("properties.disableLocalAuth", json!(false)),
        ("properties.properties.vmPriority", json!("Dedicated")),
        ("properties.properties.osType", json!("Linux")),
        ("properties.properties.isolatedNetwork", json!(false)),
        ("properties.properties.enableBatchPrivateLink", json!(false)),
        ("properties.properties.enableNodePublicIp", json!(true)),
        ("properties.properties.scaleSettings.minNodeCount", json!(0)),
        ("properties.properties.scaleSettings.nodeIdleTimeBeforeScaleDown", json!(IDLE_DEFAULT)),
    ] {
        document::set_default(body, member, value);
    }
    if document::str_at(body, SUBNET).is_none_or(str::is_empty) {
        document::set(body, "properties.properties.subnet", Value::Null);
    }
    let remote = remote_login(body, before);
    let open = document::str_at(body, "properties.properties.remoteLoginPortPublicAccess")
        .is_none_or(|asked| asked.eq_ignore_ascii_case("NotSpecified"));
    if open && before.is_none() {
        document::set(body, UNDECIDED, json!(true));
    } else {
        document::remove(body, UNDECIDED);
    }
    document::set(body, "properties.properties.remoteLoginPortPublicAccess", json!(remote));
    let created = before.and_then(|b| document::at(b, "properties.createdOn")).cloned().unwrap_or(json!(now));
    document::set(body, "properties.createdOn", created);
    document::set(body, "properties.modifiedOn", json!(now));
    document::set(body, "properties.provisioningErrors", Value::Null);
    document::set(body, "properties.isAttachedCompute", json!(false));
    document::set(body, "properties.resourceId", Value::Null);
    shape::complete_identity(ctx, write);
    Ok(())
}

/// AML-RES-016: not specified means closed in a VNet and open outside; afterwards it is one of both.
pub(super) fn remote_login(body: &Value, before: Option<&Value>) -> &'static str {
    const PATH: &str = "properties.properties.remoteLoginPortPublicAccess";
    let said = |v: &Value| document::str_at(v, PATH).unwrap_or("NotSpecified").to_lowercase();
    let mut value = said(body);
    if value == "notspecified"
        && let Some(before) = before
    {
        value = said(before);
    }
    match value.as_str() {
        "enabled" => "Enabled",
        "disabled" => "Disabled",
        _ if document::str_at(body, SUBNET).is_some_and(|s| !s.is_empty()) => "Disabled",
        _ => "Enabled",
    }
}

fn render(ctx: &TypeCtx<'_>, id: &ResourceId, body: &mut Value) {
    let (count, states) = nodes::counts(ctx.snapshot, id);
    document::set(body, "properties.properties.currentNodeCount", json!(count));
    document::set(body, "properties.properties.nodeStateCounts", states);
    // Clients take any array for trouble; none is null.
    if document::array_at(body, "properties.properties.errors").is_empty() {
        document::set(body, "properties.properties.errors", Value::Null);
    }
    // AML-RES-016: what was not specified is decided when the cluster stands.
    let making = document::str_at(body, "properties.provisioningState") == Some("Creating");
    if making && document::bool_at(body, UNDECIDED) == Some(true) {
        document::set(body, "properties.properties.remoteLoginPortPublicAccess", json!("NotSpecified"));
    }
    // What the service keeps for itself once a cluster stands; of this one there is nothing.
    if document::str_at(body, "properties.provisioningState") == Some("Succeeded") {
        document::set_default(body, "properties.properties.propertyBag", json!({}));
    }
}

fn list_nodes(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value) -> Result<ActionResult, ApiError> {
    Ok(ActionResult { body: nodes::list(ctx.snapshot, id), long_running: false, batch: Batch::default() })
}

fn not_for_clusters(_: &TypeCtx<'_>, id: &ResourceId, _: &Value) -> Result<ActionResult, ApiError> {
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "OperationNotSupported",
        format!("The operation is not supported for compute '{}' of type AmlCompute.", id.name()),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{cluster, cluster_id, ml_world};

    #[test]
    fn the_seeds_cluster_has_all_that_clients_read() {
        let mut world = ml_world(Edition::Seed2021);
        world.put(&cluster_id("cpucluster"), cluster(json!({}))).unwrap();
        let answered = world.get(&cluster_id("cpucluster"));
        insta::assert_snapshot!(serde_json::to_string_pretty(&answered).unwrap(), @r#"{
  "location": "westus2",
  "properties": {
    "computeType": "AmlCompute",
    "computeLocation": "westus2",
    "properties": {
      "vmSize": "STANDARD_D2_V2",
      "vmPriority": "dedicated",
      "scaleSettings": {
        "minNodeCount": 0,
        "maxNodeCount": 4,
        "nodeIdleTimeBeforeScaleDown": "PT1800S"
      },
      "subnet": {
        "id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/mynetwork/subnets/default"
      },
      "remoteLoginPortPublicAccess": "Disabled",
      "enableNodePublicIp": true,
      "allocationState": "Steady",
      "allocationStateTransitionTime": "1970-01-01T00:00:00.0000000Z",
      "targetNodeCount": 0,
      "errors": null,
      "osType": "Linux",
      "isolatedNetwork": false,
      "enableBatchPrivateLink": false,
      "currentNodeCount": 0,
      "nodeStateCounts": {
        "idleNodeCount": 0,
        "runningNodeCount": 0,
        "preparingNodeCount": 0,
        "unusableNodeCount": 0,
        "leavingNodeCount": 0,
        "preemptedNodeCount": 0
      }
    },
    "description": "",
    "disableLocalAuth": false,
    "createdOn": "1970-01-01T00:00:00.0000000Z",
    "modifiedOn": "1970-01-01T00:00:00.0000000Z",
    "provisioningErrors": null,
    "isAttachedCompute": false,
    "resourceId": null
  },
  "tags": {},
  "moat": {
    "remoteLoginNotSpecified": true
  }
}"#);
    }

    #[test]
    fn counts_and_the_node_list_follow_the_node_documents() {
        let mut world = ml_world(Edition::Seed2021);
        let id = cluster_id("cpucluster");
        world.put(&id, cluster(json!({}))).unwrap();
        for (name, state) in [("n0", "idle"), ("n1", "unusable"), ("n2", "idle")] {
            let node = json!({"properties": {"state": state, "privateIpAddress": "10.0.0.4", "port": 50000}});
            world.store(&format!("{id}/nodes/{name}"), node);
        }
        let answered = world.get(&id);
        let inner = &answered["properties"]["properties"];
        assert_eq!(inner["currentNodeCount"], 3);
        assert_eq!(inner["nodeStateCounts"]["idleNodeCount"], 2);
        assert_eq!(inner["nodeStateCounts"]["unusableNodeCount"], 1);
        let nodes = world.post(&id, "listNodes", Value::Null).unwrap();
        assert_eq!(nodes["nodes"][1]["nodeState"], "unusable");
        assert_eq!(nodes["nodes"][0]["privateIpAddress"], "10.0.0.4");
        insta::assert_snapshot!(world.post(&id, "stop", Value::Null).unwrap_err(), @"(OperationNotSupported) The operation is not supported for compute 'cpucluster' of type AmlCompute.");
    }

    #[test]
    fn an_update_keeps_what_it_leaves_out() {
        let mut world = ml_world(Edition::Current);
        let id = cluster_id("cpu2");
        let first = world.put(&id, cluster(json!({"enableNodePublicIp": false}))).unwrap();
        // As azure-ai-ml sends it (PROTOCOL trap 7).
        let update = json!({"location": "westus2", "properties": {"description": "", "computeType": "AmlCompute",
            "disableLocalAuth": true, "properties": {"vmSize": "Standard_D2_v2", "vmPriority": "Dedicated",
            "scaleSettings": {"maxNodeCount": 3, "minNodeCount": 0, "nodeIdleTimeBeforeScaleDown": "PT2M"}, "subnet": {},
            "remoteLoginPortPublicAccess": "Disabled", "enableNodePublicIp": false, "osType": "Linux",
            "currentNodeCount": 7, "allocationState": "Resizing"}}});
        let second = world.put(&id, update).unwrap();
        let (a, b) = (&first["properties"]["properties"], &second["properties"]["properties"]);
        assert_eq!(a["subnet"], b["subnet"]);
        assert_eq!(b["scaleSettings"]["maxNodeCount"], 3);
        assert_eq!(b["allocationState"], "Steady");
        assert!(b.get("currentNodeCount").is_none());
    }

    #[test]
    fn a_subnet_with_a_cluster_cannot_go() {
        let mut world = ml_world(Edition::Current);
        world.put(&cluster_id("cpucluster"), cluster(json!({}))).unwrap();
        let subnet = crate::types::testing::net("virtualNetworks/mynetwork/subnets/default");
        insta::assert_snapshot!(world.delete(&subnet).unwrap_err(), @"(InUseSubnetCannotBeDeleted) Subnet default is in use by /subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/moatws/computes/cpucluster and cannot be deleted. In order to delete the subnet, delete all the resources within the subnet. See aka.ms/deletesubnet.");
    }
}
