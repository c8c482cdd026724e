//! `Microsoft.Network/networkInterfaces`: addresses in a subnet, and what filters them.
//!
//! Private addresses are assigned here (network-semantics 1.3, 1.5, 1.6); the IP configurations are
//! parts of this document with ids of their own.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, effective, public_ip_addresses};
use crate::resource_type::{Action, Completion, Refusal, ResourceType, TypeCtx, Write};
use crate::types::shape;
use crate::{alloc, refs};

/// The array of parts that hold an address.
const CONFIGS: &str = "properties.ipConfigurations";
/// ASGs of one IP configuration (network-semantics 4.3).
const MOST_ASGS: usize = 20;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/networkInterfaces",
    api_versions: API_VERSIONS,
    completion: Completion::Applied,
    refusals: &[
        Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) },
        Refusal { id: "nic-configurations", requirements: &[], check: configurations },
        Refusal { id: "nic-references", requirements: &[], check: references },
        Refusal { id: "nic-one-vnet", requirements: &[], check: one_vnet },
        Refusal { id: "nic-public-ip-free", requirements: &[], check: public_ip_free },
        Refusal { id: "nic-asgs", requirements: &[], check: asgs },
        Refusal { id: "nic-static-address", requirements: &[], check: static_address },
        Refusal {
            id: "subnet-full",
            requirements: &["AML-PRE-003", "AML-PRE-004"],
            check: |ctx, w| assign(ctx, w).map(|_| ()),
        },
    ],
    complete,
    on_delete,
    render,
    actions: &[
        Action { name: "effectiveNetworkSecurityGroups", run: effective::security_groups },
        Action { name: "effectiveRouteTable", run: effective::route_table },
    ],
    references: |d| {
        let paths: Vec<&str> = REFERENCES.iter().map(|(p, _)| *p).collect();
        refs::ids(d, &paths)
    },
    ..ResourceType::BLANK
};

/// Where a NIC points, and at what.
const REFERENCES: [(&str, &str); 6] = [
    ("properties.networkSecurityGroup.id", "Microsoft.Network/networkSecurityGroups"),
    ("properties.ipConfigurations[].properties.subnet.id", "Microsoft.Network/virtualNetworks/subnets"),
    ("properties.ipConfigurations[].properties.publicIPAddress.id", "Microsoft.Network/publicIPAddresses"),
    (
        "properties.ipConfigurations[].properties.applicationSecurityGroups[].id",
        "Microsoft.Network/applicationSecurityGroups",
    ),
    (
        "properties.ipConfigurations[].properties.loadBalancerBackendAddressPools[].id",
        "Microsoft.Network/loadBalancers/backendAddressPools",
    ),
    (
        "properties.ipConfigurations[].properties.loadBalancerInboundNatRules[].id",
        "Microsoft.Network/loadBalancers/inboundNatRules",
    ),
];

fn configs<'a>(write: &'a Write<'_>) -> impl Iterator<Item = (ResourceId, &'a Value)> {
    document::array_at(&write.body, CONFIGS).iter().map(|c| {
        let name = document::str_at(c, "name").unwrap_or_default();
        (write.id.child("ipConfigurations", name), c)
    })
}

/// The private endpoint that an interface was made for.
pub(crate) fn endpoint_of(body: &Value) -> Option<ResourceId> {
    ResourceId::parse(document::str_at(body, "properties.privateEndpoint.id")?).ok()
}

/// The subnet of an IP configuration.
fn subnet_of(config: &Value) -> Option<ResourceId> {
    ResourceId::parse(document::str_at(config, "properties.subnet.id")?).ok()
}

