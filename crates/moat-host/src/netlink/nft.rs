//! `nf_tables`: transactions out of [`NftOp`]s, and dumps of what is there.

use super::message::{Attributes, Builder};
use super::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, Result, Socket};
use crate::diff::{NftOp, TABLE};
use crate::ruleset::{
    Base, ChainKind, DataKind, DataValue, Element, Expression, Field, Hook, KeyKind, KeyPart, Rule, SetHeader, Verdict,
};
use std::collections::BTreeMap;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const GETSET: u16 = 10;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;

const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const LIST_ELEM: u16 = 1;
/// The first register; it holds 16 bytes.
const REG_1: u32 = 1;
/// The second 16-byte register.
const REG_2: u32 = 2;
/// The first 4-byte register; the same memory as [`REG_1`].
const REG32_00: u32 = 8;
const REG_VERDICT: u32 = 0;
const LINK_NAME_BYTES: usize = 16;
/// Seed of the hash that spreads connections: fixed, so that each slot's rule computes the same.
pub(crate) const HASH_SEED: u32 = 0x6d6f_6174;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const STATE_ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const STATUS_DNAT: u32 = 1 << 5;
const FAMILY_IPV4: u8 = 2;

fn message(kind: u16, flags: u16) -> Builder {
    Builder::new((SUBSYSTEM << 8) | kind, flags, &[FAMILY_IPV4, 0, 0, 0])
}

fn batch_edge(kind: u16, sequence: u32) -> Vec<u8> {
    let subsystem = SUBSYSTEM.to_be_bytes();
    Builder::new(kind, 0, &[0, 0, subsystem[0], subsystem[1]]).finish(NLM_F_REQUEST, sequence)
}

/// Carries out `ops` as one transaction.
pub fn transaction(socket: &mut Socket, ops: &[NftOp]) -> Result<()> {
    let mut bytes = batch_edge(BATCH_BEGIN, socket.next_sequence());
    let mut messages: Vec<(Builder, String)> = Vec::new();
    for (id, op) in (1u32..).zip(ops) {
        encode(op, id, &mut messages);
    }
    let mut names = Vec::with_capacity(messages.len());
    let count = messages.len();
    let mut last = 0;
    for (n, (builder, what)) in messages.into_iter().enumerate() {
        let sequence = socket.next_sequence();
        let ack = if n + 1 == count { NLM_F_ACK } else { 0 };
        bytes.extend_from_slice(&builder.finish(NLM_F_REQUEST | ack, sequence));
        names.push((sequence, what));
        last = sequence;
    }
    if count == 0 {
        return Ok(());
    }
    bytes.extend_from_slice(&batch_edge(BATCH_END, socket.next_sequence()));
    socket.batch(&bytes, last, &names)
}

/// Messages of one operation; `id` is unique in the transaction.
fn encode(op: &NftOp, id: u32, out: &mut Vec<(Builder, String)>) {
    match op {
        NftOp::AddTable => {
            let mut m = message(NEWTABLE, NLM_F_CREATE);
            m.text(1, TABLE);
            out.push((m, "add table".into()));
        }
        NftOp::DelTable => {
            let mut m = message(DELTABLE, 0);
            m.text(1, TABLE);
            out.push((m, "delete table".into()));
        }
        NftOp::AddSet(name, header) => out.push((add_set(name, header, id), format!("add set {name}"))),
        NftOp::DelSet(name) => {
            let mut m = message(DELSET, 0);
            m.text(1, TABLE).text(2, name);
            out.push((m, format!("delete set {name}")));
        }
        NftOp::AddElements { set, header, elements: list } => {
            if !list.is_empty() {
                out.push((elements(NEWSETELEM, NLM_F_CREATE, set, header, list), format!("add elements to {set}")));
            }
        }
        NftOp::DelElements { set, header, elements: list } => {
            if !list.is_empty() {
                out.push((elements(DELSETELEM, 0, set, header, list), format!("delete elements of {set}")));
            }
        }
        NftOp::AddChain(name, base) => out.push((add_chain(name, base.as_ref()), format!("add chain {name}"))),
        NftOp::FlushChain(chain) => {
            let mut m = message(DELRULE, 0);
            m.text(1, TABLE).text(2, chain);
            out.push((m, format!("flush chain {chain}")));
        }
        NftOp::AddRules { chain, rules } => {
            for (n, rule) in rules.iter().enumerate() {
                out.push((add_rule(chain, rule), format!("add rule {n} to {chain}")));
            }
        }
        NftOp::DelChain(name) => {
            let mut m = message(DELCHAIN, 0);
            m.text(1, TABLE).text(3, name);
            out.push((m, format!("delete chain {name}")));
        }
    }
}

