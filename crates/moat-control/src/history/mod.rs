//! The run history: what the regional Machine Learning endpoint answers about experiments and runs. Pure.
//!
//! A run is a job document and nothing else (ADR 5): what is here reads it in the shapes that azureml-core,
//! azure-ai-ml and MLflow expect, and writes what those clients may change. Not here: metrics and parameters (bulk, in
//! the tracking store), artifacts (blobs), and how a run moves from state to state (`schedule`).

pub mod events;
pub mod experiments;
pub mod filter;
pub mod mlflow;
pub mod outputs;
pub mod render;
pub mod runs;
pub mod script;
pub mod search;

use std::sync::Arc;

use jiff::Timestamp;
use moat_arm::access::rbac;
use moat_arm::{ApiError, ResourceId, Snapshot, Stored};
use moat_model::TypeCtx;

use crate::request::{Ctx, Principal};

/// Type of workspaces, as their ids spell it.
pub const WORKSPACE: &str = "Microsoft.MachineLearningServices/workspaces";

/// What a caller wants to do at the regional endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// See experiments.
    ReadExperiments,
    /// Make or change experiments.
    WriteExperiments,
    /// See runs, their metrics and artifacts.
    ReadRuns,
    /// Change runs; log metrics and artifacts.
    WriteRuns,
    /// Make runs.
    SubmitRuns,
    /// See code snapshots.
    ReadSnapshots,
    /// Make code snapshots.
    WriteSnapshots,
    /// See datastores.
    ReadDatastores,
    /// See the keys of datastores.
    ReadSecrets,
}

impl Right {
    /// The ARM action that roles name. AZURE: the provider's operations list.
    pub fn action(self) -> &'static str {
        match self {
            Self::ReadExperiments => "Microsoft.MachineLearningServices/workspaces/experiments/read",
            Self::WriteExperiments => "Microsoft.MachineLearningServices/workspaces/experiments/write",
            Self::ReadRuns => "Microsoft.MachineLearningServices/workspaces/experiments/runs/read",
            Self::WriteRuns => "Microsoft.MachineLearningServices/workspaces/experiments/runs/write",
            Self::SubmitRuns => "Microsoft.MachineLearningServices/workspaces/experiments/runs/submit/action",
            Self::ReadSnapshots => "Microsoft.MachineLearningServices/workspaces/snapshots/read",
            Self::WriteSnapshots => "Microsoft.MachineLearningServices/workspaces/snapshots/write",
            Self::ReadDatastores => "Microsoft.MachineLearningServices/workspaces/datastores/read",
            Self::ReadSecrets => "Microsoft.MachineLearningServices/workspaces/datastores/listsecrets/action",
        }
    }

    /// What a job may do with its own token: its own run's records, and nothing else (ADR 5.6).
    fn for_runs(self) -> bool {
        matches!(self, Self::ReadExperiments | Self::ReadRuns | Self::WriteRuns)
    }
}

/// A workspace as one caller sees it. Only [`View::open`] makes one, so nothing below it can forget to ask for rights.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The world.
    pub snapshot: &'a Snapshot,
    /// The workspace's document.
    pub workspace: &'a Arc<Stored>,
    /// Who asks.
    pub principal: &'a Principal,
    /// Time and ids.
    pub ctx: &'a Ctx,
}

impl<'a> View<'a> {
    /// The workspace, if it exists and the caller has the right.
    pub fn open(
        snapshot: &'a Snapshot,
        workspace: &ResourceId,
        principal: &'a Principal,
        ctx: &'a Ctx,
        right: Right,
    ) -> Result<Self, ApiError> {
        if !allows(snapshot, workspace, principal, right) {
            return Err(forbidden(principal, right.action(), workspace));
        }
        let found = snapshot
            .get(workspace)
            .filter(|d| d.id.resource_type().eq_ignore_ascii_case(WORKSPACE))
            .ok_or_else(|| ApiError::not_found(workspace))?;
        Ok(Self { snapshot, workspace: found, principal, ctx })
    }

    /// What types of the model need to complete their documents.
    pub fn type_ctx(&self) -> TypeCtx<'a> {
        TypeCtx {
            snapshot: self.snapshot,
            edition: self.ctx.edition,
            now: self.ctx.now,
            tenant: &self.ctx.tenant,
            seed: self.ctx.seed,
            public_pool: &self.ctx.public_pool,
            principal: &self.principal.object_id,
            skip_validation: false,
        }
    }

    /// Whether the caller also has another right.
    pub fn allows(&self, right: Right) -> bool {
        allows(self.snapshot, &self.workspace.id, self.principal, right)
    }

    /// Refuses unless the caller also has another right.
    pub fn require(&self, right: Right) -> Result<(), ApiError> {
        if self.allows(right) { Ok(()) } else { Err(forbidden(self.principal, right.action(), &self.workspace.id)) }
    }

    /// Whether the caller may touch this run at all: a job may touch its own.
    pub fn sees(&self, run: &str) -> bool {
        self.principal.run.as_ref().is_none_or(|own| own.run.eq_ignore_ascii_case(run))
    }

    /// The document of a run.
    pub fn run(&self, name: &str) -> Result<&'a Arc<Stored>, ApiError> {
        if !self.sees(name) {
            return Err(forbidden(self.principal, Right::ReadRuns.action(), &runs::document_id(self, name)));
        }
        self.snapshot.get(&runs::document_id(self, name)).ok_or_else(|| {
            ApiError::new(
                404,
                "RunNotFound",
                format!("Run '{name}' was not found in workspace '{}'.", self.workspace.id.name()),
            )
        })
    }

    /// Every run of the workspace that the caller may see, in the order of their names.
    pub fn runs(&self) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        let view = *self;
        let prefix = runs::document_id(self, "").key().to_owned();
        let depth = self.workspace.id.names().len() + 1;
        // Jobs have documents below them in no version known; a name is one segment.
        self.snapshot
            .below(&self.workspace.id)
            .filter(move |d| d.id.key().starts_with(&prefix) && d.id.names().len() == depth)
            .filter(move |d| view.sees(d.id.name()))
    }
}

fn allows(snapshot: &Snapshot, workspace: &ResourceId, principal: &Principal, right: Right) -> bool {
    match &principal.run {
        Some(own) => right.for_runs() && own.workspace.eq_ignore_ascii_case(workspace.as_str()),
        None => rbac::allows(snapshot, &principal.object_id, right.action(), Some(workspace)),
    }
}

fn forbidden(principal: &Principal, action: &str, scope: &ResourceId) -> ApiError {
    let who = match &principal.run {
        Some(own) => format!("The token of run '{}'", own.run),
        None => format!("The client '{}' with object id '{}'", principal.app_id, principal.object_id),
    };
    ApiError::new(
        403,
        "AuthorizationFailed",
        format!("{who} does not have authorization to perform action '{action}' over scope '{scope}'."),
    )
}

/// A time as the run history writes it: UTC with seven digits.
pub fn time(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S%.7fZ").to_string()
}

#[cfg(test)]
mod tests;
