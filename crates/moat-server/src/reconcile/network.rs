//! From the newest snapshot to the kernel: lower, plan, diff, apply, tell how far it got.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ipnet::Ipv4Net;
use moat_arm::{ResourceId, Snapshot};
use moat_host::{Fabric, HostPlan, NsName, RuleRef, SocketSpec, diff};
use moat_net::ir::{Net, Semantics};
use moat_store::Store;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use tokio::sync::watch;

use crate::reconcile::flows::{Flow, FlowLog};
use crate::reconcile::hands::{Hands, HandsError};

/// Resolver and probe address of the platform (network-semantics 3.9, 11.1).
pub const PLATFORM_DNS: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// Instance metadata.
pub const PLATFORM_IMDS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The client place on the internet.
pub const INTERNET_HOST: &str = "inet";
/// Its address: documentation space, in no service tag and no VNet by accident.
pub const INTERNET_HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Steps sent to the helper in one request.
const STEPS_PER_REQUEST_MAX: usize = 256;
/// Pause before a failed pass is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// What the names of a VNet's two namespaces begin with.
const ROUTER: &str = "r-";
const EDGE: &str = "e-";
/// Accept queue of platform listeners.
const BACKLOG: u16 = 128;

/// Longest log message.
const LOG_BYTES_MAX: usize = 64 * 1024;
/// How long a log reader may take to notice that its VNet is gone.
const LOG_WAIT_MS: u16 = 500;

/// What rule numbers mean.
pub type Rules = Arc<RwLock<BTreeMap<u32, RuleRef>>>;

/// What Linux looks like by now.
#[derive(Debug, Clone, Default)]
pub struct Realised {
    /// Newest commit that the kernel obeys.
    pub seq: u64,
    /// The commit at which the kernel last had to be changed; later ones did not concern the network.
    pub changed_at: u64,
    /// The network as lowered from that commit.
    pub net: Arc<Net>,
    /// The plan that was applied.
    pub plan: Arc<HostPlan>,
    /// What the last pass could not do, for `moat status`.
    pub trouble: Option<String>,
    /// VNets that the data plane refuses, by lower-case id, with the reason.
    pub refused: BTreeMap<String, String>,
}

/// What the loop needs.
pub struct Network {
    /// Documents.
    pub store: Store,
    /// Hands.
    pub host: Arc<dyn Hands>,
    /// Where it tells how far it got.
    pub realised: watch::Sender<Realised>,
    /// Where drops and accepts go.
    pub flows: Arc<FlowLog>,
    /// Addresses of the emulated services.
    pub services: Vec<Ipv4Net>,
    /// Addresses for default outbound access.
    pub outbound_pool: Vec<Ipv4Net>,
    /// Service tags of the edition.
    pub tags: moat_net::tags::TagSource,
    /// What rule numbers in the log mean; those of earlier plans too, since lines may still be on their way.
    pub rules: Rules,
    /// Gets the sockets of the platform in each VNet and in the backbone.
    pub listeners: Arc<dyn PlatformListeners>,
}

/// Who serves the sockets that the fabric needs.
pub trait PlatformListeners: Send + Sync {
    /// HTTPS and HTTP of the emulated services, in the backbone.
    fn backbone(&self, https: OwnedFd, http: OwnedFd);
    /// DNS at a resolver address; `vnet` is `None` on the internet side.
    fn dns(&self, vnet: Option<&str>, udp: OwnedFd, tcp: OwnedFd);
    /// Instance metadata of a VNet.
    fn imds(&self, vnet: &str, http: OwnedFd);
    /// The VNet (`None`: the internet side) is gone; its sockets must be closed, or its namespace stays.
    fn close(&self, vnet: Option<&str>);
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl Network {
    /// Runs until the store is gone. Blocking: give it a thread of its own.
    pub fn run(self) {
        let mut snapshots = self.store.watch();
        let mut pass = Pass::default();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            match self.converge(&snapshot, &mut pass) {
                Ok(()) => {}
                Err(e) => {
                    tracing::error!(
                        error = with_causes(&e),
                        seq = snapshot.seq(),
                        "the network could not be made to match"
                    );
                    self.realised.send_modify(|r| r.trouble = Some(with_causes(&e)));
                    // Half a step may have been done: start from nothing, as after a crash.
                    if let Err(e) = self.host.reset() {
                        tracing::error!(error = %e, "the network could not be cleared");
                    }
                    pass = Pass::default();
                    std::thread::sleep(RETRY_PAUSE);
                    continue;
                }
            }
            if futures_changed(&mut snapshots).is_err() {
                return;
            }
        }
    }

