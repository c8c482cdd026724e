//! What the loops saw of the world since: words of the scheduler's own, so that this crate knows no agent.

use std::collections::BTreeMap;

use moat_model::environment::Offer;

/// Everything seen, newest first hand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Latest verdict of each node by its document's key; a node not tried yet is absent.
    pub nodes: BTreeMap<String, NodeVerdict>,
    /// The agent of each node by the node document's key; one that did not speak yet is absent.
    pub agents: BTreeMap<String, AgentSeen>,
    /// Builds of environments, by content hash; one nobody looked at yet is absent.
    pub environments: BTreeMap<String, Build>,
    /// What this machine can build environments with.
    pub offer: Offer,
}

/// What packets said about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeVerdict {
    /// Every management path stands.
    Reachable,
    /// At least one path is stopped; the text names what stops it.
    Blocked(String),
}

/// The agent that runs on a node now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSeen {
    /// Which start of the agent this is: `{start of the environment}:{count}`.
    pub instance: String,
    /// The run it says it has.
    pub run: Option<RunSeen>,
}

/// A run as its node last told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSeen {
    /// Key of the job document.
    pub job: String,
    /// Which attempt.
    pub attempt: u32,
    /// How far it is; with an end, where it ended.
    pub phase: Phase,
    /// Set once nothing more will happen.
    pub end: Option<End>,
    /// What its person should know.
    pub warnings: Vec<String>,
    /// Limits the kernel enforces.
    pub limits: Option<String>,
    /// The first bytes of its log are in the store.
    pub log_begun: bool,
}

/// How far a run is, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The agent took it.
    Accepted,
    /// Getting its token.
    Identity,
    /// Getting what to run.
    Specification,
    /// Asking the registry for the image.
    Image,
    /// Downloading code.
    Code,
    /// Downloading inputs.
    Inputs,
    /// The program runs.
    Running,
    /// Uploading outputs.
    Outputs,
    /// Nothing more will happen.
    Ended,
}

impl Phase {
    /// As reports and the run's error spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Identity => "identity",
            Self::Specification => "specification",
            Self::Image => "image",
            Self::Code => "code",
            Self::Inputs => "inputs",
            Self::Running => "running",
            Self::Outputs => "outputs",
            Self::Ended => "ended",
        }
    }
}

/// How a run ended on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The program ended by itself.
    Exited(i32),
    /// It was told to end.
    Canceled,
    /// It ran longer than its limit, in seconds.
    TimedOut(u64),
    /// A service that the phase needs was not reached; the text names service and rule.
    Unreachable(String),
    /// Anything else.
    Failed {
        /// Kind of fault.
        code: String,
        /// For the person.
        message: String,
    },
}

/// What became of the build of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Build {
    /// Under way.
    Building,
    /// Nodes can have it.
    Ready,
    /// The tool's own message.
    Failed(String),
}
