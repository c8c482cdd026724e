//! Platform traffic. Outbound to 168.63.129.16 and 169.254.169.254 is outside NSGs and routes
//! unless a rule names the platform tag (A8; the match is in [`crate::nsg::decide`]). Inbound from
//! 168.63.129.16, the health probe meets the NIC's lists like any packet; replies need no route.

use crate::ir::NicIx;
use crate::layers::{config_of, security};
use crate::trace::{End, Hop, Stage, Verdict, Walk};

/// A health probe.
pub(crate) fn probe(walk: &mut Walk<'_>, nic: NicIx) -> End {
    let net = walk.net;
    walk.hops.push(Hop::Platform);
    walk.next_hop = Some(("Platform".to_owned(), None, "Platform".to_owned()));
    let Some(at) = config_of(net, nic, walk.flow.destination) else {
        return End(Verdict::Drop, Stage::NoSuchHost);
    };
    security::deliver(walk, nic, net.nic(nic).ip_configs[at].subnet, Stage::Delivered)
}
