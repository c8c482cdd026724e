//! The emulated services: one table of host names, one file a service.

pub mod table;

pub(crate) mod blob;
mod graph;
mod login;
mod metadata;
mod regional;
mod registry;
mod telemetry;

use crate::http::reply::Reply;
use crate::http::request::Call;
use crate::server::Server;

/// Which code answers for a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// Microsoft Entra: discovery, keys, tokens.
    Login,
    /// Azure Resource Manager.
    Arm,
    /// Regional Machine Learning endpoint.
    Regional,
    /// Blob storage.
    Blob,
    /// Microsoft Graph.
    Graph,
    /// Application Insights ingestion.
    Telemetry,
    /// Batch, as nodes see it.
    BatchNodes,
    /// A container registry.
    Registry,
    /// Resolves, speaks TLS, and has nothing: a fast 404 instead of a time-out.
    Absent,
}

/// Answers one call.
pub(crate) async fn answer(server: &Server, handler: Handler, call: Call) -> Reply {
    if matches!(handler, Handler::Telemetry | Handler::Registry | Handler::Absent)
        && let Some(refusal) = crate::http::auth::foreign(server, &call).await
    {
        return refusal;
    }
    match handler {
        Handler::Login => login::answer(server, &call).await,
        Handler::Arm => match metadata::answer(server, &call) {
            Some(reply) => reply,
            None => crate::http::arm::answer(server, call).await,
        },
        Handler::Regional => regional::answer(server, call).await,
        Handler::Graph => graph::answer(server, &call).await,
        Handler::Telemetry => telemetry::answer(&call),
        Handler::BatchNodes => crate::http::nodes::answer(server, &call).await,
        Handler::Registry => registry::answer(server, &call),
        // Blobs are answered before a body is read; whoever comes here asked for something else.
        Handler::Blob | Handler::Absent => Reply::error(moat_arm::ApiError::new(
            404,
            "NotFound",
            format!("Moat emulates no service at `{}`.", call.host),
        )),
    }
}
