//! Jobs over time, with every race that two ways of reporting and a node that may go at any moment can make.

use jiff::SignedDuration;
use moat_arm::{Batch, ResourceId, Snapshot, Stored, document};
use moat_model::environment::Offer;
use moat_model::types::microsoft_machinelearningservices::runs::{JOB_TYPE, Kind, Run, RunError, Status};
use serde_json::{Value, json};

use super::cluster::RESIZE_TIMEOUT;
use super::cluster_tests::{SUB, WORKSPACE, World, cluster};
use super::job::{ATTEMPTS_MAX, CANCEL_PATIENCE, FINALIZE, NODE_LOST, Plan, TIMEOUT_BACKSTOP};
use super::observed::{AgentSeen, Build, End, NodeVerdict, Phase, RunSeen};
use super::order::{Order, order};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

fn id(name: &str) -> ResourceId {
    ResourceId::parse(&format!("{SUB}{WORKSPACE}")).unwrap().child("jobs", name)
}

/// A job as these tests write it; what real ones ask for is the business of `moat_model::jobs` and its tests.
pub(super) fn read(_: &Snapshot, job: &Stored, _: &Offer) -> Result<Plan, RunError> {
    let text = |path: &str| document::str_at(&job.body, path);
    let missing = || RunError { code: "ComputeMissing".to_owned(), ..RunError::default() };
    let timeout = text("properties.limits.timeout").map(|t| t.parse::<SignedDuration>().unwrap().as_secs());
    Ok(Plan {
        cluster: ResourceId::parse(text("properties.computeId").ok_or_else(missing)?).unwrap(),
        environment: None,
        timeout_seconds: timeout.map(|t| u64::try_from(t).unwrap()),
        priority: document::u64_at(&job.body, "properties.queueSettings.priority").unwrap_or(0),
        warnings: Vec::new(),
    })
}

impl World {
    fn with_jobs(maximum: u32, names: &[&str]) -> Self {
        let mut world = World::new("10.0.0.0/24", maximum);
        names.iter().for_each(|name| world.submit(name, json!({})));
        world
    }

    fn submit(&mut self, name: &str, extra: Value) {
        let mut body = json!({"properties": {
            "jobType": "Command", "command": "true", "status": "NotStarted", "computeId": cluster().as_str(),
        }});
        document::merge(&mut body, &json!({ "properties": extra }));
        let number = u64::try_from(self.snapshot.of_type(JOB_TYPE).count()).unwrap();
        Run { number, created: Some(self.now), ..Run::default() }.put(&mut body);
        self.write(name, body);
    }

    fn write(&mut self, name: &str, body: Value) {
        let mut batch = Batch::default();
        batch.put(id(name), body);
        self.snapshot.apply(&batch);
        self.settle();
    }

    fn body(&self, name: &str) -> Value {
        self.snapshot.get(&id(name)).unwrap().body.clone()
    }

    fn run(&self, name: &str) -> Run {
        Run::of(&self.body(name))
    }

    fn status(&self, name: &str) -> Status {
        Status::of(&self.body(name)).unwrap()
    }

    fn error(&self, name: &str) -> RunError {
        self.run(name).error.unwrap_or_default()
    }

    /// As the action `cancel` does.
    fn cancel(&mut self, name: &str) {
        let (mut body, mut run) = (self.body(name), self.run(name));
        run.cancel_requested = Some(self.now);
        run.put(&mut body);
        Status::CancelRequested.put(&mut body);
        self.write(name, body);
    }

    /// Every node stands, can be reached, and its agent has nothing.
    fn nodes_are_ready(&mut self) {
        for (key, _) in self.nodes() {
            let idle = AgentSeen { instance: "1:1".to_owned(), run: None };
            self.observed.agents.entry(key).or_insert(idle);
        }
        self.observe(&NodeVerdict::Reachable);
    }

    fn node_of(&self, name: &str) -> ResourceId {
        ResourceId::parse(&self.run(name).node.expect("the job has a node")).unwrap()
    }

    fn seen(&self, name: &str, phase: Phase, end: Option<End>) -> RunSeen {
        let (job, attempt) = (id(name).key().to_owned(), self.run(name).attempt);
        RunSeen { job, attempt, phase, end, warnings: Vec::new(), limits: None, log_begun: false }
    }

