//! Where the services keep what nodes say by themselves, and find what nodes are to be told.
//!
//! A node says how its run is by two ways: the management conversation (`nodes`, `http/nodes.rs`) and the events of
//! the run at the Machine Learning service (`services/regional/node.rs`). Both are folded here into [`Observed`], from
//! which the scheduler takes it into documents; so whichever way is open tells, and neither takes anything back.
//!
//! A node proves itself by its key, which is new at each start of its agent: what an agent of before said late is
//! said by nobody. A finding about a packet never comes from the model: the flow log has the drop of exactly that
//! packet, or nothing explains it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moat_agent::handshake::{self, Finding, Reach, RunAssertion, Status, WorkAnswer, WorkAsk};
use moat_agent::work::{self, Outcome, RunReport, Ticket};
use moat_arm::{ResourceId, Snapshot};
use moat_control::RunScope;
use moat_control::schedule::observed::{AgentSeen, End, Observed, Phase, RunSeen};
use moat_control::schedule::order;
use moat_model::refs;
use moat_model::types::microsoft_machinelearningservices::runs::{self, Run};
use moat_net::ir::Direction;
use moat_store::Store;
use tokio::sync::watch;

use crate::reconcile::flows::FlowLog;
use crate::reconcile::words::{self, Path};

/// Length of a node's key.
const KEY_BYTES: usize = 32;
/// A report by a node itself is fresh for this long (simplified communication).
const REPORT_FRESH: Duration = Duration::from_secs(30);
/// Proofs accepted for one attempt: its token is renewed about once a day.
const PROOFS_MAX: usize = 64;
/// Warnings taken from one report, and characters of each.
const WARNINGS_MAX: usize = 50;
const TEXT_CHARS_MAX: usize = 4096;

/// See the module.
pub struct Desk {
    store: Store,
    /// Drops of the kernel.
    pub flows: Arc<FlowLog>,
    /// What was seen of nodes, runs and environments; loops send here, the scheduler follows.
    pub observed: watch::Sender<Observed>,
    tenant: String,
    /// This start of the environment.
    start: String,
    nodes: Mutex<BTreeMap<String, Enrolled>>,
    agents: std::sync::atomic::AtomicU64,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("start", &self.start).finish_non_exhaustive()
    }
}

/// A node whose agent was started, by the node's name.
struct Enrolled {
    agent: Agent,
    reported: Option<(Instant, Status)>,
    run: Option<RunReport>,
    /// Proofs that were used, of one attempt.
    proofs: (String, BTreeSet<String>),
}

/// One start of the agent of one node.
#[derive(Clone)]
pub struct Agent {
    /// Id of the node's document.
    pub node: ResourceId,
    /// Address of its interface.
    pub address: Ipv4Addr,
    /// What proves it; nobody else has it.
    pub key: Arc<[u8]>,
    /// Which start.
    pub instance: String,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("node", &self.node).field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// Why a proof opens nothing. For the log; the node is told one thing for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofRefused {
    /// No such node, or not its key.
    #[error("the proof was not made by a node")]
    NotANode,
    /// It was used before, or too many were.
    #[error("the proof was used before")]
    Used,
    /// The node has not that attempt of that run now.
    #[error("the node does not have this run now")]
    NotItsRun,
}

