//! `Microsoft.Network/networkSecurityGroups/securityRules`: what one rule may say
//! (network-semantics 2.2, 2.3, 3.11, 4, 14).
//!
//! The checks take the group's write: a rule lives in that document.

use std::collections::{BTreeMap, BTreeSet};

use moat_arm::{ApiError, ResourceId, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, prefix, tags};
use crate::lower::prefix as net;
use crate::refs;
use crate::resource_type::{Completion, ResourceType, Scope, TypeCtx, Write};
use crate::types::shape;

/// The array of a group's document that holds its rules.
const ARRAY: &str = "properties.securityRules";
/// Rules of one group (network-semantics 14).
const MOST_RULES: usize = 1_000;
/// Addresses, or port ranges, of one side of a rule (network-semantics 14).
const MOST_PER_SIDE: usize = 4_000;
/// Application security groups of one side of a rule, and over all rules of a group (4.3).
const MOST_ASGS: (usize, usize) = (10, 100);
/// Priorities of custom rules.
const PRIORITIES: std::ops::RangeInclusive<u64> = 100..=4096;
/// Characters of a description.
const LONGEST_DESCRIPTION: usize = 140;

/// Members of a group that hold ids.
pub(super) const ASG_PATHS: &[&str] = &[
    "properties.securityRules[].properties.sourceApplicationSecurityGroups[].id",
    "properties.securityRules[].properties.destinationApplicationSecurityGroups[].id",
];

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/networkSecurityGroups/securityRules",
    api_versions: API_VERSIONS,
    scope: Scope::Embedded(ARRAY),
    completion: Completion::Applied,
    location_required: false,
    ..ResourceType::BLANK
};

/// One rule of the group being written.
struct Rule<'a> {
    id: ResourceId,
    name: &'a str,
    value: &'a Value,
}

impl<'a> Rule<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        document::str_at(self.value, &format!("properties.{name}"))
    }

    /// The singular and the plural member together, in that order.
    fn all(&self, singular: &str, plural: &str) -> Vec<&'a str> {
        let many = refs::texts(self.value, &format!("properties.{plural}[]"));
        self.text(singular).filter(|t| !t.is_empty()).into_iter().chain(many).collect()
    }

    fn asgs(&self, side: Side) -> Vec<&'a str> {
        refs::texts(self.value, &format!("properties.{}[].id", side.asgs))
    }
}

fn rules<'a>(write: &'a Write<'_>) -> impl Iterator<Item = Rule<'a>> {
    document::array_at(&write.body, ARRAY).iter().map(|value| {
        let name = document::str_at(value, "name").unwrap_or_default();
        Rule { id: write.id.child("securityRules", name), name, value }
    })
}

/// The members of one side of a rule.
#[derive(Clone, Copy)]
struct Side {
    prefix: &'static str,
    prefixes: &'static str,
    asgs: &'static str,
    port: &'static str,
    ports: &'static str,
}

const SIDES: [Side; 2] = [
    Side {
        prefix: "sourceAddressPrefix",
        prefixes: "sourceAddressPrefixes",
        asgs: "sourceApplicationSecurityGroups",
        port: "sourcePortRange",
        ports: "sourcePortRanges",
    },
    Side {
        prefix: "destinationAddressPrefix",
        prefixes: "destinationAddressPrefixes",
        asgs: "destinationApplicationSecurityGroups",
        port: "destinationPortRange",
        ports: "destinationPortRanges",
    },
];

pub(super) fn names(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    shape::distinct_names(write, ARRAY)
}

pub(super) fn limit(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let count = document::array_at(&write.body, ARRAY).len();
    if count <= MOST_RULES {
        return Ok(());
    }
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "SecurityRuleCountLimitReached",
        format!("Network security group {} would have {count} rules; {MOST_RULES} are allowed.", write.id),
    ))
}

