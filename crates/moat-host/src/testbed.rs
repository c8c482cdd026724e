//! Throw-away worlds for tests: a plan made real in fresh namespaces, and packets sent through it.
//!
//! Used by this crate's kernel tests and by the differential test of `xtask`. The verdict on a
//! packet is what sockets at both ends and the firewall's own log say; that nothing happened for a
//! while is only ever the answer when none of these spoke.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use moat_net::ir::Protocol;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, connect, recv, recvmsg, sendmsg, sendto,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, getgid, getuid};

use crate::diff::diff;
use crate::layout::{HostPlan, LOG_GROUP, NsName};
use crate::linux::{Applier, ApplyError, SocketSpec};
use crate::netlink::nflog::{self, Logged};

/// Why there can be no throw-away world here.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Namespaces cannot be made: the kernel's answer.
    #[error("user, mount and network namespaces cannot be made here")]
    Namespaces(#[source] io::Error),
    /// Forking with several threads would copy their locks.
    #[error("the calling process has more than one thread")]
    Threads,
}

/// Exit code of a child that could not make its world.
const EXIT_UNAVAILABLE: i32 = 77;
/// Exit code of a child that panicked.
const EXIT_PANIC: i32 = 101;

/// Runs `work` in a child process in fresh user, mount and network namespaces; returns its exit
/// code. Works for root and for ordinary users, and only from a process with one thread.
pub fn in_world(work: impl FnOnce() -> i32) -> Result<i32, Unavailable> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(Unavailable::Namespaces)?.count();
    if threads != 1 {
        return Err(Unavailable::Threads);
    }
    // SAFETY: there is one thread (checked above), so the child may run any code.
    #[allow(unsafe_code, reason = "fork has no safe form; the process has one thread")]
    let forked = unsafe { fork() };
    match forked.map_err(|e| Unavailable::Namespaces(e.into()))? {
        ForkResult::Parent { child } => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, EXIT_UNAVAILABLE)) => {
                Err(Unavailable::Namespaces(io::ErrorKind::PermissionDenied.into()))
            }
            Ok(WaitStatus::Exited(_, code)) => Ok(code),
            Ok(_) => Ok(EXIT_PANIC),
            Err(e) => Err(Unavailable::Namespaces(e.into())),
        },
        ForkResult::Child => {
            let code = match enter() {
                Ok(()) => std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(EXIT_PANIC),
                Err(_) => EXIT_UNAVAILABLE,
            };
            let _ = io::stdout().flush();
            std::process::exit(code)
        }
    }
}

/// Leaves the host for good.
fn enter() -> io::Result<()> {
    let (uid, gid) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("tmpfs"), WORLD, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    Ok(())
}

/// Where a throw-away world keeps its pins: an empty tmpfs of its own.
const WORLD: &str = "/run";

/// A plan made real.
#[derive(Debug)]
pub struct Testbed {
    /// The hands.
    pub applier: Applier,
    /// What is realised.
    pub plan: HostPlan,
    logs: BTreeMap<NsName, OwnedFd>,
    logged: Vec<(NsName, Logged)>,
}

/// A packet to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Where it starts.
    pub from: NsName,
    /// Its source. An address the place does not have is forged (UDP only). Ports should differ
    /// among probes of one batch: drops are told apart by them.
    pub source: SocketAddrV4,
    /// Its destination, as the sender writes it.
    pub destination: SocketAddrV4,
    /// Protocol.
    pub protocol: Protocol,
    /// Places where somebody waits for it, with the port there (after translation).
    pub listen: Vec<(NsName, u16)>,
}

/// What became of a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Where it arrived, and the source seen there.
    pub arrived: Option<(NsName, Ipv4Addr)>,
    /// An answer came back to the sender.
    pub answered: bool,
    /// It was dropped in this namespace by the rule of this number.
    pub dropped: Option<(NsName, u32)>,
}

impl Outcome {
    /// Whether it came through in the end.
    pub fn allowed(&self) -> bool {
        self.answered
    }
}

