//! What a workspace is made together with: vaults, application insights and log workspaces. Kept and answered as documents, so that their ids lead somewhere; nothing stands
//! behind them yet (no keys, no secrets, no firewalls).

use moat_arm::document;
use serde_json::json;

use crate::resource_type::{Completion, ResourceType, Write};

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
