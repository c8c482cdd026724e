//! `Microsoft.Network/virtualNetworks`: an address space with its subnets and halves of peerings.
//!
//! Subnets and peerings live in this document, so their rules run here on every write of it, whether
//! a client sent the whole VNet or one child (`subnets.rs`, `peerings.rs` hold the rules).

use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, communities, peerings, prefix, subnets};
use crate::refs;
use crate::resource_type::{Completion, Refusal, ResourceType, TypeCtx, Write};
use crate::types::shape;

/// DNS servers of one VNet (network-semantics 14).
const MOST_DNS_SERVERS: usize = 20;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/virtualNetworks",
    api_versions: API_VERSIONS,
    completion: Completion::Applied,
    inherit: |_, write| {
        // Current Azure keeps children that a PUT leaves out; `[]` removes them.
        shape::keep_if_absent(write, "properties.subnets");
        shape::keep_if_absent(write, "properties.virtualNetworkPeerings");
    },
    refusals: &[
        Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) },
        Refusal { id: "vnet-address-space", requirements: &[], check: address_space },
        Refusal { id: "vnet-refused-range", requirements: &["AML-PRE-014"], check: refused_range },
        Refusal { id: "vnet-dns-servers", requirements: &[], check: dns_servers },
        Refusal { id: "subnet-names", requirements: &[], check: |_, w| shape::distinct_names(w, "properties.subnets") },
        Refusal { id: "subnet-limit", requirements: &[], check: subnets::limit },
        Refusal { id: "subnet-prefix", requirements: &[], check: subnets::prefixes },
        Refusal { id: "subnet-outside-vnet", requirements: &[], check: subnets::inside },
        Refusal { id: "subnet-overlap", requirements: &[], check: subnets::overlap },
        Refusal { id: "subnet-references", requirements: &[], check: subnets::references },
        Refusal { id: "subnet-in-use", requirements: &["AML-LIF-006"], check: subnets::in_use },
        Refusal { id: "subnet-delegation-in-use", requirements: &["AML-PRE-007"], check: subnets::delegation_in_use },
        Refusal { id: "peering-names", requirements: &[], check: peerings::names },
        Refusal { id: "peering-remote", requirements: &[], check: peerings::remote },
        Refusal { id: "peering-overlap", requirements: &[], check: peerings::overlap },
        Refusal { id: "vnet-encryption", requirements: &[], check: encryption },
    ],
    complete,
    on_write: peerings::other_halves,
    on_delete,
    render: |_, _, body| {
        document::set_default(body, "properties.dhcpOptions.dnsServers", json!([]));
        document::set_default(body, "properties.privateEndpointVNetPolicies", json!("Disabled"));
        // Of versions before 2018-12-01; clients of today do not know it.
        document::set_default(body, "properties.enableVmProtection", json!(false));
        if document::at(body, "properties.encryption").is_some_and(Value::is_object) {
            document::set_default(body, "properties.encryption.enforcement", json!("AllowUnencrypted"));
        }
    },
    references: |d| refs::ids(d, REFERENCES),
    ..ResourceType::BLANK
};

/// Members that hold ids.
const REFERENCES: &[&str] = &[
    "properties.subnets[].properties.networkSecurityGroup.id",
    "properties.subnets[].properties.routeTable.id",
    "properties.subnets[].properties.natGateway.id",
    "properties.virtualNetworkPeerings[].properties.remoteVirtualNetwork.id",
];

/// The prefixes of a VNet document that parse.
pub fn prefixes(body: &Value) -> Vec<ipnet::IpNet> {
    refs::texts(body, "properties.addressSpace.addressPrefixes[]").iter().filter_map(|t| t.parse().ok()).collect()
}

/// Who switches encryption on says how strictly.
fn encryption(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let on = document::bool_at(&write.body, "properties.encryption.enabled") == Some(true);
    if !on || document::str_at(&write.body, "properties.encryption.enforcement").is_some() {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "MustSpecifyBothEncryptionIntentAndEnforcementPolicy",
        format!(
            "Cannot encrypt VirtualNetwork {} unless both encryption intent (Enabled true or false) and enforcement policy (AllowUnencrypted or DropUnencrypted) are specified.",
            write.id
        ),
    ))
}

