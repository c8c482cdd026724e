//! The first packet of a flow. Only that one is judged: security rules are stateful (A4).

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ir::Protocol;

/// The five-tuple of a first packet. Ports are 0 for protocols without ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// Source address as it is where the walk begins.
    pub source: IpAddr,
    /// Destination address as it is where the walk begins.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

impl Protocol {
    /// Whether packets of it carry ports (A5).
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::Tcp | Protocol::Udp)
    }

    /// Upper-case name, as IP flow verify and the truth vectors write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Icmp => "ICMP",
            Protocol::Esp => "ESP",
            Protocol::Ah => "AH",
        }
    }

    /// Reads a name without regard to case; `None` for anything else, `*` included.
    pub fn parse(text: &str) -> Option<Self> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Icmp, Protocol::Esp, Protocol::Ah]
            .into_iter()
            .find(|p| p.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol.has_ports() {
            write!(
                f,
                "{} {} port {} -> {} port {}",
                self.protocol.as_str(),
                self.source,
                self.source_port,
                self.destination,
                self.destination_port
            )
        } else {
            write!(f, "{} {} -> {}", self.protocol.as_str(), self.source, self.destination)
        }
    }
}
