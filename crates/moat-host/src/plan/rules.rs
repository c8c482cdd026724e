//! Security rules as chains and sets.
//!
//! Three kinds of chain. A *list* chain holds the rules of one NSG as they look from one subnet;
//! it is named by its content and never changed. A *slot* chain is the stable name by which the
//! list is reached; its one jump is what a flip re-points. A *stub* chain says which slots guard a
//! NIC, and in which order (network-semantics 2.6). In a list, allow is `return` and deny is
//! `drop`, so that the next NSG still gets its say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use moat_net::address::{self, DynamicTag, HOST_ADDRESS, IMDS_ADDRESS};
use moat_net::ir::{Access, AddressMatch, Direction, Net, NsgIx, PortRange, Protocol, Rule as NsgRule, SubnetIx};
use moat_net::nsg::ordered_rules;
use moat_net::set::{PortSet, RangeSet};

use super::names::{content, hash};
use crate::layout::{LOG_GROUP, Level, RuleRef};
use crate::netlink::nft::PORTED_SET;
use crate::ruleset::{
    Chain, DataKind, DataValue, Element, Expression, Field, KeyKind, KeyPart, Rule, Set, SetHeader, Table, Verdict,
};

/// What the fabric itself decides, without any NSG. The discriminants are rule numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Source is not an address of the NIC.
    SpoofedSource = 1,
    /// Somebody else's source on the way to the internet.
    ForeignSource = 2,
    /// Standard SKU without any NSG (2.10).
    ClosedByDefault = 3,
    /// No way out (9.3, 9.4).
    NoOutbound = 4,
    /// From one peer to another (6.3).
    Transit = 5,
    /// Passed on into a VNet that does not take forwarded traffic (6.4).
    ForwardedTraffic = 6,
    /// Not a public destination.
    NotPublic = 7,
    /// Platform source from outside.
    FalsePlatform = 8,
    /// More connections of one NIC than the kernel's table has room for.
    TooManyConnections = 9,
}

impl Reason {
    const ALL: [(Reason, &'static str, Direction); 9] = [
        (Reason::SpoofedSource, "spoofed-source", Direction::Outbound),
        (Reason::ForeignSource, "foreign-source", Direction::Outbound),
        (Reason::ClosedByDefault, "closed-by-default", Direction::Inbound),
        (Reason::NoOutbound, "no-outbound", Direction::Outbound),
        (Reason::Transit, "peering-not-transitive", Direction::Outbound),
        (Reason::ForwardedTraffic, "forwarded-traffic", Direction::Outbound),
        (Reason::NotPublic, "not-public", Direction::Outbound),
        (Reason::FalsePlatform, "false-platform-source", Direction::Inbound),
        (Reason::TooManyConnections, "connection-limit", Direction::Outbound),
    ];
    /// Smallest number of a rule of an NSG.
    const RESERVED: u32 = 100;
}

/// The rule numbers of a plan: a hash of what the rule is, so that a number lasts as long as its
/// rule and a change elsewhere moves none.
#[derive(Debug)]
pub(super) struct RuleIds {
    by_id: BTreeMap<u32, RuleRef>,
}

impl RuleIds {
    pub(super) fn new() -> Self {
        let by_id = Reason::ALL.iter().map(|(reason, name, direction)| {
            let rule = RuleRef {
                nsg: String::new(),
                rule: (*name).to_owned(),
                direction: *direction,
                access: Access::Deny,
                level: Level::Fabric,
            };
            (*reason as u32, rule)
        });
        Self { by_id: by_id.collect() }
    }

    fn id(&mut self, rule: RuleRef) -> u32 {
        let key = format!("{}|{}|{:?}|{:?}|{:?}", rule.nsg, rule.rule, rule.direction, rule.access, rule.level);
        let h = hash(key.as_bytes());
        let mut id = (h as u32).max(Reason::RESERVED);
        while self.by_id.get(&id).is_some_and(|r| *r != rule) {
            id = id.wrapping_add(1).max(Reason::RESERVED);
        }
        self.by_id.insert(id, rule);
        id
    }

