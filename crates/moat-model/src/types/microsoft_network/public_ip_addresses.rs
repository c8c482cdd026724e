//! `Microsoft.Network/publicIPAddresses`: an address that the internet can reach, taken from the
//! environment's pool and kept until the document goes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use moat_arm::{ApiError, Batch, ResourceId, Snapshot, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, public_ip_prefixes};
use crate::resource_type::{Completion, Refusal, ResourceType, TypeCtx, Write};
use crate::types::shape;
use crate::{alloc, refs};

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/publicIPAddresses",
    api_versions: API_VERSIONS,
    completion: Completion::Applied,
    refusals: &[
        Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) },
        Refusal { id: "public-ip-values", requirements: &[], check: values },
        Refusal { id: "public-ip-standard-static", requirements: &[], check: standard_is_static },
        Refusal { id: "public-ip-global-standard", requirements: &[], check: global_is_standard },
        Refusal { id: "public-ip-sku-fixed", requirements: &[], check: sku_fixed },
        Refusal { id: "public-ip-prefix", requirements: &[], check: prefix },
        Refusal { id: "public-ip-limit", requirements: &["AML-RES-005"], check: limit },
    ],
    complete,
    on_delete,
    render,
    references: |d| refs::ids(d, &[PREFIX]),
    ..ResourceType::BLANK
};

/// The prefix that an address is taken from.
const PREFIX: &str = "properties.publicIPPrefix.id";

/// Public addresses of one subscription in one region (errors.md `pip-limit`).
const MOST: usize = 20;

/// Members of other documents that hold a public IP, with the array they are in.
const HOLDERS: [(&str, &str, &str); 2] = [
    ("Microsoft.Network/networkInterfaces", "properties.ipConfigurations", "ipConfigurations"),
    ("Microsoft.Network/loadBalancers", "properties.frontendIPConfigurations", "frontendIPConfigurations"),
];

/// The part or NAT gateway that holds this address.
pub fn holder(snapshot: &Snapshot, id: &ResourceId) -> Option<ResourceId> {
    let is_it = |text: &str| refs::same(text, id);
    for (kind, array, segment) in HOLDERS {
        for stored in snapshot.in_groups(kind) {
            for part in document::array_at(&stored.body, array) {
                if document::str_at(part, "properties.publicIPAddress.id").is_some_and(is_it) {
                    return Some(stored.id.child(segment, document::str_at(part, "name").unwrap_or_default()));
                }
            }
        }
    }
    snapshot
        .in_groups("Microsoft.Network/natGateways")
        .into_iter()
        .find(|g| refs::texts(&g.body, "properties.publicIpAddresses[].id").into_iter().any(is_it))
        .map(|g| g.id.clone())
}

/// Refuses when somebody other than `asker` holds the address.
pub(super) fn refuse_if_held(snapshot: &Snapshot, id: &ResourceId, asker: &ResourceId) -> Result<(), ApiError> {
    match holder(snapshot, id).filter(|h| h != asker) {
        None => Ok(()),
        Some(other) => Err(ApiError::bad_request(
            "PublicIPAddressInUse",
            format!(
                "Resource {asker} is referencing public IP address {id} that is already allocated to resource {other}."
            ),
        )),
    }
}

fn sku(body: &Value) -> &str {
    document::str_at(body, "sku.name").unwrap_or("Basic")
}

fn method(body: &Value) -> &str {
    document::str_at(body, "properties.publicIPAllocationMethod").unwrap_or("Dynamic")
}

fn values(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let version = document::str_at(&write.body, "properties.publicIPAddressVersion").unwrap_or("IPv4");
    if !version.eq_ignore_ascii_case("IPv4") {
        // AZURE: Azure has IPv6 addresses; the data plane here carries IPv4 only and says so.
        return Err(ApiError::bad_request(
            "DualStackNotSupported",
            format!("Public IP address {} asks for {version}. Moat's data plane carries IPv4 only.", write.id),
        ));
    }
    for (value, allowed) in [(sku(&write.body), ["Basic", "Standard"]), (method(&write.body), ["Dynamic", "Static"])] {
        if !allowed.iter().any(|a| a.eq_ignore_ascii_case(value)) {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "InvalidRequestFormat",
                format!(
                    "Public IP address {} has the value '{value}'. Use {} or {}.",
                    write.id, allowed[0], allowed[1]
                ),
            ));
        }
    }
    Ok(())
}

fn standard_is_static(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if sku(&write.body).eq_ignore_ascii_case("Standard") && method(&write.body).eq_ignore_ascii_case("Dynamic") {
        return Err(ApiError::bad_request(
            "StandardSkuPublicIPAddressesCannotHaveDynamicAllocation",
            format!("Standard sku publicIp {} must have AllocationMethod set to Static.", write.id),
        ));
    }
    Ok(())
}