/// A rule says something that is not one of `allowed`.
fn unsupported(rule: &Rule<'_>, member: &str, value: &str, allowed: &str) -> ApiError {
    // AZURE: wording not observed.
    ApiError::bad_request(
        "SecurityRuleParameterContainsUnsupportedValue",
        format!("Security rule parameter {member} for rule with Id {} contains an unsupported value '{value}'. Use {allowed}.", rule.id),
    )
    .with_target(rule.id.as_str())
}

pub(super) fn fields(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    const DIRECTIONS: [&str; 2] = ["Inbound", "Outbound"];
    const ACCESS: [&str; 2] = ["Allow", "Deny"];
    const PROTOCOLS: [&str; 6] = ["Tcp", "Udp", "Icmp", "Esp", "Ah", "*"];
    for rule in rules(write) {
        for (member, allowed) in [("direction", &DIRECTIONS[..]), ("access", &ACCESS[..]), ("protocol", &PROTOCOLS[..])]
        {
            let value = rule.text(member).unwrap_or_default();
            if !allowed.iter().any(|a| a.eq_ignore_ascii_case(value)) {
                return Err(unsupported(&rule, member, value, &allowed.join(", ")));
            }
        }
        let priority = document::u64_at(rule.value, "properties.priority");
        if !priority.is_some_and(|p| PRIORITIES.contains(&p)) {
            let value = document::at(rule.value, "properties.priority").map_or("none".to_owned(), Value::to_string);
            return Err(ApiError::bad_request(
                "SecurityRuleInvalidPriority",
                format!(
                    "Security rule has invalid Priority. Value provided: {value} Allowed range {}-{}.",
                    PRIORITIES.start(),
                    PRIORITIES.end()
                ),
            )
            .with_target(rule.id.as_str()));
        }
        let description = rule.text("description").unwrap_or_default().chars().count();
        if description > LONGEST_DESCRIPTION {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "SecurityRuleInvalidDescription",
                format!("Security rule {} has a description of {description} characters; {LONGEST_DESCRIPTION} are allowed.", rule.id),
            )
            .with_target(rule.id.as_str()));
        }
    }
    Ok(())
}

