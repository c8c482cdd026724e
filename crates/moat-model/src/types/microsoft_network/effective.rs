//! What acts on a NIC: effective rules, effective routes, IP flow verify and next hop
//! (network-semantics 2.13, 5.6). The documents are lowered, `moat-net` decides, and the answer is
//! put into Azure's words here.

use std::net::IpAddr;

use ipnet::IpNet;
use moat_arm::{ApiError, Batch, ResourceId, document};
use moat_net::ir::{Access, AddressMatch, Direction, Net, NicIx, PortRange, Protocol, SubnetIx};
use moat_net::nsg::{self, Association, EffectiveNsg, EffectiveRule};
use moat_net::packet::Flow;
use moat_net::routes::{self, EffectiveRoute, HopKind, Source};
use moat_net::trace;
use serde_json::{Value, json};

use crate::lower;
use crate::refs;
use crate::resource_type::{ActionResult, TypeCtx};

/// The network of the snapshot.
fn network(ctx: &TypeCtx<'_>) -> Net {
    lower::network(ctx.snapshot, moat_net::ir::Semantics::default(), &lower::tags_of(ctx.edition)).0
}

fn find_nic(net: &Net, id: &ResourceId) -> Option<NicIx> {
    net.nics().find(|(_, n)| n.id.eq_ignore_ascii_case(id.as_str())).map(|(ix, _)| ix)
}

/// The NIC of an action on `id`, or why there is none.
fn nic_of(net: &Net, id: &ResourceId) -> Result<(NicIx, SubnetIx), ApiError> {
    let nic = find_nic(net, id).ok_or_else(|| ApiError::not_found(id))?;
    let config = net.nic(nic).ip_configs.first().ok_or_else(|| ApiError::not_found(id))?;
    Ok((nic, config.subnet))
}

fn later(body: Value) -> Result<ActionResult, ApiError> {
    Ok(ActionResult { body, long_running: true, batch: Batch::default() })
}

/// POST `effectiveNetworkSecurityGroups` of a NIC.
pub(super) fn security_groups(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value) -> Result<ActionResult, ApiError> {
    let net = network(ctx);
    let (nic, _) = nic_of(&net, id)?;
    let value: Vec<Value> = nsg::effective(&net, nic).iter().map(|e| security_group(&net, e)).collect();
    later(json!({ "value": value }))
}

fn security_group(net: &Net, effective: &EffectiveNsg<'_>) -> Value {
    let association = match effective.association {
        Association::Subnet(ix) => json!({ "subnet": { "id": net.subnet(ix).id } }),
        Association::Nic(ix) => json!({ "networkInterface": { "id": net.nic(ix).id } }),
    };
    let rules: Vec<Value> = effective.rules.iter().map(security_rule).collect();
    json!({
        "networkSecurityGroup": { "id": net.nsg(effective.nsg).id },
        "association": association,
        "effectiveSecurityRules": rules,
    })
}

fn security_rule(effective: &EffectiveRule<'_>) -> Value {
    let rule = effective.rule;
    let list = if nsg::is_default(rule) { "defaultSecurityRules" } else { "securityRules" };
    let ports =
        |ranges: &[PortRange]| -> Vec<String> { ranges.iter().map(|r| format!("{}-{}", r.first, r.last)).collect() };
    let addresses = |side: &[AddressMatch]| -> Vec<String> { side.iter().filter_map(address).collect() };
    let (source_ports, destination_ports) = (ports(&rule.source_ports), ports(&rule.destination_ports));
    let (sources, destinations) = (addresses(&rule.sources), addresses(&rule.destinations));
    let mut out = json!({
        "name": format!("{list}/{}", rule.name),
        "protocol": rule.protocol.map_or("All", protocol),
        "sourcePortRange": source_ports.first(),
        "destinationPortRange": destination_ports.first(),
        "sourcePortRanges": source_ports,
        "destinationPortRanges": destination_ports,
        "sourceAddressPrefix": sources.first(),
        "destinationAddressPrefix": destinations.first(),
        "sourceAddressPrefixes": sources,
        "destinationAddressPrefixes": destinations,
        "access": access(rule.access),
        "priority": rule.priority,
        "direction": match rule.direction {
            Direction::Inbound => "Inbound",
            Direction::Outbound => "Outbound",
        },
    });
    for (member, prefixes) in [
        ("expandedSourceAddressPrefix", &effective.expanded_sources),
        ("expandedDestinationAddressPrefix", &effective.expanded_destinations),
    ] {
        if !prefixes.is_empty() {
            document::set(&mut out, member, texts(prefixes));
        }
    }
    out
}

