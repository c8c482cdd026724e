//! One step of every job: from documents and observations to the next documents.
//!
//! A job is one truth (docs/adr/0005): its document. What a node or a build says comes in as [`Observed`] and is
//! folded here, whatever the order it arrives in; what a node is told is read from the documents ([`super::order`]).
//! Nothing accepted is lost: a run whose node went away is queued again and says so, at most [`ATTEMPTS_MAX`] times.
//!
//! A run belongs to *one start of one agent* ([`Run::agent`]): whoever reports for another start cannot have it. So a
//! restarted agent, a node made anew and a restarted environment are all the same, and none is mistaken for progress.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use moat_arm::{ApiError, Batch, ResourceId, Snapshot, Stored, document};
use moat_model::environment::{self, Offer};
use moat_model::jobs;
use moat_model::types::microsoft_machinelearningservices::auto_network as auto;
use moat_model::types::microsoft_machinelearningservices::runs::{JOB_TYPE, Kind, Run, RunError, Status};
use serde_json::json;

use super::cluster::{NO_NODE_SINCE, RESIZE_TIMEOUT};
use super::observed::{AgentSeen, Build, End, NodeVerdict, Observed, Phase, RunSeen};
use super::order::RUN_JOB;
use super::pipeline::{self, Turn};
use crate::request::Ctx;

/// A run is `Finalizing` for this long, unless its final log was fetched before (PROTOCOL trap 5).
pub const FINALIZE: SignedDuration = SignedDuration::from_secs(15);
/// Attempts of one job; each but the last was cut off by the loss of its node.
pub const ATTEMPTS_MAX: u32 = 3;
/// A node with a run may be unusable for this long before the run is given to another one.
pub const NODE_LOST: SignedDuration = SignedDuration::from_secs(60);
/// A node that was told to cancel and does not say that it did is taken away after this long.
pub const CANCEL_PATIENCE: SignedDuration = SignedDuration::from_secs(60);
/// The agent ends a program at its limit; this much later the service takes the node away.
pub const TIMEOUT_BACKSTOP: SignedDuration = SignedDuration::from_secs(120);
/// Warnings kept of one run.
const WARNINGS_MAX: usize = 50;

/// Name of the run that a node has, as `listNodes` shows it.
pub(crate) const RUN_ID: &str = "properties.runId";
const STATE: &str = "properties.state";

/// What a job asks of the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The cluster it is to run on.
    pub cluster: ResourceId,
    /// Content hash of the environment that has to be built, if any.
    pub environment: Option<String>,
    /// Wall clock of its program.
    pub timeout_seconds: Option<u64>,
    /// Higher is sooner.
    pub priority: u64,
    /// What its person should know.
    pub warnings: Vec<String>,
}

/// Reads what a job asks for; `Err` is why it can never run.
pub type Planner = fn(&Snapshot, &Stored, &Offer) -> Result<Plan, RunError>;

/// The [`Planner`] of the service.
pub fn plan(snapshot: &Snapshot, job: &Stored, offer: &Offer) -> Result<Plan, RunError> {
    let refused = |e: ApiError| RunError { code: e.code, message: e.message, phase: String::new() };
    let plan = jobs::plan(snapshot, job).map_err(refused)?;
    let environment = environment::of_job(snapshot, job, offer).map_err(refused)?;
    Ok(Plan {
        cluster: plan.compute,
        environment: environment.build.map(|build| build.hash),
        timeout_seconds: plan.timeout_seconds,
        priority: plan.priority,
        warnings: plan.warnings.into_iter().chain(environment.warnings).collect(),
    })
}

/// How many nodes jobs need, by the key of the cluster's document.
pub(crate) fn demand(snapshot: &Snapshot) -> BTreeMap<String, u32> {
    let mut demand = BTreeMap::new();
    for job in snapshot.of_type(JOB_TYPE).filter_map(|d| Job::read(d)) {
        let needs_node = job.run.ended.is_none() && (job.status == Status::Queued || job.run.node.is_some());
        if let Some(cluster) = job.cluster().filter(|_| needs_node) {
            let count: &mut u32 = demand.entry(cluster.key().to_owned()).or_default();
            *count = count.saturating_add(1);
        }
    }
    demand
}

