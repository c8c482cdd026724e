//! What must hold for every world: set algebra, agreement of the two readings of an address,
//! of look-up and effective table, and what a trace may say.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr};

use moat_net::address;
use moat_net::generate::{Options, world};
use moat_net::ir::{AddressMatch, AsgIx, Direction, Net, NicIx, Protocol, SubnetIx};
use moat_net::packet::Flow;
use moat_net::set::RangeSet;
use moat_net::trace::{From, Stage, Verdict, trace};
use moat_net::{nsg, routes};
use proptest::prelude::*;

type Ranges = Vec<(u8, u8)>;

/// The set as a table of its 256 members: slow and plain.
fn table(ranges: &Ranges) -> [bool; 256] {
    let mut t = [false; 256];
    for (a, b) in ranges {
        for i in *a..=*b {
            t[usize::from(i)] = true;
        }
    }
    t
}

fn is_table(set: &RangeSet<u8>, want: impl Fn(usize) -> bool) -> bool {
    let sorted = set.ranges().windows(2).all(|w| u16::from(w[0].1) + 1 < u16::from(w[1].0));
    sorted && (0..=255u8).all(|i| set.contains(i) == want(usize::from(i)))
}

proptest! {
    #[test]
    fn sets_obey_their_algebra(a: Ranges, b: Ranges) {
        let (ta, tb) = (table(&a), table(&b));
        let (sa, sb): (RangeSet<u8>, RangeSet<u8>) = (a.into_iter().collect(), b.into_iter().collect());
        prop_assert!(is_table(&sa, |i| ta[i]));
        prop_assert!(is_table(&sa.union(&sb), |i| ta[i] || tb[i]));
        prop_assert!(is_table(&sa.intersection(&sb), |i| ta[i] && tb[i]));
        prop_assert!(is_table(&sa.difference(&sb), |i| ta[i] && !tb[i]));
        prop_assert!(is_table(&sa.complement(), |i| !ta[i]));
        prop_assert_eq!(sa.is_subset(&sb), (0..256).all(|i| !ta[i] || tb[i]));
        prop_assert_eq!(sa.complement().complement(), sa);
    }

    #[test]
    fn prefixes_cover_a_set_exactly(ranges in prop::collection::vec((any::<u32>(), any::<u32>()), 0..6)) {
        let set = moat_net::set::IpSet { v4: ranges.into_iter().collect(), ..Default::default() };
        let prefixes = set.prefixes();
        prop_assert_eq!(prefixes.iter().collect::<moat_net::set::IpSet>(), set);
        prop_assert!(prefixes.len() <= 6 * 62);
    }
}

/// An address at or next to an edge of something in `net`, or anywhere.
fn some_address(net: &Net, pick: u32, jitter: u32) -> IpAddr {
    let mut edges: Vec<u32> = vec![0, u32::MAX, address::HOST_ADDRESS.to_bits(), address::IMDS_ADDRESS.to_bits()];
    let spaces = net.vnets.iter().flat_map(|v| &v.prefixes).chain(net.subnets.iter().flat_map(|s| &s.prefixes));
    for prefix in spaces.chain(net.tags.values().flatten()) {
        if let (IpAddr::V4(a), IpAddr::V4(b)) = (prefix.network(), prefix.broadcast()) {
            edges.extend([a.to_bits(), b.to_bits()]);
        }
    }
    edges.extend(net.nics.iter().filter_map(|n| match n.ip_configs[0].address {
        IpAddr::V4(a) => Some(a.to_bits()),
        IpAddr::V6(_) => None,
    }));
    let edge = edges[pick as usize % edges.len()];
    let near = if jitter < 8 { edge.wrapping_add(jitter % 3).wrapping_sub(1) } else { jitter };
    IpAddr::V4(Ipv4Addr::from_bits(near))
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Icmp, Protocol::Esp])
}

