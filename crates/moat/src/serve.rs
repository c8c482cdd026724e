//! The seam: what the server, the helper and the agents of a world run.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use moat_host::world::{Failure, NETNS_DIR, ServerSeat};
use moat_host::{Applier, HostClient, NsName};
use moat_model::Edition;
use moat_server::{HostApi, ServeConfig};

/// What executes plans, made in the helper.
pub(crate) fn hands() -> Result<Applier, Failure> {
    Applier::new(NETNS_DIR).map_err(|error| Failure::bare(format!("the directory of namespaces: {error}")))
}

/// What runs on a node.
pub(crate) fn agent(config: &str) -> i32 {
    moat_agent::run(config)
}

/// What runs in the server process, until it is told to stop.
pub(crate) fn serve(
    name: String,
    edition: Edition,
    listen: TcpListener,
    control: UnixListener,
    seat: ServerSeat,
) -> Result<(), Failure> {
    let ServerSeat { host, state_dir, ready } = seat;
    let config = ServeConfig { env_name: name, edition, state_dir, listen, control };
    moat_server::serve(config, Arc::new(World(host)), move |_| ready.ready())
        .map_err(|error| Failure::bare(with_causes(&error)))
}

/// The helper as the server knows it.
struct World(HostClient);

impl HostApi for World {
    fn socket(&self, ns: &str, spec: moat_server::SocketSpec) -> std::io::Result<OwnedFd> {
        /// Length of an accept queue.
        const BACKLOG: u16 = 1_024;
        let v4 = |address| match address {
            SocketAddr::V4(address) => Ok(address),
            SocketAddr::V6(_) => Err(std::io::Error::from(std::io::ErrorKind::Unsupported)),
        };
        let spec = match spec {
            moat_server::SocketSpec::TcpListen(address) => {
                moat_host::SocketSpec::TcpListen { address: v4(address)?, backlog: BACKLOG }
            }
            moat_server::SocketSpec::Udp(address) => moat_host::SocketSpec::Udp { address: v4(address)? },
        };
        self.0.socket(&NsName::from(ns), spec).map_err(std::io::Error::other)
    }

    fn has_data_plane(&self) -> bool {
        true
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