fn configurations(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    shape::distinct_names(write, CONFIGS)?;
    // AZURE: wording not observed.
    let refuse = |message: String| Err(ApiError::bad_request("InvalidRequestFormat", message).with_target(CONFIGS));
    if configs(write).next().is_none() {
        return refuse(format!("Network interface {} has no IP configuration; one is needed.", write.id));
    }
    for (id, config) in configs(write) {
        if document::str_at(config, "properties.subnet.id").is_none() {
            return refuse(format!("IP configuration {id} names no subnet."));
        }
        let version = document::str_at(config, "properties.privateIPAddressVersion").unwrap_or("IPv4");
        if !version.eq_ignore_ascii_case("IPv4") {
            // AZURE: Azure has IPv6 configurations; the data plane here carries IPv4 only and says so.
            return Err(ApiError::bad_request(
                "DualStackNotSupported",
                format!("IP configuration {id} asks for {version}. Moat's data plane carries IPv4 only."),
            ));
        }
        let method = document::str_at(config, "properties.privateIPAllocationMethod").unwrap_or("Dynamic");
        if !["Dynamic", "Static"].iter().any(|m| m.eq_ignore_ascii_case(method)) {
            return refuse(format!("IP configuration {id} has the allocation method {method}. Use Dynamic or Static."));
        }
    }
    Ok(())
}

fn references(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    REFERENCES.iter().try_for_each(|(path, kind)| refs::check(ctx, write, path, kind))
}

fn one_vnet(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let mut vnets = configs(write).filter_map(|(_, c)| subnet_of(c)?.parent());
    let Some(first) = vnets.next() else { return Ok(()) };
    match vnets.find(|v| *v != first) {
        None => Ok(()),
        // AZURE: wording not observed.
        Some(other) => Err(ApiError::bad_request(
            "SubnetsNotInSameVnet",
            format!(
                "Network interface {} has IP configurations in {first} and {other}. All of them must be in one virtual network.",
                write.id
            ),
        )),
    }
}

fn public_ip_free(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for (id, config) in configs(write) {
        if let Some(text) = document::str_at(config, "properties.publicIPAddress.id") {
            let public_ip = refs::parse(text, "properties.publicIPAddress.id")?;
            public_ip_addresses::refuse_if_held(ctx.snapshot, &public_ip, &id)?;
        }
    }
    Ok(())
}

