//! rtnetlink: links, addresses, neighbours, routes and policy rules of one namespace.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;

use super::message::{Attributes, Builder};
use super::{Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Result, Socket};
use crate::layout::{Hop, Neighbour, PolicyRule, Route, Veth};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_OPERSTATE: u16 = 16;
const OPERATIONAL: u8 = 6;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const RTNH_F_ONLINK: u32 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_BLACKHOLE: u8 = 6;
const RTN_THROW: u8 = 9;
const RTPROT_STATIC: u8 = 4;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FR_ACT_TO_TBL: u8 = 1;
const AF_INET: u8 = libc::AF_INET as u8;

/// `ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut h = [0; 16];
    h[4..8].copy_from_slice(&index.to_ne_bytes());
    h[8..12].copy_from_slice(&flags.to_ne_bytes());
    h[12..16].copy_from_slice(&change.to_ne_bytes());
    h
}

/// Makes a veth pair, the peer inside `peer_ns` under its final name at once. The near end is up;
/// the peer cannot be switched on before the pair is complete, so it needs [`link_up_named`].
///
/// `indices` of both ends must differ from each other: Linux knows a paired link by an index unlike
/// its peer's (`linkwatch_urgent_event`). Ends that happen to share one in their two namespaces are
/// taken for an ordinary card, whose carrier is looked at once a second.
pub fn add_veth(veth: &Veth, indices: [u32; 2], peer_ns: BorrowedFd<'_>) -> Builder {
    let [near, far] = indices;
    let mut m = Builder::new(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link_header(near, IFF_UP, IFF_UP));
    m.text(IFLA_IFNAME, &veth.a.link).attribute(IFLA_ADDRESS, &veth.a.mac).nested(IFLA_LINKINFO, |b| {
        b.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, |b| {
            b.nested(VETH_INFO_PEER, |b| {
                b.raw(&link_header(far, 0, 0))
                    .text(IFLA_IFNAME, &veth.b.link)
                    .attribute(IFLA_ADDRESS, &veth.b.mac)
                    .u32(IFLA_NET_NS_FD, peer_ns.as_raw_fd().cast_unsigned());
            });
        });
    });
    m
}

/// Switches a link on.
pub fn link_up(index: u32) -> Builder {
    Builder::new(libc::RTM_NEWLINK, 0, &link_header(index, IFF_UP, IFF_UP))
}

/// Switches a link on, by name.
pub fn link_up_named(name: &str) -> Builder {
    let mut m = link_up(0);
    m.text(IFLA_IFNAME, name);
    m
}

/// Removes a link by name.
pub fn delete_link(name: &str) -> Builder {
    let mut m = Builder::new(libc::RTM_DELLINK, 0, &link_header(0, 0, 0));
    m.text(IFLA_IFNAME, name);
    m
}

/// Adds or removes an address.
pub fn address(add: bool, index: u32, net: Ipv4Net) -> Builder {
    let mut fixed = [0; 8];
    fixed[0] = AF_INET;
    fixed[1] = net.prefix_len();
    fixed[3] = if index == 1 { SCOPE_HOST } else { SCOPE_UNIVERSE };
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let (kind, flags) = if add { (libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE) } else { (libc::RTM_DELADDR, 0) };
    let mut m = Builder::new(kind, flags, &fixed);
    m.attribute(IFA_LOCAL, &net.addr().octets()).attribute(IFA_ADDRESS, &net.addr().octets());
    m
}

/// Adds (or replaces) or removes a permanent neighbour.
pub fn neighbour(add: bool, index: u32, n: &Neighbour) -> Builder {
    let mut fixed = [0; 12];
    fixed[0] = AF_INET;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    let (kind, flags) = if add { (libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE) } else { (libc::RTM_DELNEIGH, 0) };
    let mut m = Builder::new(kind, flags, &fixed);
    m.attribute(NDA_DST, &n.address.octets());
    if add {
        m.attribute(NDA_LLADDR, &n.mac);
    }
    m
}

