//! What can go wrong with a blob.

use std::io;
use std::sync::Arc;

use crate::error::{CloneIo, SharedError};

/// Why a blob cannot be read or written. Nothing changed that was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BlobError {
    /// The disk has no room. Writes work again when there is room.
    #[error("the disk with the state is full; nothing was changed")]
    Full,
    /// The state may not be written.
    #[error("the state is read-only; nothing was changed")]
    ReadOnly,
    /// A content file cannot be read or written.
    #[error("a blob's content file failed")]
    File(#[source] CloneIo),
    /// The index failed.
    #[error("the index of blobs failed")]
    Index(#[source] SharedError),
    /// A row of the index is not what this program writes.
    #[error("the index entry of a blob is damaged")]
    Damaged(#[source] Arc<serde_json::Error>),
    /// A content file is shorter than the index says.
    #[error("a blob's content file is cut short")]
    Cut,
    /// Deciding panicked.
    #[error("deciding this request failed unexpectedly; nothing was changed")]
    Panicked,
    /// The store is shutting down.
    #[error("the blob store has stopped")]
    Stopped,
}

impl From<rusqlite::Error> for BlobError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            Some(rusqlite::ErrorCode::ReadOnly) => Self::ReadOnly,
            _ => Self::Index(Arc::new(error)),
        }
    }
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::UnexpectedEof => Self::Cut,
            _ => Self::File(error.into()),
        }
    }
}

impl From<serde_json::Error> for BlobError {
    fn from(error: serde_json::Error) -> Self {
        Self::Damaged(Arc::new(error))
    }
}
