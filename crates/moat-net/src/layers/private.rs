//! Delivery to a private address: a NIC, a private endpoint or an internal balancer's front end,
//! in this VNet or one it openly peers with.

use crate::address::{self, is_near};
use crate::ir::{Direction, PrivateEndpoint, VnetIx};
use crate::layers::{balance, security};
use crate::trace::{End, Hop, Stage, Verdict, Walk};

/// Delivers from `vnet`. A packet that was passed on enters another VNet only if that one's
/// peering takes forwarded traffic (A23).
pub(crate) fn deliver(walk: &mut Walk<'_>, vnet: VnetIx, forwarded: bool) -> End {
    let net = walk.net;
    let to = walk.flow.destination;
    let barred = |target: VnetIx| {
        let willing = address::peers(net, vnet).any(|p| p.vnet == target && p.far.allow_forwarded);
        forwarded && target != vnet && !willing
    };
    if let Some((nic, at)) = address::find_nic(net, vnet, to) {
        let Some(config) = address::ip_config(net.nic(nic), at) else {
            return End(Verdict::Drop, Stage::NoSuchHost);
        };
        if barred(net.subnet(config.subnet).vnet) {
            return End(Verdict::Drop, Stage::ForwardedTraffic);
        }
        return security::deliver(walk, nic, config.subnet, Stage::Delivered);
    }
    let endpoint = net
        .private_endpoints
        .iter()
        .find(|e| e.addresses.contains(&to) && is_near(net, vnet, net.subnet(e.subnet).vnet));
    if let Some(endpoint) = endpoint {
        if barred(net.subnet(endpoint.subnet).vnet) {
            return End(Verdict::Drop, Stage::ForwardedTraffic);
        }
        return to_endpoint(walk, endpoint);
    }
    if let Some(front) = balance::internal_frontend(net, vnet, to) {
        if barred(front.vnet) {
            return End(Verdict::Drop, Stage::ForwardedTraffic);
        }
        return balance::internal(walk, front);
    }
    End(Verdict::Drop, Stage::NoSuchHost)
}

/// A private endpoint obeys its subnet's NSG only if the subnet says so (A18), and passes packets
/// only while approved (8.2).
fn to_endpoint(walk: &mut Walk<'_>, endpoint: &PrivateEndpoint) -> End {
    let home = walk.net.subnet(endpoint.subnet);
    if home.endpoint_nsg_policy
        && let Some(stage) = security::ask(walk, home.nsg, Direction::Inbound, endpoint.subnet, Stage::InSubnet)
    {
        return End(Verdict::Deny, stage);
    }
    if !endpoint.approved {
        return End(Verdict::Drop, Stage::NoSuchHost);
    }
    walk.hops.push(Hop::Arrive { id: endpoint.id.clone() });
    End(Verdict::Allow, Stage::Delivered)
}
