//! The regional Machine Learning endpoint, `{region}.api.azureml.ms`: one routing table; one file a family of calls.
//!
//! What is answered is decided by `moat_control::history` (pure); here calls are taken apart, the tracking store and
//! the blobs are asked, and answers get the shape their clients read. `api-version` is optional everywhere.

mod artifacts;
mod ask;
mod assets;
mod blobs;
mod content;
mod datastores;
mod execution;
mod history;
mod metrics;
mod mlflow;
mod node;
mod resource_provider;
mod spec;

use moat_arm::ApiError;
use moat_control::Method;
use serde_json::{Value, json};

use crate::http::auth;
use crate::http::reply::Reply;
use crate::http::request::Call;
use crate::server::Server;
use crate::token::Audience;
use ask::{Ask, Fail, Route};

pub(super) async fn answer(server: &Server, call: Call) -> Reply {
    if call.method == Method::Get && call.path.trim_end_matches('/') == "/discovery" {
        return discovery(&call.host);
    }
    if node::is_for(&call.path) {
        return node::answer(server, &call).await;
    }
    if call.path.starts_with(resource_provider::PREFIX) {
        return resource_provider::answer(server, call).await;
    }
    let principal = match auth::principal_or_run(server, &call, Audience::MachineLearning).await {
        Ok(principal) => principal,
        Err(refusal) => return refusal,
    };
    let Some(route) = Route::parse(&call.path) else { return root_error(server, &call, &not_served(&call)) };
    let family = route.service.clone();
    let rest: Vec<&str> = route.rest.iter().map(String::as_str).collect();
    let ask = Ask { server, call: &call, principal, workspace: route.workspace };
    let answered = match family.as_str() {
        "history" => history::answer(&ask, &rest).await,
        "metric" => metrics::answer(&ask, &rest).await,
        "mlflow" => mlflow::answer(&ask, &rest).await,
        "artifact" => artifacts::answer(&ask, &rest).await,
        "content" => content::answer(&ask, &rest).await,
        "execution" => execution::answer(&ask, &rest).await,
        "data" => assets::answer(&ask, &rest, "uri").await,
        "modelregistry" => assets::answer(&ask, &rest, "path").await,
        "datastore" => datastores::answer(&ask, &rest).await,
        _ => Err(Fail::Api(not_served(&call))),
    };
    match answered {
        Ok(reply) => reply,
        Err(Fail::Api(error)) if family == "mlflow" => mlflow::error(&error),
        Err(Fail::Api(error)) => root_error(server, &call, &error),
        Err(Fail::Store(error)) => crate::http::arm::not_stored(server, error),
    }
}

/// What no table line answers.
fn not_served(call: &Call) -> ApiError {
    ApiError::new(
        404,
        "ServiceNotFound",
        format!("This environment does not serve `{}` at `{}`.", call.path.escape_debug(), call.host),
    )
}

/// The shape in which the services behind this endpoint tell errors (`ErrorResponse` with a `RootError`).
fn root_error(server: &Server, call: &Call, error: &ApiError) -> Reply {
    let client = call.header("x-ms-client-request-id").unwrap_or_default();
    let location = call.host.split('.').next().unwrap_or_default();
    Reply::json(
        error.status,
        &json!({
            "error": {
                "code": error.code,
                "severity": null,
                "message": error.message,
                "messageFormat": null,
                "messageParameters": {},
                "referenceCode": null,
                "detailsUri": null,
                "target": error.target,
                "details": [],
                "innerError": null,
                "debugInfo": null,
                "additionalInfo": null,
            },
            "correlation": {"operation": null, "request": client},
            "environment": location,
            "location": location,
            "time": moat_control::history::time(server.clock.now()),
            "componentName": "Moat",
            "statusCode": error.status,
        }),
    )
}

/// Base URLs without trailing slash; azureml-core keeps them in a file (PROTOCOL 6.2).
fn discovery(host: &str) -> Reply {
    let base = format!("https://{host}");
    Reply::json(
        200,
        &json!({
            "api": base, "history": base, "experimentation": base, "modelmanagement": base, "pipelines": base,
            "hyperdrive": base, "registries": base, "mlflow": base, "studio": "https://ml.azure.com",
            "catalog": format!("{base}/catalog"), "gallery": format!("{base}/gallery"),
            "labeling": format!("{base}/labeling"),
        }),
    )
}

/// A list in the shape of these services.
fn list(value: Vec<Value>) -> Value {
    json!({"value": value, "continuationToken": null, "nextLink": null})
}
