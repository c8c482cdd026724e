//! Runs driven from their ticket to their end, against a fake Azure in this process ([`world`]).
#![allow(clippy::unwrap_used, reason = "tests")]

mod failures;
mod logs;
mod outputs;
mod success;
pub(crate) mod world;
