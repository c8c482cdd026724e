//! Routes of a subnet: every candidate, which one wins, and the effective table.
//!
//! Routing is decided on the sending subnet only, by destination (5.1). Candidates are visited
//! rather than collected, so that one look-up allocates nothing however many prefixes a tag has.

use std::cmp::Reverse;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::address::{self, gateway_prefixes, open_peers};
use crate::ir::{Net, NextHop, PrivateEndpoint, RoutePrefix, RouteTable, RouteTableIx, SubnetIx};

/// Reserved blocks that go nowhere unless the VNet's own space holds them whole (A14).
pub const RESERVED: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
];
const ANYWHERE: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];

/// The tag whose prefixes a service endpoint routes (3.12).
const ENDPOINT_TAGS: [(&str, &str); 9] = [
    ("Microsoft.Storage", "Storage"),
    ("Microsoft.Storage.Global", "Storage"),
    ("Microsoft.Sql", "Sql"),
    ("Microsoft.KeyVault", "AzureKeyVault"),
    ("Microsoft.ContainerRegistry", "AzureContainerRegistry"),
    ("Microsoft.AzureCosmosDB", "AzureCosmosDB"),
    ("Microsoft.ServiceBus", "ServiceBus"),
    ("Microsoft.EventHub", "EventHub"),
    ("Microsoft.AzureActiveDirectory", "AzureActiveDirectory"),
];

/// The service tag that belongs to the service endpoint of `service`.
pub fn endpoint_tag(service: &str) -> Option<&'static str> {
    ENDPOINT_TAGS.iter().find(|(s, _)| s.eq_ignore_ascii_case(service)).map(|(_, t)| *t)
}

/// Who put a route into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Source<'a> {
    /// Azure.
    Default,
    /// A gateway, by BGP or a local network gateway.
    VirtualNetworkGateway,
    /// A route of the subnet's route table.
    User {
        /// Its name.
        name: &'a str,
    },
}
impl Source<'_> {
    /// As `effectiveRouteTable` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Default => "Default",
            Source::VirtualNetworkGateway => "VirtualNetworkGateway",
            Source::User { .. } => "User",
        }
    }
}

/// Next hop types of effective routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HopKind {
    /// The VNet's own space.
    VnetLocal,
    /// A peer's space.
    VNetPeering,
    /// A service, with the subnet's identity.
    VirtualNetworkServiceEndpoint,
    /// A private endpoint.
    InterfaceEndpoint,
    /// The way out.
    Internet,
    /// A VPN gateway.
    VirtualNetworkGateway,
    /// An appliance.
    VirtualAppliance,
    /// Dropped.
    None,
}
impl HopKind {
    /// Azure's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            HopKind::VnetLocal => "VnetLocal",
            HopKind::VNetPeering => "VNetPeering",
            HopKind::VirtualNetworkServiceEndpoint => "VirtualNetworkServiceEndpoint",
            HopKind::InterfaceEndpoint => "InterfaceEndpoint",
            HopKind::Internet => "Internet",
            HopKind::VirtualNetworkGateway => "VirtualNetworkGateway",
            HopKind::VirtualAppliance => "VirtualAppliance",
            HopKind::None => "None",
        }
    }
}

/// One route a subnet has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// What it covers.
    pub prefix: IpNet,
    /// Who put it there.
    pub source: Source<'a>,
    /// Where it leads.
    pub kind: HopKind,
    /// The appliance's or endpoint's address.
    pub address: Option<IpAddr>,
    /// The service tag a user route was written with.
    pub tag: Option<&'a str>,
    /// Preference among equal prefixes: class (A13), then tie-break (A15). Lower wins.
    rank: (u8, u8),
}

impl fmt::Display for Candidate<'_> {
    /// `Default 10.0.0.0/16` or `User:name 0.0.0.0/0`, as the truth vectors write routes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Source::User { name } => write!(f, "User:{name} {}", self.prefix),
            other => write!(f, "{} {}", other.as_str(), self.prefix),
        }
    }
}

const USER: u8 = 0;
const GATEWAY: u8 = 1;
const SYSTEM: u8 = 2;

fn table(net: &Net, subnet: SubnetIx) -> Option<&RouteTable> {
    net.subnet(subnet).route_table.and_then(|t| net.route_tables.get(t.at()))
}

