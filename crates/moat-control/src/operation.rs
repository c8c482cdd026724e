//! Long-running operations as documents (PROTOCOL 3.1).
//!
//! An operation document says what was asked and at which commit. Its state is computed when it is
//! read, from the data plane's progress or from the document it follows; nobody has to write
//! "done", so a crash cannot lose it.
//!
//! INVARIANT: the guid begins with the commit's sequence number, so key order is age and old
//! operations are pruned from the front, a bounded number per write.

use moat_arm::{ApiError, Batch, ResourceId, Snapshot, Stored, document};
use moat_model::resource_type::Completion;
use serde_json::{Value, json};

use crate::render;
use crate::request::Decision;
use crate::world::World;
use crate::{access, locations};

/// Operations of the newest so many commits are kept.
const KEPT_COMMITS: u64 = 4096;
/// Old operations dropped by one write: more than one write adds, so the backlog shrinks.
const PRUNED_PER_WRITE: usize = 8;
/// Seconds until a client polls again.
pub(crate) const RETRY_AFTER_SECONDS: &str = "1";

/// What decides that an operation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    /// The data plane has applied the commit.
    Commit,
    /// The `provisioningState` of the target is terminal.
    Document,
    /// The target is gone.
    Removal,
    /// The type says that the target has come to rest.
    Settled,
    /// The data plane has applied the commit, and so have the reconcilers of what it deployed.
    Deployment,
}

impl Follows {
    fn as_str(self) -> &'static str {
        match self {
            Follows::Commit => "commit",
            Follows::Document => "document",
            Follows::Removal => "removal",
            Follows::Settled => "settled",
            Follows::Deployment => "deployment",
        }
    }
}

/// An operation to be remembered.
#[derive(Debug)]
pub(crate) struct Operation<'a> {
    pub(crate) target: &'a ResourceId,
    pub(crate) follows: Follows,
    /// What `operationResults` answers when it is over.
    pub(crate) result: Option<Value>,
    pub(crate) location: &'a str,
}

/// The URLs of a remembered operation.
#[derive(Debug)]
pub(crate) struct Urls {
    pub(crate) status: String,
    pub(crate) result: String,
}

fn home(subscription: &str) -> ResourceId {
    ResourceId::subscription_scope(subscription)
}

fn document_id(subscription: &str, guid: &str) -> ResourceId {
    home(subscription).provider("Microsoft.Moat", "operations", guid)
}

/// Adds the operation document to `batch` and prunes old ones.
pub(crate) fn begin(w: &World<'_>, operation: &Operation<'_>, batch: &mut Batch) -> Urls {
    let seq = w.next_seq();
    let random = w.type_ctx().uuid(&format!("operation:{}", operation.target.key()));
    // 48 bits of the sequence number in front, the rest stays unguessable.
    let guid =
        uuid::Uuid::from_u128((u128::from(seq & 0xffff_ffff_ffff) << 80) | (random.as_u128() & ((1_u128 << 80) - 1)))
            .to_string();
    let mut body = json!({
        "target": operation.target.as_str(),
        "follows": operation.follows.as_str(),
        "commit": seq,
        "startTime": render::time(w.ctx.now),
        "principal": w.request.principal.object_id,
    });
    if let Some(result) = &operation.result {
        body["result"] = result.clone();
    }
    prune(w.snapshot, &w.ctx.subscription, seq, batch);
    batch.put(document_id(&w.ctx.subscription, &guid), body);

    let namespace = operation.target.namespace().unwrap_or("Microsoft.Resources");
    let location = if operation.location.is_empty() { "global" } else { operation.location };
    // v1 of the ML client adds an api-version only if there is none, so there is one.
    let base =
        format!("{}/subscriptions/{}/providers/{namespace}/locations/{location}", w.ctx.base_url, w.ctx.subscription);
    let version = w.api_version();
    let ml = namespace.eq_ignore_ascii_case("Microsoft.MachineLearningServices");
    let (status, result, suffix) = match operation.follows {
        Follows::Settled if ml => ("mfeOperationsStatus", "mfeOperationResults", ""),
        _ if ml => ("computeOperationsStatus", "operationResults", "&service=new"),
        _ => ("operations", "operationResults", ""),
    };
    Urls {
        status: format!("{base}/{status}/{guid}?api-version={version}{suffix}"),
        result: format!("{base}/{result}/{guid}?api-version={version}"),
    }
}