fn add_chain(name: &str, base: Option<&Base>) -> Builder {
    let mut m = message(NEWCHAIN, NLM_F_CREATE);
    m.text(1, TABLE).text(3, name);
    if let Some(base) = base {
        let hook: u32 = match base.hook {
            Hook::Prerouting => 0,
            Hook::Input => 1,
            Hook::Forward => 2,
            Hook::Output => 3,
            Hook::Postrouting => 4,
        };
        m.nested(4, |b| {
            b.be32(1, hook).be32(2, base.priority.cast_unsigned());
        });
        m.be32(5, u32::from(!base.drop));
        m.text(
            7,
            match base.kind {
                ChainKind::Filter => "filter",
                ChainKind::Nat => "nat",
            },
        );
    }
    m
}

/// `nft`'s number of a type, so that the program lists our sets readably.
fn key_type(kind: KeyKind) -> u32 {
    match kind {
        KeyKind::Address => 7,
        KeyKind::Protocol => 12,
        KeyKind::Port => 13,
        KeyKind::Ifname => 41,
    }
}

fn key_bytes(kind: KeyKind) -> u32 {
    if kind == KeyKind::Ifname { LINK_NAME_BYTES as u32 } else { 4 }
}

fn add_set(name: &str, header: &SetHeader, id: u32) -> Builder {
    const FLAG_INTERVAL: u32 = 4;
    const FLAG_MAP: u32 = 8;
    const FLAG_CONCAT: u32 = 0x80;
    const TYPE_BITS: u32 = 6;
    let concat = header.key.len() > 1;
    let mut flags = 0;
    if header.interval {
        flags |= FLAG_INTERVAL;
    }
    if header.interval && concat {
        flags |= FLAG_CONCAT;
    }
    if header.data.is_some() {
        flags |= FLAG_MAP;
    }
    // A lone port or protocol is compared in its own width; in a concatenation fields are padded.
    let length = match header.key.as_slice() {
        [KeyKind::Port] => 2,
        [KeyKind::Protocol] => 1,
        many => many.iter().map(|k| key_bytes(*k)).sum(),
    };
    let kind = header.key.iter().fold(0, |all, k| (all << TYPE_BITS) | key_type(*k));
    let mut m = message(NEWSET, NLM_F_CREATE);
    m.text(1, TABLE).text(2, name).be32(3, flags).be32(4, kind).be32(5, length);
    match header.data {
        Some(DataKind::Verdict) => {
            m.be32(6, 0xffff_ff00);
        }
        Some(DataKind::Mark) => {
            m.be32(6, 19).be32(7, 4);
        }
        Some(DataKind::Address) => {
            m.be32(6, 7).be32(7, 4);
        }
        None => {}
    }
    if header.interval && concat {
        m.nested(9, |b| {
            b.nested(2, |b| {
                for kind in &header.key {
                    let length = key_field_bytes(*kind);
                    b.nested(LIST_ELEM, |b| {
                        b.be32(1, length);
                    });
                }
            });
        });
    }
    m.be32(10, id);
    m
}

