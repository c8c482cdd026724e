//! The four places an NSG can act (A19): outbound at NIC then subnet, inbound at subnet then NIC,
//! also between two NICs of one subnet (2.7). No NSG at a place: that place allows.

use crate::ir::{Access, Direction, NicIx, NsgIx, SubnetIx};
use crate::nsg;
use crate::trace::{End, Hop, Stage, Verdict, Walk};

/// Asks one list; `Some(stage)` if it denied.
pub(crate) fn ask(
    walk: &mut Walk<'_>,
    list: Option<NsgIx>,
    direction: Direction,
    subnet: SubnetIx,
    stage: Stage,
) -> Option<Stage> {
    let net = walk.net;
    let list = net.nsgs.get(list?.at())?;
    let (access, rule) = nsg::decide(net, list, direction, subnet, &walk.flow);
    walk.list(stage, &list.id, rule, access);
    (access == Access::Deny).then_some(stage)
}

/// Lists a packet meets on its way out of `nic`; `Some(stage)` where it was denied.
pub(crate) fn outbound(walk: &mut Walk<'_>, nic: NicIx, subnet: SubnetIx) -> Option<Stage> {
    let net = walk.net;
    ask(walk, net.nic(nic).nsg, Direction::Outbound, subnet, Stage::OutNic)
        .or_else(|| ask(walk, net.subnet(subnet).nsg, Direction::Outbound, subnet, Stage::OutSubnet))
}

/// Lists a packet meets on its way in to `nic`; `Some(stage)` where it was denied.
pub(crate) fn inbound(walk: &mut Walk<'_>, nic: NicIx, subnet: SubnetIx) -> Option<Stage> {
    let net = walk.net;
    ask(walk, net.subnet(subnet).nsg, Direction::Inbound, subnet, Stage::InSubnet)
        .or_else(|| ask(walk, net.nic(nic).nsg, Direction::Inbound, subnet, Stage::InNic))
}

/// The inbound lists, then the NIC itself.
pub(crate) fn deliver(walk: &mut Walk<'_>, nic: NicIx, subnet: SubnetIx, reached: Stage) -> End {
    if let Some(stage) = inbound(walk, nic, subnet) {
        return End(Verdict::Deny, stage);
    }
    walk.arrived = Some(nic);
    walk.hops.push(Hop::Arrive { id: walk.net.nic(nic).id.clone() });
    End(Verdict::Allow, reached)
}
