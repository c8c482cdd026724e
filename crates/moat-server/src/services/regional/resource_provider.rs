//! `/rp/workspaces`: the computes of ARM under another prefix, read-only (PROTOCOL 0.3, 6.3).

use moat_arm::ApiError;
use moat_control::Method;

use crate::http::reply::Reply;
use crate::http::request::Call;
use crate::http::{arm, auth};
use crate::server::Server;
use crate::token::Audience;

pub(super) const PREFIX: &str = "/rp/workspaces";

pub(super) async fn answer(server: &Server, mut call: Call) -> Reply {
    let principal = match auth::principal(server, &call, Audience::MachineLearning).await {
        Ok(principal) => principal,
        Err(refusal) => return refusal,
    };
    let path = call.path.strip_prefix(PREFIX).unwrap_or_default();
    if !path.to_ascii_lowercase().starts_with("/subscriptions/") {
        return Reply::error(super::not_served(&call));
    }
    if !matches!(call.method, Method::Get | Method::Head) {
        return Reply::error(ApiError::new(
            405,
            "MethodNotAllowed",
            "This endpoint only reads computes; write them through Azure Resource Manager.",
        ));
    }
    call.path = path.to_owned();
    without_empty_next_link(arm::run(server, call, principal).await)
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
