//! `Microsoft.Network/loadBalancers`: front ends, and what leads from them to NICs.
//!
//! Rules, pools and probes are parts of this document with ids of their own; membership in a pool is
//! written at the NIC and rendered here. Internal front ends take an address like NICs do.

use std::collections::BTreeMap;

use moat_arm::{ApiError, Batch, Change, ResourceId, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, network_interfaces, public_ip_addresses};
use crate::refs;
use crate::resource_type::{Completion, Refusal, ResourceType, Scope, TypeCtx, Write};
use crate::types::shape;

/// Parts of a balancer that have ids.
const PARTS: [&str; 7] = [
    "frontendIPConfigurations",
    "backendAddressPools",
    "loadBalancingRules",
    "probes",
    "inboundNatRules",
    "inboundNatPools",
    "outboundRules",
];
/// Front ends, load-balancing rules with NAT rules, and outbound rules (network-semantics 10.4).
const MOST: [(&[&str], usize); 3] = [
    (&["frontendIPConfigurations"], 600),
    (&["loadBalancingRules", "inboundNatRules"], 1_500),
    (&["outboundRules"], 600),
];
const FRONTENDS: &str = "properties.frontendIPConfigurations";

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/loadBalancers",
    api_versions: API_VERSIONS,
    completion: Completion::Applied,
    refusals: &[
        Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) },
        Refusal { id: "lb-part-names", requirements: &[], check: names },
        Refusal { id: "lb-limit", requirements: &[], check: limit },
        Refusal { id: "lb-frontend", requirements: &[], check: frontends },
        Refusal { id: "lb-references", requirements: &[], check: references },
        Refusal { id: "lb-public-ip", requirements: &[], check: public_ips },
        Refusal { id: "lb-rule-fields", requirements: &[], check: fields },
        Refusal { id: "lb-rule-conflict", requirements: &[], check: conflicts },
        Refusal { id: "lb-internal-address", requirements: &[], check: internal_address },
        Refusal { id: "subnet-full", requirements: &[], check: |ctx, w| assign(ctx, w).map(|_| ()) },
    ],
    complete,
    on_delete,
    render,
    references: |d| {
        let paths: Vec<&str> = REFERENCES.iter().map(|(p, _)| *p).collect();
        refs::ids(d, &paths)
    },
    ..ResourceType::BLANK
};

/// `Microsoft.Network/loadBalancers/backendAddressPools`: the one part, with NAT rules, that clients
/// write by itself.
pub static BACKEND_POOLS: ResourceType = ResourceType {
    name: "Microsoft.Network/loadBalancers/backendAddressPools",
    scope: Scope::Embedded("properties.backendAddressPools"),
    ..PART
};

/// `Microsoft.Network/loadBalancers/inboundNatRules`.
pub static INBOUND_NAT_RULES: ResourceType = ResourceType {
    name: "Microsoft.Network/loadBalancers/inboundNatRules",
    scope: Scope::Embedded("properties.inboundNatRules"),
    ..PART
};

/// What parts that are types have in common; the balancer's own refusals and rendering see to them.
const PART: ResourceType = ResourceType {
    api_versions: API_VERSIONS,
    completion: Completion::Applied,
    location_required: false,
    render: render_alone,
    ..ResourceType::BLANK
};

