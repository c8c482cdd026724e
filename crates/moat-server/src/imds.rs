//! Instance metadata at 169.254.169.254, one listener a VNet, plain HTTP as in Azure.
//!
//! Who asks is known by the source address inside that VNet, which the data plane guarantees (no
//! spoofing). The two rules against being tricked into asking for someone else (`Metadata: true`,
//! no `X-Forwarded-For`) are Azure's.

use moat_control::Method;
use serde_json::{Value, json};

use crate::http::reply::Reply;
use crate::http::request::Call;
use crate::server::Server;
use crate::token::authority::{TOKEN_LIFE_SECONDS, is_resource};

pub(crate) async fn answer(server: &Server, vnet: &str, call: &Call) -> Reply {
    let metadata = call.header("metadata").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    if !metadata {
        return refused(400, "invalid_request", "Required metadata header not specified");
    }
    if call.header("x-forwarded-for").is_some() {
        return refused(400, "invalid_request", "Requests with an X-Forwarded-For header are refused");
    }
    if call.method != Method::Get {
        return refused(405, "invalid_request", "Only GET is supported");
    }
    match call.path.trim_end_matches('/') {
        "/metadata/identity/oauth2/token" => token(server, vnet, call).await,
        "/metadata/instance" => match instance(server, vnet, call) {
            Some(body) => Reply::json(200, &body),
            None => refused(404, "not_found", "No node has this address"),
        },
        "/metadata/versions" => Reply::json(200, &json!({"apiVersions": ["2018-02-01", "2019-08-01", "2021-02-01"]})),
        _ => refused(404, "not_found", "This metadata is not emulated"),
    }
}

fn refused(status: u16, error: &str, text: &str) -> Reply {
    Reply::json(status, &json!({"error": error, "error_description": text}))
}

async fn token(server: &Server, vnet: &str, call: &Call) -> Reply {
    let Some(resource) = call.query.get("resource").filter(|r| !r.is_empty()) else {
        return refused(400, "invalid_request", "Required audience parameter not specified");
    };
    let Some(principal) = server.hooks.identity_of(vnet, call.peer.ip()) else {
        return refused(400, "invalid_request", "Identity not found");
    };
    let asked_for_other = call.query.get("client_id").is_some_and(|id| !id.eq_ignore_ascii_case(&principal.app_id))
        || call.query.get("object_id").is_some_and(|id| !id.eq_ignore_ascii_case(&principal.object_id));
    if asked_for_other {
        return refused(400, "invalid_request", "Identity not found");
    }
    if !is_resource(resource) {
        return refused(
            400,
            "invalid_resource",
            &format!("AADSTS500011: The resource principal named {resource} was not found."),
        );
    }
    let now = server.clock.now();
    match server.authority.issue(&principal, resource, now).await {
        // Numbers are strings here (PROTOCOL 2.2).
        Ok(token) => Reply::json(
            200,
            &json!({
                "access_token": token,
                "client_id": principal.app_id,
                "expires_in": TOKEN_LIFE_SECONDS.to_string(),
                "expires_on": (now.as_second() + TOKEN_LIFE_SECONDS).to_string(),
                "ext_expires_in": TOKEN_LIFE_SECONDS.to_string(),
                "not_before": now.as_second().to_string(),
                "resource": resource,
                "token_type": "Bearer",
            }),
        )
        .with("Cache-Control", "no-store"),
        Err(error) => server.internal_error("issuing a node's token", &error),
    }
}

/// The least that programs read: where am I, what is my address.
fn instance(server: &Server, vnet: &str, call: &Call) -> Option<Value> {
    let address = call.peer.ip();
    let principal = server.hooks.identity_of(vnet, address)?;
    let snapshot = server.store.snapshot();
    let document = moat_arm::ResourceId::parse(vnet).ok().and_then(|id| snapshot.get(&id).cloned());
    let location = document.as_ref().and_then(|d| moat_arm::document::str_at(&d.body, "location")).unwrap_or_default();
    Some(json!({
        "compute": {
            "azEnvironment": "AzurePublicCloud", "location": location, "name": principal.name, "osType": "Linux",
            "subscriptionId": server.environment.subscription, "provider": "Microsoft.Compute",
        },
        "network": {
            "interface": [{
                "ipv4": {"ipAddress": [{"privateIpAddress": address.to_string(), "publicIpAddress": ""}]},
                "ipv6": {"ipAddress": []},
            }],
        },
    }))
}
