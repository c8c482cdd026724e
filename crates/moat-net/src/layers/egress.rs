//! The way out to the internet, and the source address the other side sees (9.1): NAT gateway,
//! instance public IP, load balancer, default outbound, in this order.
//!
//! NAT gateways and balancers translate TCP and UDP only (9.2). A packet for one of this network's
//! own public addresses comes back in, with its translated source.

use std::net::{IpAddr, Ipv4Addr};

use crate::address::is_public;
use crate::ir::{Net, PublicIpIx, SubnetIx, VnetIx};
use crate::layers::balance::{self, WayOut};
use crate::layers::forward::Sender;
use crate::layers::ingress;
use crate::trace::{End, Hop, Stage, Translation, Verdict, Walk};

/// The address the platform lends a VNet whose NICs have no explicit way out (9.3). Azure's is
/// Microsoft-owned and changes; ours is from the benchmarking block 198.18.0.0/15, one a VNet, so
/// that nobody mistakes it for a real one.
pub fn default_address(vnet: VnetIx) -> Ipv4Addr {
    // 2^17 addresses and never more VNets in one network; wrapping keeps the function total.
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() | ((vnet.0 + 1) & 0x1_ffff))
}

/// How a packet leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// By what.
    pub by: Translation,
    /// Document id of the NAT gateway, public IP or balancer.
    pub id: Option<String>,
    /// The source the other side sees, once an address is allocated.
    pub source: Option<IpAddr>,
}

/// The way out of one IP configuration for a protocol with (`ports`) or without ports; `None`: it
/// has no way out.
pub fn exit(net: &Net, nic: crate::ir::NicIx, config: usize, ports: bool) -> Option<Exit> {
    let config_ix = u32::try_from(config).ok()?;
    let config = net.nics.get(nic.at())?.ip_configs.get(config)?;
    let address = |ip: PublicIpIx| net.public_ips.get(ip.at()).and_then(|p| p.address);
    let gateway = nat_gateway(net, config.subnet);
    if let Some((gateway, ip)) = gateway
        && ports
    {
        return Some(Exit { by: Translation::NatGateway, id: Some(gateway.to_owned()), source: address(ip) });
    }
    if let Some(ip) = config.public_ip {
        let id = net.public_ips.get(ip.at()).map(|p| p.id.clone());
        return Some(Exit { by: Translation::PublicIp, id, source: address(ip) });
    }
    match balance::way_out(net, (nic, config_ix)) {
        WayOut::Frontend(balancer, frontend) if ports => {
            let ip = balancer.frontends.get(frontend as usize).and_then(|f| f.public_ip);
            let id = Some(balancer.id.clone());
            Some(Exit { by: Translation::LoadBalancerOutbound, id, source: ip.and_then(address) })
        }
        WayOut::Frontend(..) | WayOut::Barred => None,
        WayOut::Free if gateway.is_some() => None,
        WayOut::Free => {
            let subnet = net.subnet(config.subnet);
            let lent = net.default_outbound.get(&net.vnet(subnet.vnet).id.to_lowercase());
            let source = Some(IpAddr::V4(lent.copied().unwrap_or_else(|| default_address(subnet.vnet))));
            subnet.default_outbound.then_some(Exit { by: Translation::DefaultOutbound, id: None, source })
        }
    }
}

/// The NAT gateway of `subnet`, if it has an address.
fn nat_gateway(net: &Net, subnet: SubnetIx) -> Option<(&str, PublicIpIx)> {
    let gateway = net.nat_gateways.get(net.subnet(subnet).nat_gateway?.at())?;
    Some((&gateway.id, *gateway.public_ips.first()?))
}

/// Leaves for the internet.
pub(crate) fn leave(walk: &mut Walk<'_>, sender: Sender) -> End {
    if !is_public(walk.flow.destination) {
        return End(Verdict::Drop, Stage::NotPublic);
    }
    let net = walk.net;
    let own = net.nic(sender.nic).ip_configs.get(sender.config).is_some_and(|c| c.address == walk.flow.source);
    if !own {
        // Nobody translates a source that is not the NIC's: an appliance has to do it itself (5.8).
        return End(Verdict::Drop, Stage::SpoofedSource);
    }
    let Some(exit) = exit(net, sender.nic, sender.config, walk.flow.protocol.has_ports()) else {
        return End(Verdict::Drop, Stage::NoOutbound);
    };
    if let Some(source) = exit.source.filter(|s| s.is_ipv4() == walk.flow.source.is_ipv4()) {
        walk.hops.push(Hop::Translate { by: exit.by, name: exit.id, from: walk.flow.source, to: source, port: None });
        walk.flow.source = source;
    }
    match ingress::owner(net, walk.flow.destination) {
        None => End(Verdict::Allow, Stage::Internet),
        Some(owner) => ingress::enter(walk, owner),
    }
}
