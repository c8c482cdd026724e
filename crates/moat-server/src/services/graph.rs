//! Microsoft Graph: the three calls az makes around role assignments (PROTOCOL 7). The directory
//! holds the environment's own service principal and nobody else.

use moat_arm::ApiError;
use moat_control::Method;
use serde_json::{Value, json};

use crate::http::auth;
use crate::http::reply::Reply;
use crate::http::request::Call;
use crate::server::Server;
use crate::token::Audience;

pub(super) async fn answer(server: &Server, call: &Call) -> Reply {
    if let Err(refusal) = auth::principal(server, call, Audience::Graph).await {
        return refusal;
    }
    let own = service_principal(server);
    let path = call.path.trim_end_matches('/').to_ascii_lowercase();
    let path = path.strip_prefix("/v1.0").or_else(|| path.strip_prefix("/beta")).unwrap_or(&path);
    let list = |kind: &str, value: Vec<Value>| {
        Reply::json(
            200,
            &json!({"@odata.context": format!("https://graph.microsoft.com/v1.0/$metadata#{kind}"), "value": value}),
        )
    };
    match (call.method, path) {
        (Method::Get, "/serviceprincipals") => {
            let asked = call.query.get("$filter").map(String::as_str).unwrap_or_default();
            let fits =
                asked.is_empty() || quoted(asked).any(|name| names(&own).any(|own| own.eq_ignore_ascii_case(name)));
            list("servicePrincipals", if fits { vec![own] } else { Vec::new() })
        }
        (Method::Get, "/users" | "/groups" | "/applications") => list(&path[1..], Vec::new()),
        (Method::Post, "/directoryobjects/getbyids") => {
            let body: Value = call.text().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
            let asked = moat_arm::document::array_at(&body, "ids");
            let fits =
                asked.iter().filter_map(Value::as_str).any(|id| id.eq_ignore_ascii_case(&server.environment.object_id));
            let mut own = own;
            own["@odata.type"] = json!("#microsoft.graph.servicePrincipal");
            list("directoryObjects", if fits { vec![own] } else { Vec::new() })
        }
        (Method::Get, path) => match path.strip_prefix("/serviceprincipals/") {
            Some(id) if id.eq_ignore_ascii_case(&server.environment.object_id) => Reply::json(200, &own),
            _ => Reply::error(ApiError::new(
                404,
                "Request_ResourceNotFound",
                format!(
                    "Resource '{}' does not exist or one of its queried reference-property objects are not present.",
                    call.path
                ),
            )),
        },
        _ => Reply::error(ApiError::bad_request(
            "Request_BadRequest",
            "The directory of this environment is read-only: it holds the environment's own service principal.",
        )),
    }
}

fn service_principal(server: &Server) -> Value {
    let environment = &server.environment;
    let name = environment.principal().name;
    json!({
        "id": environment.object_id, "appId": environment.client_id, "displayName": name, "appDisplayName": name,
        "servicePrincipalType": "Application", "servicePrincipalNames": [environment.client_id],
        "appOwnerOrganizationId": environment.tenant, "accountEnabled": true,
    })
}

/// What az filters by: application id, object id, display name, service principal names.
fn names(principal: &Value) -> impl Iterator<Item = &str> {
    ["id", "appId", "displayName"].into_iter().filter_map(|member| principal[member].as_str())
}

/// The quoted literals of an OData filter. Every filter az sends compares names for equality.
fn quoted(filter: &str) -> impl Iterator<Item = &str> {
    filter.split('\'').skip(1).step_by(2)
}
