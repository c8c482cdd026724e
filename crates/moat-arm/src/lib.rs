//! The language of Azure Resource Manager: ids, documents, errors, snapshots, templates.
//!
//! Pure: no files, sockets, clocks or randomness. What a particular provider means by its
//! documents is deliberately not here (see `moat-model`).

pub mod access;
pub mod document;
pub mod error;
pub mod id;
mod ordered;
pub mod snapshot;
pub mod syntax;
pub mod template;

pub use error::ApiError;
pub use id::ResourceId;
pub use snapshot::{Batch, Change, Snapshot, Stored};
