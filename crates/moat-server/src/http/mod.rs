//! HTTP: listeners, the shape of a call and of its reply, and who may make it. HTTP types stop here.

pub mod arm;
pub mod auth;
pub mod listener;
pub mod nodes;
pub(crate) mod pieces;
pub mod reply;
pub mod request;