    /// The node of the job reports.
    fn report(&mut self, name: &str, phase: Phase, end: Option<End>) {
        let seen = self.seen(name, phase, end);
        let node = self.node_of(name);
        self.observed.agents.get_mut(node.key()).unwrap().run = Some(seen);
        self.settle();
    }

    /// The node follows its order, if it has one; the order.
    fn obey(&mut self, node: &ResourceId) -> Option<Order> {
        let agent = self.observed.agents.get_mut(node.key()).unwrap();
        let given = order(&self.snapshot, node, agent.run.as_ref());
        match &given {
            Some(Order::Start { job, attempt }) => {
                let (job, attempt) = (job.key().to_owned(), *attempt);
                let (warnings, limits) = (Vec::new(), Some("rlimit".to_owned()));
                let (phase, end, log_begun) = (Phase::Accepted, None, false);
                agent.run = Some(RunSeen { job, attempt, phase, end, warnings, limits, log_begun });
            }
            Some(Order::Cancel { .. }) => agent.run.as_mut().unwrap().end = Some(End::Canceled),
            Some(Order::Forget) => agent.run = None,
            None => {}
        }
        self.settle();
        given
    }

    /// A job that a node has accepted.
    fn started(maximum: u32, names: &[&str]) -> Self {
        let mut world = Self::with_jobs(maximum, names);
        world.nodes_are_ready();
        for name in names.iter().take(maximum as usize) {
            let node = world.node_of(name);
            assert!(matches!(world.obey(&node), Some(Order::Start { .. })));
        }
        world
    }

    fn remove_node_of(&mut self, name: &str) {
        let node = self.node_of(name);
        self.observed.nodes.remove(node.key());
        self.observed.agents.remove(node.key());
        let mut batch = Batch::default();
        batch.delete(node);
        self.snapshot.apply(&batch);
        self.settle();
    }
}

#[test]
fn a_job_brings_up_a_cluster_of_zero_runs_and_lets_it_go() {
    let mut world = World::with_jobs(1, &["j"]);
    assert_eq!((world.status("j"), world.nodes().len()), (Status::Queued, 1));
    world.nodes_are_ready();
    assert_eq!((world.status("j"), world.count("running"), world.run("j").attempt), (Status::Starting, 1, 1));
    assert_eq!(world.nodes()[0].1["runId"], "j");
    let node = world.node_of("j");
    assert_eq!(world.obey(&node), Some(Order::Start { job: id("j"), attempt: 1 }));
    assert_eq!(world.run("j").limits.as_deref(), Some("rlimit"));
    for (phase, status) in [
        (Phase::Identity, Status::Starting),
        (Phase::Specification, Status::Starting),
        (Phase::Image, Status::Starting),
        (Phase::Code, Status::Running),
        (Phase::Inputs, Status::Running),
        (Phase::Running, Status::Running),
        (Phase::Outputs, Status::Finalizing),
    ] {
        world.report("j", phase, None);
        assert_eq!((world.status("j"), world.obey(&node)), (status, None), "{phase:?}");
        assert_eq!(world.run("j").started.is_some(), phase >= Phase::Running, "{phase:?}");
    }
    world.report("j", Phase::Ended, Some(End::Exited(0)));
    assert_eq!((world.status("j"), world.run("j").verdict), (Status::Finalizing, Some(Status::Completed)));
    assert_eq!(world.obey(&node), Some(Order::Forget));
    assert_eq!(world.count("idle"), 1, "the node is free before the log was fetched");
    world.pass(FINALIZE - SignedDuration::from_secs(1));
    assert_eq!(world.status("j"), Status::Finalizing);
    world.pass(SignedDuration::from_secs(1));
    assert_eq!((world.status("j"), world.run("j").exit_code), (Status::Completed, Some(0)));
    // Idle time counts from the end of the job.
    world.pass(SignedDuration::from_secs(1784));
    assert_eq!(world.count("idle"), 1);
    world.pass(SignedDuration::from_secs(1));
    assert!(world.nodes().is_empty() && world.made("Microsoft.Network/networkInterfaces").is_empty());
    assert!(world.made("Microsoft.Network/loadBalancers").is_empty());
}

