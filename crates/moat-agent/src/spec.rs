//! What to run: the answer of the Machine Learning service to a node that shows a run's token.
//!
//! `GET https://{region}.api.azureml.ms/node/v1.0{workspace}/runs/{run}/attempts/{attempt}`. Written by the server,
//! read by the agent. URLs carry signatures of narrow scope; `Debug` hides them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::work::Order;

/// Everything a node needs to run a job.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunSpec {
    /// Program and arguments, for example `["/bin/bash", "-c", "python train.py"]`. No shell is added.
    pub program: Vec<String>,
    /// Where it starts: an absolute path inside the sandbox, below [`RunSpec::root`]; the code lies there.
    pub folder: String,
    /// Folder of this run inside the sandbox, writable: `/mnt/azureml/cr/j/{run}`.
    pub root: String,
    /// Variables of the program, complete but for those that hold the token, which the agent adds.
    pub variables: BTreeMap<String, String>,
    /// Names of variables that get the run's token (`AZUREML_RUN_TOKEN`, `MLFLOW_TRACKING_TOKEN`).
    pub token_variables: Vec<String>,
    /// What it runs in.
    pub environment: Environment,
    /// The code; `None` for a bare command.
    pub code: Option<Source>,
    /// Data brought before it starts.
    pub inputs: Vec<Input>,
    /// Data taken after it ended.
    pub outputs: Vec<Output>,
    /// Where logs and `./outputs` and `./logs` go: the run's own prefix.
    pub artifacts: Prefix,
    /// Bounds.
    pub limits: Limits,
}

impl fmt::Debug for RunSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunSpec")
            .field("root", &self.root)
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

/// An environment as the node meets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Environment {
    /// For messages: `moatenv:1`.
    pub name: String,
    /// Folder below [`ENVIRONMENTS_DIR`] with the installed packages, `bin/python` in it; `None` where the system's
    /// interpreter is enough.
    pub folder: Option<String>,
    /// Interpreter outside of it, for example `/usr/bin/python3.11`; `python` in the program means this one where
    /// there is no folder.
    pub python: Option<String>,
    /// The image that was named. An identity, not a file system: the node asks its registry for the manifest, and a
    /// registry that it cannot reach fails the run.
    pub image: Option<Image>,
}

/// Where agents and sandboxes see built environments, read-only; one folder each, named by content hash.
pub const ENVIRONMENTS_DIR: &str = "/run/moat/environments";
/// Where an agent has its private, bounded, writable space; wiped between runs.
pub const WORK_DIR: &str = "/run/moat/work";

/// Where the program's output is appended, below [`RunSpec::artifacts`]; clients look for this name (PROTOCOL 6.6).
pub const LOG_PATH: &str = "user_logs/std_log.txt";

/// An image reference, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// `mcr.microsoft.com`.
    pub host: String,
    /// `azureml/openmpi4.1.0-ubuntu20.04`.
    pub repository: String,
    /// Tag or digest.
    pub reference: String,
}

/// Blobs below a prefix of a container.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prefix {
    /// `account.blob.core.windows.net`.
    pub host: String,
    /// Container.
    pub container: String,
    /// Without slashes at its ends.
    pub prefix: String,
    /// Query string of a shared access signature for exactly this prefix (`sr=d`), without `?`.
    pub sas: String,
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}/{}/{}?...", self.host, self.container, self.prefix)
    }
}

/// One blob.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blob {
    /// Path below the place it is put at.
    pub path: String,
    /// `account.blob.core.windows.net`.
    pub host: String,
    /// Path and query, percent-encoded, signature included.
    pub target: String,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("path", &self.path).field("host", &self.host).finish_non_exhaustive()
    }
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// Everything below a prefix.
    Folder(Prefix),
    /// Just these (a `uri_file`, the files of a v1 snapshot).
    Files(Vec<Blob>),
}

/// Data brought before the program starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// Its name in the job.
    pub name: String,
    /// From where.
    pub source: Source,
    /// Absolute path inside the sandbox.
    pub path: String,
    /// Mount semantics: what the program writes there is refused (`EROFS`). A download may be changed.
    pub read_only: bool,
}

/// Data taken from the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// Its name in the job.
    pub name: String,
    /// Absolute path inside the sandbox: a folder, made before the program starts, or a file in one.
    pub path: String,
    /// It is one file (`uri_file`), not a folder.
    pub file: bool,
    /// To where. Of a file: its `prefix` is the name of the blob itself.
    pub destination: Prefix,
    /// Taken although the program failed (mount semantics; an `upload` is not).
    pub even_if_failed: bool,
}

/// Bounds of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Wall clock of the program; `None`: until cancelled.
    pub timeout_seconds: Option<u64>,
    /// Memory of all its processes.
    pub memory_bytes: u64,
    /// CPUs, times 1,000.
    pub cpu_milli: u32,
    /// Processes and threads.
    pub processes: u32,
    /// Standard output and error kept; what is beyond is counted, not kept, and the log says so.
    pub log_bytes: u64,
    /// Size of one file the program may write.
    pub file_bytes: u64,
}

/// Answer to a report at `.../attempts/{attempt}/events`: an order, if there is one. An empty 204 means the same as none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// What the service wants of the run.
    pub order: Option<Order>,
}
