//! The layers a packet meets, one file each, in order.
//!
//! Out: [`platform`] short-cut, [`security`] (NIC then subnet), [`forward`] (the route decides),
//! then one of [`private`], [`appliance`], [`egress`]. In from outside: [`ingress`] (public address
//! or front end to NIC, by [`balance`]), [`security`] (subnet then NIC).

mod appliance;
mod balance;
pub mod egress;
mod forward;
pub(crate) mod ingress;
pub(crate) mod platform;
mod private;
pub(crate) mod security;

use std::net::IpAddr;

use crate::address::DynamicTag;
use crate::ir::{Net, NicIx};
use crate::routes;
use crate::trace::{End, Hop, Stage, Verdict, Walk};

/// The IP configuration of `nic` with `address`, else its primary one.
pub(crate) fn config_of(net: &Net, nic: NicIx, address: IpAddr) -> Option<usize> {
    let configs = &net.nics.get(nic.at())?.ip_configs;
    let own = configs.iter().position(|c| c.address == address);
    own.or((!configs.is_empty()).then_some(0))
}

/// A packet that leaves a NIC.
///
/// A NIC may send only from its own addresses, unless it forwards; then the packet is somebody
/// else's and counts as forwarded traffic.
pub(crate) fn from_nic(walk: &mut Walk<'_>, nic: NicIx) -> End {
    let net = walk.net;
    let Some(at) = config_of(net, nic, walk.flow.source) else {
        return End(Verdict::Drop, Stage::NoSuchHost);
    };
    let config = &net.nic(nic).ip_configs[at];
    walk.hops.push(Hop::Nic { id: net.nic(nic).id.clone() });
    let forwarded = config.address != walk.flow.source;
    if forwarded && !net.nic(nic).ip_forwarding {
        return End(Verdict::Drop, Stage::SpoofedSource);
    }
    let to_platform = DynamicTag::of_platform(walk.flow.destination).is_some();
    let route = routes::lookup(net, config.subnet, walk.flow.destination);
    if to_platform {
        walk.next_hop = Some(("Platform".to_owned(), None, "Platform".to_owned()));
    } else {
        // The route is known before the lists are asked, but taken only after them.
        walk.next_hop = Some((route.kind.as_str().to_owned(), route.address, route.to_string()));
    }
    if let Some(stage) = security::outbound(walk, nic, config.subnet) {
        return End(Verdict::Deny, stage);
    }
    if to_platform {
        return End(Verdict::Allow, Stage::Platform);
    }
    let sender = forward::Sender { nic, config: at, forwarded };
    forward::forward(walk, sender, config.subnet)
}
