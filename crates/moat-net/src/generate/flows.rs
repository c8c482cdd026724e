//! Flows for a world, chosen so that every stage gets its share.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::rng::Rng;
use super::world::PORTS;
use crate::address;
use crate::ir::{AddressMatch, Net, NicIx, Protocol, RoutePrefix};
use crate::packet::Flow;
use crate::routes::{self, HopKind};
use crate::trace::{From, Stage, Trace, Verdict, trace};

/// A flow and what the model says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Where it sets out: a NIC or the internet.
    pub from: From,
    /// The packet.
    pub flow: Flow,
    /// The model's answer.
    pub trace: Trace,
    /// Whether an answer finds its way back by routes alone; if not, only delivery can be judged.
    pub replies: bool,
}

/// Smallest share, in percent, that each of these stages must decide.
const SHARES: [(Stage, u64); 17] = [
    (Stage::Delivered, 28),
    (Stage::Internet, 11),
    (Stage::ToAppliance, 5),
    (Stage::OutNic, 6),
    (Stage::OutSubnet, 6),
    (Stage::InSubnet, 6),
    (Stage::InNic, 6),
    (Stage::RouteNone, 6),
    (Stage::NoSuchHost, 6),
    (Stage::NoPublicIp, 6),
    (Stage::ReturnRoute, 6),
    (Stage::DeadNextHop, 2),
    (Stage::ClosedByDefault, 2),
    (Stage::NoOutbound, 2),
    (Stage::NotPublic, 1),
    (Stage::SpoofedSource, 1),
    (Stage::ForwardedTraffic, 0),
];

/// Chooses flows over many worlds and keeps count.
#[derive(Debug, Clone)]
pub struct Campaign {
    rng: Rng,
    /// How many flows ended at each stage so far.
    pub counts: BTreeMap<Stage, u64>,
    /// How many flows were allowed so far.
    pub allowed: u64,
    /// How many flows were chosen so far.
    pub total: u64,
}

impl Campaign {
    /// Starts counting.
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed ^ 0x6d6f_6174), counts: BTreeMap::new(), allowed: 0, total: 0 }
    }

    /// Up to `count` different flows for `net`. Each is the one of many candidates whose stage is
    /// furthest behind its share; a world may not be able to give a stage at all.
    pub fn flows(&mut self, net: &Net, count: usize) -> Vec<Case> {
        const CANDIDATES_PER_FLOW: usize = 24;
        let marks = Landmarks::of(net);
        let mut pool: BTreeMap<Stage, Vec<Case>> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..count * CANDIDATES_PER_FLOW {
            let Some((from, flow)) = candidate(&mut self.rng, net, &marks) else { continue };
            if !seen.insert((origin(from), flow)) {
                continue;
            }
            let trace = trace(net, from, flow);
            // Which backend a hash picks is not modelled: a flow must end alike at all of them.
            if trace.alternatives.iter().any(|a| (a.verdict, a.stage) != (trace.verdict, trace.stage)) {
                continue;
            }
            let replies = replies(net, &trace);
            pool.entry(trace.stage).or_default().push(Case { from, flow, trace, replies });
        }
        let mut chosen = Vec::with_capacity(count);
        while chosen.len() < count {
            let Some(case) = self.neediest(&pool).and_then(|s| pool.get_mut(&s)?.pop()) else { break };
            self.total += 1;
            self.allowed += u64::from(case.trace.verdict == Verdict::Allow);
            *self.counts.entry(case.trace.stage).or_default() += 1;
            chosen.push(case);
        }
        chosen
    }

    /// The stage in `pool` that is furthest behind its share.
    fn neediest(&self, pool: &BTreeMap<Stage, Vec<Case>>) -> Option<Stage> {
        let behind = |stage: Stage| {
            let share = SHARES.iter().find(|(s, _)| *s == stage).map_or(0, |(_, p)| *p);
            let have = self.counts.get(&stage).copied().unwrap_or(0);
            // Wanted minus had, in hundredths of a flow.
            i128::from(share * (self.total + 1)) - i128::from(have * 100)
        };
        pool.iter().filter(|(_, cases)| !cases.is_empty()).map(|(s, _)| *s).max_by_key(|s| behind(*s))
    }
}

fn origin(from: From) -> Option<NicIx> {
    match from {
        From::Nic(nic) | From::InternetTo(nic) | From::Probe(nic) => Some(nic),
        From::Internet => None,
    }
}

/// Whether an answer to an allowed packet finds its way back by routes alone: from the NIC it
/// reached, straight to the source it saw.
pub fn replies(net: &Net, trace: &Trace) -> bool {
    if trace.verdict != Verdict::Allow {
        return false;
    }
    let Some(nic) = trace.arrived else { return trace.stage == Stage::Internet };
    if trace.stage != Stage::Delivered {
        return false;
    }
    let Some(config) = net.nic(nic).ip_configs.iter().find(|c| c.address == trace.seen.destination) else {
        return false;
    };
    let back = routes::lookup(net, config.subnet, trace.seen.source).kind;
    match back {
        HopKind::Internet => address::is_public(trace.seen.source),
        HopKind::VnetLocal | HopKind::VNetPeering => {
            address::find_nic(net, net.subnet(config.subnet).vnet, trace.seen.source).is_some()
        }
        _ => false,
    }
}

/// Addresses and ports at which something changes.
struct Landmarks {
    private: Vec<Ipv4Addr>,
    public: Vec<Ipv4Addr>,
    own_public: Vec<Ipv4Addr>,
    ports: Vec<u16>,
}

