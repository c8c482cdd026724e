//! `Microsoft.Network/publicIPPrefixes`: neighbouring addresses that are set aside together. Public addresses are made
//! out of one, and NAT gateways and outbound rules send from all of one.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use moat_arm::{ApiError, Batch, ResourceId, Snapshot, document};
use serde_json::{Value, json};

use super::API_VERSIONS;
use crate::resource_type::{Completion, Refusal, ResourceType, TypeCtx, Write};
use crate::types::shape;
use crate::{alloc, refs};

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/publicIPPrefixes",
    api_versions: API_VERSIONS,
    completion: Completion::Applied,
    refusals: &[
        Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) },
        Refusal { id: "public-ip-prefix-values", requirements: &[], check: values },
        Refusal { id: "public-ip-prefix-fixed", requirements: &[], check: fixed },
        Refusal { id: "public-ip-prefix-pool", requirements: &[], check: pool },
    ],
    complete,
    on_delete,
    render,
    ..ResourceType::BLANK
};

/// Lengths that Azure gives out of its own space.
const LENGTHS: std::ops::RangeInclusive<u64> = 28..=31;

/// Where other documents name a prefix: type, path of the ids.
const USERS: [(&str, &str); 3] = [
    ("Microsoft.Network/publicIPAddresses", "properties.publicIPPrefix.id"),
    ("Microsoft.Network/natGateways", "properties.publicIpPrefixes[].id"),
    ("Microsoft.Network/loadBalancers", "properties.frontendIPConfigurations[].properties.publicIPPrefix.id"),
];

/// The addresses that a prefix has set aside.
pub fn block(body: &Value) -> Option<Ipv4Net> {
    document::str_at(body, "properties.ipPrefix")?.parse().ok()
}

/// The first address of a prefix that no public address has; all of them can be given out.
pub(super) fn next_free(snapshot: &Snapshot, block: Ipv4Net) -> Option<Ipv4Addr> {
    let taken = alloc::taken_public(snapshot);
    (u32::from(block.network())..=u32::from(block.broadcast())).map(Ipv4Addr::from).find(|a| !taken.contains(a))
}

fn length(body: &Value) -> u64 {
    document::u64_at(body, "properties.prefixLength").unwrap_or(*LENGTHS.start())
}

fn values(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let version = document::str_at(&write.body, "properties.publicIPAddressVersion").unwrap_or("IPv4");
    if !version.eq_ignore_ascii_case("IPv4") {
        // AZURE: Azure has IPv6 prefixes; the data plane here carries IPv4 only and says so.
        return Err(ApiError::bad_request(
            "DualStackNotSupported",
            format!("Public IP prefix {} asks for {version}. Moat's data plane carries IPv4 only.", write.id),
        ));
    }
    if !LENGTHS.contains(&length(&write.body)) {
        // AZURE: wording not observed.
        return Err(ApiError::bad_request(
            "PublicIpPrefixLengthNotSupported",
            format!(
                "Public IP prefix {} has the length {}; {} to {} are allowed.",
                write.id,
                length(&write.body),
                LENGTHS.start(),
                LENGTHS.end()
            ),
        ));
    }
    Ok(())
}

fn fixed(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    match write.before {
        Some(before) if length(before) != length(&write.body) => Err(ApiError::bad_request(
            // AZURE: wording not observed.
            "PublicIpPrefixLengthCannotBeChanged",
            format!("The length of public IP prefix {} cannot be changed.", write.id),
        )),
        _ => Ok(()),
    }
}

fn fresh(ctx: &TypeCtx<'_>, body: &Value) -> Option<Ipv4Net> {
    let length = u8::try_from(length(body)).ok()?;
    alloc::next_public_block(ctx.snapshot, ctx.public_pool, length)
}

fn pool(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if write.before.is_some() || fresh(ctx, &write.body).is_some() {
        return Ok(());
    }
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "PublicIpPrefixCapacityReached",
        format!("There are not enough neighbouring public addresses left for public IP prefix {}.", write.id),
    ))
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let kept = |member: &str| write.before.and_then(|b| document::str_at(b, member)).map(str::to_owned);
    let prefix = kept("properties.ipPrefix").or_else(|| fresh(ctx, &write.body).map(|b| b.to_string()));
    let guid = kept("properties.resourceGuid").unwrap_or_else(|| ctx.uuid("resourceGuid").to_string());
    let length = length(&write.body);
    let body = &mut write.body;
    document::set(body, "properties.ipPrefix", json!(prefix));
    document::set(body, "properties.resourceGuid", json!(guid));
    document::set(body, "properties.prefixLength", json!(length));
    document::set_default(body, "properties.publicIPAddressVersion", json!("IPv4"));
    document::set_default(body, "properties.ipTags", json!([]));
    document::set_default(body, "sku.name", json!("Standard"));
    document::set_default(body, "sku.tier", json!("Regional"));
    for computed in ["publicIPAddresses", "natGateway", "loadBalancerFrontendIpConfiguration"] {
        document::remove(body, &format!("properties.{computed}"));
    }
    Ok(())
}

