//! What the Batch service asks of a node, and what the node tells about a run: the words of the management
//! conversation, in either direction of opening it (see [`crate::config::Mode`]).
//!
//! Nothing of a job travels here: no code, no data, no token. A ticket names a run; everything else the node fetches
//! itself, over connections of its own, from the services a node of Azure would ask (docs/adr/0005).

use serde::{Deserialize, Serialize};

use crate::handshake::Finding;

/// One attempt to run one job on this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ticket {
    /// Name of the run, unique in its workspace.
    pub run: String,
    /// ARM id of the workspace.
    pub workspace: String,
    /// Counts from 1; another attempt follows when a node was lost.
    pub attempt: u32,
    /// Tenant whose token endpoint the node asks.
    pub tenant: String,
    /// Region of the workspace: its Machine Learning endpoint is `{region}.api.azureml.ms`.
    pub region: String,
}

impl Ticket {
    /// What the node signs with its key to get the run's token; binds run and attempt.
    pub fn purpose(&self) -> String {
        format!("run:{}:{}:{}", self.workspace.to_lowercase(), self.run, self.attempt)
    }
}

/// What the service wants. Idempotent: told again until the report shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// Run this.
    Start(Ticket),
    /// End it: SIGTERM, then SIGKILL after the grace.
    Cancel {
        /// Which.
        ticket: Ticket,
        /// Seconds between the two signals.
        grace_seconds: u32,
    },
    /// Its end is stored: report it no longer and be idle.
    Forget(Ticket),
}

/// How far a run is, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Taken, nothing done yet.
    Accepted,
    /// Getting the run's token (AzureActiveDirectory).
    Identity,
    /// Getting what to run (AzureMachineLearning).
    Specification,
    /// Asking the registry for the image (MicrosoftContainerRegistry, AzureContainerRegistry).
    Image,
    /// Downloading the code (Storage.region).
    Code,
    /// Downloading inputs (Storage.region).
    Inputs,
    /// The program runs.
    Running,
    /// Uploading outputs and the rest of the logs (Storage.region).
    Outputs,
    /// Nothing more will happen.
    Ended,
}

/// How a run ended on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The program ended by itself; 128 + signal if one ended it.
    Exited {
        /// Exit code.
        code: i32,
    },
    /// It was told to end.
    Canceled,
    /// It ran longer than its limit.
    TimedOut {
        /// The limit.
        seconds: u64,
    },
    /// A service that the phase needs could not be reached. The finding has the ports, so that the drop can be found.
    Unreachable(Finding),
    /// Anything else; the text is for the person whose job it is.
    Failed {
        /// `UserError`, `EnvironmentMissing`, `InputMissing`, `LimitExceeded`, `OutputRefused`, `NodeError`, ...
        code: String,
        /// What, where, what to do.
        message: String,
    },
}

/// What the node tells about the run it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// Which.
    pub ticket: Ticket,
    /// The phase it is in; with an outcome, the phase in which it ended.
    pub phase: Phase,
    /// Set once nothing more will happen.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// Things the person should know that did not stop the run.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Which limits the kernel enforced for the program, for the job's properties: `cgroup-v1`, `cgroup-v2`, `rlimit`.
    #[serde(default)]
    pub limits: Option<String>,
    /// The first bytes of the program's output are in the store.
    #[serde(default)]
    pub log_begun: bool,
}
