//! The route of the current subnet decides where a packet goes on.

use crate::address;
use crate::ir::{NicIx, SubnetIx};
use crate::layers::{appliance, egress, private};
use crate::routes::{self, HopKind};
use crate::trace::{End, Stage, Verdict, Walk};

/// Who sent the packet first, and whether somebody else has passed it on since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender {
    /// The NIC it came from.
    pub(crate) nic: NicIx,
    /// Position of the IP configuration.
    pub(crate) config: usize,
    /// The packet's source is not the sender's own, or a firewall sent it on (A23).
    pub(crate) forwarded: bool,
}

/// Sends the packet on from `subnet`, through at most four firewalls (A22).
pub(crate) fn forward(walk: &mut Walk<'_>, mut sender: Sender, mut subnet: SubnetIx) -> End {
    const MAX_APPLIANCES: usize = 4;
    let net = walk.net;
    for passed in 0.. {
        let vnet = net.subnet(subnet).vnet;
        let route = routes::lookup(net, subnet, walk.flow.destination);
        walk.route(subnet, &route, false);
        return match route.kind {
            HopKind::None => End(Verdict::Drop, Stage::RouteNone),
            HopKind::VnetLocal | HopKind::VNetPeering | HopKind::InterfaceEndpoint => {
                private::deliver(walk, vnet, sender.forwarded)
            }
            HopKind::VirtualNetworkServiceEndpoint => End(Verdict::Allow, Stage::ServiceEndpoint),
            HopKind::Internet => egress::leave(walk, sender),
            HopKind::VirtualNetworkGateway => {
                let known = address::gateway_prefixes(net, vnet).any(|p| p.contains(&walk.flow.destination));
                if known { End(Verdict::Allow, Stage::OnPremises) } else { End(Verdict::Drop, Stage::GatewayUnknown) }
            }
            HopKind::VirtualAppliance if passed >= MAX_APPLIANCES => End(Verdict::Drop, Stage::Loop),
            HopKind::VirtualAppliance => match appliance::pass(walk, vnet, route.address) {
                appliance::Pass::On(next) => {
                    subnet = next;
                    sender.forwarded = true;
                    continue;
                }
                appliance::Pass::End(end) => end,
            },
        };
    }
    End(Verdict::Drop, Stage::Loop)
}