fn prune(snapshot: &Snapshot, subscription: &str, seq: u64, batch: &mut Batch) {
    let prefix = format!("{}/providers/microsoft.moat/operations/", home(subscription).key());
    for old in snapshot.with_key_prefix(&prefix).take(PRUNED_PER_WRITE) {
        if old.seq + KEPT_COMMITS < seq {
            batch.delete(old.id.clone());
        }
    }
}

/// How far an operation is.
enum Progress {
    Running,
    Succeeded,
    Failed(Value),
}

fn progress(w: &World<'_>, operation: &Stored) -> Progress {
    let target = document::str_at(&operation.body, "target").and_then(|t| ResourceId::parse(t).ok());
    let stored = target.as_ref().and_then(|t| w.snapshot.get(t));
    match document::str_at(&operation.body, "follows") {
        Some("removal") => match stored {
            None => Progress::Succeeded,
            // Created anew since: the one that was deleted is gone.
            Some(s) if s.created_seq > operation.seq => Progress::Succeeded,
            Some(s) => match failed(&s.body) {
                Some(error) => Progress::Failed(error),
                None if document::str_at(&s.body, "properties.provisioningState") == Some("Deleting") => {
                    Progress::Running
                }
                None => Progress::Failed(json!({
                    "code": "ResourceGroupDeletionBlocked",
                    "message": format!(
                        "Deletion of '{}' failed as something in it could not be deleted. It has been rolled back.",
                        s.id
                    ),
                })),
            },
        },
        Some("document") => {
            let Some(s) = stored else {
                return Progress::Failed(json!({
                    "code": "ResourceNotFound", "message": "The resource was deleted while the operation ran.",
                }));
            };
            if let Some(error) = failed(&s.body) {
                return Progress::Failed(error);
            }
            match document::str_at(&s.body, "properties.provisioningState") {
                None | Some("Succeeded") => Progress::Succeeded,
                Some(_) => Progress::Running,
            }
        }
        Some("settled") => {
            let settled = target.as_ref().and_then(|t| w.find(&t.resource_type())?.settled);
            match (stored, settled) {
                (Some(s), Some(settled)) if !settled(&s.body) => Progress::Running,
                _ => Progress::Succeeded,
            }
        }
        Some("deployment") if stored.is_some_and(|s| still_deploying(w, &s.body)) => Progress::Running,
        _ => {
            if let Some(error) = stored.and_then(|s| failed(&s.body)) {
                Progress::Failed(error)
            } else if w.ctx.applied >= operation.seq {
                Progress::Succeeded
            } else {
                Progress::Running
            }
        }
    }
}

/// Whether anything that a deployment made is still on its way by its own reconciler.
pub(crate) fn still_deploying(w: &World<'_>, deployment: &Value) -> bool {
    document::array_at(deployment, "properties.outputResources").iter().any(|r| {
        let id = document::str_at(r, "id").and_then(|t| ResourceId::parse(t).ok());
        id.and_then(|id| {
            let kind = w.find(&id.resource_type())?;
            let stored = w.snapshot.get(&id)?;
            Some(kind.completion == Completion::Reconciled && !terminal(&stored.body))
        })
        .unwrap_or(false)
    })
}

fn terminal(body: &Value) -> bool {
    matches!(document::str_at(body, "properties.provisioningState"), None | Some("Succeeded" | "Failed" | "Canceled"))
}

