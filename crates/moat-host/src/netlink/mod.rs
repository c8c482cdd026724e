//! A small synchronous netlink: build, send, read the answers, with the kernel's own error text.
//!
//! Written rather than imported: the privileged helper has one thread, forks, and should be small
//! enough to be read whole. No runtime, no background reader, no cache.
#![allow(unsafe_code, reason = "setsockopt NETLINK_EXT_ACK and friends have no safe wrapper in nix")]

pub mod message;
pub mod nflog;
pub mod nft;
pub mod route;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use message::{Attributes, Builder, HEADER_BYTES, align};

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket itself failed.
    #[error("netlink socket: {doing}")]
    Socket {
        /// What was tried.
        doing: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("kernel refused `{what}`{}", .text.as_deref().map(|t| format!(": {t}")).unwrap_or_default())]
    Refused {
        /// What was asked.
        what: String,
        /// Its own words (extended acknowledgement).
        text: Option<String>,
        /// Error number.
        #[source]
        source: io::Error,
    },
    /// The answer could not be read.
    #[error("netlink answer to `{what}` is cut short")]
    Truncated {
        /// What was asked.
        what: String,
    },
}

impl Error {
    /// The error number, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Socket { source, .. } | Error::Refused { source, .. } => source.raw_os_error(),
            Error::Truncated { .. } => None,
        }
    }
}

/// Result of a netlink request.
pub type Result<T> = std::result::Result<T, Error>;

/// A message that came back.
#[derive(Debug, Clone)]
pub struct Message {
    /// Message type.
    pub kind: u16,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// Kernel constants that `libc` lacks or types awkwardly.
pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_MULTI: u16 = 2;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Send buffer we ask for; the kernel caps it at `net.core.wmem_max`. SO_SNDBUFFORCE is refused
/// in a user namespace.
const SEND_BUFFER_BYTES: libc::c_int = 4 << 20;
const RECEIVE_BUFFER_BYTES: libc::c_int = 4 << 20;
/// Largest piece the kernel puts in one dump datagram, with room to spare.
const DATAGRAM_BYTES_MAX: usize = 128 << 10;

/// A netlink socket. It belongs to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// Sets an integer socket option; failure is told to the caller.
fn set_option(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which lives across the call.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            std::mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Socket {
    /// A socket for `NETLINK_ROUTE`.
    pub fn route() -> Result<Self> {
        Self::open(libc::NETLINK_ROUTE)
    }
    /// A socket for `NETLINK_NETFILTER`.
    pub fn netfilter() -> Result<Self> {
        Self::open(libc::NETLINK_NETFILTER)
    }
    fn open(protocol: libc::c_int) -> Result<Self> {
        // SAFETY: plain system call; a non-negative result is a new descriptor that we own.
        let fd = unsafe {
            let raw = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
            if raw < 0 {
                let doing = match protocol {
                    libc::NETLINK_NETFILTER => "open (this kernel has no nftables)",
                    _ => "open",
                };
                return Err(Error::Socket { doing, source: io::Error::last_os_error() });
            }
            OwnedFd::from_raw_fd(raw)
        };
        // Best effort: an older kernel without them still works, with smaller batches and no text.
        let _ = set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER_BYTES);
        let _ = set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES);
        let _ = set_option(&fd, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
        let _ = set_option(&fd, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
        let mut socket = Self { fd, sequence: 0 };
        socket.bind()?;
        Ok(socket)
    }
    fn bind(&mut self) -> Result<()> {
        // SAFETY: sockaddr_nl is plain data for which all zeroes is valid.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        // SAFETY: pointer and length describe `address`.
        let rc = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                std::mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        if rc == 0 { Ok(()) } else { Err(Error::Socket { doing: "bind", source: io::Error::last_os_error() }) }
    }
    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
    /// The descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> Result<()> {
        // SAFETY: pointer and length describe `bytes`.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(sent) {
            Ok(n) if n == bytes.len() => Ok(()),
            Ok(_) => Err(Error::Socket { doing: "send whole message", source: io::ErrorKind::WriteZero.into() }),
            Err(_) => Err(Error::Socket { doing: "send", source: io::Error::last_os_error() }),
        }
    }

