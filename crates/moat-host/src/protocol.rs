//! What the server may ask of the helper, and how it travels.
//!
//! A frame is four bytes of length (big endian), then JSON; descriptors ride on the first byte of the frame. One
//! request at a time, one answer each. The helper believes the server no more than it must: names are checked,
//! sizes are bounded, and there is no request that takes a path or a program.

use std::io::{self, IoSlice, IoSliceMut, Read, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{NsName, Observed, SocketSpec, Step};

/// Largest frame. A plan of 500 nodes with 1,000-rule NSGs is some MiB; beyond this something is wrong.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// Descriptors on one frame.
pub const FDS_MAX: usize = 4;
/// Length of an agent's configuration.
pub const AGENT_CONFIG_BYTES_MAX: usize = 256 << 10;
/// Length of a namespace's or agent's name.
pub const NAME_BYTES_MAX: usize = 64;

/// A request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "camelCase")]
pub enum Request {
    /// Execute steps in order, up to the first that fails.
    Apply {
        /// From `crate::diff`.
        steps: Vec<Step>,
    },
    /// A socket made in a namespace. Answer carries one descriptor.
    Socket {
        /// Where.
        ns: NsName,
        /// What.
        spec: SocketSpec,
    },
    /// A netlink socket that receives the firewall log of a namespace. Answer carries one descriptor.
    Nflog {
        /// Where.
        ns: NsName,
        /// Log group.
        group: u16,
    },
    /// Start an agent in a namespace. A descriptor on the request takes its output.
    Spawn {
        /// Where.
        ns: NsName,
        /// Name for [`Request::Kill`] and [`Request::Exited`]; one agent each.
        id: String,
        /// Given to the agent as it is; the helper does not read it.
        config: String,
        /// The environment that this agent may write, by its name below `environments/`; others it may only read.
        /// Its folder is there already, and open to every user: agents are another one than the server.
        #[serde(default)]
        build: Option<String>,
    },
    /// Remove what lies in the folder of an environment: its files belong to the agents' user. The empty folder is
    /// the server's own to remove.
    ClearEnvironment {
        /// Its name.
        environment: String,
    },
    /// End an agent and its process group; one that is not there is no error.
    Kill {
        /// Its name.
        id: String,
    },
    /// Which agents ended since the last such request.
    Exited,
    /// What the kernel has.
    Observe,
    /// Remove every namespace and end every agent.
    Reset,
}

/// The answer to a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Done.
    Done,
    /// To [`Request::Exited`].
    Exited(Vec<Exit>),
    /// To [`Request::Observe`].
    Observed(Box<Observed>),
    /// Not done.
    Refused {
        /// Why, for the log.
        why: String,
    },
}

/// The end of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its name.
    pub id: String,
    /// Its exit code, or 128 + signal.
    pub code: i32,
}

/// Names of namespaces and agents: they become file names, so only the harmless are taken.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.')
        && !name.starts_with('.')
}

/// Sends one frame.
pub fn send(stream: &UnixStream, message: &impl Serialize, fds: &[RawFd]) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|n| *n as usize <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "frame too large"))?.to_be_bytes();
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let sent = loop {
        match sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&length)], control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    // The descriptors went with the first byte; the rest is plain bytes.
    let mut stream = stream;
    stream.write_all(&length[sent..])?;
    stream.write_all(&body)
}

/// Receives one frame; `None` at the end of the stream.
pub fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0u8; 4];
    let mut space = nix::cmsg_space!([RawFd; FDS_MAX]);
    let (got, fds) = loop {
        let mut parts = [IoSliceMut::new(&mut length)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        let mut fds = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                fds.extend(raw.into_iter().map(own));
            }
        }
        break (message.bytes, fds);
    };
    if got == 0 {
        return Ok(None);
    }
    let mut stream = stream;
    stream.read_exact(&mut length[got..])?;
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
    }
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body)?;
    Ok(Some((serde_json::from_slice(&body)?, fds)))
}

#[allow(unsafe_code, reason = "a received descriptor has no owner yet")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nothing else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for good in ["bb", "r-1", "n-0af3.2", "vnet_1"] {
            assert!(is_name(good), "{good}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", ".", "..", "a/b", "../x", "a b", "ü", ".hidden", long.as_str()] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_frame_and_its_descriptor_arrive_together() {
        let (near, far) = UnixStream::pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        let kill = Request::Kill { id: "a".repeat(3_000) };
        send(&near, &kill, &[write.as_raw_fd()]).unwrap();
        send(&near, &Request::Exited, &[]).unwrap();
        drop((near, write));
        let (got, fds) = receive::<Request>(&far).unwrap().unwrap();
        assert!(matches!(got, Request::Kill { id } if id.len() == 3_000));
        std::fs::File::from(fds.into_iter().next().unwrap()).write_all(b"hi").unwrap();
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
        assert!(matches!(receive::<Request>(&far).unwrap().unwrap().0, Request::Exited));
        assert!(receive::<Request>(&far).unwrap().is_none());
    }

    #[test]
    fn a_frame_that_claims_too_much_is_refused_before_it_is_read() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(&(FRAME_BYTES_MAX as u32 + 1).to_be_bytes()).unwrap();
        assert_eq!(receive::<Request>(&far).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