/// Every job, one step further.
pub(super) fn step(snapshot: &Snapshot, observed: &Observed, ctx: &Ctx, plan: Planner) -> Batch {
    let mut work = Work { snapshot: snapshot.clone(), batch: Batch::default(), observed, now: ctx.now };
    let (pipelines, jobs): (Vec<_>, Vec<_>) =
        snapshot.of_type(JOB_TYPE).filter_map(|d| Job::read(d)).partition(|job| job.run.kind == Kind::Pipeline);
    for mut job in jobs {
        work.advance(&mut job, plan);
        work.store(&job);
    }
    // They go as their steps went.
    for job in pipelines {
        for (id, body) in pipeline::step(&work.snapshot, job.stored, ctx.now) {
            work.put(&id, body);
        }
    }
    work.release_nodes();
    work.assign();
    work.batch
}

/// A job that the scheduler moves along and that has not ended.
#[derive(Debug)]
struct Job<'a> {
    stored: &'a Stored,
    status: Status,
    run: Run,
}

impl<'a> Job<'a> {
    fn read(stored: &'a Stored) -> Option<Self> {
        let status = Status::of(&stored.body).filter(|s| !s.is_terminal())?;
        let run = Run::of(&stored.body);
        (run.kind != Kind::Tracked).then_some(Self { stored, status, run })
    }

    fn cluster(&self) -> Option<ResourceId> {
        ResourceId::parse(self.run.cluster.as_deref()?).ok()
    }

    fn node(&self) -> Option<ResourceId> {
        ResourceId::parse(self.run.node.as_deref()?).ok()
    }

    fn warn(&mut self, text: String) {
        if self.run.warnings.len() < WARNINGS_MAX && !self.run.warnings.contains(&text) {
            self.run.warnings.push(text);
        }
    }

    /// Nothing more will happen, and nobody has to be waited for.
    fn end(&mut self, status: Status, error: Option<RunError>, now: Timestamp) {
        self.run.ended.get_or_insert(now);
        self.run.error = error.or(self.run.error.take());
        self.run.verdict = Some(status);
        self.status = status;
    }

    fn fail(&mut self, code: &str, message: String, now: Timestamp) {
        let error = RunError { code: code.to_owned(), message, phase: String::new() };
        self.end(Status::Failed, Some(error), now);
    }
}

/// The world as it becomes while a step goes on.
struct Work<'a> {
    snapshot: Snapshot,
    batch: Batch,
    observed: &'a Observed,
    now: Timestamp,
}