fn jitter() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0u32..8, 1 => any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn matching_one_address_is_being_in_the_set(
        seed in 0u64..64, subnet in 0u32..8, picks in prop::collection::vec((any::<u32>(), jitter()), 60)
    ) {
        let net = world(seed, &Options::default());
        let subnet = SubnetIx(subnet);
        let tags = ["VirtualNetwork", "internet", "AzureLoadBalancer", "AzurePlatformDNS", "AzurePlatformIMDS", "Nothing"];
        let mut all: Vec<AddressMatch> = tags.map(|t| AddressMatch::Tag(t.to_owned())).to_vec();
        all.extend(net.tags.keys().map(|t| AddressMatch::Tag(t.to_lowercase())));
        all.extend([AddressMatch::Any, AddressMatch::Asg(AsgIx(0)), AddressMatch::Asg(AsgIx(1))]);
        for what in all {
            let set = address::resolve(&net, subnet, &what);
            for (pick, jitter) in &picks {
                let a = some_address(&net, *pick, *jitter);
                prop_assert_eq!(set.contains(a), address::matches(&net, subnet, &what, a), "{:?} {}", what, a);
            }
        }
    }

    #[test]
    fn lookup_is_the_longest_active_route(
        seed in 0u64..64, subnet in 0u32..8, picks in prop::collection::vec((any::<u32>(), jitter()), 60)
    ) {
        let net = world(seed, &Options::default());
        let table = routes::effective(&net, SubnetIx(subnet));
        for (pick, jitter) in picks {
            let a = some_address(&net, pick, jitter);
            let active = table.iter().filter(|r| r.active && r.route.prefix.contains(&a));
            let longest = active.max_by_key(|r| r.route.prefix.prefix_len()).unwrap();
            prop_assert_eq!(longest.route, routes::lookup(&net, SubnetIx(subnet), a));
        }
    }

    #[test]
    fn a_trace_says_only_what_is_there(
        seed in 0u64..64, nic in 0u32..10, pick: u32, jitter in jitter(), way in 0u8..4,
        protocol in protocols(), port in prop::sample::select(vec![22u16, 80, 443, 8080, 44224, 50000])
    ) {
        let net = world(seed, &Options::default());
        let far = some_address(&net, pick, jitter);
        let own = net.nic(NicIx(nic)).ip_configs[0].address;
        let (from, source, destination) = match way {
            0 => (From::Nic(NicIx(nic)), own, far),
            1 => (From::InternetTo(NicIx(nic)), far, own),
            2 => (From::Internet, far, net.public_ips[nic as usize % net.public_ips.len()].address.unwrap()),
            _ => (From::Probe(NicIx(nic)), IpAddr::V4(address::HOST_ADDRESS), own),
        };
        let (source_port, destination_port) = if protocol.has_ports() { (50_000, port) } else { (0, 0) };
        let flow = Flow { source, destination, protocol, source_port, destination_port };
        let t = trace(&net, from, flow);
        prop_assert_eq!(t.rule.is_some(), t.verdict == Verdict::Deny);
        let denies = [Stage::OutNic, Stage::OutSubnet, Stage::InSubnet, Stage::InNic, Stage::Firewall];
        prop_assert_eq!(denies.contains(&t.stage), t.verdict == Verdict::Deny);
        for (i, step) in t.lists.iter().enumerate() {
            let list = net.nsgs.iter().find(|n| n.id == step.id).unwrap();
            let outbound = matches!(step.stage, Stage::OutNic | Stage::OutSubnet);
            let direction = if outbound { Direction::Outbound } else { Direction::Inbound };
            let rules = nsg::ordered_rules(list, direction);
            let rule = rules.iter().find(|r| r.name == step.rule);
            prop_assert!(step.rule == nsg::PLATFORM_PASS || rule.is_some_and(|r| r.access == step.access));
            // Nothing is asked after a deny.
            prop_assert!(i + 1 == t.lists.len() || step.access == moat_net::ir::Access::Allow);
        }
        prop_assert_eq!(trace(&net, from, flow), t);
    }
}

#[test]
fn rules_are_tried_in_order_and_end_with_the_defaults() {
    let net = world(3, &Options::default());
    for list in &net.nsgs {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let rules = nsg::ordered_rules(list, direction);
            assert!(rules.is_sorted_by_key(|r| r.priority));
            let last: Vec<u32> = rules[rules.len() - 3..].iter().map(|r| r.priority).collect();
            assert_eq!(last, [65000, 65001, 65500]);
        }
    }
}
