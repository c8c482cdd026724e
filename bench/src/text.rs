//! A plan's steps as the command lines that an administrator would write: the baseline of `nodes`
//! and `rules`. The very same objects, by `ip -batch` and `nft -f`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use moat_host::Step;
use moat_host::diff::{NetChange, NftOp};
use moat_host::layout::{Hop, NsName};
use moat_host::ruleset::{
    ChainKind, DataKind, DataValue, Element, Expression, Field, Hook, KeyKind, KeyPart, Rule, SetHeader, Verdict,
};

/// What to feed to which program.
#[derive(Debug, Default)]
pub struct Commands {
    /// For `ip -batch`, in the namespace of the caller.
    pub host: String,
    /// For `ip -n NAME -batch`, in this order.
    pub ip: BTreeMap<NsName, String>,
    /// For `nft -f` in the namespace, in this order.
    pub nft: BTreeMap<NsName, String>,
}

/// Writes steps as commands. Kernel switches (`sysctl`) are left out, in the baseline's favour.
pub fn commands(steps: &[Step]) -> Commands {
    let mut c = Commands::default();
    for step in steps {
        match step {
            Step::CreateNs { ns, .. } => {
                let _ = writeln!(c.host, "netns add {ns}");
                line(&mut c.ip, ns, "link set lo up");
            }
            Step::DeleteNs { ns } => {
                let _ = writeln!(c.host, "netns del {ns}");
            }
            Step::CreateVeth(v) => {
                let (a, b) = (&v.a, &v.b);
                let (a_mac, b_mac) = (mac(a.mac), mac(b.mac));
                line(
                    &mut c.ip,
                    &a.ns,
                    &format!(
                        "link add {} address {a_mac} type veth peer name {} address {b_mac} netns {}",
                        a.link, b.link, b.ns
                    ),
                );
                line(&mut c.ip, &a.ns, &format!("link set {} up", a.link));
                line(&mut c.ip, &b.ns, &format!("link set {} up", b.link));
            }
            Step::DeleteVeth { ns, link } => line(&mut c.ip, ns, &format!("link del {link}")),
            Step::Net { ns, changes } => {
                for change in changes {
                    line(&mut c.ip, ns, &net(change));
                }
            }
            Step::Nft { ns, ops } => {
                let text = c.nft.entry(ns.clone()).or_default();
                for op in ops {
                    nft(text, op);
                }
            }
        }
    }
    c
}

fn line(to: &mut BTreeMap<NsName, String>, ns: &NsName, text: &str) {
    let batch = to.entry(ns.clone()).or_default();
    batch.push_str(text);
    batch.push('\n');
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}

fn net(change: &NetChange) -> String {
    match change {
        NetChange::AddAddress(link, net) => format!("addr replace {net} dev {link}"),
        NetChange::DelAddress(link, net) => format!("addr del {net} dev {link}"),
        NetChange::AddNeighbour(n) => {
            format!("neigh replace {} lladdr {} dev {} nud permanent", n.address, mac(n.mac), n.link)
        }
        NetChange::DelNeighbour(n) => format!("neigh del {} dev {}", n.address, n.link),
        NetChange::AddRoute(r) | NetChange::DelRoute(r) => {
            let verb = if matches!(change, NetChange::AddRoute(_)) { "replace" } else { "del" };
            let (kind, hop) = match &r.hop {
                Hop::Link(link) => ("unicast", format!("dev {link} scope link")),
                Hop::Via(gateway, link) => ("unicast", format!("via {gateway} dev {link} onlink")),
                Hop::Blackhole => ("blackhole", String::new()),
                Hop::Throw => ("throw", String::new()),
                Hop::Local => ("local", "dev lo".to_owned()),
            };
            format!("route {verb} {kind} {} {hop} table {} metric {}", r.prefix, r.table, r.metric)
        }
        NetChange::AddRule(r) => format!("rule add fwmark {} lookup {} priority 100", r.mark, r.table),
        NetChange::DelRule(r) => format!("rule del fwmark {} lookup {} priority 100", r.mark, r.table),
    }
}

fn nft(text: &mut String, op: &NftOp) {
    const T: &str = "ip moat";
    let _ = match op {
        NftOp::AddTable => writeln!(text, "add table {T}"),
        NftOp::DelTable => writeln!(text, "delete table {T}"),
        NftOp::AddSet(name, header) => {
            writeln!(text, "add {} {T} {name} {{ {} }}", set_word(header), header_text(header))
        }
        NftOp::DelSet(name) => writeln!(text, "delete set {T} {name}"),
        NftOp::AddElements { set, elements, .. } => {
            writeln!(text, "add element {T} {set} {{ {} }}", list(elements.iter().map(|e| element(e, true))))
        }
        NftOp::DelElements { set, elements, .. } => {
            writeln!(text, "delete element {T} {set} {{ {} }}", list(elements.iter().map(|e| element(e, false))))
        }
        NftOp::AddChain(name, None) => writeln!(text, "add chain {T} {name}"),
        NftOp::AddChain(name, Some(base)) => {
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
            let policy = if base.drop { "drop" } else { "accept" };
            writeln!(
                text,
                "add chain {T} {name} {{ type {kind} hook {hook} priority {}; policy {policy}; }}",
                base.priority
            )
        }
        NftOp::FlushChain(name) => writeln!(text, "flush chain {T} {name}"),
        NftOp::AddRules { chain, rules } => {
            for r in rules {
                let _ = writeln!(text, "add rule {T} {chain} {}", rule(r));
            }
            Ok(())
        }
        NftOp::DelChain(name) => writeln!(text, "delete chain {T} {name}"),
    };
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn set_word(header: &SetHeader) -> &'static str {
    if header.data.is_some() { "map" } else { "set" }
}

