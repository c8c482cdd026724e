//! A planned firewall as the text that the `nft` program would list: for golden tests and people.
//!
//! Not a way to apply anything. A kernel test holds it against what `nft list ruleset` says of the
//! same table, so that a rule we meant and a rule the kernel has cannot differ unseen.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::diff::TABLE;
use crate::netlink::nft::{HASH_SEED, PORTED_SET};
use crate::ruleset::{
    Base, Chain, ChainKind, DataKind, DataValue, Expression, Field, Hook, KeyKind, KeyPart, Rule, Set, Table, Verdict,
};

/// The whole table.
pub fn table(table: &Table) -> String {
    let mut out = format!("table ip {TABLE} {{\n");
    for (name, set) in &table.sets {
        set_text(&mut out, name, set);
    }
    for (name, chain) in &table.chains {
        chain_text(&mut out, name, chain);
    }
    out.push_str("}\n");
    out
}

fn set_text(out: &mut String, name: &str, set: &Set) {
    let kind = if set.header.data.is_some() { "map" } else { "set" };
    let key: Vec<&str> = set.header.key.iter().map(|k| key_kind(*k)).collect();
    let data = match set.header.data {
        Some(DataKind::Mark) => " : mark",
        Some(DataKind::Address) => " : ipv4_addr",
        Some(DataKind::Verdict) => " : verdict",
        None => "",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "\t{kind} {name} {{\n\t\ttype {}{data}", key.join(" . "));
    if set.header.interval {
        out.push_str("\t\tflags interval\n");
    }
    let elements: Vec<String> = set
        .elements
        .iter()
        .map(|e| {
            let key: Vec<String> = e.key.iter().map(key_part).collect();
            let value = match &e.value {
                None => String::new(),
                Some(DataValue::Mark(m)) => format!(" : {m:#010x}"),
                Some(DataValue::Address(a)) => format!(" : {a}"),
                Some(DataValue::Verdict(v)) => format!(" : {}", verdict(v)),
            };
            key.join(" . ") + &value
        })
        .collect();
    if !elements.is_empty() {
        let _ = writeln!(out, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     "));
    }
    out.push_str("\t}\n\n");
}

fn key_kind(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Ifname => "ifname",
        KeyKind::Address => "ipv4_addr",
        KeyKind::Protocol => "inet_proto",
        KeyKind::Port => "inet_service",
    }
}

fn key_part(part: &KeyPart) -> String {
    match part {
        KeyPart::Ifname(name) => format!("\"{name}\""),
        KeyPart::Address(a) => a.to_string(),
        KeyPart::AddressRange(a, b) => range(*a, *b),
        KeyPart::Protocol(p) => protocol(*p),
        KeyPart::ProtocolRange(a, b) => format!("{a}-{b}"),
        KeyPart::Port(p) => p.to_string(),
        KeyPart::PortRange(a, b) if a == b => a.to_string(),
        KeyPart::PortRange(a, b) => format!("{a}-{b}"),
    }
}

/// One address, one prefix, or a range.
fn range(first: Ipv4Addr, last: Ipv4Addr) -> String {
    let mut prefixes = ipnet::Ipv4Subnets::new(first, last, 0);
    match (prefixes.next(), prefixes.next()) {
        (Some(p), None) if p.prefix_len() == 32 => p.addr().to_string(),
        (Some(p), None) => p.to_string(),
        _ => format!("{first}-{last}"),
    }
}

fn chain_text(out: &mut String, name: &str, chain: &Chain) {
    let _ = writeln!(out, "\tchain {name} {{");
    if let Some(base) = &chain.base {
        let _ = writeln!(out, "\t\t{}", base_text(base));
    }
    for r in &chain.rules {
        let _ = writeln!(out, "\t\t{}", rule(r));
    }
    out.push_str("\t}\n\n");
}

fn base_text(base: &Base) -> String {
    let kind = match base.kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
    };
    let hook = match base.hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    };
    let priority = match base.priority {
        -300 => "raw".to_owned(),
        -100 => "dstnat".to_owned(),
        0 => "filter".to_owned(),
        100 => "srcnat".to_owned(),
        n => n.to_string(),
    };
    let policy = if base.drop { "drop" } else { "accept" };
    format!("type {kind} hook {hook} priority {priority}; policy {policy};")
}

