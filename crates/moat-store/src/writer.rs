//! The writer thread: decide, commit, publish, answer; in that order, for a group at a time.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use jiff::Timestamp;
use moat_arm::{Batch, Snapshot};
use tokio::sync::{mpsc, oneshot, watch};

use crate::GROUP_JOBS_MAX;
use crate::error::StoreError;
use crate::sqlite::Database;

/// Tells the waiter how it ended.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Runs the caller's closure: its batch, and the answer to send once the batch is on disk.
type Decide = Box<dyn FnOnce(&Snapshot) -> (Result<Batch, StoreError>, Answer) + Send>;

/// What the writer is asked to do.
pub(crate) enum Job {
    Decide(Decide),
    SetMeta {
        key: String,
        value: String,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    #[cfg(test)]
    LimitPages {
        pages: Option<u32>,
        reply: oneshot::Sender<u32>,
    },
}

/// Wraps a caller's closure, whatever it returns, as a job and the future of its answer.
pub(crate) fn decide_job<R, F>(decide: F) -> (Job, oneshot::Receiver<Result<R, StoreError>>)
where
    F: FnOnce(&Snapshot) -> (Batch, R) + Send + 'static,
    R: Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let job = Job::Decide(Box::new(move |snapshot| {
        // The closure only reads the snapshot, so a panic leaves nothing half-changed.
        match catch_unwind(AssertUnwindSafe(|| decide(snapshot))) {
            Ok((batch, result)) => {
                // A waiter that went away has no use for its answer; the write stands.
                (Ok(batch), Box::new(move |end| drop(reply.send(end.map(|()| result)))))
            }
            Err(panic) => {
                tracing::error!(panic = panic_text(panic.as_ref()), "a decision panicked");
                (Err(StoreError::Panicked), Box::new(move |_| drop(reply.send(Err(StoreError::Panicked)))))
            }
        }
    }));
    (job, answer)
}

/// Serves jobs until every sender is gone.
pub(crate) fn run(
    mut database: Database,
    mut queue: mpsc::Receiver<Job>,
    publish: watch::Sender<Snapshot>,
    now: impl Fn() -> Timestamp,
) {
    let mut committed = publish.borrow().clone();
    let mut next = None;
    while let Some(first) = next.take().or_else(|| queue.blocking_recv()) {
        match first {
            Job::Decide(first) => next = group(&mut database, &mut queue, &publish, &mut committed, first, &now),
            Job::SetMeta { key, value, reply } => drop(reply.send(database.set_meta(&key, &value))),
            #[cfg(test)]
            Job::LimitPages { pages, reply } => drop(reply.send(database.limit_pages(pages))),
        }
    }
}

/// Decides what waits, commits it together, answers. Returns a job that does not belong in a group.
fn group(
    database: &mut Database,
    queue: &mut mpsc::Receiver<Job>,
    publish: &watch::Sender<Snapshot>,
    committed: &mut Snapshot,
    first: Decide,
    now: &impl Fn() -> Timestamp,
) -> Option<Job> {
    let time = now();
    let mut working = committed.clone();
    let mut answers = Vec::new();
    let mut outcome = Ok(());
    let mut waiting = Some(first);
    let mut other = None;
    while let Some(decide) = waiting.take() {
        let (batch, answer) = decide(&working);
        answers.push(answer);
        if let Ok(batch) = batch
            && !batch.is_empty()
        {
            let opens = working.seq() == committed.seq();
            working.apply(&batch);
            outcome =
                (if opens { database.begin() } else { Ok(()) }).and_then(|()| database.write(&batch, &working, &time));
        }
        if outcome.is_err() || answers.len() >= GROUP_JOBS_MAX {
            break;
        }
        match queue.try_recv() {
            Ok(Job::Decide(decide)) => waiting = Some(decide),
            Ok(job) => other = Some(job),
            Err(_) => {}
        }
    }
    if working.seq() != committed.seq() && outcome.is_ok() {
        outcome = database.commit();
    }
    match &outcome {
        Ok(()) if working.seq() != committed.seq() => {
            *committed = working;
            publish.send_replace(committed.clone());
        }
        Ok(()) => {}
        Err(error) => {
            tracing::error!(error = error as &dyn std::error::Error, "a commit failed");
            if let Err(error) = recover(database, publish, committed, &time) {
                tracing::error!(error = &error as &dyn std::error::Error, "the state database cannot be reopened yet");
            }
        }
    }
    for answer in answers {
        // Also those that wrote nothing: they may have seen what was then rolled back.
        answer(outcome.clone());
    }
    other
}

/// After a failed commit: no open transaction, and memory says what the file says. A sync that
/// failed may still have reached the disk; then the file is right and memory follows it.
fn recover(
    database: &mut Database,
    publish: &watch::Sender<Snapshot>,
    committed: &mut Snapshot,
    time: &Timestamp,
) -> Result<(), StoreError> {
    database.abandon(time)?;
    if database.seq()? != committed.seq() {
        *committed = database.load()?;
        publish.send_replace(committed.clone());
    }
    Ok(())
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}