/// Length of a field inside a concatenation, without padding.
fn key_field_bytes(kind: KeyKind) -> u32 {
    match kind {
        KeyKind::Ifname => LINK_NAME_BYTES as u32,
        KeyKind::Address => 4,
        KeyKind::Protocol => 1,
        KeyKind::Port => 2,
    }
}

fn link_name(name: &str) -> [u8; LINK_NAME_BYTES] {
    let mut out = [0; LINK_NAME_BYTES];
    for (to, from) in out.iter_mut().take(LINK_NAME_BYTES - 1).zip(name.bytes()) {
        *to = from;
    }
    out
}

/// First (or last) value of a key part, without padding.
fn part_bytes(part: &KeyPart, last: bool) -> Vec<u8> {
    match part {
        KeyPart::Ifname(name) => link_name(name).to_vec(),
        KeyPart::Address(a) => a.octets().to_vec(),
        KeyPart::AddressRange(a, b) => if last { b } else { a }.octets().to_vec(),
        KeyPart::Protocol(p) => vec![*p],
        KeyPart::ProtocolRange(a, b) => vec![if last { *b } else { *a }],
        KeyPart::Port(p) => p.to_be_bytes().to_vec(),
        KeyPart::PortRange(a, b) => if last { b } else { a }.to_be_bytes().to_vec(),
    }
}

fn key_value(key: &[KeyPart], last: bool) -> Vec<u8> {
    if let [part] = key {
        return part_bytes(part, last);
    }
    let mut out = Vec::new();
    for part in key {
        out.extend(part_bytes(part, last));
        out.resize(super::message::align(out.len()), 0);
    }
    out
}

/// The value after `bytes` as a big-endian number; `None` after the last one.
fn successor(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    for byte in bytes.iter_mut().rev() {
        let (next, over) = byte.overflowing_add(1);
        *byte = next;
        if !over {
            return Some(bytes);
        }
    }
    None
}

fn verdict(b: &mut Builder, verdict: &Verdict) {
    let (code, chain): (i32, Option<&str>) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(c) => (-3, Some(c)),
        Verdict::Goto(c) => (-4, Some(c)),
        Verdict::Return => (-5, None),
    };
    b.nested(DATA_VERDICT, |b| {
        b.be32(1, code.cast_unsigned());
        if let Some(chain) = chain {
            b.text(2, chain);
        }
    });
}

fn elements(kind: u16, flags: u16, set: &str, header: &SetHeader, list: &[Element]) -> Builder {
    const INTERVAL_END: u32 = 1;
    const ELEM_KEY: u16 = 1;
    const ELEM_DATA: u16 = 2;
    const ELEM_FLAGS: u16 = 3;
    const ELEM_KEY_END: u16 = 10;
    let concat = header.key.len() > 1;
    let mut m = message(kind, flags);
    m.text(1, TABLE).text(2, set);
    m.nested(3, |b| {
        for element in list {
            let first = key_value(&element.key, false);
            let last = key_value(&element.key, true);
            b.nested(LIST_ELEM, |b| {
                b.nested(ELEM_KEY, |b| {
                    b.attribute(DATA_VALUE, &first);
                });
                if header.interval && concat {
                    b.nested(ELEM_KEY_END, |b| {
                        b.attribute(DATA_VALUE, &last);
                    });
                }
                match &element.value {
                    Some(DataValue::Mark(mark)) => {
                        b.nested(ELEM_DATA, |b| {
                            b.attribute(DATA_VALUE, &mark.to_ne_bytes());
                        });
                    }
                    Some(DataValue::Address(a)) => {
                        b.nested(ELEM_DATA, |b| {
                            b.attribute(DATA_VALUE, &a.octets());
                        });
                    }
                    Some(DataValue::Verdict(v)) => {
                        b.nested(ELEM_DATA, |b| verdict(b, v));
                    }
                    None => {}
                }
            });
            // A tree of intervals wants the first value after each one; none after the very last.
            if header.interval
                && !concat
                && let Some(after) = successor(last)
            {
                b.nested(LIST_ELEM, |b| {
                    b.nested(ELEM_KEY, |b| {
                        b.attribute(DATA_VALUE, &after);
                    });
                    b.be32(ELEM_FLAGS, INTERVAL_END);
                });
            }
        }
    });
    m
}

