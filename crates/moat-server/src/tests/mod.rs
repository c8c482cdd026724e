//! The server over a real loopback socket, through TLS, as a client sees it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod blob;
mod client;
mod edge;
mod fabric;
mod login;
mod nodes;
mod regional;
mod resources;
mod secrecy;

pub(crate) use client::Harness;