fn texts(prefixes: &[IpNet]) -> Value {
    prefixes.iter().map(ToString::to_string).collect()
}

fn access(access: Access) -> &'static str {
    match access {
        Access::Allow => "Allow",
        Access::Deny => "Deny",
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "Tcp",
        Protocol::Udp => "Udp",
        Protocol::Icmp => "Icmp",
        Protocol::Esp => "Esp",
        Protocol::Ah => "Ah",
    }
}

/// An address as the effective list writes it; groups appear by their expansion only.
fn address(side: &AddressMatch) -> Option<String> {
    match side {
        AddressMatch::Any => Some("0.0.0.0/0".to_owned()),
        AddressMatch::Prefix(net) => Some(net.to_string()),
        AddressMatch::Tag(name) => Some(name.clone()),
        AddressMatch::Asg(_) => None,
    }
}

/// POST `effectiveRouteTable` of a NIC.
pub(super) fn route_table(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value) -> Result<ActionResult, ApiError> {
    let net = network(ctx);
    let (_, subnet) = nic_of(&net, id)?;
    let mut value: Vec<Value> = Vec::new();
    let mut last: Option<EffectiveRoute<'_>> = None;
    let prefixes = &net.subnet(subnet).prefixes;
    let family = |p: &IpNet| prefixes.iter().any(|s| s.addr().is_ipv4() == p.addr().is_ipv4());
    for route in routes::effective(&net, subnet).into_iter().filter(|r| family(&r.route.prefix)) {
        // A tag's or service's prefixes are one route to the reader.
        let many = route.route.tag.is_some() || route.route.kind == HopKind::VirtualNetworkServiceEndpoint;
        let same = |l: &EffectiveRoute<'_>| {
            (l.active, l.route.source, l.route.kind, l.route.address, l.route.tag)
                == (route.active, route.route.source, route.route.kind, route.route.address, route.route.tag)
        };
        let prefix = json!(route.route.prefix.to_string());
        match value.last_mut().and_then(|v| v.get_mut("addressPrefix")).and_then(Value::as_array_mut) {
            Some(prefixes) if many && last.as_ref().is_some_and(same) => prefixes.push(prefix),
            _ => value.push(one_route(&route, prefix)),
        }
        last = Some(route);
    }
    later(json!({ "value": value }))
}

fn one_route(route: &EffectiveRoute<'_>, prefix: Value) -> Value {
    let mut out = json!({
        "source": route.route.source.as_str(),
        "state": if route.active { "Active" } else { "Invalid" },
        "addressPrefix": [prefix],
        "nextHopType": route.route.kind.as_str(),
        "nextHopIpAddress": route.route.address.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "disableBgpRoutePropagation": false,
        "hasBgpOverride": false,
    });
    if let Source::User { name } = route.route.source {
        document::set(&mut out, "name", json!(name));
    }
    if let Some(tag) = route.route.tag {
        document::set(&mut out, "tag", json!(tag));
    }
    out
}

/// A member of a request that cannot be done without.
fn needed<'a>(body: &'a Value, member: &str) -> Result<&'a str, ApiError> {
    document::str_at(body, member).filter(|t| !t.is_empty()).ok_or_else(|| malformed(member, "is missing"))
}

