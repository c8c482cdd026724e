//! `Microsoft.Network/virtualNetworks/subnets`: a range of the VNet, with what hangs on it.
//!
//! The checks here take the VNet's write: a subnet lives in that document.

use std::collections::BTreeSet;

use ipnet::IpNet;
use moat_arm::{ApiError, Batch, ResourceId, Snapshot, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, prefix, virtual_networks};
use crate::edition::Edition;
use crate::resource_type::{Action, ActionResult, Completion, ResourceType, Scope, TypeCtx, Write};
use crate::types::microsoft_machinelearningservices::computes;
use crate::types::shape;
use crate::{alloc, refs};

/// Subnets of one VNet (network-semantics 14).
const MOST_SUBNETS: usize = 3_000;
/// Longest IPv4 prefix that still has an address to give (network-semantics 1.4).
const LONGEST_PREFIX: u8 = 29;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/virtualNetworks/subnets",
    api_versions: API_VERSIONS,
    scope: Scope::Embedded("properties.subnets"),
    completion: Completion::Applied,
    location_required: false,
    on_delete: |ctx, id, _, _| refuse_if_used(ctx.snapshot, id),
    render,
    actions: &[Action { name: "UnprepareNetworkPolicies", run: unprepare }],
    ..ResourceType::BLANK
};

/// Takes back what `PrepareNetworkPolicies` did for a service that a subnet is delegated to. Nothing here prepares a
/// subnet (the action is not built), so there is nothing to take back.
fn unprepare(_: &TypeCtx<'_>, id: &ResourceId, asked: &Value) -> Result<ActionResult, ApiError> {
    if document::str_at(asked, "serviceName").is_none_or(str::is_empty) {
        // AZURE: wording not observed.
        return Err(ApiError::bad_request(
            "InvalidRequestFormat",
            format!("No service is named to unprepare {id} for."),
        )
        .with_target("serviceName"));
    }
    Ok(ActionResult { body: Value::Null, long_running: true, batch: Batch::default() })
}

/// A subnet of a VNet document: its name and prefix texts.
fn each(body: &Value) -> impl Iterator<Item = (&str, Vec<&str>)> {
    document::array_at(body, "properties.subnets").iter().map(|s| {
        let name = document::str_at(s, "name").unwrap_or_default();
        let one = document::str_at(s, "properties.addressPrefix");
        let mut texts: Vec<&str> = one.into_iter().chain(refs::texts(s, "properties.addressPrefixes[]")).collect();
        let mut seen = BTreeSet::new();
        texts.retain(|t| seen.insert(*t));
        (name, texts)
    })
}

/// [`each`] with the prefixes that parse.
fn each_net(body: &Value) -> Vec<(&str, Vec<IpNet>)> {
    each(body).map(|(n, texts)| (n, texts.iter().filter_map(|t| t.parse().ok()).collect())).collect()
}

pub(super) fn limit(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let count = document::array_at(&write.body, "properties.subnets").len();
    if count <= MOST_SUBNETS {
        return Ok(());
    }
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "SubnetCountLimitReached",
        format!("Virtual network {} would have {count} subnets; {MOST_SUBNETS} are allowed.", write.id),
    ))
}

pub(super) fn prefixes(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for (name, texts) in each(&write.body) {
        let id = write.id.child("subnets", name);
        if texts.is_empty() {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "InvalidAddressPrefixFormat",
                format!("Subnet {id} has no address prefix. It should follow CIDR notation, for example 10.0.0.0/24."),
            )
            .with_target(id.as_str()));
        }
        for text in texts {
            let net = prefix::parse(text, &id)?;
            if matches!(net, IpNet::V4(_)) && net.prefix_len() > LONGEST_PREFIX {
                // AZURE: wording not observed.
                return Err(ApiError::bad_request(
                    "NetcfgInvalidSubnet",
                    format!("Subnet '{name}' is not valid in virtual network '{}'. Its prefix {net} is smaller than /{LONGEST_PREFIX}, the smallest IPv4 subnet.", write.id.name()),
                )
                .with_target(id.as_str()));
            }
        }
    }
    Ok(())
}

