//! The sandbox of the real world: [`moat_host::run`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use moat_host::run::{Launcher, RunError, Running, SandboxLimits, SandboxSpec};

use super::sandbox::{Exit, Launch, Program, Sandbox, StartError};
use crate::config::AgentConfig;

/// Starts programs by a launcher.
#[derive(Debug)]
pub struct Launched {
    launcher: Launcher,
    hostname: String,
    ca_pem: String,
}

impl Launched {
    /// For the node of `config`.
    pub fn new(launcher: Launcher, config: &AgentConfig) -> Self {
        Self { launcher, hostname: config.node_id.clone(), ca_pem: config.ca_pem.clone() }
    }
}

impl Sandbox for Launched {
    fn start(&self, launch: Launch) -> Result<Box<dyn Program>, StartError> {
        let limits = SandboxLimits {
            memory_bytes: launch.limits.memory_bytes,
            cpu_milli: launch.limits.cpu_milli,
            processes: launch.limits.processes,
            file_bytes: launch.limits.file_bytes,
            ..SandboxLimits::default()
        };
        let mount = |m: super::Mount| moat_host::run::Mount { from: m.from, to: m.to, read_only: m.read_only };
        let spec = SandboxSpec {
            program: launch.program,
            folder: launch.folder,
            variables: launch.variables,
            mounts: launch.mounts.into_iter().map(mount).collect(),
            hostname: self.hostname.clone(),
            ca_certificates: self.ca_pem.clone(),
            limits,
            isolate_network: false,
        };
        let output = launch.output.as_fd();
        match self.launcher.launch(&spec, output, output) {
            Ok(running) => Ok(Box::new(Inside(running))),
            Err(RunError::Program { what, .. }) => Err(StartError::Program(what)),
            Err(RunError::Spec(what)) => Err(StartError::Program(what)),
            Err(e) => Err(StartError::Sandbox(with_causes(&e))),
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

struct Inside(Running);

impl Program for Inside {
    fn limits(&self) -> String {
        self.0.limits().to_owned()
    }

    fn alive(&self) -> BorrowedFd<'_> {
        self.0.alive()
    }

    fn ended(&mut self) -> io::Result<Exit> {
        match self.0.wait(Duration::ZERO).map_err(io::Error::other)? {
            Some(ended) => Ok(Exit { code: ended.code, limit: ended.limit_hit.map(|hit| hit.to_string()) }),
            None => Err(io::Error::new(io::ErrorKind::WouldBlock, "it has not ended")),
        }
    }

    // A launcher that is gone has taken the program along.
    fn terminate(&self) {
        let _ = self.0.terminate();
    }

    fn kill(&self) {
        let _ = self.0.kill();
    }
}
