//! Storage accounts: names, kinds, rules of access, and the two keys that open everything.
//!
//! The keys live in the private part of the document and leave it only by `listKeys` and `regenerateKey`.

use moat_arm::{ApiError, Batch, ResourceId, Snapshot, Stored, document};
use serde_json::{Value, json};

use super::{blob_services, sas_actions};
use crate::edition::Edition;
use crate::refs;
use crate::resource_type::{Action, ActionResult, Completion, Refusal, ResourceType, TypeCtx, Write};
use crate::storage::{AccountKey, names};
use crate::types::microsoft_network::private_endpoints;
use crate::types::shape;

/// Private members of an account's document.
const KEYS: &str = "moat.keys";
const DELEGATION: &str = "moat.delegation";
/// Names of the keys.
const KEY_NAMES: [&str; 2] = ["key1", "key2"];

/// Storage accounts.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Storage/storageAccounts",
    api_versions: super::API_VERSIONS,
    completion: Completion::Sync,
    // The management SDKs know 200 and 202 only.
    created_status: 200,
    name_problem,
    inherit,
    refusals: &[
        Refusal { id: "storage-account-name", requirements: &[], check: name },
        Refusal { id: "storage-account-sku", requirements: &[], check: sku },
        Refusal { id: "storage-account-fixed", requirements: &[], check: fixed },
        Refusal { id: "storage-account-settings", requirements: &[], check: settings },
        Refusal { id: "storage-account-network-rules", requirements: &[], check: network_rules },
    ],
    complete,
    render: |ctx, id, body| {
        private_endpoints::render_connections(ctx, id, body);
        // Storage has a name of its own for it.
        shape::each(body, "properties.privateEndpointConnections", |connection| {
            let state = "properties.privateLinkServiceConnectionState";
            let asks = document::at(connection, &format!("{state}.actionsRequired")).cloned();
            document::remove(connection, &format!("{state}.actionsRequired"));
            document::set(connection, &format!("{state}.actionRequired"), json!(asks));
        });
    },
    on_write: |ctx, write, batch| {
        let service = blob_services::id(write.id);
        if ctx.snapshot.get(&service).is_none() {
            batch.put(service, blob_services::fresh());
        }
        Ok(())
    },
    actions: &[
        Action { name: "listKeys", run: |ctx, id, _| answer(key_list(&account(ctx, id)?.body)) },
        Action { name: "regenerateKey", run: regenerate },
        Action { name: "ListAccountSas", run: sas_actions::account },
        Action { name: "ListServiceSas", run: sas_actions::service },
    ],
    references: |body| {
        let rules = document::array_at(body, "properties.networkAcls.virtualNetworkRules");
        rules.iter().filter_map(|rule| document::str_at(rule, "id")).map(str::to_owned).collect()
    },
    ..ResourceType::BLANK
};

/// The account with this name; names are unique in the whole environment.
pub fn find<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a Stored> {
    snapshot.of_type(TYPE.name).find(|d| d.id.name().eq_ignore_ascii_case(name)).map(AsRef::as_ref)
}

/// The keys of an account, the first one first; empty where a document is not complete.
pub fn keys(body: &Value) -> Vec<AccountKey> {
    let keys = document::array_at(body, KEYS).iter();
    keys.filter_map(|key| document::str_at(key, "value").and_then(AccountKey::parse)).collect()
}

/// The secret behind the account's user delegation keys.
pub fn delegation_secret(body: &Value) -> Option<AccountKey> {
    document::str_at(body, DELEGATION).and_then(AccountKey::parse)
}

/// Whether callers may show knowledge of a key instead of a token; they may unless it is switched off.
pub fn allows_shared_key(body: &Value) -> bool {
    document::bool_at(body, "properties.allowSharedKeyAccess") != Some(false)
}

pub(super) fn account<'a>(ctx: &TypeCtx<'a>, id: &ResourceId) -> Result<&'a Stored, ApiError> {
    ctx.snapshot.get(id).map(AsRef::as_ref).ok_or_else(|| ApiError::not_found(id))
}

pub(super) fn answer(body: Value) -> Result<ActionResult, ApiError> {
    Ok(ActionResult { body, long_running: false, batch: Batch::default() })
}