#[test]
fn a_fetched_log_ends_the_waiting() {
    let mut world = World::started(1, &["j"]);
    world.report("j", Phase::Ended, Some(End::Exited(3)));
    let (mut body, mut run) = (world.body("j"), world.run("j"));
    run.log_seen = true;
    run.put(&mut body);
    world.write("j", body);
    assert_eq!((world.status("j"), world.run("j").exit_code), (Status::Failed, Some(3)));
    let error = world.error("j");
    assert_eq!((error.code.as_str(), error.phase.as_str()), ("UserError", "ended"));
    assert!(error.message.contains("status code 3"), "{}", error.message);
}

#[test]
fn every_end_has_its_verdict() {
    let fails = |code: &str| End::Failed { code: code.to_owned(), message: "why".to_owned() };
    for (end, status, code) in [
        (End::Exited(0), Status::Completed, ""),
        (End::Exited(137), Status::Failed, "UserError"),
        (End::TimedOut(60), Status::Canceled, "JobTimedOut"),
        (End::Unreachable("rule x".to_owned()), Status::Failed, "ServiceUnreachable"),
        (fails("LimitExceeded"), Status::Failed, "LimitExceeded"),
    ] {
        let mut world = World::started(1, &["j"]);
        world.report("j", Phase::Inputs, Some(end.clone()));
        world.pass(FINALIZE);
        assert_eq!((world.status("j"), world.error("j").code.as_str()), (status, code), "{end:?}");
    }
}

#[test]
fn two_jobs_share_one_node_one_after_the_other_in_their_order() {
    let mut world = World::with_jobs(1, &["b", "a"]);
    world.submit("c", json!({"queueSettings": {"priority": 3}}));
    world.nodes_are_ready();
    let mut order = Vec::new();
    for _ in 0..3 {
        let runs = ["a", "b", "c"].into_iter().filter(|j| world.status(j) == Status::Starting).collect::<Vec<_>>();
        let [job] = runs.as_slice() else { panic!("one job a node: {runs:?}") };
        order.push(*job);
        let node = world.node_of(job);
        world.obey(&node);
        world.report(job, Phase::Ended, Some(End::Exited(0)));
        assert!(
            !["a", "b", "c"].iter().any(|j| world.status(j) == Status::Starting),
            "the node still has the last one"
        );
        assert_eq!(world.obey(&node), Some(Order::Forget));
    }
    assert_eq!(order, ["c", "b", "a"]);
}

#[test]
fn jobs_and_people_ask_for_nodes_together() {
    let mut world = World::with_jobs(4, &["a", "b"]);
    assert_eq!(world.nodes().len(), 2);
    world.demand(1);
    assert_eq!(world.nodes().len(), 2, "what somebody asked for is enough for one of the jobs");
    world.demand(3);
    assert_eq!(world.nodes().len(), 3);
    (0..4).for_each(|i| world.submit(&format!("more{i}"), json!({})));
    assert_eq!(world.nodes().len(), 4, "no more than the maximum");
}

#[test]
fn a_job_that_cannot_run_fails_at_once_and_says_why() {
    let mut world = World::with_jobs(1, &[]);
    world.submit("nowhere", json!({"computeId": null}));
    assert_eq!((world.status("nowhere"), world.error("nowhere").code.as_str()), (Status::Failed, "ComputeMissing"));
    assert!(world.nodes().is_empty());
}

#[test]
fn runs_that_others_move_are_left_alone() {
    let mut world = World::with_jobs(1, &[]);
    let mut body = json!({"properties": {"status": "Running"}});
    Run { kind: Kind::Tracked, ..Run::default() }.put(&mut body);
    world.write("tracked", body.clone());
    world.pass(MINUTE * 600);
    assert_eq!(world.body("tracked"), body);
}

fn built(_: &Snapshot, _: &Stored, _: &Offer) -> Result<Plan, RunError> {
    Ok(Plan {
        cluster: cluster(),
        environment: Some("e1".to_owned()),
        timeout_seconds: None,
        priority: 0,
        warnings: Vec::new(),
    })
}

