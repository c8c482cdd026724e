//! The edge of a VNet: every address translation, and what may pass between VNet and internet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use moat_net::address::{NON_PUBLIC_V4, ip_config, service_tag};
use moat_net::ir::{Backend, LoadBalancer, Net, NicIx, Protocol, PublicIpIx, Sku, SubnetIx, VnetIx};
use moat_net::layers::egress;
use moat_net::routes;
use moat_net::set::IpSet;
use moat_net::trace::Translation;

use super::Planner;
use super::names::{self, content};
use super::router::{ROUTER, VIA_ROUTER, base, link_is, verdict};
use super::rules::{Reason, add_ported, address_set, drop_for, protocol_number, rule};
use crate::layout::{BACKBONE, Hop, Neighbour, NsPlan, Route, TABLE_LOCAL, TABLE_MAIN, Veth};
use crate::ruleset::{
    Chain, ChainKind, DataKind, DataValue, Element, Expression, Field, Hook, KeyKind, KeyPart, Rule, Set, SetHeader,
    Table, Verdict,
};

/// Link from edge to backbone.
const BACKBONE_LINK: &str = "bbl";
const VIA_BACKBONE: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);
const VIA_EDGE: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
const FILTER: i32 = 0;

/// What an edge translates.
#[derive(Default)]
struct Translations {
    /// Instance addresses: public to private.
    inward: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Front end address, protocol, port to chain.
    fronts: BTreeMap<(Ipv4Addr, u8, u16), String>,
    /// Front end addresses that take all ports.
    whole_fronts: BTreeMap<Ipv4Addr, String>,
    /// Private to public for TCP and UDP.
    out_ported: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Private to public for everything else.
    out_other: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Public and private address of paths that are closed by default.
    closed: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
    /// Public addresses that lead here.
    public: BTreeSet<Ipv4Addr>,
    /// Chains of the front ends.
    chains: BTreeMap<String, Chain>,
    /// Service endpoints: who, to which addresses, and as whom the service sees it.
    services: Vec<ServicePath>,
}

/// The way from a subnet to services it has an endpoint for.
struct ServicePath {
    subnet: Ipv4Net,
    services: Vec<(u32, u32)>,
    identity: Ipv4Addr,
}

/// The source a service sees from a subnet with a service endpoint. Azure shows the private
/// address and tells the service the subnet beside it (7.2); here an address per subnet does, from
/// the upper half of the benchmarking block 198.18.0.0/15.
fn service_identity(subnet: SubnetIx) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 19, 0, 0).to_bits() | ((subnet.0 + 1) & 0xffff))
}

