//! The seam: what the server, the helper and the agents of a world run.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use moat_host::Applier;
use moat_host::world::{Failure, NETNS_DIR, ServerSeat};
use moat_model::Edition;
use moat_server::packages::Index;
use moat_server::{ServeConfig, ServeError};

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
    package_index: Option<Index>,
    seat: ServerSeat,
) -> Result<(), Failure> {
    let ServerSeat { host, state_dir, ready } = seat;
    let config = ServeConfig { env_name: name, edition, state_dir, listen, control, package_index };
    moat_server::serve(config, Arc::new(host), move |_| ready.ready()).map_err(|error| {
        let what = crate::ui::with_causes(&error);
        match error {
            ServeError::Reconcile(_) => {
                Failure::new(what, "`moat doctor` tries every feature and says what this kernel lacks")
            }
            _ => Failure::bare(what),
        }
    })
}
