//! `Microsoft.Network/natGateways`: the way out to the internet for the subnets that name it
//! (network-semantics 9.2).

use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, public_ip_addresses, public_ip_prefixes, route_tables};
use crate::refs;
use crate::resource_type::{Completion, Refusal, ResourceType, TypeCtx, Write};
use crate::types::shape;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/natGateways",
    api_versions: API_VERSIONS,
    completion: Completion::Applied,
    refusals: &[
        Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) },
        Refusal { id: "nat-gateway-values", requirements: &[], check: values },
        Refusal { id: "nat-gateway-references", requirements: &[], check: references },
        Refusal { id: "nat-gateway-standard-addresses", requirements: &[], check: standard_addresses },
    ],
    complete: |ctx, write| {
        document::remove(&mut write.body, "properties.subnets");
        document::set_default(&mut write.body, "sku.name", json!("Standard"));
        document::set_default(&mut write.body, "sku.tier", json!("Regional"));
        document::set_default(&mut write.body, "properties.idleTimeoutInMinutes", json!(4));
        let guid = write.before.and_then(|b| document::str_at(b, "properties.resourceGuid")).map(str::to_owned);
        let guid = guid.unwrap_or_else(|| ctx.uuid("resourceGuid").to_string());
        document::set(&mut write.body, "properties.resourceGuid", json!(guid));
        Ok(())
    },
    on_delete,
    render: |ctx, id, body| {
        let subnets = route_tables::subnets_naming(ctx.snapshot, id, "natGateway");
        if !subnets.is_empty() {
            document::set(body, "properties.subnets", shape::id_list(&subnets));
        }
    },
    references: |d| refs::ids(d, &[PUBLIC_IPS, PREFIXES]),
    ..ResourceType::BLANK
};

/// Addresses of a gateway.
const PUBLIC_IPS: &str = "properties.publicIpAddresses[].id";
/// Prefixes of a gateway: it sends from all of their addresses.
const PREFIXES: &str = "properties.publicIpPrefixes[].id";
/// Addresses of one gateway (network-semantics 9.2).
const MOST_ADDRESSES: usize = 16;
/// TCP idle timeout in minutes.
const IDLE_MINUTES: std::ops::RangeInclusive<u64> = 4..=120;

fn values(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    // AZURE: wording not observed.
    let refuse = |message: String| Err(ApiError::bad_request("InvalidRequestFormat", message));
    let minutes = document::u64_at(&write.body, "properties.idleTimeoutInMinutes").unwrap_or(*IDLE_MINUTES.start());
    if !IDLE_MINUTES.contains(&minutes) {
        return refuse(format!(
            "NAT gateway {} has an idle timeout of {minutes} minutes; {} to {} are allowed.",
            write.id,
            IDLE_MINUTES.start(),
            IDLE_MINUTES.end()
        ));
    }
    let in_prefixes = refs::texts(&write.body, PREFIXES).into_iter().filter_map(|text| {
        let id = ResourceId::parse(text).ok()?;
        let block = public_ip_prefixes::block(&ctx.snapshot.get(&id)?.body)?;
        Some(1_usize << (block.max_prefix_len() - block.prefix_len()))
    });
    let count = refs::texts(&write.body, PUBLIC_IPS).len() + in_prefixes.sum::<usize>();
    if count > MOST_ADDRESSES {
        return refuse(format!(
            "NAT gateway {} has {count} public IP addresses; {MOST_ADDRESSES} are allowed.",
            write.id
        ));
    }
    Ok(())
}

fn references(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    refs::check(ctx, write, PUBLIC_IPS, public_ip_addresses::TYPE.name)?;
    refs::check(ctx, write, PREFIXES, public_ip_prefixes::TYPE.name)
}

fn standard_addresses(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for text in refs::texts(&write.body, PUBLIC_IPS) {
        let id = refs::parse(text, PUBLIC_IPS)?;
        public_ip_addresses::refuse_if_held(ctx.snapshot, &id, write.id)?;
        let sku = refs::find(ctx.snapshot, &id).and_then(|d| document::str_at(d, "sku.name")).unwrap_or("Basic");
        if !sku.eq_ignore_ascii_case("Standard") {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "NatGatewayPublicIpAddressSkuNotSupported",
                format!(
                    "NAT gateway {} cannot use public IP address {id} of SKU {sku}. Use one of SKU Standard.",
                    write.id
                ),
            ));
        }
    }
    Ok(())
}

fn on_delete(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value, _: &mut Batch) -> Result<(), ApiError> {
    let subnets = route_tables::subnets_naming(ctx.snapshot, id, "natGateway");
    if subnets.is_empty() {
        return Ok(());
    }
    let list = subnets.iter().map(ResourceId::as_str).collect::<Vec<_>>().join(", ");
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "InUseNatGatewayCannotBeDeleted",
        format!("NAT gateway {id} cannot be deleted because it is in use by the following resources: {list}."),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net};

    #[test]
    fn a_gateway_takes_standard_addresses_and_stays_while_a_subnet_names_it() {
        let mut world = World::new(Edition::Current);
        let (good, basic, g) = (net("publicIPAddresses/good"), net("publicIPAddresses/basic"), net("natGateways/g"));
        let standard = json!({"sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}});
        world.put(&good, standard).unwrap();
        world.put(&basic, json!({"properties": {}})).unwrap();
        let gateway = |p: &str| json!({"sku": {"name": "Standard"}, "properties": {"publicIpAddresses": [{"id": p}]}});
        insta::assert_snapshot!(world.put(&g, gateway(&basic)).unwrap_err(), @"(NatGatewayPublicIpAddressSkuNotSupported) NAT gateway /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/natGateways/g cannot use public IP address /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/publicIPAddresses/basic of SKU Basic. Use one of SKU Standard.");
        insta::assert_snapshot!(world.put(&g, gateway(&net("publicIPAddresses/missing"))).unwrap_err().code, @"InvalidResourceReference");
        world.put(&g, gateway(&good)).unwrap();
        assert_eq!(world.delete(&good).unwrap_err().code, "PublicIPAddressCannotBeDeleted");
        assert_eq!(world.get(&good)["properties"]["natGateway"]["id"], g);
        let subnets = json!([{"name": "a", "properties": {"addressPrefix": "10.0.0.0/24", "natGateway": {"id": g}}}]);
        let v = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets}});
        world.put(&net("virtualNetworks/v"), v).unwrap();
        insta::assert_snapshot!(world.delete(&g).unwrap_err().code, @"InUseNatGatewayCannotBeDeleted");
        assert_eq!(world.get(&g)["properties"]["subnets"][0]["id"], net("virtualNetworks/v/subnets/a"));
    }
}