/// Where a balancer points, and at what.
const REFERENCES: [(&str, &str); 12] = [
    ("properties.frontendIPConfigurations[].properties.publicIPPrefix.id", "Microsoft.Network/publicIPPrefixes"),
    ("properties.frontendIPConfigurations[].properties.subnet.id", "Microsoft.Network/virtualNetworks/subnets"),
    ("properties.frontendIPConfigurations[].properties.publicIPAddress.id", "Microsoft.Network/publicIPAddresses"),
    (
        "properties.loadBalancingRules[].properties.frontendIPConfiguration.id",
        "Microsoft.Network/loadBalancers/frontendIPConfigurations",
    ),
    (
        "properties.loadBalancingRules[].properties.backendAddressPool.id",
        "Microsoft.Network/loadBalancers/backendAddressPools",
    ),
    ("properties.loadBalancingRules[].properties.probe.id", "Microsoft.Network/loadBalancers/probes"),
    (
        "properties.inboundNatRules[].properties.frontendIPConfiguration.id",
        "Microsoft.Network/loadBalancers/frontendIPConfigurations",
    ),
    (
        "properties.inboundNatRules[].properties.backendIPConfiguration.id",
        "Microsoft.Network/networkInterfaces/ipConfigurations",
    ),
    (
        "properties.inboundNatRules[].properties.backendAddressPool.id",
        "Microsoft.Network/loadBalancers/backendAddressPools",
    ),
    (
        "properties.inboundNatPools[].properties.frontendIPConfiguration.id",
        "Microsoft.Network/loadBalancers/frontendIPConfigurations",
    ),
    (
        "properties.outboundRules[].properties.frontendIPConfigurations[].id",
        "Microsoft.Network/loadBalancers/frontendIPConfigurations",
    ),
    (
        "properties.outboundRules[].properties.backendAddressPool.id",
        "Microsoft.Network/loadBalancers/backendAddressPools",
    ),
];

fn names(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    PARTS.iter().try_for_each(|part| shape::distinct_names(write, &format!("properties.{part}")))
}

fn limit(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for (parts, most) in MOST {
        let count: usize =
            parts.iter().map(|p| document::array_at(&write.body, &format!("properties.{p}")).len()).sum();
        if count > most {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "LoadBalancerLimitReached",
                format!(
                    "Load balancer {} would have {count} of {}; {most} are allowed.",
                    write.id,
                    parts.join(" and ")
                ),
            ));
        }
    }
    Ok(())
}

/// A front end is public or private, and all of them are the same. A public one has an address, or, for what goes out
/// only, a prefix.
fn frontends(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let mut kinds = BTreeMap::new();
    for frontend in document::array_at(&write.body, FRONTENDS) {
        let name = document::str_at(frontend, "name").unwrap_or_default();
        let names = |member: &str| document::str_at(frontend, &format!("properties.{member}.id")).is_some();
        let public = names("publicIPAddress") || names("publicIPPrefix");
        let private = document::str_at(frontend, "properties.subnet.id").is_some();
        if public == private {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "LoadBalancerFrontendIPConfigMustHaveSubnetOrPublicIP",
                format!(
                    "Frontend IP configuration {name} of load balancer {} must name either a subnet or a public IP address.",
                    write.id
                ),
            ));
        }
        kinds.insert(public, name);
    }
    if kinds.len() > 1 {
        // AZURE: wording not observed.
        return Err(ApiError::bad_request(
            "InvalidLoadBalancerFrontends",
            format!(
                "Load balancer {} has public and private frontend IP configurations. All of them must be of one kind.",
                write.id
            ),
        ));
    }
    Ok(())
}

fn references(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    REFERENCES.iter().try_for_each(|(path, kind)| refs::check(ctx, write, path, kind))
}

fn sku(body: &Value) -> &str {
    document::str_at(body, "sku.name").unwrap_or("Basic")
}

fn public_ips(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for frontend in document::array_at(&write.body, FRONTENDS) {
        let Some(text) = document::str_at(frontend, "properties.publicIPAddress.id") else { continue };
        let id = refs::parse(text, "properties.publicIPAddress.id")?;
        let name = document::str_at(frontend, "name").unwrap_or_default();
        public_ip_addresses::refuse_if_held(ctx.snapshot, &id, &write.id.child("frontendIPConfigurations", name))?;
        let theirs = refs::find(ctx.snapshot, &id).and_then(|d| document::str_at(d, "sku.name")).unwrap_or("Basic");
        if !theirs.eq_ignore_ascii_case(sku(&write.body)) {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "PublicIPAndLBSkuDoNotMatch",
                format!(
                    "{} sku load balancer {} references {theirs} sku publicIP {id}. SKUs must match.",
                    sku(&write.body),
                    write.id
                ),
            ));
        }
    }
    Ok(())
}