pub(super) fn inside(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let space = virtual_networks::prefixes(&write.body);
    for (name, nets) in each_net(&write.body) {
        if nets.iter().any(|n| !space.iter().any(|s| s.contains(n))) {
            return Err(ApiError::bad_request(
                "NetcfgSubnetRangeOutsideVnet",
                format!("Subnet '{name}' is not valid because its IP address range is outside the IP address range of virtual network '{}'.", write.id.name()),
            )
            .with_target(write.id.child("subnets", name).as_str()));
        }
    }
    Ok(())
}

pub(super) fn overlap(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let all: Vec<(IpNet, &str)> =
        each_net(&write.body).into_iter().flat_map(|(name, nets)| nets.into_iter().map(move |n| (n, name))).collect();
    let Some(((_, first), (_, second))) = prefix::clash(all) else { return Ok(()) };
    let old = |name: &str| {
        write.before.is_some_and(|b| refs::named(document::array_at(b, "properties.subnets"), name).is_some())
    };
    // The newcomer is the one at fault.
    let at_fault = if old(second) && !old(first) { first } else { second };
    Err(ApiError::bad_request(
        "NetcfgSubnetRangesOverlap",
        format!(
            "Subnet '{at_fault}' is not valid because its IP address range overlaps with that of an existing subnet in virtual network '{}'.",
            write.id.name()
        ),
    )
    .with_target(write.id.child("subnets", at_fault).as_str()))
}

/// Where a subnet points, and at what.
const REFERENCES: [(&str, &str); 3] = [
    ("properties.subnets[].properties.networkSecurityGroup.id", "Microsoft.Network/networkSecurityGroups"),
    ("properties.subnets[].properties.routeTable.id", "Microsoft.Network/routeTables"),
    ("properties.subnets[].properties.natGateway.id", "Microsoft.Network/natGateways"),
];

pub(super) fn references(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    REFERENCES.iter().try_for_each(|(path, kind)| refs::check(ctx, write, path, kind))
}

/// Everything that uses the subnet: parts with an address first, then clusters, in key order.
pub fn users(snapshot: &Snapshot, subnet: &ResourceId) -> Vec<ResourceId> {
    let mut found: Vec<ResourceId> = alloc::holders(snapshot, subnet).into_iter().map(|h| h.part).collect();
    found.extend(computes::in_subnet(snapshot, subnet));
    found
}

/// Refuses when anything uses the subnet (errors.md `subnet-inuse`).
pub(super) fn refuse_if_used(snapshot: &Snapshot, subnet: &ResourceId) -> Result<(), ApiError> {
    let Some(user) = users(snapshot, subnet).into_iter().next() else { return Ok(()) };
    Err(ApiError::bad_request(
        "InUseSubnetCannotBeDeleted",
        format!(
            "Subnet {} is in use by {user} and cannot be deleted. In order to delete the subnet, delete all the resources within the subnet. See aka.ms/deletesubnet.",
            subnet.name()
        ),
    ))
}

/// A subnet in use is neither left out of its VNet nor robbed of a prefix that has allocations.
pub(super) fn in_use(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let Some(before) = write.before else { return Ok(()) };
    let now = document::array_at(&write.body, "properties.subnets");
    for (name, old_nets) in each_net(before) {
        let id = write.id.child("subnets", name);
        let Some(subnet) = refs::named(now, name) else {
            refuse_if_used(ctx.snapshot, &id)?;
            continue;
        };
        let kept: BTreeSet<IpNet> = alloc::subnet_prefixes(subnet).into_iter().map(IpNet::V4).collect();
        for gone in old_nets.iter().filter(|n| !kept.contains(*n)) {
            let used = alloc::holders(ctx.snapshot, &id)
                .iter()
                .filter_map(|h| h.address)
                .any(|a| gone.contains(&std::net::IpAddr::V4(a)));
            if used {
                return Err(ApiError::bad_request(
                    "InUsePrefixCannotBeDeleted",
                    format!("IpPrefix {gone} on Subnet {name} has active allocations and cannot be deleted."),
                )
                .with_target(id.as_str()));
            }
        }
    }
    Ok(())
}

/// The services a subnet is delegated to.
pub fn delegations(subnet: &Value) -> Vec<&str> {
    refs::texts(subnet, "properties.delegations[].properties.serviceName")
}

