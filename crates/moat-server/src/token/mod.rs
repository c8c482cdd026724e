//! Tokens: who may ask what. Signing and checking are here; the endpoints that clients call are in
//! `services/login.rs` and `imds.rs`.
//!
//! INVARIANT: tokens and secrets are neither logged nor stored.

pub mod authority;
pub mod jwt;

pub use authority::{Audience, Authority, Denied};