/// Adds (or replaces) or removes a route; `index` is that of the link its hop names.
pub fn route(add: bool, index: Option<u32>, route: &Route) -> Builder {
    let (kind, scope) = match route.hop {
        Hop::Link(_) => (RTN_UNICAST, SCOPE_LINK),
        Hop::Via(..) => (RTN_UNICAST, SCOPE_UNIVERSE),
        Hop::Blackhole => (RTN_BLACKHOLE, SCOPE_UNIVERSE),
        Hop::Throw => (RTN_THROW, SCOPE_UNIVERSE),
        Hop::Local => (RTN_LOCAL, SCOPE_HOST),
    };
    let flags: u32 = if matches!(route.hop, Hop::Via(..)) { RTNH_F_ONLINK } else { 0 };
    let mut fixed = [0; 12];
    fixed[0] = AF_INET;
    fixed[1] = route.prefix.prefix_len();
    fixed[5] = RTPROT_STATIC;
    fixed[6] = scope;
    fixed[7] = kind;
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    let (message, extra) =
        if add { (libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE) } else { (libc::RTM_DELROUTE, 0) };
    let mut m = Builder::new(message, extra, &fixed);
    m.attribute(RTA_DST, &route.prefix.network().octets()).u32(RTA_TABLE, route.table);
    if route.metric != 0 {
        m.u32(RTA_PRIORITY, route.metric);
    }
    if let Hop::Via(gateway, _) = &route.hop {
        m.attribute(RTA_GATEWAY, &gateway.octets());
    }
    if let Some(index) = index {
        m.u32(RTA_OIF, index);
    }
    m
}

/// Before table `main` (32766). Rules differ by mark, so one priority does for all.
const RULE_PRIORITY: u32 = 100;

/// Adds or removes a policy rule.
pub fn policy_rule(add: bool, rule: &PolicyRule) -> Builder {
    let mut fixed = [0; 12];
    fixed[0] = AF_INET;
    fixed[7] = FR_ACT_TO_TBL;
    let (kind, flags) = if add { (libc::RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL) } else { (libc::RTM_DELRULE, 0) };
    let mut m = Builder::new(kind, flags, &fixed);
    m.u32(FRA_PRIORITY, RULE_PRIORITY).u32(FRA_FWMARK, rule.mark).u32(FRA_TABLE, rule.table);
    m
}

/// A link as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSeen {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Switched on.
    pub up: bool,
    /// Carries packets: until the kernel has come round to it, a new link drops them silently.
    pub ready: bool,
    /// Ethernet address.
    pub mac: Option<[u8; 6]>,
}

/// All links of the namespace.
pub fn links(socket: &mut Socket) -> Result<Vec<LinkSeen>> {
    let messages = socket.dump(Builder::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0)), "list links")?;
    Ok(messages.iter().filter_map(read_link).collect())
}

fn read_link(m: &Message) -> Option<LinkSeen> {
    let number = |at: usize| Some(u32::from_ne_bytes(m.payload.get(at..at + 4)?.try_into().ok()?));
    let attributes = Attributes::new(m.payload.get(16..)?);
    Some(LinkSeen {
        index: number(4)?,
        name: attributes.text(IFLA_IFNAME)?,
        up: number(8)? & IFF_UP != 0,
        ready: attributes.get(IFLA_OPERSTATE) == Some(&[OPERATIONAL]),
        mac: attributes.get(IFLA_ADDRESS).and_then(|a| a.try_into().ok()),
    })
}

/// All IPv4 routes of the namespace: table, prefix, metric, hop with the link's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSeen {
    /// Table.
    pub table: u32,
    /// Destination.
    pub prefix: Ipv4Net,
    /// Metric.
    pub metric: u32,
    /// `RTN_*`.
    pub kind: u8,
    /// Who added it.
    pub protocol: u8,
    /// Next hop.
    pub gateway: Option<Ipv4Addr>,
    /// Link.
    pub index: Option<u32>,
}

