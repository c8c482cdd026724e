//! What a workspace is made together with: storage accounts, vaults, application insights and log
//! workspaces. Kept and answered as documents, so that their ids lead somewhere; nothing stands
//! behind them yet (no keys, no secrets, no firewalls).

use moat_arm::{ApiError, document};
use serde_json::json;

use super::shape;
use crate::refs;
use crate::resource_type::{Completion, Refusal, ResourceType, TypeCtx, Write};

/// Storage accounts.
pub static STORAGE_ACCOUNTS: ResourceType = ResourceType {
    name: "Microsoft.Storage/storageAccounts",
    api_versions: &["2025-08-01", "2023-05-01", "2021-06-01", "2019-04-01"],
    completion: Completion::Sync,
    stored_only: true,
    refusals: &[Refusal { id: "storage-account-name", requirements: &[], check: storage_name }],
    complete: |ctx, write| {
        let name = write.id.name().to_lowercase();
        let location = document::str_at(&write.body, "location").map(refs::location_key).unwrap_or_default();
        let created = keep_or(write, "properties.creationTime", &shape::time(ctx.now));
        let body = &mut write.body;
        document::set_default(body, "kind", json!("StorageV2"));
        document::set_default(body, "sku.name", json!("Standard_LRS"));
        let premium = document::str_at(body, "sku.name").is_some_and(|s| s.to_lowercase().starts_with("premium"));
        document::set(body, "sku.tier", json!(if premium { "Premium" } else { "Standard" }));
        document::set(body, "properties.creationTime", json!(created));
        document::set(body, "properties.primaryLocation", json!(location));
        document::set(body, "properties.statusOfPrimary", json!("available"));
        for service in ["blob", "queue", "table", "file", "dfs"] {
            let url = format!("https://{name}.{service}.core.windows.net/");
            document::set(body, &format!("properties.primaryEndpoints.{service}"), json!(url));
        }
        Ok(())
    },
    ..ResourceType::BLANK
};

/// Key vaults.
pub static VAULTS: ResourceType = ResourceType {
    name: "Microsoft.KeyVault/vaults",
    api_versions: &["2023-07-01", "2022-07-01", "2019-09-01"],
    completion: Completion::Sync,
    stored_only: true,
    complete: |ctx, write| {
        let url = format!("https://{}.vault.azure.net/", write.id.name().to_lowercase());
        document::set(&mut write.body, "properties.vaultUri", json!(url));
        document::set_default(&mut write.body, "properties.tenantId", json!(ctx.tenant));
        document::set_default(&mut write.body, "properties.accessPolicies", json!([]));
        Ok(())
    },
    ..ResourceType::BLANK
};

/// Application insights.
pub static INSIGHTS: ResourceType = ResourceType {
    name: "Microsoft.Insights/components",
    api_versions: &["2020-02-02", "2018-05-01-preview", "2015-05-01"],
    completion: Completion::Sync,
    stored_only: true,
    complete: |ctx, write| {
        for member in ["AppId", "InstrumentationKey"] {
            let path = format!("properties.{member}");
            let value = keep_or(write, &path, &ctx.uuid(member).to_string());
            document::set(&mut write.body, &path, json!(value));
        }
        document::set_default(&mut write.body, "kind", json!("web"));
        document::set_default(&mut write.body, "properties.Application_Type", json!("web"));
        Ok(())
    },
    ..ResourceType::BLANK
};

/// Log workspaces.
pub static LOG_WORKSPACES: ResourceType = ResourceType {
    name: "Microsoft.OperationalInsights/workspaces",
    api_versions: &["2023-09-01", "2022-10-01", "2020-08-01"],
    completion: Completion::Sync,
    stored_only: true,
    complete: |ctx, write| {
        let customer = keep_or(write, "properties.customerId", &ctx.uuid("customerId").to_string());
        document::set(&mut write.body, "properties.customerId", json!(customer));
        document::set_default(&mut write.body, "properties.retentionInDays", json!(30));
        Ok(())
    },
    ..ResourceType::BLANK
};

/// The text at `path` of the document before, or a fresh one.
fn keep_or(write: &Write<'_>, path: &str, fresh: &str) -> String {
    write.before.and_then(|b| document::str_at(b, path)).unwrap_or(fresh).to_owned()
}

fn storage_name(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let name = write.id.name();
    if !(3..=24).contains(&name.len()) || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) {
        return Err(ApiError::bad_request(
            "AccountNameInvalid",
            format!(
                "{name} is not a valid storage account name. Storage account name must be between 3 and 24 characters in length and use numbers and lower-case letters only."
            ),
        ));
    }
    let accounts = ctx.snapshot.in_groups(STORAGE_ACCOUNTS.name);
    if accounts.iter().any(|d| d.id != *write.id && d.id.name().eq_ignore_ascii_case(name)) {
        return Err(ApiError::new(
            409,
            "StorageAccountAlreadyTaken",
            format!("The storage account named {name} is already taken."),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{GROUP, World};

    #[test]
    fn accounts_have_endpoints_and_names_of_their_own() {
        let mut world = World::new(Edition::Current);
        let id = |group: &str, name: &str| format!("{GROUP}{group}/providers/Microsoft.Storage/storageAccounts/{name}");
        let stored = world.put(&id("", "moatstore1"), json!({"sku": {"name": "Premium_LRS"}})).unwrap();
        assert_eq!(stored["properties"]["primaryEndpoints"]["blob"], "https://moatstore1.blob.core.windows.net/");
        assert_eq!(stored["sku"]["tier"], "Premium");
        insta::assert_snapshot!(world.put(&id("", "Moat-Store"), json!({})).unwrap_err(), @"(AccountNameInvalid) Moat-Store is not a valid storage account name. Storage account name must be between 3 and 24 characters in length and use numbers and lower-case letters only.");
        insta::assert_snapshot!(world.put(&id("2", "moatstore1"), json!({})).unwrap_err(), @"(StorageAccountAlreadyTaken) The storage account named moatstore1 is already taken.");
    }
}
