//! What to run and how it ended: the values that travel between agent and launcher.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::Level;
use crate::world::Failure;

/// Arguments and variables of a program, in bytes; the kernel takes some 2 MiB with the default stack.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Mounts of a sandbox.
const MOUNTS_MAX: usize = 1_000;

/// A program and what is around it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxSpec {
    /// Program and arguments; a program without a slash is looked for in the `PATH` of `variables`.
    pub program: Vec<String>,
    /// Where it starts: an absolute path inside.
    pub folder: PathBuf,
    /// Its variables; it has no others.
    pub variables: BTreeMap<String, String>,
    /// Folders and files of the agent's that it sees. In order: a later one may lie in an earlier one.
    pub mounts: Vec<Mount>,
    /// Its host name.
    pub hostname: String,
    /// Certificates it trusts, as PEM: becomes `/etc/ssl/certs/ca-certificates.crt`.
    pub ca_certificates: String,
    /// Bounds.
    pub limits: SandboxLimits,
    /// Only a loopback interface, instead of the node's network.
    pub isolate_network: bool,
}

impl fmt::Debug for SandboxSpec {
    /// Without arguments and variables: a variable holds the run's token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxSpec")
            .field("program", &self.program.first())
            .field("folder", &self.folder)
            .field("mounts", &self.mounts)
            .field("limits", &self.limits)
            .field("isolate_network", &self.isolate_network)
            .finish_non_exhaustive()
    }
}

/// A folder or file seen inside. Never with devices, and no program in it gains rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Absolute path as the agent sees it; no part of it may be a link.
    pub from: PathBuf,
    /// Absolute path inside. Missing folders are made (inside an earlier writable mount: in that mount); no part of
    /// it may be a link.
    pub to: PathBuf,
    /// Writing gives `EROFS`, in what is mounted below it too.
    pub read_only: bool,
}

/// Bounds of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxLimits {
    /// Memory of all its processes, and of the files that they write: `/tmp`, `/dev/shm` and the agent's space are
    /// memory too. By rlimits: of each process, without files.
    pub memory_bytes: u64,
    /// CPUs, times 1,000. By rlimits: a lower priority only.
    pub cpu_milli: u32,
    /// Processes and threads.
    pub processes: u32,
    /// Size of one file.
    pub file_bytes: u64,
    /// Open files of one process.
    pub open_files: u32,
    /// Size of `/tmp`, which is its own.
    pub tmp_bytes: u64,
    /// Size of `/dev/shm`.
    pub shm_bytes: u64,
}

impl Default for SandboxLimits {
    fn default() -> Self {
        SandboxLimits {
            memory_bytes: 4 << 30,
            cpu_milli: 1_000,
            processes: 512,
            file_bytes: 2 << 30,
            open_files: 4_096,
            tmp_bytes: 512 << 20,
            shm_bytes: 512 << 20,
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Exit code, or 128 + signal, as a shell says it.
    pub code: i32,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// A limit it met, whether or not it ended of that.
    pub limit_hit: Option<LimitHit>,
}

/// A limit that the kernel says was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LimitHit {
    /// [`SandboxLimits::memory_bytes`]: a process was killed for it. Seen with cgroups only.
    Memory,
    /// [`SandboxLimits::processes`]: a fork was refused. Seen with cgroups only.
    Processes,
    /// [`SandboxLimits::file_bytes`]: `SIGXFSZ`.
    FileBytes,
}

impl fmt::Display for LimitHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitHit::Memory => "memory",
            LimitHit::Processes => "number of processes",
            LimitHit::FileBytes => "size of a file",
        })
    }
}

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The description makes no sense.
    #[error("{0}")]
    Spec(String),
    /// The program cannot be started: the person's to repair. 127 (not found) or 126, as a shell says it.
    #[error("{what}")]
    Program {
        /// In words.
        what: String,
        /// As a shell would exit.
        code: i32,
    },
    /// The sandbox could not be made.
    #[error("the sandbox could not be made: {0}")]
    Sandbox(#[source] Failure),
    /// The launcher is gone, and with it everything it ran.
    #[error("the launcher does not answer")]
    Gone(#[source] std::io::Error),
    /// Not ready in time.
    #[error("the sandbox was not ready after {} seconds", .0.as_secs())]
    Slow(Duration),
}

/// What the agent asks the launcher.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Ask {
    /// Run this; stdout and stderr come with it.
    Launch(Box<SandboxSpec>),
    /// SIGTERM to its processes.
    Terminate(u64),
    /// SIGKILL to all of it.
    Kill(u64),
    /// It has ended, or is to end now: how did it?
    Finish(u64),
}