/// errors.md `delegation-change`.
pub(super) fn delegation_in_use(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let Some(before) = write.before else { return Ok(()) };
    for old in document::array_at(before, "properties.subnets") {
        let name = document::str_at(old, "name").unwrap_or_default();
        let Some(new) = refs::named(document::array_at(&write.body, "properties.subnets"), name) else { continue };
        let (was, is) = (delegations(old), delegations(new));
        if was == is {
            continue;
        }
        let id = write.id.child("subnets", name);
        if let Some(user) = users(ctx.snapshot, &id).into_iter().next() {
            return Err(ApiError::bad_request(
                "SubnetDelegationsCannotChangeWhenSubnetUsedByResource",
                format!(
                    "Delegations of subnet {id} cannot be changed from [{}] to [{}] because it is being used by the resource {user}",
                    was.join(", "),
                    is.join(", ")
                ),
            ));
        }
    }
    Ok(())
}

/// Defaults of a subnet; network-semantics 8.5 for the policy flags.
pub(super) fn complete(edition: Edition, subnet: &mut Value) {
    shape::strip_rendered(subnet);
    for computed in ["ipConfigurations", "privateEndpoints", "resourceNavigationLinks", "serviceAssociationLinks"] {
        document::remove(subnet, &format!("properties.{computed}"));
    }
    let endpoint_policies = match edition {
        Edition::Seed2021 => "Enabled",
        Edition::Current => "Disabled",
    };
    document::set_default(subnet, "properties.privateEndpointNetworkPolicies", json!(endpoint_policies));
    document::set_default(subnet, "properties.privateLinkServiceNetworkPolicies", json!("Enabled"));
    document::set_default(subnet, "properties.delegations", json!([]));
    shape::each(subnet, "properties.serviceEndpoints", |endpoint| {
        document::remove(endpoint, "provisioningState");
        document::set_default(endpoint, "locations", json!(["*"]));
    });
}