impl Planner<'_> {
    pub(super) fn edge(&mut self, vnet: VnetIx, backbone: &mut NsPlan) {
        let net = self.net;
        let id = &net.vnet(vnet).id;
        let ns = names::edge_ns(id);
        let mut plan = NsPlan { sysctls: super::router_sysctls(), ..NsPlan::default() };
        let router = self.veth_end(&names::router_ns(id), super::router::EDGE);
        plan.neighbours.insert(Neighbour { link: ROUTER.to_owned(), address: VIA_ROUTER, mac: router.mac });
        let near = self.veth_end(&ns, BACKBONE_LINK);
        let far = self.veth_end(&BACKBONE.into(), &names::edge_link(id));
        let link = far.link.clone();
        plan.neighbours.insert(Neighbour { link: BACKBONE_LINK.to_owned(), address: VIA_BACKBONE, mac: far.mac });
        backbone.neighbours.insert(Neighbour { link: link.clone(), address: VIA_EDGE, mac: near.mac });
        self.plan.veths.insert(Veth { a: near, b: far });
        let mut routes: BTreeMap<Ipv4Net, Hop> =
            self.space(vnet).map(|p| (p, Hop::Via(VIA_ROUTER, ROUTER.to_owned()))).collect();
        routes.insert(Ipv4Net::default(), Hop::Via(VIA_BACKBONE, BACKBONE_LINK.to_owned()));
        for (prefix, hop) in routes {
            plan.routes.insert(Route { table: TABLE_MAIN, prefix, metric: 0, hop });
        }
        let mut translations = self.translations(vnet);
        for subnet in self.subnets(vnet).collect::<Vec<_>>() {
            let paths = service_paths(net, subnet);
            if let Some(path) = paths.first() {
                translations.public.insert(path.identity);
                self.plan.service_identities.insert(path.identity, net.subnet(subnet).id.clone());
            }
            translations.services.extend(paths);
        }
        for address in &translations.public {
            let hop = Hop::Via(VIA_EDGE, link.clone());
            // In table local, where the backbone's own service prefixes are: the longer one wins.
            backbone.routes.insert(Route { table: TABLE_LOCAL, prefix: Ipv4Net::from(*address), metric: 0, hop });
        }
        plan.nft = Some(table(translations));
        self.plan.namespaces.insert(ns, plan);
    }

    fn translations(&self, vnet: VnetIx) -> Translations {
        let mut t = Translations::default();
        for (nic, n) in self.net.nics() {
            for (at, config) in n.ip_configs.iter().enumerate() {
                let IpAddr::V4(private) = config.address else { continue };
                if self.net.subnet(config.subnet).vnet != vnet {
                    continue;
                }
                for (ported, into) in [(true, &mut t.out_ported), (false, &mut t.out_other)] {
                    if let Some(public) = self.exit(vnet, nic, at, ported) {
                        into.insert(private, public);
                        t.public.insert(public);
                    }
                }
                if let Some((public, sku)) = config.public_ip.and_then(|p| self.public(p)) {
                    t.inward.insert(public, private);
                    t.public.insert(public);
                    if self.is_closed(sku, nic, at) {
                        t.closed.insert((public, private));
                    }
                }
            }
        }
        for balancer in &self.net.load_balancers {
            self.balancer(vnet, balancer, &mut t);
        }
        t
    }

    /// The source address others see, if there is a way out.
    fn exit(&self, vnet: VnetIx, nic: NicIx, config: usize, ported: bool) -> Option<Ipv4Addr> {
        let exit = egress::exit(self.net, nic, config, ported)?;
        let lent = self.fabric.default_outbound.get(&self.net.vnet(vnet).id.to_ascii_lowercase());
        match (exit.by, lent, exit.source?) {
            (Translation::DefaultOutbound, Some(address), _) => Some(*address),
            (_, _, IpAddr::V4(address)) => Some(address),
            (_, _, IpAddr::V6(_)) => None,
        }
    }

    /// Address and SKU of a public IP that has an IPv4 address.
    fn public(&self, ip: PublicIpIx) -> Option<(Ipv4Addr, Sku)> {
        let ip = self.net.public_ips.get(ip.at())?;
        match ip.address? {
            IpAddr::V4(address) => Some((address, ip.sku)),
            IpAddr::V6(_) => None,
        }
    }

    /// Standard SKU lets nothing in where no NSG says so (2.10).
    fn is_closed(&self, sku: Sku, nic: NicIx, config: usize) -> bool {
        let nic = self.net.nic(nic);
        let subnet = nic.ip_configs.get(config).map(|c| self.net.subnet(c.subnet));
        let unguarded = nic.nsg.is_none() && subnet.is_some_and(|s| s.nsg.is_none());
        self.net.semantics.closed_by_default && sku == Sku::Standard && unguarded
    }

    fn balancer(&self, vnet: VnetIx, balancer: &LoadBalancer, t: &mut Translations) {
        let frontend = |at: u32| {
            let ip = balancer.frontends.get(at as usize)?.public_ip?;
            self.public(ip).map(|(a, _)| a)
        };
        // Balancing rules first: an inbound NAT rule on the same port replaces them.
        for r in &balancer.rules {
            let Some(public) = frontend(r.frontend) else { continue };
            let port = r.protocol.map(|_| r.backend_port);
            let Some(chain) = self.spread(vnet, balancer, public, &r.backends, port, t) else { continue };
            match r.protocol {
                Some(p) => {
                    t.fronts.entry((public, protocol_number(p), r.frontend_port)).or_insert(chain);
                }
                None => {
                    t.whole_fronts.entry(public).or_insert(chain);
                }
            }
        }
        let mut taken = BTreeSet::new();
        for r in &balancer.nat_rules {
            let (Some(public), Some(backend)) = (frontend(r.frontend), r.backend) else { continue };
            let Some(chain) = self.spread(vnet, balancer, public, &[backend], Some(r.backend_port), t) else {
                continue;
            };
            let key = (public, protocol_number(r.protocol), r.frontend_port);
            if matches!(r.protocol, Protocol::Tcp | Protocol::Udp) && taken.insert(key) {
                t.fronts.insert(key, chain);
            }
        }
    }

    /// A chain that translates to one of the backends in this VNet; `None` if there is none.
    fn spread(
        &self,
        vnet: VnetIx,
        balancer: &LoadBalancer,
        public: Ipv4Addr,
        backends: &[Backend],
        port: Option<u16>,
        t: &mut Translations,
    ) -> Option<String> {
        let mut targets = Vec::new();
        for &(nic, at) in backends {
            let Some(config) = self.net.nics.get(nic.at()).and_then(|n| ip_config(n, at)) else { continue };
            let IpAddr::V4(private) = config.address else { continue };
            if self.net.subnet(config.subnet).vnet != vnet {
                continue;
            }
            if self.is_closed(balancer.sku, nic, at as usize) {
                t.closed.insert((public, private));
            }
            targets.push(private);
        }
        let of = u32::try_from(targets.len()).ok().filter(|n| *n > 0)?;
        // Only now: an edge without a backend must not draw the front end's packets.
        t.public.insert(public);
        let rules: Vec<Rule> = targets
            .iter()
            .zip(0..)
            .map(|(address, slot)| {
                let choose = (of > 1).then_some(Expression::HashSlot { of, slot });
                rule(choose.into_iter().chain([Expression::Dnat { address: *address, port }]))
            })
            .collect();
        let chain = Chain { base: None, rules };
        let name = content('f', &chain);
        t.chains.insert(name.clone(), chain);
        Some(name)
    }
}