    pub(super) fn into_map(self) -> BTreeMap<u32, RuleRef> {
        self.by_id
    }
}

/// Counts, tells the log, drops.
pub(super) fn drop_for(mut when: Vec<Expression>, reason: Reason) -> Rule {
    let log = Expression::Log { group: LOG_GROUP, prefix: format!("d{}", reason as u32) };
    when.extend([Expression::Counter, log, Expression::Verdict(Verdict::Drop)]);
    Rule { expressions: when }
}

/// A rule of these expressions.
pub(super) fn rule(expressions: impl IntoIterator<Item = Expression>) -> Rule {
    Rule { expressions: expressions.into_iter().collect() }
}

/// Adds the set of protocols that have ports, which [`Expression::HasPorts`] needs.
pub(super) fn add_ported(table: &mut Table) {
    let elements = [6, 17].map(|p| Element { key: vec![KeyPart::Protocol(p)], value: None });
    let header = SetHeader { key: vec![KeyKind::Protocol], interval: false, data: None };
    table.sets.insert(PORTED_SET.to_owned(), Set { header, elements: elements.into_iter().collect() });
}

/// Writes NSGs into one router's table.
pub(super) struct Lists<'a> {
    pub(super) net: &'a Net,
    pub(super) log_accepts: bool,
    pub(super) table: &'a mut Table,
    pub(super) ids: &'a mut RuleIds,
    /// Slots already written.
    done: BTreeSet<String>,
}

/// Which rules of a list are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All.
    Whole,
    /// Those that name a platform tag, for platform destinations (2.11, A8).
    Platform,
}

impl<'a> Lists<'a> {
    pub(super) fn new(net: &'a Net, log_accepts: bool, table: &'a mut Table, ids: &'a mut RuleIds) -> Self {
        Self { net, log_accepts, table, ids, done: BTreeSet::new() }
    }

    /// The stub chain of a NIC in `subnet` with NSG `nic`; `None` if nothing guards it.
    pub(super) fn stub(&mut self, nic: Option<NsgIx>, subnet: SubnetIx, direction: Direction) -> Option<String> {
        let at_nic = nic.and_then(|n| self.slot(n, subnet, direction, Level::Nic, Part::Whole));
        let at_subnet =
            self.net.subnet(subnet).nsg.and_then(|n| self.slot(n, subnet, direction, Level::Subnet, Part::Whole));
        let slots = match direction {
            Direction::Outbound => [at_nic, at_subnet],
            Direction::Inbound => [at_subnet, at_nic],
        };
        self.write_stub(&slots, nic, subnet, direction, "stub")
    }

    /// The stub chain for packets of a NIC to the platform; `None` if no rule names a platform tag.
    pub(super) fn platform_stub(&mut self, nic: Option<NsgIx>, subnet: SubnetIx) -> Option<String> {
        let out = Direction::Outbound;
        let at_nic = nic.and_then(|n| self.slot(n, subnet, out, Level::Nic, Part::Platform));
        let at_subnet =
            self.net.subnet(subnet).nsg.and_then(|n| self.slot(n, subnet, out, Level::Subnet, Part::Platform));
        self.write_stub(&[at_nic, at_subnet], nic, subnet, out, "platform")
    }

    /// The slot of a subnet's inbound list alone, for its private endpoints (A18).
    pub(super) fn endpoint_slot(&mut self, subnet: SubnetIx) -> Option<String> {
        let nsg = self.net.subnet(subnet).nsg?;
        self.slot(nsg, subnet, Direction::Inbound, Level::Subnet, Part::Whole)
    }

    fn write_stub(
        &mut self,
        slots: &[Option<String>],
        nic: Option<NsgIx>,
        subnet: SubnetIx,
        direction: Direction,
        purpose: &str,
    ) -> Option<String> {
        let jumps: Vec<Rule> =
            slots.iter().flatten().map(|s| rule([Expression::Verdict(Verdict::Jump(s.clone()))])).collect();
        if jumps.is_empty() {
            return None;
        }
        let nsg = nic.map(|n| self.net.nsg(n).id.as_str());
        let name = content('s', &(self.net.subnet(subnet).id.as_str(), nsg, direction, purpose));
        self.table.chains.insert(name.clone(), Chain { base: None, rules: jumps });
        Some(name)
    }

