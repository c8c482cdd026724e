//! Scheduling: pure steps from what is wanted and what was seen to changes of documents.
//! Time is an argument, so an hour costs a test nothing.
//!
//! [`job`] moves jobs along and gives them nodes, [`cluster`] makes and removes nodes for the jobs that wait,
//! [`order`] says what a node is to be told. What was seen comes in as [`Observed`].

pub mod cluster;
pub mod job;
pub mod observed;
pub mod order;
mod pipeline;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod job_tests;

use std::collections::BTreeSet;

use moat_arm::{Batch, Change, Snapshot};
use moat_model::types::microsoft_machinelearningservices::auto_network as auto;

pub use observed::Observed;

use crate::request::Ctx;

/// Every job and every cluster, one step further. The batch is empty when nothing is to be done.
pub fn step(snapshot: &Snapshot, observed: &Observed, ctx: &Ctx) -> Batch {
    step_with(snapshot, observed, ctx, job::plan)
}

/// [`step`], with another way to read what a job asks for.
pub(crate) fn step_with(snapshot: &Snapshot, observed: &Observed, ctx: &Ctx, plan: job::Planner) -> Batch {
    let jobs = job::step(snapshot, observed, ctx, plan);
    let mut between = snapshot.clone();
    between.apply(&jobs);
    let clusters = cluster::step(&between, observed, ctx);
    let mut after = between;
    after.apply(&clusters);
    let mut done = jobs;
    done.changes.extend(clusters.changes);
    let mut batch = net_effect(snapshot, &after, &done);
    batch.audit.operation = "Microsoft.MachineLearningServices/clusters/reconcile".to_owned();
    batch.audit.principal = auto::SERVICE_PRINCIPAL.to_owned();
    batch
}

/// What `done` changed in the end. A step that makes and removes the same thing again changed
/// nothing; were it a commit, it would wake the next step for ever.
fn net_effect(before: &Snapshot, after: &Snapshot, done: &Batch) -> Batch {
    let mut batch = Batch::default();
    let mut seen = BTreeSet::new();
    for change in &done.changes {
        let (Change::Put { id, .. } | Change::Delete { id }) = change;
        if !seen.insert(id.key()) {
            continue;
        }
        match (before.get(id), after.get(id)) {
            (Some(old), Some(new)) if old.body == new.body => {}
            (_, Some(new)) => batch.put(new.id.clone(), new.body.clone()),
            (Some(old), None) => batch.delete(old.id.clone()),
            (None, None) => {}
        }
    }
    batch
}
