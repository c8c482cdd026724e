//! Security rules of one NSG: the six default rules, the order, the match.

use std::sync::LazyLock;

use ipnet::IpNet;

use crate::address::{self, DynamicTag};
use crate::ir::{Access, AddressMatch, Direction, Net, NicIx, Nsg, NsgIx, PortRange, Rule, SubnetIx};
use crate::packet::Flow;

/// Name shown when a platform address was let through without any rule being asked (A8).
pub const PLATFORM_PASS: &str = "(platform)";

/// The six rules every NSG ends with (network-semantics 2.4), inbound first, in order.
pub fn default_rules() -> &'static [Rule; 6] {
    static RULES: LazyLock<[Rule; 6]> = LazyLock::new(|| {
        use Access::{Allow, Deny};
        use Direction::{Inbound, Outbound};
        let vnet = || tag(DynamicTag::VirtualNetwork);
        let any = || AddressMatch::Any;
        [
            default("AllowVnetInBound", 65000, Inbound, Allow, vnet(), vnet()),
            default("AllowAzureLoadBalancerInBound", 65001, Inbound, Allow, tag(DynamicTag::AzureLoadBalancer), any()),
            default("DenyAllInBound", 65500, Inbound, Deny, any(), any()),
            default("AllowVnetOutBound", 65000, Outbound, Allow, vnet(), vnet()),
            default("AllowInternetOutBound", 65001, Outbound, Allow, any(), tag(DynamicTag::Internet)),
            default("DenyAllOutBound", 65500, Outbound, Deny, any(), any()),
        ]
    });
    &RULES
}

fn tag(tag: DynamicTag) -> AddressMatch {
    AddressMatch::Tag(tag.as_str().to_owned())
}

fn default(
    name: &str,
    priority: u32,
    direction: Direction,
    access: Access,
    source: AddressMatch,
    destination: AddressMatch,
) -> Rule {
    Rule {
        name: name.to_owned(),
        priority,
        direction,
        access,
        protocol: None,
        sources: vec![source],
        destinations: vec![destination],
        source_ports: vec![PortRange::ALL],
        destination_ports: vec![PortRange::ALL],
    }
}

/// Whether `rule` is one of the six (by identity of name and priority: custom rules stop at 4096).
pub fn is_default(rule: &Rule) -> bool {
    rule.priority >= 65000
}

/// All rules of one direction in the order they are tried, default rules included (A1, A2).
pub fn ordered_rules(nsg: &Nsg, direction: Direction) -> Vec<&Rule> {
    let mut rules: Vec<&Rule> = nsg.rules.iter().chain(default_rules()).filter(|r| r.direction == direction).collect();
    rules.sort_by_key(|r| r.priority);
    rules
}

/// Whether a port field admits `port`. Packets without ports match only a field that is `*` (A5).
fn ports_match(ranges: &[PortRange], port: Option<u16>) -> bool {
    match port {
        Some(port) => ranges.iter().any(|r| r.first <= port && port <= r.last),
        None => ranges.contains(&PortRange::ALL),
    }
}

/// Whether `rule`, working at `subnet`, matches `flow` in every field (A3).
pub fn rule_matches(net: &Net, subnet: SubnetIx, rule: &Rule, flow: &Flow) -> bool {
    let port = |p: u16| flow.protocol.has_ports().then_some(p);
    rule.protocol.is_none_or(|p| p == flow.protocol)
        && ports_match(&rule.source_ports, port(flow.source_port))
        && ports_match(&rule.destination_ports, port(flow.destination_port))
        && rule.sources.iter().any(|m| address::matches(net, subnet, m, flow.source))
        && rule.destinations.iter().any(|m| address::matches(net, subnet, m, flow.destination))
}

/// What one NSG, working at `subnet`, says to `flow`: the verdict and the name of the first
/// matching rule. Platform addresses outbound are judged only by rules that name them (A8).
pub fn decide<'a>(net: &Net, nsg: &'a Nsg, direction: Direction, subnet: SubnetIx, flow: &Flow) -> (Access, &'a str) {
    let platform = (direction == Direction::Outbound).then(|| DynamicTag::of_platform(flow.destination)).flatten();
    let names_platform = |rule: &Rule, wanted: DynamicTag| {
        rule.destinations.iter().any(|m| match m {
            AddressMatch::Tag(name) => DynamicTag::parse(name, net.semantics.tag_names_case_sensitive) == Some(wanted),
            _ => false,
        })
    };
    // The lowest priority that matches, without sorting; `<` keeps document order among equals.
    let mut best: Option<&'a Rule> = None;
    for rule in nsg.rules.iter().chain(default_rules()) {
        if rule.direction == direction
            && best.is_none_or(|b| rule.priority < b.priority)
            && platform.is_none_or(|tag| names_platform(rule, tag))
            && rule_matches(net, subnet, rule, flow)
        {
            best = Some(rule);
        }
    }
    match best {
        Some(rule) => (rule.access, rule.name.as_str()),
        // Only a platform packet can get here: the last default rule matches everything else.
        None => (Access::Allow, PLATFORM_PASS),
    }
}

/// Where an NSG acts on a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Association {
    /// By the subnet of the NIC.
    Subnet(SubnetIx),
    /// By the NIC itself.
    Nic(NicIx),
}

/// One NSG as it acts on a NIC, for `effectiveNetworkSecurityGroups` (2.13).
#[derive(Debug, Clone, PartialEq)]
pub struct EffectiveNsg<'a> {
    /// Which NSG.
    pub nsg: NsgIx,
    /// Through what.
    pub association: Association,
    /// Rules, inbound first, each direction in the order they are tried.
    pub rules: Vec<EffectiveRule<'a>>,
}

/// A rule with its tags and groups expanded.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectiveRule<'a> {
    /// The rule as written.
    pub rule: &'a Rule,
    /// Minimal prefixes of the source side, if it holds tags or groups; else empty.
    pub expanded_sources: Vec<IpNet>,
    /// Minimal prefixes of the destination side, if it holds tags or groups; else empty.
    pub expanded_destinations: Vec<IpNet>,
}

/// NSGs that act on `nic`: of the subnet of its primary configuration, then of the NIC.
pub fn effective(net: &Net, nic: NicIx) -> Vec<EffectiveNsg<'_>> {
    let Some(subnet) = net.nic(nic).ip_configs.first().map(|c| c.subnet) else { return Vec::new() };
    let lists = [(net.subnet(subnet).nsg, Association::Subnet(subnet)), (net.nic(nic).nsg, Association::Nic(nic))];
    let expand = |side: &[AddressMatch]| {
        let symbolic = side.iter().any(|m| matches!(m, AddressMatch::Tag(_) | AddressMatch::Asg(_)));
        if symbolic { address::resolve_all(net, subnet, side).prefixes() } else { Vec::new() }
    };
    lists
        .into_iter()
        .filter_map(|(nsg, association)| {
            let nsg = nsg?;
            let rules = [Direction::Inbound, Direction::Outbound]
                .into_iter()
                .flat_map(|d| ordered_rules(net.nsg(nsg), d))
                .map(|rule| EffectiveRule {
                    rule,
                    expanded_sources: expand(&rule.sources),
                    expanded_destinations: expand(&rule.destinations),
                })
                .collect();
            Some(EffectiveNsg { nsg, association, rules })
        })
        .collect()
}