impl Testbed {
    /// An empty one; call within [`in_world`].
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            applier: Applier::new(Path::new(WORLD).join("netns"))?,
            plan: HostPlan::default(),
            logs: BTreeMap::new(),
            logged: Vec::new(),
        })
    }

    /// Goes from the present plan to `next`, and listens to the logs of its firewalls.
    pub fn realise(&mut self, next: HostPlan) -> Result<usize, ApplyError> {
        let steps = diff(&self.plan, &next);
        self.logs.retain(|ns, _| next.namespaces.get(ns).is_some_and(|n| n.nft.is_some()));
        self.applier.apply(&steps)?;
        for (ns, _) in next.namespaces.iter().filter(|(_, n)| n.nft.is_some()) {
            if !self.logs.contains_key(ns) {
                self.logs.insert(ns.clone(), self.applier.nflog_in(ns, LOG_GROUP)?);
            }
        }
        self.plan = next;
        Ok(steps.len())
    }

    /// The namespace of a document or host.
    pub fn place(&self, id: &str) -> Option<NsName> {
        self.plan.places.get(&id.to_ascii_lowercase()).cloned()
    }

    /// What the firewalls have told since the last call.
    pub fn take_logged(&mut self) -> Vec<(NsName, Logged)> {
        self.read_logs();
        std::mem::take(&mut self.logged)
    }

    fn read_logs(&mut self) {
        let mut buffer = vec![0; 64 << 10];
        for (ns, fd) in &self.logs {
            while let Ok(n) = recv(std::os::fd::AsRawFd::as_raw_fd(fd), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                self.logged.extend(nflog::parse(&buffer[..n]).into_iter().map(|l| (ns.clone(), l)));
            }
        }
    }

    /// A listening TCP socket at a place.
    pub fn listen(&self, ns: &NsName, port: u16) -> Result<TcpListener, ApplyError> {
        let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        Ok(TcpListener::from(self.applier.socket_in(ns, &SocketSpec::TcpListen { address, backlog: 64 })?))
    }

    /// Connects; `None` if there was no answer within `wait`.
    pub fn connect(
        &self,
        ns: &NsName,
        source: SocketAddrV4,
        destination: SocketAddrV4,
        wait: Duration,
    ) -> Result<Option<TcpStream>, ApplyError> {
        let fd = self.applier.socket_in(ns, &SocketSpec::Tcp { bind: Some(source) })?;
        let _ = connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(destination));
        wait_for(&[(fd.as_fd(), PollFlags::POLLOUT)], wait);
        let stream = TcpStream::from(fd);
        Ok(stream.peer_addr().is_ok().then_some(stream))
    }

    /// Sends all packets at once and watches both ends and the logs. A packet of which nothing is
    /// heard within `wait` has an empty outcome.
    pub fn probe(&mut self, probes: &[Probe], wait: Duration) -> Result<Vec<Outcome>, ApplyError> {
        self.take_logged();
        let mut waiters = Waiters::open(&self.applier, probes)?;
        let mut flights = Vec::with_capacity(probes.len());
        for probe in probes {
            flights.push(Flight::start(&self.applier, probe)?);
        }
        let mut outcomes = vec![Outcome::default(); probes.len()];
        let deadline = Instant::now() + wait;
        loop {
            waiters.read(probes, &mut outcomes);
            for (flight, outcome) in flights.iter_mut().zip(&mut outcomes) {
                outcome.answered |= flight.answered();
            }
            self.read_logs();
            for (ns, log) in std::mem::take(&mut self.logged) {
                let Some((false, id)) = log.rule() else { continue };
                for (probe, outcome) in probes.iter().zip(&mut outcomes) {
                    if is_about(&log, probe) && outcome.dropped.is_none() {
                        outcome.dropped = Some((ns.clone(), id));
                    }
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if outcomes.iter().all(|o| o.answered || o.dropped.is_some()) || left.is_zero() {
                return Ok(outcomes);
            }
            let mut watched = waiters.watched();
            watched.extend(flights.iter().filter(|f| !f.done).map(|f| (f.fd.as_fd(), f.wants())));
            watched.extend(self.logs.values().map(|fd| (fd.as_fd(), PollFlags::POLLIN)));
            wait_for(&watched, left);
        }
    }
}

/// Whether a log line is about a probe: its source port outlives every translation here.
fn is_about(log: &Logged, probe: &Probe) -> bool {
    if log.protocol != number(probe.protocol) {
        return false;
    }
    if probe.protocol.has_ports() {
        log.source.port() == probe.source.port()
    } else {
        log.source.ip() == probe.source.ip() || log.destination.ip() == probe.destination.ip()
    }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Icmp => 1,
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Esp => 50,
        Protocol::Ah => 51,
    }
}