fn malformed(member: &str, what: &str) -> ApiError {
    // AZURE: wording not observed.
    ApiError::bad_request("InvalidRequestFormat", format!("Cannot parse the request: {member} {what}."))
        .with_target(member)
}

fn ip(body: &Value, member: &str) -> Result<IpAddr, ApiError> {
    let text = needed(body, member)?;
    text.parse().map_err(|_| malformed(member, &format!("'{text}' is not an IP address")))
}

/// Ports arrive as texts.
fn port(body: &Value, member: &str) -> Result<u16, ApiError> {
    document::u64_at(body, member)
        .and_then(|p| u16::try_from(p).ok())
        .ok_or_else(|| malformed(member, "is not a port from 0 to 65535"))
}

/// The NIC a watcher is asked about: named itself, or of a machine, by its local address.
fn target(ctx: &TypeCtx<'_>, net: &Net, body: &Value, local: IpAddr) -> Result<NicIx, ApiError> {
    let text = needed(body, "targetResourceId")?;
    let id = refs::parse(text, "targetResourceId")?;
    let asked = document::str_at(body, "targetNicResourceId").filter(|t| !t.is_empty());
    let asked = asked.map(|t| refs::parse(t, "targetNicResourceId")).transpose()?;
    let mut nics: Vec<ResourceId> = vec![id.clone()];
    nics.extend(asked.iter().cloned());
    if let Some(machine) = ctx.snapshot.get(&id) {
        let named = refs::texts(&machine.body, "properties.networkProfile.networkInterfaces[].id");
        nics.extend(named.iter().filter_map(|t| ResourceId::parse(t).ok()));
    }
    for nic in ctx.snapshot.in_groups("Microsoft.Network/networkInterfaces") {
        let machine = document::str_at(&nic.body, "properties.virtualMachine.id");
        if machine.is_some_and(|m| refs::same(m, &id)) {
            nics.push(nic.id.clone());
        }
    }
    let known: Vec<NicIx> = nics.iter().filter_map(|n| find_nic(net, n)).collect();
    if known.is_empty() {
        return Err(ApiError::not_found(&id));
    }
    let has_address = |ix: &NicIx| net.nic(*ix).ip_configs.iter().any(|c| c.address == local);
    known.into_iter().find(has_address).ok_or_else(|| {
        // AZURE: wording not observed.
        ApiError::bad_request("InvalidLocalIPAddress", format!("No network interface of {id} has the address {local}."))
    })
}

/// POST `ipFlowVerify` of a network watcher.
pub(super) fn ip_flow_verify(ctx: &TypeCtx<'_>, _: &ResourceId, body: &Value) -> Result<ActionResult, ApiError> {
    let (local, remote) = (ip(body, "localIPAddress")?, ip(body, "remoteIPAddress")?);
    let (local_port, remote_port) = (port(body, "localPort")?, port(body, "remotePort")?);
    let text = needed(body, "protocol")?;
    let protocol = Protocol::parse(text)
        .filter(|p| p.has_ports())
        .ok_or_else(|| malformed("protocol", &format!("'{text}' is neither TCP nor UDP")))?;
    let text = needed(body, "direction")?;
    let direction = match text.to_lowercase().as_str() {
        "inbound" => Direction::Inbound,
        "outbound" => Direction::Outbound,
        _ => return Err(malformed("direction", &format!("'{text}' is neither Inbound nor Outbound"))),
    };
    let net = network(ctx);
    let nic = target(ctx, &net, body, local)?;
    let (source, source_port, destination, destination_port) = match direction {
        Direction::Inbound => (remote, remote_port, local, local_port),
        Direction::Outbound => (local, local_port, remote, remote_port),
    };
    let flow = Flow { source, destination, protocol, source_port, destination_port };
    let verdict = trace::verify_flow(&net, nic, direction, flow);
    later(json!({ "access": access(verdict.access), "ruleName": verdict.rule_name }))
}

