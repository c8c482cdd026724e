//! Next hop VirtualAppliance: an Azure Firewall, a NIC with IP forwarding, or an internal balancer
//! in front of such NICs; in the same or an openly peered VNet, else the packet is lost (A21).

use std::net::IpAddr;

use crate::address;
use crate::ir::{Access, Firewall, PortRange, SubnetIx, VnetIx};
use crate::layers::{balance, security};
use crate::packet::Flow;
use crate::trace::{End, Stage, Verdict, Walk};

/// What became of the packet at the appliance.
pub(crate) enum Pass {
    /// Sent on; the routes of this subnet are next.
    On(SubnetIx),
    /// It ended here.
    End(End),
}

/// Hands the packet to the appliance at `address`.
pub(crate) fn pass(walk: &mut Walk<'_>, vnet: VnetIx, address: Option<IpAddr>) -> Pass {
    const DEAD: Pass = Pass::End(End(Verdict::Drop, Stage::DeadNextHop));
    let net = walk.net;
    let Some(address) = address else { return DEAD };
    let firewall =
        net.firewalls.iter().find(|f| f.address == address && address::is_near(net, vnet, net.subnet(f.subnet).vnet));
    if let Some(firewall) = firewall {
        let (access, rule) = decide(walk, firewall);
        walk.list(Stage::Firewall, &firewall.id, rule, access);
        return match access {
            Access::Deny => Pass::End(End(Verdict::Deny, Stage::Firewall)),
            Access::Allow => Pass::On(firewall.subnet),
        };
    }
    let nic = address::find_nic(net, vnet, address).or_else(|| balance::appliance_behind(walk, vnet, address));
    let Some((nic, at)) = nic else { return DEAD };
    let Some(config) = address::ip_config(net.nic(nic), at).filter(|_| net.nic(nic).ip_forwarding) else {
        return DEAD;
    };
    // Its own lists see the original packet; after it the walk ends (A21).
    Pass::End(security::deliver(walk, nic, config.subnet, Stage::ToAppliance))
}

/// Network rules (A22): collections by priority, rules as listed, first match, else deny.
fn decide<'n>(walk: &Walk<'n>, firewall: &'n Firewall) -> (Access, &'n str) {
    let net = walk.net;
    let Flow { source, destination, protocol, destination_port, .. } = walk.flow;
    let mut collections: Vec<_> = firewall.collections.iter().collect();
    collections.sort_by_key(|c| c.priority);
    let rules = collections.into_iter().flat_map(|c| c.rules.iter().map(move |r| (c.access, r)));
    for (access, rule) in rules {
        let port = if protocol.has_ports() {
            rule.destination_ports.iter().any(|r| r.first <= destination_port && destination_port <= r.last)
        } else {
            rule.destination_ports.contains(&PortRange::ALL)
        };
        let any_of = |list: &[_], a| list.iter().any(|m| address::matches(net, firewall.subnet, m, a));
        if (rule.protocols.is_empty() || rule.protocols.contains(&protocol))
            && port
            && any_of(&rule.sources, source)
            && any_of(&rule.destinations, destination)
        {
            return (access, &rule.name);
        }
    }
    (Access::Deny, "(implicit deny)")
}