/// First and last port of `*`, `443` or `29876-29877`.
fn port_range(text: &str) -> Option<(u16, u16)> {
    if text == "*" {
        return Some((0, u16::MAX));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some((first, last))
}

pub(super) fn ports(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for rule in rules(write) {
        for side in SIDES {
            let texts = rule.all(side.port, side.ports);
            // No port at all is not `any port`: Azure wants it said.
            if texts.is_empty() {
                return Err(unsupported(&rule, side.port, "", "`*`, a port or a range such as 29876-29877"));
            }
            if texts.len() > MOST_PER_SIDE {
                return Err(too_many(&rule, side.ports, texts.len()));
            }
            if let Some(bad) = texts.iter().find(|t| port_range(t).is_none()) {
                return Err(ApiError::bad_request(
                    "SecurityRuleInvalidPortRange",
                    format!("Security rule has invalid Port range. Value provided: {bad}. Value should be an integer OR integer range with '-' delimiter. Valid range 0-65535."),
                )
                .with_target(rule.id.as_str()));
            }
        }
    }
    Ok(())
}

fn too_many(rule: &Rule<'_>, member: &str, count: usize) -> ApiError {
    // AZURE: wording not observed.
    ApiError::bad_request(
        "SecurityRuleParameterCountLimitReached",
        format!("Security rule {} lists {count} values in {member}; {MOST_PER_SIDE} are allowed.", rule.id),
    )
    .with_target(rule.id.as_str())
}

pub(super) fn addresses(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for rule in rules(write) {
        for side in SIDES {
            one_side(ctx, &rule, side)?;
        }
    }
    Ok(())
}

fn one_side(ctx: &TypeCtx<'_>, rule: &Rule<'_>, side: Side) -> Result<(), ApiError> {
    let texts = rule.all(side.prefix, side.prefixes);
    if texts.len() > MOST_PER_SIDE {
        return Err(too_many(rule, side.prefixes, texts.len()));
    }
    let mixed = |what: &str| {
        // AZURE: wording not observed.
        ApiError::bad_request(
            "SecurityRuleParameterContainsUnsupportedValue",
            format!("Security rule {} mixes {what} in {}. One side of a rule takes addresses, or one service tag, or application security groups.", rule.id, side.prefixes),
        )
        .with_target(rule.id.as_str())
    };
    let asgs = rule.asgs(side).len();
    if texts.is_empty() && asgs == 0 {
        return Err(unsupported(rule, side.prefix, "", "`*`, an address, a prefix or a service tag"));
    }
    if !texts.is_empty() && asgs > 0 {
        return Err(mixed("addresses and application security groups"));
    }
    let (nets, names): (Vec<&str>, Vec<&str>) = texts.iter().partition(|t| net(t).is_some());
    for name in names.iter().filter(|n| **n != "*") {
        let looks_like_address = name.contains('/') || name.starts_with(|c: char| c.is_ascii_digit());
        let hint = if looks_like_address { None } else { tags::problem(ctx, name) };
        if looks_like_address || hint.is_some() {
            return Err(ApiError::bad_request(
                "SecurityRuleInvalidAddressPrefix",
                format!(
                    "Security rule has invalid Address prefix. Value provided: {name}.{}",
                    hint.unwrap_or_default()
                ),
            )
            .with_target(rule.id.as_str()));
        }
    }
    if names.len() > 1 || (!names.is_empty() && !nets.is_empty()) {
        return Err(mixed(if nets.is_empty() { "several service tags" } else { "a service tag and addresses" }));
    }
    overlapping(rule, side, &nets)
}

/// Two prefixes of one list that contain each other.
fn overlapping(rule: &Rule<'_>, side: Side, texts: &[&str]) -> Result<(), ApiError> {
    let nets = texts.iter().filter_map(|t| net(t)).map(|n| (n.trunc(), ())).collect();
    let Some(((a, ()), (b, ()))) = prefix::clash(nets) else { return Ok(()) };
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "OverlappingSubnetsNotPermittedInSecurityRule",
        format!("Security rule {} has overlapping subnets in {}: {a} and {b}.", rule.id, side.prefixes),
    )
    .with_target(rule.id.as_str()))
}

pub(super) fn asgs(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let mut over_all = BTreeSet::new();
    for rule in rules(write) {
        for side in SIDES {
            let ids = rule.asgs(side);
            over_all.extend(ids.iter().map(|i| i.to_lowercase()));
            if ids.len() > MOST_ASGS.0 || over_all.len() > MOST_ASGS.1 {
                // AZURE: wording not observed.
                return Err(ApiError::bad_request(
                    "SecurityRuleParameterCountLimitReached",
                    format!("Security rule {} exceeds the limit of {} application security groups on one side, or {} over all rules of a network security group.", rule.id, MOST_ASGS.0, MOST_ASGS.1),
                )
                .with_target(rule.id.as_str()));
            }
        }
    }
    ASG_PATHS.iter().try_for_each(|p| refs::check(ctx, write, p, "Microsoft.Network/applicationSecurityGroups"))
}

pub(super) fn conflicts(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let mut taken: BTreeMap<(String, u64), &str> = BTreeMap::new();
    let rules: Vec<Rule<'_>> = rules(write).collect();
    for rule in &rules {
        let direction = rule.text("direction").unwrap_or_default().to_lowercase();
        let priority = document::u64_at(rule.value, "properties.priority").unwrap_or_default();
        if let Some(other) = taken.insert((direction, priority), rule.name) {
            return Err(ApiError::bad_request(
                "SecurityRuleConflict",
                format!(
                    "Security rule {} conflicts with rule {other}. Rules cannot have the same Priority and Direction.",
                    rule.name
                ),
            )
            .with_target(rule.id.as_str()));
        }
    }
    Ok(())
}

