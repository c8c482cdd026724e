//! Sockets made inside a namespace by a thread that lives only for that.
#![allow(unsafe_code, reason = "a raw socket for any protocol number has no safe form in nix")]

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

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
    /// A raw IPv4 socket for one protocol: receives copies of all its packets, and sends packets
    /// whose header the caller writes. For probes and tests.
    Raw {
        /// Protocol number.
        protocol: u8,
    },
}

/// Opens it in the namespace of the calling thread.
pub(super) fn open(spec: &SocketSpec) -> io::Result<OwnedFd> {
    if let SocketSpec::Raw { protocol } = spec {
        return open_raw(*protocol);
    }
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
        SocketSpec::Tcp { bind: None } | SocketSpec::Raw { .. } => {}
    }
    Ok(fd)
}

fn open_raw(protocol: u8) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain system call; a non-negative result is a new descriptor that we own.
    let fd = unsafe {
        let raw = libc::socket(libc::AF_INET, kind, i32::from(protocol));
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(raw)
    };
    let on: libc::c_int = 1;
    // SAFETY: pointer and length describe `on`, which lives across the call.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_HDRINCL,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc == 0 { Ok(fd) } else { Err(io::Error::last_os_error()) }
}