fn address_space(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let texts = refs::texts(&write.body, "properties.addressSpace.addressPrefixes[]");
    if texts.is_empty() {
        // AZURE: wording not observed.
        return Err(ApiError::bad_request(
            "InvalidRequestFormat",
            format!("Virtual network {} has no address prefix. `properties.addressSpace.addressPrefixes` needs at least one, for example 10.0.0.0/16.", write.id),
        )
        .with_target("properties.addressSpace.addressPrefixes"));
    }
    let nets = texts.iter().map(|t| prefix::parse(t, write.id)).collect::<Result<Vec<_>, _>>()?;
    for (i, a) in nets.iter().enumerate() {
        if let Some(b) = nets[..i].iter().find(|b| prefix::overlap(a, b)) {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "InvalidAddressPrefix",
                format!("Address prefixes {b} and {a} of virtual network {} overlap.", write.id),
            ));
        }
    }
    if let Some(v6) = nets.iter().find(|n| matches!(n, ipnet::IpNet::V6(_))) {
        // AZURE: Azure has dual-stack VNets; the data plane here carries IPv4 only and says so.
        return Err(ApiError::bad_request(
            "DualStackNotSupported",
            format!(
                "Address prefix {v6} of virtual network {} is IPv6. Moat's data plane carries IPv4 only; leave the IPv6 prefix out.",
                write.id
            ),
        ));
    }
    Ok(())
}

fn refused_range(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for net in prefixes(&write.body) {
        if let Some(range) = prefix::refused(&net) {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "InvalidAddressPrefix",
                format!("Address prefix {net} of virtual network {} contains addresses of {range}, which a virtual network cannot use.", write.id),
            )
            .with_target("properties.addressSpace.addressPrefixes"));
        }
    }
    Ok(())
}

fn dns_servers(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let servers = refs::texts(&write.body, "properties.dhcpOptions.dnsServers[]");
    // AZURE: wording not observed.
    let refuse = |message: String| {
        Err(ApiError::bad_request("InvalidDnsServers", message).with_target("properties.dhcpOptions.dnsServers"))
    };
    if servers.len() > MOST_DNS_SERVERS {
        return refuse(format!(
            "Virtual network {} lists {} DNS servers; {MOST_DNS_SERVERS} are allowed.",
            write.id,
            servers.len()
        ));
    }
    match servers.iter().find(|s| s.parse::<std::net::IpAddr>().is_err()) {
        Some(bad) => refuse(format!("DNS server {bad} of virtual network {} is not an IP address.", write.id)),
        None => Ok(()),
    }
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    document::set_default(&mut write.body, "properties.subnets", json!([]));
    document::set_default(&mut write.body, "properties.virtualNetworkPeerings", json!([]));
    document::set_default(&mut write.body, "properties.enableDdosProtection", json!(false));
    let guid = write.before.and_then(|b| document::str_at(b, "properties.resourceGuid")).map(str::to_owned);
    let guid = guid.unwrap_or_else(|| ctx.uuid("resourceGuid").to_string());
    document::set(&mut write.body, "properties.resourceGuid", json!(guid));
    if document::at(&write.body, "properties.bgpCommunities").is_some_and(Value::is_object) {
        let region = document::str_at(&write.body, "location").map(refs::location_key).unwrap_or_default();
        if let Some(community) = communities::of_region(&region) {
            document::set(&mut write.body, "properties.bgpCommunities.regionalCommunity", json!(community));
        }
    }
    let edition = ctx.edition;
    let at_edge = document::at(&write.body, "extendedLocation").is_some_and(Value::is_object);
    shape::each(&mut write.body, "properties.subnets", |s| {
        subnets::complete(edition, s);
        if at_edge {
            // Edge zones have no way out by default.
            document::set_default(s, "properties.defaultOutboundAccess", json!(false));
        }
    });
    peerings::complete(ctx, write);
    Ok(())
}

