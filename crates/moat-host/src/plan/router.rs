//! The router of a VNet: rule lists, routes, peerings, platform addresses. No translation happens
//! here: a flow through an appliance crosses the router twice with one tuple.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use moat_net::address::{self, HOST_ADDRESS, IMDS_ADDRESS};
use moat_net::ir::{Direction, SubnetIx, VnetIx};
use moat_net::routes::{self, HopKind};

use super::Planner;
use super::names::{self, content, hash};
use super::rules::{Lists, Reason, add_ported, drop_for, rule};
use crate::layout::{End, Hop, Neighbour, NsName, NsPlan, PolicyRule, Route, TABLE_LOCAL, TABLE_MAIN, Veth};
use crate::ruleset::{
    Base, Chain, ChainKind, DataKind, DataValue, Element, Expression, Field, Hook, KeyKind, KeyPart, Rule, Set,
    SetHeader, Table, Verdict,
};

/// The Ethernet address every NIC sees as its gateway, as in Azure.
const GATEWAY_MAC: [u8; 6] = [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc];
/// Link from router to edge.
pub(super) const EDGE: &str = "edge";
/// Link from edge to router.
pub(super) const ROUTER: &str = "rt";
/// Next hops of unnumbered links.
const VIA_EDGE: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 2);
pub(super) const VIA_ROUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
const VIA_PEER: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 2);
const VIA_DETOUR: Ipv4Addr = Ipv4Addr::new(169, 254, 4, 2);
/// Priority of `filter` and of `raw` chains.
const FILTER: i32 = 0;
const RAW: i32 = -300;
/// Connections that one NIC has open at a time, in either direction of its packets but begun by it. The kernel's
/// table of connections is one for the host (some 262,144 by default, and a connection takes a place in it at each
/// router it crosses): one job cannot fill it, and no sane one comes near.
const NIC_CONNECTIONS_MAX: u32 = 4_096;
/// First number of routing tables and marks of ours: above those that tools know by name.
const TABLE_FIRST: u32 = 1000;

