//! Every node, asked by packets: can the services reach it, and can it reach what it needs?
//!
//! A node's agent is started when its interface stands. The services' side of the conversation
//! speaks from addresses of the services' own tags in the backbone, through the cluster's public
//! IP and balancer, so every rule on the way is met by a real packet. What comes out is a verdict
//! per node; nothing here reads a rule to decide it. Rules are read only to *name* what stopped a
//! packet, and only after the kernel said that it dropped it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use moat_agent::config::{AgentConfig, Destination, Mode};
use moat_agent::connect;
use moat_agent::handshake::{self, Finding, Reach, Status};
use moat_arm::{ResourceId, Snapshot, document};
use moat_control::schedule::observed::{NodeVerdict, Observed};
use moat_host::{NsName, SocketSpec};
use moat_model::Edition;
use moat_model::types::microsoft_machinelearningservices::auto_network as auto;
use moat_net::ir::Direction;
use tokio::sync::watch;

use crate::reconcile::flows::FlowLog;
use crate::reconcile::hands::Hands;
use crate::reconcile::network::Realised;
use crate::reconcile::words::{self, Path};

/// A new node may be silent for this long before that counts as blocked; a drop that the kernel
/// logged counts at once.
const SILENCE_OF_NEW_MAX: Duration = Duration::from_secs(8);
/// A node that was heard before may be silent for this long: its last finding may be older than
/// the rule that was changed, and a service may be busy.
const SILENCE_OF_KNOWN_MAX: Duration = Duration::from_secs(4);
/// Pause between two looks at a healthy node.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Pause between two looks at a node that is not healthy yet.
const RETRY: Duration = Duration::from_millis(400);
/// Nodes asked at the same time.
const ASKED_AT_ONCE_MAX: usize = 16;
/// Length of a node's key.
const KEY_BYTES: usize = 32;
/// A report by a node itself is fresh for this long (simplified communication).
const REPORT_FRESH: Duration = Duration::from_secs(30);

/// Where the services live and what nodes need, in one edition and region.
#[derive(Debug, Clone)]
pub struct Landscape {
    /// Edition of the environment.
    pub edition: Edition,
    /// Source address of the Batch service.
    pub batch: Ipv4Addr,
    /// Name of its tag.
    pub batch_tag: String,
    /// Source address of the Machine Learning service.
    pub ml: Ipv4Addr,
    /// What a node reaches out to, by region: storage first, Batch last.
    pub storage_host: fn(&str) -> String,
    /// Host of the Batch service, by region.
    pub batch_host: fn(&str) -> String,
    /// The CA certificate of the environment.
    pub ca_pem: String,
}

/// Reports that nodes sent by themselves, by node name.
#[derive(Debug, Default)]
pub struct Inbox {
    keys: Mutex<BTreeMap<String, Vec<u8>>>,
    reports: Mutex<BTreeMap<String, (Instant, Status)>>,
}

impl Inbox {
    /// Takes the report of `node`; false if it does not prove the node's key.
    pub fn take(&self, node: &str, text: &str, code: &str) -> bool {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(key) = keys.get(node) else { return false };
        if !handshake::same(code, &handshake::report_code(key, node, text)) {
            return false;
        }
        let Ok(status) = serde_json::from_str::<Status>(text) else { return false };
        if status.node_id != node {
            return false;
        }
        drop(keys);
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), (Instant::now(), status));
        true
    }

    fn fresh(&self, node: &str) -> Option<Status> {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.get(node).filter(|(at, _)| at.elapsed() < REPORT_FRESH).map(|(_, s)| s.clone())
    }
}

/// What the loop needs.
pub struct Nodes {
    /// Newest documents.
    pub snapshots: watch::Receiver<Snapshot>,
    /// How far the kernel is.
    pub realised: watch::Receiver<Realised>,
    /// Hands.
    pub host: Arc<dyn Hands>,
    /// Drops of the kernel.
    pub flows: Arc<FlowLog>,
    /// Services.
    pub landscape: Landscape,
    /// Reports of nodes.
    pub inbox: Arc<Inbox>,
    /// Where verdicts go.
    pub observed: watch::Sender<Observed>,
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").finish_non_exhaustive()
    }
}

/// A node document, with what is needed to talk with it.
#[derive(Debug, Clone)]
struct Target {
    document: String,
    name: String,
    nic: String,
    private: Ipv4Addr,
    public: Option<(Ipv4Addr, u16)>,
    ports: Vec<u16>,
    region: String,
}