    fn converge(&self, snapshot: &Snapshot, pass: &mut Pass) -> Result<(), HandsError> {
        let started = std::time::Instant::now();
        let (mut net, problems) = moat_model::lower::network(snapshot, Semantics::default(), &self.tags);
        for problem in &problems {
            tracing::debug!(%problem, "a document says something that cannot be lowered");
        }
        let fabric = self.fabric(&net, &mut pass.outbound);
        net.default_outbound = fabric.default_outbound.clone();
        let plan = moat_host::plan(&net, &fabric);
        let steps = diff(&pass.plan, &plan);
        let n_steps = steps.len();
        self.rules.write().unwrap_or_else(PoisonError::into_inner).extend(plan.rule_ids.clone());
        self.forget(&plan, pass);
        for chunk in steps.chunks(STEPS_PER_REQUEST_MAX) {
            self.host.apply(chunk)?;
        }
        self.listen(&plan, pass)?;
        for refusal in plan.refused.iter().filter(|r| !pass.plan.refused.contains(r)) {
            tracing::warn!(vnet = refusal.vnet(), %refusal, "a virtual network is not realised");
        }
        let refused = plan.refused.iter().map(|r| (r.vnet().to_lowercase(), r.to_string())).collect();
        pass.plan = plan.clone();
        if n_steps > 0 {
            let ms = started.elapsed().as_millis();
            tracing::info!(
                seq = snapshot.seq(),
                steps = n_steps,
                duration_ms = u64::try_from(ms).unwrap_or(u64::MAX),
                "network applied"
            );
        }
        if n_steps > 0 {
            pass.changed_at = snapshot.seq();
        }
        self.realised.send_replace(Realised {
            seq: snapshot.seq(),
            changed_at: pass.changed_at,
            net: Arc::new(net),
            plan: Arc::new(plan),
            trouble: None,
            refused,
        });
        Ok(())
    }

    fn fabric(&self, net: &Net, outbound: &mut BTreeMap<String, Ipv4Addr>) -> Fabric {
        let present: BTreeSet<String> = net.vnets.iter().map(|v| v.id.to_lowercase()).collect();
        outbound.retain(|vnet, _| present.contains(vnet));
        for vnet in present {
            if !outbound.contains_key(&vnet) {
                let taken: BTreeSet<Ipv4Addr> = outbound.values().copied().collect();
                let free = self.outbound_pool.iter().flat_map(|p| p.hosts()).find(|a| !taken.contains(a));
                if let Some(address) = free {
                    outbound.insert(vnet, address);
                }
            }
        }
        Fabric {
            services: self.services.clone(),
            any_public: false,
            hosts: BTreeMap::from([(INTERNET_HOST.to_owned(), INTERNET_HOST_ADDRESS)]),
            default_outbound: outbound.clone(),
            log_accepts: true,
        }
    }

