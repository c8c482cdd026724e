//! Sockets made inside a namespace by a thread that lives only for that.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt,
};
use serde::{Deserialize, Serialize};

/// A socket to make. All are non-blocking, close-on-exec, and may use addresses that no link has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketSpec {
    /// A listening TCP socket.
    TcpListen {
        /// Where.
        address: SocketAddrV4,
        /// Length of the accept queue.
        backlog: u16,
    },
    /// A bound UDP socket that reports the destination address of each datagram (`IP_PKTINFO`).
    Udp {
        /// Where.
        address: SocketAddrV4,
    },
    /// A TCP socket, not connected; the caller calls `connect`.
    Tcp {
        /// Source, if it matters.
        bind: Option<SocketAddrV4>,
    },
}

/// Opens it in the namespace of the calling thread.
pub(super) fn open(spec: &SocketSpec) -> io::Result<OwnedFd> {
    let stream = !matches!(spec, SocketSpec::Udp { .. });
    let kind = if stream { SockType::Stream } else { SockType::Datagram };
    let fd = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::IpFreebind, &true)?;
    match spec {
        SocketSpec::TcpListen { address, backlog } => {
            bind(fd.as_raw_fd(), &SockaddrIn::from(*address))?;
            listen(&fd, Backlog::new(i32::from(*backlog))?)?;
        }
        SocketSpec::Udp { address } => {
            setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
            bind(fd.as_raw_fd(), &SockaddrIn::from(*address))?;
        }
        SocketSpec::Tcp { bind: Some(address) } => bind(fd.as_raw_fd(), &SockaddrIn::from(*address))?,
        SocketSpec::Tcp { bind: None } => {}
    }
    Ok(fd)
}
