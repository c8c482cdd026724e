//! Requests and decisions, without HTTP types.

use std::collections::BTreeMap;

use moat_arm::{ApiError, Batch};
use moat_model::Edition;
use serde_json::Value;

/// HTTP method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// POST.
    Post,
    /// DELETE.
    Delete,
}

/// Who asks, after the token was verified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Principal {
    /// Object id.
    pub object_id: String,
    /// Application id.
    pub app_id: String,
    /// Display name for error texts.
    pub name: String,
    /// The one run this principal is, where a job shows its own token (ADR 5.6); `None` for people and services.
    pub run: Option<RunScope>,
}

/// All that a run's token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunScope {
    /// ARM id of the workspace, as issued.
    pub workspace: String,
    /// Name of the run.
    pub run: String,
    /// Which attempt of it.
    pub attempt: u32,
}

/// From where a request came; service firewalls of later parts decide by it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    /// From the public side, with the source address seen.
    #[default]
    Public,
    /// From an address inside a VNet (platform listener of that VNet's router).
    Nic {
        /// VNet document id.
        vnet: String,
        /// Source address.
        address: String,
    },
    /// The service itself (what it creates goes through `decide` too).
    Service,
}

/// An ARM request.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmRequest {
    /// Method.
    pub method: Method,
    /// Percent-decoded path.
    pub path: String,
    /// Percent-decoded query, names lower-cased (`api-version`, `$filter`, ...).
    pub query: BTreeMap<String, String>,
    /// Body text, as sent: deployments are parsed leniently, everything else strictly.
    pub body: Option<String>,
    /// Who.
    pub principal: Principal,
    /// From where.
    pub origin: Origin,
    /// `If-Match`.
    pub if_match: Option<String>,
    /// `If-None-Match`.
    pub if_none_match: Option<String>,
}

/// What `decide` may know besides the snapshot and the request.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// Now.
    pub now: jiff::Timestamp,
    /// Fresh and unguessable, one a request. Keys and passwords come from it: it is never shown (see
    /// [`Ctx::correlation`]).
    pub seed: uuid::Uuid,
    /// Edition of the environment.
    pub edition: Edition,
    /// Tenant id.
    pub tenant: String,
    /// The environment's subscription id.
    pub subscription: String,
    /// Sequence number up to which the data plane has applied commits; operations whose commit
    /// is not above it are complete.
    pub applied: u64,
    /// Scheme and host for absolute URLs, without trailing slash: `https://management.azure.com`.
    pub base_url: String,
    /// Address ranges for new public IPs.
    pub public_pool: Vec<ipnet::Ipv4Net>,
}

impl Ctx {
    /// The id that log, change row and client share. It leads from the seed and not back to it.
    pub fn correlation(&self) -> String {
        uuid::Uuid::new_v5(&self.seed, b"correlation").to_string()
    }
}

/// The answer and what it changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// HTTP status.
    pub status: u16,
    /// Extra headers (`Azure-AsyncOperation`, `Location`, `Retry-After`, `ETag`).
    pub headers: Vec<(&'static str, String)>,
    /// Body; `None` sends no body.
    pub body: Option<Value>,
    /// Changes to commit before the answer is sent; empty for reads and refusals.
    pub batch: Batch,
}

impl Decision {
    /// An answer with a body that changes nothing.
    pub(crate) fn answer(status: u16, body: Value) -> Self {
        Self { status, headers: Vec::new(), body: Some(body), batch: Batch::default() }
    }

    /// An answer without a body that changes nothing.
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: None, batch: Batch::default() }
    }

    /// A refusal in ARM's envelope.
    pub fn refuse(error: &ApiError) -> Self {
        Self::answer(error.status, error.to_body())
    }
}
