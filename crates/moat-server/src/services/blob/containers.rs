//! Containers, as the data plane sees their documents. What changes one goes through `decide`, as the service
//! itself: the caller's rights were checked here, by the rules of the data plane.

use std::collections::BTreeMap;

use jiff::Timestamp;
use moat_arm::{ResourceId, Stored, document};
use moat_control::{ArmRequest, Method, Origin};
use moat_model::types::microsoft_storage::containers as documents;
use moat_store::blobs::Metadata;
use serde_json::{Value, json};

use super::caller;
use super::conditions::{Conditions, etag, http_time};
use super::refusal::Refusal;
use super::{Known, xml};
use crate::http::arm;
use crate::http::reply::Reply;
use crate::server::Server;

/// Between the year 1 and 1970, in 100 ns.
const TICKS_TO_1970: i128 = 621_355_968_000_000_000;
/// Version of the requests that are made here.
const API_VERSION: &str = "2023-05-01";

pub(super) async fn create(server: &Server, known: &mut Known) -> Result<Reply, Refusal> {
    let name = known.call.container.clone().unwrap_or_default();
    let id = documents::id(&known.account.id, &name);
    known.caller.may(&known.snapshot, caller::CREATE_CONTAINER, &id)?;
    if known.call.header("x-ms-blob-public-access").is_some() {
        return Err(Refusal::new(
            409,
            "PublicAccessNotPermitted",
            "Public access is not permitted on this storage account.",
        ));
    }
    let body = json!({"properties": {"metadata": as_object(&known.call.metadata()?)}});
    let only_new = Some("*".to_owned());
    write(server, known, &id, Method::Put, Some(body), only_new).await.map_err(|refusal| match refusal.status {
        412 => Refusal::container_exists(),
        _ => refusal,
    })?;
    let snapshot = server.store.snapshot();
    let made = snapshot.get(&id).ok_or_else(Refusal::container_not_found)?;
    Ok(tagged(Reply::empty(201), made))
}

pub(super) async fn delete(server: &Server, known: &mut Known) -> Result<Reply, Refusal> {
    let stored = known.container(caller::DELETE_CONTAINER)?;
    let (tag, modified) = version(stored);
    let conditions = Conditions::of(&known.call)?;
    conditions.for_read(tag, modified)?;
    let id = stored.id.clone();
    write(server, known, &id, Method::Delete, None, None).await?;
    Ok(Reply::empty(202))
}

pub(super) fn show(known: &Known) -> Result<Reply, Refusal> {
    let stored = known.container(caller::READ_CONTAINER)?;
    let reply = tagged(Reply::empty(200), stored)
        .with("x-ms-lease-status", "unlocked")
        .with("x-ms-lease-state", "available")
        .with("x-ms-has-immutability-policy", "false")
        .with("x-ms-has-legal-hold", "false")
        .with("x-ms-default-encryption-scope", "$account-encryption-key")
        .with("x-ms-deny-encryption-scope-override", "false");
    Ok(metadata(stored).into_iter().fold(reply, |reply, (name, value)| reply.with(format!("x-ms-meta-{name}"), value)))
}

/// Nobody without a name is let in, and there are no stored policies.
pub(super) fn access(known: &Known) -> Result<Reply, Refusal> {
    let stored = known.container(caller::READ_CONTAINER)?;
    let body = format!("{}<SignedIdentifiers/>", xml::HEAD);
    Ok(tagged(Reply::bytes(200, "application/xml", body.into_bytes()), stored))
}

pub(super) async fn set_metadata(server: &Server, known: &mut Known) -> Result<Reply, Refusal> {
    let stored = known.container(caller::WRITE_CONTAINER)?;
    let (tag, modified) = version(stored);
    Conditions::of(&known.call)?.for_read(tag, modified)?;
    let id = stored.id.clone();
    let mut body = json!({"properties": stored.body["properties"]});
    document::set(&mut body, "properties.metadata", as_object(&known.call.metadata()?));
    write(server, known, &id, Method::Put, Some(body), None).await?;
    let snapshot = server.store.snapshot();
    let made = snapshot.get(&id).ok_or_else(Refusal::container_not_found)?;
    Ok(tagged(Reply::empty(200), made))
}

/// One line of a list of containers.
pub(super) fn line(stored: &Stored, with_metadata: bool) -> String {
    let (tag, modified) = version(stored);
    let mut out = format!("<Container>{}<Properties>", xml::element("Name", stored.id.name()));
    for (name, value) in [
        ("Last-Modified", http_time(modified).as_str()),
        ("Etag", &etag(tag)),
        ("LeaseStatus", "unlocked"),
        ("LeaseState", "available"),
        ("DefaultEncryptionScope", "$account-encryption-key"),
        ("DenyEncryptionScopeOverride", "false"),
        ("HasImmutabilityPolicy", "false"),
        ("HasLegalHold", "false"),
    ] {
        out.push_str(&xml::element(name, value));
    }
    out.push_str("</Properties>");
    if with_metadata {
        out.push_str("<Metadata>");
        metadata(stored).iter().for_each(|(name, value)| out.push_str(&xml::element(name, value)));
        out.push_str("</Metadata>");
    }
    out.push_str("</Container>");
    out
}

/// Etag and time of a container's present version.
fn version(stored: &Stored) -> (u64, Timestamp) {
    let modified = document::str_at(&stored.body, "properties.lastModifiedTime").and_then(|t| t.parse().ok());
    let modified: Timestamp = modified.unwrap_or(Timestamp::UNIX_EPOCH);
    // The commit makes it differ where the clock does not.
    let ticks = u64::try_from(modified.as_nanosecond() / 100 + TICKS_TO_1970).unwrap_or(0);
    (ticks.wrapping_add(stored.seq), modified)
}

fn tagged(reply: Reply, stored: &Stored) -> Reply {
    let (tag, modified) = version(stored);
    reply.with("ETag", etag(tag)).with("Last-Modified", http_time(modified))
}

fn metadata(stored: &Stored) -> Metadata {
    let members = document::at(&stored.body, "properties.metadata").and_then(Value::as_object);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    members.into_iter().flatten().map(|(name, value)| (name.to_lowercase(), text(value))).collect()
}

fn as_object(metadata: &Metadata) -> Value {
    metadata.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<serde_json::Map<_, _>>().into()
}

async fn write(
    server: &Server,
    known: &Known,
    id: &ResourceId,
    method: Method,
    body: Option<Value>,
    if_none_match: Option<String>,
) -> Result<(), Refusal> {
    let request = ArmRequest {
        method,
        path: id.as_str().to_owned(),
        query: BTreeMap::from([("api-version".to_owned(), API_VERSION.to_owned())]),
        body: body.map(|body| body.to_string()),
        principal: known.caller.principal(&known.account.id),
        origin: Origin::Service,
        if_match: None,
        if_none_match,
    };
    let reply = arm::submit(server, request).await;
    if reply.status < 300 {
        return Ok(());
    }
    let error = reply.as_json().map(|body| body["error"].clone()).unwrap_or_default();
    let text = |member: &str| error[member].as_str().unwrap_or_default().to_owned();
    Err(Refusal::new(reply.status, text("code"), text("message")))
}