fn key_list(body: &Value) -> Value {
    let keys = document::array_at(body, KEYS).iter().zip(KEY_NAMES);
    let keys: Vec<_> = keys
        .map(|(key, name)| {
            json!({
                "creationTime": key["created"], "keyName": name, "value": key["value"], "permissions": "FULL",
            })
        })
        .collect();
    json!({ "keys": keys })
}

fn fresh_key(ctx: &TypeCtx<'_>, id: &ResourceId, name: &str) -> Value {
    let key = AccountKey::derive(ctx.seed.as_bytes(), &format!("{name} of {}", id.key()));
    json!({"value": key.reveal(), "created": shape::time(ctx.now)})
}

fn regenerate(ctx: &TypeCtx<'_>, id: &ResourceId, asked: &Value) -> Result<ActionResult, ApiError> {
    let name = document::str_at(asked, "keyName").unwrap_or_default();
    let Some(at) = KEY_NAMES.iter().position(|known| known.eq_ignore_ascii_case(name)) else {
        return Err(ApiError::bad_request(
            "InvalidValuesForRequestParameters",
            "Values for request parameters are invalid: keyName.",
        )
        .with_target("keyName"));
    };
    let mut body = account(ctx, id)?.body.clone();
    if let Some(slot) = document::array_at_mut(&mut body, KEYS).and_then(|keys| keys.get_mut(at)) {
        *slot = fresh_key(ctx, id, KEY_NAMES[at]);
    }
    let list = key_list(&body);
    let mut batch = Batch::default();
    batch.put(id.clone(), body);
    Ok(ActionResult { body: list, long_running: false, batch })
}

