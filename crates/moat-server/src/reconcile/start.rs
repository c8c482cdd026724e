//! Starts the loops of a server that has a data plane, and wires what they share.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::Ipv4Net;
use moat_arm::{ResourceId, Snapshot, document};
use moat_control::Principal;
use moat_model::types::microsoft_machinelearningservices::auto_network as auto;
use tokio::sync::watch;
use uuid::Uuid;

use crate::listeners::{DnsView, Listeners, Listening, OriginInfo};
use crate::random;
use crate::reconcile::build_log::WithTheRuns;
use crate::reconcile::clusters::Clusters;
use crate::reconcile::control::{self, Shared};
use crate::reconcile::environments::{self, Environments, NextToIt};
use crate::reconcile::hands::Hands;
use crate::reconcile::jobs;
use crate::reconcile::network::{Network, PLATFORM_DNS, PlatformListeners, Realised};
use crate::reconcile::nodes::{Landscape, Nodes};
use crate::server::Server;

/// Addresses for default outbound access: Azure's space, in no service's tag of either edition.
const OUTBOUND_POOL: &str = "20.3.0.0/20";

/// Why the loops could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread.
    #[error("starting a reconciler")]
    Io(#[from] io::Error),
    /// The kernel refused the very first network.
    #[error("the network could not be made: {0}")]
    Network(String),
    /// The tag file has no address for a service that nodes need.
    #[error("the service tag `{0}` has no address in this edition")]
    NoAddress(String),
    /// A constant of the program.
    #[error("the address pool of the program is malformed")]
    Pool(#[from] ipnet::AddrParseError),
}

/// Running loops; they end when this is dropped.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    realised: watch::Receiver<Realised>,
}

