//! NFLOG: what the firewall of one namespace tells about packets.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use super::message::{Attributes, Builder};
use super::{Result, Socket};

const SUBSYSTEM: u16 = 4;
const MESSAGE_PACKET: u16 = 0;
const MESSAGE_CONFIG: u16 = 1;
const COMMAND_BIND: u8 = 1;
/// Copy packets, not only facts about them.
const COPY_PACKET: u8 = 2;
/// Bytes of a packet that we read: IPv4 header with options and the ports.
const COPY_BYTES: u32 = 64;
/// Hundredths of a second the kernel may gather messages.
const GATHER_CENTISECONDS: u32 = 1;

/// A packet that a rule logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// The rule's log prefix: `a` or `d`, then the rule's number.
    pub prefix: String,
    /// Index of the incoming link.
    pub in_link: Option<u32>,
    /// Index of the outgoing link.
    pub out_link: Option<u32>,
    /// Protocol number.
    pub protocol: u8,
    /// Source; port 0 where the protocol has none.
    pub source: SocketAddrV4,
    /// Destination; port 0 where the protocol has none.
    pub destination: SocketAddrV4,
}

impl Logged {
    /// Whether the packet was accepted, and the number of the rule (`HostPlan::rule_ids`).
    pub fn rule(&self) -> Option<(bool, u32)> {
        let id = self.prefix.get(1..)?.parse().ok()?;
        match self.prefix.as_bytes().first()? {
            b'a' => Some((true, id)),
            b'd' => Some((false, id)),
            _ => None,
        }
    }
}

/// Subscribes the namespace of `socket` to `group`; afterwards datagrams arrive on it.
pub fn subscribe(socket: &mut Socket, group: u16) -> Result<()> {
    let id = group.to_be_bytes();
    let config = || Builder::new((SUBSYSTEM << 8) | MESSAGE_CONFIG, 0, &[libc::AF_INET as u8, 0, id[0], id[1]]);
    let mut bind = config();
    bind.attribute(1, &[COMMAND_BIND]);
    socket.request(bind, "subscribe to the firewall log")?;
    let mut mode = config();
    let range = COPY_BYTES.to_be_bytes();
    mode.attribute(2, &[range[0], range[1], range[2], range[3], COPY_PACKET, 0]);
    mode.be32(4, GATHER_CENTISECONDS).be32(5, 1);
    socket.request(mode, "set the firewall log's mode")
}

/// The packets in one datagram read from a subscribed socket.
pub fn parse(datagram: &[u8]) -> Vec<Logged> {
    super::split(datagram)
        .into_iter()
        .filter(|(h, _)| h.kind == (SUBSYSTEM << 8) | MESSAGE_PACKET)
        .filter_map(|(_, payload)| parse_one(payload))
        .collect()
}

fn parse_one(payload: &[u8]) -> Option<Logged> {
    let a = Attributes::new(payload.get(4..)?);
    let packet = a.get(9)?;
    let protocol = *packet.get(9)?;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let header = usize::from(*packet.first()? & 0xf) * 4;
    let port = |at: usize| {
        let has = matches!(i32::from(protocol), libc::IPPROTO_TCP | libc::IPPROTO_UDP);
        let bytes = packet.get(header + at..header + at + 2).filter(|_| has);
        bytes.and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes)
    };
    Some(Logged {
        prefix: a.text(10)?,
        in_link: a.be32(4),
        out_link: a.be32(5),
        protocol,
        source: SocketAddrV4::new(address(12)?, port(0)),
        destination: SocketAddrV4::new(address(16)?, port(2)),
    })
}
