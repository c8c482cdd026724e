//! Walks a packet through the chains of a planned table, as the kernel would: written apart from
//! the planner, and compared with the model's own judgement of an NSG.

use std::net::Ipv4Addr;

use moat_host::ruleset::{DataValue, Element, Expression, Field, KeyPart, Table, Verdict};

#[derive(Debug, Clone)]
pub struct Packet {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
}

#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Dropped,
    Returned,
}

/// Runs `chain`; adds the log prefixes on the way to `log`.
pub fn run(table: &Table, chain: &str, packet: &Packet, log: &mut Vec<String>) -> End {
    for rule in &table.chains[chain].rules {
        let mut verdict = None;
        for e in &rule.expressions {
            match e {
                Expression::Counter => {}
                Expression::Log { prefix, .. } => log.push(prefix.clone()),
                Expression::Verdict(v) => verdict = Some(v.clone()),
                Expression::VerdictMap { fields, map } => match find(table, map, fields, packet) {
                    Some(Element { value: Some(DataValue::Verdict(v)), .. }) => verdict = Some(v.clone()),
                    _ => break,
                },
                condition if holds(table, condition, packet) => {}
                _ => break,
            }
        }
        match verdict {
            None => {}
            Some(Verdict::Drop) => return End::Dropped,
            Some(Verdict::Return | Verdict::Accept) => return End::Returned,
            Some(Verdict::Jump(c)) if run(table, &c, packet, log) == End::Dropped => return End::Dropped,
            Some(Verdict::Jump(_)) => {}
            Some(Verdict::Goto(c)) => return run(table, &c, packet, log),
        }
    }
    End::Returned
}

fn ported(packet: &Packet) -> bool {
    matches!(packet.protocol, 6 | 17)
}

fn holds(table: &Table, e: &Expression, packet: &Packet) -> bool {
    match e {
        Expression::AddressIn { field, net, not } => {
            let a = if *field == Field::Source { packet.source } else { packet.destination };
            net.contains(&a) != *not
        }
        Expression::ProtocolIs(p) => packet.protocol == *p,
        Expression::HasPorts => ported(packet),
        Expression::PortIn { field, first, last } => {
            let p = if *field == Field::SourcePort { packet.source_port } else { packet.destination_port };
            assert!(ported(packet), "a port is asked of a packet that has none");
            (*first..=*last).contains(&p)
        }
        Expression::InSet { fields, set, not } => find(table, set, fields, packet).is_some() != *not,
        other => panic!("no condition of a rule list: {other:?}"),
    }
}

fn find<'t>(table: &'t Table, set: &str, fields: &[Field], packet: &Packet) -> Option<&'t Element> {
    table.sets[set].elements.iter().find(|e| e.key.iter().zip(fields).all(|(part, field)| covers(part, *field, packet)))
}

fn covers(part: &KeyPart, field: Field, packet: &Packet) -> bool {
    match (part, field) {
        (KeyPart::AddressRange(a, b), Field::Source) => (*a..=*b).contains(&packet.source),
        (KeyPart::AddressRange(a, b), Field::Destination) => (*a..=*b).contains(&packet.destination),
        (KeyPart::ProtocolRange(a, b), Field::Protocol) => (*a..=*b).contains(&packet.protocol),
        (KeyPart::PortRange(a, b), Field::SourcePort) => (*a..=*b).contains(&packet.source_port),
        (KeyPart::PortRange(a, b), Field::DestinationPort) => (*a..=*b).contains(&packet.destination_port),
        other => panic!("not in a rule list: {other:?}"),
    }
}

/// Whether two elements of an interval map of several fields overlap: the kernel refuses that.
pub fn overlaps(a: &Element, b: &Element) -> bool {
    a.key.iter().zip(&b.key).all(|(x, y)| match (x, y) {
        (KeyPart::AddressRange(a, b), KeyPart::AddressRange(c, d)) => a <= d && c <= b,
        (KeyPart::ProtocolRange(a, b), KeyPart::ProtocolRange(c, d)) => a <= d && c <= b,
        (KeyPart::PortRange(a, b), KeyPart::PortRange(c, d)) => a <= d && c <= b,
        other => panic!("not in an interval map: {other:?}"),
    })
}