fn global_is_standard(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let global = document::str_at(&write.body, "sku.tier").is_some_and(|t| t.eq_ignore_ascii_case("Global"));
    if !global || sku(&write.body).eq_ignore_ascii_case("Standard") {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "GlobalPublicIPAddressNotSupportedForBasicPublicIpAddress",
        format!(
            "Global publicIP addresses are only supported for standard SKU public IP addresses. Public IP address {} is not standard SKU.",
            write.id
        ),
    ))
}

fn sku_fixed(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    match write.before {
        Some(before) if !sku(before).eq_ignore_ascii_case(sku(&write.body)) => Err(ApiError::bad_request(
            // AZURE: wording not observed.
            "SkuCannotBeChanged",
            format!(
                "The SKU of public IP address {} cannot be changed from {} to {}.",
                write.id,
                sku(before),
                sku(&write.body)
            ),
        )),
        _ => Ok(()),
    }
}

/// errors.md `pip-limit`: counted a region and subscription; also when the pool has none left.
fn limit(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if write.before.is_some() {
        return Ok(());
    }
    let region = document::str_at(&write.body, "location").map(refs::location_key);
    let same = ctx
        .snapshot
        .in_groups(TYPE.name)
        .into_iter()
        .filter(|d| d.id.subscription() == write.id.subscription())
        .filter(|d| document::str_at(&d.body, "location").map(refs::location_key) == region)
        .count();
    if same >= MOST || alloc::next_public(ctx.snapshot, ctx.public_pool).is_none() {
        return Err(ApiError::bad_request(
            "PublicIPCountLimitReached",
            format!(
                "Cannot create more than {} public IP addresses for this subscription in this region.",
                same.min(MOST)
            ),
        ));
    }
    Ok(())
}

/// The addresses that this one is to be taken from, if it names a prefix.
fn block(ctx: &TypeCtx<'_>, body: &Value) -> Option<Ipv4Net> {
    let id = ResourceId::parse(document::str_at(body, PREFIX)?).ok()?;
    public_ip_prefixes::block(&ctx.snapshot.get(&id)?.body)
}

/// An address of a prefix is its next free one, or the one in it that was asked for.
fn from_block(ctx: &TypeCtx<'_>, write: &Write<'_>, block: Ipv4Net) -> Option<Ipv4Addr> {
    let asked = document::str_at(&write.body, "properties.ipAddress").and_then(|a| a.parse().ok());
    match asked.filter(|_| write.before.is_none()) {
        Some(asked) => (block.contains(&asked) && !alloc::taken_public(ctx.snapshot).contains(&asked)).then_some(asked),
        None => public_ip_prefixes::next_free(ctx.snapshot, block),
    }
}

fn prefix(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    refs::check(ctx, write, PREFIX, public_ip_prefixes::TYPE.name)?;
    match block(ctx, &write.body) {
        // AZURE: wording not observed.
        Some(block) if write.before.is_none() && from_block(ctx, write, block).is_none() => Err(ApiError::bad_request(
            "PublicIPPrefixOutOfAddresses",
            format!("Public IP address {} finds no free address in the prefix {block}.", write.id),
        )),
        _ => Ok(()),
    }
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let kept = |member: &str| write.before.and_then(|b| document::str_at(b, member)).map(str::to_owned);
    let block = block(ctx, &write.body);
    let address = kept("properties.ipAddress")
        .or_else(|| block.and_then(|b| from_block(ctx, write, b)).map(|a| a.to_string()))
        .or_else(|| alloc::next_public(ctx.snapshot, ctx.public_pool).map(|a| a.to_string()));
    let guid = kept("properties.resourceGuid").unwrap_or_else(|| ctx.uuid("resourceGuid").to_string());
    let label = document::str_at(&write.body, "properties.dnsSettings.domainNameLabel").map(str::to_owned);
    let location = document::str_at(&write.body, "location").map(refs::location_key).unwrap_or_default();
    let body = &mut write.body;
    // AZURE: a dynamic address appears only once something uses it; here it is there at once.
    document::set(body, "properties.ipAddress", json!(address));
    document::set(body, "properties.resourceGuid", json!(guid));
    document::set_default(body, "properties.publicIPAddressVersion", json!("IPv4"));
    document::set_default(body, "properties.publicIPAllocationMethod", json!("Dynamic"));
    document::set_default(body, "properties.idleTimeoutInMinutes", json!(4));
    document::set_default(body, "properties.ipTags", json!([]));
    document::set_default(body, "sku.name", json!("Basic"));
    document::set_default(body, "sku.tier", json!("Regional"));
    if let Some(label) = label {
        document::set(body, "properties.dnsSettings.fqdn", json!(format!("{label}.{location}.cloudapp.azure.com")));
    }
    document::remove(body, "properties.ipConfiguration");
    document::remove(body, "properties.natGateway");
    Ok(())
}

