//! What this Linux host should look like: namespaces, links, addresses, routes, firewalls.
//!
//! Values only. `crate::plan` makes them, `crate::diff` compares them, `linux` realises them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use moat_net::ir::{Access, Direction};
use serde::{Deserialize, Serialize};

use crate::ruleset::Table;

/// Name of a network namespace, unique in a plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NsName(pub String);

impl NsName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for NsName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for NsName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// Everything the host should have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// Namespaces with what lies in each.
    pub namespaces: BTreeMap<NsName, NsPlan>,
    /// Links between them.
    pub veths: BTreeSet<Veth>,
    /// Where a document lives: lower-case id of a NIC or VNet, `internet`, or a host's name.
    pub places: BTreeMap<String, NsName>,
    /// What the numbers in log prefixes mean.
    pub rule_ids: BTreeMap<u32, RuleRef>,
    /// Sources by which services know a subnet that has a service endpoint: to its document id.
    #[serde(default)]
    pub service_identities: BTreeMap<Ipv4Addr, String>,
    /// VNets that are not realised, and why.
    pub refused: Vec<Refusal>,
}

/// What one namespace should have, links aside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NsPlan {
    /// Below `/proc/sys/net/`, path to value.
    pub sysctls: BTreeMap<String, String>,
    /// Addresses: link and address with prefix length.
    pub addresses: BTreeSet<(String, Ipv4Net)>,
    /// Permanent neighbours.
    pub neighbours: BTreeSet<Neighbour>,
    /// Routes.
    pub routes: BTreeSet<Route>,
    /// Policy rules.
    pub rules: BTreeSet<PolicyRule>,
    /// Firewall table.
    pub nft: Option<Table>,
}

/// A pair of links. The end `a` makes the end `b` inside its namespace under its final name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Veth {
    /// Creating end.
    pub a: End,
    /// Peer end.
    pub b: End,
}

/// One end of a [`Veth`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct End {
    /// Namespace.
    pub ns: NsName,
    /// Name of the link, at most 15 bytes.
    pub link: String,
    /// Ethernet address.
    pub mac: [u8; 6],
}

/// A permanent neighbour: no ARP is ever needed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Neighbour {
    /// Link.
    pub link: String,
    /// Address.
    pub address: Ipv4Addr,
    /// Ethernet address.
    pub mac: [u8; 6],
}

/// Table `main`.
pub const TABLE_MAIN: u32 = 254;
/// Table `local`.
pub const TABLE_LOCAL: u32 = 255;

/// A route. Table, prefix and metric are its identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Routing table.
    pub table: u32,
    /// Destination.
    pub prefix: Ipv4Net,
    /// Metric; lower wins.
    pub metric: u32,
    /// Where it leads.
    pub hop: Hop,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hop {
    /// On the link itself.
    Link(String),
    /// To a next hop on a link, which need not have that prefix (`onlink`).
    Via(Ipv4Addr, String),
    /// Dropped.
    Blackhole,
    /// Ask the next policy rule.
    Throw,
    /// To this namespace (`dev lo`).
    Local,
}

/// `ip rule`: a mark chooses a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Mark.
    pub mark: u32,
    /// Table.
    pub table: u32,
}

/// Which rule a log line or counter belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleRef {
    /// Document id of the NSG; empty for what the fabric itself decides.
    pub nsg: String,
    /// Name of the rule, or of the fabric's reason.
    pub rule: String,
    /// Direction as seen from the NIC.
    pub direction: Direction,
    /// Verdict.
    pub access: Access,
    /// Where the list is bound.
    pub level: Level,
}

/// Where a rule list is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// At the subnet.
    Subnet,
    /// At the NIC.
    Nic,
    /// The fabric itself.
    Fabric,
}

/// A VNet that is not realised. The others are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The data plane carries IPv4 only.
    #[error("virtual network `{vnet}` has the IPv6 prefix `{prefix}`: the data plane carries IPv4 only")]
    DualStack {
        /// Document id of the VNet.
        vnet: String,
        /// The prefix.
        prefix: String,
    },
}

impl Refusal {
    /// Document id of the VNet.
    pub fn vnet(&self) -> &str {
        match self {
            Refusal::DualStack { vnet, .. } => vnet,
        }
    }
}

/// What the plan needs to know beside the network itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    /// Addresses of emulated services: sockets in the backbone may use any of them.
    pub services: Vec<Ipv4Net>,
    /// The backbone answers for every public address (for tests).
    pub any_public: bool,
    /// Hosts on the internet, each in a namespace of its name (for example `inet`).
    pub hosts: BTreeMap<String, Ipv4Addr>,
    /// Address that default outbound access uses, by lower-case document id of the VNet.
    pub default_outbound: BTreeMap<String, Ipv4Addr>,
    /// Whether accepted new flows are logged too, not only drops.
    pub log_accepts: bool,
}

/// NFLOG group of all fabric logs.
pub const LOG_GROUP: u16 = 1;
/// Namespace of the backbone.
pub const BACKBONE: &str = "bb";
