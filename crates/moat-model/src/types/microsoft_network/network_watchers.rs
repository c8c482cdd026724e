//! `Microsoft.Network/networkWatchers`: a place to ask what happens to a flow.

use super::{API_VERSIONS, effective};
use crate::resource_type::{Action, Completion, Refusal, ResourceType};
use crate::types::shape;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/networkWatchers",
    api_versions: API_VERSIONS,
    completion: Completion::Sync,
    refusals: &[Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) }],
    actions: &[
        Action { name: "ipFlowVerify", run: effective::ip_flow_verify },
        Action { name: "nextHop", run: effective::next_hop },
    ],
    ..ResourceType::BLANK
};