/// Rules that have ports and a protocol: array, port members, whether `All` is a protocol.
const RULES: [(&str, &[&str], bool); 3] = [
    ("loadBalancingRules", &["frontendPort", "backendPort"], true),
    ("inboundNatRules", &["frontendPort", "backendPort"], true),
    ("inboundNatPools", &["frontendPortRangeStart", "frontendPortRangeEnd", "backendPort"], false),
];

fn fields(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    // AZURE: wording not observed.
    let refuse = |message: String| Err(ApiError::bad_request("InvalidRequestFormat", message));
    for (array, ports, all) in RULES {
        for rule in document::array_at(&write.body, &format!("properties.{array}")) {
            let id = write.id.child(array, document::str_at(rule, "name").unwrap_or_default());
            let protocol = document::str_at(rule, "properties.protocol").unwrap_or("Tcp");
            let known = ["Tcp", "Udp"].iter().any(|p| p.eq_ignore_ascii_case(protocol));
            let any = all && protocol.eq_ignore_ascii_case("All");
            if !known && !any {
                return refuse(format!(
                    "{id} has the protocol '{protocol}'. Use Tcp, Udp or, in load balancing rules, All."
                ));
            }
            // A NAT rule of a whole pool has a range of front end ports instead of one.
            let ranged =
                array == "inboundNatRules" && document::at(rule, "properties.frontendPortRangeStart").is_some();
            for member in ports.iter().filter(|m| !(ranged && **m == "frontendPort")) {
                let port = document::u64_at(rule, &format!("properties.{member}"));
                let fits = match port {
                    Some(0) => any,
                    Some(p) => p <= u64::from(u16::MAX),
                    None => false,
                };
                if !fits {
                    return refuse(format!("{id} has no {member} from 1 to 65535 (0 with the protocol All)."));
                }
            }
            if document::str_at(rule, "properties.frontendIPConfiguration.id").is_none() {
                return refuse(format!("{id} names no frontendIPConfiguration."));
            }
        }
    }
    for probe in document::array_at(&write.body, "properties.probes") {
        let id = write.id.child("probes", document::str_at(probe, "name").unwrap_or_default());
        let protocol = document::str_at(probe, "properties.protocol").unwrap_or_default();
        if !["Tcp", "Http", "Https"].iter().any(|p| p.eq_ignore_ascii_case(protocol)) {
            return refuse(format!("Probe {id} has the protocol '{protocol}'. Use Tcp, Http or Https."));
        }
        if !document::u64_at(probe, "properties.port").is_some_and(|p| (1..=u64::from(u16::MAX)).contains(&p)) {
            return refuse(format!("Probe {id} has no port from 1 to 65535."));
        }
    }
    Ok(())
}

