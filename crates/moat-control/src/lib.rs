//! Decides: an ARM request and a snapshot in, a response and a batch of changes out. Pure.
//!
//! Everything a client sees of Azure Resource Manager is computed here: routing of paths, rights,
//! preconditions, what the service refuses and fills in, envelopes, lists, long-running operations
//! and template deployments. What a particular resource type means is *not* here: it is read from
//! the table of `moat-model`. Tokens, sockets and HTTP types are not here either.

pub mod decide;
pub mod history;
pub mod request;
pub mod schedule;

mod access;
mod body;
mod catalogue;
mod deployment;
mod embedded;
mod export;
mod filter;
mod groups;
mod locations;
mod operation;
mod path;
mod providers;
mod render;
mod scopes;
mod tags;
mod verbs;
mod world;

#[cfg(test)]
mod tests;

pub use access::bootstrap;
pub use decide::{decide, decide_with};
pub use groups::pending_deletions;
pub use request::{ArmRequest, Ctx, Decision, Method, Origin, Principal, RunScope};

/// Every type that requests can be about: those of the model's table and the control plane's own.
pub fn types() -> impl Iterator<Item = &'static moat_model::ResourceType> {
    catalogue::OWN.iter().chain(moat_model::types::ALL).copied()
}