impl Planner<'_> {
    /// The IPv4 space of a VNet.
    pub(super) fn space(&self, vnet: VnetIx) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.net.vnet(vnet).prefixes.iter().filter_map(|p| match p {
            IpNet::V4(p) => Some(p.trunc()),
            IpNet::V6(_) => None,
        })
    }

    /// Namespaces, links and addresses of one VNet; the firewall is last, since it names the links.
    pub(super) fn router(&mut self, vnet: VnetIx) {
        let id = self.net.vnet(vnet).id.clone();
        let ns = names::router_ns(&id);
        let edge = names::edge_ns(&id);
        self.plan.places.insert(id.to_ascii_lowercase(), ns.clone());
        let mut plan = NsPlan { sysctls: super::router_sysctls(), ..NsPlan::default() };
        for a in [HOST_ADDRESS, IMDS_ADDRESS] {
            plan.addresses.insert(("lo".to_owned(), Ipv4Net::from(a)));
        }
        let near = self.veth_end(&ns, EDGE);
        let far = self.veth_end(&edge, ROUTER);
        plan.neighbours.insert(Neighbour { link: EDGE.to_owned(), address: VIA_EDGE, mac: far.mac });
        self.plan.veths.insert(Veth { a: near, b: far });
        self.main_routes(vnet, &ns, &mut plan);
        let mut table = Table::default();
        let mut maps = Maps::default();
        self.nics(vnet, &ns, &mut plan, &mut maps);
        self.subnet_routes(vnet, &ns, &mut plan, &mut maps);
        self.detours_in(vnet, &mut plan, &mut maps);
        self.firewall(vnet, &mut table, maps);
        plan.nft = Some(table);
        self.plan.namespaces.insert(ns, plan);
    }

    pub(super) fn veth_end(&self, ns: &NsName, link: &str) -> End {
        End { ns: ns.clone(), link: link.to_owned(), mac: names::mac(ns, link) }
    }

    /// What a subnet without a route table of its own sees.
    fn main_routes(&mut self, vnet: VnetIx, ns: &NsName, plan: &mut NsPlan) {
        let mut main: BTreeMap<Ipv4Net, Hop> = BTreeMap::new();
        main.insert(Ipv4Net::default(), Hop::Via(VIA_EDGE, EDGE.to_owned()));
        for block in routes::RESERVED {
            main.insert(block, Hop::Blackhole);
        }
        for peer in address::peers(self.net, vnet) {
            let far_open = peer.far.allow_access;
            if !(peer.near.allow_access || far_open) || self.is_refused(peer.vnet) {
                continue;
            }
            let (id, far_id) = (&self.net.vnet(vnet).id, &self.net.vnet(peer.vnet).id);
            let link = names::peer_link(far_id);
            let far_ns = names::router_ns(far_id);
            let far = self.veth_end(&far_ns, &names::peer_link(id));
            let near = self.veth_end(ns, &link);
            plan.neighbours.insert(Neighbour { link: link.clone(), address: VIA_PEER, mac: far.mac });
            // One pair for both halves: the end that sorts first is the creating one.
            let (a, b) = if near < far { (near, far) } else { (far, near) };
            self.plan.veths.insert(Veth { a, b });
            if peer.near.allow_access {
                for prefix in self.space(peer.vnet) {
                    main.insert(prefix, Hop::Via(VIA_PEER, link.clone()));
                }
            }
        }
        for prefix in self.space(vnet) {
            // Unassigned addresses are dropped, never sent on to the default route.
            main.insert(prefix, Hop::Blackhole);
        }
        for (prefix, hop) in main {
            plan.routes.insert(Route { table: TABLE_MAIN, prefix, metric: 0, hop });
        }
        for endpoint in &self.net.private_endpoints {
            if self.net.subnet(endpoint.subnet).vnet == vnet && endpoint.approved {
                for address in &endpoint.addresses {
                    if let IpAddr::V4(a) = address {
                        let prefix = Ipv4Net::from(*a);
                        plan.routes.insert(Route { table: TABLE_LOCAL, prefix, metric: 0, hop: Hop::Local });
                    }
                }
            }
        }
    }

    /// One namespace per NIC, joined by a routed link: no bridge, no ARP, no neighbour to listen to.
    fn nics(&mut self, vnet: VnetIx, ns: &NsName, plan: &mut NsPlan, maps: &mut Maps) {
        for (_, nic) in self.net.nics() {
            let configs: Vec<(Ipv4Addr, SubnetIx)> = nic
                .ip_configs
                .iter()
                .filter(|c| self.net.subnet(c.subnet).vnet == vnet)
                .filter_map(|c| match c.address {
                    IpAddr::V4(a) => Some((a, c.subnet)),
                    IpAddr::V6(_) => None,
                })
                .collect();
            let Some(&(primary, subnet)) = configs.first() else { continue };
            let node = names::nic_ns(&nic.id);
            let link = names::nic_link(&nic.id);
            self.plan.places.insert(nic.id.to_ascii_lowercase(), node.clone());
            let octets = primary.octets();
            let mac = [0x00, 0x0d, 0x3a, octets[1], octets[2], octets[3]];
            let near = End { ns: ns.clone(), link: link.clone(), mac: GATEWAY_MAC };
            let far = End { ns: node.clone(), link: "eth0".to_owned(), mac };
            self.plan.veths.insert(Veth { a: near, b: far });
            let gateway = self.gateway(subnet);
            let mut inner = NsPlan { sysctls: super::node_sysctls(nic.ip_forwarding), ..NsPlan::default() };
            let eth0 = || "eth0".to_owned();
            inner.neighbours.insert(Neighbour { link: eth0(), address: gateway, mac: GATEWAY_MAC });
            for (prefix, hop) in
                [(Ipv4Net::from(gateway), Hop::Link(eth0())), (Ipv4Net::default(), Hop::Via(gateway, eth0()))]
            {
                inner.routes.insert(Route { table: TABLE_MAIN, prefix, metric: 0, hop });
            }
            for &(address, _) in &configs {
                inner.addresses.insert((eth0(), Ipv4Net::from(address)));
                plan.neighbours.insert(Neighbour { link: link.clone(), address, mac });
                let prefix = Ipv4Net::from(address);
                plan.routes.insert(Route { table: TABLE_MAIN, prefix, metric: 0, hop: Hop::Link(link.clone()) });
                maps.bound.insert((link.clone(), address));
            }
            if nic.ip_forwarding {
                maps.forwarding.insert(link.clone());
            }
            maps.nics.push((link, subnet, nic.nsg));
            self.plan.namespaces.insert(node, inner);
        }
    }

    /// The first address of the subnet (network-semantics 1.3).
    fn gateway(&self, subnet: SubnetIx) -> Ipv4Addr {
        let first = self.net.subnet(subnet).prefixes.iter().find_map(|p| match p {
            IpNet::V4(p) => Some(p.network()),
            IpNet::V6(_) => None,
        });
        Ipv4Addr::from_bits(first.unwrap_or(Ipv4Addr::UNSPECIFIED).to_bits().wrapping_add(1))
    }

    /// Subnets whose routes differ from the router's: a routing table, chosen by a mark that the
    /// incoming link gives. Tables are named by their content, like chains: a changed route table
    /// is a new one, and re-pointing the mark is the flip.
    fn subnet_routes(&mut self, vnet: VnetIx, ns: &NsName, plan: &mut NsPlan, maps: &mut Maps) {
        let mut of_subnet: BTreeMap<SubnetIx, u32> = BTreeMap::new();
        for (link, subnet, _) in &maps.nics {
            let here = self.net.subnet(*subnet);
            if here.route_table.is_none() && here.service_endpoints.is_empty() {
                continue;
            }
            let table = match of_subnet.get(subnet) {
                Some(table) => *table,
                None => {
                    let hops = self.hops(vnet, *subnet, ns, plan);
                    let table = table_number(&hops);
                    for (prefix, hop) in hops {
                        plan.routes.insert(Route { table, prefix, metric: 0, hop });
                    }
                    plan.rules.insert(PolicyRule { mark: table, table });
                    of_subnet.insert(*subnet, table);
                    table
                }
            };
            maps.marks.insert(link.clone(), table);
        }
    }

    /// The effective routes of a subnet as the kernel should follow them.
    fn hops(&mut self, vnet: VnetIx, subnet: SubnetIx, ns: &NsName, plan: &mut NsPlan) -> BTreeMap<Ipv4Net, Hop> {
        let net = self.net;
        let mut out = BTreeMap::new();
        for route in routes::effective(net, subnet).into_iter().filter(|r| r.active) {
            let IpNet::V4(prefix) = route.route.prefix else { continue };
            let prefix = prefix.trunc();
            let near = || {
                let peers = address::open_peers(net, vnet).map(|p| p.vnet);
                peers.chain([vnet]).any(|v| self.space(v).any(|s| s.contains(&prefix)))
            };
            let hop = match route.route.kind {
                // Delivered by the router's own table, which knows every NIC and peer.
                HopKind::VnetLocal | HopKind::VNetPeering if near() => Hop::Throw,
                HopKind::InterfaceEndpoint => Hop::Throw,
                HopKind::Internet | HopKind::VirtualNetworkServiceEndpoint => Hop::Via(VIA_EDGE, EDGE.to_owned()),
                HopKind::VirtualAppliance => self.appliance(vnet, route.route.address, ns, plan),
                // Nobody there: outside all spaces, a gateway that is not emulated, or None.
                HopKind::VnetLocal | HopKind::VNetPeering | HopKind::VirtualNetworkGateway | HopKind::None => {
                    Hop::Blackhole
                }
            };
            out.insert(prefix, hop);
        }
        out
    }

    /// The way to an appliance: the NIC with that address if it forwards (A21). One in a peered VNet
    /// is reached by a link of its own, since that router would go by the destination.
    fn appliance(&mut self, vnet: VnetIx, address: Option<IpAddr>, ns: &NsName, plan: &mut NsPlan) -> Hop {
        let Some(IpAddr::V4(address)) = address else { return Hop::Blackhole };
        let Some((nic, at)) = address::find_nic(self.net, vnet, IpAddr::V4(address)) else { return Hop::Blackhole };
        let nic = self.net.nic(nic);
        let Some(home) = address::ip_config(nic, at).map(|c| self.net.subnet(c.subnet).vnet) else {
            return Hop::Blackhole;
        };
        if !nic.ip_forwarding || self.is_refused(home) {
            return Hop::Blackhole;
        }
        if home == vnet {
            return Hop::Via(address, names::nic_link(&nic.id));
        }
        let id = &self.net.vnet(vnet).id;
        let link = names::detour_link('d', id, address);
        let near = self.veth_end(ns, &link);
        let far_ns = names::router_ns(&self.net.vnet(home).id);
        let far = self.veth_end(&far_ns, &names::detour_link('i', id, address));
        plan.neighbours.insert(Neighbour { link: link.clone(), address: VIA_DETOUR, mac: far.mac });
        self.plan.veths.insert(Veth { a: near, b: far });
        Hop::Via(VIA_DETOUR, link)
    }

    /// The other ends of such links: everything that comes in there goes to the appliance.
    fn detours_in(&self, vnet: VnetIx, plan: &mut NsPlan, maps: &mut Maps) {
        let own: Vec<(Ipv4Addr, String)> = self
            .net
            .nics
            .iter()
            .filter(|n| n.ip_forwarding)
            .flat_map(|n| n.ip_configs.iter().map(move |c| (n, c)))
            .filter(|(_, c)| self.net.subnet(c.subnet).vnet == vnet)
            .filter_map(|(n, c)| match c.address {
                IpAddr::V4(a) => Some((a, names::nic_link(&n.id))),
                IpAddr::V6(_) => None,
            })
            .collect();
        for peer in address::peers(self.net, vnet).filter(|p| p.far.allow_access) {
            let id = &self.net.vnet(peer.vnet).id;
            for (address, nic) in &own {
                if !self.names_appliance(peer.vnet, *address) {
                    continue;
                }
                let hops = BTreeMap::from([(Ipv4Net::default(), Hop::Via(*address, nic.clone()))]);
                let table = table_number(&hops);
                for (prefix, hop) in hops {
                    plan.routes.insert(Route { table, prefix, metric: 0, hop });
                }
                plan.rules.insert(PolicyRule { mark: table, table });
                let link = names::detour_link('i', id, *address);
                let far = self.veth_end(&names::router_ns(id), &names::detour_link('d', id, *address));
                plan.neighbours.insert(Neighbour { link: link.clone(), address: VIA_DETOUR, mac: far.mac });
                maps.marks.insert(link, table);
            }
        }
    }

    /// Whether a used route table of `vnet` leads to the appliance at `address`.
    fn names_appliance(&self, vnet: VnetIx, address: Ipv4Addr) -> bool {
        if self.is_refused(vnet) {
            return false;
        }
        let found = address::find_nic(self.net, vnet, IpAddr::V4(address));
        let used = |s: &SubnetIx| self.net.nics.iter().flat_map(|n| &n.ip_configs).any(|c| c.subnet == *s);
        found.is_some()
            && self.subnets(vnet).filter(used).any(|s| {
                routes::effective(self.net, s).iter().any(|r| {
                    r.active && r.route.kind == HopKind::VirtualAppliance && r.route.address == Some(address.into())
                })
            })
    }

    pub(super) fn subnets(&self, vnet: VnetIx) -> impl Iterator<Item = SubnetIx> + '_ {
        let net = self.net;
        let all = net.subnets.iter().zip(0u32..);
        all.filter(move |(s, _)| s.vnet == vnet).map(|(_, i)| SubnetIx(i))
    }

    fn firewall(&mut self, vnet: VnetIx, table: &mut Table, maps: Maps) {
        add_ported(table);
        let mut elements = Stubs::default();
        let mut endpoints = Vec::new();
        {
            let mut lists = Lists::new(self.net, self.fabric.log_accepts, table, &mut self.ids);
            for (link, subnet, nsg) in &maps.nics {
                for (direction, into) in
                    [(Direction::Outbound, &mut elements.out), (Direction::Inbound, &mut elements.inward)]
                {
                    if let Some(stub) = lists.stub(*nsg, *subnet, direction) {
                        into.insert(link.clone(), stub);
                    }
                }
                if let Some(stub) = lists.platform_stub(*nsg, *subnet) {
                    elements.platform.insert(link.clone(), stub);
                }
                elements.limit.insert(link.clone(), limit_chain(lists.table, link));
            }
            for e in &self.net.private_endpoints {
                let home = self.net.subnet(e.subnet);
                if home.vnet == vnet
                    && home.endpoint_nsg_policy
                    && let Some(slot) = lists.endpoint_slot(e.subnet)
                {
                    endpoints.extend(e.addresses.iter().filter_map(|a| match a {
                        IpAddr::V4(a) => Some((*a, slot.clone())),
                        IpAddr::V6(_) => None,
                    }));
                }
            }
        }
        maps.write(table);
        elements.write(table);
        endpoints.sort();
        let closed_peers: Vec<String> = address::peers(self.net, vnet)
            .filter(|p| !p.far.allow_forwarded)
            .map(|p| names::peer_link(&self.net.vnet(p.vnet).id))
            .collect();
        chains(table, &endpoints, &closed_peers);
    }
}