/// What the service fills in; spelling of enumerations as Azure answers them.
pub(super) fn complete(rule: &mut Value) {
    shape::strip_rendered(rule);
    for (member, spellings) in [
        ("properties.direction", &["Inbound", "Outbound"][..]),
        ("properties.access", &["Allow", "Deny"][..]),
        ("properties.protocol", &["Tcp", "Udp", "Icmp", "Esp", "Ah"][..]),
    ] {
        let spelled = document::str_at(rule, member).and_then(|v| spellings.iter().find(|s| s.eq_ignore_ascii_case(v)));
        if let Some(spelled) = spelled {
            document::set(rule, member, json!(spelled));
        }
    }
    for plural in ["sourcePortRanges", "destinationPortRanges", "sourceAddressPrefixes", "destinationAddressPrefixes"] {
        document::set_default(rule, &format!("properties.{plural}"), json!([]));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net as id};

    /// A good inbound rule with `changes` made to it.
    fn rule(changes: Value) -> Value {
        let mut rule = json!({
            "access": "Allow", "direction": "Inbound", "priority": 100, "protocol": "Tcp",
            "sourceAddressPrefix": "BatchNodeManagement", "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": "29876-29877",
        });
        document::merge(&mut rule, &changes);
        json!({ "properties": rule })
    }

    fn check(changes: Value) -> String {
        let mut world = World::new(Edition::Current);
        world.put(&id("networkSecurityGroups/n"), json!({"properties": {}})).unwrap();
        match world.put(&id("networkSecurityGroups/n/securityRules/r"), rule(changes)) {
            Ok(_) => "accepted".to_owned(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn rules_as_clients_send_them_are_accepted() {
        for changes in [
            json!({}),
            json!({"protocol": "*", "access": "deny", "direction": "outbound"}),
            json!({"sourceAddressPrefix": null, "sourceAddressPrefixes": ["10.0.0.0/24", "10.1.0.4"]}),
            json!({"destinationPortRange": null, "destinationPortRanges": ["22", "80-90"]}),
            json!({"sourceAddressPrefix": "VirtualNetwork"}),
            json!({"sourceAddressPrefix": "111"}),
            json!({"sourceAddressPrefix": "", "sourceAddressPrefixes": ["Internet"]}),
            json!({"priority": "4096"}),
        ] {
            assert_eq!(check(changes.clone()), "accepted", "{changes}");
        }
    }

    #[test]
    fn fields_out_of_range_are_refused() {
        insta::assert_snapshot!(check(json!({"priority": 99})), @"(SecurityRuleInvalidPriority) Security rule has invalid Priority. Value provided: 99 Allowed range 100-4096.");
        insta::assert_snapshot!(check(json!({"priority": 4097})), @"(SecurityRuleInvalidPriority) Security rule has invalid Priority. Value provided: 4097 Allowed range 100-4096.");
        insta::assert_snapshot!(check(json!({"direction": "Sideways"})), @"(SecurityRuleParameterContainsUnsupportedValue) Security rule parameter direction for rule with Id /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/n/securityRules/r contains an unsupported value 'Sideways'. Use Inbound, Outbound.");
        insta::assert_snapshot!(check(json!({"protocol": "Sctp"})), @"(SecurityRuleParameterContainsUnsupportedValue) Security rule parameter protocol for rule with Id /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/n/securityRules/r contains an unsupported value 'Sctp'. Use Tcp, Udp, Icmp, Esp, Ah, *.");
        insta::assert_snapshot!(check(json!({"destinationPortRange": "70000"})), @"(SecurityRuleInvalidPortRange) Security rule has invalid Port range. Value provided: 70000. Value should be an integer OR integer range with '-' delimiter. Valid range 0-65535.");
        insta::assert_snapshot!(check(json!({"destinationPortRange": "90-80"})), @"(SecurityRuleInvalidPortRange) Security rule has invalid Port range. Value provided: 90-80. Value should be an integer OR integer range with '-' delimiter. Valid range 0-65535.");
        insta::assert_snapshot!(check(json!({"destinationPortRange": null})), @"(SecurityRuleParameterContainsUnsupportedValue) Security rule parameter destinationPortRange for rule with Id /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/n/securityRules/r contains an unsupported value ''. Use `*`, a port or a range such as 29876-29877.");
        insta::assert_snapshot!(check(json!({"description": "x".repeat(141)})), @"(SecurityRuleInvalidDescription) Security rule /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/n/securityRules/r has a description of 141 characters; 140 are allowed.");
    }

    #[test]
    fn one_side_says_one_kind_of_thing() {
        insta::assert_snapshot!(check(json!({"sourceAddressPrefix": "10.0.0.0/33"})), @"(SecurityRuleInvalidAddressPrefix) Security rule has invalid Address prefix. Value provided: 10.0.0.0/33.");
        insta::assert_snapshot!(check(json!({"sourceAddressPrefix": null})), @"(SecurityRuleParameterContainsUnsupportedValue) Security rule parameter sourceAddressPrefix for rule with Id /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/n/securityRules/r contains an unsupported value ''. Use `*`, an address, a prefix or a service tag.");
        insta::assert_snapshot!(check(json!({"sourceAddressPrefixes": ["10.0.0.0/8"]})), @"(SecurityRuleParameterContainsUnsupportedValue) Security rule /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/n/securityRules/r mixes a service tag and addresses in sourceAddressPrefixes. One side of a rule takes addresses, or one service tag, or application security groups.");
        insta::assert_snapshot!(check(json!({"sourceAddressPrefix": null, "sourceAddressPrefixes": ["10.0.0.0/8", "10.1.0.0/16"]})), @"(OverlappingSubnetsNotPermittedInSecurityRule) Security rule /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/n/securityRules/r has overlapping subnets in sourceAddressPrefixes: 10.0.0.0/8 and 10.1.0.0/16.");
        insta::assert_snapshot!(check(json!({"sourceAddressPrefix": null, "sourceApplicationSecurityGroups": [{"id": id("applicationSecurityGroups/missing")}]})), @"(InvalidResourceReference) Resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/applicationSecurityGroups/missing referenced by resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/n was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.");
    }

    #[test]
    fn one_priority_serves_one_rule_a_direction() {
        let mut world = World::new(Edition::Current);
        let n = id("networkSecurityGroups/n");
        world.put(&n, json!({"properties": {}})).unwrap();
        world.put(&format!("{n}/securityRules/first"), rule(json!({}))).unwrap();
        world.put(&format!("{n}/securityRules/first"), rule(json!({}))).unwrap();
        world.put(&format!("{n}/securityRules/out"), rule(json!({"direction": "Outbound"}))).unwrap();
        insta::assert_snapshot!(world.put(&format!("{n}/securityRules/second"), rule(json!({}))).unwrap_err(), @"(SecurityRuleConflict) Security rule second conflicts with rule first. Rules cannot have the same Priority and Direction.");
    }

    #[test]
    fn a_group_holds_a_thousand_rules() {
        let many = |count: u32| -> Value {
            (0..count)
                .map(|i| {
                    let mut r = rule(json!({"priority": 100 + i}));
                    r["name"] = json!(format!("r{i}"));
                    r
                })
                .collect()
        };
        let mut world = World::new(Edition::Current);
        let n = id("networkSecurityGroups/n");
        world.put(&n, json!({"properties": {"securityRules": many(1000)}})).unwrap();
        let over = world.put(&n, json!({"properties": {"securityRules": many(1001)}})).unwrap_err();
        assert_eq!(over.code, "SecurityRuleCountLimitReached");
    }
}
