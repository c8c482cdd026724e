//! Sockets the server answers on. The reconciler hands in sockets made inside the fabric and keeps
//! the returned [`Listening`]; dropping it closes the socket.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::dns;
use crate::http::listener::{self, Front};
use crate::server::Server;

/// Where the callers of a listener are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginInfo {
    /// Programs of this machine: any local user, until a token says more.
    Loopback,
    /// The public side of the fabric.
    Backbone,
    /// Inside a VNet.
    Vnet {
        /// VNet document id.
        vnet: String,
    },
}

/// Through whose eyes a resolver looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsView {
    /// The internet's.
    Public,
    /// A VNet's (private zones will differ).
    Vnet {
        /// VNet document id.
        vnet: String,
    },
}

/// A socket being served; closes when dropped.
#[derive(Debug)]
#[must_use = "the socket closes when this is dropped"]
pub struct Listening(Vec<JoinHandle<()>>);

impl Drop for Listening {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Adds listeners to a running server, from any thread.
#[derive(Debug, Clone)]
pub struct Listeners {
    pub(crate) server: Weak<Server>,
    pub(crate) runtime: Handle,
}

impl Listeners {
    /// HTTPS for every emulated name.
    pub fn add_https(&self, fd: OwnedFd, origin: OriginInfo) -> io::Result<Listening> {
        self.http(fd, Front::Https(origin))
    }

    /// Port 80: says that HTTPS is wanted.
    pub fn add_http(&self, fd: OwnedFd) -> io::Result<Listening> {
        self.http(fd, Front::Http)
    }

    /// Instance metadata of a VNet.
    pub fn add_imds(&self, fd: OwnedFd, vnet: &str) -> io::Result<Listening> {
        self.http(fd, Front::Imds { vnet: vnet.to_owned() })
    }

    /// DNS over UDP and TCP.
    pub fn add_dns(&self, udp: OwnedFd, tcp: OwnedFd, view: DnsView) -> io::Result<Listening> {
        let server = self.server()?;
        let _in_runtime = self.runtime.enter();
        let udp = UdpSocket::from(udp);
        udp.set_nonblocking(true)?;
        let udp = tokio::net::UdpSocket::from_std(udp)?;
        let tcp = tcp_listener(tcp)?;
        Ok(Listening(vec![
            self.runtime.spawn(dns::server::udp(server.clone(), udp, view.clone())),
            self.runtime.spawn(dns::server::tcp(server, tcp, view)),
        ]))
    }

    fn http(&self, fd: OwnedFd, front: Front) -> io::Result<Listening> {
        let _in_runtime = self.runtime.enter();
        let listening = listener::run(self.server()?, tcp_listener(fd)?, front);
        Ok(Listening(vec![self.runtime.spawn(listening)]))
    }

    fn server(&self) -> io::Result<Arc<Server>> {
        self.server.upgrade().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the server has stopped"))
    }
}

fn tcp_listener(fd: OwnedFd) -> io::Result<tokio::net::TcpListener> {
    let listener = TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}
