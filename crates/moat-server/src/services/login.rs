//! Microsoft Entra as the clients of PROTOCOL 2.1 see it: discovery, published keys, client
//! credentials by the v2.0 and the v1 endpoint. Errors have its shape, not ARM's.

use std::collections::BTreeMap;

use base64::Engine;
use moat_agent::handshake::ASSERTION_TYPE;
use moat_control::{Method, Principal};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::http::reply::Reply;
use crate::http::request::{Call, form};
use crate::random;
use crate::server::Server;
use crate::token::authority::{self, TOKEN_LIFE_SECONDS};

const LOGIN: &str = "https://login.microsoftonline.com";

/// For whom a run's token is.
const RUN_AUDIENCE: &str = "https://ml.azure.com";

type Form = BTreeMap<String, String>;

/// Tenant names that stand for "whichever" in discovery.
const ANY_TENANT: [&str; 3] = ["common", "organizations", "consumers"];

pub(super) async fn answer(server: &Server, call: &Call) -> Reply {
    let segments: Vec<&str> = call.path.split('/').filter(|s| !s.is_empty()).collect();
    match (call.method, segments.as_slice()) {
        (Method::Get, [_, "discovery", "instance"]) => Reply::json(200, &instance(server)),
        (_, [tenant, ..]) if !known_tenant(server, tenant) => failed(server, &Refusal::tenant(tenant)),
        (Method::Get, [_, "v2.0", ".well-known", "openid-configuration"]) => Reply::json(200, &discovery(server, true)),
        (Method::Get, [_, ".well-known", "openid-configuration"]) => Reply::json(200, &discovery(server, false)),
        (Method::Get, [_, "discovery", "v2.0", "keys"] | [_, "discovery", "keys"]) => keys(server).await,
        (Method::Post, [_, "oauth2", "v2.0", "token"]) => token(server, call, "scope").await,
        (Method::Post, [_, "oauth2", "token"]) => token(server, call, "resource").await,
        _ => Reply::json(404, &json!({"error": "not_found", "error_description": "This endpoint is not emulated."})),
    }
}

fn known_tenant(server: &Server, tenant: &str) -> bool {
    tenant.eq_ignore_ascii_case(&server.environment.tenant) || ANY_TENANT.contains(&tenant)
}