#[test]
fn a_job_waits_for_its_environment_and_fails_with_the_words_of_the_tool() {
    let mut world = World::with_jobs(1, &[]);
    world.plan = built;
    world.submit("j", json!({}));
    assert_eq!((world.status("j"), world.nodes().len()), (Status::Preparing, 0));
    world.observed.environments.insert("e1".to_owned(), Build::Building);
    world.settle();
    assert_eq!(world.status("j"), Status::Preparing);
    world.observed.environments.insert("e1".to_owned(), Build::Ready);
    world.settle();
    assert_eq!((world.status("j"), world.nodes().len()), (Status::Queued, 1));
    // The service was started again and has not looked yet.
    world.observed.environments.clear();
    world.nodes_are_ready();
    assert_eq!(world.status("j"), Status::Preparing);
    world.observed.environments.insert("e1".to_owned(), Build::Failed("no such package".to_owned()));
    world.settle();
    assert_eq!((world.status("j"), world.error("j").message.as_str()), (Status::Failed, "no such package"));
    assert!(world.run("j").ended.is_some());
}

#[test]
fn a_cluster_that_can_give_no_node_fails_the_waiting_job_with_the_rule() {
    let mut world = World::with_jobs(1, &["j"]);
    world.observe(&NodeVerdict::Blocked("dropped by rule 'Deny44224'".to_owned()));
    world.pass(RESIZE_TIMEOUT - SignedDuration::from_secs(1));
    assert_eq!(world.status("j"), Status::Queued);
    world.pass(SignedDuration::from_secs(1));
    assert_eq!((world.status("j"), world.error("j").code.as_str()), (Status::Failed, "AllocationFailed"));
    assert!(world.error("j").message.contains("dropped by rule 'Deny44224'"), "{}", world.error("j").message);
    assert!(world.nodes().is_empty(), "nobody needs the unusable node any more");
}

#[test]
fn a_busy_cluster_is_no_reason_to_fail() {
    let mut world = World::started(1, &["a", "b"]);
    world.report("a", Phase::Running, None);
    world.pass(RESIZE_TIMEOUT * 10);
    assert_eq!((world.status("a"), world.status("b")), (Status::Running, Status::Queued));
    // The clock of a job starts when the cluster has no node, not when the job came.
    world.observe(&NodeVerdict::Blocked("x".to_owned()));
    world.pass(NODE_LOST);
    assert_eq!(world.status("b"), Status::Queued);
}

#[test]
fn a_job_is_cancelled_in_every_state() {
    let mut world = World::with_jobs(1, &["q"]);
    world.cancel("q");
    assert_eq!((world.status("q"), world.nodes().len()), (Status::Canceled, 0));

    for phase in [Phase::Accepted, Phase::Identity, Phase::Inputs, Phase::Running, Phase::Outputs] {
        let mut world = World::started(1, &["j"]);
        world.report("j", phase, None);
        world.cancel("j");
        assert_eq!(world.status("j"), Status::CancelRequested);
        // A report that crossed the request does not take it back.
        world.report("j", phase, None);
        assert_eq!(world.status("j"), Status::CancelRequested);
        let node = world.node_of("j");
        assert!(matches!(world.obey(&node), Some(Order::Cancel { .. })));
        assert_eq!((world.status("j"), world.error("j")), (Status::Canceled, RunError::default()), "{phase:?}");
        assert_eq!(world.obey(&node), Some(Order::Forget));
        assert_eq!(world.count("idle"), 1);
    }
}

#[test]
fn a_cancel_that_comes_too_late_changes_nothing_that_happened() {
    let mut world = World::started(1, &["j"]);
    world.report("j", Phase::Ended, Some(End::Exited(0)));
    world.cancel("j");
    world.pass(FINALIZE);
    assert_eq!(world.status("j"), Status::Completed);

    let mut world = World::started(1, &["j"]);
    world.cancel("j");
    world.report("j", Phase::Ended, Some(End::Exited(0)));
    world.pass(FINALIZE);
    assert_eq!((world.status("j"), world.run("j").verdict), (Status::Completed, Some(Status::Completed)));
}

