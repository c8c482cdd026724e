//! In from the internet: from a public address to a NIC, its lists, and the way back (A20, 2.9).

use std::net::IpAddr;

use crate::ir::{Net, NicIx, PublicIp, Sku, SubnetIx};
use crate::layers::balance::{self, Front};
use crate::layers::{config_of, security};
use crate::routes::{self, HopKind};
use crate::trace::{End, Hop, Stage, Translation, Verdict, Walk};

/// What stands behind one of this network's public addresses.
pub(crate) enum Owner<'n> {
    /// An IP configuration of a NIC.
    Nic(&'n PublicIp, NicIx, usize),
    /// A front end of a balancer.
    Front(Front<'n>),
    /// Nothing that takes packets in: a NAT gateway, or not associated.
    Nothing,
}

/// What stands behind `address`; `None` if it is no public address of this network.
pub(crate) fn owner(net: &Net, address: IpAddr) -> Option<Owner<'_>> {
    let (at, ip) = net.public_ips.iter().zip(0u32..).find(|(p, _)| p.address == Some(address)).map(|(p, i)| (i, p))?;
    for (nic, n) in net.nics() {
        if let Some(config) = n.ip_configs.iter().position(|c| c.public_ip.is_some_and(|p| p.0 == at)) {
            return Some(Owner::Nic(ip, nic, config));
        }
    }
    for balancer in &net.load_balancers {
        for (f, frontend) in balancer.frontends.iter().zip(0..) {
            if f.public_ip.is_some_and(|p| p.0 == at) {
                // A public front end has no VNet of its own; the field is not read for it.
                return Some(Owner::Front(Front { balancer, frontend, vnet: crate::ir::VnetIx(0) }));
            }
        }
    }
    Some(Owner::Nothing)
}

/// A packet to a public address of this network, its source already public.
pub(crate) fn enter<'n>(walk: &mut Walk<'n>, owner: Owner<'n>) -> End {
    match owner {
        Owner::Nic(ip, nic, at) => {
            let config = &walk.net.nic(nic).ip_configs[at];
            walk.hops.push(Hop::Translate {
                by: Translation::PublicIp,
                name: Some(ip.id.clone()),
                from: walk.flow.destination,
                to: config.address,
                port: None,
            });
            walk.flow.destination = config.address;
            arrive(walk, nic, config.subnet, ip.sku)
        }
        Owner::Front(front) => {
            let Some(choice) = balance::choose(front, &walk.flow) else {
                return End(Verdict::Drop, Stage::NoPublicIp);
            };
            let sku = front.balancer.sku;
            balance::spread(walk, &choice, Stage::NoPublicIp, |walk, nic, subnet| arrive(walk, nic, subnet, sku))
        }
        Owner::Nothing => End(Verdict::Drop, Stage::NoPublicIp),
    }
}

/// A packet from the internet to a public address.
pub(crate) fn from_internet(walk: &mut Walk<'_>) -> End {
    walk.hops.push(Hop::Internet);
    match owner(walk.net, walk.flow.destination) {
        Some(owner) => enter(walk, owner),
        None => End(Verdict::Drop, Stage::NoSuchHost),
    }
}

/// A packet from the internet whose destination is already the private address of `nic`.
pub(crate) fn to_nic(walk: &mut Walk<'_>, nic: NicIx) -> End {
    let net = walk.net;
    walk.hops.push(Hop::Internet);
    let Some(at) = config_of(net, nic, walk.flow.destination) else {
        return End(Verdict::Drop, Stage::NoSuchHost);
    };
    let config = &net.nic(nic).ip_configs[at];
    let Some(ip) = config.public_ip.and_then(|p| net.public_ips.get(p.at())) else {
        let back = routes::lookup(net, config.subnet, walk.flow.source);
        walk.route(config.subnet, &back, true);
        return End(Verdict::Drop, Stage::NoPublicIp);
    };
    arrive(walk, nic, config.subnet, ip.sku)
}

/// The inbound lists, then the way back. Through a Standard address or balancer nothing comes in
/// where no NSG says so (2.10).
fn arrive(walk: &mut Walk<'_>, nic: NicIx, subnet: SubnetIx, sku: Sku) -> End {
    let net = walk.net;
    let back = routes::lookup(net, subnet, walk.flow.source);
    walk.route(subnet, &back, true);
    let unguarded = net.subnet(subnet).nsg.is_none() && net.nic(nic).nsg.is_none();
    if net.semantics.closed_by_default && sku == Sku::Standard && unguarded {
        return End(Verdict::Drop, Stage::ClosedByDefault);
    }
    if let Some(stage) = security::inbound(walk, nic, subnet) {
        return End(Verdict::Deny, stage);
    }
    if back.kind != HopKind::Internet {
        return End(Verdict::Drop, Stage::ReturnRoute);
    }
    walk.arrived = Some(nic);
    walk.hops.push(Hop::Arrive { id: net.nic(nic).id.clone() });
    End(Verdict::Allow, Stage::Delivered)
}