/// One rule, without the numbers of its counter.
pub fn rule(rule: &Rule) -> String {
    let mut words: Vec<String> = Vec::new();
    // A port is written with its protocol, which then has no words of its own.
    let mut ports_of = "th".to_owned();
    for (at, e) in rule.expressions.iter().enumerate() {
        let port_follows = rule.expressions[at + 1..].iter().any(asks_port);
        match e {
            Expression::ProtocolIs(p) if port_follows => ports_of = protocol(*p),
            e => words.push(expression(e, &ports_of)),
        }
    }
    words.join(" ")
}

fn asks_port(e: &Expression) -> bool {
    match e {
        Expression::PortIn { .. } => true,
        Expression::InSet { fields, .. } => {
            fields.iter().any(|f| matches!(f, Field::SourcePort | Field::DestinationPort))
        }
        _ => false,
    }
}

fn expression(e: &Expression, ports_of: &str) -> String {
    let no = |not: &bool| if *not { "!= " } else { "" };
    match e {
        Expression::LinkIs { field, name, prefix, not } => {
            let star = if *prefix { "*" } else { "" };
            format!("{} {}\"{name}{star}\"", field_text(*field, ports_of), no(not))
        }
        Expression::AddressIn { field, net, not } => {
            let value = if net.prefix_len() == 32 { net.addr().to_string() } else { net.trunc().to_string() };
            format!("{} {}{value}", field_text(*field, ports_of), no(not))
        }
        Expression::ProtocolIs(p) => format!("meta l4proto {}", protocol(*p)),
        Expression::HasPorts => format!("meta l4proto @{PORTED_SET}"),
        Expression::PortIn { field, first, last } => {
            let value = if first == last { first.to_string() } else { format!("{first}-{last}") };
            format!("{} {value}", field_text(*field, ports_of))
        }
        Expression::InSet { fields, set, not } => format!("{} {}@{set}", fields_text(fields, ports_of), no(not)),
        Expression::VerdictMap { fields, map } => format!("{} vmap @{map}", fields_text(fields, ports_of)),
        Expression::MarkFromMap { fields, map } => {
            format!("meta mark set {} map @{map}", fields_text(fields, ports_of))
        }
        Expression::Established => "ct state established,related".to_owned(),
        Expression::Translated => "ct status dnat".to_owned(),
        Expression::ConnectionsOver(count) => format!("ct count over {count}"),
        Expression::HashSlot { of, slot } => {
            format!("jhash ip saddr . th sport mod {of} seed {HASH_SEED:#x} {slot}")
        }
        Expression::Counter => "counter".to_owned(),
        Expression::Log { group, prefix } => format!("log prefix \"{prefix}\" group {group}"),
        Expression::Dnat { address, port: Some(port) } => format!("dnat to {address}:{port}"),
        Expression::Dnat { address, port: None } => format!("dnat to {address}"),
        Expression::Snat { address } => format!("snat to {address}"),
        Expression::DnatMap { field, map } => format!("dnat to {} map @{map}", field_text(*field, ports_of)),
        Expression::SnatMap { field, map } => format!("snat to {} map @{map}", field_text(*field, ports_of)),
        Expression::Verdict(v) => verdict(v),
    }
}

fn fields_text(fields: &[Field], ports_of: &str) -> String {
    fields.iter().map(|f| field_text(*f, ports_of)).collect::<Vec<_>>().join(" . ")
}

fn field_text(field: Field, ports_of: &str) -> String {
    match field {
        Field::InLink => "iifname".to_owned(),
        Field::OutLink => "oifname".to_owned(),
        Field::Protocol => "meta l4proto".to_owned(),
        Field::Source => "ip saddr".to_owned(),
        Field::Destination => "ip daddr".to_owned(),
        Field::SourcePort => format!("{ports_of} sport"),
        Field::DestinationPort => format!("{ports_of} dport"),
        Field::OriginalDestination => "ct original ip daddr".to_owned(),
    }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        50 => "esp".to_owned(),
        51 => "ah".to_owned(),
        n => n.to_string(),
    }
}

fn verdict(v: &Verdict) -> String {
    match v {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(c) => format!("jump {c}"),
        Verdict::Goto(c) => format!("goto {c}"),
    }
}
