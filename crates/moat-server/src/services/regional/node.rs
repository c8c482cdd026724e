//! The Machine Learning service as the node that has a run sees it (docs/adr/0005, 4): what to run, and how it goes.
//!
//! `GET  /node/v1.0{workspace}/runs/{run}/attempts/{attempt}` answers a [`moat_agent::spec::RunSpec`];
//! `POST .../events` takes a [`RunReport`] and answers the order that waits. Both only for the token of exactly that
//! attempt: the environment's own principal is refused as well, since the answer holds signatures for blobs.

use moat_agent::work::RunReport;
use moat_arm::{ApiError, ResourceId, Snapshot};
use moat_control::{Method, RunScope};
use moat_model::jobs::Place;
use moat_model::types::microsoft_storage::{containers, storage_accounts};
use moat_store::blobs::{BlobError, Blobs, Key};
use serde_json::json;

use super::ask::Fail;
use super::spec::Writer;
use crate::http::auth;
use crate::http::reply::Reply;
use crate::http::request::Call;
use crate::server::Server;
use crate::token::Audience;

const PREFIX: &str = "/node/v1.0";

/// Whether a path is one of these.
pub(super) fn is_for(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with('/'))
}

pub(super) async fn answer(server: &Server, call: &Call) -> Reply {
    let principal = match auth::principal_or_run(server, call, Audience::MachineLearning).await {
        Ok(principal) => principal,
        Err(refusal) => return refusal,
    };
    let Some((asked, rest)) = asked(&call.path) else { return not_found(call) };
    match &principal.run {
        Some(scope) if is_same(scope, &asked) => {}
        _ => {
            return Reply::error(ApiError::new(
                403,
                "AuthorizationFailed",
                "Only the token of this attempt of this run opens this.",
            ));
        }
    }
    match (call.method, rest.as_str()) {
        (Method::Get, "") => specification(server, &asked).await,
        (Method::Post, "events") => events(server, call, &asked),
        _ => not_found(call),
    }
}

fn not_found(call: &Call) -> Reply {
    Reply::error(ApiError::new(404, "NotFound", format!("There is no `{}` for nodes.", call.path)))
}

/// The attempt that a path names, and what follows.
fn asked(path: &str) -> Option<(RunScope, String)> {
    let (workspace, rest) = path.strip_prefix(PREFIX)?.split_once("/runs/")?;
    let mut parts = rest.trim_end_matches('/').split('/');
    let (run, word, attempt) = (parts.next()?, parts.next()?, parts.next()?);
    let scope = RunScope { workspace: workspace.to_owned(), run: run.to_owned(), attempt: attempt.parse().ok()? };
    (word == "attempts").then(|| (scope, parts.collect::<Vec<_>>().join("/")))
}

fn is_same(token: &RunScope, asked: &RunScope) -> bool {
    let id = |scope: &RunScope| ResourceId::parse(&scope.workspace).ok();
    token.run == asked.run && token.attempt == asked.attempt && id(token).is_some() && id(token) == id(asked)
}

/// What to run.
async fn specification(server: &Server, scope: &RunScope) -> Reply {
    let snapshot = server.store.snapshot();
    let job = ResourceId::parse(&scope.workspace).ok().map(|workspace| workspace.child("jobs", &scope.run));
    let Some(job) = job.and_then(|id| snapshot.get(&id).cloned()) else {
        return Reply::error(ApiError::new(404, "NotFound", format!("There is no run `{}`.", scope.run)));
    };
    let (offer, now, blobs) = (server.offer.clone(), server.clock.now(), server.blobs.clone());
    // The index of blobs is on disk: it is asked away from the threads that answer.
    let written = tokio::task::spawn_blocking(move || {
        let is_blob = |place: &Place| is_blob(&snapshot, &blobs, place);
        Writer { snapshot: &snapshot, offer: &offer, now, is_blob: &is_blob }.write(&job)
    });
    match written.await.unwrap_or_else(|_| Err(Fail::from(BlobError::Panicked))) {
        // It holds signatures: nobody on the way keeps it.
        Ok(specification) => Reply::json(200, &json!(specification)).with("Cache-Control", "no-store"),
        Err(Fail::Api(error)) => Reply::error(error),
        Err(Fail::Store(error)) => crate::http::arm::not_stored(server, error),
    }
}

/// Whether a place is one blob; what is neither a blob nor a folder is the node's to find missing.
fn is_blob(snapshot: &Snapshot, blobs: &Blobs, place: &Place) -> Result<bool, BlobError> {
    let account = storage_accounts::find(snapshot, &place.account);
    let container = account.and_then(|account| containers::find(snapshot, &account.id, &place.container));
    let Some(generation) = container.and_then(|d| containers::generation(&d.body)) else { return Ok(false) };
    let key = Key { container: generation.to_owned(), name: place.path.clone() };
    Ok(blobs.get(&key)?.is_some())
}

/// Progress of the run; the answer is what the node is to be told.
fn events(server: &Server, call: &Call, scope: &RunScope) -> Reply {
    let Some(report) = call.text().and_then(|text| serde_json::from_str::<RunReport>(text).ok()) else {
        return Reply::error(ApiError::bad_request("InvalidRequestContent", "An event is the report of a run."));
    };
    let told = RunScope {
        workspace: report.ticket.workspace.clone(),
        run: report.ticket.run.clone(),
        attempt: report.ticket.attempt,
    };
    if !is_same(scope, &told) {
        return Reply::error(ApiError::bad_request("InvalidRequestContent", "The report is of another run."));
    }
    match server.desk.event(scope, &report) {
        Some(order) => Reply::json(200, &json!({ "order": order })),
        None => Reply::empty(204),
    }
}
