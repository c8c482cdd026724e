//! What can go wrong between a decision and the disk.

use std::path::PathBuf;
use std::sync::Arc;

/// One failure that several waiters of a group learn of.
pub type SharedError = Arc<rusqlite::Error>;

/// Why a state directory cannot be opened, read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The directory or a file in it cannot be made or opened.
    #[error("cannot use the state directory `{}`", path.display())]
    Directory {
        /// The state directory.
        path: PathBuf,
        /// What the system said.
        source: CloneIo,
    },
    /// Another process holds the lock.
    #[error("the state directory `{}` is in use by another process", path.display())]
    Locked {
        /// The state directory.
        path: PathBuf,
    },
    /// Written by a newer program.
    #[error(
        "the state has schema version {found}, this program knows up to {supported}; use the newer program or another environment"
    )]
    NewerSchema {
        /// In the file.
        found: u32,
        /// [`crate::SCHEMA_VERSION`].
        supported: u32,
    },
    /// A SQLite file, but none of ours.
    #[error("`{}` is a database of another program", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A stored document is not what this program writes.
    #[error("the stored document `{key}` is damaged: {reason}")]
    Damaged {
        /// Its key.
        key: String,
        /// What does not fit.
        reason: String,
    },
    /// The disk has no room. Nothing changed; writes work again when there is room.
    #[error("the disk with the state is full; nothing was changed")]
    Full(#[source] SharedError),
    /// The state may not be written. Nothing changed.
    #[error("the state is read-only; nothing was changed")]
    ReadOnly(#[source] SharedError),
    /// Any other failure of the database. Nothing changed that was not answered.
    #[error("the state database failed")]
    Database(#[source] SharedError),
    /// The closure that decides panicked. Nothing changed.
    #[error("deciding this request failed unexpectedly; nothing was changed")]
    Panicked,
    /// The store is shutting down.
    #[error("the store has stopped")]
    Stopped,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        let error = Arc::new(error);
        match code {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full(error),
            Some(rusqlite::ErrorCode::ReadOnly) => Self::ReadOnly(error),
            _ => Self::Database(error),
        }
    }
}

/// An I/O error that can be cloned, since [`StoreError`] goes to every waiter of a group.
#[derive(Debug, Clone)]
pub struct CloneIo(Arc<std::io::Error>);

impl From<std::io::Error> for CloneIo {
    fn from(error: std::io::Error) -> Self {
        Self(Arc::new(error))
    }
}
impl std::fmt::Display for CloneIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
impl std::error::Error for CloneIo {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