/// Number of a routing table, and of the mark that chooses it, by content.
fn table_number(hops: &BTreeMap<Ipv4Net, Hop>) -> u32 {
    let list: Vec<_> = hops.iter().collect();
    let h = hash(content('x', &list).as_bytes());
    TABLE_FIRST + (h as u32 >> 2)
}

/// What the links of a router stand for.
#[derive(Default)]
struct Maps {
    bound: BTreeSet<(String, Ipv4Addr)>,
    forwarding: BTreeSet<String>,
    marks: BTreeMap<String, u32>,
    nics: Vec<(String, SubnetIx, Option<moat_net::ir::NsgIx>)>,
}

impl Maps {
    fn write(self, table: &mut Table) {
        let mut put = |name: &str, key: Vec<KeyKind>, data, elements: BTreeSet<Element>| {
            let header = SetHeader { key, interval: false, data };
            table.sets.insert(name.to_owned(), Set { header, elements });
        };
        let link = |l: String| KeyPart::Ifname(l);
        put(
            "bound",
            vec![KeyKind::Ifname, KeyKind::Address],
            None,
            self.bound
                .into_iter()
                .map(|(l, a)| Element { key: vec![link(l), KeyPart::Address(a)], value: None })
                .collect(),
        );
        put(
            "forwarders",
            vec![KeyKind::Ifname],
            None,
            self.forwarding.into_iter().map(|l| Element { key: vec![link(l)], value: None }).collect(),
        );
        put(
            "marks",
            vec![KeyKind::Ifname],
            Some(DataKind::Mark),
            self.marks
                .into_iter()
                .map(|(l, m)| Element { key: vec![link(l)], value: Some(DataValue::Mark(m)) })
                .collect(),
        );
        put(
            "platform",
            vec![KeyKind::Address],
            None,
            [HOST_ADDRESS, IMDS_ADDRESS]
                .map(|a| Element { key: vec![KeyPart::Address(a)], value: None })
                .into_iter()
                .collect(),
        );
    }
}

