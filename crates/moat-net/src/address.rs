//! What an address expression of a rule means, seen from one subnet.
//!
//! `VirtualNetwork` and `Internet` denote different addresses in each subnet (A10, A11), and an
//! application security group only the members of one VNet (A7), so every question here takes a
//! [`SubnetIx`]. [`matches()`] answers for one address by walking lists; [`resolve`] gives the whole
//! set. They are written apart, and a property test holds them together.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::ir::{AddressMatch, AsgIx, IpConfig, Net, Nic, NicIx, Peering, RoutePrefix, SubnetIx, Vnet, VnetIx};
use crate::set::IpSet;

/// The virtual address of the host: DNS, DHCP, WireServer and health probes (3.9, 11.1).
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// Instance metadata.
pub const IMDS_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Tags that Azure computes or fixes itself; they are in no tag file's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DynamicTag {
    /// Own space, open peers, gateway space, the host address, explicit user routes (A10).
    VirtualNetwork,
    /// Public addresses outside all of those but user routes (A11).
    Internet,
    /// The source of health probes.
    AzureLoadBalancer,
    /// The DNS side of the host address.
    AzurePlatformDns,
    /// Instance metadata.
    AzurePlatformImds,
}

impl DynamicTag {
    /// All of them.
    pub const ALL: [DynamicTag; 5] = [
        DynamicTag::VirtualNetwork,
        DynamicTag::Internet,
        DynamicTag::AzureLoadBalancer,
        DynamicTag::AzurePlatformDns,
        DynamicTag::AzurePlatformImds,
    ];

    /// Azure's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            DynamicTag::VirtualNetwork => "VirtualNetwork",
            DynamicTag::Internet => "Internet",
            DynamicTag::AzureLoadBalancer => "AzureLoadBalancer",
            DynamicTag::AzurePlatformDns => "AzurePlatformDNS",
            DynamicTag::AzurePlatformImds => "AzurePlatformIMDS",
        }
    }

    /// The tag of this name; without regard to case unless `case_sensitive` (A24).
    pub fn parse(name: &str, case_sensitive: bool) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == name || (!case_sensitive && t.as_str().eq_ignore_ascii_case(name)))
    }

    /// The platform tag that names `address`, if it is a platform address (A8).
    pub fn of_platform(address: IpAddr) -> Option<Self> {
        if address == HOST_ADDRESS {
            Some(DynamicTag::AzurePlatformDns)
        } else if address == IMDS_ADDRESS {
            Some(DynamicTag::AzurePlatformImds)
        } else {
            None
        }
    }
}

/// IPv4 blocks that are never public (A11): `0/8`, private, shared, loopback, link-local and
/// everything from 224.0.0.0 up.
pub const NON_PUBLIC_V4: [Ipv4Net; 8] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
];
/// IPv6 global unicast space; what lies outside is never public.
pub const PUBLIC_V6: ipnet::Ipv6Net =
    ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Whether `address` can be routed on the internet at all.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !NON_PUBLIC_V4.iter().any(|p| p.contains(&a)),
        IpAddr::V6(a) => PUBLIC_V6.contains(&a),
    }
}

/// A peering that works: this half, the other VNet, and its half (A9).
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// The other VNet.
    pub vnet: VnetIx,
    /// Our half.
    pub near: &'a Peering,
    /// Their half.
    pub far: &'a Peering,
}

/// Peerings of `vnet` that carry packets: both halves exist and are connected (A9).
pub fn peers(net: &Net, vnet: VnetIx) -> impl Iterator<Item = Peer<'_>> {
    net.vnet(vnet).peerings.iter().filter_map(move |near| {
        let remote = near.remote.filter(|_| near.connected)?;
        let far = net.vnets.get(remote.at())?.peerings.iter().find(|p| p.remote == Some(vnet) && p.connected)?;
        Some(Peer { vnet: remote, near, far })
    })
}

/// Peers whose addresses this VNet routes to and counts in its tags: `allowVirtualNetworkAccess`
/// on this side (A9).
pub fn open_peers(net: &Net, vnet: VnetIx) -> impl Iterator<Item = Peer<'_>> {
    peers(net, vnet).filter(|p| p.near.allow_access)
}

/// `vnet` itself or one of its open peers.
pub fn is_near(net: &Net, vnet: VnetIx, other: VnetIx) -> bool {
    vnet == other || open_peers(net, vnet).any(|p| p.vnet == other)
}

/// On-premises prefixes known in `vnet`: by its own gateway, or a peer's where
/// `useRemoteGateways` meets `allowGatewayTransit` (A12).
pub fn gateway_prefixes(net: &Net, vnet: VnetIx) -> impl Iterator<Item = IpNet> + '_ {
    let own = net.vnet(vnet).gateway_prefixes.iter();
    let remote = peers(net, vnet)
        .filter(|p| p.near.use_remote_gateways && p.far.allow_gateway_transit)
        .flat_map(|p| net.vnet(p.vnet).gateway_prefixes.iter());
    own.chain(remote).copied()
}

/// Own space, open peers and gateway space: what `VirtualNetwork` has beyond user routes, and what
/// `Internet` leaves out.
fn connected_space(net: &Net, vnet: VnetIx) -> impl Iterator<Item = IpNet> + '_ {
    let own = net.vnet(vnet).prefixes.iter().copied();
    let peered = open_peers(net, vnet).flat_map(|p| net.vnet(p.vnet).prefixes.iter().copied());
    own.chain(peered).chain(gateway_prefixes(net, vnet))
}

