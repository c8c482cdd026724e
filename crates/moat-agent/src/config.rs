//! What an agent is told when it starts. Secrets in it never reach `Debug`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// How a node talks with the Batch service (network-semantics 20.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The service connects in to 29876 and 29877; the node reaches out to storage only.
    Classic,
    /// The node connects out to the Batch service and to storage.
    Simplified,
}

/// A service the node must reach by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Short name used in reports, for example `Storage.westus2`.
    pub label: String,
    /// Host name, resolved by the node itself.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Everything an agent needs to know.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentConfig {
    /// Name of the node.
    pub node_id: String,
    /// Key shared with the management side of this node only; 32 bytes, base64.
    pub key: String,
    /// Communication mode.
    pub mode: Mode,
    /// Addresses and ports to listen on.
    pub listen: Vec<SocketAddr>,
    /// Resolver to ask; 168.63.129.16 unless the VNet has its own.
    pub resolvers: Vec<IpAddr>,
    /// What the node has to reach.
    pub destinations: Vec<Destination>,
    /// The environment's CA certificate, PEM: services must prove who they are.
    pub ca_pem: String,
}

impl fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfig")
            .field("node_id", &self.node_id)
            .field("mode", &self.mode)
            .field("listen", &self.listen)
            .field("destinations", &self.destinations)
            .finish_non_exhaustive()
    }
}
