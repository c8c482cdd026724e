//! What the platform keeps about the life of a job, in the private part of its document (`moat.run`).
//!
//! A job document (`workspaces/jobs`) is the one truth about a run: ARM shows it as a job, the regional endpoint as a
//! run of the run history, the scheduler moves it along. Runs that come from azureml-core or MLflow are job documents
//! too. `properties.status` is the status; everything else of ours is here, typed, since no client ever sees it raw.

use std::collections::BTreeMap;

use jiff::Timestamp;
use moat_arm::document;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Type of a job, as its documents spell it.
pub const JOB_TYPE: &str = "Microsoft.MachineLearningServices/workspaces/jobs";
/// Name of the run that a run is part of, among the [`Run::properties`].
pub const PARENT: &str = "azureml.parentRunId";
/// Where a job document keeps its [`Run`].
const MEMBER: &str = "moat.run";
const STATUS: &str = "properties.status";

/// Who made a run, and so who moves it along.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A command job of azure-ai-ml or a template: scheduled.
    #[default]
    Command,
    /// A ScriptRun of azureml-core: scheduled.
    Script,
    /// A pipeline of azure-ai-ml: its steps are jobs of their own, and it goes as they go.
    Pipeline,
    /// Made by MLflow or by hand on some machine: never scheduled, its client says how it is.
    Tracked,
}

/// Status of a job; the spelling is what clients compare (PROTOCOL 6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    /// Accepted.
    NotStarted,
    /// Its environment is being built.
    Preparing,
    /// Waits for a node.
    Queued,
    /// A node has it and gets its token, specification and image.
    Starting,
    /// The program runs (code and inputs are brought under this status, as in Azure).
    Running,
    /// The program has ended; outputs and logs are brought to rest.
    Finalizing,
    /// Somebody asked to end it.
    CancelRequested,
    /// Ended well.
    Completed,
    /// Ended badly; the run's error says how.
    Failed,
    /// Ended because somebody asked.
    Canceled,
}

impl Status {
    /// Nothing will change any more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Canceled)
    }

    /// Of a job document.
    pub fn of(body: &Value) -> Option<Self> {
        serde_json::from_value(document::at(body, STATUS)?.clone()).ok()
    }

    /// Into a job document.
    pub fn put(self, body: &mut Value) {
        document::set(body, STATUS, json!(self));
    }
}

/// Why a run failed, as the run history shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunError {
    /// `UserError`, `SystemError`, or a code of ours below them.
    pub code: String,
    /// For a person; names the rule where a packet was dropped.
    pub message: String,
    /// The phase it failed in, as the agent's report spells it; empty where no node was involved.
    pub phase: String,
}

/// The life of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Run {
    /// Who moves it along.
    pub kind: Kind,
    /// Counts from 1 in its workspace.
    pub number: u64,
    /// A GUID of its own, `runUuid` of the run history.
    pub uuid: String,
    /// Object id of who submitted it.
    pub submitted_by: String,
    /// Names of the jobs that are its steps ([`Kind::Pipeline`]).
    pub steps: Vec<String>,
    /// Names of the jobs that have to be completed before it may begin (a step of a pipeline).
    pub after: Vec<String>,
    /// Attempts begun; 0 before the first.
    pub attempt: u32,
    /// Id of the node document that has it now.
    pub node: Option<String>,
    /// Which start of that node's agent took it: another one cannot have it (a run never moves by itself).
    pub agent: Option<String>,
    /// Id of the cluster it waits for, as the plan of the job says.
    pub cluster: Option<String>,
    /// Wall clock of the program, as the plan of the job says.
    pub timeout_seconds: Option<u64>,
    /// Higher is sooner; equal ones in the order of their creation.
    pub priority: u64,
    /// Content hash of its environment's build: a folder name; `None` where nothing has to be built.
    pub environment: Option<String>,
    /// When the document was made.
    pub created: Option<Timestamp>,
    /// When it began to wait for a node.
    pub queued: Option<Timestamp>,
    /// When a node was given to the newest attempt.
    pub assigned: Option<Timestamp>,
    /// When the newest attempt was first seen in each phase, by the phase's name in reports.
    pub phases: BTreeMap<String, Timestamp>,
    /// When the program of the first attempt that got so far began.
    pub started: Option<Timestamp>,
    /// When the first line of its log was stored.
    pub log_begun: Option<Timestamp>,
    /// When the program had ended; the status may be `Finalizing` for a while after (PROTOCOL trap 5).
    pub ended: Option<Timestamp>,
    /// When somebody asked to end it.
    pub cancel_requested: Option<Timestamp>,
    /// A client has fetched the final log: nothing to wait for in `Finalizing`.
    pub log_seen: bool,
    /// What the program ended with.
    pub exit_code: Option<i32>,
    /// What a `Finalizing` run becomes when it has been seen or waited for.
    pub verdict: Option<Status>,
    /// Why it failed.
    pub error: Option<RunError>,
    /// What its person should know.
    pub warnings: Vec<String>,
    /// Limits the kernel enforces: `cgroup-v1`, `cgroup-v2`, `rlimit`.
    pub limits: Option<String>,
    /// Tags and properties of the run history that are not the job's own.
    pub properties: serde_json::Map<String, Value>,
    /// The run configuration of azureml-core, as sent (`Kind::Script`).
    pub definition: Option<Value>,
    /// Id of the snapshot with its code (`Kind::Script`).
    pub code_snapshot: Option<String>,
}

impl Run {
    /// Of a job document; a default one where there is none yet.
    pub fn of(body: &Value) -> Self {
        document::at(body, MEMBER).and_then(|v| serde_json::from_value(v.clone()).ok()).unwrap_or_default()
    }

    /// Name of the run that it is part of.
    pub fn parent(&self) -> Option<&str> {
        self.properties.get(PARENT).and_then(Value::as_str)
    }

    /// Into a job document.
    pub fn put(&self, body: &mut Value) {
        // A struct of texts, numbers and maps always has a JSON form.
        document::set(body, MEMBER, serde_json::to_value(self).unwrap_or_default());
    }
}

/// Name of the blob prefix of a run below the container of artifacts: `ExperimentRun/dcid.{run}` (PROTOCOL 6.5).
pub fn artifact_prefix(run: &str) -> String {
    format!("ExperimentRun/dcid.{run}")
}

/// The container of the datastore `workspaceartifactstore` (PROTOCOL 6.5).
pub const ARTIFACT_CONTAINER: &str = "azureml";

/// The container of the datastore `workspaceblobstore` (PROTOCOL 6.5).
pub fn blob_container(workspace_id: &str) -> String {
    format!("azureml-blobstore-{workspace_id}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    #[test]
    fn a_run_survives_its_document() {
        let mut body = json!({"properties": {"status": "NotStarted", "command": "x"}});
        let run = Run { number: 3, attempt: 1, verdict: Some(Status::Completed), ..Run::default() };
        run.put(&mut body);
        Status::Running.put(&mut body);
        assert_eq!(Run::of(&body), run);
        assert_eq!(Status::of(&body), Some(Status::Running));
        assert_eq!(body["properties"]["command"], "x");
        assert_eq!(Run::of(&json!({})), Run::default());
        assert!(Status::Canceled.is_terminal() && !Status::Finalizing.is_terminal());
    }
}
