//! Walks that the truth vectors do not have: NAT, balancers, ways out, probes, the way back, and
//! documents that are broken. One small world in ARM JSON; each test changes one thing in it.
#![allow(clippy::unwrap_used, reason = "tests")]

use moat_model::lower::{self, Problem};
use moat_net::ir::{Direction, Net, NicIx, Protocol, Semantics};
use moat_net::nsg;
use moat_net::packet::Flow;
use moat_net::tags::TagSource;
use moat_net::trace::{From, trace, verify_flow};
use serde_json::{Value, json};

const SCOPE: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network";

fn id(tail: &str) -> String {
    format!("{SCOPE}/{tail}")
}
fn refer(tail: &str) -> Value {
    json!({ "id": id(tail) })
}

/// A VNet with subnet `open` (no NSG) and `shut` (NSG `shut`, which lets nothing in but TCP 44224
/// from anywhere), a NIC in each, a Standard public IP for each, and a balancer.
fn documents() -> Vec<(String, Value)> {
    let nic = |subnet: &str, address: &str, ip: Option<&str>| {
        let ip = ip.map_or(Value::Null, |ip| refer(&format!("publicIPAddresses/{ip}")));
        json!({"properties": {"ipConfigurations": [{"name": "c", "properties": {
            "privateIPAddress": address, "subnet": refer(&format!("virtualNetworks/v/subnets/{subnet}")),
            "publicIPAddress": ip}}]}})
    };
    let ip = |address: &str, sku: &str| json!({"sku": {"name": sku}, "properties": {"ipAddress": address}});
    vec![
        (
            id("networkSecurityGroups/shut"),
            json!({"properties": {"securityRules": [{"name": "agent", "properties": {
                "priority": 100, "direction": "inbound", "access": "allow", "protocol": "tcp",
                "sourceAddressPrefix": "*", "destinationAddressPrefix": "*",
                "sourcePortRange": "*", "destinationPortRanges": ["44224", "29876-29877"]}}]}}),
        ),
        (id("publicIPAddresses/pip-open"), ip("20.0.113.1", "Standard")),
        (id("publicIPAddresses/pip-shut"), ip("20.0.113.2", "Standard")),
        (id("publicIPAddresses/pip-lb"), ip("20.0.113.3", "Standard")),
        (id("publicIPAddresses/pip-nat"), ip("20.0.113.4", "Standard")),
        (id("natGateways/nat"), json!({"properties": {"publicIpAddresses": [refer("publicIPAddresses/pip-nat")]}})),
        (
            id("virtualNetworks/v"),
            json!({"properties": {"addressSpace": {"addressPrefixes": ["10.1.0.0/16"]}, "subnets": [
                {"name": "open", "properties": {"addressPrefix": "10.1.0.0/24"}},
                {"name": "shut", "properties": {"addressPrefix": "10.1.1.0/24",
                    "networkSecurityGroup": refer("networkSecurityGroups/SHUT")}},
                {"name": "natted", "properties": {"addressPrefix": "10.1.2.0/24", "natGateway": refer("natGateways/nat")}},
                {"name": "private", "properties": {"addressPrefix": "10.1.3.0/24", "defaultOutboundAccess": false}},
            ]}}),
        ),
        (id("networkInterfaces/open"), nic("open", "10.1.0.4", Some("pip-open"))),
        (id("networkInterfaces/shut"), nic("shut", "10.1.1.4", Some("pip-shut"))),
        (id("networkInterfaces/node"), nic("shut", "10.1.1.5", None)),
        (id("networkInterfaces/natted"), nic("natted", "10.1.2.4", None)),
        (id("networkInterfaces/private"), nic("private", "10.1.3.4", None)),
        (
            id("loadBalancers/lb"),
            json!({"sku": {"name": "Standard"}, "properties": {
                "frontendIPConfigurations": [{"name": "f", "properties": {"publicIPAddress": refer("publicIPAddresses/pip-lb")}}],
                "backendAddressPools": [{"name": "p", "properties": {"backendIPConfigurations": [
                    refer("networkInterfaces/node/ipConfigurations/c")]}}],
                "inboundNatRules": [{"name": "agent.0", "properties": {
                    "frontendIPConfiguration": refer("loadBalancers/lb/frontendIPConfigurations/f"),
                    "backendIPConfiguration": refer("networkInterfaces/node/ipConfigurations/c"),
                    "protocol": "Tcp", "frontendPort": 50000, "backendPort": 44224}}],
                "outboundRules": [{"name": "out", "properties": {"protocol": "All",
                    "frontendIPConfigurations": [refer("loadBalancers/lb/frontendIPConfigurations/f")],
                    "backendAddressPool": refer("loadBalancers/lb/backendAddressPools/p")}}]}}),
        ),
    ]
}

