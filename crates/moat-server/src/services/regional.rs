//! The regional Machine Learning endpoint, `{region}.api.azureml.ms`: discovery, and the `/rp`
//! routes through which azureml-core reads computes (PROTOCOL 0.3, 6.2, 6.3).

use moat_arm::ApiError;
use moat_control::Method;
use serde_json::json;

use crate::http::reply::Reply;
use crate::http::request::Call;
use crate::http::{arm, auth};
use crate::server::Server;
use crate::token::Audience;

mod node;

const RESOURCE_PROVIDER: &str = "/rp/workspaces";

pub(super) async fn answer(server: &Server, mut call: Call) -> Reply {
    if call.method == Method::Get && call.path.trim_end_matches('/') == "/discovery" {
        return discovery(&call.host);
    }
    if node::is_for(&call.path) {
        return node::answer(server, &call).await;
    }
    let principal = match auth::principal(server, &call, Audience::MachineLearning).await {
        Ok(principal) => principal,
        Err(refusal) => return refusal,
    };
    // The same resource as ARM serves, under another prefix.
    if let Some(path) = call.path.strip_prefix(RESOURCE_PROVIDER)
        && path.to_ascii_lowercase().starts_with("/subscriptions/")
    {
        if !matches!(call.method, Method::Get | Method::Head) {
            return Reply::error(ApiError::new(
                405,
                "MethodNotAllowed",
                "This endpoint only reads computes; write them through Azure Resource Manager.",
            ));
        }
        call.path = path.to_owned();
        return without_empty_next_link(arm::run(server, call, principal).await);
    }
    Reply::error(ApiError::new(
        404,
        "ServiceNotFound",
        format!("This environment does not serve `{}` at `{}` yet.", call.path, call.host),
    ))
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

/// azureml-core tests for the key `nextLink` and then GETs its value, null or not (PROTOCOL 3).
fn without_empty_next_link(mut reply: Reply) -> Reply {
    reply.edit_json(|body| {
        if body.get("nextLink").is_some_and(serde_json::Value::is_null)
            && let Some(map) = body.as_object_mut()
        {
            map.shift_remove("nextLink");
        }
    });
    reply
}
