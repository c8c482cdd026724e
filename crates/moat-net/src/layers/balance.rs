//! Load balancers: which NIC a front end's packet goes to.
//!
//! The backend is chosen by a hash that Azure does not publish, so the model follows every
//! backend: the trace is for the first, the others are its `alternatives`. Only TCP and UDP are
//! balanced. Health is not modelled: every member counts as up.

use std::net::IpAddr;

use crate::address::{self, is_near};
use crate::ir::{Backend, IpConfig, LoadBalancer, Net, NicIx, Sku, SubnetIx, VnetIx};
use crate::layers::security;
use crate::packet::Flow;
use crate::trace::{End, Hop, Stage, Translation, Verdict, Walk};

/// A front end that has an address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Front<'n> {
    pub(crate) balancer: &'n LoadBalancer,
    pub(crate) frontend: u32,
    /// The VNet of an internal front end; unused for a public one.
    pub(crate) vnet: VnetIx,
}

/// The rule a front end has for a packet.
pub(crate) struct Choice<'n> {
    by: Translation,
    name: &'n str,
    backends: Vec<Backend>,
    /// Destination port at the backend; `None` leaves it.
    port: Option<u16>,
}

/// The rule of `front` that takes `flow`: inbound NAT rules first, then balancing rules.
pub(crate) fn choose<'n>(front: Front<'n>, flow: &Flow) -> Option<Choice<'n>> {
    if !flow.protocol.has_ports() {
        return None;
    }
    let nat = front.balancer.nat_rules.iter().find(|r| {
        r.frontend == front.frontend && r.protocol == flow.protocol && r.frontend_port == flow.destination_port
    });
    if let Some(rule) = nat {
        return Some(Choice {
            by: Translation::InboundNatRule,
            name: &rule.name,
            backends: rule.backend.into_iter().collect(),
            port: Some(rule.backend_port),
        });
    }
    let rule = front.balancer.rules.iter().find(|r| {
        r.frontend == front.frontend
            && r.protocol.is_none_or(|p| p == flow.protocol && r.frontend_port == flow.destination_port)
    })?;
    Some(Choice {
        by: Translation::BalancingRule,
        name: &rule.name,
        backends: rule.backends.clone(),
        port: rule.protocol.map(|_| rule.backend_port),
    })
}

/// The IP configuration of a backend.
pub(crate) fn backend_config(net: &Net, (nic, at): Backend) -> Option<&IpConfig> {
    net.nics.get(nic.at()).and_then(|n| address::ip_config(n, at))
}

/// Translates the destination to a backend of `choice` and goes on with `then`, for each backend.
pub(crate) fn spread<'n>(
    walk: &mut Walk<'n>,
    choice: &Choice<'_>,
    nobody: Stage,
    then: impl Fn(&mut Walk<'n>, NicIx, SubnetIx) -> End,
) -> End {
    let before = walk.fork();
    let mut result = None;
    for &backend in &choice.backends {
        let Some(config) = backend_config(before.net, backend) else { continue };
        let mut other = before.fork();
        let here = if result.is_none() { &mut *walk } else { &mut other };
        here.hops.push(Hop::Translate {
            by: choice.by,
            name: Some(choice.name.to_owned()),
            from: here.flow.destination,
            to: config.address,
            port: choice.port.filter(|p| *p != here.flow.destination_port),
        });
        here.flow.destination = config.address;
        here.flow.destination_port = choice.port.unwrap_or(here.flow.destination_port);
        let end = then(here, backend.0, config.subnet);
        if result.is_none() {
            result = Some(end);
        } else {
            let alternative = other.finish(end);
            walk.alternatives.push(alternative);
        }
    }
    result.unwrap_or(End(Verdict::Drop, nobody))
}

/// The internal front end at `address`, as seen from `vnet`.
pub(crate) fn internal_frontend(net: &Net, vnet: VnetIx, address: IpAddr) -> Option<Front<'_>> {
    net.load_balancers.iter().find_map(|balancer| {
        balancer.frontends.iter().zip(0..).find_map(|(f, frontend)| {
            let (_, subnet) = f.private.filter(|(a, _)| *a == address)?;
            let home = net.subnet(subnet).vnet;
            is_near(net, vnet, home).then_some(Front { balancer, frontend, vnet: home })
        })
    })
}

/// A packet for an internal front end.
pub(crate) fn internal<'n>(walk: &mut Walk<'n>, front: Front<'n>) -> End {
    let Some(choice) = choose(front, &walk.flow) else { return End(Verdict::Drop, Stage::NoSuchHost) };
    spread(walk, &choice, Stage::NoSuchHost, |walk, nic, subnet| security::deliver(walk, nic, subnet, Stage::Delivered))
}

/// The forwarding NIC behind an internal front end that takes all ports: a user route may name
/// such a front end as its appliance (5.7).
pub(crate) fn appliance_behind(walk: &Walk<'_>, vnet: VnetIx, address: IpAddr) -> Option<Backend> {
    let front = internal_frontend(walk.net, vnet, address)?;
    let rule = front.balancer.rules.iter().find(|r| r.frontend == front.frontend && r.protocol.is_none())?;
    rule.backends.first().copied()
}

/// What a balancer does for packets that leave `backend` for the internet.
pub(crate) enum WayOut<'n> {
    /// Source becomes the address of this front end.
    Frontend(&'n LoadBalancer, u32),
    /// It is in a Standard balancer that gives no way out, and so has no default one either (9.4).
    Barred,
    /// No balancer has a say.
    Free,
}

/// The way out a balancer gives: outbound rules first, then a public front end of a rule that does
/// not switch it off.
pub(crate) fn way_out(net: &Net, backend: Backend) -> WayOut<'_> {
    let public = |b: &LoadBalancer, f: u32| b.frontends.get(f as usize).is_some_and(|f| f.public_ip.is_some());
    for balancer in &net.load_balancers {
        let rule = balancer.outbound_rules.iter().find(|r| r.backends.contains(&backend));
        if let Some(&frontend) = rule.and_then(|r| r.frontends.iter().find(|f| public(balancer, **f))) {
            return WayOut::Frontend(balancer, frontend);
        }
    }
    let mut barred = false;
    for balancer in &net.load_balancers {
        let balanced = balancer.rules.iter().filter(|r| r.backends.contains(&backend));
        let natted = balancer.nat_rules.iter().filter(|r| r.backend == Some(backend));
        let members =
            balanced.map(|r| (r.frontend, !r.disable_outbound_snat)).chain(natted.map(|r| (r.frontend, true)));
        for (frontend, translates) in members {
            if translates && public(balancer, frontend) {
                return WayOut::Frontend(balancer, frontend);
            }
            barred |= balancer.sku == Sku::Standard;
        }
    }
    if barred { WayOut::Barred } else { WayOut::Free }
}