/// POST `nextHop` of a network watcher.
pub(super) fn next_hop(ctx: &TypeCtx<'_>, _: &ResourceId, body: &Value) -> Result<ActionResult, ApiError> {
    let (source, destination) = (ip(body, "sourceIPAddress")?, ip(body, "destinationIPAddress")?);
    let net = network(ctx);
    let nic = target(ctx, &net, body, source)?;
    let config = net.nic(nic).ip_configs.iter().find(|c| c.address == source);
    let Some(config) = config else { return Err(malformed("sourceIPAddress", "belongs to no network interface")) };
    let answer = routes::next_hop(&net, config.subnet, destination);
    let table = answer.table.and_then(|t| net.route_tables.get(t.at())).map_or("System Route", |t| t.id.as_str());
    let mut out = json!({ "nextHopType": answer.route.kind.as_str(), "routeTableId": table });
    if let Some(address) = answer.route.address {
        document::set(&mut out, "nextHopIpAddress", json!(address.to_string()));
    }
    later(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net as id};

    /// A NIC with an NSG at its subnet that lets port 22 in, and a route to an appliance.
    fn world() -> World {
        let mut world = World::new(Edition::Seed2021);
        let rule = json!({"name": "ssh", "properties": {"access": "Allow", "direction": "Inbound", "priority": 100,
            "protocol": "Tcp", "sourceAddressPrefix": "Internet", "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": "22"}});
        world.put(&id("networkSecurityGroups/n"), json!({"properties": {"securityRules": [rule]}})).unwrap();
        let routes = json!([
            {"name": "over", "properties": {"addressPrefix": "172.16.0.0/12", "nextHopType": "None"}},
            {"name": "fw", "properties": {"addressPrefix": "8.8.8.0/24", "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.0.9.4"}},
            {"name": "aml", "properties": {"addressPrefix": "AzureMachineLearning", "nextHopType": "Internet"}},
        ]);
        world.put(&id("routeTables/t"), json!({"properties": {"routes": routes}})).unwrap();
        let subnet = json!({"name": "a", "properties": {"addressPrefix": "10.0.0.0/24",
            "networkSecurityGroup": {"id": id("networkSecurityGroups/n")}, "routeTable": {"id": id("routeTables/t")}}});
        let v = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [subnet]}});
        world.put(&id("virtualNetworks/v"), v).unwrap();
        let nic = json!({"properties": {"ipConfigurations": [{"name": "c", "properties": {"subnet": {"id": id("virtualNetworks/v/subnets/a")}}}]}});
        world.put(&id("networkInterfaces/nic1"), nic).unwrap();
        world.put(&id("networkWatchers/NetworkWatcher_westus2"), json!({})).unwrap();
        world
    }

    fn verify(direction: &str, local_port: &str) -> String {
        let body = json!({"direction": direction, "localIPAddress": "10.0.0.4", "localPort": local_port, "protocol": "TCP",
            "remoteIPAddress": "1.2.3.4", "remotePort": "5000", "targetResourceId": id("networkInterfaces/nic1")});
        match world().post(&id("networkWatchers/NetworkWatcher_westus2"), "ipFlowVerify", body) {
            Ok(v) => format!("{} {}", v["access"].as_str().unwrap(), v["ruleName"].as_str().unwrap()),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn flow_verify_names_the_deciding_rule() {
        insta::assert_snapshot!(verify("Inbound", "22"), @"Allow securityRules/ssh");
        insta::assert_snapshot!(verify("Inbound", "23"), @"Deny defaultSecurityRules/DenyAllInBound");
        insta::assert_snapshot!(verify("outbound", "1"), @"Allow defaultSecurityRules/AllowInternetOutBound");
        insta::assert_snapshot!(verify("Sideways", "1"), @"(InvalidRequestFormat) Cannot parse the request: direction 'Sideways' is neither Inbound nor Outbound.");
        insta::assert_snapshot!(verify("Inbound", "70000"), @"(InvalidRequestFormat) Cannot parse the request: localPort is not a port from 0 to 65535.");
    }

    #[test]
    fn next_hop_names_the_table() {
        let hop = |to: &str| {
            let body = json!({"sourceIPAddress": "10.0.0.4", "destinationIPAddress": to, "targetResourceId": id("networkInterfaces/nic1")});
            let v = world().post(&id("networkWatchers/NetworkWatcher_westus2"), "nextHop", body).unwrap();
            format!(
                "{} {} {}",
                v["nextHopType"].as_str().unwrap(),
                v["nextHopIpAddress"].as_str().unwrap_or("-"),
                v["routeTableId"].as_str().unwrap()
            )
        };
        insta::assert_snapshot!(hop("10.0.7.7"), @"VnetLocal - System Route");
        insta::assert_snapshot!(hop("8.8.8.8"), @"VirtualAppliance 10.0.9.4 /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/routeTables/t");
    }

    #[test]
    fn a_machine_is_asked_about_by_its_interfaces() {
        let mut world = world();
        let machine = format!("{}/providers/Microsoft.Compute/virtualMachines/vm1", crate::types::testing::GROUP);
        let profile = json!({"networkProfile": {"networkInterfaces": [{"id": id("networkInterfaces/nic1")}]}});
        world.store(&machine, json!({"properties": profile}));
        let body = json!({"direction": "Inbound", "localIPAddress": "10.0.0.4", "localPort": "22", "protocol": "TCP",
            "remoteIPAddress": "1.2.3.4", "remotePort": "5000", "targetResourceId": machine});
        let answer = world.post(&id("networkWatchers/NetworkWatcher_westus2"), "ipFlowVerify", body).unwrap();
        assert_eq!(answer, json!({"access": "Allow", "ruleName": "securityRules/ssh"}));
    }

    #[test]
    fn effective_rules_are_listed_with_their_tags_expanded() {
        let answer =
            world().post(&id("networkInterfaces/nic1"), "effectiveNetworkSecurityGroups", Value::Null).unwrap();
        let group = &answer["value"][0];
        assert_eq!(group["association"]["subnet"]["id"], id("virtualNetworks/v/subnets/a"));
        let rules = group["effectiveSecurityRules"].as_array().unwrap();
        assert_eq!(rules.len(), 7);
        assert_eq!(rules[0]["name"], "securityRules/ssh");
        assert_eq!(
            (&rules[0]["sourceAddressPrefix"], &rules[0]["destinationPortRange"]),
            (&json!("Internet"), &json!("22-22"))
        );
        assert!(!rules[0]["expandedSourceAddressPrefix"].as_array().unwrap().is_empty());
        assert_eq!(rules[1]["name"], "defaultSecurityRules/AllowVnetInBound");
        assert_eq!(rules[1]["protocol"], "All");
    }

    #[test]
    fn effective_routes_show_what_lost() {
        let answer = world().post(&id("networkInterfaces/nic1"), "effectiveRouteTable", Value::Null).unwrap();
        let line = |r: &Value| {
            let prefixes = r["addressPrefix"].as_array().unwrap();
            let shown = if prefixes.len() > 1 { "(several)" } else { prefixes[0].as_str().unwrap() };
            format!(
                "{} {} {shown} {}",
                r["source"].as_str().unwrap(),
                r["state"].as_str().unwrap(),
                r["nextHopType"].as_str().unwrap()
            )
        };
        let lines: Vec<String> = answer["value"].as_array().unwrap().iter().map(line).collect();
        insta::assert_snapshot!(lines.join("\n"), @"Default Active 10.0.0.0/16 VnetLocal
Default Active 0.0.0.0/0 Internet
Default Active 10.0.0.0/8 None
Default Invalid 172.16.0.0/12 None
Default Active 192.168.0.0/16 None
Default Active 100.64.0.0/10 None
User Active 172.16.0.0/12 None
User Active 8.8.8.0/24 VirtualAppliance
User Active (several) Internet");
    }
}
