//! Blobs: content in files, everything about it in an index of its own.
//!
//! INVARIANTS
//! - What was answered `Ok` survives a kill at any moment and a power loss: content is synced before the index says
//!   that it is there, and the index is synced before the answer.
//! - A write that fails leaves what was before; a full disk is [`BlobError::Full`] and takes nothing back.
//! - Memory does not grow with the size of a blob: [`Upload`] and [`Reader`] move pieces.
//! - A reader reads the version that it opened to the end, also when the blob is written or deleted meanwhile.
//! - No file stays for good that nothing points at: [`Blobs::sweep`], and the search at the start.
//!
//! What a name, a container or a condition means is not here. Containers are known by their generation only. Who
//! opens a state directory holds the lock of its documents ([`crate::Store`]); there is no second one here.
//!
//! Reading order: `write.rs`, `read.rs`, `content.rs`, `writer.rs`.

mod collect;
mod content;
mod error;
mod read;
mod write;
mod writer;

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use collect::Swept;
pub use content::{Content, Upload};
pub use error::BlobError;
pub use read::{Block, Blocks, Entry, Listing, Page, Reader};
pub use write::{BLOCKS_MAX, BlockSource, CommitError, NewBlob, STAGED_BLOCKS_MAX};

use crate::{StoreError, schema, sqlite};
use writer::Fate;

/// Folder of a state directory.
const FOLDER: &str = "blobs";
const INDEX_FILE: &str = "index.sqlite3";
const CONTENT_FOLDER: &str = "content";
const MIGRATIONS: &[&str] = &[include_str!("schema.sql")];

/// Changes that may wait for the writer; further ones wait for a place.
const QUEUE_JOBS_MAX: usize = 1_024;
/// Connections for reading that are kept open.
const READERS_KEPT: usize = 4;
/// Locks that keep two appends to one blob apart.
const APPEND_LOCKS: usize = 64;

/// Which blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Generation of its container.
    pub container: String,
    /// Its name.
    pub name: String,
}

/// What kind of blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Written whole or by a list of blocks.
    Block,
    /// Written at its end.
    Append,
}

impl Kind {
    /// As Azure spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Block => "BlockBlob",
            Self::Append => "AppendBlob",
        }
    }

    /// From [`Kind::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Block, Self::Append].into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(text))
    }
}

/// Headers that a blob is answered with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Properties {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Content-MD5`, base64.
    pub content_md5: Option<String>,
}

/// Names and values that a client keeps with a blob.
pub type Metadata = Vec<(String, String)>;

/// A committed blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its name.
    pub name: String,
    /// What kind.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Changes with every write; no two writes of one store share one.
    pub etag: u64,
    /// When it was first written.
    pub created: Timestamp,
    /// When it was last written.
    pub modified: Timestamp,
    /// Committed blocks of an append blob.
    pub appends: u64,
    /// Its headers.
    pub properties: Properties,
    /// Its metadata.
    pub metadata: Metadata,
}

/// The blobs of one environment. Cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` only while dropping.
    jobs: Option<mpsc::Sender<writer::Job>>,
    writer: Option<JoinHandle<()>>,
    readers: Mutex<Vec<Connection>>,
    index: PathBuf,
    folder: Arc<content::Folder>,
    collector: SyncSender<()>,
    appending: Vec<tokio::sync::Mutex<()>>,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    new_name: Box<dyn Fn() -> String + Send + Sync>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        self.readers.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(thread) = self.writer.take() {
            // It has nothing left to flush: what was acknowledged is synced.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Blobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blobs").field("index", &self.inner.index).finish_non_exhaustive()
    }
}