/// What the launcher answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Told {
    /// It runs. The descriptor with this is at its end when all of the sandbox has ended.
    Launched { id: u64, level: Level },
    /// See [`RunError`].
    Refused(Refusal),
    /// Done, or there was nothing to do.
    Done,
    /// To `Finish`.
    Ended(Ended),
}

/// [`RunError`] as it travels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Refusal {
    Spec(String),
    Program { what: String, code: i32 },
    Sandbox(Failure),
    Slow { seconds: u64 },
}

impl From<Refusal> for RunError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Spec(why) => RunError::Spec(why),
            Refusal::Program { what, code } => RunError::Program { what, code },
            Refusal::Sandbox(failure) => RunError::Sandbox(failure),
            Refusal::Slow { seconds } => RunError::Slow(Duration::from_secs(seconds)),
        }
    }
}

impl SandboxSpec {
    /// Whether it can be tried at all.
    pub(super) fn check(&self) -> Result<(), String> {
        let plain = |text: &str| !text.contains('\0');
        if self.program.first().is_none_or(String::is_empty) {
            return Err("there is no program to run".to_owned());
        }
        if !self.program.iter().all(|argument| plain(argument)) {
            return Err("an argument of the program has a NUL in it".to_owned());
        }
        let named = |name: &str| !name.is_empty() && !name.contains('=') && plain(name);
        if let Some((name, _)) = self.variables.iter().find(|(name, value)| !named(name) || !plain(value)) {
            return Err(format!("the variable `{}` has a name or value that no program can get", name.escape_debug()));
        }
        let texts = self.program.iter().chain(self.variables.keys()).chain(self.variables.values());
        if texts.map(|text| text.len() + 1).sum::<usize>() > TEXT_BYTES_MAX {
            return Err(format!("arguments and variables are more than {TEXT_BYTES_MAX} bytes"));
        }
        if self.mounts.len() > MOUNTS_MAX {
            return Err(format!("more than {MOUNTS_MAX} mounts"));
        }
        let paths = self.mounts.iter().flat_map(|mount| [&mount.from, &mount.to]).chain([&self.folder]);
        for path in paths {
            if !is_plain_absolute(path) {
                return Err(format!("`{}` is no absolute path without `..`", path.display()));
            }
        }
        Ok(())
    }
}

fn is_plain_absolute(path: &std::path::Path) -> bool {
    use std::path::Component::{Normal, RootDir};
    path.is_absolute() && path.components().all(|part| matches!(part, Normal(_) | RootDir))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A sandbox that runs `program`, and nothing special.
    pub(crate) fn plain(program: &[&str]) -> SandboxSpec {
        SandboxSpec {
            program: program.iter().map(|word| (*word).to_owned()).collect(),
            folder: "/tmp".into(),
            variables: BTreeMap::new(),
            mounts: Vec::new(),
            hostname: "node".to_owned(),
            ca_certificates: String::new(),
            limits: SandboxLimits::default(),
            isolate_network: false,
        }
    }

    fn check(change: impl FnOnce(&mut SandboxSpec), wrong: Option<&str>) {
        let mut spec = plain(&["true"]);
        change(&mut spec);
        let got = spec.check();
        match wrong {
            None => assert_eq!(got, Ok(())),
            Some(word) => assert!(got.as_ref().is_err_and(|why| why.contains(word)), "{got:?}"),
        }
    }

    #[test]
    fn what_no_kernel_can_run_is_refused_in_words() {
        check(|_| (), None);
        check(|spec| spec.program.clear(), Some("no program"));
        check(|spec| spec.program.push("a\0b".into()), Some("NUL"));
        check(|spec| drop(spec.variables.insert("A=B".into(), "c".into())), Some("variable"));
        check(|spec| drop(spec.variables.insert("A".into(), "c\0".into())), Some("variable"));
        check(|spec| spec.program.push("x".repeat(TEXT_BYTES_MAX)), Some("bytes"));
        check(|spec| spec.folder = "tmp".into(), Some("absolute"));
        let mount = |to: &str| Mount { from: "/a".into(), to: to.into(), read_only: true };
        check(|spec| spec.mounts.push(mount("/b")), None);
        check(|spec| spec.mounts.push(mount("/b/../../c")), Some("absolute"));
    }

    #[test]
    fn variables_and_arguments_are_not_shown() {
        let mut spec = plain(&["sh", "-c", "s3cret-argument"]);
        spec.variables.insert("TOKEN".into(), "s3cret".into());
        assert!(!format!("{spec:?}").contains("s3cret"));
    }
}
