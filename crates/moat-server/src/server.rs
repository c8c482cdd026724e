//! The state of a running server: everything that calls, listeners and reconcilers share.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use ipnet::Ipv4Net;
use moat_arm::{ApiError, Snapshot, document};
use moat_control::Ctx;
use moat_store::Store;
use moat_store::blobs::Blobs;
use moat_store::tracking::Tracking;
use tokio::sync::watch;
use uuid::Uuid;

use crate::clock::Clock;
use crate::control::ControlHandlers;
use crate::environment::Environment;
use crate::hooks::Hooks;
use crate::host::HostApi;
use crate::http::arm::Decide;
use crate::http::reply::Reply;
use crate::random;
use crate::reconcile::desk::Desk;
use crate::services::table::Addresses;
use crate::tls::CertificateAuthority;
use crate::token::Authority;

/// Base of the absolute URLs in answers.
pub const ARM_BASE_URL: &str = "https://management.azure.com";

/// Where public IP addresses are taken from: Azure's own space, but part of no service tag that
/// Moat serves.
pub const PUBLIC_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(20, 0, 0, 0), 17);

/// Finds the storage accounts, to know in which region's tag an account's address lies.
const STORAGE_ACCOUNTS: &str = "Microsoft.Storage/storageAccounts";
const STORAGE_SUFFIX: &str = ".core.windows.net";

/// A running server.
pub struct Server {
    /// Who we are.
    pub environment: Environment,
    /// The documents.
    pub store: Store,
    /// What runs logged.
    pub tracking: Tracking,
    /// What lies in containers.
    pub blobs: Blobs,
    /// Tokens.
    pub authority: Authority,
    /// The certificate authority.
    pub certificates: Arc<CertificateAuthority>,
    /// The world outside.
    pub host: Arc<dyn HostApi>,
    /// What nodes say and are told.
    pub desk: Arc<Desk>,
    /// Callbacks of the reconcilers.
    pub hooks: Hooks,
    /// Methods of the control socket.
    pub control: ControlHandlers,
    /// Newest commit that the data plane has made real. The network reconciler sends here.
    pub applied: watch::Sender<u64>,
    /// The time.
    pub clock: Clock,
    /// The CA certificate, for clients.
    pub ca_file: PathBuf,
    /// Private state of the environment.
    pub state_dir: PathBuf,
    /// What environments of jobs can be made of: interpreters, and the package index.
    pub offer: Arc<moat_model::environment::Offer>,
    /// The index as builds ask it.
    pub package_index: Option<crate::packages::Index>,
    pub(crate) tls: tokio_rustls::TlsAcceptor,
    pub(crate) decide: Decide,
    pub(crate) find_addresses: fn(moat_model::Edition) -> Addresses,
    pub(crate) addresses: OnceLock<Addresses>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) refused: RwLock<BTreeMap<String, String>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("environment", &self.environment)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// What `decide` may know for one request.
    pub fn context(&self, seed: Uuid) -> Ctx {
        Ctx {
            now: self.clock.now(),
            seed,
            edition: self.environment.edition,
            tenant: self.environment.tenant.clone(),
            subscription: self.environment.subscription.clone(),
            // Without a data plane there is nothing to wait for: stored is done.
            applied: if self.host.has_data_plane() { *self.applied.borrow() } else { u64::MAX },
            base_url: ARM_BASE_URL.to_owned(),
            public_pool: vec![PUBLIC_POOL],
        }
    }

    /// The address of an emulated name.
    pub fn address_of(&self, host: &str) -> Option<Ipv4Addr> {
        let region = host
            .strip_suffix(STORAGE_SUFFIX)
            .and_then(|rest| rest.split('.').next())
            .and_then(|account| storage_region(&self.store.snapshot(), account));
        self.service_table().resolve(host, region.as_deref())
    }

    /// The address at which a service tag is served, if it is one of the table's.
    pub fn tag_address(&self, tag: &str) -> Option<Ipv4Addr> {
        self.service_table().of_tag(tag)
    }

    /// VNets that the data plane cannot realise, by lower-case id, with the reason.
    pub fn set_refused(&self, refused: BTreeMap<String, String>) {
        *self.refused.write().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// [`Server::set_refused`].
    pub fn refused(&self) -> BTreeMap<String, String> {
        self.refused.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every address at which the backbone must answer for emulated services.
    pub fn service_addresses(&self) -> Vec<Ipv4Addr> {
        self.service_table().all().into_iter().collect()
    }

    /// Asks the server to stop, as `moat down` does.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Follows whether the server is to stop.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    fn service_table(&self) -> &Addresses {
        // Tag tables are large; nothing reads them before the first name is asked for.
        self.addresses.get_or_init(|| (self.find_addresses)(self.environment.edition))
    }

    /// For what is our own fault: the chain goes to the log, the client gets a correlation id.
    pub(crate) fn internal_error(&self, doing: &str, error: &(dyn Error + 'static)) -> Reply {
        let id = random::uuid().to_string();
        tracing::error!(correlation = id, error, doing, "internal error");
        Reply::error(ApiError::new(
            500,
            "InternalServerError",
            format!("The server failed unexpectedly. Its log says more under correlation id '{id}'."),
        ))
        .with("x-ms-correlation-request-id", id)
    }
}

fn storage_region(snapshot: &Snapshot, account: &str) -> Option<String> {
    let account = snapshot.of_type(STORAGE_ACCOUNTS).find(|d| d.id.name().eq_ignore_ascii_case(account))?;
    let location = document::str_at(&account.body, "location")?;
    Some(location.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_lowercase())
}
