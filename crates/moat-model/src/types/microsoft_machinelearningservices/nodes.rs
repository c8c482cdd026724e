//! The nodes of a cluster: documents of our own below the compute, written by the scheduler, never
//! seen by clients as such. `listNodes` and the counts of a cluster are read from them.

use moat_arm::{ResourceId, Snapshot, Stored, document};
use serde_json::{Value, json};
use std::sync::Arc;

use super::auto_network::NODE_TYPE;
use crate::resource_type::{Completion, ResourceType, Scope};

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: NODE_TYPE,
    api_versions: super::API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Sync,
    location_required: false,
    hidden: true,
    ..ResourceType::BLANK
};

/// States that Azure counts (network-semantics 19.3, 19.4).
const STATES: [&str; 6] = ["idle", "running", "preparing", "unusable", "leaving", "preempted"];

/// The node documents of a compute, in key order.
pub fn of_compute<'a>(snapshot: &'a Snapshot, compute: &ResourceId) -> impl Iterator<Item = &'a Arc<Stored>> {
    snapshot.below(compute).filter(|d| d.id.resource_type().eq_ignore_ascii_case(NODE_TYPE))
}

fn state(node: &Value) -> &str {
    document::str_at(node, "properties.state").unwrap_or("preparing")
}

/// How many nodes there are, and `nodeStateCounts`.
pub(super) fn counts(snapshot: &Snapshot, compute: &ResourceId) -> (usize, Value) {
    let states: Vec<&str> = of_compute(snapshot, compute).map(|d| state(&d.body)).collect();
    let mut counts = json!({});
    for name in STATES {
        let count = states.iter().filter(|s| s.eq_ignore_ascii_case(name)).count();
        document::set(&mut counts, &format!("{name}NodeCount"), json!(count));
    }
    (states.len(), counts)
}

/// The answer to `listNodes`.
pub(super) fn list(snapshot: &Snapshot, compute: &ResourceId) -> Value {
    let nodes: Vec<Value> = of_compute(snapshot, compute)
        .map(|d| {
            let member = |name: &str| document::at(&d.body, &format!("properties.{name}")).cloned();
            json!({
                "nodeId": d.id.name(),
                "port": member("port"),
                "publicIpAddress": member("publicIpAddress"),
                "privateIpAddress": member("privateIpAddress"),
                "nodeState": state(&d.body),
                "runId": member("runId"),
            })
        })
        .collect();
    json!({ "nodes": nodes })
}