fn render(ctx: &TypeCtx<'_>, id: &ResourceId, subnet: &mut Value) {
    let (endpoints, configurations): (Vec<_>, Vec<_>) = alloc::holders(ctx.snapshot, id)
        .into_iter()
        .map(|h| h.part)
        .partition(|part| part.resource_type().eq_ignore_ascii_case("Microsoft.Network/privateEndpoints"));
    if !configurations.is_empty() {
        document::set(subnet, "properties.ipConfigurations", shape::id_list(&configurations));
    }
    if !endpoints.is_empty() {
        document::set(subnet, "properties.privateEndpoints", shape::id_list(&endpoints));
    }
    shape::each(subnet, "properties.serviceEndpoints", |e| document::set(e, "provisioningState", json!("Succeeded")));
    // Pools of an address manager, which Moat does not have; the member is there since 2023-11-01.
    document::set_default(subnet, "properties.ipamPoolPrefixAllocations", json!([]));
    let text = id.as_str().to_owned();
    let etag = document::at(subnet, "etag").cloned().unwrap_or_default();
    shape::each(subnet, "properties.delegations", |d| {
        let name = document::str_at(d, "name").unwrap_or_default().to_owned();
        document::set(d, "id", json!(format!("{text}/delegations/{name}")));
        document::set(d, "type", json!("Microsoft.Network/virtualNetworks/subnets/delegations"));
        document::set(d, "etag", etag.clone());
        document::set(d, "properties.provisioningState", json!("Succeeded"));
        // What the service may do to the subnet; it says which when it is asked, most say this.
        document::set_default(d, "properties.actions", json!(["Microsoft.Network/virtualNetworks/subnets/action"]));
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::types::testing::{World, net};

    fn world() -> World {
        let mut world = World::new(Edition::Current);
        let v = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}});
        world.put(&net("virtualNetworks/v"), v).unwrap();
        world
            .put(&net("virtualNetworks/v/subnets/a"), json!({"properties": {"addressPrefix": "10.0.0.0/24"}}))
            .unwrap();
        world
    }

    fn add_nic(world: &mut World) {
        let subnet = net("virtualNetworks/v/subnets/a");
        let nic =
            json!({"properties": {"ipConfigurations": [{"name": "c", "properties": {"subnet": {"id": subnet}}}]}});
        world.put(&net("networkInterfaces/n"), nic).unwrap();
    }

    /// A write of subnet `a` while a NIC is in it.
    fn check(properties: Value) -> String {
        let mut world = world();
        add_nic(&mut world);
        match world.put(&net("virtualNetworks/v/subnets/a"), json!({"properties": properties})) {
            Ok(_) => "accepted".to_owned(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn there_is_nothing_to_unprepare_but_a_service_must_be_named() {
        let mut world = World::new(Edition::Current);
        let subnets = json!([{"name": "a", "properties": {"addressPrefix": "10.0.0.0/24"}}]);
        let body = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets}});
        world.put(&net("virtualNetworks/v"), body).unwrap();
        let mut unprepare = |body| world.post(&net("virtualNetworks/v/subnets/a"), "unprepareNetworkPolicies", body);
        assert_eq!(unprepare(json!({"serviceName": "Microsoft.Sql/managedInstances"})).unwrap(), Value::Null);
        assert_eq!(unprepare(json!({})).unwrap_err().target.as_deref(), Some("serviceName"));
    }

    #[test]
    fn a_subnet_in_use_shows_who_and_stays() {
        let mut world = world();
        let a = net("virtualNetworks/v/subnets/a");
        assert!(world.get(&a)["properties"].get("ipConfigurations").is_none());
        add_nic(&mut world);
        assert_eq!(
            world.get(&a)["properties"]["ipConfigurations"][0]["id"],
            net("networkInterfaces/n/ipConfigurations/c")
        );
        insta::assert_snapshot!(world.delete(&a).unwrap_err(), @"(InUseSubnetCannotBeDeleted) Subnet a is in use by /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/n/ipConfigurations/c and cannot be deleted. In order to delete the subnet, delete all the resources within the subnet. See aka.ms/deletesubnet.");
        insta::assert_snapshot!(world.delete(&net("virtualNetworks/v")).unwrap_err().code, @"InUseSubnetCannotBeDeleted");
        world.delete(&net("networkInterfaces/n")).unwrap();
        world.delete(&a).unwrap();
    }

    #[test]
    fn what_is_in_use_does_not_change() {
        insta::assert_snapshot!(check(json!({"addressPrefix": "10.0.0.0/25"})), @"(InUsePrefixCannotBeDeleted) IpPrefix 10.0.0.0/24 on Subnet a has active allocations and cannot be deleted.");
        insta::assert_snapshot!(check(json!({"addressPrefix": "10.0.0.0/24", "delegations": [
            {"name": "aci", "properties": {"serviceName": "Microsoft.ContainerInstance/containerGroups"}}]})), @"(SubnetDelegationsCannotChangeWhenSubnetUsedByResource) Delegations of subnet /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/a cannot be changed from [] to [Microsoft.ContainerInstance/containerGroups] because it is being used by the resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/n/ipConfigurations/c");
        insta::assert_snapshot!(check(json!({"addressPrefix": "10.0.0.0/24", "serviceEndpoints": [{"service": "Microsoft.Storage"}]})), @"accepted");
    }

    #[test]
    fn references_must_exist_in_the_same_region() {
        let with = |kind: &str| json!({"addressPrefix": "10.0.0.0/24", "networkSecurityGroup": {"id": net(kind)}});
        insta::assert_snapshot!(check(with("networkSecurityGroups/missing")), @"(InvalidResourceReference) Resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/missing referenced by resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.");
        insta::assert_snapshot!(check(with("routeTables/wrong-type")), @"(InvalidRequestFormat) Cannot parse the request. `properties.subnets[].properties.networkSecurityGroup.id` expects the id of a `Microsoft.Network/networkSecurityGroups`, got '/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/routeTables/wrong-type'.");
        let mut world = world();
        world.put(&net("networkSecurityGroups/far"), json!({"location": "eastus", "properties": {}})).unwrap();
        let far =
            world.put(&net("virtualNetworks/v/subnets/a"), json!({"properties": with("networkSecurityGroups/far")}));
        assert_eq!(far.unwrap_err().code, "InvalidResourceReference");
    }

    #[test]
    fn policies_default_as_the_edition_says() {
        for (edition, default) in [(Edition::Seed2021, "Enabled"), (Edition::Current, "Disabled")] {
            let mut world = World::new(edition);
            let subnets = json!([{"name": "a", "properties": {"addressPrefix": "10.0.0.0/24"}}]);
            let v = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets}});
            let stored = world.put(&net("virtualNetworks/v"), v).unwrap();
            assert_eq!(stored["properties"]["subnets"][0]["properties"]["privateEndpointNetworkPolicies"], default);
        }
    }
}
