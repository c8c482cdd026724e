//! Whether what was heard of a packet is what the model says. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use moat_host::layout::{Level, RuleRef};
use moat_net::generate::Case;
use moat_net::ir::{Direction, NicIx};
use moat_net::trace::{Stage, Trace};

/// Where a packet can be heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A NIC.
    Nic(NicIx),
    /// Anywhere on the internet.
    Internet,
}

/// What was heard of a packet.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// The socket that took it, and the source it saw.
    pub(super) arrived: Option<(Place, Ipv4Addr)>,
    /// An answer came back.
    pub(super) answered: bool,
    /// NICs on whose link it was seen, taken or passed on, and with which source and destination.
    pub(super) seen: BTreeSet<(NicIx, Ipv4Addr, Ipv4Addr)>,
    /// The rule that the firewall's log names.
    pub(super) dropped: Option<RuleRef>,
}

/// `None` if it is what the model says, else what happened instead.
///
/// `unguarded` is how the packet would end if no rule list were asked.
pub(super) fn disagreement(case: &Case, unguarded: Stage, heard: &Heard) -> Option<String> {
    let trace = &case.trace;
    let on_link = |t: &Trace| {
        let same = |(nic, source, destination): &(NicIx, Ipv4Addr, Ipv4Addr)| {
            let ends = (IpAddr::V4(*source), IpAddr::V4(*destination));
            Some(*nic) == t.arrived && ends == (t.seen.source, t.seen.destination)
        };
        heard.seen.iter().any(same)
    };
    let arrived_right = || {
        std::iter::once(trace).chain(&trace.alternatives).any(|t| {
            let place = t.arrived.map_or(Place::Internet, Place::Nic);
            let taken = heard.arrived.is_some_and(|(at, source)| at == place && IpAddr::V4(source) == t.seen.source);
            // A TCP socket takes nothing while its answers get lost; the first packet is there all the same.
            taken || (!case.replies && on_link(t))
        })
    };
    let nothing = || heard.arrived.is_none() && heard.seen.is_empty() && !heard.answered;
    let agrees = match trace.stage {
        Stage::Delivered | Stage::Internet => arrived_right() && (heard.answered || !case.replies),
        // It is on the appliance's link; what the appliance does with it is its own business.
        Stage::ToAppliance => on_link(trace),
        // The packet itself may arrive: it is the answer that gets lost.
        Stage::ReturnRoute => !heard.answered,
        _ => nothing() && names(trace, unguarded, heard.dropped.as_ref()),
    };
    (!agrees).then(|| describe(heard))
}

/// Whether a second, longer look could change the finding: something expected was not heard.
pub(super) fn may_be_late(case: &Case, heard: &Heard) -> bool {
    let expected = matches!(case.trace.stage, Stage::Delivered | Stage::Internet | Stage::ToAppliance);
    let silent = heard.arrived.is_none() && !heard.answered && heard.seen.is_empty();
    let unanswered = case.replies && !heard.answered;
    if expected { (silent || unanswered) && heard.dropped.is_none() } else { silent && heard.dropped.is_none() }
}

/// Whether the log names what the model names. Routes drop in silence, and the kernel looks for a
/// route before it asks the sender's lists: what has none is not logged though a list denies it.
fn names(trace: &Trace, unguarded: Stage, dropped: Option<&RuleRef>) -> bool {
    let routeless = matches!(unguarded, Stage::RouteNone | Stage::NoSuchHost | Stage::DeadNextHop);
    if routeless && dropped.is_none() && matches!(trace.stage, Stage::OutNic | Stage::OutSubnet) {
        return true;
    }
    let fabric = |reason: &str| dropped.is_some_and(|d| d.level == Level::Fabric && d.rule == reason);
    let list = |level: Level, direction: Direction| {
        dropped.zip(trace.lists.last()).is_some_and(|(d, l)| {
            d.level == level && d.direction == direction && d.rule == l.rule && d.nsg.eq_ignore_ascii_case(&l.id)
        })
    };
    match trace.stage {
        Stage::OutNic => list(Level::Nic, Direction::Outbound),
        Stage::OutSubnet => list(Level::Subnet, Direction::Outbound),
        Stage::InSubnet => list(Level::Subnet, Direction::Inbound),
        Stage::InNic => list(Level::Nic, Direction::Inbound),
        Stage::ClosedByDefault => fabric("closed-by-default"),
        Stage::NoOutbound => fabric("no-outbound"),
        Stage::NotPublic => fabric("not-public"),
        Stage::ForwardedTraffic => fabric("forwarded-traffic"),
        Stage::SpoofedSource => fabric("spoofed-source") || fabric("foreign-source"),
        _ => dropped.is_none(),
    }
}

fn describe(heard: &Heard) -> String {
    let mut parts = Vec::new();
    match heard.arrived {
        Some((Place::Nic(nic), source)) => parts.push(format!("arrived at nic {} from {source}", nic.0)),
        Some((Place::Internet, source)) => parts.push(format!("arrived on the internet from {source}")),
        None => parts.push("arrived nowhere".to_owned()),
    }
    let seen: Vec<String> = heard.seen.iter().map(|(n, s, d)| format!("{} ({s} -> {d})", n.0)).collect();
    if !seen.is_empty() {
        parts.push(format!("seen on the links of nics {}", seen.join(" ")));
    }
    parts.push(if heard.answered { "answered" } else { "not answered" }.to_owned());
    if let Some(d) = &heard.dropped {
        let list = d.nsg.rsplit('/').next().unwrap_or_default();
        parts.push(format!("dropped by {list}/{} ({:?} at {:?})", d.rule, d.direction, d.level));
    }
    parts.join(", ")
}