fn wait_for(fds: &[(std::os::fd::BorrowedFd<'_>, PollFlags)], wait: Duration) {
    let mut list: Vec<PollFd<'_>> = fds.iter().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
    let milliseconds = u16::try_from(wait.as_millis()).unwrap_or(u16::MAX).max(1);
    // An interrupted wait is a short one.
    let _ = poll(&mut list, PollTimeout::from(milliseconds));
}

/// Sockets at the receiving ends.
struct Waiters {
    tcp: Vec<(NsName, u16, TcpListener, Vec<TcpStream>)>,
    udp: Vec<(NsName, u16, UdpSocket)>,
    raw: Vec<(NsName, Protocol, OwnedFd)>,
}

impl Waiters {
    fn open(applier: &Applier, probes: &[Probe]) -> Result<Self, ApplyError> {
        let mut wanted: Vec<(NsName, u8, u16, Protocol)> = Vec::new();
        for probe in probes {
            for (ns, port) in &probe.listen {
                let port = if probe.protocol.has_ports() { *port } else { 0 };
                wanted.push((ns.clone(), number(probe.protocol), port, probe.protocol));
            }
        }
        wanted.sort_by(|a, b| (&a.0, a.1, a.2).cmp(&(&b.0, b.1, b.2)));
        wanted.dedup_by(|a, b| (&a.0, a.1, a.2) == (&b.0, b.1, b.2));
        let mut out = Self { tcp: Vec::new(), udp: Vec::new(), raw: Vec::new() };
        for (ns, number, port, protocol) in wanted {
            let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
            match protocol {
                Protocol::Tcp => {
                    let fd = applier.socket_in(&ns, &SocketSpec::TcpListen { address, backlog: 512 })?;
                    out.tcp.push((ns, port, fd.into(), Vec::new()));
                }
                Protocol::Udp => {
                    let fd = applier.socket_in(&ns, &SocketSpec::Udp { address })?;
                    out.udp.push((ns, port, fd.into()));
                }
                Protocol::Icmp | Protocol::Esp | Protocol::Ah => {
                    let fd = applier.socket_in(&ns, &SocketSpec::Raw { protocol: number })?;
                    out.raw.push((ns, protocol, fd));
                }
            }
        }
        Ok(out)
    }

    fn watched(&self) -> Vec<(std::os::fd::BorrowedFd<'_>, PollFlags)> {
        let tcp = self.tcp.iter().map(|(_, _, l, _)| l.as_fd());
        let udp = self.udp.iter().map(|(_, _, s)| s.as_fd());
        let raw = self.raw.iter().map(|(_, _, fd)| fd.as_fd());
        tcp.chain(udp).chain(raw).map(|fd| (fd, PollFlags::POLLIN)).collect()
    }

    fn read(&mut self, probes: &[Probe], outcomes: &mut [Outcome]) {
        let mut note = |ns: &NsName, protocol: Protocol, source: SocketAddrV4, port: u16| {
            for (probe, outcome) in probes.iter().zip(outcomes.iter_mut()) {
                let here = probe.listen.iter().any(|(n, p)| n == ns && (*p == port || !protocol.has_ports()));
                let same = !protocol.has_ports() || probe.source.port() == source.port();
                if probe.protocol == protocol && here && same && outcome.arrived.is_none() {
                    outcome.arrived = Some((ns.clone(), *source.ip()));
                    if !protocol.has_ports() && protocol != Protocol::Icmp {
                        // Nobody answers these: arriving is all they can do.
                        outcome.answered = true;
                    }
                }
            }
        };
        for (ns, port, listener, kept) in &mut self.tcp {
            while let Ok((stream, std::net::SocketAddr::V4(source))) = listener.accept() {
                note(ns, Protocol::Tcp, source, *port);
                kept.push(stream);
            }
        }
        let mut buffer = [0; 256];
        for (ns, port, socket) in &self.udp {
            while let Some((n, source, own)) = receive_udp(socket, &mut buffer) {
                note(ns, Protocol::Udp, source, *port);
                answer_udp(socket, &buffer[..n], source, own);
            }
        }
        for (ns, protocol, fd) in &self.raw {
            while let Ok(n) = recv(std::os::fd::AsRawFd::as_raw_fd(fd), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                let address = |at: usize| buffer.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
                // Answers and complaints are ICMP, too.
                let asks = *protocol != Protocol::Icmp || buffer.get(20) == Some(&ICMP_ECHO_REQUEST);
                if let (true, true, Some(source)) = (n > 20, asks, address(12)) {
                    note(ns, *protocol, SocketAddrV4::new(source.into(), 0), 0);
                }
            }
        }
    }
}

/// A datagram, its source, and the address that it was sent to.
fn receive_udp(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddrV4, Ipv4Addr)> {
    let mut space = nix::cmsg_space!(libc::in_pktinfo);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
    let got = recvmsg::<SockaddrIn>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT).ok()?;
    let own = got.cmsgs().ok()?.find_map(|c| match c {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())),
        _ => None,
    })?;
    Some((got.bytes, got.address.map(SocketAddrV4::from)?, own))
}

/// Answers from the very address that was asked: one that no link has must not become another.
fn answer_udp(socket: &UdpSocket, bytes: &[u8], to: SocketAddrV4, own: Ipv4Addr) {
    let source = libc::in_addr { s_addr: u32::from_ne_bytes(own.octets()) };
    let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: source };
    let control = [ControlMessage::Ipv4PacketInfo(&info)];
    let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
    // An answer that cannot be sent is one that does not arrive.
    let _ = sendmsg(fd, &[io::IoSlice::new(bytes)], &control, MsgFlags::empty(), Some(&SockaddrIn::from(to)));
}

