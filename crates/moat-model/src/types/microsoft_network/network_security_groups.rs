//! `Microsoft.Network/networkSecurityGroups`: an ordered list of security rules.
//!
//! The rules' own checks are in `security_rules.rs`; the six default rules exist in every group,
//! cannot be written and are rendered, never stored (network-semantics 2.4).

use moat_arm::{ApiError, Batch, ResourceId, Snapshot, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, security_rules};
use crate::refs;
use crate::resource_type::{Completion, Refusal, ResourceType, TypeCtx, Write};
use crate::types::shape;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/networkSecurityGroups",
    api_versions: API_VERSIONS,
    completion: Completion::Applied,
    refusals: &[
        Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) },
        Refusal { id: "rule-names", requirements: &[], check: security_rules::names },
        Refusal { id: "rule-limit", requirements: &[], check: security_rules::limit },
        Refusal { id: "rule-fields", requirements: &[], check: security_rules::fields },
        Refusal { id: "rule-ports", requirements: &[], check: security_rules::ports },
        Refusal { id: "rule-addresses", requirements: &[], check: security_rules::addresses },
        Refusal { id: "rule-asgs", requirements: &[], check: security_rules::asgs },
        Refusal { id: "rule-priority-conflict", requirements: &[], check: security_rules::conflicts },
    ],
    complete,
    on_delete,
    render,
    references: |d| refs::ids(d, security_rules::ASG_PATHS),
    ..ResourceType::BLANK
};

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    for computed in ["defaultSecurityRules", "networkInterfaces", "subnets"] {
        document::remove(&mut write.body, &format!("properties.{computed}"));
    }
    document::set_default(&mut write.body, "properties.securityRules", json!([]));
    shape::each(&mut write.body, "properties.securityRules", security_rules::complete);
    let guid = write.before.and_then(|b| document::str_at(b, "properties.resourceGuid")).map(str::to_owned);
    let guid = guid.unwrap_or_else(|| ctx.uuid("resourceGuid").to_string());
    document::set(&mut write.body, "properties.resourceGuid", json!(guid));
    Ok(())
}

/// Subnets and NICs that the group is bound to, subnets first.
pub fn users(snapshot: &Snapshot, nsg: &ResourceId) -> Vec<ResourceId> {
    let names = |value: &Value, path: &str| document::str_at(value, path).is_some_and(|t| refs::same(t, nsg));
    let mut found = Vec::new();
    for vnet in snapshot.in_groups("Microsoft.Network/virtualNetworks") {
        for subnet in document::array_at(&vnet.body, "properties.subnets") {
            if names(subnet, "properties.networkSecurityGroup.id") {
                found.push(vnet.id.child("subnets", document::str_at(subnet, "name").unwrap_or_default()));
            }
        }
    }
    let nics = snapshot.in_groups("Microsoft.Network/networkInterfaces");
    found.extend(nics.iter().filter(|n| names(&n.body, "properties.networkSecurityGroup.id")).map(|n| n.id.clone()));
    found
}

/// errors.md `nsg-inuse`.
fn on_delete(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value, _: &mut Batch) -> Result<(), ApiError> {
    let users = users(ctx.snapshot, id);
    if users.is_empty() {
        return Ok(());
    }
    let list = users.iter().map(ResourceId::as_str).collect::<Vec<_>>().join(", ");
    Err(ApiError::bad_request(
        "InUseNetworkSecurityGroupCannotBeDeleted",
        format!(
            "Network security group {id} cannot be deleted because it is in use by the following resources: {list}. In order to delete the Network security group, remove the association with the resource(s)."
        ),
    ))
}

fn render(ctx: &TypeCtx<'_>, id: &ResourceId, body: &mut Value) {
    document::set_default(body, "properties.securityRules", json!([]));
    document::set(body, "properties.defaultSecurityRules", default_rules(id, body.get("etag")));
    let (nics, subnets): (Vec<_>, Vec<_>) = users(ctx.snapshot, id)
        .into_iter()
        .partition(|u| u.resource_type().eq_ignore_ascii_case("Microsoft.Network/networkInterfaces"));
    if !subnets.is_empty() {
        document::set(body, "properties.subnets", shape::id_list(&subnets));
    }
    if !nics.is_empty() {
        document::set(body, "properties.networkInterfaces", shape::id_list(&nics));
    }
}

