//! One file a verb. Each gets a canonical id and the type's table entry.

pub(crate) mod action;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod preconditions;
pub(crate) mod put;
pub(crate) mod write;