impl Running {
    /// Returns once the network has been made to match for the first time; `Err` says what the
    /// kernel refused, so that nobody is told that an environment is ready which cannot carry a packet.
    pub async fn network_ready(&self) -> Result<(), StartError> {
        let mut realised = self.realised.clone();
        let reached = realised.wait_for(|r| r.trouble.is_some() || !r.plan.namespaces.is_empty()).await;
        match reached.map(|r| r.trouble.clone()) {
            Ok(None) => Ok(()),
            Ok(Some(why)) => Err(StartError::Network(why)),
            Err(_) => Err(StartError::Network("the network loop has ended".to_owned())),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Starts everything. Call inside the server's runtime.
pub fn start(server: &Arc<Server>, listeners: Listeners, host: Arc<dyn Hands>) -> Result<Running, StartError> {
    let runtime = tokio::runtime::Handle::current();
    let stop = Arc::new(AtomicBool::new(false));
    let desk = server.desk.clone();
    let (realised, realised_seen) = watch::channel(Realised::default());
    let realised_first = realised_seen.clone();

    server.hooks.set_identity_of({
        let server = Arc::downgrade(server);
        move |vnet, address| identity(&server.upgrade()?.store.snapshot(), vnet, &address.to_string())
    });
    jobs::add(server);
    control::add(server, &Shared { realised: realised_seen.clone(), flows: desk.flows.clone(), host: host.clone() });

    let network = Network {
        store: server.store.clone(),
        host: host.clone(),
        realised,
        flows: desk.flows.clone(),
        rules: Arc::default(),
        // The backbone resolves names too, for clients on the internet side.
        services: server.service_addresses().into_iter().chain([PLATFORM_DNS]).map(Ipv4Net::from).collect(),
        outbound_pool: vec![OUTBOUND_POOL.parse()?],
        tags: moat_model::lower::tags_of(server.environment.edition),
        listeners: Arc::new(Platform { listeners, open: Mutex::default() }),
    };
    let inside = runtime.clone();
    std::thread::Builder::new().name("network".to_owned()).spawn(move || {
        let _runtime = inside.enter();
        network.run();
    })?;

    // Before anything reads it: what a job can have must not depend on who looks first.
    desk.observed.send_modify(|o| o.offer = (*server.offer).clone());
    let asked = Arc::default();
    environments::add_control(server, &asked);
    let environments = Environments {
        asked,
        snapshots: server.store.watch(),
        host: host.clone(),
        offer: server.offer.clone(),
        index: server.package_index.clone(),
        state: server.state_dir.clone(),
        observed: desk.observed.clone(),
        logs: Arc::new(WithTheRuns {
            beside: NextToIt(server.state_dir.clone()),
            store: server.store.clone(),
            blobs: server.blobs.clone(),
        }),
    };
    runtime.spawn(environments.run(stop.clone()));

    let nodes = Nodes {
        snapshots: server.store.watch(),
        realised: realised_seen.clone(),
        host,
        landscape: landscape(server)?,
        desk: desk.clone(),
    };
    let stopping = stop.clone();
    std::thread::Builder::new().name("nodes".to_owned()).spawn(move || nodes.run(&stopping))?;

    let clusters = Clusters {
        store: server.store.clone(),
        observed: desk.observed.subscribe(),
        context: Arc::new({
            let server = Arc::downgrade(server);
            move || server.upgrade().map(|s| s.context(random::uuid()))
        }),
    };
    runtime.spawn(clusters.run(stop.clone()));
    runtime.spawn(follow(server.clone(), realised_seen));
    let purging = server.clone();
    runtime.spawn(async move { control::purge_lent(&purging).await });
    Ok(Running { stop, realised: realised_first })
}

/// Tells the server how far the kernel is, so that operations complete.
async fn follow(server: Arc<Server>, mut realised: watch::Receiver<Realised>) {
    loop {
        let (seq, refused) = {
            let r = realised.borrow_and_update();
            (r.seq, r.refused.clone())
        };
        server.set_refused(refused);
        server.applied.send_replace(seq);
        if realised.changed().await.is_err() {
            return;
        }
    }
}

fn landscape(server: &Arc<Server>) -> Result<Landscape, StartError> {
    let address = |tag: &str| server.tag_address(tag).ok_or_else(|| StartError::NoAddress(tag.to_owned()));
    Ok(Landscape {
        edition: server.environment.edition,
        batch: address("BatchNodeManagement")?,
        batch_tag: "BatchNodeManagement".to_owned(),
        ml: address("AzureMachineLearning")?,
        storage_host: |region| format!("azurebatch{region}.blob.core.windows.net"),
        batch_host: |region| format!("{region}.service.batch.azure.com"),
        ca_pem: std::fs::read_to_string(&server.ca_file)?,
    })
}

/// Who a node is: its cluster's identity, which has no role assignment of its own and so may do
/// nothing on ARM (DECISIONS 10).
fn identity(snapshot: &Snapshot, vnet: &str, address: &str) -> Option<Principal> {
    let vnet = ResourceId::parse(vnet).ok()?;
    let node = snapshot.of_type(auto::NODE_TYPE).find(|n| {
        let compute = n.id.parent().and_then(|c| snapshot.get(&c).cloned());
        let in_vnet = compute.and_then(|c| auto::subnet(&c.body)).and_then(|s| s.parent()).is_some_and(|v| v == vnet);
        in_vnet && document::str_at(&n.body, "properties.privateIpAddress") == Some(address)
    })?;
    let compute = node.id.parent()?;
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, compute.key().as_bytes()).to_string();
    Some(Principal { object_id: id.clone(), app_id: id, name: compute.name().to_owned(), run: None })
}

/// Keeps the sockets of the fabric open as long as their namespace is wanted.
struct Platform {
    listeners: Listeners,
    open: Mutex<BTreeMap<String, Vec<Listening>>>,
}

impl Platform {
    fn keep(&self, place: &str, listening: io::Result<Listening>) {
        match listening {
            Ok(l) => {
                self.open.lock().unwrap_or_else(PoisonError::into_inner).entry(place.to_owned()).or_default().push(l)
            }
            Err(e) => tracing::error!(error = %e, place, "a socket of the fabric cannot be served"),
        }
    }
}

impl PlatformListeners for Platform {
    fn backbone(&self, https: OwnedFd, http: OwnedFd) {
        self.keep("", self.listeners.add_https(https, OriginInfo::Backbone));
        self.keep("", self.listeners.add_http(http));
    }

    fn dns(&self, vnet: Option<&str>, udp: OwnedFd, tcp: OwnedFd) {
        let view = match vnet {
            Some(vnet) => DnsView::Vnet { vnet: vnet.to_owned() },
            None => DnsView::Public,
        };
        self.keep(vnet.unwrap_or_default(), self.listeners.add_dns(udp, tcp, view));
    }

    fn imds(&self, vnet: &str, http: OwnedFd) {
        self.keep(vnet, self.listeners.add_imds(http, vnet));
    }

    fn close(&self, vnet: Option<&str>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(vnet.unwrap_or_default());
    }
}