/// Name, description, priority, direction, access, source, destination.
type DefaultRule = (&'static str, &'static str, u32, &'static str, &'static str, &'static str, &'static str);

/// network-semantics 2.4.
const DEFAULT_RULES: [DefaultRule; 6] = [
    (
        "AllowVnetInBound",
        "Allow inbound traffic from all VMs in VNET",
        65000,
        "Inbound",
        "Allow",
        "VirtualNetwork",
        "VirtualNetwork",
    ),
    (
        "AllowAzureLoadBalancerInBound",
        "Allow inbound traffic from azure load balancer",
        65001,
        "Inbound",
        "Allow",
        "AzureLoadBalancer",
        "*",
    ),
    ("DenyAllInBound", "Deny all inbound traffic", 65500, "Inbound", "Deny", "*", "*"),
    (
        "AllowVnetOutBound",
        "Allow outbound traffic from all VMs to all VMs in VNET",
        65000,
        "Outbound",
        "Allow",
        "VirtualNetwork",
        "VirtualNetwork",
    ),
    (
        "AllowInternetOutBound",
        "Allow outbound traffic from all VMs to Internet",
        65001,
        "Outbound",
        "Allow",
        "*",
        "Internet",
    ),
    ("DenyAllOutBound", "Deny all outbound traffic", 65500, "Outbound", "Deny", "*", "*"),
];

/// The six default rules of the group `id`, as answered.
fn default_rules(id: &ResourceId, etag: Option<&Value>) -> Value {
    DEFAULT_RULES
        .iter()
        .map(|(name, description, priority, direction, access, source, destination)| {
            json!({
                "id": format!("{id}/defaultSecurityRules/{name}"),
                "name": name,
                "etag": etag,
                "type": "Microsoft.Network/networkSecurityGroups/defaultSecurityRules",
                "properties": {
                    "provisioningState": "Succeeded",
                    "description": description,
                    "protocol": "*",
                    "sourcePortRange": "*",
                    "destinationPortRange": "*",
                    "sourceAddressPrefix": source,
                    "destinationAddressPrefix": destination,
                    "access": access,
                    "priority": priority,
                    "direction": direction,
                    "sourcePortRanges": [],
                    "destinationPortRanges": [],
                    "sourceAddressPrefixes": [],
                    "destinationAddressPrefixes": [],
                }
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net};

    #[test]
    fn six_default_rules_are_answered_and_never_stored() {
        let mut world = World::new(Edition::Current);
        let n = net("networkSecurityGroups/n");
        world.put(&n, json!({"properties": {}})).unwrap();
        let answered = world.get(&n);
        let names: Vec<&str> = refs::texts(&answered, "properties.defaultSecurityRules[].name");
        assert_eq!(names.len(), 6);
        assert_eq!(names[0], "AllowVnetInBound");
        // Clients send back what they were answered.
        let stored = world.put(&n, answered).unwrap();
        assert!(document::at(&stored, "properties.defaultSecurityRules").is_none());
    }

    #[test]
    fn a_group_in_use_cannot_go() {
        let mut world = World::new(Edition::Current);
        let n = net("networkSecurityGroups/n");
        world.put(&n, json!({"properties": {}})).unwrap();
        let subnet = json!({"name": "a", "properties": {"addressPrefix": "10.0.0.0/24", "networkSecurityGroup": {"id": n.to_uppercase()}}});
        let v = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [subnet]}});
        world.put(&net("virtualNetworks/v"), v).unwrap();
        insta::assert_snapshot!(world.delete(&n).unwrap_err(), @"(InUseNetworkSecurityGroupCannotBeDeleted) Network security group /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/n cannot be deleted because it is in use by the following resources: /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/a. In order to delete the Network security group, remove the association with the resource(s).");
        assert_eq!(world.get(&n)["properties"]["subnets"][0]["id"], net("virtualNetworks/v/subnets/a"));
        world.delete(&net("virtualNetworks/v")).unwrap();
        world.delete(&n).unwrap();
    }
}