fn add_rule(chain: &str, rule: &Rule) -> Builder {
    let mut m = message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
    m.text(1, TABLE).text(2, chain);
    m.nested(4, |b| {
        for e in &rule.expressions {
            expression(b, e);
        }
    });
    m
}

fn one(b: &mut Builder, name: &str, data: impl FnOnce(&mut Builder)) {
    b.nested(LIST_ELEM, |b| {
        b.text(1, name).nested(2, data);
    });
}

/// Loads a field into a register.
fn load(b: &mut Builder, field: Field, register: u32) {
    let meta = |b: &mut Builder, key: u32| {
        one(b, "meta", |b| {
            b.be32(1, register).be32(2, key);
        });
    };
    let payload = |b: &mut Builder, base: u32, offset: u32, length: u32| {
        one(b, "payload", |b| {
            b.be32(1, register).be32(2, base).be32(3, offset).be32(4, length);
        });
    };
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    match field {
        Field::InLink => meta(b, 6),
        Field::OutLink => meta(b, 7),
        Field::Protocol => meta(b, 16),
        Field::Source => payload(b, NETWORK, 12, 4),
        Field::Destination => payload(b, NETWORK, 16, 4),
        Field::SourcePort => payload(b, TRANSPORT, 0, 2),
        Field::DestinationPort => payload(b, TRANSPORT, 2, 2),
        Field::OriginalDestination => one(b, "ct", |b| {
            b.be32(1, register).be32(2, 20).attribute(3, &[0]);
        }),
    }
}

/// Loads fields side by side, as a concatenated key wants them.
fn load_all(b: &mut Builder, fields: &[Field]) {
    if let [field] = fields {
        return load(b, *field, REG_1);
    }
    let mut slot = 0;
    for field in fields {
        load(b, *field, REG32_00 + slot);
        slot += if matches!(field, Field::InLink | Field::OutLink) { 4 } else { 1 };
    }
}

fn compare(b: &mut Builder, op: u32, value: &[u8]) {
    one(b, "cmp", |b| {
        b.be32(1, REG_1).be32(2, op).nested(3, |b| {
            b.attribute(DATA_VALUE, value);
        });
    });
}

fn mask(b: &mut Builder, mask: &[u8]) {
    one(b, "bitwise", |b| {
        let zero = vec![0; mask.len()];
        b.be32(1, REG_1).be32(2, REG_1).be32(3, mask.len() as u32);
        b.nested(4, |b| {
            b.attribute(DATA_VALUE, mask);
        });
        b.nested(5, |b| {
            b.attribute(DATA_VALUE, &zero);
        });
    });
}

fn lookup(b: &mut Builder, set: &str, into: Option<u32>, not: bool) {
    one(b, "lookup", |b| {
        b.text(1, set).be32(2, REG_1);
        if let Some(register) = into {
            b.be32(3, register);
        }
        if not {
            b.be32(5, 1);
        }
    });
}

fn immediate(b: &mut Builder, register: u32, value: &[u8]) {
    one(b, "immediate", |b| {
        b.be32(1, register).nested(2, |b| {
            b.attribute(DATA_VALUE, value);
        });
    });
}

/// Source (0) or destination (1) translation to the address in the first register.
fn translate(b: &mut Builder, kind: u32, port_register: Option<u32>) {
    one(b, "nat", |b| {
        b.be32(1, kind).be32(2, u32::from(FAMILY_IPV4)).be32(3, REG_1);
        if let Some(register) = port_register {
            b.be32(5, register);
        }
    });
}

fn ct(b: &mut Builder, key: u32, bits: u32) {
    one(b, "ct", |b| {
        b.be32(1, REG_1).be32(2, key);
    });
    mask(b, &bits.to_ne_bytes());
    compare(b, CMP_NEQ, &[0; 4]);
}

