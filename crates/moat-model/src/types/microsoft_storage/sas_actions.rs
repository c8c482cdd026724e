//! `ListAccountSas` and `ListServiceSas`: signatures made by the service for who may ask for them.

use std::collections::BTreeMap;

use moat_arm::{ApiError, ResourceId, document};
use serde_json::{Value, json};

use super::storage_accounts::{account as stored, answer, keys};
use crate::resource_type::{ActionResult, TypeCtx};
use crate::storage::{AccountKey, sas};

/// Members of the request and the query parameters they become.
const COMMON: [(&str, &str); 5] = [
    ("signedPermission", "sp"),
    ("signedIp", "sip"),
    ("signedProtocol", "spr"),
    ("signedStart", "st"),
    ("signedExpiry", "se"),
];

pub(super) fn account(ctx: &TypeCtx<'_>, id: &ResourceId, asked: &Value) -> Result<ActionResult, ApiError> {
    let account = stored(ctx, id)?;
    let key = key(&account.body, asked)?;
    let mut query = query(asked, &[("signedServices", "ss"), ("signedResourceTypes", "srt")])?;
    require(&query, &[("ss", "signedServices"), ("srt", "signedResourceTypes")])?;
    query.insert("sv".to_owned(), sas::VERSION.to_owned());
    answer(json!({"accountSasToken": sas::sign_account(query, account.id.name(), &key)}))
}

pub(super) fn service(ctx: &TypeCtx<'_>, id: &ResourceId, asked: &Value) -> Result<ActionResult, ApiError> {
    let account = stored(ctx, id)?;
    let key = key(&account.body, asked)?;
    let resource = document::str_at(asked, "canonicalizedResource").unwrap_or_default();
    // Another account's name under this account's key would not fit anyway; say so at once.
    let below = resource.strip_prefix(&format!("/blob/{}/", account.id.name())).filter(|rest| !rest.is_empty());
    if below.is_none() {
        return Err(invalid("canonicalizedResource"));
    }
    let overrides = [
        ("signedResource", "sr"),
        ("rscc", "rscc"),
        ("rscd", "rscd"),
        ("rsce", "rsce"),
        ("rscl", "rscl"),
        ("rsct", "rsct"),
    ];
    let mut query = query(asked, &overrides)?;
    if !matches!(query.get("sr").map(String::as_str), Some("b" | "c")) {
        return Err(invalid("signedResource"));
    }
    if document::at(asked, "signedIdentifier").is_some() {
        return Err(invalid("signedIdentifier"));
    }
    query.insert("sv".to_owned(), sas::VERSION.to_owned());
    answer(json!({"serviceSasToken": sas::sign_service(query, resource, &key)}))
}

fn key(body: &Value, asked: &Value) -> Result<AccountKey, ApiError> {
    let at = match document::str_at(asked, "keyToSign").unwrap_or("key1") {
        "key1" => 0,
        "key2" => 1,
        _ => return Err(invalid("keyToSign")),
    };
    keys(body).into_iter().nth(at).ok_or_else(|| invalid("keyToSign"))
}

fn query(asked: &Value, own: &[(&str, &str)]) -> Result<BTreeMap<String, String>, ApiError> {
    let mut query = BTreeMap::new();
    for (member, name) in COMMON.iter().chain(own) {
        if let Some(value) = document::str_at(asked, member) {
            query.insert((*name).to_owned(), value.to_owned());
        }
    }
    require(&query, &[("sp", "signedPermission"), ("se", "signedExpiry")])?;
    for (name, member) in [("st", "signedStart"), ("se", "signedExpiry")] {
        if query.get(name).is_some_and(|text| sas::time(text).is_none()) {
            return Err(invalid(member));
        }
    }
    Ok(query)
}

fn require(query: &BTreeMap<String, String>, names: &[(&str, &str)]) -> Result<(), ApiError> {
    match names.iter().find(|(name, _)| query.get(*name).is_none_or(String::is_empty)) {
        Some((_, member)) => Err(invalid(member)),
        None => Ok(()),
    }
}

fn invalid(member: &str) -> ApiError {
    ApiError::bad_request(
        "InvalidValuesForRequestParameters",
        format!("Values for request parameters are invalid: {member}."),
    )
    .with_target(member)
}
