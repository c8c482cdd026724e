//! `Microsoft.KeyVault/vaults`: kept and checked. No secret service stands behind them yet.

use moat_arm::{ApiError, ResourceId, document};
use serde_json::{Value, json};

use crate::resource_type::{Completion, Refusal, ResourceType, TypeCtx, Write};
use crate::types::microsoft_network::private_endpoints;
use crate::types::shape;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.KeyVault/vaults",
    api_versions: &["2024-11-01", "2023-07-01", "2022-07-01", "2019-09-01"],
    completion: Completion::Sync,
    // A vault that was made is answered like one that was there.
    created_status: 200,
    stored_only: true,
    name_problem,
    inherit: |_, write| {
        for member in ["sku", "tenantId", "accessPolicies", "enablePurgeProtection", "enableSoftDelete"] {
            shape::keep_if_absent(write, &format!("properties.{member}"));
        }
    },
    refusals: &[
        Refusal { id: "vault-name", requirements: &[], check: name },
        Refusal { id: "vault-settings", requirements: &[], check: settings },
    ],
    complete,
    render: |ctx, id, body| {
        shape::render_system_data(body);
        private_endpoints::render_connections(ctx, id, body);
        shape::each(body, "properties.privateEndpointConnections", |connection| {
            let endpoint = document::str_at(connection, "properties.privateEndpoint.id").map(ResourceId::parse);
            let version = endpoint.and_then(Result::ok).and_then(|e| ctx.snapshot.get(&e)).map_or(0, |e| e.seq);
            document::set(connection, "etag", json!(format!("{version:016X}")));
        });
    },
    ..ResourceType::BLANK
};

/// Access policies of one vault; Azure's limit.
const POLICIES_MAX: usize = 1024;
/// Days that a deleted vault is kept, as Azure bounds and sets them. Nothing is kept here: a deleted vault is gone.
const RETENTION_DAYS: std::ops::RangeInclusive<u64> = 7..=90;

fn name_problem(name: &str) -> Option<(&'static str, String)> {
    let ok = (3..=24).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !name.contains("--");
    (!ok).then(|| {
        (
            "AccountNameInvalid",
            format!(
                "The vault name '{name}' is invalid. A vault's name must be between 3-24 alphanumeric characters. The name must begin with a letter, end with a letter or digit, and not contain consecutive hyphens."
            ),
        )
    })
}

fn name(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if let Some((_, message)) = name_problem(write.id.name()) {
        return Err(ApiError::bad_request("VaultNameNotValid", message));
    }
    let taken =
        ctx.snapshot.of_type(TYPE.name).any(|d| d.id != *write.id && d.id.name().eq_ignore_ascii_case(write.id.name()));
    if taken {
        return Err(ApiError::new(
            409,
            "VaultAlreadyExists",
            format!(
                "The vault name '{}' is already in use. Vault names are globally unique so it is possible that the name is already taken.",
                write.id.name()
            ),
        ));
    }
    Ok(())
}