#[test]
fn a_cancel_while_the_order_is_on_its_way_ends_what_the_node_began() {
    let mut world = World::with_jobs(1, &["j", "next"]);
    world.nodes_are_ready();
    let node = world.node_of("j");
    let late = world.seen("j", Phase::Accepted, None);
    world.cancel("j");
    assert_eq!(world.status("j"), Status::Canceled, "the node says that it has nothing");
    assert_eq!(world.status("next"), Status::Starting);
    // The order of before arrives after all.
    world.observed.agents.get_mut(node.key()).unwrap().run = Some(late);
    world.settle();
    assert_eq!(world.obey(&node), Some(Order::Cancel { grace_seconds: 0 }));
    assert_eq!(world.obey(&node), Some(Order::Forget));
    assert_eq!(world.obey(&node), Some(Order::Start { job: id("next"), attempt: 1 }));
    assert_eq!(world.status("j"), Status::Canceled);
}

#[test]
fn a_node_that_does_not_cancel_is_taken_away() {
    let mut world = World::started(1, &["j"]);
    world.report("j", Phase::Running, None);
    world.cancel("j");
    world.pass(CANCEL_PATIENCE);
    assert!(world.nodes().is_empty());
    assert_eq!(world.status("j"), Status::Canceled);
}

#[test]
fn a_lost_node_starts_the_job_again_and_says_so_until_it_was_enough() {
    let mut world = World::started(1, &["j"]);
    for attempt in 1..ATTEMPTS_MAX {
        world.report("j", Phase::Running, None);
        let started = world.run("j").started;
        world.remove_node_of("j");
        assert_eq!(world.status("j"), Status::Queued);
        assert!(world.run("j").warnings[attempt as usize - 1].contains("was removed"), "{:?}", world.run("j").warnings);
        assert_eq!(world.run("j").started, started);
        world.nodes_are_ready();
        assert_eq!((world.status("j"), world.run("j").attempt), (Status::Starting, attempt + 1));
        let node = world.node_of("j");
        world.obey(&node);
    }
    world.remove_node_of("j");
    assert_eq!((world.status("j"), world.error("j").code.as_str()), (Status::Failed, "NodeLost"));
}

#[test]
fn a_node_lost_after_the_end_was_told_loses_nothing() {
    let mut world = World::started(1, &["j"]);
    world.report("j", Phase::Ended, Some(End::Exited(0)));
    world.remove_node_of("j");
    world.pass(FINALIZE);
    assert_eq!((world.status("j"), world.run("j").attempt), (Status::Completed, 1));
    // While outputs are being taken, the end is not known: the job runs again.
    let mut world = World::started(1, &["j"]);
    world.report("j", Phase::Outputs, None);
    world.remove_node_of("j");
    assert_eq!(world.status("j"), Status::Queued);
}

#[test]
fn a_node_lost_while_cancelling_is_a_cancelled_job() {
    let mut world = World::started(1, &["j"]);
    world.report("j", Phase::Running, None);
    world.cancel("j");
    world.remove_node_of("j");
    assert_eq!(world.status("j"), Status::Canceled);
}

#[test]
fn another_start_of_an_agent_or_of_the_environment_has_not_the_run() {
    for (instance, says) in [("1:2", "agent of the node"), ("2:1", "environment was started again")] {
        let mut world = World::started(1, &["j"]);
        world.report("j", Phase::Running, None);
        let node = world.node_of("j");
        world.observed.agents.remove(node.key());
        world.settle();
        assert_eq!(world.status("j"), Status::Running, "nothing was heard yet");
        world.observed.agents.insert(node.key().to_owned(), AgentSeen { instance: instance.to_owned(), run: None });
        world.settle();
        // The node is good: it takes the second attempt at once.
        assert_eq!((world.status("j"), world.run("j").attempt), (Status::Starting, 2));
        assert!(world.run("j").warnings[0].contains(says), "{:?}", world.run("j").warnings);
        assert_eq!(world.obey(&node), Some(Order::Start { job: id("j"), attempt: 2 }));
    }
}

