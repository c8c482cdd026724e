//! Folds what packets said about nodes into documents, and lets the scheduler decide about nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use moat_arm::{Batch, Snapshot};
use moat_control::Ctx;
use moat_control::schedule::Observed;
use moat_store::Store;
use tokio::sync::watch;

/// Longest wait without looking again: idle time has no event of its own.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the loop needs.
pub struct Clusters {
    /// Documents.
    pub store: Store,
    /// Verdicts about nodes.
    pub observed: watch::Receiver<Observed>,
    /// Makes the context of a step: time and ids come from outside.
    /// `None` once the server is gone.
    pub context: Arc<dyn Fn() -> Option<Ctx> + Send + Sync>,
}

impl std::fmt::Debug for Clusters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clusters").finish_non_exhaustive()
    }
}

impl Clusters {
    /// Runs until `stop` is set.
    pub async fn run(mut self, stop: Arc<AtomicBool>) {
        let mut snapshots = self.store.watch();
        while !stop.load(Ordering::Relaxed) {
            let snapshot = snapshots.borrow_and_update().clone();
            let observed = self.observed.borrow_and_update().clone();
            // A step on the published snapshot tells cheaply whether there is anything to do; the
            // writer then takes the step on the newest one.
            let Some(ctx) = (self.context)() else { return };
            if !step(&snapshot, &observed, &ctx).is_empty() {
                if let Err(e) = self.store.submit(move |newest| (step(newest, &observed, &ctx), ())).await {
                    tracing::error!(error = %e, "the state of clusters could not be stored");
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                continue;
            }
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                changed = self.observed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }
}

/// Clusters one step further, then deletions that waited for them.
pub fn step(snapshot: &Snapshot, observed: &Observed, ctx: &Ctx) -> Batch {
    let mut batch = moat_control::schedule::step(snapshot, observed, ctx);
    if !batch.is_empty() {
        return batch;
    }
    for request in moat_control::pending_deletions(snapshot) {
        let mut work = snapshot.clone();
        work.apply(&batch);
        let decision = moat_control::decide(&work, &request, ctx);
        batch.changes.extend(decision.batch.changes);
    }
    batch
}