fn settings(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let body = &write.body;
    // AZURE: wording not observed.
    let refuse = |path: &str, message: String| Err(ApiError::bad_request("BadRequest", message).with_target(path));
    if let Some(sku) = document::str_at(body, "properties.sku.name")
        && !["standard", "premium"].iter().any(|s| s.eq_ignore_ascii_case(sku))
    {
        return refuse("properties.sku.name", format!("The sku '{sku}' is not known. Use 'standard' or 'premium'."));
    }
    if let Some(days) = document::u64_at(body, "properties.softDeleteRetentionInDays")
        && !RETENTION_DAYS.contains(&days)
    {
        return refuse(
            "properties.softDeleteRetentionInDays",
            format!(
                "'softDeleteRetentionInDays' is {days}; it must be between {} and {}.",
                RETENTION_DAYS.start(),
                RETENTION_DAYS.end()
            ),
        );
    }
    let policies = document::array_at(body, "properties.accessPolicies");
    if policies.len() > POLICIES_MAX {
        return refuse("properties.accessPolicies", format!("A vault has at most {POLICIES_MAX} access policies."));
    }
    for policy in policies {
        for member in ["tenantId", "objectId"] {
            if document::str_at(policy, member).is_none_or(str::is_empty) {
                return refuse("properties.accessPolicies", format!("An access policy has no '{member}'."));
            }
        }
    }
    let was =
        |member: &str| write.before.and_then(|b| document::bool_at(b, &format!("properties.{member}"))) == Some(true);
    for member in ["enablePurgeProtection", "enableSoftDelete"] {
        if was(member) && document::bool_at(body, &format!("properties.{member}")) == Some(false) {
            return refuse(
                &format!("properties.{member}"),
                format!("The property '{member}' cannot be set to false once it is true."),
            );
        }
    }
    Ok(())
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let body = &mut write.body;
    let url = format!("https://{}.vault.azure.net/", write.id.name().to_lowercase());
    document::set(body, "properties.vaultUri", json!(url));
    document::set_default(body, "tags", json!({}));
    for (member, value) in [
        ("tenantId", json!(ctx.tenant)),
        ("sku", json!({"family": "A", "name": "standard"})),
        ("accessPolicies", json!([])),
        ("enabledForDeployment", json!(false)),
        ("enableSoftDelete", json!(true)),
        ("softDeleteRetentionInDays", json!(90)),
        ("enableRbacAuthorization", json!(false)),
        ("publicNetworkAccess", json!("Enabled")),
    ] {
        document::set_default(body, &format!("properties.{member}"), value);
    }
    // Azure shows this one only where it is on.
    if document::at(body, "properties.enablePurgeProtection").is_some_and(Value::is_null) {
        document::remove(body, "properties.enablePurgeProtection");
    }
    shape::note_author(ctx, write);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{GROUP, World};

    fn id(name: &str) -> String {
        format!("{GROUP}/providers/Microsoft.KeyVault/vaults/{name}")
    }

    #[test]
    fn a_vault_has_what_azure_fills_in() {
        let mut world = World::new(Edition::Current);
        let stored = world
            .put(&id("MoatVault"), json!({"properties": {"tenantId": "t", "sku": {"family": "A", "name": "premium"}}}))
            .unwrap();
        assert_eq!(stored["properties"]["vaultUri"], "https://moatvault.vault.azure.net/");
        assert_eq!(stored["properties"]["enableSoftDelete"], true);
        assert_eq!(stored["properties"]["sku"]["name"], "premium");
    }

    #[test]
    fn what_azure_refuses_is_refused() {
        let mut world = World::new(Edition::Current);
        world.put(&id("moatvault"), json!({"properties": {"enablePurgeProtection": true}})).unwrap();
        let mut refused = |name: &str, properties: Value| {
            world.put(&id(name), json!({"properties": properties})).unwrap_err().to_string()
        };
        let all = [
            refused("1vault", json!({})),
            refused("moat--vault", json!({})),
            refused("other", json!({"sku": {"name": "gold"}})),
            refused("other", json!({"softDeleteRetentionInDays": 1})),
            refused("other", json!({"accessPolicies": [{"tenantId": "t"}]})),
            refused("moatvault", json!({"enablePurgeProtection": false})),
        ];
        insta::assert_snapshot!(all.join("\n"), @r"
(VaultNameNotValid) The vault name '1vault' is invalid. A vault's name must be between 3-24 alphanumeric characters. The name must begin with a letter, end with a letter or digit, and not contain consecutive hyphens.
(VaultNameNotValid) The vault name 'moat--vault' is invalid. A vault's name must be between 3-24 alphanumeric characters. The name must begin with a letter, end with a letter or digit, and not contain consecutive hyphens.
(BadRequest) The sku 'gold' is not known. Use 'standard' or 'premium'.
(BadRequest) 'softDeleteRetentionInDays' is 1; it must be between 7 and 90.
(BadRequest) An access policy has no 'objectId'.
(BadRequest) The property 'enablePurgeProtection' cannot be set to false once it is true.
");
        insta::assert_snapshot!(world.put(&format!("{GROUP}2/providers/Microsoft.KeyVault/vaults/MOATVAULT"), json!({})).unwrap_err(), @"(VaultAlreadyExists) The vault name 'MOATVAULT' is already in use. Vault names are globally unique so it is possible that the name is already taken.");
    }
}
