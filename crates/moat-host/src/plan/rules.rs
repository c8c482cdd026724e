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
use crate::ruleset::{Chain, Element, Expression, Field, KeyKind, KeyPart, Rule, Set, SetHeader, Table, Verdict};

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
}

impl Reason {
    const ALL: [(Reason, &'static str, Direction); 8] = [
        (Reason::SpoofedSource, "spoofed-source", Direction::Outbound),
        (Reason::ForeignSource, "foreign-source", Direction::Outbound),
        (Reason::ClosedByDefault, "closed-by-default", Direction::Inbound),
        (Reason::NoOutbound, "no-outbound", Direction::Outbound),
        (Reason::Transit, "peering-not-transitive", Direction::Outbound),
        (Reason::ForwardedTraffic, "forwarded-traffic", Direction::Outbound),
        (Reason::NotPublic, "not-public", Direction::Outbound),
        (Reason::FalsePlatform, "false-platform-source", Direction::Inbound),
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
        let mut id = (((h >> 64) ^ h) as u32).max(Reason::RESERVED);
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
    fn slot(
        &mut self,
        nsg: NsgIx,
        subnet: SubnetIx,
        direction: Direction,
        level: Level,
        part: Part,
    ) -> Option<String> {
        let list = self.net.nsgs.get(nsg.at())?;
        let platform = part == Part::Platform;
        let name = content('l', &(list.id.as_str(), &self.net.subnet(subnet).id, direction, level, platform));
        if self.done.contains(&name) {
            return self.table.chains.contains_key(&name).then_some(name);
        }
        self.done.insert(name.clone());
        let mut rules = Vec::new();
        for r in ordered_rules(list, direction) {
            let destination = match part {
                Part::Whole => None,
                Part::Platform => match self.platform_destinations(r) {
                    named if named.is_empty() => continue,
                    named => Some(named),
                },
            };
            let Some(mut expressions) = self.matching(r, subnet, destination) else { continue };
            let reference = RuleRef {
                nsg: list.id.clone(),
                rule: r.name.clone(),
                direction,
                access: r.access,
                level,
            };
            let id = self.ids.id(reference);
            expressions.push(Expression::Counter);
            let (letter, verdict) = match r.access {
                Access::Allow => ('a', Verdict::Return),
                Access::Deny => ('d', Verdict::Drop),
            };
            if r.access == Access::Deny || self.log_accepts {
                expressions.push(Expression::Log { group: LOG_GROUP, prefix: format!("{letter}{id}") });
            }
            expressions.push(Expression::Verdict(verdict));
            rules.push(Rule { expressions });
        }
        if rules.is_empty() {
            return None;
        }
        let chain = Chain { base: None, rules };
        let target = content('c', &chain);
        self.table.chains.insert(target.clone(), chain);
        let jump = rule([Expression::Verdict(Verdict::Jump(target))]);
        self.table.chains.insert(name.clone(), Chain { base: None, rules: vec![jump] });
        Some(name)
    }

    /// Platform addresses whose tag the rule names as destination.
    fn platform_destinations(&self, rule: &NsgRule) -> Vec<Ipv4Addr> {
        let strict = self.net.semantics.tag_names_case_sensitive;
        let named = |wanted: DynamicTag| {
            rule.destinations.iter().any(
                |m| matches!(m, AddressMatch::Tag(name) if DynamicTag::parse(name, strict) == Some(wanted)),
            )
        };
        let both = [(DynamicTag::AzurePlatformDns, HOST_ADDRESS), (DynamicTag::AzurePlatformImds, IMDS_ADDRESS)];
        both.into_iter().filter(|(tag, _)| named(*tag)).map(|(_, a)| a).collect()
    }

    /// The rule's conditions; `None` if no IPv4 packet meets them. `destination` replaces its own.
    fn matching(
        &mut self,
        rule: &NsgRule,
        subnet: SubnetIx,
        destination: Option<Vec<Ipv4Addr>>,
    ) -> Option<Vec<Expression>> {
        let sources = address::resolve_all(self.net, subnet, &rule.sources).v4;
        let destinations = match destination {
            Some(list) => list.into_iter().map(|a| (a.to_bits(), a.to_bits())).collect(),
            None => address::resolve_all(self.net, subnet, &rule.destinations).v4,
        };
        let mut out = Vec::new();
        out.extend(self.addresses(Field::Source, &sources)?);
        out.extend(self.addresses(Field::Destination, &destinations)?);
        let any_source = rule.source_ports.contains(&PortRange::ALL);
        let any_destination = rule.destination_ports.contains(&PortRange::ALL);
        match rule.protocol {
            None if any_source && any_destination => {}
            None => out.push(Expression::HasPorts),
            Some(p) => {
                // Without ports only a field that is `*` matches (A5).
                let asks_ports = !any_source || !any_destination;
                if asks_ports && !p.has_ports() {
                    return None;
                }
                out.push(Expression::ProtocolIs(protocol_number(p)));
            }
        }
        if !any_source {
            out.extend(self.ports(Field::SourcePort, &rule.source_ports)?);
        }
        if !any_destination {
            out.extend(self.ports(Field::DestinationPort, &rule.destination_ports)?);
        }
        Some(out)
    }

    /// `None`: matches nothing. `Some(None)`: matches everything.
    fn addresses(&mut self, field: Field, set: &RangeSet<u32>) -> Option<Option<Expression>> {
        match set.ranges() {
            [] => None,
            [(0, u32::MAX)] => Some(None),
            [(first, last)] if one_prefix(*first, *last).is_some() => {
                let net = one_prefix(*first, *last)?;
                Some(Some(Expression::AddressIn { field, net, not: false }))
            }
            ranges => {
                let set = address_set(self.table, ranges);
                Some(Some(Expression::InSet { fields: vec![field], set, not: false }))
            }
        }
    }

    /// As [`Self::addresses`].
    fn ports(&mut self, field: Field, list: &[PortRange]) -> Option<Option<Expression>> {
        let set: PortSet = list.iter().map(|r| (r.first, r.last)).collect();
        match set.ranges() {
            [] => None,
            [(0, u16::MAX)] => Some(None),
            [(first, last)] => Some(Some(Expression::PortIn { field, first: *first, last: *last })),
            ranges => {
                let elements: BTreeSet<Element> = ranges
                    .iter()
                    .map(|(a, b)| Element { key: vec![KeyPart::PortRange(*a, *b)], value: None })
                    .collect();
                let header = SetHeader { key: vec![KeyKind::Port], interval: true, data: None };
                let set = Set { header, elements };
                let name = content('t', &set);
                self.table.sets.insert(name.clone(), set);
                Some(Some(Expression::InSet { fields: vec![field], set: name, not: false }))
            }
        }
    }
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
