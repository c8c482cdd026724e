//! Talks: HTTP over TLS, tokens, DNS and instance metadata; and drives the reconcilers.
//!
//! The server process holds no capability. It keeps the machine's network only to listen on one
//! loopback port; every other socket is made inside the fabric by the helper and handed in (see
//! [`host::HostApi`], [`listeners::Listeners`]). Nothing here decides what a request means: that is
//! `moat-control`, pure. Reading order: [`serve`], `http/listener.rs`, `http/arm.rs`, `services/table.rs`.

pub mod clock;
pub mod control;
pub mod dns;
pub mod environment;
pub mod hooks;
pub mod host;
pub mod http;
mod imds;
mod interpreters;
pub mod listeners;
pub mod packages;
pub mod random;
pub mod reconcile;
pub mod secrets;
pub mod server;
pub mod services;
pub mod tls;
pub mod token;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use moat_model::Edition;
use moat_store::blobs::Blobs;
use moat_store::tracking::Tracking;
use moat_store::{Store, StoreError};
use tokio::sync::watch;

pub use control::{ControlError, ControlHandlers};
pub use environment::Environment;
pub use host::{HostApi, NoHost};
pub use listeners::{DnsView, Listeners, Listening, OriginInfo};
pub use server::Server;

use clock::Clock;
use http::arm::Decide;
use services::table::Addresses;

/// Worker threads: requests are short, deciding happens on the store's writer.
const WORKERS: usize = 2;
/// Threads for what blocks (key generation, requests to the helper, content of blobs); kept small for idle memory.
const BLOCKING_THREADS_MAX: usize = 16;

/// Time for calls into the helper to return when the server ends.
const SHUTDOWN_SECONDS_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// What a server is started with.
#[derive(Debug)]
pub struct ServeConfig {
    /// Name of the environment.
    pub env_name: String,
    /// Which text applies.
    pub edition: Edition,
    /// Its private state.
    pub state_dir: PathBuf,
    /// Loopback, bound by who starts the server.
    pub listen: TcpListener,
    /// The control socket, likewise.
    pub control: UnixListener,
    /// Where builds of environments get packages; `None`: nothing is installed.
    pub package_index: Option<packages::Index>,
}

/// What is known once the server answers.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Loopback address of HTTPS.
    pub address: SocketAddr,
    /// Certificate of the environment's CA.
    pub ca_file: PathBuf,
    /// Who we are; holds the client secret, which does not show in `Debug`.
    pub environment: Environment,
    /// The running server, for in-process callers.
    pub server: Arc<Server>,
    /// Adds sockets made in the fabric.
    pub listeners: Listeners,
}

/// Why a server could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Documents.
    #[error("opening the state")]
    Store(#[from] StoreError),
    /// Ids and secret.
    #[error("opening the environment")]
    Environment(#[from] environment::EnvironmentError),
    /// Token key.
    #[error("opening the token key")]
    Key(#[from] token::jwt::KeyError),
    /// Certificates.
    #[error("opening the certificate authority")]
    Tls(#[from] tls::TlsError),
    /// Reconcilers.
    #[error("starting the reconcilers")]
    Reconcile(#[from] reconcile::StartError),
    /// Sockets and threads.
    #[error("starting the server")]
    Io(#[from] io::Error),
}

/// Opens the state, listens, calls `ready` once the first request can be answered, and serves until
/// `stop` on the control socket, SIGTERM or SIGINT. Blocks.
pub fn serve(config: ServeConfig, host: Arc<dyn HostApi>, ready: impl FnOnce(Ready) + Send) -> Result<(), ServeError> {
    let parts = Parts { clock: Clock::system(), decide: moat_control::decide::decide, find_addresses };
    serve_with(config, host, &parts, ready)
}

/// What tests replace.
pub(crate) struct Parts {
    pub(crate) clock: Clock,
    pub(crate) decide: Decide,
    pub(crate) find_addresses: fn(Edition) -> Addresses,
}

fn find_addresses(edition: Edition) -> Addresses {
    Addresses::of_tags(match edition {
        Edition::Seed2021 => moat_net::tags::september_2021(),
        Edition::Current => moat_net::tags::october_2025(),
    })
}

pub(crate) fn serve_with(
    config: ServeConfig,
    host: Arc<dyn HostApi>,
    parts: &Parts,
    ready: impl FnOnce(Ready) + Send,
) -> Result<(), ServeError> {
    let ServeConfig { env_name, edition, state_dir, listen, control, package_index } = config;
    let store = Store::open(&state_dir)?;
    let tracking = Tracking::open(&state_dir)?;
    let now = parts.clock.clone();
    let blobs = Blobs::open(&state_dir, move || now.now(), || random::uuid().simple().to_string())?;
    let environment = Environment::open(&env_name, edition, &state_dir, &store)?;
    if store.snapshot().seq() == 0 {
        let Environment { subscription, object_id, .. } = environment.clone();
        let assignment = random::uuid().to_string();
        store.submit_blocking(move |_| (moat_control::bootstrap(&subscription, &object_id, &assignment), ()))?;
    }
    let authority = token::Authority::open(&environment, &state_dir)?;
    let certificates = Arc::new(tls::CertificateAuthority::open(&state_dir, &env_name, parts.clock.clone())?);
    let tls = tls::server_config(certificates.clone())?;
    let server = Arc::new(Server {
        environment: environment.clone(),
        desk: Arc::new(reconcile::desk::Desk::new(store.clone(), &environment.tenant)),
        store,
        tracking,
        blobs,
        authority,
        certificates,
        host,
        hooks: hooks::Hooks::default(),
        control: ControlHandlers::default(),
        applied: watch::channel(0).0,
        clock: parts.clock.clone(),
        ca_file: state_dir.join(tls::CERTIFICATE_FILE),
        state_dir,
        tls: tls.into(),
        decide: parts.decide,
        find_addresses: parts.find_addresses,
        addresses: OnceLock::new(),
        offer: Arc::new(moat_model::environment::Offer {
            interpreters: interpreters::find(),
            index: package_index.as_ref().map(|i| i.id().to_owned()),
        }),
        package_index,
        stop: watch::channel(false).0,
        refused: std::sync::RwLock::default(),
    });
    control::add_basic(&server.control);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("server")
        .enable_io()
        .enable_time()
        .build()?;
    let address = listen.local_addr()?;
    runtime.block_on(async {
        let listeners = Listeners { server: Arc::downgrade(&server), runtime: runtime.handle().clone() };
        let loopback = listeners.add_https(OwnedFd::from(listen), OriginInfo::Loopback)?;
        control.set_nonblocking(true)?;
        let control = tokio::spawn(control::run(server.clone(), tokio::net::UnixListener::from_std(control)?));
        let sweeper = tokio::spawn(services::blob::sweep::run(server.clone()));
        let running = match server.host.hands() {
            Some(hands) => Some(reconcile::start(&server, listeners.clone(), hands)?),
            None => None,
        };
        if let Some(running) = &running {
            running.network_ready().await?;
        }
        let mut stopping = server.stopping();
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        ready(Ready { address, ca_file: server.ca_file.clone(), environment, server: server.clone(), listeners });
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        drop(running);
        drop(loopback);
        control.abort();
        sweeper.abort();
        Ok::<_, ServeError>(())
    })?;
    // Ends the connections; what was acknowledged is on disk already.
    runtime.shutdown_timeout(SHUTDOWN_SECONDS_MAX);
    Ok(())
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