/// network-semantics 4.2, 4.3.
fn asgs(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for (id, config) in configs(write) {
        let groups = refs::texts(config, "properties.applicationSecurityGroups[].id");
        if groups.len() > MOST_ASGS {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "IpConfigurationApplicationSecurityGroupLimitReached",
                format!(
                    "IP configuration {id} is a member of {} application security groups; {MOST_ASGS} are allowed.",
                    groups.len()
                ),
            ));
        }
        let vnet = subnet_of(config).and_then(|s| s.parent());
        for group in groups.iter().filter_map(|g| ResourceId::parse(g).ok()) {
            let stranger = ctx
                .snapshot
                .in_groups(TYPE.name)
                .into_iter()
                .filter(|n| n.id != *write.id)
                .flat_map(|n| document::array_at(&n.body, CONFIGS))
                .filter(|c| {
                    refs::texts(c, "properties.applicationSecurityGroups[].id").iter().any(|g| refs::same(g, &group))
                })
                .find_map(|c| subnet_of(c)?.parent().filter(|v| Some(v) != vnet.as_ref()));
            if let Some(elsewhere) = stranger {
                // AZURE: wording not observed.
                return Err(ApiError::bad_request(
                    "ApplicationSecurityGroupsNotInSameVnet",
                    format!(
                        "IP configuration {id} cannot join application security group {group}: its members are in virtual network {elsewhere}."
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn is_static(config: &Value) -> bool {
    document::str_at(config, "properties.privateIPAllocationMethod").is_some_and(|m| m.eq_ignore_ascii_case("Static"))
}

/// network-semantics 1.5.
fn static_address(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for (id, config) in configs(write).filter(|(_, c)| is_static(c)) {
        let Some(text) = document::str_at(config, "properties.privateIPAddress") else { continue };
        check_static(ctx, &id, config, text)?;
    }
    Ok(())
}

/// Whether the part `id` may have the address `text` in the subnet it names. Front ends of
/// balancers obey the same rules.
pub(super) fn check_static(ctx: &TypeCtx<'_>, id: &ResourceId, part: &Value, text: &str) -> Result<(), ApiError> {
    let Ok(address) = text.parse::<Ipv4Addr>() else {
        // AZURE: wording not observed.
        return Err(ApiError::bad_request(
            "InvalidIPAddress",
            format!("Private static IP address {text} of {id} is not an IPv4 address."),
        ));
    };
    let Some(subnet_id) = subnet_of(part) else { return Ok(()) };
    let Some(subnet) = refs::find(ctx.snapshot, &subnet_id) else { return Ok(()) };
    let prefixes = alloc::subnet_prefixes(subnet);
    let list = prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let Some(prefix) = prefixes.iter().find(|p| p.contains(&address)) else {
        return Err(ApiError::bad_request(
            "PrivateIPAddressNotInSubnet",
            format!("Private static IP address {address} does not belong to the range of subnet prefix {list}."),
        )
        .with_target(id.as_str()));
    };
    if alloc::is_reserved(*prefix, address) {
        return Err(ApiError::bad_request(
            "PrivateIPAddressInReservedRange",
            format!("Private static IP address {address} falls within reserved IP range of subnet prefix {prefix}."),
        )
        .with_target(id.as_str()));
    }
    let holders = alloc::holders(ctx.snapshot, &subnet_id);
    match holders.iter().find(|h| h.address == Some(address) && h.part != *id) {
        None => Ok(()),
        Some(other) => Err(ApiError::bad_request(
            "PrivateIPAddressIsAllocated",
            format!("IP configuration {id} is using the private IP address {address} which is already allocated to resource {}.", other.part),
        )
        .with_target(id.as_str())),
    }
}

/// The address of each part in `parts`: its static one, the one it had, or the next free one.
/// `Err` is `SubnetIsFull` (errors.md `subnet-full`).
pub(super) fn assign_addresses(
    ctx: &TypeCtx<'_>,
    parts: &[(ResourceId, &Value)],
    before: &[Value],
) -> Result<Vec<Option<Ipv4Addr>>, ApiError> {
    let mut taken = BTreeSet::new();
    let mut given = Vec::new();
    for (_, part) in parts {
        let own = document::str_at(part, "properties.privateIPAddress").filter(|_| is_static(part));
        // A dynamic address stays for as long as the part stays in its subnet.
        let earlier = refs::named(before, document::str_at(part, "name").unwrap_or_default())
            .filter(|old| subnet_of(old) == subnet_of(part))
            .and_then(|old| document::str_at(old, "properties.privateIPAddress"));
        let address = own.or(earlier).and_then(|t| t.parse::<Ipv4Addr>().ok());
        taken.extend(address);
        given.push(address);
    }
    for ((_, part), slot) in parts.iter().zip(&mut given).filter(|(_, slot)| slot.is_none()) {
        let Some(subnet_id) = subnet_of(part) else { continue };
        let Some(subnet) = refs::find(ctx.snapshot, &subnet_id) else { continue };
        let next = alloc::next_private(ctx.snapshot, &subnet_id, subnet, &taken).ok_or_else(|| {
            let prefixes = alloc::subnet_prefixes(subnet);
            let list = prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            ApiError::bad_request(
                "SubnetIsFull",
                format!(
                    "Subnet {} with address prefix {list} does not have enough capacity for 1 IP addresses.",
                    subnet_id.name()
                ),
            )
            .with_target(subnet_id.as_str())
        })?;
        taken.insert(next);
        *slot = Some(next);
    }
    Ok(given)
}

fn assign(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<Vec<Option<Ipv4Addr>>, ApiError> {
    let parts: Vec<(ResourceId, &Value)> = configs(write).collect();
    let before = write.before.map(|b| document::array_at(b, CONFIGS)).unwrap_or_default();
    assign_addresses(ctx, &parts, before)
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let mut addresses = assign(ctx, write)?.into_iter();
    let mut first = true;
    shape::each(&mut write.body, CONFIGS, |config| {
        shape::strip_rendered(config);
        document::set_default(config, "properties.privateIPAllocationMethod", json!("Dynamic"));
        document::set_default(config, "properties.privateIPAddressVersion", json!("IPv4"));
        document::set_default(config, "properties.primary", json!(first));
        first = false;
        if let Some(address) = addresses.next().flatten() {
            document::set(config, "properties.privateIPAddress", json!(address.to_string()));
        }
    });
    let kept = |member: &str| write.before.and_then(|b| document::str_at(b, member)).map(str::to_owned);
    let mac = kept("properties.macAddress").unwrap_or_else(|| mac_address(ctx.uuid("macAddress")));
    let guid = kept("properties.resourceGuid").unwrap_or_else(|| ctx.uuid("resourceGuid").to_string());
    document::set(&mut write.body, "properties.macAddress", json!(mac));
    document::set(&mut write.body, "properties.resourceGuid", json!(guid));
    document::set_default(&mut write.body, "properties.enableIPForwarding", json!(false));
    document::set_default(&mut write.body, "properties.enableAcceleratedNetworking", json!(false));
    document::set_default(&mut write.body, "properties.dnsSettings.dnsServers", json!([]));
    document::set_default(&mut write.body, "properties.nicType", json!("Standard"));
    for (member, value) in [
        ("vnetEncryptionSupported", json!(false)),
        ("disableTcpStateTracking", json!(false)),
        ("hostedWorkloads", json!([])),
        ("tapConfigurations", json!([])),
        ("allowPort25Out", json!(true)),
        ("auxiliaryMode", json!("None")),
        ("auxiliarySku", json!("None")),
        ("nicAuxiliarySkuBillingNotificationType", json!("NoOp")),
    ] {
        document::set_default(&mut write.body, &format!("properties.{member}"), value);
    }
    document::set_default(&mut write.body, "kind", json!("Regular"));
    // Whose interface it is, is not for clients to say.
    document::remove(&mut write.body, "properties.privateEndpoint");
    if let Some(endpoint) = write.before.and_then(|b| document::at(b, "properties.privateEndpoint")).cloned() {
        document::set(&mut write.body, "properties.privateEndpoint", endpoint);
    }
    for computed in ["internalDomainNameSuffix", "internalFqdn", "appliedDnsServers"] {
        document::remove(&mut write.body, &format!("properties.dnsSettings.{computed}"));
    }
    Ok(())
}

/// What follows from where the interface is.
fn render(ctx: &TypeCtx<'_>, id: &ResourceId, body: &mut Value) {
    shape::render_parts(id, TYPE.name, body, "ipConfigurations");
    let subnet = document::array_at(body, CONFIGS).iter().find_map(subnet_of);
    let vnet = subnet.and_then(|s| s.parent()).and_then(|v| ctx.snapshot.get(&v));
    if let Some(guid) = vnet.and_then(|v| document::str_at(&v.body, "properties.resourceGuid")) {
        let suffix = format!("{}.bx.internal.cloudapp.net", domain_label(guid));
        document::set(body, "properties.dnsSettings.internalDomainNameSuffix", json!(suffix));
        let label = document::str_at(body, "properties.dnsSettings.internalDnsNameLabel").filter(|l| !l.is_empty());
        if let Some(name) = label.map(|label| format!("{label}.{suffix}")) {
            document::set(body, "properties.dnsSettings.internalFqdn", json!(name));
        }
    }
    let servers = document::at(body, "properties.dnsSettings.dnsServers").cloned().unwrap_or(json!([]));
    document::set(body, "properties.dnsSettings.appliedDnsServers", servers);
}

/// The label of a VNet in the platform's own zone: 26 letters and digits for 128 bits.
fn domain_label(guid: &str) -> String {
    let bits = uuid::Uuid::parse_str(guid).unwrap_or_default().as_u128();
    let digit = |at: u32| char::from_digit(((bits >> (at * 5)) & 31) as u32, 32).unwrap_or('0');
    (0..26).rev().map(digit).collect()
}

/// A hardware address with Azure's vendor prefix.
fn mac_address(seed: uuid::Uuid) -> String {
    let [a, b, c, ..] = *seed.as_bytes();
    format!("00-0D-3A-{a:02X}-{b:02X}-{c:02X}")
}

fn on_delete(ctx: &TypeCtx<'_>, id: &ResourceId, body: &Value, _: &mut Batch) -> Result<(), ApiError> {
    if let Some(endpoint) = endpoint_of(body).filter(|e| ctx.snapshot.get(e).is_some()) {
        // AZURE: wording not observed.
        return Err(ApiError::bad_request(
            "NicInUseWithPrivateEndpoint",
            format!(
                "Network interface {id} cannot be deleted because it is in use by private endpoint {endpoint}. Delete the private endpoint instead."
            ),
        ));
    }
    match shape::held_by_compute(ctx, body) {
        None => Ok(()),
        Some(compute) => Err(ApiError::bad_request(
            "NicInUse",
            format!(
                "Network Interface {id} is used by existing resource {compute}. In order to delete the network interface, it must be dissociated from the resource. To learn more, see aka.ms/deletenic."
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net};

    /// A VNet with subnet `small` (three addresses) and one in another VNet.
    fn world() -> World {
        let mut world = World::new(Edition::Current);
        for (vnet, space, small) in [("v", "10.0.0.0/16", "10.0.0.0/29"), ("w", "10.1.0.0/16", "10.1.0.0/29")] {
            let subnets = json!([{"name": "small", "properties": {"addressPrefix": small}}]);
            let body = json!({"properties": {"addressSpace": {"addressPrefixes": [space]}, "subnets": subnets}});
            world.put(&net(&format!("virtualNetworks/{vnet}")), body).unwrap();
        }
        world
    }

    fn nic(world: &mut World, name: &str, extra: Value) -> Result<Value, ApiError> {
        let mut config = json!({"subnet": {"id": net("virtualNetworks/v/subnets/small")}});
        document::merge(&mut config, &extra);
        let body = json!({"properties": {"ipConfigurations": [{"name": "ipconfig1", "properties": config}]}});
        world.put(&net(&format!("networkInterfaces/{name}")), body)
    }

    fn address(stored: &Value) -> &str {
        stored["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"].as_str().unwrap()
    }

    fn check(extra: Value) -> String {
        let mut world = world();
        nic(&mut world, "first", json!({})).unwrap();
        match nic(&mut world, "second", extra) {
            Ok(stored) => address(&stored).to_owned(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn addresses_are_given_in_order_kept_and_given_again() {
        let mut world = world();
        let names = ["a", "b", "c"];
        let given: Vec<String> =
            names.iter().map(|n| address(&nic(&mut world, n, json!({})).unwrap()).to_owned()).collect();
        assert_eq!(given, ["10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        insta::assert_snapshot!(nic(&mut world, "d", json!({})).unwrap_err(), @"(SubnetIsFull) Subnet small with address prefix 10.0.0.0/29 does not have enough capacity for 1 IP addresses.");
        assert_eq!(address(&nic(&mut world, "b", json!({})).unwrap()), "10.0.0.5");
        world.delete(&net("networkInterfaces/a")).unwrap();
        assert_eq!(address(&nic(&mut world, "d", json!({})).unwrap()), "10.0.0.4");
    }

    #[test]
    fn static_addresses_obey_the_subnet() {
        let fixed = |a: &str| json!({"privateIPAllocationMethod": "Static", "privateIPAddress": a});
        insta::assert_snapshot!(check(fixed("10.0.0.6")), @"10.0.0.6");
        insta::assert_snapshot!(check(fixed("10.0.0.3")), @"(PrivateIPAddressInReservedRange) Private static IP address 10.0.0.3 falls within reserved IP range of subnet prefix 10.0.0.0/29.");
        insta::assert_snapshot!(check(fixed("10.0.0.7")), @"(PrivateIPAddressInReservedRange) Private static IP address 10.0.0.7 falls within reserved IP range of subnet prefix 10.0.0.0/29.");
        insta::assert_snapshot!(check(fixed("10.0.9.4")), @"(PrivateIPAddressNotInSubnet) Private static IP address 10.0.9.4 does not belong to the range of subnet prefix 10.0.0.0/29.");
        insta::assert_snapshot!(check(fixed("10.0.0.4")), @"(PrivateIPAddressIsAllocated) IP configuration /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/second/ipConfigurations/ipconfig1 is using the private IP address 10.0.0.4 which is already allocated to resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/first/ipConfigurations/ipconfig1.");
    }

    #[test]
    fn what_a_nic_names_must_be_there() {
        insta::assert_snapshot!(check(json!({"subnet": {"id": net("virtualNetworks/v/subnets/missing")}})), @"(InvalidResourceReference) Resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/missing referenced by resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/second was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.");
        insta::assert_snapshot!(check(json!({"subnet": null})), @"(InvalidRequestFormat) IP configuration /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/second/ipConfigurations/ipconfig1 names no subnet.");
        insta::assert_snapshot!(check(json!({"privateIPAddressVersion": "IPv6"})), @"(DualStackNotSupported) IP configuration /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/second/ipConfigurations/ipconfig1 asks for IPv6. Moat's data plane carries IPv4 only.");
        let mut world = world();
        let far = json!({"location": "eastus", "properties": {"ipConfigurations": [
            {"name": "c", "properties": {"subnet": {"id": net("virtualNetworks/v/subnets/small")}}}]}});
        assert_eq!(world.put(&net("networkInterfaces/far"), far).unwrap_err().code, "InvalidResourceReference");
        let configs: Vec<Value> = ["v", "w"]
            .iter()
            .map(|v| json!({"name": v, "properties": {"subnet": {"id": net(&format!("virtualNetworks/{v}/subnets/small"))}}}))
            .collect();
        let both = json!({"properties": {"ipConfigurations": configs}});
        assert_eq!(world.put(&net("networkInterfaces/both"), both).unwrap_err().code, "SubnetsNotInSameVnet");
    }

    #[test]
    fn an_application_security_group_stays_in_one_vnet() {
        let mut world = world();
        let asg = net("applicationSecurityGroups/web");
        world.put(&asg, json!({"properties": {}})).unwrap();
        let member = json!({"applicationSecurityGroups": [{"id": asg}]});
        nic(&mut world, "a", member.clone()).unwrap();
        let mut elsewhere = member;
        elsewhere["subnet"] = json!({"id": net("virtualNetworks/w/subnets/small")});
        insta::assert_snapshot!(nic(&mut world, "b", elsewhere).unwrap_err().code, @"ApplicationSecurityGroupsNotInSameVnet");
    }

    #[test]
    fn parts_are_answered_with_ids() {
        let mut world = world();
        nic(&mut world, "a", json!({})).unwrap();
        let answered = world.get(&net("networkInterfaces/a"));
        let config = &answered["properties"]["ipConfigurations"][0];
        assert_eq!(config["id"], net("networkInterfaces/a/ipConfigurations/ipconfig1"));
        assert!(answered["properties"]["macAddress"].as_str().unwrap().starts_with("00-0D-3A-"));
        // Sent back as answered, nothing changes.
        let before = world.snapshot.get(&ResourceId::parse(&net("networkInterfaces/a")).unwrap()).unwrap().body.clone();
        assert_eq!(world.put(&net("networkInterfaces/a"), answered).unwrap(), before);
    }
}