/// What the loop remembers of a node.
#[derive(Debug)]
struct Known {
    key: Vec<u8>,
    /// Namespace its agent runs in; a new namespace of the same name means a new agent.
    agent: bool,
    next: Instant,
    silent_since: Option<Instant>,
    applied: u64,
    mark: u64,
    heard: bool,
    busy: bool,
}

type Table = Arc<Mutex<BTreeMap<String, Known>>>;

impl Nodes {
    /// Runs until `stop` is dropped. Blocking: give it a thread of its own.
    pub fn run(mut self, stop: &Arc<std::sync::atomic::AtomicBool>) {
        let known: Table = Arc::default();
        let slots = Arc::new(tokio::sync::Semaphore::new(ASKED_AT_ONCE_MAX));
        let me = Arc::new(Asker {
            host: self.host.clone(),
            flows: self.flows.clone(),
            landscape: self.landscape.clone(),
            inbox: self.inbox.clone(),
        });
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let snapshot = self.snapshots.borrow_and_update().clone();
            let realised = self.realised.borrow_and_update().clone();
            let targets = targets(&snapshot, self.landscape.edition);
            self.agents(&targets, &realised, &known);
            self.ask_due(&targets, &snapshot, &realised, &known, &slots, &me);
            // Woken by time: due dates of many nodes, and agents that ended, have no event.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// An agent for each node whose interface stands; none for others.
    fn agents(&self, targets: &BTreeMap<String, Target>, realised: &Realised, known: &Table) {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<String> = known.keys().filter(|k| !targets.contains_key(*k)).cloned().collect();
        for key in gone {
            if let Some(node) = key.rsplit('/').next()
                && let Err(e) = self.host.kill(node)
            {
                tracing::warn!(error = %e, node, "the agent of a removed node could not be ended");
            }
            known.remove(&key);
            self.observed.send_if_modified(|o| o.nodes.remove(&key).is_some());
        }
        for name in self.host.exited().unwrap_or_default() {
            for (key, state) in known.iter_mut() {
                if key.ends_with(&format!("/{}", name.to_lowercase())) {
                    state.agent = false;
                }
            }
        }
        for (key, target) in targets {
            let Some(ns) = realised.plan.places.get(&target.nic) else { continue };
            let now = Instant::now();
            let Some(fresh) = fresh_key() else {
                tracing::error!("no randomness: agents cannot be started");
                return;
            };
            let state = known.entry(key.clone()).or_insert_with(|| Known {
                key: fresh,
                agent: false,
                next: now,
                silent_since: None,
                applied: 0,
                mark: self.flows.mark(),
                heard: false,
                busy: false,
            });
            if state.agent {
                continue;
            }
            self.inbox
                .keys
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(target.name.clone(), state.key.clone());
            match self.spawn(target, ns, &state.key) {
                Ok(()) => state.agent = true,
                Err(e) => tracing::warn!(error = %e, node = target.name, "the agent of a node could not be started"),
            }
        }
    }

    fn spawn(&self, target: &Target, ns: &NsName, key: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
        let simplified = self.landscape.edition == Edition::Current;
        let mut destinations = vec![Destination {
            label: format!("Storage.{}", target.region),
            host: (self.landscape.storage_host)(&target.region),
            port: 443,
        }];
        if simplified {
            destinations.push(Destination {
                label: format!("BatchNodeManagement.{}", target.region),
                host: (self.landscape.batch_host)(&target.region),
                port: 443,
            });
        }
        let listen = [auto::BATCH_PORTS[0], auto::BATCH_PORTS[1], auto::ML_PORT]
            .map(|port| SocketAddr::new(IpAddr::V4(target.private), port));
        let config = AgentConfig {
            node_id: target.name.clone(),
            key: STANDARD.encode(key),
            mode: if simplified { Mode::Simplified } else { Mode::Classic },
            listen: listen.to_vec(),
            resolvers: vec![IpAddr::V4(crate::reconcile::network::PLATFORM_DNS)],
            destinations,
            ca_pem: self.landscape.ca_pem.clone(),
        };
        self.host.spawn(ns, &target.name, &serde_json::to_string(&config)?)?;
        Ok(())
    }

    fn ask_due(
        &self,
        targets: &BTreeMap<String, Target>,
        snapshot: &Snapshot,
        realised: &Realised,
        known: &Table,
        slots: &Arc<tokio::sync::Semaphore>,
        asker: &Arc<Asker>,
    ) {
        let now = Instant::now();
        for (key, target) in targets {
            let Ok(slot) = slots.clone().try_acquire_owned() else { return };
            let mut table = known.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(state) = table.get_mut(key) else { continue };
            // A changed network is a reason to look again at once.
            let changed = state.applied != realised.changed_at;
            if state.busy || !state.agent || (now < state.next && !changed) {
                continue;
            }
            if changed {
                // Drops by rules of before explain nothing any more.
                state.mark = self.flows.mark();
                state.silent_since = None;
            }
            state.busy = true;
            state.applied = realised.changed_at;
            let (secret, mark) = (state.key.clone(), state.mark);
            drop(table);
            let (asker, table, observed) = (asker.clone(), known.clone(), self.observed.clone());
            let (target, snapshot) = (target.clone(), snapshot.clone());
            let asked = std::thread::Builder::new().name("node".to_owned()).spawn(move || {
                let finding = asker.ask(&target, &secret, mark, &snapshot);
                let mut known = table.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(state) = known.get_mut(&target.document) {
                    state.busy = false;
                    let silent = matches!(finding, Outcome::Silent(_));
                    let since = *state.silent_since.get_or_insert_with(Instant::now);
                    let patience = if state.heard { SILENCE_OF_KNOWN_MAX } else { SILENCE_OF_NEW_MAX };
                    if !silent {
                        state.silent_since = None;
                    }
                    let verdict = match finding {
                        Outcome::Good => Some(NodeVerdict::Reachable),
                        Outcome::Dropped(why) => Some(NodeVerdict::Blocked(why)),
                        Outcome::Silent(why) if since.elapsed() > patience => Some(NodeVerdict::Blocked(why)),
                        Outcome::Silent(_) | Outcome::TooEarly => None,
                    };
                    let good = verdict == Some(NodeVerdict::Reachable);
                    state.heard |= good;
                    state.next = Instant::now() + if good { HEARTBEAT } else { RETRY };
                    drop(known);
                    if let Some(verdict) = verdict {
                        observed.send_if_modified(|o| {
                            o.nodes.insert(target.document.clone(), verdict.clone()) != Some(verdict)
                        });
                    }
                }
                drop(slot);
            });
            if asked.is_err() {
                let mut table = known.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(state) = table.get_mut(key) {
                    state.busy = false;
                }
            }
        }
    }
}

/// What asking a node came to.
#[derive(Debug)]
enum Outcome {
    Good,
    /// The kernel logged the drop of exactly this packet.
    Dropped(String),
    /// It did not get through, and nothing says why.
    Silent(String),
    /// The agent has not finished its first round.
    TooEarly,
}

/// Talks with one node at a time.
struct Asker {
    host: Arc<dyn Hands>,
    flows: Arc<FlowLog>,
    landscape: Landscape,
    inbox: Arc<Inbox>,
}

impl Asker {
    fn ask(&self, target: &Target, key: &[u8], mark: u64, snapshot: &Snapshot) -> Outcome {
        let mut status = None;
        let mut silent = None;
        for (offset, port) in (0u16..).zip(&target.ports) {
            let Some((public, first)) = target.public else { return Outcome::TooEarly };
            let (source, tag) = if *port == auto::ML_PORT {
                (self.landscape.ml, "AzureMachineLearning".to_owned())
            } else {
                (self.landscape.batch, self.landscape.batch_tag.clone())
            };
            let path = Path { direction: Direction::Inbound, tag, address: Some(source.to_string()), port: *port };
            match self.converse(source, SocketAddrV4::new(public, first + offset), key, &target.name, *port) {
                Ok(s) => status = Some(s),
                Err(e) => {
                    let dropped = self.flows.drop_since(mark, |f| {
                        f.source == source && f.destination == target.private && f.destination_port == *port
                    });
                    match dropped {
                        Some(flow) => return Outcome::Dropped(words::dropped(&path, &flow.rule, snapshot)),
                        None => silent = silent.or(Some(words::unexplained(&path, &e.to_string()))),
                    }
                }
            }
        }
        let reported = self.inbox.fresh(&target.name);
        // In simplified communication the node's own report is a path of its own: without it the
        // Batch service knows nothing of the node.
        let simplified = self.landscape.edition == Edition::Current;
        let status = if simplified { reported.or(status) } else { status };
        let findings = status.map(|s| s.findings).unwrap_or_default();
        for finding in &findings {
            if let Reach::Failed(why) = &finding.reach {
                return self.explain(target, finding, why, mark, snapshot);
            }
        }
        if let Some(why) = silent {
            return Outcome::Silent(why);
        }
        if findings.is_empty() && simplified {
            return self.explain_silence(target, mark, snapshot);
        }
        if findings.iter().all(|f| f.reach == Reach::Reached) && !findings.is_empty() {
            return Outcome::Good;
        }
        Outcome::TooEarly
    }