    /// Writes the list and its slot; `None` if there is nothing to ask.
    fn slot(&mut self, nsg: NsgIx, subnet: SubnetIx, direction: Direction, level: Level, part: Part) -> Option<String> {
        let list = self.net.nsgs.get(nsg.at())?;
        let platform = part == Part::Platform;
        let name = content('l', &(list.id.as_str(), &self.net.subnet(subnet).id, direction, level, platform));
        if self.done.contains(&name) {
            return self.table.chains.contains_key(&name).then_some(name);
        }
        self.done.insert(name.clone());
        let mut entries = Vec::new();
        for r in ordered_rules(list, direction) {
            let destination = match part {
                Part::Whole => None,
                Part::Platform => match self.platform_destinations(r) {
                    named if named.is_empty() => continue,
                    named => Some(named),
                },
            };
            let Some(shape) = Shape::of(self.net, r, subnet, destination) else { continue };
            let reference = RuleRef { nsg: list.id.clone(), rule: r.name.clone(), direction, access: r.access, level };
            let id = self.ids.id(reference);
            let end = self.end(id, r.access);
            entries.push(Entry { shape, end });
        }
        if entries.is_empty() {
            return None;
        }
        let rules = if entries.len() > LINEAR_MAX { self.folded(entries) } else { self.linear(&entries) };
        let chain = Chain { base: None, rules };
        let target = content('c', &chain);
        self.table.chains.insert(target.clone(), chain);
        let jump = rule([Expression::Verdict(Verdict::Jump(target))]);
        self.table.chains.insert(name.clone(), Chain { base: None, rules: vec![jump] });
        Some(name)
    }

    /// What happens to a packet that meets a rule.
    fn end(&self, id: u32, access: Access) -> Vec<Expression> {
        let (letter, verdict) = match access {
            Access::Allow => ('a', Verdict::Return),
            Access::Deny => ('d', Verdict::Drop),
        };
        let mut out = vec![Expression::Counter];
        if access == Access::Deny || self.log_accepts {
            out.push(Expression::Log { group: LOG_GROUP, prefix: format!("{letter}{id}") });
        }
        out.push(Expression::Verdict(verdict));
        out
    }

    /// One kernel rule each.
    fn linear(&mut self, entries: &[Entry]) -> Vec<Rule> {
        entries
            .iter()
            .map(|e| {
                let mut expressions = self.conditions(&e.shape);
                expressions.extend(e.end.iter().cloned());
                Rule { expressions }
            })
            .collect()
    }

    /// A long list: rules that are boxes of ranges become elements of one verdict map, each leading
    /// to a chain of its own that counts, logs and decides; the rest stay rules behind it. The
    /// order of priorities holds since a rule is folded only if it meets no folded rule (the
    /// kernel would refuse the overlap) and no earlier rule that stays behind the map.
    fn folded(&mut self, entries: Vec<Entry>) -> Vec<Rule> {
        let (mut folded, mut kept): (Vec<Entry>, Vec<Entry>) = (Vec::new(), Vec::new());
        let mut elements = BTreeSet::new();
        for entry in entries {
            let meets = |others: &[Entry]| others.iter().any(|o| o.shape.meets(&entry.shape));
            match entry.shape.elements() {
                Some(keys) if !meets(&folded) && !meets(&kept) => {
                    let chain = Chain { base: None, rules: vec![Rule { expressions: entry.end.clone() }] };
                    let name = content('r', &chain);
                    self.table.chains.insert(name.clone(), chain);
                    let value = Some(DataValue::Verdict(Verdict::Goto(name)));
                    elements.extend(keys.into_iter().map(|key| Element { key, value: value.clone() }));
                    folded.push(entry);
                }
                _ => kept.push(entry),
            }
        }
        let mut rules = Vec::new();
        if !elements.is_empty() {
            let key = vec![KeyKind::Address, KeyKind::Address, KeyKind::Protocol, KeyKind::Port];
            let map = Set { header: SetHeader { key, interval: true, data: Some(DataKind::Verdict) }, elements };
            let name = content('m', &map);
            self.table.sets.insert(name.clone(), map);
            let fields = vec![Field::Source, Field::Destination, Field::Protocol, Field::DestinationPort];
            rules.push(rule([Expression::HasPorts, Expression::VerdictMap { fields, map: name }]));
        }
        rules.extend(self.linear(&kept));
        rules
    }