impl Landmarks {
    fn of(net: &Net) -> Self {
        let mut prefixes: Vec<IpNet> = Vec::new();
        let mut ports: Vec<u16> = PORTS.to_vec();
        for rule in net.nsgs.iter().flat_map(|n| &n.rules) {
            for m in rule.sources.iter().chain(&rule.destinations) {
                match m {
                    AddressMatch::Prefix(p) => prefixes.push(*p),
                    AddressMatch::Tag(t) => prefixes.extend(address::service_tag(net, t).unwrap_or_default()),
                    AddressMatch::Any | AddressMatch::Asg(_) => {}
                }
            }
            for range in &rule.destination_ports {
                ports.extend([range.first.saturating_sub(1), range.first, range.last, range.last.saturating_add(1)]);
            }
        }
        for route in net.route_tables.iter().flat_map(|t| &t.routes) {
            match &route.prefix {
                RoutePrefix::Prefix(p) => prefixes.push(*p),
                RoutePrefix::Tag(t) => prefixes.extend(address::service_tag(net, t).unwrap_or_default()),
            }
        }
        let balancers = net.load_balancers.iter();
        ports.extend(balancers.clone().flat_map(|b| &b.nat_rules).map(|r| r.frontend_port));
        ports.extend(balancers.flat_map(|b| &b.rules).map(|r| r.frontend_port));
        ports.retain(|p| *p != 0);
        let mut addresses: Vec<Ipv4Addr> = Vec::new();
        for prefix in prefixes.iter().chain(net.subnets.iter().flat_map(|s| &s.prefixes)) {
            if let IpNet::V4(p) = prefix {
                let (first, last) = (p.network().to_bits(), p.broadcast().to_bits());
                let edges = [first.saturating_sub(1), first, last, last.saturating_add(1)];
                addresses.extend(edges.map(Ipv4Addr::from_bits));
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        let own_public: Vec<Ipv4Addr> = net
            .public_ips
            .iter()
            .filter_map(|p| match p.address {
                Some(IpAddr::V4(a)) => Some(a),
                _ => None,
            })
            .collect();
        // Azure's host address is public by number, but it is no place on the internet.
        let usable = |a: &Ipv4Addr| address::is_public((*a).into()) && *a != address::HOST_ADDRESS;
        let (public, private): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| usable(a));
        let private = private.into_iter().filter(|a| a.is_private()).collect();
        let public = public.into_iter().filter(|a| !own_public.contains(a)).collect();
        Self { private, public, own_public, ports }
    }
}

/// A packet from somewhere to somewhere.
fn candidate(rng: &mut Rng, net: &Net, marks: &Landmarks) -> Option<(From, Flow)> {
    const ELSEWHERE: [Ipv4Addr; 4] = [
        Ipv4Addr::new(8, 8, 8, 8),
        Ipv4Addr::new(9, 255, 255, 255),
        Ipv4Addr::new(11, 0, 0, 0),
        Ipv4Addr::new(203, 0, 113, 10),
    ];
    let public = |rng: &mut Rng| {
        let marks = rng.chance(70).then(|| rng.pick(&marks.public).copied()).flatten();
        marks.or_else(|| rng.pick(&ELSEWHERE).copied())
    };
    let protocols = [(45, Protocol::Tcp), (40, Protocol::Udp), (15, Protocol::Icmp)];
    let protocol = rng.weighted(&protocols, Protocol::Tcp);
    let (source_port, destination_port) = if protocol.has_ports() {
        let ephemeral = 32_768 + u16::try_from(rng.below(28_000)).unwrap_or(0);
        (ephemeral, *rng.pick(&marks.ports)?)
    } else {
        (0, 0)
    };
    if rng.chance(30) {
        let destination = IpAddr::V4(*rng.pick(&marks.own_public)?);
        let source = IpAddr::V4(public(rng)?);
        return Some((From::Internet, Flow { source, destination, protocol, source_port, destination_port }));
    }
    let nic = rng.below(net.nics.len());
    let source = net.nics.get(nic)?.ip_configs.first()?.address;
    let destination = IpAddr::V4(match rng.below(100) {
        0..52 => match net.nics.get(rng.below(net.nics.len()))?.ip_configs.first()?.address {
            IpAddr::V4(a) => a,
            IpAddr::V6(_) => return None,
        },
        52..66 => *rng.pick(&marks.private)?,
        66..94 => public(rng)?,
        94..98 => *rng.pick(&marks.own_public)?,
        _ => Ipv4Addr::new(172, 31, 255, 255),
    });
    // To itself a packet never leaves its host.
    if destination == source {
        return None;
    }
    let nic = NicIx(u32::try_from(nic).ok()?);
    Some((From::Nic(nic), Flow { source, destination, protocol, source_port, destination_port }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Options, world};

    #[test]
    fn every_stage_has_its_share_and_enough_is_allowed() {
        let options = Options::default();
        for seed in [1, 2, 3] {
            let mut campaign = Campaign::new(seed);
            for round in 0..25 {
                let net = world(seed * 1000 + round, &options);
                assert!(campaign.flows(&net, 20).len() >= 18);
            }
            assert!(campaign.allowed * 100 >= campaign.total * 40, "{campaign:?}");
            let asked = [
                Stage::OutNic,
                Stage::OutSubnet,
                Stage::InSubnet,
                Stage::InNic,
                Stage::RouteNone,
                Stage::NoSuchHost,
                Stage::NoPublicIp,
                Stage::ReturnRoute,
            ];
            for stage in asked {
                let had = campaign.counts.get(&stage).copied().unwrap_or(0);
                assert!(had * 100 >= campaign.total * 5, "{stage:?} decided {had}: {campaign:?}");
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_flows() {
        let options = Options::default();
        let run = || Campaign::new(7).flows(&world(7, &options), 30);
        assert_eq!(run(), run());
    }
}
