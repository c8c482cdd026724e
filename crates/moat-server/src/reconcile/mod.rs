//! Makes the world real: a few loops whose only input is the newest snapshot and what they observe.
//!
//! * [`network`] lowers the snapshot, plans, and lets the helper make Linux match it.
//! * [`flows`] reads what the kernel logged and keeps the newest of it.
//! * [`nodes`] starts an agent for each node and asks it, by packets, whether it can be managed.
//! * [`desk`] keeps what nodes say of their runs, and finds what they are to be told.
//! * [`clusters`] folds those findings into documents and decides about nodes.
//! * [`jobs`] and `job_log` answer `moat job`.
//! * [`environments`] builds what jobs in preparation need.
//! * [`control`] answers `moat place`, `trace`, `flows`, `cluster` and `verify`.
//!
//! INVARIANT: no loop is told what changed. Each one can be woken at any time for any reason, and
//! running it twice changes nothing.

mod build_log;
pub mod clusters;
pub mod control;
pub mod desk;
pub mod ends;
pub mod environments;
pub mod flows;
pub mod hands;
mod job_log;
pub mod jobs;
pub mod network;
pub mod nodes;
pub mod start;
pub mod words;

pub use hands::{Hands, HandsError};
pub use start::{Running, StartError, start};
