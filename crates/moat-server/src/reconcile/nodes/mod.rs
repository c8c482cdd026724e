//! Every node, asked by packets: can the services reach it, and can it reach what it needs?
//!
//! A node's agent is started when its interface stands. The services' side of the conversation
//! speaks from addresses of the services' own tags in the backbone, through the cluster's public
//! IP and balancer, so every rule on the way is met by a real packet. What comes out is a verdict
//! per node; nothing here reads a rule to decide it. Rules are read only to *name* what stopped a
//! packet, and only after the kernel said that it dropped it.

mod ask;
mod targets;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use moat_agent::config::{AgentConfig, Destination, Mode};
use moat_arm::{ResourceId, Snapshot};
use moat_control::schedule::observed::NodeVerdict;
use moat_control::schedule::order;
use moat_host::NsName;
use moat_model::Edition;
use moat_model::types::microsoft_machinelearningservices::auto_network as auto;
use tokio::sync::watch;

use self::ask::{Asker, Outcome};
use self::targets::{Target, targets};
use crate::reconcile::desk::{Agent, Desk};
use crate::reconcile::hands::Hands;
use crate::reconcile::network::Realised;

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
/// Pause between two questions to a node that has a run: how fast progress is seen where the node cannot tell it.
const WORK_HEARTBEAT: Duration = Duration::from_secs(1);
/// Nodes asked at the same time.
const ASKED_AT_ONCE_MAX: usize = 16;

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

/// What the loop needs.
pub struct Nodes {
    /// Newest documents.
    pub snapshots: watch::Receiver<Snapshot>,
    /// How far the kernel is.
    pub realised: watch::Receiver<Realised>,
    /// Hands.
    pub host: Arc<dyn Hands>,
    /// Services.
    pub landscape: Landscape,
    /// What nodes say and are told.
    pub desk: Arc<Desk>,
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").finish_non_exhaustive()
    }
}

/// What the loop remembers of a node.
#[derive(Debug)]
struct Known {
    id: ResourceId,
    /// Its agent, while one runs.
    agent: Option<Agent>,
    /// When to look at all its paths.
    next: Instant,
    /// When to ask about its run.
    next_work: Instant,
    silent_since: Option<Instant>,
    applied: u64,
    mark: u64,
    /// All its paths were open at least once since its agent was started.
    heard: bool,
    busy: bool,
}

type Table = Arc<Mutex<BTreeMap<String, Known>>>;

