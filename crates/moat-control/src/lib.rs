//! Decides: an ARM request and a snapshot in, a response and a batch of changes out. Pure.

pub mod request;

pub use request::{ArmRequest, Ctx, Decision, Method, Origin, Principal};