impl Work<'_> {
    fn put(&mut self, id: &ResourceId, body: serde_json::Value) {
        let mut batch = Batch::default();
        batch.put(id.clone(), body);
        self.snapshot.amend(&batch);
        self.batch.changes.extend(batch.changes);
    }

    fn store(&mut self, job: &Job<'_>) {
        let mut body = job.stored.body.clone();
        job.status.put(&mut body);
        // A run that nothing was learned about keeps the spelling that it has.
        if Run::of(&body) != job.run {
            job.run.put(&mut body);
        }
        if body != job.stored.body {
            self.put(&job.stored.id, body);
        }
    }

    fn advance(&mut self, job: &mut Job<'_>, plan: Planner) {
        if job.status == Status::CancelRequested && job.run.node.is_none() {
            return match job.run.ended {
                Some(_) => self.finalize(job),
                None => job.end(Status::Canceled, None, self.now),
            };
        }
        match job.status {
            Status::NotStarted if !job.run.after.is_empty() => match pipeline::turn(&self.snapshot, job.stored) {
                Turn::Now => self.begin(job, plan),
                Turn::NotYet => {}
                Turn::Never(why) => {
                    let error = RunError { code: "StepSkipped".to_owned(), message: why, phase: String::new() };
                    job.end(Status::Canceled, Some(error), self.now);
                }
            },
            Status::NotStarted => self.begin(job, plan),
            Status::Preparing => self.prepare(job),
            Status::Queued => self.wait(job),
            Status::Starting | Status::Running | Status::Finalizing | Status::CancelRequested => self.follow(job),
            Status::Completed | Status::Failed | Status::Canceled => {}
        }
    }

    /// Read for the first time.
    fn begin(&self, job: &mut Job<'_>, plan: Planner) {
        match plan(&self.snapshot, job.stored, &self.observed.offer) {
            Ok(plan) => {
                job.run.cluster = Some(plan.cluster.to_string());
                job.run.environment = plan.environment;
                job.run.timeout_seconds = plan.timeout_seconds;
                job.run.priority = plan.priority;
                plan.warnings.into_iter().for_each(|warning| job.warn(warning));
                job.run.created.get_or_insert(self.now);
                self.prepare(job);
            }
            Err(error) => job.end(Status::Failed, Some(error), self.now),
        }
    }

    /// Queued once its environment can be had.
    fn prepare(&self, job: &mut Job<'_>) {
        match job.run.environment.as_ref().map(|hash| self.observed.environments.get(hash)) {
            None | Some(Some(Build::Ready)) => {
                job.status = Status::Queued;
                job.run.queued = Some(self.now);
            }
            Some(Some(Build::Failed(why))) => job.fail("EnvironmentBuildFailed", why.clone(), self.now),
            Some(Some(Build::Building) | None) => job.status = Status::Preparing,
        }
    }

    /// In the queue: what it needs may go away while it waits.
    fn wait(&self, job: &mut Job<'_>) {
        let environment = job.run.environment.as_ref().map(|hash| self.observed.environments.get(hash));
        if !matches!(environment, None | Some(Some(Build::Ready))) {
            return self.prepare(job);
        }
        let cluster = job.cluster().and_then(|id| self.snapshot.get(&id).cloned());
        let Some(cluster) = cluster.filter(|c| !is_deleting(c)) else {
            return job.fail("ComputeDeleted", deleted(job), self.now);
        };
        let without: Option<Timestamp> =
            document::str_at(&cluster.body, NO_NODE_SINCE).and_then(|time| time.parse().ok());
        let since = without.max(job.run.queued).filter(|_| without.is_some());
        if since.is_some_and(|since| self.now.duration_since(since) >= RESIZE_TIMEOUT) {
            let errors = document::array_at(&cluster.body, "properties.properties.errors");
            let mut reasons: Vec<&str> = errors.iter().filter_map(|e| document::str_at(e, "error.message")).collect();
            if reasons.is_empty() {
                reasons.push("no node of it became usable");
            }
            let message = format!(
                "The cluster `{}` gave no node within {} minutes: {}",
                cluster.id.name(),
                RESIZE_TIMEOUT.as_mins(),
                reasons.join("; ")
            );
            job.fail("AllocationFailed", message, self.now);
        }
    }

    /// A job that a node has: folds what the node says, or finds that it is gone.
    fn follow(&mut self, job: &mut Job<'_>) {
        if job.run.ended.is_some() {
            return self.finalize(job);
        }
        let Some(node) = job.node() else {
            return self.lost(job, "it had no node");
        };
        let Some(document) = self.snapshot.get(&node).cloned() else {
            return self.lost(job, &format!("the node {} was removed", node.name()));
        };
        let agent = self.observed.agents.get(node.key());
        if let Some(agent) = agent
            && job.run.agent.as_ref().is_some_and(|mine| *mine != agent.instance)
        {
            return self.lost(job, &restarted(job.run.agent.as_deref().unwrap_or_default(), &agent.instance, &node));
        }
        let seen = agent
            .and_then(|a| a.run.as_ref())
            .filter(|seen| seen.job == job.stored.id.key() && seen.attempt == job.run.attempt);
        match seen {
            Some(seen) => self.fold(job, seen),
            // It was told to end before it had begun, and the node says that it has nothing.
            None if job.status == Status::CancelRequested && agent.is_some() => {
                return job.end(Status::Canceled, None, self.now);
            }
            None => {}
        }
        if job.run.ended.is_none() {
            self.give_up_node(job, &document);
        }
    }

    /// What the node that has the run says about it.
    fn fold(&self, job: &mut Job<'_>, seen: &RunSeen) {
        for phase in [Some(seen.phase), seen.end.as_ref().map(|_| Phase::Ended)].into_iter().flatten() {
            job.run.phases.entry(phase.as_str().to_owned()).or_insert(self.now);
        }
        let ran = matches!(seen.end, Some(End::Exited(_) | End::TimedOut(_)));
        if ran || matches!(seen.phase, Phase::Running | Phase::Outputs) {
            job.run.started.get_or_insert(self.now);
        }
        if seen.log_begun {
            job.run.log_begun.get_or_insert(self.now);
        }
        seen.warnings.iter().for_each(|w| job.warn(w.clone()));
        if seen.limits.is_some() {
            job.run.limits.clone_from(&seen.limits);
        }
        if let Some(end) = &seen.end {
            return self.ended(job, end, seen.phase);
        }
        if job.status == Status::CancelRequested {
            return;
        }
        let status = match seen.phase {
            Phase::Accepted | Phase::Identity | Phase::Specification | Phase::Image => Status::Starting,
            Phase::Code | Phase::Inputs | Phase::Running => Status::Running,
            Phase::Outputs | Phase::Ended => Status::Finalizing,
        };
        // Reports come by two ways; the older one never takes a run back.
        job.status = job.status.max(status);
    }

    /// The node says how it ended; the node is told to forget it once this is stored.
    fn ended(&self, job: &mut Job<'_>, end: &End, phase: Phase) {
        let asked = job.status == Status::CancelRequested || job.run.cancel_requested.is_some();
        let error = |code: &str, message: String| {
            Some(RunError { code: code.to_owned(), message, phase: phase.as_str().to_owned() })
        };
        let (verdict, error) = match end {
            End::Exited(0) => (Status::Completed, None),
            End::Exited(code) => (
                Status::Failed,
                error(
                    "UserError",
                    format!(
                        "Execution failed. User process exited with status code {code}. Please check log file 'user_logs/std_log.txt' for error details."
                    ),
                ),
            ),
            End::Canceled if asked => (Status::Canceled, None),
            End::Canceled => return self.lost(job, "its node ended it without being asked"),
            End::TimedOut(seconds) => (Status::Canceled, error("JobTimedOut", timed_out(*seconds))),
            End::Unreachable(what) => {
                (Status::Failed, error("ServiceUnreachable", format!("In its phase '{}': {what}", phase.as_str())))
            }
            End::Failed { code, message } => (Status::Failed, error(code, message.clone())),
        };
        if let End::Exited(code) = end {
            job.run.exit_code = Some(*code);
        }
        job.run.ended = Some(self.now);
        job.run.error = error;
        job.run.verdict = Some(verdict);
        // A client that asked to end it does not wait for a log.
        job.status = if verdict == Status::Canceled { verdict } else { Status::Finalizing };
    }

    /// Its end is known; a client that streams gets time to fetch the log.
    fn finalize(&self, job: &mut Job<'_>) {
        let waited = job.run.ended.is_none_or(|ended| self.now.duration_since(ended) >= FINALIZE);
        if job.run.log_seen || waited {
            job.status = job.run.verdict.unwrap_or(Status::Failed);
        } else {
            job.status = Status::Finalizing;
        }
    }

    /// A node that cannot be spoken with, or does not do what it was told, is taken away; what becomes of the run is
    /// decided when the node is gone, so that no two nodes ever have it at once.
    fn give_up_node(&mut self, job: &Job<'_>, node: &Stored) {
        let text = |path: &str| document::str_at(&node.body, path);
        let since: Option<Timestamp> = text("properties.since").and_then(|t| t.parse().ok());
        let longer = |since: Option<Timestamp>, limit: SignedDuration| {
            since.is_some_and(|since| self.now.duration_since(since) >= limit)
        };
        let reason = match text(STATE) {
            Some("leaving") => return,
            Some("unusable") if longer(since, NODE_LOST) => "it was unusable for too long while it had a run",
            _ if job.status == Status::CancelRequested && longer(job.run.cancel_requested, CANCEL_PATIENCE) => {
                "it did not end a run that was cancelled"
            }
            _ if self.is_overdue(job) => "it did not end a run at its time limit",
            _ => return,
        };
        let mut body = node.body.clone();
        document::set(&mut body, STATE, json!("leaving"));
        document::set(&mut body, "properties.since", json!(self.now.to_string()));
        document::set_default(&mut body, "properties.reason", json!(reason));
        self.put(&node.id, body);
    }

    fn is_overdue(&self, job: &Job<'_>) -> bool {
        let Some(limit) = job.run.timeout_seconds.and_then(|s| i64::try_from(s).ok()) else { return false };
        let began = job.run.phases.get(Phase::Running.as_str());
        let limit = SignedDuration::from_secs(limit).saturating_add(TIMEOUT_BACKSTOP);
        began.is_some_and(|began| self.now.duration_since(*began) >= limit)
    }

    /// Its node is gone before it ended.
    fn lost(&self, job: &mut Job<'_>, why: &str) {
        if job.status == Status::CancelRequested {
            return job.end(Status::Canceled, None, self.now);
        }
        if self.is_overdue(job) {
            let message = timed_out(job.run.timeout_seconds.unwrap_or_default());
            let error = RunError { code: "JobTimedOut".to_owned(), message, phase: "running".to_owned() };
            return job.end(Status::Canceled, Some(error), self.now);
        }
        let cluster = job.cluster().and_then(|id| self.snapshot.get(&id).cloned());
        if cluster.is_none_or(|c| is_deleting(&c)) {
            return job.fail("ComputeDeleted", deleted(job), self.now);
        }
        let attempt = job.run.attempt;
        if attempt >= ATTEMPTS_MAX {
            let message = format!("Attempt {attempt} of {ATTEMPTS_MAX} was cut off: {why}. It is not started again.");
            return job.fail("NodeLost", message, self.now);
        }
        job.warn(format!("Attempt {attempt} was cut off: {why}. The job was queued again."));
        job.run.node = None;
        job.run.agent = None;
        job.run.assigned = None;
        job.run.phases.clear();
        job.run.queued = Some(self.now);
        job.status = Status::Queued;
    }

    fn nodes(&self) -> Vec<Stored> {
        self.snapshot.of_type(auto::NODE_TYPE).map(|d| (**d).clone()).collect()
    }

    /// A node is idle again when its run has ended and it says itself that it has none.
    fn release_nodes(&mut self) {
        for node in self.nodes() {
            let Some(job) = document::str_at(&node.body, RUN_JOB).and_then(|id| ResourceId::parse(id).ok()) else {
                continue;
            };
            let is_its_run = self.snapshot.get(&job).is_some_and(|d| {
                let run = Run::of(&d.body);
                let has = run.node.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(node.id.as_str()));
                has && run.ended.is_none() && Status::of(&d.body).is_some_and(|s| !s.is_terminal())
            });
            let is_free = self.observed.agents.get(node.id.key()).is_some_and(|a| a.run.is_none());
            if is_its_run || !is_free {
                continue;
            }
            let mut body = node.body.clone();
            document::remove(&mut body, RUN_ID);
            document::remove(&mut body, RUN_JOB);
            if document::str_at(&body, STATE) == Some("running") {
                document::set(&mut body, STATE, json!("idle"));
                document::set(&mut body, "properties.since", json!(self.now.to_string()));
            }
            self.put(&node.id, body);
        }
    }

    /// Idle nodes of a cluster to its queued jobs: by priority, then in the order of their creation.
    fn assign(&mut self) {
        let snapshot = self.snapshot.clone();
        let mut queue: Vec<Job<'_>> =
            snapshot.of_type(JOB_TYPE).filter_map(|d| Job::read(d)).filter(|j| j.status == Status::Queued).collect();
        if queue.is_empty() {
            return;
        }
        queue.sort_by_key(|j| (std::cmp::Reverse(j.run.priority), j.run.created, j.run.number));
        let mut idle: BTreeMap<String, Vec<(Stored, AgentSeen)>> = BTreeMap::new();
        for node in self.nodes() {
            if let (Some(agent), Some(cluster)) = (self.idle(&node), node.id.parent()) {
                idle.entry(cluster.key().to_owned()).or_default().push((node, agent));
            }
        }
        for mut job in queue {
            let Some(free) = job.cluster().and_then(|c| idle.get_mut(c.key())) else { continue };
            if free.is_empty() {
                continue;
            }
            let (node, agent) = free.remove(0);
            job.status = Status::Starting;
            job.run.attempt += 1;
            job.run.node = Some(node.id.to_string());
            job.run.agent = Some(agent.instance);
            job.run.assigned = Some(self.now);
            job.run.phases.clear();
            let mut body = node.body.clone();
            document::set(&mut body, STATE, json!("running"));
            document::set(&mut body, "properties.since", json!(self.now.to_string()));
            document::set(&mut body, RUN_ID, json!(job.stored.id.name()));
            document::set(&mut body, RUN_JOB, json!(job.stored.id.as_str()));
            self.put(&node.id, body);
            self.store(&job);
        }
    }

    /// The agent of a node that can take a run now.
    fn idle(&self, node: &Stored) -> Option<AgentSeen> {
        let is_idle =
            document::str_at(&node.body, STATE) == Some("idle") && document::at(&node.body, RUN_JOB).is_none();
        let reachable = self.observed.nodes.get(node.id.key()) == Some(&NodeVerdict::Reachable);
        let agent = self.observed.agents.get(node.id.key()).filter(|a| a.run.is_none())?;
        (is_idle && reachable).then(|| agent.clone())
    }
}

fn is_deleting(cluster: &Stored) -> bool {
    document::str_at(&cluster.body, "properties.provisioningState") == Some("Deleting")
}

fn deleted(job: &Job<'_>) -> String {
    let name = job.cluster().map(|c| c.name().to_owned()).unwrap_or_default();
    format!("The compute `{name}` was deleted before the job had ended.")
}

fn timed_out(seconds: u64) -> String {
    format!("The job was cancelled: it ran longer than its limit of {seconds} seconds.")
}

/// Two instances of the agent of one node, as a sentence: who was started again?
fn restarted(before: &str, now: &str, node: &ResourceId) -> String {
    let start = |instance: &str| instance.split_once(':').map(|(start, _)| start.to_owned());
    if start(before) == start(now) {
        format!("the agent of the node {} ended and was started again", node.name())
    } else {
        "the environment was started again".to_owned()
    }
}
