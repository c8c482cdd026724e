//! What is asked of an account as a whole.

use std::time::Duration;

use moat_arm::document;
use moat_model::storage::sas;
use moat_model::types::microsoft_storage::{blob_services, containers as documents, storage_accounts};

use super::caller::{self, Caller};
use super::refusal::Refusal;
use super::{Known, body, containers, xml};
use crate::http::reply::Reply;
use crate::server::Server;

/// Containers in one part of a list.
const CONTAINERS_MAX: usize = 5_000;
/// Longest life of a user delegation key.
const DELEGATION_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

pub(super) fn account(known: &Known) -> Result<Reply, Refusal> {
    // Any signature of the account may ask; roles as for reading the service.
    if let Caller::Token(_) = known.caller {
        let scope = blob_services::id(&known.account.id);
        known.caller.may(&known.snapshot, caller::READ_SERVICE, &scope)?;
    }
    let text = |path: &str| document::str_at(&known.account.body, path).unwrap_or_default().to_owned();
    Ok(Reply::empty(200)
        .with("x-ms-sku-name", text("sku.name"))
        .with("x-ms-account-kind", text("kind"))
        .with("x-ms-is-hns-enabled", "false"))
}

pub(super) fn properties(known: &Known) -> Result<Reply, Refusal> {
    known.caller.may(&known.snapshot, caller::READ_SERVICE, &blob_services::id(&known.account.id))?;
    let off =
        "<Version>1.0</Version><Enabled>false</Enabled><RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>";
    let body = format!(
        "{}<StorageServiceProperties><Logging><Version>1.0</Version><Delete>false</Delete><Read>false</Read><Write>false</Write><RetentionPolicy><Enabled>false</Enabled></RetentionPolicy></Logging><HourMetrics>{off}</HourMetrics><MinuteMetrics>{off}</MinuteMetrics><Cors/><DeleteRetentionPolicy><Enabled>false</Enabled></DeleteRetentionPolicy><StaticWebsite><Enabled>false</Enabled></StaticWebsite></StorageServiceProperties>",
        xml::HEAD
    );
    Ok(Reply::bytes(200, "application/xml", body.into_bytes()))
}

pub(super) fn list_containers(known: &Known) -> Result<Reply, Refusal> {
    let service = blob_services::id(&known.account.id);
    known.caller.may(&known.snapshot, caller::LIST_CONTAINERS, &service)?;
    let call = &known.call;
    let max = match call.param("maxresults") {
        Some(text) => text.parse().ok().filter(|max| *max > 0).ok_or_else(|| Refusal::query("maxresults"))?,
        None => CONTAINERS_MAX,
    };
    let prefix = call.param("prefix").unwrap_or_default();
    let marker = call.param("marker").unwrap_or_default();
    let include = call.param("include").unwrap_or_default();
    let with_metadata = include.split(',').any(|part| part == "metadata");
    let mut all: Vec<_> = known
        .snapshot
        .below(&service)
        .filter(|d| d.id.resource_type().eq_ignore_ascii_case(documents::TYPE.name))
        .filter(|d| d.id.name().starts_with(prefix) && d.id.name() >= marker)
        .collect();
    all.sort_by_key(|d| d.id.name());
    let max = max.min(CONTAINERS_MAX);
    let next = all.get(max).map_or("", |d| d.id.name());
    let mut body = format!(
        "{}<EnumerationResults ServiceEndpoint=\"https://{}.blob.core.windows.net/\">",
        xml::HEAD,
        xml::text(known.account.id.name())
    );
    for (name, value) in [("Prefix", prefix), ("Marker", marker)] {
        body.push_str(&xml::element(name, value));
    }
    body.push_str(&format!("<MaxResults>{max}</MaxResults><Containers>"));
    for container in all.iter().take(max) {
        body.push_str(&containers::line(container, with_metadata));
    }
    body.push_str(&format!("</Containers>{}</EnumerationResults>", xml::element("NextMarker", next)));
    Ok(Reply::bytes(200, "application/xml", body.into_bytes()))
}

/// A key for signatures in the caller's name (`az storage blob generate-sas --as-user`).
pub(super) async fn delegation_key(server: &Server, known: &mut Known) -> Result<Reply, Refusal> {
    known.caller.may(&known.snapshot, caller::DELEGATE, &blob_services::id(&known.account.id))?;
    let Caller::Token(principal) = &known.caller else { return Err(Refusal::no_right()) };
    let user = principal.object_id.clone();
    let asked = body::text(&mut known.call).await?;
    let asked = xml::leaves(&asked).ok_or_else(Refusal::xml)?;
    let get = |name: &str| asked.iter().find(|(n, _)| *n == name).map_or("", |(_, text)| text.as_str());
    let now = server.clock.now();
    let (start, expiry) = (get("Start"), get("Expiry"));
    let until = sas::time(expiry).ok_or_else(Refusal::xml)?;
    let from = if start.is_empty() { now } else { sas::time(start).ok_or_else(Refusal::xml)? };
    if until <= now || until.as_second() - now.as_second() > DELEGATION_MAX.as_secs() as i64 || from > until {
        return Err(Refusal::new(400, "InvalidXmlNodeValue", "The key may live until at most seven days from now."));
    }
    let Some(secret) = storage_accounts::delegation_secret(&known.account.body) else {
        return Err(Refusal::account_not_found());
    };
    let start = if start.is_empty() { from.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() } else { start.to_owned() };
    let version = known.call.header("x-ms-version").unwrap_or(super::VERSION);
    let asked = sas::Delegation {
        user: &user,
        tenant: &server.environment.tenant,
        start: &start,
        expiry,
        service: "b",
        version,
    };
    let key = sas::delegation_key(&secret, known.account.id.name(), &asked);
    let mut body = format!("{}<UserDelegationKey>", xml::HEAD);
    for (name, value) in [
        ("SignedOid", asked.user),
        ("SignedTid", asked.tenant),
        ("SignedStart", asked.start),
        ("SignedExpiry", asked.expiry),
        ("SignedService", asked.service),
        ("SignedVersion", asked.version),
        ("Value", &key.reveal()),
    ] {
        body.push_str(&xml::element(name, value));
    }
    body.push_str("</UserDelegationKey>");
    Ok(Reply::bytes(200, "application/xml", body.into_bytes()))
}