/// Who names a prefix: public addresses, a NAT gateway, balancers.
fn users(snapshot: &Snapshot, id: &ResourceId) -> Vec<ResourceId> {
    let names_it = |body: &Value, path: &str| refs::texts(body, path).into_iter().any(|text| refs::same(text, id));
    USERS
        .iter()
        .flat_map(|(kind, path)| {
            snapshot.in_groups(kind).into_iter().filter(|d| names_it(&d.body, path)).map(|d| d.id.clone())
        })
        .collect()
}

fn on_delete(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value, _: &mut Batch) -> Result<(), ApiError> {
    let users = users(ctx.snapshot, id);
    if users.is_empty() {
        return Ok(());
    }
    let list = users.iter().map(ResourceId::as_str).collect::<Vec<_>>().join(", ");
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "PublicIpPrefixCannotBeDeleted",
        format!("Public IP prefix {id} cannot be deleted because it is in use by {list}."),
    ))
}

fn render(ctx: &TypeCtx<'_>, id: &ResourceId, body: &mut Value) {
    let users = users(ctx.snapshot, id);
    let of = |kind: &str| users.iter().filter(|u| u.resource_type().eq_ignore_ascii_case(kind)).collect::<Vec<_>>();
    let addresses = of(USERS[0].0);
    if !addresses.is_empty() {
        document::set(body, "properties.publicIPAddresses", shape::id_list(addresses));
    }
    if let Some(gateway) = of(USERS[1].0).first() {
        document::set(body, "properties.natGateway", json!({ "id": gateway.as_str() }));
    }
    for balancer in of(USERS[2].0).into_iter().filter_map(|b| ctx.snapshot.get(b)) {
        for frontend in document::array_at(&balancer.body, "properties.frontendIPConfigurations") {
            if document::str_at(frontend, "properties.publicIPPrefix.id").is_some_and(|t| refs::same(t, id)) {
                let name = document::str_at(frontend, "name").unwrap_or_default();
                let part = balancer.id.child("frontendIPConfigurations", name);
                document::set(body, "properties.loadBalancerFrontendIpConfiguration", json!({ "id": part.as_str() }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net};

    #[test]
    fn a_prefix_sets_addresses_aside_and_gives_them_out() {
        // The pool of the tests is a /29: one /30 in it, and three addresses beside that one.
        let mut world = World::new(Edition::Current);
        let (p, q) = (net("publicIPPrefixes/p"), net("publicIPPrefixes/q"));
        let prefix = |length: u64| json!({"sku": {"name": "Standard"}, "properties": {"prefixLength": length}});
        insta::assert_snapshot!(world.put(&p, prefix(20)).unwrap_err().code, @"PublicIpPrefixLengthNotSupported");
        let stored = world.put(&p, prefix(30)).unwrap();
        assert_eq!(stored["properties"]["ipPrefix"], "20.51.0.4/30");
        let address = |of: &str| {
            json!({"sku": {"name": "Standard"}, "properties": {
                "publicIPAllocationMethod": "Static", "publicIPPrefix": {"id": of},
            }})
        };
        let inside = world.put(&net("publicIPAddresses/inside"), address(&p)).unwrap();
        assert_eq!(inside["properties"]["ipAddress"], "20.51.0.4");
        let beside = json!({"sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}});
        let beside = world.put(&net("publicIPAddresses/beside"), beside).unwrap();
        assert_eq!(beside["properties"]["ipAddress"], "20.51.0.1");
        insta::assert_snapshot!(world.put(&q, prefix(30)).unwrap_err().code, @"PublicIpPrefixCapacityReached");
        insta::assert_snapshot!(world.delete(&p).unwrap_err().code, @"PublicIpPrefixCannotBeDeleted");
        assert_eq!(world.get(&p)["properties"]["publicIPAddresses"][0]["id"], net("publicIPAddresses/inside"));
        for name in ["b", "c", "d"] {
            world.put(&net(&format!("publicIPAddresses/{name}")), address(&p)).unwrap();
        }
        insta::assert_snapshot!(world.put(&net("publicIPAddresses/e"), address(&p)).unwrap_err().code, @"PublicIPPrefixOutOfAddresses");
    }

    #[test]
    fn a_gateway_sends_from_a_prefix() {
        let mut world = World::new(Edition::Current);
        let (p, g) = (net("publicIPPrefixes/p"), net("natGateways/g"));
        world.put(&p, json!({"sku": {"name": "Standard"}, "properties": {"prefixLength": 31}})).unwrap();
        world.put(&g, json!({"sku": {"name": "Standard"}, "properties": {"publicIpPrefixes": [{"id": p}]}})).unwrap();
        assert_eq!(world.get(&p)["properties"]["natGateway"]["id"], g);
    }
}
