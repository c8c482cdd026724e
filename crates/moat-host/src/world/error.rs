//! Why a world could not be made, and what a person can do about it.

use std::path::PathBuf;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// A failure told over a pipe or to a person: headline and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// What went wrong, in one line.
    pub what: String,
    /// What to do about it, where we know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Failure {
    /// With help.
    pub fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Failure { what: what.into(), help: Some(help.into()) }
    }
    /// Without help.
    pub fn bare(what: impl Into<String>) -> Self {
        Failure { what: what.into(), help: None }
    }
}

/// See the module's first line.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// clone(2) with CLONE_NEWUSER.
    #[error("this kernel refused a user namespace")]
    UserNamespace {
        /// Its answer.
        #[source]
        source: Errno,
    },
    /// Writing uid_map or gid_map.
    #[error("the id map of the user namespace was refused")]
    IdMap {
        /// Its answer.
        #[source]
        source: std::io::Error,
    },
    /// mount(2).
    #[error("mounting {what} at `{at}` was refused")]
    Mount {
        /// For people: `a fresh /proc`.
        what: &'static str,
        /// Where.
        at: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// Some other step.
    #[error("{doing} failed")]
    Step {
        /// For people: `dropping capabilities`.
        doing: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The world said why it ended.
    #[error("{0}")]
    Reported(#[source] Failure),
    /// The world ended without a word.
    #[error("the environment ended before it was ready (exit code {code})")]
    Ended {
        /// As a shell would show it.
        code: i32,
    },
    /// Not ready in time.
    #[error("the environment was not ready after {seconds} seconds")]
    Slow {
        /// The bound.
        seconds: u64,
    },
}

impl WorldError {
    /// For a closure: any error with an [`std::io::Error`] in it.
    pub(crate) fn step<E: Into<std::io::Error>>(doing: &'static str) -> impl FnOnce(E) -> WorldError {
        move |source| WorldError::Step { doing, source: source.into() }
    }
    /// For a closure: a refused mount.
    pub(crate) fn mount(what: &'static str, at: impl Into<PathBuf>) -> impl FnOnce(Errno) -> WorldError {
        let at = at.into();
        move |source| WorldError::Mount { what, at, source }
    }

    /// What a person can do.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            WorldError::UserNamespace { source } => match source {
                Errno::ENOSPC => "raise the limit: `sysctl user.max_user_namespaces=10000` (as root)".into(),
                Errno::EPERM | Errno::EACCES => {
                    "allow them for ordinary users, as root: `sysctl kernel.unprivileged_userns_clone=1` (Debian) or \
                     `sysctl kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu 23.10 and later); in a container, \
                     start it with `--security-opt seccomp=unconfined`; `moat doctor` shows what is missing"
                        .into()
                }
                _ => "use a kernel with CONFIG_USER_NS=y; `moat doctor` shows what is missing".into(),
            },
            WorldError::IdMap { .. } => {
                "check this user's lines in /etc/subuid and /etc/subgid, or remove them to run with a single id".into()
            }
            WorldError::Mount { what: "a fresh /proc", .. } => {
                "a container that masks parts of /proc forbids this: start it with `--security-opt \
                 systempaths=unconfined`, or run Moat outside of it"
                    .into()
            }
            WorldError::Mount { .. } => {
                "mounts inside a user namespace are needed; `moat doctor` shows what this kernel refuses".into()
            }
            WorldError::Step { .. } => "`moat doctor` shows what this kernel refuses".into(),
            WorldError::Reported(failure) => return failure.help.clone(),
            WorldError::Ended { .. } | WorldError::Slow { .. } => "the log of the environment says more".into(),
        })
    }

    /// As it travels and is shown: the whole chain in one line.
    pub fn to_failure(&self) -> Failure {
        let mut what = self.to_string();
        if !matches!(self, WorldError::Reported(_)) {
            let mut source = std::error::Error::source(self);
            while let Some(error) = source {
                what = format!("{what}: {error}");
                source = error.source();
            }
        }
        Failure { what, help: self.help() }
    }
}