/// A PUT that leaves something out leaves it as it is.
fn inherit(_: &TypeCtx<'_>, write: &mut Write<'_>) {
    for path in ["sku", "kind", "identity", "tags"] {
        shape::keep_if_absent(write, path);
    }
    let before = write.before.and_then(|b| document::at(b, "properties")).and_then(Value::as_object);
    for name in before.into_iter().flat_map(|members| members.keys()) {
        shape::keep_if_absent(write, &format!("properties.{name}"));
    }
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let name = write.id.name().to_lowercase();
    shape::complete_identity(ctx, write);
    let created = write.before.and_then(|b| document::str_at(b, "properties.creationTime")).map(str::to_owned);
    let id = write.id;
    let body = &mut write.body;
    let location = document::str_at(body, "location").map(refs::location_key).unwrap_or_default();
    document::set_default(body, "tags", json!({}));
    document::set_default(body, "kind", json!("StorageV2"));
    document::set_default(body, "sku.name", json!("Standard_LRS"));
    let premium = document::str_at(body, "sku.name").is_some_and(|s| s.to_lowercase().starts_with("premium"));
    document::set(body, "sku.tier", json!(if premium { "Premium" } else { "Standard" }));
    document::set(body, "properties.creationTime", json!(created.unwrap_or_else(|| shape::time(ctx.now))));
    document::set(body, "properties.primaryLocation", json!(location));
    document::set(body, "properties.statusOfPrimary", json!("available"));
    // Azure changed these defaults between the editions.
    let old = ctx.edition == Edition::Seed2021;
    let tier = if premium { "Premium" } else { "Hot" };
    for (member, value) in [
        ("accessTier", json!(tier)),
        ("supportsHttpsTrafficOnly", json!(true)),
        ("minimumTlsVersion", json!(if old { "TLS1_0" } else { "TLS1_2" })),
        ("allowBlobPublicAccess", json!(old)),
        ("encryption", json!({"keySource": "Microsoft.Storage", "services": {}})),
        ("networkAcls.bypass", json!("AzureServices")),
        ("networkAcls.defaultAction", json!("Allow")),
        ("networkAcls.virtualNetworkRules", json!([])),
        ("networkAcls.ipRules", json!([])),
        ("networkAcls.ipv6Rules", json!([])),
        ("allowCrossTenantReplication", json!(old)),
    ] {
        document::set_default(body, &format!("properties.{member}"), value);
    }
    for service in ["blob", "file"] {
        let at = format!("properties.encryption.services.{service}");
        document::set(body, &format!("{at}.enabled"), json!(true));
        document::set_default(body, &format!("{at}.keyType"), json!("Account"));
        let since = document::at(body, "properties.creationTime").cloned().unwrap_or_default();
        document::set_default(body, &format!("{at}.lastEnabledTime"), since);
    }
    for service in ["blob", "queue", "table", "file", "dfs", "web"] {
        let host = if service == "web" { "z5.web" } else { service };
        let url = format!("https://{name}.{host}.core.windows.net/");
        document::set(body, &format!("properties.primaryEndpoints.{service}"), json!(url));
    }
    let times: Value = KEY_NAMES
        .iter()
        .map(|k| ((*k).to_owned(), json!(shape::time(ctx.now))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    document::set_default(body, "properties.keyCreationTime", times);
    if document::at(body, KEYS).is_none() {
        document::set(body, KEYS, KEY_NAMES.iter().map(|key| fresh_key(ctx, id, key)).collect());
    }
    if document::at(body, DELEGATION).is_none() {
        document::set(body, DELEGATION, fresh_key(ctx, id, "delegation secret")["value"].clone());
    }
    Ok(())
}

fn name_problem(name: &str) -> Option<(&'static str, String)> {
    (!names::is_account(name)).then(|| {
        (
            "AccountNameInvalid",
            format!(
                "{name} is not a valid storage account name. Storage account name must be between 3 and 24 characters in length and use numbers and lower-case letters only."
            ),
        )
    })
}

fn name(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let name = write.id.name();
    if let Some((code, message)) = name_problem(name) {
        return Err(ApiError::bad_request(code, message));
    }
    if find(ctx.snapshot, name).is_some_and(|d| d.id != *write.id) {
        return Err(ApiError::new(
            409,
            "StorageAccountAlreadyTaken",
            format!("The storage account named {name} is already taken."),
        ));
    }
    Ok(())
}

/// Which kinds a performance tier has.
const STANDARD_KINDS: [&str; 3] = ["StorageV2", "Storage", "BlobStorage"];
const PREMIUM_KINDS: [&str; 4] = ["StorageV2", "Storage", "BlockBlobStorage", "FileStorage"];
const SKUS: [&str; 8] = [
    "Standard_LRS",
    "Standard_GRS",
    "Standard_RAGRS",
    "Standard_ZRS",
    "Standard_GZRS",
    "Standard_RAGZRS",
    "Premium_LRS",
    "Premium_ZRS",
];

fn invalid(member: &str, value: &str) -> ApiError {
    // AZURE: wording not observed
    ApiError::bad_request(
        "InvalidRequestPropertyValue",
        format!("The value '{value}' is not allowed for property {member}."),
    )
    .with_target(member)
}

fn sku(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let sku = document::str_at(&write.body, "sku.name").unwrap_or(SKUS[0]);
    let kind = document::str_at(&write.body, "kind").unwrap_or(STANDARD_KINDS[0]);
    let is = |list: &[&str], value: &str| list.iter().any(|known| known.eq_ignore_ascii_case(value));
    if !is(&SKUS, sku) {
        return Err(invalid("sku.name", sku));
    }
    if !is(&STANDARD_KINDS, kind) && !is(&PREMIUM_KINDS, kind) {
        return Err(invalid("kind", kind));
    }
    let premium = sku.to_lowercase().starts_with("premium");
    if !is(if premium { &PREMIUM_KINDS[..] } else { &STANDARD_KINDS[..] }, kind) {
        // AZURE: wording not observed
        return Err(ApiError::bad_request(
            "InvalidSkuForAccountKind",
            format!("The sku '{sku}' is not available for storage accounts of kind '{kind}'."),
        ));
    }
    Ok(())
}

fn fixed(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let Some(before) = write.before else { return Ok(()) };
    for member in ["kind", "properties.isHnsEnabled"] {
        let (old, new) = (document::at(before, member), document::at(&write.body, member));
        let upgraded = old == Some(&json!("Storage")) && new == Some(&json!("StorageV2"));
        // Off is what an account is that says nothing.
        let said = |v: Option<&Value>| v.filter(|v| **v != json!(false)).cloned();
        if said(old) != said(new) && !upgraded {
            let shown = member.rsplit('.').next().unwrap_or(member);
            return Err(ApiError::new(
                409,
                "AccountPropertyCannotBeUpdated",
                format!(
                    "The property '{shown}' was specified in the input, but it cannot be updated as it is read-only. For more information, see - https://aka.ms/storageaccountupdate"
                ),
            )
            .with_target(shown));
        }
    }
    Ok(())
}

fn settings(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let allowed: [(&str, &[&str]); 5] = [
        ("accessTier", &["Hot", "Cool", "Cold", "Premium"]),
        ("minimumTlsVersion", &["TLS1_0", "TLS1_1", "TLS1_2", "TLS1_3"]),
        ("publicNetworkAccess", &["Enabled", "Disabled", "SecuredByPerimeter"]),
        ("networkAcls.defaultAction", &["Allow", "Deny"]),
        ("allowedCopyScope", &["PrivateLink", "AAD"]),
    ];
    for (member, values) in allowed {
        let path = format!("properties.{member}");
        let Some(given) = document::at(&write.body, &path) else { continue };
        let text = given.as_str().unwrap_or_default();
        if !values.iter().any(|v| v.eq_ignore_ascii_case(text)) {
            return Err(invalid(&path, &given.as_str().map_or_else(|| given.to_string(), str::to_owned)));
        }
    }
    for member in ["supportsHttpsTrafficOnly", "allowBlobPublicAccess", "allowSharedKeyAccess", "isHnsEnabled"] {
        let path = format!("properties.{member}");
        if let Some(given) = document::at(&write.body, &path)
            && document::bool_at(&write.body, &path).is_none()
        {
            return Err(invalid(&path, &given.to_string()));
        }
    }
    let kind = document::str_at(&write.body, "kind").unwrap_or_default();
    if kind.eq_ignore_ascii_case("BlobStorage") && document::at(&write.body, "properties.accessTier").is_none() {
        // AZURE: wording not observed
        return Err(ApiError::bad_request(
            "AccessTierRequired",
            "The access tier is required for storage accounts of kind 'BlobStorage'.",
        ));
    }
    Ok(())
}

fn network_rules(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let invalid = |target: &str| {
        Err(ApiError::bad_request(
            "InvalidValuesForRequestParameters",
            format!("Values for request parameters are invalid: {target}."),
        )
        .with_target(target))
    };
    for rule in document::array_at(&write.body, "properties.networkAcls.ipRules") {
        let value = document::str_at(rule, "value").unwrap_or_default();
        let net = value.parse::<ipnet::Ipv4Net>().ok();
        let one = value.parse::<std::net::Ipv4Addr>().ok().map(ipnet::Ipv4Net::from);
        // Small ranges are written as addresses, and private ones never reach the public endpoint.
        let small = net.is_some_and(|net| net.prefix_len() > 30);
        if small || net.or(one).is_none_or(|net| net.network().is_private()) {
            return invalid("networkAcls.ipRule[*].value");
        }
    }
    let before: Vec<&str> = write
        .before
        .map(|b| document::array_at(b, "properties.networkAcls.virtualNetworkRules"))
        .unwrap_or_default()
        .iter()
        .filter_map(|rule| document::str_at(rule, "id"))
        .collect();
    for rule in document::array_at(&write.body, "properties.networkAcls.virtualNetworkRules") {
        let text = document::str_at(rule, "id").unwrap_or_default();
        let Ok(id) = ResourceId::parse(text) else { return invalid("networkAcls.virtualNetworkRule[*].id") };
        if before.contains(&text) || document::bool_at(rule, "ignoreMissingVnetServiceEndpoint") == Some(true) {
            continue;
        }
        let Some(subnet) = refs::find(ctx.snapshot, &id) else { continue };
        let endpoints = document::array_at(subnet, "properties.serviceEndpoints");
        let has = endpoints.iter().filter_map(|e| document::str_at(e, "service")).any(|s| {
            let s = s.to_lowercase();
            s == "microsoft.storage" || s == "microsoft.storage.global"
        });
        if !has {
            let network = id.parent().map(|p| p.to_string()).unwrap_or_default();
            return Err(ApiError::bad_request(
                "NetworkAclsValidationFailure",
                format!(
                    "Validation of network acls failure: SubnetsHaveNoServiceEndpointsConfigured:Subnets {} of virtual network {network} do not have ServiceEndpoints for Microsoft.Storage resources configured. Add Microsoft.Storage to subnet's ServiceEndpoints collection before trying to ACL Microsoft.Storage resources to these subnets..",
                    id.name()
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "storage_accounts_tests.rs"]
mod tests;
