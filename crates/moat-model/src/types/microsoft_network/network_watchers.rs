//! `Microsoft.Network/networkWatchers`: a place to ask what happens to a flow.

use moat_arm::document;
use serde_json::json;

use super::{API_VERSIONS, effective, flow_logs};
use crate::resource_type::{Action, Completion, Refusal, ResourceType};
use crate::types::shape;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/networkWatchers",
    api_versions: API_VERSIONS,
    completion: Completion::Applied,
    refusals: &[Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) }],
    render: |_, _, body| {
        for nothing in ["flowLogs", "runningOperationIds"] {
            document::set_default(body, &format!("properties.{nothing}"), json!([]));
        }
    },
    actions: &[
        Action { name: "ipFlowVerify", run: effective::ip_flow_verify },
        Action { name: "nextHop", run: effective::next_hop },
        Action { name: "configureFlowLog", run: flow_logs::configure },
        Action { name: "queryFlowLogStatus", run: flow_logs::query },
    ],
    ..ResourceType::BLANK
};