/// Explicit prefixes in the route table of `subnet`; tag routes do not count (A10).
fn user_route_prefixes(net: &Net, subnet: SubnetIx) -> impl Iterator<Item = IpNet> + '_ {
    let table = net.subnet(subnet).route_table.and_then(|t| net.route_tables.get(t.at()));
    table.into_iter().flat_map(|t| &t.routes).filter_map(|r| match r.prefix {
        RoutePrefix::Prefix(p) => Some(p),
        RoutePrefix::Tag(_) => None,
    })
}

/// Prefixes of a tag of the tag file; `None` if this network does not know it.
pub fn service_tag<'a>(net: &'a Net, name: &str) -> Option<&'a [IpNet]> {
    let exact = net.tags.get(name);
    let found = exact.or_else(|| {
        let loose = !net.semantics.tag_names_case_sensitive;
        net.tags.iter().find(|(k, _)| loose && k.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    });
    found.map(Vec::as_slice)
}

/// Addresses of the members of `asg` in the VNet of `subnet` (A7).
fn members(net: &Net, subnet: SubnetIx, asg: AsgIx) -> impl Iterator<Item = IpAddr> + '_ {
    let vnet = net.subnet(subnet).vnet;
    net.nics
        .iter()
        .flat_map(|n| &n.ip_configs)
        .filter(move |c| c.asgs.contains(&asg) && net.subnet(c.subnet).vnet == vnet)
        .map(|c| c.address)
}

/// Whether `address` is meant by `what` in a rule that works at `subnet`.
pub fn matches(net: &Net, subnet: SubnetIx, what: &AddressMatch, address: IpAddr) -> bool {
    let name = match what {
        AddressMatch::Any => return true,
        AddressMatch::Prefix(p) => return p.contains(&address),
        AddressMatch::Asg(asg) => return members(net, subnet, *asg).any(|m| m == address),
        AddressMatch::Tag(name) => name,
    };
    let vnet = net.subnet(subnet).vnet;
    match DynamicTag::parse(name, net.semantics.tag_names_case_sensitive) {
        Some(DynamicTag::VirtualNetwork) => {
            address == HOST_ADDRESS
                || connected_space(net, vnet).any(|p| p.contains(&address))
                || user_route_prefixes(net, subnet).any(|p| p.contains(&address))
        }
        Some(DynamicTag::Internet) => {
            is_public(address) && address != HOST_ADDRESS && !connected_space(net, vnet).any(|p| p.contains(&address))
        }
        Some(DynamicTag::AzureLoadBalancer | DynamicTag::AzurePlatformDns) => address == HOST_ADDRESS,
        Some(DynamicTag::AzurePlatformImds) => address == IMDS_ADDRESS,
        None => service_tag(net, name).is_some_and(|ps| ps.iter().any(|p| p.contains(&address))),
    }
}

/// Every address meant by `what` in a rule that works at `subnet`. A tag this network does not
/// know means no address; lowering has reported it.
pub fn resolve(net: &Net, subnet: SubnetIx, what: &AddressMatch) -> IpSet {
    let name = match what {
        AddressMatch::Any => return IpSet::full(),
        AddressMatch::Prefix(p) => return [*p].into_iter().collect(),
        AddressMatch::Asg(asg) => return members(net, subnet, *asg).map(IpNet::from).collect(),
        AddressMatch::Tag(name) => name,
    };
    let vnet = net.subnet(subnet).vnet;
    let host = IpNet::from(IpAddr::V4(HOST_ADDRESS));
    match DynamicTag::parse(name, net.semantics.tag_names_case_sensitive) {
        Some(DynamicTag::VirtualNetwork) => {
            connected_space(net, vnet).chain(user_route_prefixes(net, subnet)).chain([host]).collect()
        }
        Some(DynamicTag::Internet) => {
            let private: IpSet = NON_PUBLIC_V4.iter().map(|p| IpNet::V4(*p)).collect();
            let public = IpSet { v4: private.v4.complement(), v6: IpSet::from(PUBLIC_V6).v6 };
            public.difference(&connected_space(net, vnet).chain([host]).collect())
        }
        Some(DynamicTag::AzureLoadBalancer | DynamicTag::AzurePlatformDns) => [host].into_iter().collect(),
        Some(DynamicTag::AzurePlatformImds) => [IpNet::from(IpAddr::V4(IMDS_ADDRESS))].into_iter().collect(),
        None => service_tag(net, name).unwrap_or_default().iter().collect(),
    }
}

/// The set meant by a list of alternatives.
pub fn resolve_all(net: &Net, subnet: SubnetIx, list: &[AddressMatch]) -> IpSet {
    let mut all = IpSet::default();
    for what in list {
        all = all.union(&resolve(net, subnet, what));
    }
    all
}

/// The NIC (and the position of its IP configuration) that holds `address` in `vnet` or a VNet it
/// openly peers with.
pub fn find_nic(net: &Net, vnet: VnetIx, address: IpAddr) -> Option<(NicIx, u32)> {
    net.nics().find_map(|(ix, nic)| {
        let held = |c: &IpConfig| c.address == address && is_near(net, vnet, net.subnet(c.subnet).vnet);
        let at = nic.ip_configs.iter().position(held)?;
        Some((ix, u32::try_from(at).ok()?))
    })
}

/// The IP configuration at `position`, or the primary one.
pub fn ip_config(nic: &Nic, position: u32) -> Option<&IpConfig> {
    nic.ip_configs.get(position as usize).or_else(|| nic.ip_configs.first())
}

/// Whether `address` lies in the space of `vnet`.
pub fn in_space(vnet: &Vnet, address: IpAddr) -> bool {
    vnet.prefixes.iter().any(|p| p.contains(&address))
}