    fn receive(&self, buffer: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
        loop {
            // SAFETY: pointer and length describe `buffer`.
            let n = unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
            match usize::try_from(n) {
                Ok(n) => return Ok(n),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Sends requests that each ask for an acknowledgement and waits for all of them. The kernel
    /// works through them in order; the first error is returned, the rest were tried all the same.
    /// `allowed` says which refusals are fine.
    pub fn request_all(
        &mut self,
        requests: Vec<(Builder, String)>,
        allowed: impl Fn(usize, i32) -> bool,
    ) -> Result<()> {
        /// Bytes of requests in one send, well below an unprivileged send buffer.
        const SEND_BYTES_MAX: usize = 32 << 10;
        let mut rest = requests.into_iter().enumerate().peekable();
        while rest.peek().is_some() {
            let (mut bytes, mut names) = (Vec::new(), Vec::new());
            while let Some((index, (builder, what))) = rest.next_if(|_| bytes.len() < SEND_BYTES_MAX) {
                let sequence = self.next_sequence();
                bytes.extend_from_slice(&builder.finish(NLM_F_REQUEST | NLM_F_ACK, sequence));
                names.push((sequence, index, what));
            }
            self.send(&bytes)?;
            let mut failure = None;
            let mut open = names.len();
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            while open > 0 {
                let n = self
                    .receive(&mut buffer, 0)
                    .map_err(|source| Error::Socket { doing: "read an acknowledgement", source })?;
                for (header, payload) in split(&buffer[..n]) {
                    let Some((_, index, what)) = names.iter().find(|(s, ..)| *s == header.sequence) else { continue };
                    if header.kind != NLMSG_ERROR {
                        continue;
                    }
                    open -= 1;
                    if let Some((source, text)) = error_of(&header, payload)
                        && !allowed(*index, source.raw_os_error().unwrap_or(0))
                        && failure.is_none()
                    {
                        failure = Some(Error::Refused { what: what.clone(), text, source });
                    }
                }
            }
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn request(&mut self, request: Builder, what: &str) -> Result<()> {
        self.request_all(vec![(request, what.to_owned())], |_, _| false)
    }

    /// Asks for a dump and collects it.
    pub fn dump(&mut self, request: Builder, what: &str) -> Result<Vec<Message>> {
        let sequence = self.next_sequence();
        self.send(&request.finish(NLM_F_REQUEST | NLM_F_DUMP, sequence))?;
        let mut out = Vec::new();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let n = self.receive(&mut buffer, 0).map_err(|source| Error::Socket { doing: "read a dump", source })?;
            for (header, payload) in split(&buffer[..n]) {
                if header.sequence != sequence {
                    continue;
                }
                match header.kind {
                    NLMSG_DONE => return Ok(out),
                    NLMSG_ERROR => {
                        return match error_of(&header, payload) {
                            Some((source, text)) => Err(Error::Refused { what: what.to_owned(), text, source }),
                            None => Ok(out),
                        };
                    }
                    kind => {
                        out.push(Message { kind, payload: payload.to_vec() });
                        if header.flags & NLM_F_MULTI == 0 {
                            return Ok(out);
                        }
                    }
                }
            }
        }
    }

    /// Sends a firewall batch: all or nothing. `names` maps sequence numbers to what was asked.
    pub(crate) fn batch(&mut self, bytes: &[u8], last: u32, names: &[(u32, String)]) -> Result<()> {
        self.send(bytes)?;
        // The kernel has done everything when send returns: the answers are there already.
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let mut failure: Option<Error> = None;
        let mut acknowledged = false;
        loop {
            match self.receive(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(n) => {
                    for (header, payload) in split(&buffer[..n]) {
                        if header.kind != NLMSG_ERROR {
                            continue;
                        }
                        match error_of(&header, payload) {
                            Some((source, text)) if failure.is_none() => {
                                let what = names
                                    .iter()
                                    .find(|(s, _)| *s == header.sequence)
                                    .map_or_else(|| "firewall transaction".to_owned(), |(_, w)| w.clone());
                                failure = Some(Error::Refused { what, text, source });
                            }
                            Some(_) => {}
                            None => acknowledged |= header.sequence == last,
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(source) => return Err(Error::Socket { doing: "read a transaction's answer", source }),
            }
        }
        match failure {
            Some(error) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(Error::Truncated { what: "firewall transaction".to_owned() }),
        }
    }
}

/// The fields of a message header that we read.
struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The messages of one datagram; what is cut short ends it.
fn split(mut bytes: &[u8]) -> Vec<(Header, &[u8])> {
    let mut out = Vec::new();
    while let (Some(length), Some(kind), Some(flags), Some(sequence)) =
        (read_u32(bytes, 0), read_u16(bytes, 4), read_u16(bytes, 6), read_u32(bytes, 8))
    {
        let length = length as usize;
        let Some(payload) = bytes.get(HEADER_BYTES..length) else { break };
        out.push((Header { kind, flags, sequence }, payload));
        bytes = bytes.get(align(length)..).unwrap_or_default();
    }
    out
}

/// The error an acknowledgement carries, with the kernel's text.
fn error_of(header: &Header, payload: &[u8]) -> Option<(io::Error, Option<String>)> {
    let code = read_u32(payload, 0)?.cast_signed();
    if code == 0 {
        return None;
    }
    let mut text = None;
    if header.flags & NLM_F_ACK_TLVS != 0 {
        // After the code stands the request's header, and its body unless capped.
        let inner = read_u32(payload, 4).unwrap_or(0) as usize;
        let skip = 4 + if header.flags & NLM_F_CAPPED != 0 { HEADER_BYTES } else { align(inner) };
        text = Attributes::new(payload.get(skip..).unwrap_or_default())
            .get(NLMSGERR_ATTR_MSG)
            .map(|t| String::from_utf8_lossy(t.strip_suffix(&[0]).unwrap_or(t)).into_owned());
    }
    Some((io::Error::from_raw_os_error(-code), text))
}
