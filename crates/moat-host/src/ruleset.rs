//! A firewall as a value: one table of sets, maps and chains per namespace.
//!
//! The vocabulary is what the plan needs of `nf_tables`, no more. The same value is encoded to
//! netlink (`netlink::nft`), written as text for golden tests (`nft_text`) and compared
//! (`diff`). Regular chains and interval sets are named by their content, so equal names mean
//! equal content and a change is always "build the new one, re-point one jump".

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// A table of family `ip`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Named sets and maps.
    pub sets: BTreeMap<String, Set>,
    /// Chains, base chains included.
    pub chains: BTreeMap<String, Chain>,
}

/// A named set, or a map when `data` is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Header, fixed at creation.
    pub header: SetHeader,
    /// Elements.
    pub elements: BTreeSet<Element>,
}

/// What a set looks like without its elements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetHeader {
    /// Fields of the key, concatenated.
    pub key: Vec<KeyKind>,
    /// Whether elements are ranges.
    pub interval: bool,
    /// What a map yields.
    pub data: Option<DataKind>,
}

/// Type of a key field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KeyKind {
    /// Interface name.
    Ifname,
    /// IPv4 address.
    Address,
    /// Protocol number.
    Protocol,
    /// Port.
    Port,
}

/// Type of a map's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DataKind {
    /// Packet mark.
    Mark,
    /// IPv4 address.
    Address,
    /// Verdict.
    Verdict,
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Element {
    /// One part per key field.
    pub key: Vec<KeyPart>,
    /// Value, for maps.
    pub value: Option<DataValue>,
}

/// One field of an element's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KeyPart {
    /// Interface name.
    Ifname(String),
    /// Address.
    Address(Ipv4Addr),
    /// Inclusive address range, in interval sets.
    AddressRange(Ipv4Addr, Ipv4Addr),
    /// Protocol number.
    Protocol(u8),
    /// Inclusive protocol range, in interval sets.
    ProtocolRange(u8, u8),
    /// Port.
    Port(u16),
    /// Inclusive port range, in interval sets.
    PortRange(u16, u16),
}

/// A map's value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DataValue {
    /// Packet mark.
    Mark(u32),
    /// Address.
    Address(Ipv4Addr),
    /// Verdict.
    Verdict(Verdict),
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// Let through, end of this hook.
    Accept,
    /// Drop.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Call a chain.
    Jump(String),
    /// Continue in a chain for good.
    Goto(String),
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Where the kernel enters it; `None` for a regular chain.
    pub base: Option<Base>,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// Hook of a base chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Chain type.
    pub kind: ChainKind,
    /// Hook.
    pub hook: Hook,
    /// Priority; lower runs earlier.
    pub priority: i32,
    /// Policy: drop if true, else accept.
    pub drop: bool,
}

/// Type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainKind {
    /// `filter`.
    Filter,
    /// `nat`.
    Nat,
}

/// Netfilter hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To a local socket.
    Input,
    /// Through this namespace.
    Forward,
    /// From a local socket.
    Output,
    /// Before leaving.
    Postrouting,
}

/// A rule: expressions from left to right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Expressions.
    pub expressions: Vec<Expression>,
}

/// A field of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Field {
    /// Name of the incoming link.
    InLink,
    /// Name of the outgoing link.
    OutLink,
    /// Protocol number.
    Protocol,
    /// Source address.
    Source,
    /// Destination address.
    Destination,
    /// Source port (TCP and UDP).
    SourcePort,
    /// Destination port (TCP and UDP).
    DestinationPort,
    /// Destination of the flow's first packet, before translation.
    OriginalDestination,
}

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expression {
    /// Link name equals.
    LinkIs {
        /// `InLink` or `OutLink`.
        field: Field,
        /// Name, or its beginning if `prefix`.
        name: String,
        /// Compare only the beginning.
        prefix: bool,
        /// Negate.
        not: bool,
    },
    /// Address lies in a prefix.
    AddressIn {
        /// `Source` or `Destination`.
        field: Field,
        /// Prefix.
        net: Ipv4Net,
        /// Negate.
        not: bool,
    },
    /// Protocol equals.
    ProtocolIs(u8),
    /// Protocol is TCP or UDP: the two that have ports.
    HasPorts,
    /// Port lies in an inclusive range.
    PortIn {
        /// `SourcePort` or `DestinationPort`.
        field: Field,
        /// First.
        first: u16,
        /// Last.
        last: u16,
    },
    /// The fields are (not) in a named set.
    InSet {
        /// Fields.
        fields: Vec<Field>,
        /// Set.
        set: String,
        /// Negate.
        not: bool,
    },
    /// Look a verdict up.
    VerdictMap {
        /// Fields.
        fields: Vec<Field>,
        /// Map.
        map: String,
    },
    /// Look a mark up and set it.
    MarkFromMap {
        /// Fields.
        fields: Vec<Field>,
        /// Map.
        map: String,
    },
    /// Connection is established or related.
    Established,
    /// Connection had its destination translated.
    Translated,
    /// More connections than this have come to this rule and are still open.
    ConnectionsOver(u32),
    /// Hash of source address and port modulo `of` equals `slot`.
    HashSlot {
        /// Modulus.
        of: u32,
        /// Value.
        slot: u32,
    },
    /// Count packets.
    Counter,
    /// Tell NFLOG.
    Log {
        /// Group.
        group: u16,
        /// Prefix.
        prefix: String,
    },
    /// Translate the destination.
    Dnat {
        /// New address.
        address: Ipv4Addr,
        /// New port.
        port: Option<u16>,
    },
    /// Translate the source.
    Snat {
        /// New address.
        address: Ipv4Addr,
    },
    /// Translate the destination by a map.
    DnatMap {
        /// Key.
        field: Field,
        /// Map.
        map: String,
    },
    /// Translate the source by a map.
    SnatMap {
        /// Key.
        field: Field,
        /// Map.
        map: String,
    },
    /// End here.
    Verdict(Verdict),
}

impl Table {
    /// Chains and sets a rule or element of this table points at.
    pub fn chain_targets(&self) -> BTreeSet<&str> {
        let from_rules =
            self.chains.values().flat_map(|c| c.rules.iter()).flat_map(|r| r.expressions.iter()).filter_map(
                |e| match e {
                    Expression::Verdict(Verdict::Jump(c) | Verdict::Goto(c)) => Some(c.as_str()),
                    _ => None,
                },
            );
        let from_maps = self.sets.values().flat_map(|s| s.elements.iter()).filter_map(|e| match &e.value {
            Some(DataValue::Verdict(Verdict::Jump(c) | Verdict::Goto(c))) => Some(c.as_str()),
            _ => None,
        });
        from_rules.chain(from_maps).collect()
    }
}