/// Stub chains by link.
#[derive(Default)]
struct Stubs {
    out: BTreeMap<String, String>,
    inward: BTreeMap<String, String>,
    platform: BTreeMap<String, String>,
    limit: BTreeMap<String, String>,
}

/// A chain that drops what one NIC begins beyond its share; the kernel counts in its one rule.
fn limit_chain(table: &mut Table, link: &str) -> String {
    let name = format!("count-{link}");
    let rules = vec![drop_for(vec![Expression::ConnectionsOver(NIC_CONNECTIONS_MAX)], Reason::TooManyConnections)];
    table.chains.insert(name.clone(), Chain { base: None, rules });
    name
}

impl Stubs {
    fn write(self, table: &mut Table) {
        let maps = [
            ("nic_out", self.out),
            ("nic_in", self.inward),
            ("nic_platform", self.platform),
            ("nic_limit", self.limit),
        ];
        for (name, map) in maps {
            let elements = map
                .into_iter()
                .map(|(l, stub)| Element {
                    key: vec![KeyPart::Ifname(l)],
                    value: Some(DataValue::Verdict(Verdict::Jump(stub))),
                })
                .collect();
            let header = SetHeader { key: vec![KeyKind::Ifname], interval: false, data: Some(DataKind::Verdict) };
            table.sets.insert(name.to_owned(), Set { header, elements });
        }
    }
}