    /// Opens the platform's sockets in namespaces that do not have them yet.
    fn listen(&self, plan: &HostPlan, pass: &mut Pass) -> Result<(), HandsError> {
        let backbone = NsName::from(moat_host::layout::BACKBONE);
        if let Entry::Vacant(vacant) = pass.listening.entry(backbone.clone()) {
            let any = |port| SocketSpec::TcpListen {
                address: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port),
                backlog: BACKLOG,
            };
            let https = self.host.socket(&backbone, &any(443))?;
            let http = self.host.socket(&backbone, &any(80))?;
            self.listeners.backbone(https, http);
            let (udp, tcp) = self.dns_sockets(&backbone)?;
            self.listeners.dns(None, udp, tcp);
            vacant.insert(Served { vnet: None, gone: Arc::default() });
        }
        for (id, ns) in &plan.places {
            if !is_vnet(id) || pass.listening.contains_key(ns) {
                continue;
            }
            let (udp, tcp) = self.dns_sockets(ns)?;
            self.listeners.dns(Some(id), udp, tcp);
            let imds = SocketSpec::TcpListen { address: SocketAddrV4::new(PLATFORM_IMDS, 80), backlog: BACKLOG };
            self.listeners.imds(id, self.host.socket(ns, &imds)?);
            let served = Served { vnet: Some(id.clone()), gone: Arc::default() };
            // The router judges rules, the edge what may leave: both say what they dropped.
            let edge = NsName(ns.as_str().replacen(ROUTER, EDGE, 1));
            for ns in [ns, &edge].into_iter().filter(|ns| plan.namespaces.contains_key(*ns)) {
                let log = self.host.flow_log(ns)?;
                let reader = LogReader { log, vnet: id.clone(), flows: self.flows.clone(), rules: self.rules.clone() };
                let gone = served.gone.clone();
                std::thread::Builder::new().name("flow-log".to_owned()).spawn(move || reader.run(&gone))?;
            }
            pass.listening.insert(ns.clone(), served);
        }
        Ok(())
    }

    /// Closes what lies in namespaces that are about to go: an open socket would keep them.
    fn forget(&self, plan: &HostPlan, pass: &mut Pass) {
        pass.listening.retain(|ns, served| {
            let stays = plan.namespaces.contains_key(ns);
            if !stays {
                served.gone.store(true, Ordering::Relaxed);
                self.listeners.close(served.vnet.as_deref());
            }
            stays
        });
    }

    fn dns_sockets(&self, ns: &NsName) -> Result<(OwnedFd, OwnedFd), HandsError> {
        let address = SocketAddrV4::new(PLATFORM_DNS, 53);
        let udp = self.host.socket(ns, &SocketSpec::Udp { address })?;
        let tcp = self.host.socket(ns, &SocketSpec::TcpListen { address, backlog: BACKLOG })?;
        Ok((udp, tcp))
    }
}

/// What a pass remembers of the passes before; lost with the world it describes.
#[derive(Debug, Default)]
struct Pass {
    plan: HostPlan,
    changed_at: u64,
    listening: BTreeMap<NsName, Served>,
    outbound: BTreeMap<String, Ipv4Addr>,
}

/// A namespace whose platform sockets are served.
#[derive(Debug)]
struct Served {
    vnet: Option<String>,
    gone: Arc<AtomicBool>,
}

/// Reads the firewall log of one VNet's router.
struct LogReader {
    log: OwnedFd,
    vnet: String,
    flows: Arc<FlowLog>,
    rules: Rules,
}

impl LogReader {
    fn run(self, gone: &AtomicBool) {
        let mut buffer = vec![0u8; LOG_BYTES_MAX];
        while !gone.load(Ordering::Relaxed) {
            let mut waiting = [PollFd::new(self.log.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut waiting, PollTimeout::from(LOG_WAIT_MS)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                Ok(_) => {}
                Err(e) => {
                    tracing::error!(error = %e, vnet = self.vnet, "the firewall log cannot be read");
                    return;
                }
            }
            match nix::sys::socket::recv(self.log.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::MSG_DONTWAIT) {
                Ok(n) => self.take(&buffer[..n]),
                // The kernel had more lines than room: some are lost, the log goes on.
                Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                Err(e) => {
                    tracing::error!(error = %e, vnet = self.vnet, "the firewall log cannot be read");
                    return;
                }
            }
        }
    }

    fn take(&self, bytes: &[u8]) {
        for line in moat_host::netlink::nflog::parse(bytes) {
            let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
            let Some(rule) = line.rule().and_then(|(_, id)| rules.get(&id).cloned()) else { continue };
            drop(rules);
            let protocol = match line.protocol {
                1 => "Icmp".to_owned(),
                6 => "Tcp".to_owned(),
                17 => "Udp".to_owned(),
                other => other.to_string(),
            };
            self.flows.push(Flow {
                number: 0,
                time: crate::clock::Clock::system().now(),
                vnet: self.vnet.clone(),
                access: rule.access,
                rule,
                protocol,
                source: *line.source.ip(),
                source_port: line.source.port(),
                destination: *line.destination.ip(),
                destination_port: line.destination.port(),
            });
        }
    }
}

/// Whether a place is a VNet's router.
fn is_vnet(place: &str) -> bool {
    ResourceId::parse(place)
        .is_ok_and(|id| id.resource_type().eq_ignore_ascii_case("Microsoft.Network/virtualNetworks"))
}

/// Blocks until there is a newer snapshot; `Err` when the store is gone.
fn futures_changed(snapshots: &mut watch::Receiver<Snapshot>) -> Result<(), watch::error::RecvError> {
    tokio::runtime::Handle::current().block_on(snapshots.changed())
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