/// What a subnet reaches by its service endpoints.
fn service_paths(net: &Net, subnet: SubnetIx) -> Vec<ServicePath> {
    let here = net.subnet(subnet);
    let tags = here.service_endpoints.iter().filter_map(|s| routes::endpoint_tag(s));
    let all: IpSet = tags.flat_map(|t| service_tag(net, t).unwrap_or_default()).collect();
    if all.v4.is_empty() {
        return Vec::new();
    }
    let own = here.prefixes.iter().filter_map(|p| match p {
        IpNet::V4(p) => Some(p.trunc()),
        IpNet::V6(_) => None,
    });
    let identity = service_identity(subnet);
    own.map(|subnet| ServicePath { subnet, services: all.v4.ranges().to_vec(), identity }).collect()
}

/// The table of an edge.
fn table(t: Translations) -> Table {
    use Expression::{DnatMap, Established, HasPorts, InSet, SnatMap, Translated, VerdictMap};
    let mut table = Table::default();
    add_ported(&mut table);
    let private: Vec<(u32, u32)> =
        NON_PUBLIC_V4.iter().map(|p| (p.network().to_bits(), p.broadcast().to_bits())).collect();
    let private = address_set(&mut table, &private);
    let by_endpoint: Vec<(Vec<Expression>, Ipv4Addr)> = t
        .services
        .iter()
        .map(|path| {
            let set = address_set(&mut table, &path.services);
            let from = Expression::AddressIn { field: Field::Source, net: path.subnet, not: false };
            (vec![from, InSet { fields: vec![Field::Destination], set, not: false }], path.identity)
        })
        .collect();
    let address = |a: &Ipv4Addr| KeyPart::Address(*a);
    let mut put = |name: &str, key: Vec<KeyKind>, data: Option<DataKind>, elements: BTreeSet<Element>| {
        table.sets.insert(name.to_owned(), Set { header: SetHeader { key, interval: false, data }, elements });
    };
    let map = |m: &BTreeMap<Ipv4Addr, Ipv4Addr>| {
        m.iter().map(|(k, v)| Element { key: vec![address(k)], value: Some(DataValue::Address(*v)) }).collect()
    };
    let keys =
        |m: &BTreeMap<Ipv4Addr, Ipv4Addr>| m.keys().map(|k| Element { key: vec![address(k)], value: None }).collect();
    let jump = |chain: &String| Some(DataValue::Verdict(Verdict::Goto(chain.clone())));
    put("instance", vec![KeyKind::Address], Some(DataKind::Address), map(&t.inward));
    put("snat_ported", vec![KeyKind::Address], Some(DataKind::Address), map(&t.out_ported));
    put("snat_other", vec![KeyKind::Address], Some(DataKind::Address), map(&t.out_other));
    put("out_ported", vec![KeyKind::Address], None, keys(&t.out_ported));
    put("out_other", vec![KeyKind::Address], None, keys(&t.out_other));
    put(
        "fronts",
        vec![KeyKind::Address, KeyKind::Protocol, KeyKind::Port],
        Some(DataKind::Verdict),
        t.fronts
            .iter()
            .map(|((a, p, port), chain)| Element {
                key: vec![address(a), KeyPart::Protocol(*p), KeyPart::Port(*port)],
                value: jump(chain),
            })
            .collect(),
    );
    put(
        "whole_fronts",
        vec![KeyKind::Address],
        Some(DataKind::Verdict),
        t.whole_fronts.iter().map(|(a, chain)| Element { key: vec![address(a)], value: jump(chain) }).collect(),
    );
    put(
        "closed",
        vec![KeyKind::Address, KeyKind::Address],
        None,
        t.closed.iter().map(|(a, b)| Element { key: vec![address(a), address(b)], value: None }).collect(),
    );
    table.chains.extend(t.chains);
    let in_set = |set: &str| InSet { fields: vec![Field::Source], set: set.into(), not: false };
    let with_endpoint =
        by_endpoint.iter().map(|(when, _)| rule(when.iter().cloned().chain([verdict(Verdict::Return)])));
    let mut leave: Vec<Rule> = with_endpoint.collect();
    leave.extend([
        rule([HasPorts, in_set("out_ported"), verdict(Verdict::Return)]),
        drop_for(vec![HasPorts], Reason::NoOutbound),
        rule([in_set("out_other"), verdict(Verdict::Return)]),
        drop_for(vec![], Reason::NoOutbound),
    ]);
    let pre = vec![
        rule([
            HasPorts,
            VerdictMap {
                fields: vec![Field::Destination, Field::Protocol, Field::DestinationPort],
                map: "fronts".into(),
            },
        ]),
        rule([HasPorts, VerdictMap { fields: vec![Field::Destination], map: "whole_fronts".into() }]),
        rule([DnatMap { field: Field::Destination, map: "instance".into() }]),
    ];
    let closed =
        InSet { fields: vec![Field::OriginalDestination, Field::Destination], set: "closed".into(), not: false };
    let not_public = InSet { fields: vec![Field::OriginalDestination], set: private, not: false };
    // Where a packet wants to go, then whether it may leave, then whether it may come in again: the
    // order of the model, so that the log names the same reason.
    let forward = vec![
        rule([Established, verdict(Verdict::Accept)]),
        drop_for(vec![not_public], Reason::NotPublic),
        rule([link_is(Field::InLink, ROUTER), verdict(Verdict::Jump("leave".into()))]),
        drop_for(vec![closed], Reason::ClosedByDefault),
        rule([Translated, verdict(Verdict::Accept)]),
        rule([link_is(Field::InLink, ROUTER), link_is(Field::OutLink, BACKBONE_LINK), verdict(Verdict::Accept)]),
    ];
    let mut post: Vec<Rule> = by_endpoint
        .into_iter()
        .map(|(when, identity)| rule(when.into_iter().chain([Expression::Snat { address: identity }])))
        .collect();
    post.extend([
        rule([HasPorts, SnatMap { field: Field::Source, map: "snat_ported".into() }]),
        rule([SnatMap { field: Field::Source, map: "snat_other".into() }]),
    ]);
    for (name, chain) in [
        ("leave", Chain { base: None, rules: leave }),
        ("arriving", base(ChainKind::Nat, Hook::Prerouting, DSTNAT, false, pre)),
        ("forwarded", base(ChainKind::Filter, Hook::Forward, FILTER, true, forward)),
        ("leaving", base(ChainKind::Nat, Hook::Postrouting, SRCNAT, false, post)),
    ] {
        table.chains.insert(name.to_owned(), chain);
    }
    table
}