fn on_delete(ctx: &TypeCtx<'_>, id: &ResourceId, body: &Value, batch: &mut Batch) -> Result<(), ApiError> {
    for subnet in document::array_at(body, "properties.subnets") {
        let subnet_id = id.child("subnets", document::str_at(subnet, "name").unwrap_or_default());
        subnets::refuse_if_used(ctx.snapshot, &subnet_id)?;
    }
    for peering in document::array_at(body, "properties.virtualNetworkPeerings") {
        peerings::disconnect(ctx.snapshot, id, peering, batch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net};

    #[test]
    fn encryption_that_is_on_says_how_strictly() {
        let put = |encryption: Value| {
            let body = json!({"properties": {
                "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "encryption": encryption,
            }});
            World::new(Edition::Current).put(&net("virtualNetworks/v"), body)
        };
        insta::assert_snapshot!(put(json!({"enabled": true})).unwrap_err(), @"(MustSpecifyBothEncryptionIntentAndEnforcementPolicy) Cannot encrypt VirtualNetwork /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v unless both encryption intent (Enabled true or false) and enforcement policy (AllowUnencrypted or DropUnencrypted) are specified.");
        put(json!({"enabled": true, "enforcement": "AllowUnencrypted"})).unwrap();
        put(json!({"enabled": false})).unwrap();
    }

    fn check(address_prefixes: &[&str], subnets: &[(&str, &str)]) -> String {
        let subnets: Vec<Value> =
            subnets.iter().map(|(n, p)| json!({"name": n, "properties": {"addressPrefix": p}})).collect();
        let body = json!({"properties": {"addressSpace": {"addressPrefixes": address_prefixes}, "subnets": subnets}});
        match World::new(Edition::Current).put(&net("virtualNetworks/v"), body) {
            Ok(_) => "accepted".to_owned(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn the_usual_vnet_is_accepted() {
        insta::assert_snapshot!(check(&["10.0.0.0/16"], &[("default", "10.0.0.0/24"), ("pe", "10.0.1.0/29")]), @"accepted");
    }

    #[test]
    fn broken_prefixes_are_refused_with_azures_codes() {
        insta::assert_snapshot!(check(&["10.0.0.0/33"], &[]), @"(InvalidAddressPrefixFormat) Address prefix 10.0.0.0/33 of resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24.");
        insta::assert_snapshot!(check(&["10.0.0.1/16"], &[]), @"(InvalidCIDRNotation) The address prefix 10.0.0.1/16 in resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v has an invalid CIDR notation. For the given prefix length, the address prefix should be 10.0.0.0/16.");
        insta::assert_snapshot!(check(&["10.0.0.0/16"], &[("a", "10.0.0.5/24")]), @"(InvalidCIDRNotation) The address prefix 10.0.0.5/24 in resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/a has an invalid CIDR notation. For the given prefix length, the address prefix should be 10.0.0.0/24.");
        insta::assert_snapshot!(check(&["10.0.0.0/16"], &[("a", "10.0.0.0/30")]), @"(NetcfgInvalidSubnet) Subnet 'a' is not valid in virtual network 'v'. Its prefix 10.0.0.0/30 is smaller than /29, the smallest IPv4 subnet.");
        insta::assert_snapshot!(check(&["10.0.0.0/16"], &[("a", "10.1.0.0/24")]), @"(NetcfgSubnetRangeOutsideVnet) Subnet 'a' is not valid because its IP address range is outside the IP address range of virtual network 'v'.");
        insta::assert_snapshot!(check(&["10.0.0.0/16"], &[("a", "10.0.0.0/24"), ("b", "10.0.0.128/25")]), @"(NetcfgSubnetRangesOverlap) Subnet 'b' is not valid because its IP address range overlaps with that of an existing subnet in virtual network 'v'.");
        insta::assert_snapshot!(check(&["10.0.0.0/16", "10.0.1.0/24"], &[]), @"(InvalidAddressPrefix) Address prefixes 10.0.0.0/16 and 10.0.1.0/24 of virtual network /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v overlap.");
        insta::assert_snapshot!(check(&[], &[]), @"(InvalidRequestFormat) Virtual network /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v has no address prefix. `properties.addressSpace.addressPrefixes` needs at least one, for example 10.0.0.0/16.");
        insta::assert_snapshot!(check(&["10.0.0.0/16", "fd00::/48"], &[]), @"(DualStackNotSupported) Address prefix fd00::/48 of virtual network /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v is IPv6. Moat's data plane carries IPv4 only; leave the IPv6 prefix out.");
    }

    #[test]
    fn ranges_azure_keeps_for_itself_are_refused() {
        for refused in ["224.0.0.0/8", "127.1.0.0/16", "169.254.0.0/16", "168.63.0.0/16", "255.255.255.0/24"] {
            assert!(check(&[refused], &[]).starts_with("(InvalidAddressPrefix)"), "{refused}");
        }
    }

    #[test]
    fn a_put_without_subnets_keeps_them() {
        let mut world = World::new(Edition::Current);
        let space = json!({"addressPrefixes": ["10.0.0.0/16"]});
        let v = net("virtualNetworks/v");
        let subnet = json!([{"name": "a", "properties": {"addressPrefix": "10.0.0.0/24"}}]);
        let first = world.put(&v, json!({"properties": {"addressSpace": space, "subnets": subnet}})).unwrap();
        let second = world.put(&v, json!({"tags": {"a": "b"}, "properties": {"addressSpace": space}})).unwrap();
        assert_eq!(first["properties"]["subnets"], second["properties"]["subnets"]);
        assert_eq!(first["properties"]["resourceGuid"], second["properties"]["resourceGuid"]);
        let third = world.put(&v, json!({"properties": {"addressSpace": space, "subnets": []}})).unwrap();
        assert_eq!(third["properties"]["subnets"], json!([]));
    }
}