/// `NFT_CONNLIMIT_F_INV`: matches above the count, not up to it.
const CONNLIMIT_INVERTED: u32 = 1;

fn expression(b: &mut Builder, e: &Expression) {
    let op = |not: &bool| if *not { CMP_NEQ } else { CMP_EQ };
    match e {
        Expression::LinkIs { field, name, prefix, not } => {
            load(b, *field, REG_1);
            let padded = link_name(name);
            let length = if *prefix { name.len().min(LINK_NAME_BYTES) } else { LINK_NAME_BYTES };
            compare(b, op(not), &padded[..length]);
        }
        Expression::AddressIn { field, net, not } => {
            load(b, *field, REG_1);
            if net.prefix_len() < 32 {
                mask(b, &net.netmask().octets());
            }
            compare(b, op(not), &net.network().octets());
        }
        Expression::ProtocolIs(protocol) => {
            load(b, Field::Protocol, REG_1);
            compare(b, CMP_EQ, &[*protocol]);
        }
        Expression::HasPorts => {
            load(b, Field::Protocol, REG_1);
            lookup(b, PORTED_SET, None, false);
        }
        Expression::PortIn { field, first, last } => {
            load(b, *field, REG_1);
            if first == last {
                compare(b, CMP_EQ, &first.to_be_bytes());
            } else {
                one(b, "range", |b| {
                    b.be32(1, REG_1).be32(2, 0);
                    b.nested(3, |b| {
                        b.attribute(DATA_VALUE, &first.to_be_bytes());
                    });
                    b.nested(4, |b| {
                        b.attribute(DATA_VALUE, &last.to_be_bytes());
                    });
                });
            }
        }
        Expression::InSet { fields, set, not } => {
            load_all(b, fields);
            lookup(b, set, None, *not);
        }
        Expression::VerdictMap { fields, map } => {
            load_all(b, fields);
            lookup(b, map, Some(REG_VERDICT), false);
        }
        Expression::MarkFromMap { fields, map } => {
            load_all(b, fields);
            lookup(b, map, Some(REG_1), false);
            one(b, "meta", |b| {
                b.be32(2, 3).be32(3, REG_1);
            });
        }
        Expression::Established => ct(b, 0, STATE_ESTABLISHED_OR_RELATED),
        Expression::Translated => ct(b, 2, STATUS_DNAT),
        Expression::ConnectionsOver(count) => one(b, "connlimit", |b| {
            b.be32(1, *count).be32(2, CONNLIMIT_INVERTED);
        }),
        Expression::HashSlot { of, slot } => {
            load_all(b, &[Field::Source, Field::SourcePort]);
            one(b, "hash", |b| {
                b.be32(1, REG_1).be32(2, REG_1).be32(3, 8).be32(4, *of).be32(5, HASH_SEED).be32(6, 0).be32(7, 0);
            });
            compare(b, CMP_EQ, &slot.to_ne_bytes());
        }
        Expression::Counter => {
            b.nested(LIST_ELEM, |b| {
                b.text(1, "counter");
            });
        }
        Expression::Log { group, prefix } => one(b, "log", |b| {
            b.attribute(1, &group.to_be_bytes()).text(2, prefix);
        }),
        Expression::Dnat { address, port } => {
            immediate(b, REG_1, &address.octets());
            if let Some(port) = port {
                immediate(b, REG_2, &port.to_be_bytes());
            }
            translate(b, 1, port.map(|_| REG_2));
        }
        Expression::Snat { address } => {
            immediate(b, REG_1, &address.octets());
            translate(b, 0, None);
        }
        Expression::DnatMap { field, map } => {
            load(b, *field, REG_1);
            lookup(b, map, Some(REG_1), false);
            translate(b, 1, None);
        }
        Expression::SnatMap { field, map } => {
            load(b, *field, REG_1);
            lookup(b, map, Some(REG_1), false);
            translate(b, 0, None);
        }
        Expression::Verdict(v) => one(b, "immediate", |b| {
            b.be32(1, REG_VERDICT).nested(2, |b| verdict(b, v));
        }),
    }
}