impl Blobs {
    /// Opens the blobs of a state directory, making what is not there. `new_name` gives names for content files:
    /// each time another, never one that was used before.
    pub fn open(
        state: &Path,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        new_name: impl Fn() -> String + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let path = state.join(FOLDER);
        let at = |source: std::io::Error| StoreError::Directory { path: path.clone(), source: source.into() };
        let folder = Arc::new(content::Folder::open(path.join(CONTENT_FOLDER)).map_err(at)?);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(at)?;
        let index = path.join(INDEX_FILE);
        let make = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&index);
        drop(make.map_err(at)?);
        let mut db = sqlite::connect(&index, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        sqlite::make_durable(&db)?;
        schema::migrate(&mut db, &index, &now(), MIGRATIONS)?;
        // Read before anything is uploaded: what of these has no row never will.
        let found = folder.names().map_err(at)?;

        let (jobs, queue) = mpsc::channel(QUEUE_JOBS_MAX);
        let (collector, wake) = sync_channel(1);
        let tell = collector.clone();
        let writer = std::thread::Builder::new()
            .name("blob-writer".to_owned())
            .spawn(move || {
                writer::run(&db, queue, || {
                    // A full channel has been told already.
                    let _ = tell.try_send(());
                });
            })
            .map_err(at)?;
        let inner = Arc::new(Inner {
            jobs: Some(jobs),
            writer: Some(writer),
            readers: Mutex::default(),
            index,
            folder,
            collector,
            appending: (0..APPEND_LOCKS).map(|_| tokio::sync::Mutex::default()).collect(),
            now: Box::new(now),
            new_name: Box::new(new_name),
        });
        let blobs = Arc::downgrade(&inner);
        std::thread::Builder::new()
            .name("blob-collector".to_owned())
            .spawn(move || collect::run(&blobs, &wake, found))
            .map_err(at)?;
        Ok(Self { inner })
    }

    /// Begins to take content in. Blocks.
    pub fn upload(&self) -> Result<Upload, BlobError> {
        Upload::begin(self.inner.folder.clone(), (self.inner.new_name)())
    }

    /// Runs `change` on the writer thread; durable when it answers.
    async fn change<R: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Result<R, BlobError> + Send + 'static,
    ) -> Result<R, BlobError> {
        let (result, _) = self.change_with(None, |db, _| Ok((change(db)?, Fate::Back))).await?;
        Ok(result)
    }

    /// [`Blobs::change`] with content that it may take; what it does not take comes back.
    async fn change_with<R: Send + 'static>(
        &self,
        content: Option<Content>,
        change: impl FnOnce(&Connection, Option<&Content>) -> Result<(R, Fate), BlobError> + Send + 'static,
    ) -> Result<(R, Option<Content>), BlobError> {
        let (job, answer) = writer::job(content, change);
        self.inner.jobs()?.send(job).await.map_err(|_| BlobError::Stopped)?;
        answer.await.unwrap_or(Err(BlobError::Stopped))
    }
}

impl Inner {
    fn jobs(&self) -> Result<&mpsc::Sender<writer::Job>, BlobError> {
        self.jobs.as_ref().ok_or(BlobError::Stopped)
    }

    /// [`Blobs::change`] for threads outside an async runtime.
    fn change_blocking<R: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Result<R, BlobError> + Send + 'static,
    ) -> Result<R, BlobError> {
        let (job, answer) = writer::job(None, |db, _| Ok((change(db)?, Fate::Back)));
        self.jobs()?.blocking_send(job).map_err(|_| BlobError::Stopped)?;
        Ok(answer.blocking_recv().unwrap_or(Err(BlobError::Stopped))?.0)
    }

    /// Runs `read` on a connection for reading.
    fn read<R>(&self, read: impl FnOnce(&Connection) -> Result<R, BlobError>) -> Result<R, BlobError> {
        let pool = || self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = pool().pop();
        let db = match kept {
            Some(db) => db,
            None => sqlite::connect(&self.index, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        let result = read(&db);
        let mut pool = pool();
        if pool.len() < READERS_KEPT {
            pool.push(db);
        }
        result
    }
}

#[cfg(test)]
mod tests;
