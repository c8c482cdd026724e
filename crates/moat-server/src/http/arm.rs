//! HTTP to [`ArmRequest`] and back. Reads run on the published snapshot; writes run on the store's
//! writer, one after the other, and are answered when they are on disk.

use moat_arm::{ApiError, Batch, Snapshot};
use moat_control::{ArmRequest, Ctx, Decision, Method, Principal};
use moat_store::StoreError;

use super::auth;
use super::reply::Reply;
use super::request::Call;
use crate::random;
use crate::server::Server;
use crate::token::Audience;

/// Decides a request; `moat_control::decide` but in tests of this crate.
pub type Decide = fn(&Snapshot, &ArmRequest, &Ctx) -> Decision;

/// A call to `management.azure.com`.
pub(crate) async fn answer(server: &Server, call: Call) -> Reply {
    match auth::principal(server, &call, Audience::Arm).await {
        Ok(principal) => run(server, call, principal).await,
        Err(refusal) => refusal,
    }
}

/// A call whose principal is known.
pub(crate) async fn run(server: &Server, call: Call, principal: Principal) -> Reply {
    if call.is_binary() {
        return Reply::error(ApiError::bad_request("InvalidRequestContent", "The request content is not UTF-8 text."));
    }
    let request = ArmRequest {
        method: call.method,
        body: call.text().map(str::to_owned),
        if_match: call.header("if-match").map(str::to_owned),
        if_none_match: call.header("if-none-match").map(str::to_owned),
        path: call.path,
        query: call.query,
        principal,
        origin: call.origin,
    };
    submit(server, request).await
}

/// Decides and, where it writes, commits. Also the way in for what the service itself asks.
pub(crate) async fn submit(server: &Server, request: ArmRequest) -> Reply {
    let decide = server.decide;
    let context = server.context(random::uuid());
    // One id for the log, the change row and the client.
    let correlation = context.correlation();
    let decided = if matches!(request.method, Method::Get | Method::Head) {
        Ok(decide(&server.store.snapshot(), &request, &context))
    } else {
        let write = move |snapshot: &Snapshot| {
            let mut decision = decide(snapshot, &request, &context);
            let batch: Batch = std::mem::take(&mut decision.batch);
            (batch, decision)
        };
        server.store.submit(write).await
    };
    let reply = match decided {
        Ok(Decision { status, headers, body, batch: _ }) => Reply::decided(status, headers, body),
        Err(error) => not_stored(server, error),
    };
    reply.with_default("x-ms-correlation-request-id", &correlation)
}

/// What to answer when a write did not get to the disk.
pub(crate) fn not_stored(server: &Server, error: StoreError) -> Reply {
    match error {
        error @ (StoreError::Full(_) | StoreError::ReadOnly(_)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a write was not stored");
            // Not 507 or 503: clients would repeat for minutes what a person has to mend.
            Reply::error(ApiError::new(409, "StateNotWritable", error.to_string()))
        }
        StoreError::Stopped => Reply::error(ApiError::new(503, "ServiceUnavailable", "The environment is stopping."))
            .with("Retry-After", "1"),
        error => server.internal_error("writing", &error),
    }
}