impl RouteSeen {
    /// In the plan's words, given the names of links; `None` for what the kernel made itself.
    pub fn planned(&self, name: impl Fn(u32) -> Option<String>) -> Option<Route> {
        if self.protocol != RTPROT_STATIC {
            return None;
        }
        let link = || self.index.and_then(&name);
        let hop = match self.kind {
            RTN_UNICAST => match self.gateway {
                Some(gateway) => Hop::Via(gateway, link()?),
                None => Hop::Link(link()?),
            },
            RTN_LOCAL => Hop::Local,
            RTN_BLACKHOLE => Hop::Blackhole,
            RTN_THROW => Hop::Throw,
            _ => return None,
        };
        Some(Route { table: self.table, prefix: self.prefix, metric: self.metric, hop })
    }
}

/// All IPv4 routes of the namespace.
pub fn routes(socket: &mut Socket) -> Result<Vec<RouteSeen>> {
    let mut fixed = [0; 12];
    fixed[0] = AF_INET;
    let messages = socket.dump(Builder::new(libc::RTM_GETROUTE, 0, &fixed), "list routes")?;
    Ok(messages.iter().filter_map(read_route).collect())
}

fn read_address(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

fn read_route(m: &Message) -> Option<RouteSeen> {
    let attributes = Attributes::new(m.payload.get(12..)?);
    let destination = attributes.get(RTA_DST).and_then(read_address).unwrap_or(Ipv4Addr::UNSPECIFIED);
    Some(RouteSeen {
        table: attributes.u32(RTA_TABLE)?,
        prefix: Ipv4Net::new(destination, *m.payload.get(1)?).ok()?,
        metric: attributes.u32(RTA_PRIORITY).unwrap_or(0),
        kind: *m.payload.get(7)?,
        protocol: *m.payload.get(5)?,
        gateway: attributes.get(RTA_GATEWAY).and_then(read_address),
        index: attributes.u32(RTA_OIF),
    })
}

/// All policy rules that choose a table by mark.
pub fn policy_rules(socket: &mut Socket) -> Result<Vec<PolicyRule>> {
    let mut fixed = [0; 12];
    fixed[0] = AF_INET;
    let messages = socket.dump(Builder::new(libc::RTM_GETRULE, 0, &fixed), "list policy rules")?;
    Ok(messages
        .iter()
        .filter_map(|m| {
            let attributes = Attributes::new(m.payload.get(12..)?);
            Some(PolicyRule { mark: attributes.u32(FRA_FWMARK)?, table: attributes.u32(FRA_TABLE)? })
        })
        .collect())
}

/// All IPv4 addresses: link index and address.
pub fn addresses(socket: &mut Socket) -> Result<Vec<(u32, Ipv4Net)>> {
    let messages =
        socket.dump(Builder::new(libc::RTM_GETADDR, 0, &[AF_INET, 0, 0, 0, 0, 0, 0, 0]), "list addresses")?;
    Ok(messages
        .iter()
        .filter_map(|m| {
            let index = u32::from_ne_bytes(m.payload.get(4..8)?.try_into().ok()?);
            let address = read_address(Attributes::new(m.payload.get(8..)?).get(IFA_LOCAL)?)?;
            Some((index, Ipv4Net::new(address, *m.payload.get(1)?).ok()?))
        })
        .collect())
}

/// All permanent neighbours: link index, address, Ethernet address.
pub fn neighbours(socket: &mut Socket) -> Result<Vec<(u32, Ipv4Addr, [u8; 6])>> {
    let mut fixed = [0; 12];
    fixed[0] = AF_INET;
    let messages = socket.dump(Builder::new(libc::RTM_GETNEIGH, 0, &fixed), "list neighbours")?;
    Ok(messages
        .iter()
        .filter_map(|m| {
            let index = u32::from_ne_bytes(m.payload.get(4..8)?.try_into().ok()?);
            let state = u16::from_ne_bytes(m.payload.get(8..10)?.try_into().ok()?);
            let attributes = Attributes::new(m.payload.get(12..)?);
            let address = read_address(attributes.get(NDA_DST)?)?;
            (state & NUD_PERMANENT != 0).then_some(())?;
            Some((index, address, attributes.get(NDA_LLADDR)?.try_into().ok()?))
        })
        .collect())
}
