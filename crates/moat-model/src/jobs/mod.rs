//! What a job document means for a node: program, folders, variables, where its files come from and go to. Pure.
//!
//! [`plan()`] is the one reader of a job's document. A write of a job is refused where it says no, the scheduler asks it
//! for cluster, environment and limits, and the specification that a node fetches is made from what it answers, so that
//! nothing is accepted that cannot be carried out. What is not built is refused by name, never left out in silence.
//! Not here: keys, signatures and addresses (the server adds them), and the environment (`crate::environment`).
//!
//! One file a kind of job: [`command`] for jobs of azure-ai-ml, [`pipeline`] for those that are made of such, `script` for
//! runs of azureml-core.

pub mod command;
mod data;
mod expression;
pub mod pipeline;
mod script;
mod settings;
mod variables;

use std::collections::BTreeMap;

use moat_arm::{ApiError, ResourceId, Snapshot, Stored};
use serde_json::Value;

pub use data::{Locator, Place, output_uri};
pub use variables::{TOKEN_VARIABLES, tracking_uri};

use crate::types::microsoft_machinelearningservices::runs::{Kind, Run};

/// Everything a node needs to run a job, but for secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPlan {
    /// The cluster it runs on.
    pub compute: ResourceId,
    /// Program and arguments; no shell is added.
    pub program: Vec<String>,
    /// Folder of the run inside the sandbox: `/mnt/azureml/cr/j/{run}`.
    pub root: String,
    /// Where the program starts and the code lies, below [`JobPlan::root`].
    pub folder: String,
    /// Variables of the program, but for those that hold the run's token.
    pub variables: BTreeMap<String, String>,
    /// Variables that get the run's token.
    pub token_variables: Vec<String>,
    /// What it runs in.
    pub environment: Environment,
    /// The code; `None` for a bare command.
    pub code: Option<Source>,
    /// Data brought before it starts, in the order of their names.
    pub inputs: Vec<Input>,
    /// Data taken after it ended, in the order of their names.
    pub outputs: Vec<Output>,
    /// Where logs and `./outputs` and `./logs` go: the run's own prefix.
    pub artifacts: Place,
    /// Wall clock of the program; `None`: until cancelled.
    pub timeout_seconds: Option<u64>,
    /// Higher is sooner.
    pub priority: u64,
    /// What its person should know.
    pub warnings: Vec<String>,
}

/// What a job says about its environment; `crate::environment` resolves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Environment {
    /// For `environment::resolve`.
    Reference(String),
    /// For `environment::resolve_definition` (azureml-core sends the whole object).
    Definition(Value),
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Everything below a prefix.
    Folder(Place),
    /// One blob, put at the path itself.
    Blob(Place),
    /// The blob of that name if there is one, else everything below the prefix: models may be either.
    BlobOrFolder(Place),
    /// Just these, each with its path below the place they are put at (snapshots of azureml-core).
    Blobs(Vec<(String, Place)>),
}

/// Data brought before the program starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Its name in the job.
    pub name: String,
    /// From where.
    pub source: Source,
    /// Absolute path inside the sandbox.
    pub path: String,
    /// Mount semantics: the program may not write there.
    pub read_only: bool,
}

/// Data taken from the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name in the job.
    pub name: String,
    /// Absolute path inside the sandbox: a folder that is made before, or a file in one.
    pub path: String,
    /// It is one file: the last part of `path`, stored below `destination` under the same name.
    pub file: bool,
    /// The folder it is stored in.
    pub destination: Place,
    /// Taken although the program failed: mount semantics; an `upload` is not.
    pub even_if_failed: bool,
}

/// Reads what a job asks for; `Err` is why it can never run.
pub fn plan(snapshot: &Snapshot, job: &Stored) -> Result<JobPlan, ApiError> {
    plan_of(snapshot, &job.id, &job.body)
}

/// [`plan()`] of a document that is not stored yet.
pub fn plan_of(snapshot: &Snapshot, id: &ResourceId, body: &Value) -> Result<JobPlan, ApiError> {
    match Run::of(body).kind {
        Kind::Command => command::plan(snapshot, id, body),
        Kind::Script => script::plan(snapshot, id, body),
        Kind::Tracked | Kind::Pipeline => Err(refuse(
            "JobTypeNotSupported",
            format!("The run '{}' runs on no node by itself; there is nothing to schedule.", id.name()),
        )),
    }
}

/// Folder of a run inside the sandbox.
pub fn root(run: &str) -> String {
    format!("/mnt/azureml/cr/j/{run}")
}

/// Where the code lies and the program starts.
pub fn folder(root: &str) -> String {
    format!("{root}/exe/wd")
}

/// Where inputs and outputs lie.
pub fn data_folder(root: &str) -> String {
    format!("{root}/cap/data-capability/wd")
}

/// A refusal of something in a job.
pub(crate) fn refuse(code: &str, message: impl Into<String>) -> ApiError {
    // AZURE: wording not observed.
    ApiError::bad_request(code, message)
}

#[cfg(test)]
mod tests;
