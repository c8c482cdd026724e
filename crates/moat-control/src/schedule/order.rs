//! What a node is to be told, read from the documents and from what it says it has.
//!
//! Nothing is remembered: the same question gives the same order until the node's own report shows that it was
//! followed, so an order that was lost on the way, or said twice, does no harm.

use moat_arm::{ResourceId, Snapshot, document};
use moat_model::types::microsoft_machinelearningservices::runs::{Run, Status};

use super::job::RUN_ID;
use super::observed::RunSeen;

/// Seconds between asking a program to end and ending it.
pub const CANCEL_GRACE_SECONDS: u32 = 10;

/// An order to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Run this.
    Start {
        /// Id of the job document.
        job: ResourceId,
        /// Which attempt.
        attempt: u32,
    },
    /// End the run that you have.
    Cancel {
        /// Seconds between SIGTERM and SIGKILL.
        grace_seconds: u32,
    },
    /// The end of the run that you have is stored: be idle.
    Forget,
}

/// What the node `node`, which reports `seen`, is to be told; `None`: nothing.
pub fn order(snapshot: &Snapshot, node: &ResourceId, seen: Option<&RunSeen>) -> Option<Order> {
    match seen {
        Some(seen) => about(snapshot, node, seen),
        None => start(snapshot, node),
    }
}

/// About the run that it has.
fn about(snapshot: &Snapshot, node: &ResourceId, seen: &RunSeen) -> Option<Order> {
    let job = ResourceId::parse(&seen.job).ok().and_then(|id| snapshot.get(&id).cloned());
    let run = job.as_ref().map(|j| Run::of(&j.body)).unwrap_or_default();
    let status = job.as_ref().and_then(|j| Status::of(&j.body));
    let is_its_own = run.attempt == seen.attempt && has(&run, node);
    match status {
        Some(status) if is_its_own && run.ended.is_none() && !status.is_terminal() => {
            (status == Status::CancelRequested && seen.end.is_none())
                .then_some(Order::Cancel { grace_seconds: CANCEL_GRACE_SECONDS })
        }
        // Stored, or a run of before that nobody waits for: it was given to another node, or is gone.
        _ if seen.end.is_some() => Some(Order::Forget),
        _ => Some(Order::Cancel { grace_seconds: 0 }),
    }
}

/// A run that it should have and has not.
fn start(snapshot: &Snapshot, node: &ResourceId) -> Option<Order> {
    let job = snapshot.get(node).and_then(|n| ResourceId::parse(document::str_at(&n.body, RUN_JOB)?).ok())?;
    let stored = snapshot.get(&job)?;
    let run = Run::of(&stored.body);
    let starts = matches!(Status::of(&stored.body)?, Status::Starting | Status::Running);
    (starts && run.ended.is_none() && has(&run, node))
        .then(|| Order::Start { job: stored.id.clone(), attempt: run.attempt })
}

fn has(run: &Run, node: &ResourceId) -> bool {
    run.node.as_deref().and_then(|n| ResourceId::parse(n).ok()).is_some_and(|n| n == *node)
}

/// Whether a node has work, or has to be told something: it is asked more often then.
pub fn is_busy(snapshot: &Snapshot, node: &ResourceId) -> bool {
    snapshot.get(node).is_some_and(|n| document::str_at(&n.body, RUN_ID).is_some())
}

/// Where a node document keeps the id of the job document of its run.
pub(crate) const RUN_JOB: &str = "moat.job";