fn header_text(header: &SetHeader) -> String {
    let key: Vec<&str> = header
        .key
        .iter()
        .map(|k| match k {
            KeyKind::Ifname => "ifname",
            KeyKind::Address => "ipv4_addr",
            KeyKind::Protocol => "inet_proto",
            KeyKind::Port => "inet_service",
        })
        .collect();
    let data = match header.data {
        None => "",
        Some(DataKind::Mark) => " : mark",
        Some(DataKind::Address) => " : ipv4_addr",
        Some(DataKind::Verdict) => " : verdict",
    };
    let flags = if header.interval { " flags interval;" } else { "" };
    format!("type {}{data};{flags}", key.join(" . "))
}

fn element(element: &Element, with_value: bool) -> String {
    let key: Vec<String> = element
        .key
        .iter()
        .map(|part| match part {
            KeyPart::Ifname(name) => format!("\"{name}\""),
            KeyPart::Address(a) => a.to_string(),
            KeyPart::AddressRange(a, b) => range(a, b),
            KeyPart::Protocol(p) => p.to_string(),
            KeyPart::ProtocolRange(a, b) => range(a, b),
            KeyPart::Port(p) => p.to_string(),
            KeyPart::PortRange(a, b) => range(a, b),
        })
        .collect();
    let value = match element.value.as_ref().filter(|_| with_value) {
        None => String::new(),
        Some(DataValue::Mark(m)) => format!(" : {m:#x}"),
        Some(DataValue::Address(a)) => format!(" : {a}"),
        Some(DataValue::Verdict(v)) => format!(" : {}", verdict(v)),
    };
    key.join(" . ") + &value
}

fn range<T: PartialEq + std::fmt::Display>(first: &T, last: &T) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

fn rule(rule: &Rule) -> String {
    rule.expressions.iter().map(expression).collect::<Vec<_>>().join(" ")
}

fn field(field: Field) -> &'static str {
    match field {
        Field::InLink => "iifname",
        Field::OutLink => "oifname",
        Field::Protocol => "meta l4proto",
        Field::Source => "ip saddr",
        Field::Destination => "ip daddr",
        Field::SourcePort => "th sport",
        Field::DestinationPort => "th dport",
        Field::OriginalDestination => "ct original ip daddr",
    }
}

fn fields(all: &[Field]) -> String {
    all.iter().map(|f| field(*f)).collect::<Vec<_>>().join(" . ")
}

fn expression(e: &Expression) -> String {
    let not = |not: &bool| if *not { "!= " } else { "" };
    match e {
        Expression::LinkIs { field: f, name, prefix, not: n } => {
            format!("{} {}\"{name}{}\"", field(*f), not(n), if *prefix { "*" } else { "" })
        }
        Expression::AddressIn { field: f, net, not: n } => format!("{} {}{net}", field(*f), not(n)),
        Expression::ProtocolIs(p) => format!("meta l4proto {p}"),
        Expression::HasPorts => "meta l4proto { 6, 17 }".to_owned(),
        Expression::PortIn { field: f, first, last } => format!("{} {}", field(*f), range(first, last)),
        Expression::InSet { fields: f, set, not: n } => format!("{} {}@{set}", fields(f), not(n)),
        Expression::VerdictMap { fields: f, map } => format!("{} vmap @{map}", fields(f)),
        Expression::MarkFromMap { fields: f, map } => format!("meta mark set {} map @{map}", fields(f)),
        Expression::Established => "ct state established,related".to_owned(),
        Expression::Translated => "ct status dnat".to_owned(),
        Expression::ConnectionsOver(count) => format!("ct count over {count}"),
        Expression::HashSlot { of, slot } => format!("jhash ip saddr . th sport mod {of} == {slot}"),
        Expression::Counter => "counter".to_owned(),
        Expression::Log { group, prefix } => format!("log prefix \"{prefix}\" group {group}"),
        Expression::Dnat { address, port: None } => format!("dnat to {address}"),
        Expression::Dnat { address, port: Some(port) } => format!("dnat to {address}:{port}"),
        Expression::Snat { address } => format!("snat to {address}"),
        Expression::DnatMap { field: f, map } => format!("dnat to {} map @{map}", field(*f)),
        Expression::SnatMap { field: f, map } => format!("snat to {} map @{map}", field(*f)),
        Expression::Verdict(v) => verdict(v),
    }
}