/// The set every table with [`Expression::HasPorts`] has: the protocols with ports.
pub const PORTED_SET: &str = "ported";

/// A chain as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainSeen {
    /// Whether it hangs on a hook.
    pub base: bool,
    /// Its rules in order: prefix of the log expression, packets counted.
    pub rules: Vec<RuleSeen>,
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleSeen {
    /// Prefix it logs with.
    pub log: Option<String>,
    /// Packets counted.
    pub packets: Option<u64>,
}

/// Chains of our table with their rules.
pub fn chains(socket: &mut Socket) -> Result<BTreeMap<String, ChainSeen>> {
    let mut out = BTreeMap::new();
    for m in socket.dump(message(GETCHAIN, 0), "list chains")? {
        let a = Attributes::new(m.payload.get(4..).unwrap_or_default());
        if a.text(1).as_deref() == Some(TABLE)
            && let Some(name) = a.text(3)
        {
            out.insert(name, ChainSeen { base: a.get(4).is_some(), rules: Vec::new() });
        }
    }
    for m in socket.dump(message(GETRULE, 0), "list rules")? {
        let a = Attributes::new(m.payload.get(4..).unwrap_or_default());
        if a.text(1).as_deref() != Some(TABLE) {
            continue;
        }
        let Some(chain) = a.text(2).and_then(|c| out.get_mut(&c)) else { continue };
        let mut rule = RuleSeen::default();
        for (_, e) in a.nested(4) {
            let e = Attributes::new(e);
            match e.text(1).as_deref() {
                Some("log") => rule.log = e.nested(2).text(2),
                Some("counter") => {
                    let packets = e.nested(2).get(2).and_then(|v| v.try_into().ok()).map(u64::from_be_bytes);
                    rule.packets = packets;
                }
                _ => {}
            }
        }
        chain.rules.push(rule);
    }
    Ok(out)
}

/// Names of our sets with the number of their elements, as the plan counts them: an interval is one.
pub fn sets(socket: &mut Socket) -> Result<BTreeMap<String, usize>> {
    let mut names = Vec::new();
    for m in socket.dump(message(GETSET, 0), "list sets")? {
        let a = Attributes::new(m.payload.get(4..).unwrap_or_default());
        if a.text(1).as_deref() == Some(TABLE) {
            names.extend(a.text(2));
        }
    }
    let mut out = BTreeMap::new();
    for name in names {
        let mut request = message(GETSETELEM, 0);
        request.text(1, TABLE).text(2, &name);
        let mut count = 0;
        for m in socket.dump(request, "list set elements")? {
            let a = Attributes::new(m.payload.get(4..).unwrap_or_default());
            count += a.nested(3).filter(|(_, e)| Attributes::new(e).be32(3).unwrap_or(0) & 1 == 0).count();
        }
        out.insert(name, count);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn bytes_of(a: &str) -> Vec<u8> {
        a.parse::<Ipv4Addr>().map(|a| a.octets().to_vec()).unwrap_or_default()
    }

    #[test]
    fn after_the_last_address_there_is_none() {
        assert_eq!(successor(bytes_of("10.0.0.255")), Some(bytes_of("10.0.1.0")));
        assert_eq!(successor(bytes_of("255.255.255.255")), None);
    }

    #[test]
    fn concatenated_keys_are_padded_and_lone_ones_are_not() {
        let key = [KeyPart::Address(Ipv4Addr::new(1, 2, 3, 4)), KeyPart::Protocol(6), KeyPart::Port(443)];
        assert_eq!(key_value(&key, false), [1, 2, 3, 4, 6, 0, 0, 0, 1, 187, 0, 0]);
        assert_eq!(key_value(&[KeyPart::Port(443)], false), [1, 187]);
    }
}