fn lowered(documents: &[(String, Value)]) -> (Net, Vec<Problem>) {
    let resources = documents.iter().map(|(id, body)| (id.as_str(), body));
    lower::network_from_resources(resources, Semantics::default(), &TagSource::None)
}

fn nic(net: &Net, name: &str) -> NicIx {
    net.nics().find(|(_, n)| n.id.ends_with(&format!("/{name}"))).unwrap().0
}

fn flow(protocol: Protocol, source: &str, destination: &str, port: u16) -> Flow {
    let source_port = if protocol.has_ports() { 50_505 } else { 0 };
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    Flow { source, destination, protocol, source_port, destination_port: port }
}

/// Walks in the unchanged world and renders the trace.
fn walk(from: &str, protocol: Protocol, destination: &str, port: u16) -> String {
    walk_in(&documents(), from, protocol, destination, port)
}

fn walk_in(documents: &[(String, Value)], from: &str, protocol: Protocol, destination: &str, port: u16) -> String {
    let (net, problems) = lowered(documents);
    assert_eq!(problems, []);
    if from == "internet" {
        return trace(&net, From::Internet, flow(protocol, "9.9.9.9", destination, port)).to_string();
    }
    let nic = nic(&net, from);
    let source = net.nic(nic).ip_configs[0].address.to_string();
    trace(&net, From::Nic(nic), flow(protocol, &source, destination, port)).to_string()
}