impl Desk {
    /// An empty one.
    pub fn new(store: Store, tenant: &str) -> Self {
        Self {
            store,
            flows: Arc::default(),
            observed: watch::channel(Observed::default()).0,
            tenant: tenant.to_owned(),
            start: crate::random::uuid().simple().to_string(),
            nodes: Mutex::default(),
            agents: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// A node whose agent is about to be started, with a key of its own; `None` without randomness.
    pub fn enroll(&self, node: &ResourceId, address: Ipv4Addr) -> Option<Agent> {
        let mut key = vec![0u8; KEY_BYTES];
        aws_lc_rs::rand::fill(&mut key).ok()?;
        let count = self.agents.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let instance = format!("{}:{count}", self.start);
        let agent = Agent { node: node.clone(), address, key: key.into(), instance };
        let fresh = Enrolled { agent: agent.clone(), reported: None, run: None, proofs: Default::default() };
        self.nodes().insert(node.name().to_lowercase(), fresh);
        Some(agent)
    }

    /// A node that is no more.
    pub fn dismiss(&self, node: &ResourceId) {
        self.nodes().remove(&node.name().to_lowercase());
        self.observed.send_if_modified(|o| {
            let verdict = o.nodes.remove(node.key()).is_some();
            o.agents.remove(node.key()).is_some() || verdict
        });
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Enrolled>> {
        // Entries are replaced whole, so a poisoned lock hides nothing half-done.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn agent(&self, node: &str) -> Option<Agent> {
        self.nodes().get(&node.to_lowercase()).map(|e| e.agent.clone())
    }

    /// A node's report by itself; false if it does not prove the node's key.
    pub fn report(&self, node: &str, text: &str, code: &str) -> bool {
        let Some(agent) = self.agent(node) else { return false };
        if !handshake::same(code, &handshake::report_code(&agent.key, node, text)) {
            return false;
        }
        let Ok(status) = serde_json::from_str::<Status>(text) else { return false };
        if status.node_id != node {
            return false;
        }
        self.heard(&agent, &status);
        true
    }

    /// A node's question for work: who asks, if it proves the node's key.
    pub fn asked(&self, node: &str, ask: &WorkAsk) -> Option<Agent> {
        let agent = self.agent(node)?;
        let status = ask.open(&agent.key, node).ok()?;
        self.heard(&agent, &status);
        Some(agent)
    }

    /// The answer to a question for work, and whether it holds an order.
    pub fn answer(&self, agent: &Agent, ask: &WorkAsk) -> std::io::Result<(WorkAnswer, bool)> {
        let order = self.order(agent);
        let answer = WorkAnswer::new(&agent.key, agent.node.name(), ask, order.as_ref())?;
        Ok((answer, order.is_some()))
    }

    /// The last report of a node by itself, while it is fresh.
    pub fn fresh(&self, node: &ResourceId) -> Option<Status> {
        let nodes = self.nodes();
        let (at, status) = nodes.get(&node.name().to_lowercase())?.reported.as_ref()?;
        (at.elapsed() < REPORT_FRESH).then(|| status.clone())
    }

    /// What an agent said in the management conversation, whichever side opened it.
    pub fn heard(&self, agent: &Agent, status: &Status) {
        {
            let mut nodes = self.nodes();
            let Some(enrolled) = nodes.get_mut(&agent.node.name().to_lowercase()) else { return };
            if enrolled.agent.instance != agent.instance {
                return;
            }
            enrolled.reported = Some((Instant::now(), status.clone()));
            enrolled.run.clone_from(&status.run);
        }
        self.fold(agent, status.run.as_ref());
    }

    /// What the run with this token said to the Machine Learning service; the order that waits for it.
    pub fn event(&self, scope: &RunScope, report: &RunReport) -> Option<work::Order> {
        if !is_for(&report.ticket, scope) {
            return None;
        }
        let job = job_of(&report.ticket)?;
        let node = ResourceId::parse(&Run::of(&self.store.snapshot().get(&job)?.body).node?).ok()?;
        let agent = self.agent(node.name())?;
        if let Some(enrolled) = self.nodes().get_mut(&node.name().to_lowercase())
            && enrolled.agent.instance == agent.instance
        {
            enrolled.run = Some(report.clone());
        }
        self.fold(&agent, Some(report));
        self.order(&agent)
    }

    /// What this agent is to be told now.
    pub fn order(&self, agent: &Agent) -> Option<work::Order> {
        let run = {
            let nodes = self.nodes();
            let enrolled = nodes.get(&agent.node.name().to_lowercase())?;
            (enrolled.agent.instance == agent.instance).then(|| enrolled.run.clone())?
        };
        let snapshot = self.store.snapshot();
        let seen = run.as_ref().and_then(|r| self.seen(agent, r, &snapshot));
        if run.is_some() && seen.is_none() {
            // A run of no workspace: not one that we gave.
            return None;
        }
        Some(match (order::order(&snapshot, &agent.node, seen.as_ref())?, run) {
            (order::Order::Start { job, attempt }, _) => work::Order::Start(self.ticket(&snapshot, &job, attempt)?),
            (order::Order::Cancel { grace_seconds }, Some(run)) => {
                work::Order::Cancel { ticket: run.ticket, grace_seconds }
            }
            (order::Order::Forget, Some(run)) => work::Order::Forget(run.ticket),
            (order::Order::Cancel { .. } | order::Order::Forget, None) => return None,
        })
    }

    /// Whether there is something that this agent is to be told; cheap enough to ask often.
    pub fn has_news_for(&self, agent: &Agent, snapshot: &Snapshot) -> bool {
        let has_run = self.nodes().get(&agent.node.name().to_lowercase()).is_some_and(|e| e.run.is_some());
        (has_run || order::is_busy(snapshot, &agent.node)) && self.order(agent).is_some()
    }

    fn ticket(&self, snapshot: &Snapshot, job: &ResourceId, attempt: u32) -> Option<Ticket> {
        let workspace = job.parent()?;
        Some(Ticket {
            run: job.name().to_owned(),
            region: refs::location_of(snapshot, &workspace)?,
            workspace: workspace.to_string(),
            attempt,
            tenant: self.tenant.clone(),
        })
    }

    /// Who a proof makes its bearer: a run that this very node has now. Each proof counts once.
    pub fn redeem(&self, text: &str) -> Result<RunScope, ProofRefused> {
        let proof = RunAssertion::decode(text).map_err(|_| ProofRefused::NotANode)?;
        let agent = self.agent(&proof.node).ok_or(ProofRefused::NotANode)?;
        if !proof.proves(&agent.key) {
            return Err(ProofRefused::NotANode);
        }
        let ticket = &proof.ticket;
        let scope = RunScope { workspace: ticket.workspace.clone(), run: ticket.run.clone(), attempt: ticket.attempt };
        let snapshot = self.store.snapshot();
        let run = live(&snapshot, &scope).ok_or(ProofRefused::NotItsRun)?;
        let is_there = run.node.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(agent.node.as_str()));
        if !is_there || run.agent.as_deref() != Some(agent.instance.as_str()) {
            return Err(ProofRefused::NotItsRun);
        }
        let mut nodes = self.nodes();
        let enrolled = nodes.get_mut(&proof.node.to_lowercase()).ok_or(ProofRefused::NotANode)?;
        let (purpose, used) = &mut enrolled.proofs;
        if *purpose != ticket.purpose() {
            *purpose = ticket.purpose();
            used.clear();
        }
        if used.len() >= PROOFS_MAX || !used.insert(proof.nonce) {
            return Err(ProofRefused::Used);
        }
        Ok(scope)
    }

    /// Into what the scheduler sees. An end that was told stays told, and no late report takes a phase back.
    fn fold(&self, agent: &Agent, run: Option<&RunReport>) {
        let snapshot = self.store.snapshot();
        let mut next =
            AgentSeen { instance: agent.instance.clone(), run: run.and_then(|r| self.seen(agent, r, &snapshot)) };
        self.observed.send_if_modified(|o| {
            let before = o.agents.get(agent.node.key()).filter(|b| b.instance == next.instance);
            if let (Some(before), Some(run)) = (before.and_then(|b| b.run.as_ref()), next.run.as_mut())
                && (&before.job, before.attempt) == (&run.job, run.attempt)
                && (before.end.is_some() || before.phase > run.phase)
            {
                let log_begun = before.log_begun || run.log_begun;
                *run = RunSeen { log_begun, ..before.clone() };
            }
            if before == Some(&next) {
                return false;
            }
            o.agents.insert(agent.node.key().to_owned(), next);
            true
        });
    }

    /// A report in the scheduler's words.
    fn seen(&self, agent: &Agent, report: &RunReport, snapshot: &Snapshot) -> Option<RunSeen> {
        let end = report.outcome.as_ref().map(|outcome| match outcome {
            Outcome::Exited { code } => End::Exited(*code),
            Outcome::Canceled => End::Canceled,
            Outcome::TimedOut { seconds } => End::TimedOut(*seconds),
            Outcome::Unreachable(finding) => End::Unreachable(self.explain(agent, finding, snapshot)),
            Outcome::Failed { code, message } => End::Failed { code: bounded(code), message: bounded(message) },
        });
        Some(RunSeen {
            job: job_of(&report.ticket)?.key().to_owned(),
            attempt: report.ticket.attempt,
            phase: phase(report.phase),
            end,
            warnings: report.warnings.iter().take(WARNINGS_MAX).map(|w| bounded(w)).collect(),
            limits: report.limits.as_deref().map(bounded),
            log_begun: report.log_begun,
        })
    }

    /// What stopped the packet of a finding: the rule, if the kernel says that it dropped it.
    fn explain(&self, agent: &Agent, finding: &Finding, snapshot: &Snapshot) -> String {
        let path = Path {
            direction: Direction::Outbound,
            tag: bounded(&finding.label),
            address: finding.address.as_deref().map(bounded),
            port: finding.port,
        };
        let to: Option<Ipv4Addr> = finding.address.as_deref().and_then(|a| a.parse().ok());
        let dropped = finding.source_port.and_then(|from| {
            self.flows.drop_since(0, |f| {
                f.source == agent.address
                    && f.source_port == from
                    && Some(f.destination) == to
                    && f.destination_port == finding.port
            })
        });
        match (dropped, &finding.reach) {
            (Some(flow), _) => words::dropped(&path, &flow.rule, snapshot),
            (None, Reach::Failed(why)) => words::unexplained(&path, &bounded(why)),
            (None, Reach::Untried | Reach::Reached) => words::unexplained(&path, "it was not reached"),
        }
    }
}

/// The run of a scope while it is under way: what its token may be used for ends with it.
pub(crate) fn live(snapshot: &Snapshot, scope: &RunScope) -> Option<Run> {
    let stored = snapshot.get(&ResourceId::parse(&scope.workspace).ok()?.child("jobs", &scope.run))?;
    let run = Run::of(&stored.body);
    let under_way = run.ended.is_none() && runs::Status::of(&stored.body).is_some_and(|s| !s.is_terminal());
    (under_way && run.attempt == scope.attempt).then_some(run)
}

fn job_of(ticket: &Ticket) -> Option<ResourceId> {
    Some(ResourceId::parse(&ticket.workspace).ok()?.child("jobs", &ticket.run))
}

fn is_for(ticket: &Ticket, scope: &RunScope) -> bool {
    ticket.workspace.eq_ignore_ascii_case(&scope.workspace)
        && ticket.run == scope.run
        && ticket.attempt == scope.attempt
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

fn phase(phase: work::Phase) -> Phase {
    match phase {
        work::Phase::Accepted => Phase::Accepted,
        work::Phase::Identity => Phase::Identity,
        work::Phase::Specification => Phase::Specification,
        work::Phase::Image => Phase::Image,
        work::Phase::Code => Phase::Code,
        work::Phase::Inputs => Phase::Inputs,
        work::Phase::Running => Phase::Running,
        work::Phase::Outputs => Phase::Outputs,
        work::Phase::Ended => Phase::Ended,
    }
}