    /// A destination that the node did not reach.
    fn explain(&self, target: &Target, finding: &Finding, why: &str, mark: u64, snapshot: &Snapshot) -> Outcome {
        let path = Path {
            direction: Direction::Outbound,
            tag: finding.label.clone(),
            address: finding.address.clone(),
            port: finding.port,
        };
        let to: Option<Ipv4Addr> = finding.address.as_deref().and_then(|a| a.parse().ok());
        let dropped = self.flows.drop_since(mark, |f| {
            f.source == target.private && Some(f.destination) == to && f.destination_port == finding.port
        });
        match dropped {
            Some(flow) => Outcome::Dropped(words::dropped(&path, &flow.rule, snapshot)),
            None => Outcome::Silent(words::unexplained(&path, why)),
        }
    }

    /// Nothing was heard of a node that has to report by itself.
    fn explain_silence(&self, target: &Target, mark: u64, snapshot: &Snapshot) -> Outcome {
        let path = Path {
            direction: Direction::Outbound,
            tag: format!("BatchNodeManagement.{}", target.region),
            address: None,
            port: 443,
        };
        let dropped = self.flows.drop_since(mark, |f| f.source == target.private && f.destination_port == 443);
        match dropped {
            Some(flow) => {
                let path = Path { address: Some(flow.destination.to_string()), ..path };
                Outcome::Dropped(words::dropped(&path, &flow.rule, snapshot))
            }
            None => Outcome::Silent(words::unexplained(&path, "the node sent no report")),
        }
    }