/// A condition on a link's name.
pub(super) fn link_is(field: Field, name: &str) -> Expression {
    Expression::LinkIs { field, name: name.to_owned(), prefix: false, not: false }
}

fn link_starts(field: Field, name: &str) -> Expression {
    Expression::LinkIs { field, name: name.to_owned(), prefix: true, not: false }
}

/// A verdict.
pub(super) fn verdict(v: Verdict) -> Expression {
    Expression::Verdict(v)
}

/// A base chain.
pub(super) fn base(kind: ChainKind, hook: Hook, priority: i32, drop: bool, rules: Vec<Rule>) -> Chain {
    Chain { base: Some(Base { kind, hook, priority, drop }), rules }
}

/// The base chains: the same in every router.
fn chains(table: &mut Table, endpoints: &[(Ipv4Addr, String)], closed_peers: &[String]) {
    use Expression::{Established, InSet, MarkFromMap, VerdictMap};
    let foreign = || InSet { fields: vec![Field::InLink, Field::Source], set: "bound".into(), not: true };
    let to_platform = || InSet { fields: vec![Field::Destination], set: "platform".into(), not: false };
    // Last, so that only what would get a place in the kernel's table is counted.
    let limited = || rule([VerdictMap { fields: vec![Field::InLink], map: "nic_limit".into() }]);
    let guard = vec![
        drop_for(
            vec![
                link_starts(Field::InLink, "v-"),
                InSet { fields: vec![Field::InLink], set: "forwarders".into(), not: true },
                foreign(),
            ],
            Reason::SpoofedSource,
        ),
        drop_for(
            vec![
                Expression::LinkIs { field: Field::InLink, name: "lo".into(), prefix: false, not: true },
                InSet { fields: vec![Field::Source], set: "platform".into(), not: false },
            ],
            Reason::FalsePlatform,
        ),
        rule([MarkFromMap { fields: vec![Field::InLink], map: "marks".into() }]),
    ];
    let mut forward = vec![
        // Before the established line: a reply that leaves by an appliance has lost its flow (A20).
        drop_for(vec![link_is(Field::OutLink, EDGE), foreign()], Reason::ForeignSource),
        rule([Established, verdict(Verdict::Accept)]),
        drop_for(vec![link_starts(Field::InLink, "p-"), link_starts(Field::OutLink, "p-")], Reason::Transit),
    ];
    for link in closed_peers {
        forward.push(drop_for(vec![link_is(Field::OutLink, link), foreign()], Reason::ForwardedTraffic));
    }
    forward.extend([
        rule([VerdictMap { fields: vec![Field::InLink], map: "nic_out".into() }]),
        rule([VerdictMap { fields: vec![Field::OutLink], map: "nic_in".into() }]),
        limited(),
        rule([verdict(Verdict::Accept)]),
    ]);
    let mut input = vec![
        rule([link_is(Field::InLink, "lo"), verdict(Verdict::Accept)]),
        rule([Established, verdict(Verdict::Accept)]),
        rule([to_platform(), VerdictMap { fields: vec![Field::InLink], map: "nic_platform".into() }]),
        rule([to_platform(), VerdictMap { fields: vec![Field::InLink], map: "nic_limit".into() }]),
        rule([to_platform(), verdict(Verdict::Accept)]),
        rule([VerdictMap { fields: vec![Field::InLink], map: "nic_out".into() }]),
    ];
    for (address, slot) in endpoints {
        let net = Ipv4Net::from(*address);
        let condition = Expression::AddressIn { field: Field::Destination, net, not: false };
        input.push(rule([condition, verdict(Verdict::Jump(slot.clone()))]));
    }
    input.extend([limited(), rule([verdict(Verdict::Accept)])]);
    let output = vec![
        rule([Established, verdict(Verdict::Accept)]),
        // Health probes and whatever else the platform begins meet the NIC's lists like any packet.
        rule([VerdictMap { fields: vec![Field::OutLink], map: "nic_in".into() }]),
    ];
    for (name, chain) in [
        ("guard", base(ChainKind::Filter, Hook::Prerouting, RAW, false, guard)),
        ("forwarded", base(ChainKind::Filter, Hook::Forward, FILTER, true, forward)),
        ("inward", base(ChainKind::Filter, Hook::Input, FILTER, true, input)),
        ("outward", base(ChainKind::Filter, Hook::Output, FILTER, false, output)),
    ] {
        table.chains.insert(name.to_owned(), chain);
    }
}
