//! Remembers: one writer thread, SQLite on disk, the world published as snapshots.
//!
//! INVARIANTS
//! - A write that was answered `Ok` survives a kill at any moment and a power loss: the commit is
//!   synced before the answer (WAL with `synchronous=FULL`).
//! - Deciding and writing happen on one thread, one request after the other, so there are no lost
//!   races and no retries. What is decided together is committed together (group commit).
//! - A failed commit changes nothing: not the file, not the working snapshot, not what is published.
//! - One process writes a directory at a time; a lock file says so.
//!
//! Blobs are kept beside the documents, in [`blobs`], with the same promises.
//!
//! What a document means is not here, and neither is HTTP: a closure decides, this crate remembers.

pub mod blobs;
mod error;
mod schema;
mod sqlite;
pub mod tracking;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use jiff::Timestamp;
use moat_arm::{Batch, ResourceId, Snapshot};
use tokio::sync::{mpsc, oneshot, watch};

pub use error::{CloneIo, SharedError, StoreError};
pub use sqlite::{ChangeRow, Version};

use writer::Job;

/// The newest schema this program knows; a state directory of a newer one is refused.
pub const SCHEMA_VERSION: u32 = schema::MIGRATIONS.len() as u32;

/// Replaced versions kept of each document.
pub const VERSIONS_KEPT_PER_DOCUMENT: u32 = 32;

/// Commits whose change rows and replaced versions are kept; older ones go.
pub const COMMITS_KEPT: u64 = 100_000;

/// Requests that may wait for the writer; further ones wait for a place.
pub const WRITER_QUEUE_JOBS_MAX: usize = 1_024;

/// Requests decided between two syncs. Bounds the time the first of a group waits for its answer.
pub const GROUP_JOBS_MAX: usize = 256;

const LOCK_FILE: &str = "store.lock";
const DATABASE_FILE: &str = "store.sqlite3";

/// The documents of one environment, on disk and in memory. Cheap to clone; the last clone to go
/// ends the writer thread after it has answered what was already asked.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` only while dropping: it ends the writer, which `Drop` then joins.
    jobs: Option<mpsc::Sender<Job>>,
    published: watch::Receiver<Snapshot>,
    reader: Mutex<sqlite::Reader>,
    writer: Option<JoinHandle<()>>,
    directory: PathBuf,
    _lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        // The writer must be the last connection: only then does SQLite fold its log into the database.
        self.reader.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).close();
        if let Some(thread) = self.writer.take() {
            // A writer that panicked has nothing left to flush; every acknowledged write is synced.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Bodies may hold secrets (administrator passwords, keys); only the shape is shown.
        let snapshot = self.snapshot();
        f.debug_struct("Store")
            .field("directory", &self.inner.directory)
            .field("seq", &snapshot.seq())
            .field("documents", &snapshot.len())
            .finish()
    }
}

impl Store {
    /// Opens the state in `directory`, making it if it is not there, and migrates it forward.
    /// Commits are stamped with the system's time.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_with_clock(directory, Timestamp::now)
    }

    /// [`Store::open`] with the time of commits given by `now`.
    pub fn open_with_clock(directory: &Path, now: impl Fn() -> Timestamp + Send + 'static) -> Result<Self, StoreError> {
        let at = |source: std::io::Error| StoreError::Directory { path: directory.to_owned(), source: source.into() };
        // Documents may hold secrets, so nobody else may look in.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at)?;
        let open = |name: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(directory.join(name))
        };
        let lock = open(LOCK_FILE).map_err(at)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { path: directory.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(at(source)),
        }
        let path = directory.join(DATABASE_FILE);
        // Made here so that it has its mode from the first byte; SQLite's side files copy it.
        drop(open(DATABASE_FILE).map_err(at)?);

        let database = sqlite::Database::open(&path, &now())?;
        let snapshot = database.load()?;
        let (publish, published) = watch::channel(snapshot);
        let (jobs, queue) = mpsc::channel(WRITER_QUEUE_JOBS_MAX);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(database, queue, publish, now))
            .map_err(at)?;
        Ok(Self {
            inner: Arc::new(Inner {
                jobs: Some(jobs),
                published,
                reader: Mutex::new(sqlite::Reader::new(path)),
                writer: Some(writer),
                directory: directory.to_owned(),
                _lock: lock,
            }),
        })
    }

    /// The newest committed world.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.published.borrow().clone()
    }

    /// Follows the newest committed world: a level, not a list of events.
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.inner.published.clone()
    }

    /// Runs `decide` on the newest world on the writer thread, commits its batch durably, publishes
    /// the next world and then yields what `decide` returned beside the batch.
    ///
    /// `decide` sees everything decided before it. A panic in it is [`StoreError::Panicked`]; it
    /// changes nothing and hurts nobody else.
    pub async fn submit<R, F>(&self, decide: F) -> Result<R, StoreError>
    where
        F: FnOnce(&Snapshot) -> (Batch, R) + Send + 'static,
        R: Send + 'static,
    {
        let (job, answer) = writer::decide_job(decide);
        self.jobs()?.send(job).await.map_err(|_| StoreError::Stopped)?;
        answer.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// [`Store::submit`] for threads outside an async runtime.
    pub fn submit_blocking<R, F>(&self, decide: F) -> Result<R, StoreError>
    where
        F: FnOnce(&Snapshot) -> (Batch, R) + Send + 'static,
        R: Send + 'static,
    {
        let (job, answer) = writer::decide_job(decide);
        self.jobs()?.blocking_send(job).map_err(|_| StoreError::Stopped)?;
        answer.blocking_recv().unwrap_or(Err(StoreError::Stopped))
    }

    /// Every kept version of a document, oldest first, the present one last.
    pub fn history(&self, id: &ResourceId) -> Result<Vec<Version>, StoreError> {
        self.reader().history(id.key())
    }

    /// Change rows with a sequence number above `after`, oldest first, at most `limit`.
    pub fn changes(&self, after: u64, limit: usize) -> Result<Vec<ChangeRow>, StoreError> {
        self.reader().changes(after, limit)
    }

    /// A fact about the environment (tenant, subscription, ...), if it was set.
    pub fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.reader().meta(key)
    }

    /// Sets a fact about the environment; durable when it returns. Not for async code.
    pub fn set_meta(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::SetMeta { key: key.to_owned(), value: value.to_owned(), reply };
        self.jobs()?.blocking_send(job).map_err(|_| StoreError::Stopped)?;
        answer.blocking_recv().unwrap_or(Err(StoreError::Stopped))
    }

    fn jobs(&self) -> Result<&mpsc::Sender<Job>, StoreError> {
        self.inner.jobs.as_ref().ok_or(StoreError::Stopped)
    }

    fn reader(&self) -> std::sync::MutexGuard<'_, sqlite::Reader> {
        // The reader holds no state that a panic could leave half-made.
        self.inner.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[cfg(test)]
    fn limit_pages(&self, pages: Option<u32>) -> u32 {
        let (reply, answer) = oneshot::channel();
        self.jobs().unwrap().blocking_send(Job::LimitPages { pages, reply }).unwrap();
        answer.blocking_recv().unwrap()
    }
}

#[cfg(test)]
mod tests;