/// Two rules may not listen on one port of one front end.
fn conflicts(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let mut seen: BTreeMap<(String, String, u64), String> = BTreeMap::new();
    for array in ["loadBalancingRules", "inboundNatRules"] {
        for rule in document::array_at(&write.body, &format!("properties.{array}")) {
            let Some(port) = document::u64_at(rule, "properties.frontendPort") else { continue };
            let name = document::str_at(rule, "name").unwrap_or_default().to_owned();
            let key = (
                document::str_at(rule, "properties.frontendIPConfiguration.id").unwrap_or_default().to_lowercase(),
                document::str_at(rule, "properties.protocol").unwrap_or("Tcp").to_lowercase(),
                port,
            );
            if let Some(other) = seen.insert(key, name.clone()) {
                // AZURE: wording not observed.
                return Err(ApiError::bad_request(
                    "RulesUseSameFrontendPortProtocolAndIPConfig",
                    format!(
                        "Load balancer rules {other} and {name} of {} use the same FrontendIPConfiguration, FrontendPort {port} and Protocol.",
                        write.id
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Front ends that lie in a subnet, with their ids.
fn internal<'a>(write: &'a Write<'_>) -> Vec<(ResourceId, &'a Value)> {
    document::array_at(&write.body, FRONTENDS)
        .iter()
        .filter(|f| document::str_at(f, "properties.subnet.id").is_some())
        .map(|f| (write.id.child("frontendIPConfigurations", document::str_at(f, "name").unwrap_or_default()), f))
        .collect()
}

fn internal_address(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for (id, frontend) in internal(write) {
        let fixed = document::str_at(frontend, "properties.privateIPAllocationMethod")
            .is_some_and(|m| m.eq_ignore_ascii_case("Static"));
        if let Some(text) = document::str_at(frontend, "properties.privateIPAddress").filter(|_| fixed) {
            network_interfaces::check_static(ctx, &id, frontend, text)?;
        }
    }
    Ok(())
}

/// Name and address of each internal front end.
fn assign(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<Vec<(String, Option<std::net::Ipv4Addr>)>, ApiError> {
    let parts = internal(write);
    let before = write.before.map(|b| document::array_at(b, FRONTENDS)).unwrap_or_default();
    let addresses = network_interfaces::assign_addresses(ctx, &parts, before)?;
    Ok(parts.iter().map(|(id, _)| id.name().to_owned()).zip(addresses).collect())
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let addresses: BTreeMap<String, _> = assign(ctx, write)?.into_iter().collect();
    let kept = write.before.and_then(|b| document::str_at(b, "properties.resourceGuid")).map(str::to_owned);
    let guid = kept.unwrap_or_else(|| ctx.uuid("resourceGuid").to_string());
    let body = &mut write.body;
    document::set(body, "properties.resourceGuid", json!(guid));
    document::set_default(body, "sku.name", json!("Basic"));
    document::set_default(body, "sku.tier", json!("Regional"));
    for part in PARTS {
        document::set_default(body, &format!("properties.{part}"), json!([]));
        shape::each(body, &format!("properties.{part}"), |p| {
            shape::strip_rendered(p);
            for computed in
                ["backendIPConfigurations", "loadBalancingRules", "inboundNatRules", "inboundNatPools", "outboundRules"]
            {
                document::remove(p, &format!("properties.{computed}"));
            }
        });
    }
    shape::each(body, FRONTENDS, |frontend| {
        let name = document::str_at(frontend, "name").unwrap_or_default();
        if let Some(Some(address)) = addresses.get(name) {
            let text = address.to_string();
            document::set_default(frontend, "properties.privateIPAllocationMethod", json!("Dynamic"));
            document::set(frontend, "properties.privateIPAddress", json!(text));
            document::set_default(frontend, "properties.privateIPAddressVersion", json!("IPv4"));
        } else {
            document::set_default(frontend, "properties.privateIPAllocationMethod", json!("Dynamic"));
        }
    });
    for (array, member, value) in [
        ("loadBalancingRules", "enableFloatingIP", json!(false)),
        ("loadBalancingRules", "idleTimeoutInMinutes", json!(4)),
        ("loadBalancingRules", "loadDistribution", json!("Default")),
        ("loadBalancingRules", "disableOutboundSnat", json!(false)),
        ("loadBalancingRules", "enableTcpReset", json!(false)),
        ("loadBalancingRules", "enableDestinationServiceEndpoint", json!(false)),
        ("loadBalancingRules", "allowBackendPortConflict", json!(false)),
        ("inboundNatRules", "protocol", json!("Tcp")),
        ("inboundNatRules", "enableFloatingIP", json!(false)),
        ("inboundNatRules", "idleTimeoutInMinutes", json!(4)),
        ("inboundNatRules", "enableTcpReset", json!(false)),
        ("inboundNatRules", "enableDestinationServiceEndpoint", json!(false)),
        ("inboundNatRules", "allowBackendPortConflict", json!(false)),
        ("inboundNatPools", "enableFloatingIP", json!(false)),
        ("inboundNatPools", "idleTimeoutInMinutes", json!(4)),
        ("inboundNatPools", "enableTcpReset", json!(false)),
        ("inboundNatPools", "enableDestinationServiceEndpoint", json!(false)),
        ("inboundNatPools", "allowBackendPortConflict", json!(false)),
        // An outbound rule that says nothing leaves the ports to be shared out by the size of the pool.
        ("outboundRules", "allocatedOutboundPorts", json!(0)),
        ("outboundRules", "allocationPolicy", json!({"onDemandAllocation": false, "portReuse": "FirstAvailable"})),
        ("outboundRules", "enableTcpReset", json!(false)),
        // A rule of a whole pool has a range of ports instead.
        ("inboundNatRules", "frontendPort", json!(0)),
        ("probes", "probeThreshold", json!(1)),
        ("probes", "intervalInSeconds", json!(15)),
        ("probes", "numberOfProbes", json!(2)),
        ("outboundRules", "idleTimeoutInMinutes", json!(4)),
    ] {
        shape::each(body, &format!("properties.{array}"), |p| {
            document::set_default(p, &format!("properties.{member}"), value.clone());
        });
    }
    Ok(())
}

/// A balancer that the service made stays while its compute does (errors.md `lb-inuse`,
/// network-semantics 10.3); any other goes, and NICs forget it.
fn on_delete(ctx: &TypeCtx<'_>, id: &ResourceId, body: &Value, batch: &mut Batch) -> Result<(), ApiError> {
    if let Some(compute) = shape::held_by_compute(ctx, body) {
        let children: Vec<String> = ["backendAddressPools", "inboundNatRules"]
            .iter()
            .flat_map(|part| {
                refs::texts(body, &format!("properties.{part}[].name"))
                    .into_iter()
                    .map(|n| id.child(part, n).to_string())
                    .collect::<Vec<_>>()
            })
            .collect();
        return Err(ApiError::bad_request(
            "LoadBalancerInUseByVirtualMachineScaleSet",
            format!(
                "Cannot delete load balancer {id} since its child resources {} are in use by virtual machine scale set {compute}.",
                children.join(", ")
            ),
        ));
    }
    let names_it =
        |v: &Value| document::str_at(v, "id").is_some_and(|t| ResourceId::parse(t).is_ok_and(|t| t.is_within(id)));
    for nic in ctx.snapshot.in_groups(network_interfaces::TYPE.name) {
        let mut changed = nic.body.clone();
        shape::each(&mut changed, "properties.ipConfigurations", |config| {
            for member in ["loadBalancerBackendAddressPools", "loadBalancerInboundNatRules"] {
                if let Some(list) = shape::array_mut(config, &format!("properties.{member}")) {
                    list.retain(|v| !names_it(v));
                }
            }
        });
        if changed != nic.body {
            batch.changes.push(Change::Put { id: nic.id.clone(), body: changed });
        }
    }
    Ok(())
}

/// IP configurations by the part of this balancer that their `member` names, in lower case.
fn members(ctx: &TypeCtx<'_>, balancer: &ResourceId, member: &str) -> BTreeMap<String, Vec<ResourceId>> {
    let path = format!("properties.{member}[].id");
    let mut found: BTreeMap<String, Vec<ResourceId>> = BTreeMap::new();
    for nic in ctx.snapshot.in_groups(network_interfaces::TYPE.name) {
        for config in document::array_at(&nic.body, "properties.ipConfigurations") {
            for text in refs::texts(config, &path) {
                let part = text.to_lowercase();
                if part.starts_with(balancer.key()) {
                    let name = document::str_at(config, "name").unwrap_or_default();
                    found.entry(part).or_default().push(nic.id.child("ipConfigurations", name));
                }
            }
        }
    }
    found
}

fn render(ctx: &TypeCtx<'_>, id: &ResourceId, body: &mut Value) {
    for part in PARTS {
        shape::render_parts(id, TYPE.name, body, part);
    }
    both_forms_of_pools(body);
    show_users(id, body);
    for segment in ["backendAddressPools", "inboundNatRules"] {
        shape::each(body, &format!("properties.{segment}"), |part| {
            let part_id = id.child(segment, document::str_at(part, "name").unwrap_or_default());
            render_part(ctx, &part_id, part);
        });
    }
}

/// A rule names its pool in a member of its own and in a list; whoever sent one is shown both.
fn both_forms_of_pools(body: &mut Value) {
    shape::each(body, "properties.loadBalancingRules", |rule| {
        let one = document::at(rule, "properties.backendAddressPool").filter(|p| !p.is_null()).cloned();
        let many = document::array_at(rule, "properties.backendAddressPools");
        match (one, many) {
            (Some(one), []) => document::set(rule, "properties.backendAddressPools", json!([one])),
            (None, [one]) => {
                let one = one.clone();
                document::set(rule, "properties.backendAddressPool", one);
            }
            _ => {}
        }
    });
}

/// What uses front ends, pools and probes, and in which members it names them.
const USES: [(&str, &[&str]); 4] = [
    (
        "loadBalancingRules",
        &["properties.frontendIPConfiguration.id", "properties.backendAddressPools[].id", "properties.probe.id"],
    ),
    ("inboundNatRules", &["properties.frontendIPConfiguration.id", "properties.backendAddressPool.id"]),
    ("inboundNatPools", &["properties.frontendIPConfiguration.id"]),
    ("outboundRules", &["properties.frontendIPConfigurations[].id", "properties.backendAddressPool.id"]),
];

/// By the key of a part and the array that its users are in.
type Users = BTreeMap<(String, &'static str), Vec<ResourceId>>;

/// Who uses which part, in a body with both forms of pools.
fn users_in(id: &ResourceId, body: &Value) -> Users {
    let mut users = Users::new();
    for (segment, paths) in USES {
        for user in document::array_at(body, &format!("properties.{segment}")) {
            let user_id = id.child(segment, document::str_at(user, "name").unwrap_or_default());
            for used in paths.iter().flat_map(|path| refs::texts(user, path)) {
                users.entry((used.to_lowercase(), segment)).or_default().push(user_id.clone());
            }
        }
    }
    users
}

/// Shows at each front end, pool and probe which rules use it.
fn show_users(id: &ResourceId, body: &mut Value) {
    let users = users_in(id, body);
    for segment in ["frontendIPConfigurations", "backendAddressPools", "probes"] {
        shape::each(body, &format!("properties.{segment}"), |part| {
            let part_id = id.child(segment, document::str_at(part, "name").unwrap_or_default());
            show_users_of(&part_id, &users, part);
        });
    }
}

fn show_users_of(part_id: &ResourceId, users: &Users, part: &mut Value) {
    for (user, _) in USES {
        let path = format!("properties.{user}");
        match users.get(&(part_id.key().to_owned(), user)) {
            Some(found) => document::set(part, &path, shape::id_list(found)),
            None => document::remove(part, &path),
        }
    }
}

/// A pool or NAT rule that is asked for by itself shows what its balancer shows of it.
fn render_alone(ctx: &TypeCtx<'_>, id: &ResourceId, part: &mut Value) {
    render_part(ctx, id, part);
    let balancer = id.parent().and_then(|balancer| ctx.snapshot.get(&balancer));
    if let Some(balancer) = balancer.filter(|_| id.resource_type().eq_ignore_ascii_case(BACKEND_POOLS.name)) {
        let mut body = balancer.body.clone();
        both_forms_of_pools(&mut body);
        show_users_of(id, &users_in(&balancer.id, &body), part);
    }
}

/// Shows who belongs to a pool, or who is behind a NAT rule.
fn render_part(ctx: &TypeCtx<'_>, id: &ResourceId, part: &mut Value) {
    let shown = ["properties.backendIPConfigurations", "properties.backendIPConfiguration"];
    let Some(balancer) = id.parent().filter(|_| shown.iter().all(|path| document::at(part, path).is_none())) else {
        return;
    };
    let members_of = |member: &str| members(ctx, &balancer, member).remove(id.key()).unwrap_or_default();
    if id.resource_type().eq_ignore_ascii_case(BACKEND_POOLS.name) {
        document::set_default(part, "properties.loadBalancerBackendAddresses", json!([]));
        let found = members_of("loadBalancerBackendAddressPools");
        if !found.is_empty() {
            document::set(part, shown[0], shape::id_list(&found));
        }
    } else if let Some(config) = members_of("loadBalancerInboundNatRules").first() {
        document::set(part, shown[1], json!({ "id": config.as_str() }));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net};

    fn world() -> World {
        let mut world = World::new(Edition::Current);
        let subnets = json!([{"name": "a", "properties": {"addressPrefix": "10.0.0.0/24"}}]);
        let v = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets}});
        world.put(&net("virtualNetworks/v"), v).unwrap();
        let standard = json!({"sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}});
        world.put(&net("publicIPAddresses/p"), standard).unwrap();
        world
    }

    /// A public balancer with one rule, and `changes` made to it.
    fn balancer(changes: Value) -> Value {
        let id = net("loadBalancers/lb");
        let mut body = json!({"sku": {"name": "Standard"}, "properties": {
            "frontendIPConfigurations": [{"name": "f", "properties": {"publicIPAddress": {"id": net("publicIPAddresses/p")}}}],
            "backendAddressPools": [{"name": "b"}],
            "probes": [{"name": "p", "properties": {"protocol": "Tcp", "port": 80}}],
            "loadBalancingRules": [{"name": "r", "properties": {
                "frontendIPConfiguration": {"id": format!("{id}/frontendIPConfigurations/f")},
                "backendAddressPool": {"id": format!("{id}/backendAddressPools/b")},
                "probe": {"id": format!("{id}/probes/p")},
                "protocol": "Tcp", "frontendPort": 80, "backendPort": 80}}],
        }});
        document::merge(&mut body, &changes);
        body
    }

    fn check(changes: Value) -> String {
        match world().put(&net("loadBalancers/lb"), balancer(changes)) {
            Ok(_) => "accepted".to_owned(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn parts_have_ids_and_members() {
        let mut world = world();
        let lb = net("loadBalancers/lb");
        world.put(&lb, balancer(json!({}))).unwrap();
        let pool = format!("{lb}/backendAddressPools/b");
        assert_eq!(world.get(&pool)["properties"]["loadBalancingRules"][0]["id"], format!("{lb}/loadBalancingRules/r"));
        let nic = json!({"properties": {"ipConfigurations": [{"name": "c", "properties": {
            "subnet": {"id": net("virtualNetworks/v/subnets/a")}, "loadBalancerBackendAddressPools": [{"id": pool}]}}]}});
        world.put(&net("networkInterfaces/n"), nic).unwrap();
        let answered = world.get(&lb);
        let parts = &answered["properties"];
        assert_eq!(parts["frontendIPConfigurations"][0]["id"], format!("{lb}/frontendIPConfigurations/f"));
        assert_eq!(
            parts["backendAddressPools"][0]["properties"]["backendIPConfigurations"][0]["id"],
            net("networkInterfaces/n/ipConfigurations/c")
        );
        world.put(&lb, answered).unwrap();
        world.put(&format!("{lb}/backendAddressPools/other"), json!({})).unwrap();
        world.delete(&format!("{lb}/backendAddressPools/other")).unwrap();
        world.delete(&lb).unwrap();
        let nic = world.get(&net("networkInterfaces/n"));
        assert_eq!(
            nic["properties"]["ipConfigurations"][0]["properties"]["loadBalancerBackendAddressPools"],
            json!([])
        );
    }

    #[test]
    fn an_internal_front_end_gets_an_address() {
        let mut world = world();
        let frontend = json!([{"name": "f", "properties": {"subnet": {"id": net("virtualNetworks/v/subnets/a")}}}]);
        let stored = world
            .put(&net("loadBalancers/lb"), balancer(json!({"properties": {"frontendIPConfigurations": frontend}})))
            .unwrap();
        assert_eq!(stored["properties"]["frontendIPConfigurations"][0]["properties"]["privateIPAddress"], "10.0.0.4");
        assert_eq!(world.delete(&net("virtualNetworks/v/subnets/a")).unwrap_err().code, "InUseSubnetCannotBeDeleted");
    }

    #[test]
    fn broken_balancers_are_refused() {
        let rule = |extra: Value| {
            let mut whole = balancer(json!({}))["properties"]["loadBalancingRules"][0].clone();
            document::merge(&mut whole["properties"], &extra);
            json!({"properties": {"loadBalancingRules": [whole]}})
        };
        insta::assert_snapshot!(check(rule(json!({}))), @"accepted");
        insta::assert_snapshot!(check(rule(json!({"frontendPort": 0}))), @"(InvalidRequestFormat) /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/lb/loadBalancingRules/r has no frontendPort from 1 to 65535 (0 with the protocol All).");
        insta::assert_snapshot!(check(rule(json!({"protocol": "Icmp"}))), @"(InvalidRequestFormat) /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/lb/loadBalancingRules/r has the protocol 'Icmp'. Use Tcp, Udp or, in load balancing rules, All.");
        insta::assert_snapshot!(check(json!({"properties": {"probes": []}})), @"(InvalidResourceReference) Resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/lb/probes/p referenced by resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/lb was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.");
        insta::assert_snapshot!(check(json!({"properties": {"frontendIPConfigurations": [{"name": "f", "properties": {}}]}})), @"(LoadBalancerFrontendIPConfigMustHaveSubnetOrPublicIP) Frontend IP configuration f of load balancer /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/lb must name either a subnet or a public IP address.");
        insta::assert_snapshot!(check(json!({"sku": {"name": "Basic"}})), @"(PublicIPAndLBSkuDoNotMatch) Basic sku load balancer /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/lb references Standard sku publicIP /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/publicIPAddresses/p. SKUs must match.");
        let mut twice = balancer(json!({}))["properties"]["loadBalancingRules"][0].clone();
        let first = twice.clone();
        twice["name"] = json!("again");
        insta::assert_snapshot!(check(json!({"properties": {"loadBalancingRules": [first, twice]}})), @"(RulesUseSameFrontendPortProtocolAndIPConfig) Load balancer rules r and again of /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/lb use the same FrontendIPConfiguration, FrontendPort 80 and Protocol.");
    }

    #[test]
    fn the_services_balancer_stays_while_its_compute_does() {
        let mut world = world();
        let lb = net("loadBalancers/auto");
        let compute = format!(
            "{}/providers/Microsoft.MachineLearningServices/workspaces/w/computes/c",
            crate::types::testing::GROUP
        );
        world.store(&compute, json!({"properties": {"computeType": "AmlCompute"}}));
        world.store(&lb, json!({"location": "westus2", "moat": {"owner": compute}, "properties": {"backendAddressPools": [{"name": "nodes"}]}}));
        insta::assert_snapshot!(world.delete(&lb).unwrap_err(), @"(LoadBalancerInUseByVirtualMachineScaleSet) Cannot delete load balancer /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/auto since its child resources /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/auto/backendAddressPools/nodes are in use by virtual machine scale set /subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/computes/c.");
        world.principal = crate::types::microsoft_machinelearningservices::auto_network::SERVICE_PRINCIPAL;
        world.delete(&lb).unwrap();
    }
}