#[test]
fn each_way_out_shows_its_own_source_address() {
    insta::assert_snapshot!(walk("natted", Protocol::Tcp, "8.8.8.8", 443), @r"
    from natted
    route of natted: Default 0.0.0.0/0 to Internet
    10.1.2.4 becomes 20.0.113.4 (NAT gateway `nat`)
    allow: internet
    ");
    insta::assert_snapshot!(walk("open", Protocol::Tcp, "8.8.8.8", 443), @r"
    from open
    route of open: Default 0.0.0.0/0 to Internet
    10.1.0.4 becomes 20.0.113.1 (public IP `pip-open`)
    allow: internet
    ");
    insta::assert_snapshot!(walk("node", Protocol::Udp, "8.8.8.8", 53), @r"
    from node
    out-subnet shut: Allow by `AllowInternetOutBound`
    route of shut: Default 0.0.0.0/0 to Internet
    10.1.1.5 becomes 20.0.113.3 (load balancer `lb`)
    allow: internet
    ");
    insta::assert_snapshot!(walk("private", Protocol::Tcp, "8.8.8.8", 443), @r"
    from private
    route of private: Default 0.0.0.0/0 to Internet
    drop: no-outbound
    ");
}

#[test]
fn without_ports_neither_nat_gateway_nor_balancer_helps() {
    insta::assert_snapshot!(walk("natted", Protocol::Icmp, "8.8.8.8", 0), @r"
    from natted
    route of natted: Default 0.0.0.0/0 to Internet
    drop: no-outbound
    ");
    insta::assert_snapshot!(walk("node", Protocol::Icmp, "8.8.8.8", 0), @r"
    from node
    out-subnet shut: Allow by `AllowInternetOutBound`
    route of shut: Default 0.0.0.0/0 to Internet
    drop: no-outbound
    ");
}

#[test]
fn a_standard_public_ip_is_closed_where_no_nsg_speaks() {
    insta::assert_snapshot!(walk("internet", Protocol::Tcp, "20.0.113.1", 22), @r"
    from the internet
    20.0.113.1 becomes 10.1.0.4 (public IP `pip-open`)
    way back from open: Default 0.0.0.0/0 to Internet
    drop: closed-by-default
    ");
    let mut basic = documents();
    basic[1].1["sku"]["name"] = json!("Basic");
    insta::assert_snapshot!(walk_in(&basic, "internet", Protocol::Tcp, "20.0.113.1", 22), @r"
    from the internet
    20.0.113.1 becomes 10.1.0.4 (public IP `pip-open`)
    way back from open: Default 0.0.0.0/0 to Internet
    to open
    allow: delivered
    ");
}

#[test]
fn an_nsg_opens_a_standard_public_ip_for_what_it_allows() {
    insta::assert_snapshot!(walk("internet", Protocol::Tcp, "20.0.113.2", 29877), @r"
    from the internet
    20.0.113.2 becomes 10.1.1.4 (public IP `pip-shut`)
    way back from shut: Default 0.0.0.0/0 to Internet
    in-subnet shut: Allow by `agent`
    to shut
    allow: delivered
    ");
    insta::assert_snapshot!(walk("internet", Protocol::Tcp, "20.0.113.2", 29878), @r"
    from the internet
    20.0.113.2 becomes 10.1.1.4 (public IP `pip-shut`)
    way back from shut: Default 0.0.0.0/0 to Internet
    in-subnet shut: Deny by `DenyAllInBound`
    deny: in-subnet by `shut/DenyAllInBound`
    ");
}

#[test]
fn an_inbound_nat_rule_leads_to_its_node_and_other_ports_nowhere() {
    insta::assert_snapshot!(walk("internet", Protocol::Tcp, "20.0.113.3", 50_000), @r"
    from the internet
    20.0.113.3 becomes 10.1.1.5 port 44224 (inbound NAT rule `agent.0`)
    way back from shut: Default 0.0.0.0/0 to Internet
    in-subnet shut: Allow by `agent`
    to node
    allow: delivered
    ");
    insta::assert_snapshot!(walk("internet", Protocol::Tcp, "20.0.113.3", 50_001), @r"
    from the internet
    drop: no-public-ip
    ");
    insta::assert_snapshot!(walk("internet", Protocol::Tcp, "20.0.113.4", 443), @r"
    from the internet
    drop: no-public-ip
    ");
    insta::assert_snapshot!(walk("internet", Protocol::Tcp, "20.0.113.99", 443), @r"
    from the internet
    drop: no-such-host
    ");
}

#[test]
fn a_packet_to_an_own_public_address_comes_back_with_a_public_source() {
    insta::assert_snapshot!(walk("open", Protocol::Tcp, "20.0.113.2", 44224), @r"
    from open
    route of open: Default 0.0.0.0/0 to Internet
    10.1.0.4 becomes 20.0.113.1 (public IP `pip-open`)
    20.0.113.2 becomes 10.1.1.4 (public IP `pip-shut`)
    way back from shut: Default 0.0.0.0/0 to Internet
    in-subnet shut: Allow by `agent`
    to shut
    allow: delivered
    ");
}

#[test]
fn replies_that_would_leave_another_way_lose_the_flow() {
    let mut documents = documents();
    documents.insert(0, (
        id("routeTables/rt"),
        json!({"properties": {"routes": [{"name": "none", "properties": {"addressPrefix": "0.0.0.0/0", "nextHopType": "None"}}]}}),
    ));
    let vnet = documents.iter_mut().find(|(id, _)| id.ends_with("/v")).unwrap();
    vnet.1["properties"]["subnets"][1]["properties"]["routeTable"] = refer("routeTables/rt");
    insta::assert_snapshot!(walk_in(&documents, "internet", Protocol::Tcp, "20.0.113.3", 50_000), @r"
    from the internet
    20.0.113.3 becomes 10.1.1.5 port 44224 (inbound NAT rule `agent.0`)
    way back from shut: User:none 0.0.0.0/0 to None
    in-subnet shut: Allow by `agent`
    drop: return-route
    ");
    insta::assert_snapshot!(walk_in(&documents, "node", Protocol::Tcp, "8.8.8.8", 443), @r"
    from node
    out-subnet shut: Allow by `AllowVnetOutBound`
    route of shut: User:none 0.0.0.0/0 to None
    drop: route-none
    ");
}

#[test]
fn a_probe_meets_the_inbound_lists() {
    let (net, _) = lowered(&documents());
    let shut = nic(&net, "shut");
    let probe = moat_net::trace::probe_flow(&net, shut, 8080).unwrap();
    insta::assert_snapshot!(trace(&net, From::Probe(shut), probe), @r"
    from the platform
    in-subnet shut: Allow by `AllowVnetInBound`
    to shut
    allow: delivered
    ");
}

#[test]
fn a_nic_sends_only_from_its_own_address() {
    let (net, _) = lowered(&documents());
    let spoofed = flow(Protocol::Tcp, "10.1.1.9", "8.8.8.8", 443);
    insta::assert_snapshot!(trace(&net, From::Nic(nic(&net, "open")), spoofed), @r"
    from open
    drop: spoofed-source
    ");
}

#[test]
fn ip_flow_verify_names_the_rule_as_network_watcher_does() {
    let (net, _) = lowered(&documents());
    let shut = nic(&net, "shut");
    let name = |nic, direction, f| verify_flow(&net, nic, direction, f).rule_name;
    let inbound = |port| flow(Protocol::Tcp, "9.9.9.9", "10.1.1.4", port);
    assert_eq!(name(shut, Direction::Inbound, inbound(44224)).as_deref(), Some("securityRules/agent"));
    assert_eq!(name(shut, Direction::Inbound, inbound(80)).as_deref(), Some("defaultSecurityRules/DenyAllInBound"));
    let out = flow(Protocol::Tcp, "10.1.1.4", "9.9.9.9", 443);
    assert_eq!(name(shut, Direction::Outbound, out).as_deref(), Some("defaultSecurityRules/AllowInternetOutBound"));
    assert_eq!(name(nic(&net, "open"), Direction::Outbound, out), None);
}

#[test]
fn effective_rules_are_expanded_for_the_subnet() {
    let (net, _) = lowered(&documents());
    let groups = nsg::effective(&net, nic(&net, "shut"));
    let [group] = groups.as_slice() else { panic!("one list, not {groups:?}") };
    let vnet = group.rules.iter().find(|r| r.rule.name == "AllowVnetInBound").unwrap();
    let texts: Vec<String> = vnet.expanded_sources.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.1.0.0/16", "168.63.129.16/32"]);
    assert_eq!(group.rules.len(), 7);
}

#[test]
fn broken_documents_are_reported_and_the_rest_is_kept() {
    let mut documents = documents();
    let rule = |name: &str, change: (&str, Value)| {
        let mut rule = json!({"name": name, "properties": {
            "priority": 200, "direction": "Inbound", "access": "Allow", "protocol": "*",
            "sourceAddressPrefix": "*", "destinationAddressPrefix": "*",
            "sourcePortRange": "*", "destinationPortRange": "*"}});
        rule["properties"][change.0] = change.1;
        rule
    };
    let rules = documents[0].1["properties"]["securityRules"].as_array_mut().unwrap();
    rules.push(rule("port", ("destinationPortRange", json!("80-x"))));
    rules.push(rule("address", ("sourceAddressPrefix", json!("10.0.0.0/99"))));
    rules.push(rule("tag", ("sourceAddressPrefix", json!("Keyvault.eastus"))));
    rules.push(rule("access", ("access", json!("Perhaps"))));
    rules.push(rule("priority", ("priority", Value::Null)));
    documents.push(("nonsense".to_owned(), json!(null)));
    documents.push((
        id("networkInterfaces/lost"),
        json!({"properties": {"ipConfigurations": [{"name": "c",
        "properties": {"subnet": refer("virtualNetworks/v/subnets/gone")}}]}}),
    ));
    let (net, problems) = lowered(&documents);
    let texts: Vec<String> =
        problems.iter().map(|p| p.to_string().replace(SCOPE, "").replace("/networkSecurityGroups/", "")).collect();
    insta::assert_snapshot!(texts.join("\n"), @r"
    nonsense: `id` is not a resource id
    shut/securityRules/port: `properties.destinationPortRanges` has `80-x`, which is neither a port nor a range of ports
    shut/securityRules/address: `properties.sourceAddressPrefixes` has `10.0.0.0/99`, which is neither an address nor a prefix
    shut/securityRules/tag: `properties.sourceAddressPrefixes` names the service tag `Keyvault.eastus`, which does not exist; did you mean `AzureKeyVault.eastus`
    shut/securityRules/access: `properties.access` has `Perhaps`, which is not one of its values
    shut/securityRules/priority: `properties.priority` is missing
    /networkInterfaces/lost/ipConfigurations/c: `properties.privateIPAddress` is missing
    /networkInterfaces/lost/ipConfigurations/c: `properties.subnet.id` points at `/virtualNetworks/v/subnets/gone`, which does not exist
    ");
    assert_eq!(net.nsgs[0].rules.len(), 4);
    assert_eq!(net.nics.len(), 5);
}

#[test]
fn children_may_be_documents_of_their_own() {
    let mut documents = documents();
    documents.push((
        id("networkSecurityGroups/shut/securityRules/web"),
        json!({"properties": {"priority": 110, "direction": "Inbound", "access": "Allow", "protocol": "Tcp",
            "sourceAddressPrefix": "Internet", "destinationAddressPrefix": "*",
            "sourcePortRange": "*", "destinationPortRange": "443"}}),
    ));
    insta::assert_snapshot!(walk_in(&documents, "internet", Protocol::Tcp, "20.0.113.2", 443), @r"
    from the internet
    20.0.113.2 becomes 10.1.1.4 (public IP `pip-shut`)
    way back from shut: Default 0.0.0.0/0 to Internet
    in-subnet shut: Allow by `web`
    to shut
    allow: delivered
    ");
}

#[test]
fn addresses_of_the_other_family_are_lowered_and_routed() {
    let mut documents = documents();
    let vnet = documents.iter_mut().find(|(id, _)| id.ends_with("/v")).unwrap();
    vnet.1["properties"]["addressSpace"]["addressPrefixes"] = json!(["10.1.0.0/16", "fd00:1::/48"]);
    for (name, address) in [("open", "fd00:1::4"), ("shut", "fd00:1:0:1::4")] {
        let nic = documents.iter_mut().find(|(i, _)| *i == id(&format!("networkInterfaces/{name}"))).unwrap();
        let subnet = refer(&format!("virtualNetworks/v/subnets/{name}"));
        let configs = nic.1["properties"]["ipConfigurations"].as_array_mut().unwrap();
        configs.push(json!({"name": "c6", "properties": {"privateIPAddress": address, "subnet": subnet}}));
    }
    let (net, problems) = lowered(&documents);
    assert_eq!(problems, []);
    let six = flow(Protocol::Tcp, "fd00:1::4", "fd00:1:0:1::4", 22);
    insta::assert_snapshot!(trace(&net, From::Nic(nic(&net, "open")), six), @r"
    from open
    route of open: Default fd00:1::/48 to VnetLocal
    in-subnet shut: Allow by `AllowVnetInBound`
    to shut
    allow: delivered
    ");
}

/// Replaces the `at`-th value of a document, counted depth first, with `with`.
fn damage(value: &mut Value, at: &mut usize, with: &Value) {
    if *at == 0 {
        *value = with.clone();
    }
    *at = at.wrapping_sub(1);
    match value {
        Value::Object(map) => map.values_mut().for_each(|v| damage(v, at, with)),
        Value::Array(items) => items.iter_mut().for_each(|v| damage(v, at, with)),
        _ => {}
    }
}

proptest::proptest! {
    #[test]
    fn no_damage_makes_lowering_panic_or_waver(
        wounds in proptest::collection::vec((0usize..15, 0usize..60, 0usize..9), 1..4)
    ) {
        let junk = [
            Value::Null, json!(""), json!("*"), json!("x/y"), json!(-1), json!(1e300), json!([]), json!({}), json!([{"id": "/"}]),
        ];
        let mut documents = documents();
        for (document, at, with) in wounds {
            let count = documents.len();
            damage(&mut documents[document % count].1, &mut at.clone(), &junk[with]);
        }
        let (net, problems) = lowered(&documents);
        proptest::prop_assert_eq!((&net, &problems), (&lowered(&documents).0, &lowered(&documents).1));
        for (ix, nic) in net.nics() {
            let source = nic.ip_configs[0].address.to_string();
            let _ = trace(&net, From::Nic(ix), flow(Protocol::Tcp, &source, "20.0.113.3", 50_000));
        }
        let _ = trace(&net, From::Internet, flow(Protocol::Tcp, "9.9.9.9", "20.0.113.3", 50_000));
    }
}

fn subnet_with(documents: &mut [(String, Value)], name: &str, member: &str, value: Value) {
    let vnet = documents.iter_mut().find(|(id, _)| id.ends_with("/v")).unwrap();
    let subnets = vnet.1["properties"]["subnets"].as_array_mut().unwrap();
    let subnet = subnets.iter_mut().find(|s| s["name"] == name).unwrap();
    subnet["properties"][member] = value;
}

#[test]
fn two_firewalls_that_point_at_each_other_are_a_loop() {
    let mut documents = documents();
    for (name, subnet, address, other) in
        [("fw1", "natted", "10.1.2.9", "10.1.3.9"), ("fw2", "private", "10.1.3.9", "10.1.2.9")]
    {
        let route = json!({"name": "on", "properties": {
            "addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance", "nextHopIpAddress": other}});
        documents.push((id(&format!("routeTables/{name}")), json!({"properties": {"routes": [route]}})));
        subnet_with(&mut documents, subnet, "routeTable", refer(&format!("routeTables/{name}")));
        documents.push((
            id(&format!("azureFirewalls/{name}")),
            json!({"properties": {
                "ipConfigurations": [{"name": "c", "properties": {
                    "privateIPAddress": address, "subnet": refer(&format!("virtualNetworks/v/subnets/{subnet}"))}}],
                "networkRuleCollections": [{"name": "all", "properties": {"priority": 100, "action": {"type": "Allow"},
                    "rules": [{"name": "any", "protocols": ["Any"], "sourceAddresses": ["*"],
                        "destinationAddresses": ["*"], "destinationPorts": ["*"]}]}}]}}),
        ));
    }
    insta::assert_snapshot!(walk_in(&documents, "natted", Protocol::Tcp, "8.8.8.8", 443), @r"
    from natted
    route of natted: User:on 0.0.0.0/0 to VirtualAppliance 10.1.3.9
    firewall fw2: Allow by `any`
    route of private: User:on 0.0.0.0/0 to VirtualAppliance 10.1.2.9
    firewall fw1: Allow by `any`
    route of natted: User:on 0.0.0.0/0 to VirtualAppliance 10.1.3.9
    firewall fw2: Allow by `any`
    route of private: User:on 0.0.0.0/0 to VirtualAppliance 10.1.2.9
    firewall fw1: Allow by `any`
    route of natted: User:on 0.0.0.0/0 to VirtualAppliance 10.1.3.9
    drop: loop
    ");
}

#[test]
fn an_internal_balancer_may_choose_either_backend() {
    let mut documents = documents();
    let config = |nic: &str| refer(&format!("networkInterfaces/{nic}/ipConfigurations/c"));
    documents.push((
        id("loadBalancers/inner"),
        json!({"sku": {"name": "Standard"}, "properties": {
            "frontendIPConfigurations": [{"name": "f", "properties": {
                "privateIPAddress": "10.1.0.100", "subnet": refer("virtualNetworks/v/subnets/open")}}],
            "backendAddressPools": [{"name": "p", "properties": {
                "backendIPConfigurations": [config("open"), config("node")]}}],
            "loadBalancingRules": [{"name": "web", "properties": {
                "frontendIPConfiguration": refer("loadBalancers/inner/frontendIPConfigurations/f"),
                "backendAddressPool": refer("loadBalancers/inner/backendAddressPools/p"),
                "protocol": "Tcp", "frontendPort": 80, "backendPort": 8080}}]}}),
    ));
    let nsg = &mut documents[0].1["properties"]["securityRules"];
    nsg.as_array_mut().unwrap().push(json!({"name": "no-web", "properties": {
        "priority": 110, "direction": "Inbound", "access": "Deny", "protocol": "Tcp", "sourceAddressPrefix": "*",
        "destinationAddressPrefix": "*", "sourcePortRange": "*", "destinationPortRange": "8080"}}));
    insta::assert_snapshot!(walk_in(&documents, "natted", Protocol::Tcp, "10.1.0.100", 80), @r"
    from natted
    route of natted: Default 10.1.0.0/16 to VnetLocal
    10.1.0.100 becomes 10.1.0.4 port 8080 (load-balancing rule `web`)
    to open
    allow: delivered
    at another backend: deny: in-subnet
    ");
    insta::assert_snapshot!(walk_in(&documents, "natted", Protocol::Tcp, "10.1.0.100", 81), @r"
    from natted
    route of natted: Default 10.1.0.0/16 to VnetLocal
    drop: no-such-host
    ");
}

#[test]
fn forwarded_traffic_enters_a_peer_only_if_it_takes_it() {
    let mut documents = documents();
    let half = |remote: &str, forwarded: bool| {
        json!({"name": "p", "properties": {"peeringState": "Connected", "allowForwardedTraffic": forwarded,
            "remoteVirtualNetwork": refer(&format!("virtualNetworks/{remote}"))}})
    };
    documents.push((
        id("virtualNetworks/w"),
        json!({"properties": {"addressSpace": {"addressPrefixes": ["10.2.0.0/16"]},
            "virtualNetworkPeerings": [half("v", false)],
            "subnets": [{"name": "far", "properties": {"addressPrefix": "10.2.0.0/24"}}]}}),
    ));
    documents.push((
        id("networkInterfaces/far"),
        json!({"properties": {"ipConfigurations": [{"name": "c", "properties": {
            "privateIPAddress": "10.2.0.4", "subnet": refer("virtualNetworks/w/subnets/far")}}]}}),
    ));
    let find =
        |documents: &mut Vec<(String, Value)>, tail: &str| documents.iter().position(|(i, _)| *i == id(tail)).unwrap();
    let v = find(&mut documents, "virtualNetworks/v");
    documents[v].1["properties"]["virtualNetworkPeerings"] = json!([half("w", true)]);
    let appliance = find(&mut documents, "networkInterfaces/open");
    documents[appliance].1["properties"]["enableIPForwarding"] = json!(true);
    let emit = |documents: &[(String, Value)]| {
        let (net, _) = lowered(documents);
        let other = flow(Protocol::Tcp, "10.1.2.4", "10.2.0.4", 443);
        trace(&net, From::Nic(nic(&net, "open")), other).to_string()
    };
    insta::assert_snapshot!(emit(&documents), @r"
    from open
    route of open: Default 10.2.0.0/16 to VNetPeering
    drop: forwarded-traffic
    ");
    let w = find(&mut documents, "virtualNetworks/w");
    documents[w].1["properties"]["virtualNetworkPeerings"] = json!([half("v", true)]);
    insta::assert_snapshot!(emit(&documents), @r"
    from open
    route of open: Default 10.2.0.0/16 to VNetPeering
    to far
    allow: delivered
    ");
}