#[test]
fn a_report_of_an_old_attempt_says_nothing_about_the_new_one() {
    let mut world = World::started(2, &["j"]);
    let old = world.seen("j", Phase::Ended, Some(End::Exited(0)));
    let node = world.node_of("j");
    world.observed.agents.insert(node.key().to_owned(), AgentSeen { instance: "1:2".to_owned(), run: None });
    world.settle();
    assert_eq!(world.run("j").attempt, 2);
    world.observed.agents.get_mut(node.key()).unwrap().run = Some(old);
    world.settle();
    assert_eq!((world.status("j"), world.run("j").ended), (Status::Starting, None));
    assert_eq!(world.obey(&node), Some(Order::Forget));
    assert_eq!(world.obey(&node), Some(Order::Start { job: id("j"), attempt: 2 }));
}

#[test]
fn reports_that_come_twice_or_late_change_nothing() {
    let mut world = World::started(1, &["j"]);
    world.report("j", Phase::Running, None);
    let before = world.body("j");
    world.report("j", Phase::Running, None);
    assert_eq!(world.body("j"), before);
    world.report("j", Phase::Code, None);
    assert_eq!(world.status("j"), Status::Running);
    world.report("j", Phase::Ended, Some(End::Exited(0)));
    world.pass(SignedDuration::from_secs(1));
    let before = world.body("j");
    world.report("j", Phase::Ended, Some(End::Exited(1)));
    assert_eq!(world.body("j"), before, "the first end counts");
}

#[test]
fn a_node_that_cannot_be_spoken_with_keeps_its_run_for_a_while() {
    let mut world = World::started(1, &["j"]);
    world.report("j", Phase::Running, None);
    world.observe(&NodeVerdict::Blocked("x".to_owned()));
    world.pass(NODE_LOST - SignedDuration::from_secs(1));
    assert_eq!((world.status("j"), world.count("unusable")), (Status::Running, 1));
    world.observe(&NodeVerdict::Reachable);
    assert_eq!((world.count("running"), world.run("j").warnings.len()), (1, 0));
    world.observe(&NodeVerdict::Blocked("x".to_owned()));
    let node = world.node_of("j");
    world.pass(NODE_LOST);
    // Taken away first, then given to another: never two at once.
    assert!(world.snapshot.get(&node).is_none());
    assert_eq!((world.status("j"), world.nodes().len(), world.count("preparing")), (Status::Queued, 1, 1));
}

#[test]
fn a_cluster_that_is_deleted_takes_its_jobs_along_and_they_say_so() {
    let mut world = World::started(1, &["a", "b"]);
    world.report("a", Phase::Running, None);
    let mut body = world.snapshot.get(&cluster()).unwrap().body.clone();
    document::set(&mut body, "properties.provisioningState", json!("Deleting"));
    let mut batch = Batch::default();
    batch.put(cluster(), body);
    world.snapshot.apply(&batch);
    world.settle();
    for job in ["a", "b"] {
        assert_eq!((world.status(job), world.error(job).code.as_str()), (Status::Failed, "ComputeDeleted"));
    }
    assert!(world.nodes().is_empty());
}

#[test]
fn a_program_that_outlives_its_limit_and_its_agent_is_ended_by_the_service() {
    let mut world = World::with_jobs(1, &[]);
    world.submit("j", json!({"limits": {"jobLimitsType": "Command", "timeout": "PT10M"}}));
    world.nodes_are_ready();
    let node = world.node_of("j");
    world.obey(&node);
    world.report("j", Phase::Running, None);
    world.pass(MINUTE * 10 + TIMEOUT_BACKSTOP - SignedDuration::from_secs(1));
    assert_eq!(world.status("j"), Status::Running);
    world.pass(SignedDuration::from_secs(1));
    assert_eq!((world.status("j"), world.error("j").code.as_str()), (Status::Canceled, "JobTimedOut"));
    assert!(world.nodes().is_empty());
}

#[test]
fn a_job_that_was_deleted_frees_its_node() {
    let mut world = World::started(1, &["j"]);
    let node = world.node_of("j");
    let mut batch = Batch::default();
    batch.delete(id("j"));
    world.snapshot.apply(&batch);
    world.settle();
    assert_eq!(world.obey(&node), Some(Order::Cancel { grace_seconds: 0 }));
    assert_eq!(world.obey(&node), Some(Order::Forget));
    assert_eq!(world.count("idle"), 1);
}