fn discovery(server: &Server, v2: bool) -> Value {
    let tenant = &server.environment.tenant;
    let oauth = if v2 { "oauth2/v2.0" } else { "oauth2" };
    let (keys, issuer) = if v2 {
        ("discovery/v2.0/keys", format!("{LOGIN}/{tenant}/v2.0"))
    } else {
        ("discovery/keys", format!("https://sts.windows.net/{tenant}/"))
    };
    json!({
        "token_endpoint": format!("{LOGIN}/{tenant}/{oauth}/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "jwks_uri": format!("{LOGIN}/{tenant}/{keys}"),
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": issuer,
        "authorization_endpoint": format!("{LOGIN}/{tenant}/{oauth}/authorize"),
        "device_authorization_endpoint": format!("{LOGIN}/{tenant}/{oauth}/devicecode"),
        "end_session_endpoint": format!("{LOGIN}/{tenant}/{oauth}/logout"),
        "claims_supported": ["sub", "iss", "aud", "exp", "iat", "appid", "oid", "tid"],
        "tenant_region_scope": "NA",
        "cloud_instance_name": "microsoftonline.com",
        "cloud_graph_host_name": "graph.windows.net",
        "msgraph_host": "graph.microsoft.com",
    })
}

fn instance(server: &Server) -> Value {
    json!({
        "tenant_discovery_endpoint":
            format!("{LOGIN}/{}/v2.0/.well-known/openid-configuration", server.environment.tenant),
        "api-version": "1.1",
        "metadata": [{
            "preferred_network": "login.microsoftonline.com",
            "preferred_cache": "login.windows.net",
            "aliases": ["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"],
        }],
    })
}

async fn keys(server: &Server) -> Reply {
    match server.authority.key().await {
        Ok(key) => {
            let mut key = key.jwk();
            key["issuer"] = json!(format!("{LOGIN}/{}/v2.0", server.environment.tenant));
            Reply::json(200, &json!({ "keys": [key] }))
        }
        Err(error) => server.internal_error("publishing the token key", &error),
    }
}

/// A refusal in Entra's shape.
struct Refusal {
    status: u16,
    error: &'static str,
    number: u32,
    text: String,
}

impl Refusal {
    fn new(status: u16, error: &'static str, number: u32, text: impl Into<String>) -> Self {
        Self { status, error, number, text: text.into() }
    }

    fn tenant(tenant: &str) -> Self {
        Self::new(
            400,
            "invalid_request",
            90002,
            format!(
                "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud."
            ),
        )
    }
}

fn failed(server: &Server, refusal: &Refusal) -> Reply {
    let (trace, correlation) = (random::uuid().to_string(), random::uuid().to_string());
    let now = server.clock.now().strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let Refusal { status, error, number, text } = refusal;
    Reply::json(
        *status,
        &json!({
            "error": error,
            "error_description":
                format!("AADSTS{number}: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {now}"),
            "error_codes": [number],
            "timestamp": now,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": format!("{LOGIN}/error?code={number}"),
        }),
    )
    .with("Cache-Control", "no-store")
}

async fn token(server: &Server, call: &Call, target: &'static str) -> Reply {
    let form = form(call.text().unwrap_or_default());
    let is_node = form.get("client_assertion_type").is_some_and(|t| t == ASSERTION_TYPE);
    let granted = if is_node { granted_to_run(server, &form) } else { granted(server, call, &form, target) };
    let (principal, audience) = match granted {
        Ok(granted) => granted,
        Err(refusal) => return failed(server, &refusal),
    };
    let now = server.clock.now();
    match server.authority.issue(&principal, &audience, now).await {
        Ok(token) if target == "scope" => Reply::json(
            200,
            &json!({
                "token_type": "Bearer", "expires_in": TOKEN_LIFE_SECONDS, "ext_expires_in": TOKEN_LIFE_SECONDS,
                "access_token": token,
            }),
        ),
        // The v1 endpoint writes its numbers as strings.
        Ok(token) => Reply::json(
            200,
            &json!({
                "token_type": "Bearer",
                "expires_in": TOKEN_LIFE_SECONDS.to_string(), "ext_expires_in": TOKEN_LIFE_SECONDS.to_string(),
                "expires_on": (now.as_second() + TOKEN_LIFE_SECONDS).to_string(),
                "not_before": now.as_second().to_string(),
                "resource": audience,
                "access_token": token,
            }),
        ),
        Err(error) => return server.internal_error("issuing a token", &error),
    }
    .with("Cache-Control", "no-store")
}

/// A run's own token, for the node that has the run now and proves it with its key (docs/adr/0005, 6). It is for the
/// Machine Learning service and for nothing else; no role assignment names its object id.
fn granted_to_run(server: &Server, form: &Form) -> Result<(Principal, String), Refusal> {
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let asked = field("scope").strip_suffix("/.default").unwrap_or_default();
    if field("grant_type") != "client_credentials" || asked != RUN_AUDIENCE {
        return Err(Refusal::new(
            400,
            "invalid_scope",
            1_002_012,
            format!("A node's proof is good for client credentials with the scope {RUN_AUDIENCE}/.default only."),
        ));
    }
    let scope = server.desk.redeem(field("client_assertion")).map_err(|refused| {
        tracing::info!(reason = %refused, "the proof of a node was refused");
        // One text for every reason: a stranger learns nothing about runs.
        Refusal::new(401, "invalid_client", 700_027, "The node's proof is not valid for a run that it has now.")
    })?;
    let name = format!("run {}", scope.run);
    let id =
        Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{}/jobs/{}", scope.workspace, scope.run).to_lowercase().as_bytes());
    let id = id.to_string();
    Ok((Principal { object_id: id.clone(), app_id: id, name, run: Some(scope) }, RUN_AUDIENCE.to_owned()))
}

/// The environment's own principal and the audience to issue for, if the client proved who it is and asked for
/// something we serve.
fn granted(server: &Server, call: &Call, form: &Form, target: &str) -> Result<(Principal, String), Refusal> {
    let field = |name: &str| form.get(name).map(String::as_str).filter(|v| !v.is_empty());
    match field("grant_type") {
        Some("client_credentials") => {}
        None => {
            return Err(Refusal::new(
                400,
                "invalid_request",
                900_144,
                "The request body must contain the following parameter: 'grant_type'.",
            ));
        }
        Some(_) => {
            return Err(Refusal::new(
                400,
                "unsupported_grant_type",
                70003,
                "The app requested an unsupported grant type. This environment issues tokens for client credentials only.",
            ));
        }
    }
    let basic = basic_credentials(call);
    let (id, secret) = match &basic {
        Some((id, secret)) => (Some(id.as_str()), Some(secret.as_str())),
        None => (field("client_id"), field("client_secret")),
    };
    let id = id.ok_or_else(|| {
        Refusal::new(
            400,
            "invalid_request",
            900_144,
            "The request body must contain the following parameter: 'client_id'.",
        )
    })?;
    if !id.eq_ignore_ascii_case(&server.environment.client_id) {
        return Err(Refusal::new(
            400,
            "unauthorized_client",
            700_016,
            format!(
                "Application with identifier '{id}' was not found in the directory '{}'.",
                server.environment.tenant
            ),
        ));
    }
    let secret = secret.ok_or_else(|| {
        Refusal::new(
            401,
            "invalid_client",
            7_000_218,
            "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
        )
    })?;
    if !server.environment.client_secret.matches(secret) {
        return Err(Refusal::new(
            401,
            "invalid_client",
            7_000_215,
            format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '{id}'."
            ),
        ));
    }
    let asked = field(target).ok_or_else(|| {
        Refusal::new(
            400,
            "invalid_request",
            900_144,
            format!("The request body must contain the following parameter: '{target}'."),
        )
    })?;
    let audience = if target == "scope" {
        asked.strip_suffix("/.default").ok_or_else(|| {
            Refusal::new(
                400,
                "invalid_scope",
                1_002_012,
                format!("The provided value for scope {asked} is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI)."),
            )
        })?
    } else {
        asked
    };
    if !authority::is_resource(audience) {
        return Err(Refusal::new(
            400,
            "invalid_resource",
            500_011,
            format!(
                "The resource principal named {audience} was not found in the tenant named {}.",
                server.environment.tenant
            ),
        ));
    }
    Ok((server.environment.principal(), audience.to_owned()))
}

/// `Authorization: Basic` (RFC 6749 2.3.1: both halves form-encoded).
fn basic_credentials(call: &Call) -> Option<(String, String)> {
    let (scheme, encoded) = call.header("authorization")?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((crate::http::request::form_decode(id), crate::http::request::form_decode(secret)))
}