/// The error of a document that failed: `properties.error`, or the first of
/// `properties.provisioningErrors` (computes).
fn failed(body: &Value) -> Option<Value> {
    if document::str_at(body, "properties.provisioningState") != Some("Failed") {
        return None;
    }
    let own = document::at(body, "properties.error");
    let error = own.or_else(|| document::array_at(body, "properties.provisioningErrors").first());
    let error = error.map(|e| document::at(e, "error").unwrap_or(e).clone());
    Some(error.unwrap_or_else(|| {
        json!({
            "code": "ResourceDeploymentFailure",
            "message": "The resource operation completed with terminal provisioning state 'Failed'.",
        })
    }))
}

/// Answers a poll.
pub(crate) fn poll(w: &World<'_>, guid: &str, result: bool) -> Result<Decision, ApiError> {
    let missing = || {
        // AZURE: wording not observed
        ApiError::new(404, "OperationNotFound", format!("The operation '{guid}' could not be found."))
    };
    let id = document_id(&w.ctx.subscription, guid);
    let stored = w.snapshot.get(&id).ok_or_else(missing)?;
    let of = document::str_at(&stored.body, "principal").unwrap_or_default();
    let target = document::str_at(&stored.body, "target").and_then(|t| ResourceId::parse(t).ok());
    // Whoever started it may follow it; others need to read the target. A guid is no secret to rely on.
    if !of.eq_ignore_ascii_case(&w.request.principal.object_id)
        && let Some(target) = &target
    {
        access::require(w, &format!("{}/read", target.resource_type()), Some(target))?;
    }
    let progress = progress(w, stored);
    if result { Ok(result_answer(stored, progress)) } else { Ok(status_answer(w, stored, progress)) }
}

fn status_answer(w: &World<'_>, stored: &Stored, progress: Progress) -> Decision {
    let start = document::str_at(&stored.body, "startTime").unwrap_or_default();
    let mut body = json!({
        "id": stored.id.as_str().to_owned(),
        "name": stored.id.name(),
        "status": "InProgress",
        "startTime": start,
    });
    let mut headers = Vec::new();
    match progress {
        Progress::Running => headers.push(("Retry-After", RETRY_AFTER_SECONDS.to_owned())),
        Progress::Succeeded => {
            body["status"] = json!("Succeeded");
            body["endTime"] = json!(render::time(w.ctx.now));
            body["percentComplete"] = json!(100.0);
            if let Some(result) = stored.body.get("result") {
                body["properties"] = result.clone();
            }
        }
        Progress::Failed(error) => {
            body["status"] = json!("Failed");
            body["endTime"] = json!(render::time(w.ctx.now));
            body["error"] = error;
        }
    }
    Decision { headers, ..Decision::answer(200, body) }
}

fn result_answer(stored: &Stored, progress: Progress) -> Decision {
    match progress {
        Progress::Running => {
            Decision { headers: vec![("Retry-After", RETRY_AFTER_SECONDS.to_owned())], ..Decision::empty(202) }
        }
        Progress::Succeeded => match stored.body.get("result") {
            Some(result) => Decision::answer(200, result.clone()),
            // Resource Manager's own operations (groups) end with 200, those of the providers with 204.
            None if document::str_at(&stored.body, "target").is_some_and(|t| !t.contains("/providers/")) => {
                Decision::empty(200)
            }
            None => Decision::empty(204),
        },
        Progress::Failed(error) => Decision::answer(409, json!({ "error": error })),
    }
}

/// What a write of a type with this completion follows.
pub(crate) fn of_completion(completion: Completion) -> Option<Follows> {
    match completion {
        Completion::Sync => None,
        Completion::Applied | Completion::Accepted => Some(Follows::Commit),
        Completion::Reconciled => Some(Follows::Document),
    }
}

/// The location for an operation's URL: the document's own, else its group's.
pub(crate) fn location(w: &World<'_>, id: &ResourceId, body: &Value) -> String {
    if let Some(own) = document::str_at(body, "location") {
        return locations::normalise(own);
    }
    let mut here = id.parent();
    while let Some(id) = here {
        if let Some(found) = w.snapshot.get(&id).and_then(|d| document::str_at(&d.body, "location")) {
            return locations::normalise(found);
        }
        here = id.parent();
    }
    String::new()
}
