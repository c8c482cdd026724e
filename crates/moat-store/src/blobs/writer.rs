//! The one thread that changes the index: jobs that wait together are committed together, each within a savepoint
//! of its own, so that one that fails takes nothing of the others with it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::content::Content;
use super::error::BlobError;

/// Jobs committed by one sync.
const GROUP_JOBS_MAX: usize = 256;

/// Tells who waits, once it is known whether the commit held.
type Tell = Box<dyn FnOnce(Result<(), BlobError>) + Send>;

/// Changes the index; what it returns is called after the commit. Without an index it only tells why.
type Run = dyn FnOnce(Result<&Connection, BlobError>) -> (Result<(), BlobError>, Tell) + Send;

/// One change of the index.
pub(super) struct Job(Box<Run>);

/// Whether a job made its content part of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It did; with the commit the file is the index's.
    Taken,
    /// It did not.
    Back,
}

/// Where the answer of a job arrives, with what it did not take.
pub(super) type Answer<R> = oneshot::Receiver<Result<(R, Option<Content>), BlobError>>;

/// A job that runs `change`, with the `content` that it may take.
pub(super) fn job<R: Send + 'static>(
    content: Option<Content>,
    change: impl FnOnce(&Connection, Option<&Content>) -> Result<(R, Fate), BlobError> + Send + 'static,
) -> (Job, Answer<R>) {
    let (reply, answer) = oneshot::channel();
    let run = move |db: Result<&Connection, BlobError>| {
        let outcome = match db {
            Ok(db) => {
                catch_unwind(AssertUnwindSafe(|| change(db, content.as_ref()))).unwrap_or(Err(BlobError::Panicked))
            }
            Err(error) => Err(error),
        };
        let kept = outcome.as_ref().map(|_| ()).map_err(Clone::clone);
        let tell: Tell = Box::new(move |committed| {
            let told = committed.and(outcome).map(|(result, fate)| match (fate, content) {
                // Decided here and not by who waits: that one may be gone, and would take the file along.
                (Fate::Taken, Some(content)) => {
                    content.taken();
                    (result, None)
                }
                (_, content) => (result, content),
            });
            let _ = reply.send(told);
        });
        (kept, tell)
    };
    (Job(Box::new(run)), answer)
}

/// Works until every sender is gone. `committed` is called after each commit.
pub(super) fn run(db: &Connection, mut queue: mpsc::Receiver<Job>, committed: impl Fn()) {
    while let Some(first) = queue.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP_JOBS_MAX
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        let mut tells = Vec::new();
        let outcome = commit(db, group, &mut tells);
        if outcome.is_err() && !db.is_autocommit() {
            // SQLite has often rolled back already.
            let _ = db.execute_batch("ROLLBACK");
        }
        if outcome.is_ok() {
            committed();
        }
        for tell in tells {
            tell(outcome.clone());
        }
    }
}

fn commit(db: &Connection, group: Vec<Job>, tells: &mut Vec<Tell>) -> Result<(), BlobError> {
    let mut failed = db.execute_batch("BEGIN IMMEDIATE").err().map(BlobError::from);
    for job in group {
        if failed.is_none() {
            failed = db.execute_batch("SAVEPOINT job").err().map(BlobError::from);
        }
        let (kept, tell) = (job.0)(failed.clone().map_or(Ok(db), Err));
        tells.push(tell);
        if failed.is_some() {
            continue;
        }
        // A full disk ends the whole transaction, also what others did in it.
        if db.is_autocommit() {
            failed = Some(kept.err().unwrap_or(BlobError::Stopped));
            continue;
        }
        let end = if kept.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
        failed = db.execute_batch(end).err().map(BlobError::from);
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(db.execute_batch("COMMIT")?),
    }
}
