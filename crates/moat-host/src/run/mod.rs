//! Runs strangers' programs on a node: jobs, and the builds of their environments.
//!
//! ```text
//! agent        many threads, no capability; asks with `Launcher`, watches with `Running`
//!   launcher   one thread: forks; knows the limits of each sandbox
//!     init     process 1 of the sandbox: makes its tree, gives up every right, reaps
//!       program
//! ```
//!
//! Invariants:
//! - What runs has no capability, no way to gain one, no way to another user, and cannot make a namespace.
//! - It has the node's network (or none), and of the host's files the system's programs, read-only.
//! - It ends, with everything it started, when any of the three above it ends: the kernel ends a PID namespace with
//!   its first process, and each dies with its parent.
//! - Which limits hold is reported, never assumed: [`Level`].
//!
//! Not here: what to run, and where its files come from or go (that is the agent's); but [`beneath`] is how the agent
//! touches files of a folder that a job controls.

pub mod beneath;
mod fence;
mod launcher;
mod limits;
mod sandbox;
mod spec;
mod tree;

pub use launcher::{Launcher, Running};
pub use limits::Level;
pub use spec::{Ended, LimitHit, Mount, RunError, SandboxLimits, SandboxSpec};
pub(crate) use tree::prepare;

/// Where the agent's private, bounded, writable space is: a tmpfs of its own (see `helper::enter`).
pub const WORK_DIR: &str = "/run/moat/work";
/// Where built environments are, read-only but for the one an agent may build.
pub const ENVIRONMENTS_DIR: &str = "/run/moat/environments";
/// Where a sandbox's tree is put together, in its own mount namespace.
pub(crate) const ROOT_DIR: &str = "/run/moat/root";
/// A whole /proc, read-only. The kernel lets a user namespace mount one only where it could see all of one before.
pub(crate) const PROC_DIR: &str = "/run/moat/proc";