    /// Platform addresses whose tag the rule names as destination.
    fn platform_destinations(&self, rule: &NsgRule) -> Vec<Ipv4Addr> {
        let strict = self.net.semantics.tag_names_case_sensitive;
        let named = |wanted: DynamicTag| {
            rule.destinations
                .iter()
                .any(|m| matches!(m, AddressMatch::Tag(name) if DynamicTag::parse(name, strict) == Some(wanted)))
        };
        let both = [(DynamicTag::AzurePlatformDns, HOST_ADDRESS), (DynamicTag::AzurePlatformImds, IMDS_ADDRESS)];
        both.into_iter().filter(|(tag, _)| named(*tag)).map(|(_, a)| a).collect()
    }

    /// A rule's conditions as expressions.
    fn conditions(&mut self, shape: &Shape) -> Vec<Expression> {
        let mut out = Vec::new();
        out.extend(self.addresses(Field::Source, &shape.sources));
        out.extend(self.addresses(Field::Destination, &shape.destinations));
        match shape.protocols {
            Protocols::Any => {}
            Protocols::Ported => out.push(Expression::HasPorts),
            Protocols::One(p) => out.push(Expression::ProtocolIs(p)),
        }
        out.extend(self.ports(Field::SourcePort, &shape.source_ports));
        out.extend(self.ports(Field::DestinationPort, &shape.destination_ports));
        out
    }

    /// `None`: every address.
    fn addresses(&mut self, field: Field, set: &RangeSet<u32>) -> Option<Expression> {
        match set.ranges() {
            [(0, u32::MAX)] => None,
            [(first, last)] if one_prefix(*first, *last).is_some() => {
                let net = one_prefix(*first, *last)?;
                Some(Expression::AddressIn { field, net, not: false })
            }
            ranges => {
                let set = address_set(self.table, ranges);
                Some(Expression::InSet { fields: vec![field], set, not: false })
            }
        }
    }

    /// `None`: every port.
    fn ports(&mut self, field: Field, set: &PortSet) -> Option<Expression> {
        match set.ranges() {
            [(0, u16::MAX)] => None,
            [(first, last)] => Some(Expression::PortIn { field, first: *first, last: *last }),
            ranges => {
                let elements: BTreeSet<Element> = ranges
                    .iter()
                    .map(|(a, b)| Element { key: vec![KeyPart::PortRange(*a, *b)], value: None })
                    .collect();
                let header = SetHeader { key: vec![KeyKind::Port], interval: true, data: None };
                let set = Set { header, elements };
                let name = content('t', &set);
                self.table.sets.insert(name.clone(), set);
                Some(Expression::InSet { fields: vec![field], set: name, not: false })
            }
        }
    }
}

/// Longest list that is one kernel rule per rule; each costs a new connection some 0.07 us.
const LINEAR_MAX: usize = 64;
/// Most elements one folded rule may become: one with a long tag stays a rule with a set.
const ELEMENTS_PER_RULE_MAX: usize = 16;

/// A rule of a list: whom it meets and what it does.
struct Entry {
    shape: Shape,
    end: Vec<Expression>,
}

/// Which protocols a rule means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocols {
    Any,
    Ported,
    One(u8),
}

/// Whom a rule meets: a packet has to be in every field. No field is empty.
struct Shape {
    sources: RangeSet<u32>,
    destinations: RangeSet<u32>,
    protocols: Protocols,
    source_ports: PortSet,
    destination_ports: PortSet,
}

impl Shape {
    /// `None` if no IPv4 packet meets the rule. `destination` replaces its own.
    fn of(net: &Net, rule: &NsgRule, subnet: SubnetIx, destination: Option<Vec<Ipv4Addr>>) -> Option<Self> {
        let sources = address::resolve_all(net, subnet, &rule.sources).v4;
        let destinations = match destination {
            Some(list) => list.into_iter().map(|a| (a.to_bits(), a.to_bits())).collect(),
            None => address::resolve_all(net, subnet, &rule.destinations).v4,
        };
        // What has no ports meets only a rule that says `*` on both sides (A5).
        let any = rule.source_ports.contains(&PortRange::ALL) && rule.destination_ports.contains(&PortRange::ALL);
        let protocols = match rule.protocol {
            None if any => Protocols::Any,
            None => Protocols::Ported,
            Some(p) if any || p.has_ports() => Protocols::One(protocol_number(p)),
            Some(_) => return None,
        };
        let ports = |list: &[PortRange]| list.iter().map(|r| (r.first, r.last)).collect::<PortSet>();
        let (source_ports, destination_ports) = (ports(&rule.source_ports), ports(&rule.destination_ports));
        let empty =
            sources.is_empty() || destinations.is_empty() || source_ports.is_empty() || destination_ports.is_empty();
        (!empty).then_some(Self { sources, destinations, protocols, source_ports, destination_ports })
    }

