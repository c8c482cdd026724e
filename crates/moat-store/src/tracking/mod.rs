//! What runs log: metric series, parameters, datasets. In a database of its own, since none of it is a document: a
//! training loop writes more in a second than a person changes in a year.
//!
//! INVARIANTS
//! - What was answered `Ok` survives a kill and a power loss: a group of batches is one synced commit.
//! - A batch is written whole or not at all, and one that is refused hurts no other batch of its group.
//! - Every count and size has a bound, so that no job can fill the disk by logging.
//!
//! Not here: tags and status (the run's document has them), artifacts (blobs), rights.

mod database;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;
use database::Database;

/// Values one run may log.
pub const POINTS_PER_RUN_MAX: u64 = 2_000_000;
/// Metrics of one run.
pub const SERIES_PER_RUN_MAX: u64 = 5_000;
/// Parameters of one run.
pub const PARAMS_PER_RUN_MAX: u64 = 2_000;
/// Datasets of one run.
pub const INPUTS_PER_RUN_MAX: u64 = 1_000;
/// Values, parameters and datasets of one batch.
pub const ENTRIES_PER_BATCH_MAX: usize = 10_000;
/// Longest name of a metric or parameter.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Longest parameter.
pub const PARAM_BYTES_MAX: usize = 6_000;
/// Longest value that is no number, and longest description of a dataset.
pub const DATA_BYTES_MAX: usize = 1024 * 1024;
/// Values answered at a time.
pub const PAGE_POINTS_MAX: usize = 25_000;

/// Batches that may wait for the writer; further ones wait for a place.
const QUEUE_BATCHES_MAX: usize = 256;
/// Batches of one commit.
const GROUP_BATCHES_MAX: usize = 128;

const DATABASE_FILE: &str = "tracking.sqlite3";

/// One value of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Name of the metric.
    pub key: String,
    /// What azureml-core calls the metric's type; the first value of a metric decides.
    pub kind: String,
    /// Columns and their types, likewise.
    pub columns: Value,
    /// Id by which a client that sends a value twice is told.
    pub metric_id: Option<String>,
    /// Step.
    pub step: i64,
    /// Milliseconds since 1970.
    pub time: i64,
    /// The number, where it is one.
    pub value: Option<f64>,
    /// The row, where it is not just a number.
    pub data: Option<Value>,
}

/// Kind of the values that MLflow logs, in azureml-core's words.
pub const SCALAR: &str = "azureml.v1.scalar";

impl Point {
    /// A number.
    pub fn number(key: &str, value: f64, step: i64, time: i64) -> Self {
        Self {
            key: key.to_owned(),
            kind: SCALAR.to_owned(),
            columns: serde_json::json!({ key: "double" }),
            metric_id: None,
            step,
            time,
            value: Some(value),
            data: None,
        }
    }
}

/// What is logged together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Values.
    pub points: Vec<Point>,
    /// Parameters.
    pub params: Vec<(String, String)>,
    /// Datasets: digest and description.
    pub inputs: Vec<(String, Value)>,
}

/// Why a batch was not written. Nothing of it was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TrackingError {
    /// A parameter has another value already.
    #[error("the parameter `{key}` was logged as '{old}' and cannot become '{new}': parameters of a run do not change")]
    ParamChanged {
        /// Which.
        key: String,
        /// Its value.
        old: String,
        /// What was asked for.
        new: String,
    },
    /// Too much or too long.
    #[error("a run has at most {max} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much.
        max: u64,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for TrackingError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// A metric of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name.
    pub key: String,
    /// Kind.
    pub kind: String,
    /// Columns.
    pub columns: Value,
}

/// Everything of a run but the history of its metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// The value that counts as latest of each metric that is a number: highest step, then time, then value.
    pub latest: Vec<Point>,
    /// Parameters.
    pub params: BTreeMap<String, String>,
    /// Datasets.
    pub inputs: Vec<Value>,
}

/// Values of a metric, in the order they were logged, and where to go on.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Values.
    pub points: Vec<Point>,
    /// [`Tracking::history`]'s `after` of the next page; `None` at the end.
    pub next: Option<i64>,
}

struct Job {
    run: String,
    batch: Batch,
    reply: oneshot::Sender<Result<(), TrackingError>>,
}

/// What the runs of an environment logged. Cheap to clone.
#[derive(Clone)]
pub struct Tracking {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` only while dropping.
    jobs: Option<mpsc::Sender<Job>>,
    reader: Mutex<Database>,
    writer: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.writer.take() {
            // Every batch that was answered is synced, whatever the thread ended by.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Tracking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracking").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Tracking {
    /// Opens what lies in `directory`, which [`crate::Store`] has made and holds the lock of.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(DATABASE_FILE);
        let database = Database::open(&path)?;
        let reader = Mutex::new(Database::open_to_read(&path)?);
        let (jobs, queue) = mpsc::channel(QUEUE_BATCHES_MAX);
        let writer = std::thread::Builder::new()
            .name("tracking-writer".to_owned())
            .spawn(move || write_all(database, queue))
            .map_err(|source| StoreError::Directory { path: directory.to_owned(), source: source.into() })?;
        Ok(Self { inner: Arc::new(Inner { jobs: Some(jobs), reader, writer: Some(writer), path }) })
    }

    /// Writes a batch; it is on disk when this returns.
    pub async fn log(&self, run: &str, batch: Batch) -> Result<(), TrackingError> {
        let jobs = self.inner.jobs.as_ref().ok_or(StoreError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        let job = Job { run: run.to_owned(), batch, reply };
        jobs.send(job).await.map_err(|_| StoreError::Stopped)?;
        answer.await.unwrap_or(Err(StoreError::Stopped.into()))
    }

    /// Metrics' latest values, parameters and datasets. Reads the disk: not for async code.
    pub fn summary(&self, run: &str) -> Result<Summary, StoreError> {
        self.reader().summary(run)
    }

    /// The metrics of a run. Reads the disk.
    pub fn series(&self, run: &str) -> Result<Vec<Series>, StoreError> {
        self.reader().series(run)
    }

    /// At most `limit` values of a metric behind `after` (0: from the start). Reads the disk.
    pub fn history(&self, run: &str, key: &str, after: i64, limit: usize) -> Result<Page, StoreError> {
        self.reader().history(run, key, after, limit.clamp(1, PAGE_POINTS_MAX))
    }

    fn reader(&self) -> MutexGuard<'_, Database> {
        // Readers change nothing that a panic could leave half-made.
        self.inner.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer thread: what waits becomes one commit.
fn write_all(mut database: Database, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP_BATCHES_MAX
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        let written = database.write(group.iter().map(|job| (job.run.as_str(), &job.batch)));
        match written {
            Ok(each) => {
                for (job, result) in group.into_iter().zip(each) {
                    // A waiter that went away has no use for its answer; the write stands.
                    let _ = job.reply.send(result);
                }
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "what runs logged could not be stored");
                for job in group {
                    let _ = job.reply.send(Err(error.clone().into()));
                }
            }
        }
    }
}
