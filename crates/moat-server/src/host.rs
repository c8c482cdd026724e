//! What the server asks of the world it runs in. The kernel side implements it by a privileged
//! helper; [`NoHost`] has no world at all: loopback only, nothing to reconcile.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// A socket to be made inside a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketSpec {
    /// A listening TCP socket.
    TcpListen(SocketAddr),
    /// A bound UDP socket.
    Udp(SocketAddr),
}

/// The world of an environment.
pub trait HostApi: Send + Sync + 'static {
    /// Makes a socket inside the namespace `ns`. May block for the length of one request.
    fn socket(&self, ns: &str, spec: SocketSpec) -> io::Result<OwnedFd>;

    /// Whether there is a data plane that writes have to reach. Without one, a write is complete
    /// when it is stored.
    fn has_data_plane(&self) -> bool;
}

/// No world: for tests and benches of the control plane.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHost;

impl HostApi for NoHost {
    fn socket(&self, ns: &str, _spec: SocketSpec) -> io::Result<OwnedFd> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("there is no namespace `{ns}` without a data plane")))
    }

    fn has_data_plane(&self) -> bool {
        false
    }
}