    /// Whether some packet meets both. The fields that differ most often come first.
    fn meets(&self, other: &Self) -> bool {
        let protocols = match (self.protocols, other.protocols) {
            (Protocols::One(a), Protocols::One(b)) => a == b,
            (Protocols::One(p), Protocols::Ported) | (Protocols::Ported, Protocols::One(p)) => p == 6 || p == 17,
            _ => true,
        };
        protocols
            && touch(&self.destination_ports, &other.destination_ports)
            && touch(&self.sources, &other.sources)
            && touch(&self.destinations, &other.destinations)
            && touch(&self.source_ports, &other.source_ports)
    }

    /// Keys of a folded rule: source, destination, protocol, destination port. `None` if it cannot
    /// be folded.
    fn elements(&self) -> Option<Vec<Vec<KeyPart>>> {
        let protocols: &[u8] = match self.protocols {
            Protocols::Ported => &[6, 17],
            Protocols::One(6) => &[6],
            Protocols::One(17) => &[17],
            Protocols::One(_) | Protocols::Any => return None,
        };
        let (sources, destinations) = (self.sources.ranges(), self.destinations.ranges());
        let ports = self.destination_ports.ranges();
        let count = sources.len() * destinations.len() * protocols.len() * ports.len();
        if count > ELEMENTS_PER_RULE_MAX || self.source_ports.ranges() != [(0, u16::MAX)] {
            return None;
        }
        let range = |&(a, b): &(u32, u32)| KeyPart::AddressRange(Ipv4Addr::from_bits(a), Ipv4Addr::from_bits(b));
        let mut out = Vec::with_capacity(count);
        for s in sources {
            for d in destinations {
                for p in protocols {
                    for &(first, last) in ports {
                        let port = KeyPart::PortRange(first, last);
                        out.push(vec![range(s), range(d), KeyPart::ProtocolRange(*p, *p), port]);
                    }
                }
            }
        }
        Some(out)
    }
}

/// Whether two sets have a point in common.
fn touch<T: moat_net::set::Point>(a: &RangeSet<T>, b: &RangeSet<T>) -> bool {
    let (a, b) = (a.ranges(), b.ranges());
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        if x.0 <= y.1 && y.0 <= x.1 {
            return true;
        }
        if x.1 < y.1 { i += 1 } else { j += 1 }
    }
    false
}

/// A set of address ranges, shared by all rules that mean the same addresses.
pub(super) fn address_set(table: &mut Table, ranges: &[(u32, u32)]) -> String {
    let range = |&(a, b): &(u32, u32)| KeyPart::AddressRange(Ipv4Addr::from_bits(a), Ipv4Addr::from_bits(b));
    let elements = ranges.iter().map(|r| Element { key: vec![range(r)], value: None }).collect();
    let set = Set { header: SetHeader { key: vec![KeyKind::Address], interval: true, data: None }, elements };
    let name = content('a', &set);
    table.sets.insert(name.clone(), set);
    name
}

/// The prefix that is exactly this range, if there is one.
fn one_prefix(first: u32, last: u32) -> Option<Ipv4Net> {
    let size = u64::from(last) - u64::from(first) + 1;
    let aligned = size.is_power_of_two() && u64::from(first) % size == 0;
    let length = u8::try_from(32 - size.trailing_zeros()).ok()?;
    aligned.then(|| Ipv4Net::new(Ipv4Addr::from_bits(first), length).ok())?
}

/// IANA's number.
pub(super) fn protocol_number(p: Protocol) -> u8 {
    match p {
        Protocol::Icmp => 1,
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Esp => 50,
        Protocol::Ah => 51,
    }
}