/// errors.md `pip-inuse`; the wording is from memory of the service, not from the catalogue.
fn on_delete(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value, _: &mut Batch) -> Result<(), ApiError> {
    match holder(ctx.snapshot, id) {
        None => Ok(()),
        Some(user) => Err(ApiError::bad_request(
            "PublicIPAddressCannotBeDeleted",
            format!(
                "Public IP address {id} can not be deleted since it is still allocated to resource {user}. In order to delete the public IP, disassociate/detach the Public IP address from the resource. To learn how to do this, see aka.ms/deletepublicip."
            ),
        )),
    }
}

fn render(ctx: &TypeCtx<'_>, id: &ResourceId, body: &mut Value) {
    document::set_default(body, "properties.ddosSettings.protectionMode", json!("VirtualNetworkInherited"));
    if let Some(user) = holder(ctx.snapshot, id) {
        let gateway = user.resource_type().eq_ignore_ascii_case("Microsoft.Network/natGateways");
        let member = if gateway { "properties.natGateway" } else { "properties.ipConfiguration" };
        document::set(body, member, json!({ "id": user.as_str() }));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net};

    fn standard() -> Value {
        json!({"sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}})
    }

    #[test]
    fn addresses_come_from_the_pool_until_it_is_empty() {
        let mut world = World::new(Edition::Current);
        let given: Vec<String> = (0..6)
            .map(|i| {
                let stored = world.put(&net(&format!("publicIPAddresses/p{i}")), standard()).unwrap();
                stored["properties"]["ipAddress"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(given, ["20.51.0.1", "20.51.0.2", "20.51.0.3", "20.51.0.4", "20.51.0.5", "20.51.0.6"]);
        insta::assert_snapshot!(world.put(&net("publicIPAddresses/p6"), standard()).unwrap_err(), @"(PublicIPCountLimitReached) Cannot create more than 6 public IP addresses for this subscription in this region.");
        let again = world.put(&net("publicIPAddresses/p2"), standard()).unwrap();
        assert_eq!(again["properties"]["ipAddress"], "20.51.0.3");
        world.delete(&net("publicIPAddresses/p1")).unwrap();
        let next = world.put(&net("publicIPAddresses/p6"), standard()).unwrap();
        assert_eq!(next["properties"]["ipAddress"], "20.51.0.2");
    }

    #[test]
    fn global_addresses_are_standard() {
        let mut world = World::new(Edition::Current);
        let body = json!({"sku": {"name": "Basic", "tier": "Global"}, "properties": {}});
        insta::assert_snapshot!(world.put(&net("publicIPAddresses/p"), body).unwrap_err().code, @"GlobalPublicIPAddressNotSupportedForBasicPublicIpAddress");
    }

    #[test]
    fn standard_addresses_are_static() {
        let mut world = World::new(Edition::Current);
        let dynamic = json!({"sku": {"name": "Standard"}, "properties": {}});
        insta::assert_snapshot!(world.put(&net("publicIPAddresses/p"), dynamic).unwrap_err(), @"(StandardSkuPublicIPAddressesCannotHaveDynamicAllocation) Standard sku publicIp /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/publicIPAddresses/p must have AllocationMethod set to Static.");
        world.put(&net("publicIPAddresses/p"), json!({"properties": {}})).unwrap();
        insta::assert_snapshot!(world.put(&net("publicIPAddresses/p"), standard()).unwrap_err().code, @"SkuCannotBeChanged");
    }

    #[test]
    fn one_address_has_one_holder_and_stays_while_it_has() {
        let mut world = World::new(Edition::Current);
        let p = net("publicIPAddresses/p");
        world.put(&p, standard()).unwrap();
        let subnets = json!([{"name": "a", "properties": {"addressPrefix": "10.0.0.0/24"}}]);
        let v = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets}});
        world.put(&net("virtualNetworks/v"), v).unwrap();
        let nic = json!({"properties": {"ipConfigurations": [{"name": "c", "properties": {
            "subnet": {"id": net("virtualNetworks/v/subnets/a")}, "publicIPAddress": {"id": p}}}]}});
        world.put(&net("networkInterfaces/one"), nic.clone()).unwrap();
        world.put(&net("networkInterfaces/one"), nic.clone()).unwrap();
        insta::assert_snapshot!(world.put(&net("networkInterfaces/two"), nic).unwrap_err(), @"(PublicIPAddressInUse) Resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/two/ipConfigurations/c is referencing public IP address /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/publicIPAddresses/p that is already allocated to resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/one/ipConfigurations/c.");
        insta::assert_snapshot!(world.delete(&p).unwrap_err(), @"(PublicIPAddressCannotBeDeleted) Public IP address /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/publicIPAddresses/p can not be deleted since it is still allocated to resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/one/ipConfigurations/c. In order to delete the public IP, disassociate/detach the Public IP address from the resource. To learn how to do this, see aka.ms/deletepublicip.");
        assert_eq!(
            world.get(&p)["properties"]["ipConfiguration"]["id"],
            net("networkInterfaces/one/ipConfigurations/c")
        );
    }
}