impl Nodes {
    /// Runs until `stop` is dropped. Blocking: give it a thread of its own.
    pub fn run(mut self, stop: &Arc<std::sync::atomic::AtomicBool>) {
        let known: Table = Arc::default();
        let slots = Arc::new(tokio::sync::Semaphore::new(ASKED_AT_ONCE_MAX));
        let me =
            Arc::new(Asker { host: self.host.clone(), landscape: self.landscape.clone(), desk: self.desk.clone() });
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
            let Some(state) = known.remove(&key) else { continue };
            if let Err(e) = self.host.kill(state.id.name()) {
                tracing::warn!(error = %e, node = state.id.name(), "the agent of a removed node could not be ended");
            }
            self.desk.dismiss(&state.id);
        }
        for name in self.host.exited().unwrap_or_default() {
            for state in known.values_mut().filter(|s| s.id.name().eq_ignore_ascii_case(&name)) {
                state.agent = None;
                state.heard = false;
            }
        }
        for (key, target) in targets {
            let Some(ns) = realised.plan.places.get(&target.nic) else { continue };
            let now = Instant::now();
            let state = known.entry(key.clone()).or_insert_with(|| Known {
                id: target.id.clone(),
                agent: None,
                next: now,
                next_work: now,
                silent_since: None,
                applied: 0,
                mark: self.desk.flows.mark(),
                heard: false,
                busy: false,
            });
            if state.agent.is_some() {
                continue;
            }
            let Some(agent) = self.desk.enroll(&target.id, target.private) else {
                tracing::error!("no randomness: agents cannot be started");
                return;
            };
            match self.spawn(target, ns, &agent.key) {
                Ok(()) => state.agent = Some(agent),
                Err(e) => {
                    tracing::warn!(error = %e, node = target.id.name(), "the agent of a node could not be started")
                }
            }
        }
    }

    fn spawn(&self, target: &Target, ns: &NsName, key: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
        let simplified = self.landscape.edition == Edition::Current;
        let mut destinations = vec![Destination {
            label: target.storage(),
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
            node_id: target.id.name().to_owned(),
            key: STANDARD.encode(key),
            mode: if simplified { Mode::Simplified } else { Mode::Classic },
            listen: listen.to_vec(),
            resolvers: vec![IpAddr::V4(crate::reconcile::network::PLATFORM_DNS)],
            destinations,
            ca_pem: self.landscape.ca_pem.clone(),
        };
        self.host.spawn(ns, target.id.name(), &serde_json::to_string(&config)?)?;
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
            let Some(agent) = state.agent.clone().filter(|_| !state.busy) else { continue };
            // A changed network is a reason to look again at once.
            let changed = state.applied != realised.changed_at;
            let about = if now >= state.next || changed {
                About::Paths
            } else if self.has_work(target, &agent, snapshot, now >= state.next_work) {
                About::Work
            } else {
                continue;
            };
            if changed {
                // Drops by rules of before explain nothing any more.
                state.mark = self.desk.flows.mark();
                state.silent_since = None;
            }
            state.busy = true;
            let (mark, started) = (state.mark, state.heard);
            if about == About::Paths {
                state.applied = realised.changed_at;
            }
            drop(table);
            let (asker, table, desk) = (asker.clone(), known.clone(), self.desk.clone());
            let (about_whom, snapshot) = (target.clone(), snapshot.clone());
            let asked = std::thread::Builder::new().name("node".to_owned()).spawn(move || {
                match about {
                    About::Paths => {
                        let finding = asker.ask(&about_whom, &agent, started, mark, &snapshot);
                        judge(&about_whom, &agent, finding, &table, &desk);
                    }
                    About::Work => {
                        let pause = if asker.work(&about_whom, &agent) { WORK_HEARTBEAT } else { RETRY };
                        rest(&about_whom, pause, &table);
                    }
                }
                drop(slot);
            });
            if asked.is_err() {
                rest(target, RETRY, known);
            }
        }
    }

    /// Whether a node is to be asked for its run: it is to be told something, or it has one and it is time.
    fn has_work(&self, target: &Target, agent: &Agent, snapshot: &Snapshot, due: bool) -> bool {
        // In simplified communication the node asks.
        if self.landscape.edition != Edition::Seed2021 || target.public.is_none() {
            return false;
        }
        due && order::is_busy(snapshot, &target.id) || self.desk.has_news_for(agent, snapshot)
    }
}

/// What a node is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// Every path to it and from it.
    Paths,
    /// Its run, with an order.
    Work,
}

/// The conversation about the run is over.
fn rest(target: &Target, pause: Duration, known: &Table) {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(state) = known.get_mut(&target.document) {
        state.busy = false;
        state.next_work = Instant::now() + pause;
    }
}

/// What was found about all paths becomes a verdict.
fn judge(target: &Target, agent: &Agent, finding: Outcome, known: &Table, desk: &Desk) {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(state) = known.get_mut(&target.document) else { return };
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
    // What an agent of before could reach says nothing about the start of the next one.
    state.heard |= good && state.agent.as_ref().is_some_and(|now| now.instance == agent.instance);
    state.next = Instant::now() + if good { HEARTBEAT } else { RETRY };
    drop(known);
    if let Some(verdict) = verdict {
        desk.observed.send_if_modified(|o| o.nodes.insert(target.document.clone(), verdict.clone()) != Some(verdict));
    }
}
