//! `Microsoft.MachineLearningServices/workspaces/computes`

use moat_arm::{ResourceId, Snapshot, document};

/// Computes that were created in this subnet, also while they have no node (AML-LIF-006).
pub fn in_subnet(snapshot: &Snapshot, subnet: &ResourceId) -> Vec<ResourceId> {
    snapshot
        .in_groups("Microsoft.MachineLearningServices/workspaces")
        .into_iter()
        .flat_map(|workspace| snapshot.below(&workspace.id))
        .filter(|d| {
            document::str_at(&d.body, "properties.properties.subnet.id")
                .is_some_and(|t| ResourceId::parse(t).is_ok_and(|s| s.is_within(subnet)))
        })
        .map(|d| d.id.clone())
        .collect()
}
