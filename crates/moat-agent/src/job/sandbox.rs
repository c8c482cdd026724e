//! What a run asks of whoever starts its program. The machine knows no namespaces; its tests need none.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::spec::Limits;

/// A folder of the agent's, as the program meets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where the agent has it.
    pub from: PathBuf,
    /// Absolute path inside the sandbox.
    pub to: PathBuf,
    /// What is written there is refused (`EROFS`).
    pub read_only: bool,
}

/// A program to start.
pub struct Launch {
    /// Program and arguments; a program without a slash is looked for in `PATH` of the variables.
    pub program: Vec<String>,
    /// All of its variables.
    pub variables: BTreeMap<String, String>,
    /// Where it starts, inside.
    pub folder: PathBuf,
    /// In order: a later one may lie inside an earlier one.
    pub mounts: Vec<Mount>,
    /// Bounds.
    pub limits: Limits,
    /// Standard output and error. The sandbox keeps no copy of it once the program has it.
    pub output: OwnedFd,
}

impl fmt::Debug for Launch {
    /// Without arguments and variables: they hold the run's token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch").field("folder", &self.folder).field("mounts", &self.mounts).finish_non_exhaustive()
    }
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program cannot be started: its person's to repair.
    #[error("{0}")]
    Program(String),
    /// The sandbox could not be made.
    #[error("{0}")]
    Sandbox(String),
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// A limit that the kernel says it met, in words.
    pub limit: Option<String>,
}

/// Starts programs.
pub trait Sandbox: Send + Sync {
    /// Starts one. Blocking.
    fn start(&self, launch: Launch) -> Result<Box<dyn Program>, StartError>;
}

/// A program that was started, with all that it started. Dropping it ends all of it.
pub trait Program: Send {
    /// Which limits the kernel enforces: `cgroup-v1`, `cgroup-v2`, `rlimit`.
    fn limits(&self) -> String;
    /// The reading end of a pipe that is at its end once all of it has ended.
    fn alive(&self) -> BorrowedFd<'_>;
    /// How it ended, asked when [`Program::alive`] is at its end.
    fn ended(&mut self) -> io::Result<Exit>;
    /// SIGTERM to its processes.
    fn terminate(&self);
    /// SIGKILL to its processes.
    fn kill(&self);
}