/// Calls `see` with every candidate route of `subnet`: system, gateway, user, private endpoint.
fn visit<'a>(net: &'a Net, subnet: SubnetIx, mut see: impl FnMut(Candidate<'a>)) {
    let system = |prefix, kind, tie| Candidate {
        prefix,
        source: Source::Default,
        kind,
        address: None,
        tag: None,
        rank: (SYSTEM, tie),
    };
    visit_connected(net, subnet, &mut |prefix, kind, tie| see(system(prefix, kind, tie)));
    for anywhere in ANYWHERE {
        see(system(anywhere, HopKind::Internet, 9));
    }
    let own = &net.vnet(net.subnet(subnet).vnet).prefixes;
    for block in RESERVED.map(IpNet::V4) {
        if !own.iter().any(|p| p.contains(&block)) {
            see(system(block, HopKind::None, 9));
        }
    }
    let table = table(net, subnet);
    if !table.is_some_and(|t| t.disable_gateway_routes) {
        visit_gateway(net, subnet, &mut see);
    }
    if let Some(table) = table {
        visit_user(net, table, &mut see);
    }
    visit_private_endpoints(net, subnet, table, &mut see);
}

/// The system routes that beat longer gateway routes (A16): own space, open peers, service
/// endpoints.
fn visit_connected(net: &Net, subnet: SubnetIx, see: &mut dyn FnMut(IpNet, HopKind, u8)) {
    let here = net.subnet(subnet);
    for prefix in &net.vnet(here.vnet).prefixes {
        see(*prefix, HopKind::VnetLocal, 0);
    }
    for prefix in open_peers(net, here.vnet).flat_map(|p| &net.vnet(p.vnet).prefixes) {
        see(*prefix, HopKind::VNetPeering, 1);
    }
    for tag in here.service_endpoints.iter().filter_map(|s| endpoint_tag(s)) {
        for prefix in address::service_tag(net, tag).unwrap_or_default() {
            see(*prefix, HopKind::VirtualNetworkServiceEndpoint, 2);
        }
    }
}

fn visit_gateway<'a>(net: &'a Net, subnet: SubnetIx, see: &mut dyn FnMut(Candidate<'a>)) {
    for prefix in gateway_prefixes(net, net.subnet(subnet).vnet) {
        let mut beaten = false;
        visit_connected(net, subnet, &mut |p, _, _| beaten |= p.contains(&prefix));
        if !beaten {
            see(Candidate {
                prefix,
                source: Source::VirtualNetworkGateway,
                kind: HopKind::VirtualNetworkGateway,
                address: None,
                tag: None,
                rank: (GATEWAY, 0),
            });
        }
    }
}

/// At equal prefixes explicit beats regional tag, top-level tag, regional AzureCloud, AzureCloud (A15).
fn tag_tie(tag: &str) -> u8 {
    let (base, region) = tag.split_once('.').map_or((tag, None), |(b, r)| (b, Some(r)));
    match (base.eq_ignore_ascii_case("AzureCloud"), region.is_some()) {
        (false, true) => 1,
        (false, false) => 2,
        (true, true) => 3,
        (true, false) => 4,
    }
}

fn visit_user<'a>(net: &'a Net, table: &'a RouteTable, see: &mut dyn FnMut(Candidate<'a>)) {
    for route in &table.routes {
        let (kind, address) = match route.next_hop {
            NextHop::VnetLocal => (HopKind::VnetLocal, None),
            NextHop::Internet => (HopKind::Internet, None),
            NextHop::VirtualNetworkGateway => (HopKind::VirtualNetworkGateway, None),
            NextHop::VirtualAppliance(a) => (HopKind::VirtualAppliance, Some(a)),
            NextHop::None => (HopKind::None, None),
        };
        let source = Source::User { name: &route.name };
        match &route.prefix {
            RoutePrefix::Prefix(prefix) => {
                see(Candidate { prefix: *prefix, source, kind, address, tag: None, rank: (USER, 0) });
            }
            RoutePrefix::Tag(tag) => {
                for prefix in address::service_tag(net, tag).unwrap_or_default() {
                    let rank = (USER, tag_tie(tag));
                    see(Candidate { prefix: *prefix, source, kind, address, tag: Some(tag), rank });
                }
            }
        }
    }
}

