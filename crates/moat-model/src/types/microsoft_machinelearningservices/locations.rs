//! `Microsoft.MachineLearningServices/locations`: what a region offers. Never stored.

use std::collections::BTreeMap;

use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use super::{computes, nodes, vm_sizes};
use crate::refs;
use crate::resource_type::{Action, ActionResult, ResourceType, Scope, TypeCtx};

/// Cores of one family that a subscription may use in a region until quota comes.
const FAMILY_CORES: u32 = 100;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.MachineLearningServices/locations",
    api_versions: super::API_VERSIONS,
    scope: Scope::Subscription,
    location_required: false,
    readings: &[
        Action { name: "vmSizes", run: |_, _, _| answer(vm_sizes::answer()) },
        Action { name: "usages", run: |ctx, id, _| answer(usages(ctx, id)) },
    ],
    ..ResourceType::BLANK
};

fn answer(body: Value) -> Result<ActionResult, ApiError> {
    Ok(ActionResult { body, long_running: false, batch: Batch::default() })
}

/// Cores in use a family: the nodes that exist, by the size of their cluster.
fn usages(ctx: &TypeCtx<'_>, id: &ResourceId) -> Value {
    let region = refs::location_key(id.name());
    let mut used: BTreeMap<&str, u32> = vm_sizes::ALL.iter().map(|s| (s.family, 0)).collect();
    for compute in computes::all(ctx.snapshot) {
        if computes::region(&compute.body) != Some(region.clone()) {
            continue;
        }
        let size = document::str_at(&compute.body, "properties.properties.vmSize").and_then(vm_sizes::find);
        if let Some(size) = size {
            let count = u32::try_from(nodes::of_compute(ctx.snapshot, &compute.id).count()).unwrap_or(u32::MAX);
            let sum = used.entry(size.family).or_default();
            *sum = sum.saturating_add(count.saturating_mul(size.vcpus));
        }
    }
    let value: Vec<Value> = used
        .into_iter()
        .map(|(family, cores)| {
            let words = format!("{} Cluster Dedicated vCPUs", words(family));
            json!({
                "id": format!("{id}/usages/{family}"),
                "amlWorkspaceLocation": region,
                "type": "Microsoft.MachineLearningServices/usages",
                "unit": "Count",
                "currentValue": cores,
                "limit": FAMILY_CORES,
                "name": {"value": words, "localizedValue": words},
            })
        })
        .collect();
    json!({ "value": value })
}

/// `standardDSv2Family` as people read it: `Standard DSv2 Family`.
fn words(family: &str) -> String {
    if family.contains(' ') {
        return family.to_owned();
    }
    let inner = family.get("standard".len()..).and_then(|f| f.strip_suffix("Family")).unwrap_or(family);
    format!("Standard {inner} Family")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_read_as_azure_writes_them() {
        assert_eq!(words("standardDSv2Family"), "Standard DSv2 Family");
        assert_eq!(words("StandardNCADSA100v4Family"), "Standard NCADSA100v4 Family");
        assert_eq!(words("Standard NCASv3_T4 Family"), "Standard NCASv3_T4 Family");
    }
}