    fn converse(&self, from: Ipv4Addr, to: SocketAddrV4, key: &[u8], node: &str, port: u16) -> io::Result<Status> {
        let backbone = NsName::from(moat_host::layout::BACKBONE);
        let spec = SocketSpec::Tcp { bind: Some(SocketAddrV4::new(from, 0)) };
        let socket = self.host.socket(&backbone, &spec).map_err(io::Error::other)?;
        connect::begin(&socket, to)?;
        handshake::ask(connect::finish(socket)?, key, node, port)
    }
}

/// A key for one node; `None` without randomness: a key that could be guessed is no key.
fn fresh_key() -> Option<Vec<u8>> {
    let mut key = vec![0u8; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut key).ok().map(|()| key)
}

/// Every node that should be talked with, by document key.
fn targets(snapshot: &Snapshot, edition: Edition) -> BTreeMap<String, Target> {
    let mut targets = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for stored in snapshot.of_type(auto::NODE_TYPE) {
        let Some(compute) = stored.id.parent().and_then(|id| snapshot.get(&id)) else { continue };
        let text = |name: &str| document::str_at(&stored.body, &format!("properties.{name}"));
        let Some(private) = text("privateIpAddress").and_then(|a| a.parse().ok()) else { continue };
        let Some(nic) = text("nicId").and_then(|t| ResourceId::parse(t).ok()) else { continue };
        if !seen.insert(nic.key().to_owned()) {
            continue;
        }
        let port = document::u64_at(&stored.body, "properties.port").and_then(|p| u16::try_from(p).ok());
        let public = text("publicIpAddress").and_then(|a| a.parse().ok()).zip(port);
        let region = document::str_at(&compute.body, "properties.computeLocation")
            .or_else(|| document::str_at(&compute.body, "location"))
            .unwrap_or_default()
            .to_lowercase()
            .replace(' ', "");
        targets.insert(
            stored.id.key().to_owned(),
            Target {
                document: stored.id.key().to_owned(),
                name: stored.id.name().to_owned(),
                nic: nic.key().to_owned(),
                private,
                public,
                ports: auto::inbound_ports(&compute.body, edition),
                region,
            },
        );
    }
    targets
}