/// Type of an ICMP message.
const ICMP_ECHO_REQUEST: u8 = 8;

/// A packet under way, at its sender.
struct Flight {
    fd: OwnedFd,
    protocol: Protocol,
    identifier: u16,
    done: bool,
}

impl Flight {
    fn start(applier: &Applier, probe: &Probe) -> Result<Self, ApplyError> {
        let raw_fd = |fd: &OwnedFd| std::os::fd::AsRawFd::as_raw_fd(fd);
        let own = applier.run_in(&probe.from, || Ok(std::net::UdpSocket::bind((*probe.source.ip(), 0)).is_ok()))?;
        let to = SockaddrIn::from(probe.destination);
        let identifier = probe.source.port();
        let mut refused = false;
        let raw = !probe.protocol.has_ports() || (probe.protocol == Protocol::Udp && !own);
        let fd = if raw {
            let fd = applier.socket_in(&probe.from, &SocketSpec::Raw { protocol: number(probe.protocol) })?;
            let _ = sendto(raw_fd(&fd), &packet(probe), &to, MsgFlags::empty());
            fd
        } else if probe.protocol == Protocol::Tcp {
            let fd = applier.socket_in(&probe.from, &SocketSpec::Tcp { bind: Some(probe.source) })?;
            // Refused by the sender's own routes, the socket would later look as if it had connected.
            refused = !matches!(connect(raw_fd(&fd), &to), Ok(()) | Err(Errno::EINPROGRESS));
            fd
        } else {
            let fd = applier.socket_in(&probe.from, &SocketSpec::Udp { address: probe.source })?;
            // A local refusal (no route) is an outcome: nothing arrives.
            let _ = sendto(raw_fd(&fd), b"moat", &to, MsgFlags::empty());
            fd
        };
        Ok(Self { fd, protocol: probe.protocol, identifier, done: refused })
    }

    fn wants(&self) -> PollFlags {
        if self.protocol == Protocol::Tcp { PollFlags::POLLOUT } else { PollFlags::POLLIN }
    }

    /// Whether an answer is there.
    fn answered(&mut self) -> bool {
        if self.done {
            return false;
        }
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.fd);
        let mut buffer = [0; 256];
        match self.protocol {
            Protocol::Tcp => {
                let mut list = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
                if !matches!(poll(&mut list, PollTimeout::ZERO), Ok(n) if n > 0) {
                    return false;
                }
                self.done = true;
                nix::sys::socket::getsockopt(&self.fd, nix::sys::socket::sockopt::SocketError).is_ok_and(|e| {
                    // A refusal is an answer of the other side: nobody listens, but packets pass.
                    e == 0 || e == libc::ECONNREFUSED
                })
            }
            Protocol::Udp => {
                let got = recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok();
                self.done |= got;
                got
            }
            Protocol::Icmp => {
                while let Ok(n) = recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    if n >= 28 && buffer[20] == 0 && buffer[24..26] == self.identifier.to_be_bytes() {
                        self.done = true;
                        return true;
                    }
                }
                false
            }
            Protocol::Esp | Protocol::Ah => false,
        }
    }
}

/// A whole IPv4 packet. The kernel fills in length, identification and header checksum.
fn packet(probe: &Probe) -> Vec<u8> {
    let body: Vec<u8> = match probe.protocol {
        Protocol::Icmp => {
            let id = probe.source.port().to_be_bytes();
            let mut echo = vec![8, 0, 0, 0, id[0], id[1], 0, 1];
            let sum = !fold(&echo);
            echo[2..4].copy_from_slice(&sum.to_be_bytes());
            echo
        }
        Protocol::Udp => {
            let mut out = Vec::new();
            // No checksum: allowed for UDP over IPv4.
            for v in [probe.source.port(), probe.destination.port(), 12, 0] {
                out.extend(v.to_be_bytes());
            }
            out.extend(b"moat");
            out
        }
        Protocol::Tcp | Protocol::Esp | Protocol::Ah => vec![0; 16],
    };
    let length = u16::try_from(20 + body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut out = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, number(probe.protocol), 0, 0];
    out.extend(probe.source.ip().octets());
    out.extend(probe.destination.ip().octets());
    out.extend(body);
    out
}

/// The one's complement sum of the internet checksum.
fn fold(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Whether bytes still pass both ways.
pub fn alive(a: &mut TcpStream, b: &mut TcpStream, wait: Duration) -> bool {
    let exchange = |from: &mut TcpStream, to: &mut TcpStream| -> io::Result<()> {
        from.set_nonblocking(false)?;
        to.set_nonblocking(false)?;
        to.set_read_timeout(Some(wait))?;
        from.write_all(b"x")?;
        to.read_exact(&mut [0])
    };
    exchange(a, b).is_ok() && exchange(b, a).is_ok()
}