fn visit_private_endpoints<'a>(
    net: &'a Net,
    subnet: SubnetIx,
    table: Option<&'a RouteTable>,
    see: &mut dyn FnMut(Candidate<'a>),
) {
    let vnet = net.subnet(subnet).vnet;
    for endpoint in &net.private_endpoints {
        if !address::is_near(net, vnet, net.subnet(endpoint.subnet).vnet) {
            continue;
        }
        for &address in &endpoint.addresses {
            if table.is_some_and(|t| cancelled_by_user_route(net, endpoint, address, t)) {
                continue;
            }
            see(Candidate {
                prefix: IpNet::from(address),
                source: Source::Default,
                kind: HopKind::InterfaceEndpoint,
                address: Some(address),
                tag: None,
                rank: (SYSTEM, 0),
            });
        }
    }
}

/// With route policy on its subnet, an endpoint's /32 gives way to a user route at least as long
/// as the VNet prefix that holds the endpoint (A17, 8.6).
fn cancelled_by_user_route(net: &Net, endpoint: &PrivateEndpoint, address: IpAddr, table: &RouteTable) -> bool {
    let home = net.subnet(endpoint.subnet);
    if !home.endpoint_route_policy {
        return false;
    }
    let space = net.vnet(home.vnet).prefixes.iter().filter(|p| p.contains(&address)).map(IpNet::prefix_len).max();
    let Some(space) = space else { return false };
    let mut cancelled = false;
    visit_user(net, table, &mut |c| cancelled |= c.prefix.contains(&address) && c.prefix.prefix_len() >= space);
    cancelled
}

/// The order routes are preferred in: longest prefix, then user, gateway, system (A13), then the
/// tie-breaks of A15. The smallest key wins; among equals the first visited.
fn preference(c: &Candidate<'_>) -> (Reverse<u8>, (u8, u8)) {
    (Reverse(c.prefix.prefix_len()), c.rank)
}

/// The route `subnet` uses for `destination`.
pub fn lookup(net: &Net, subnet: SubnetIx, destination: IpAddr) -> Candidate<'_> {
    // The default route of its family holds every destination, so the start value is always replaced.
    let mut best = Candidate {
        prefix: ANYWHERE[usize::from(destination.is_ipv6())],
        source: Source::Default,
        kind: HopKind::None,
        address: None,
        tag: None,
        rank: (u8::MAX, u8::MAX),
    };
    visit(net, subnet, |c| {
        if c.prefix.contains(&destination) && preference(&c) < preference(&best) {
            best = c;
        }
    });
    best
}

/// A route of the effective table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EffectiveRoute<'a> {
    /// The route.
    pub route: Candidate<'a>,
    /// `false`: state `Invalid`, another route has the same prefix and is preferred (5.6).
    pub active: bool,
}

/// The whole table of `subnet`, for `effectiveRouteTable` and for the data plane: every candidate,
/// with the preferred one of each prefix active. Order: as Azure lists them, default routes first.
pub fn effective(net: &Net, subnet: SubnetIx) -> Vec<EffectiveRoute<'_>> {
    let mut routes = Vec::new();
    visit(net, subnet, |route| routes.push(EffectiveRoute { route, active: false }));
    let mut order: Vec<usize> = (0..routes.len()).collect();
    // Stable: among equals the first visited is preferred, as in `lookup`.
    order.sort_by_key(|&i| (routes[i].route.prefix.trunc(), preference(&routes[i].route)));
    let mut before: Option<IpNet> = None;
    for i in order {
        let prefix = routes[i].route.prefix.trunc();
        routes[i].active = before != Some(prefix);
        before = Some(prefix);
    }
    routes
}

/// The answer of Network Watcher's next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHopAnswer<'a> {
    /// The chosen route.
    pub route: Candidate<'a>,
    /// The table it is from; `None` is Azure's `System Route`.
    pub table: Option<RouteTableIx>,
}

/// Next hop of packets from `subnet` to `destination`.
pub fn next_hop(net: &Net, subnet: SubnetIx, destination: IpAddr) -> NextHopAnswer<'_> {
    let route = lookup(net, subnet, destination);
    let user = matches!(route.source, Source::User { .. });
    NextHopAnswer { route, table: net.subnet(subnet).route_table.filter(|_| user) }
}
