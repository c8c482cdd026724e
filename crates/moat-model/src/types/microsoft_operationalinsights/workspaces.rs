//! `Microsoft.OperationalInsights/workspaces`: kept, with a customer id and keys of their own. No log is taken here.

use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use crate::resource_type::{Action, ActionResult, Completion, Refusal, ResourceType, TypeCtx, Write};
use crate::storage::AccountKey;
use crate::types::shape;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.OperationalInsights/workspaces",
    api_versions: &["2023-09-01", "2022-10-01", "2020-08-01"],
    completion: Completion::Sync,
    stored_only: true,
    refusals: &[Refusal { id: "log-workspace-name", requirements: &[], check: name }],
    complete,
    actions: &[Action { name: "sharedKeys", run: shared_keys }],
    ..ResourceType::BLANK
};

const KEYS: [&str; 2] = ["primarySharedKey", "secondarySharedKey"];

fn name(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let name = write.id.name();
    let edge = |c: char| c.is_ascii_alphanumeric();
    let ok = (4..=63).contains(&name.len())
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || c == '-');
    if ok {
        return Ok(());
    }
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "InvalidResourceName",
        format!(
            "'{name}' is no name of a log workspace: 4 to 63 letters, digits and '-', with a letter or digit at both ends."
        ),
    ))
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let kept = write.before.and_then(|b| document::str_at(b, "properties.customerId")).map(str::to_owned);
    document::set(
        &mut write.body,
        "properties.customerId",
        json!(kept.unwrap_or_else(|| ctx.uuid("customerId").to_string())),
    );
    let now = json!(shape::time(ctx.now));
    let kept = |member: &str| write.before.and_then(|b| document::at(b, member)).cloned();
    let created = kept("properties.createdDate").unwrap_or_else(|| now.clone());
    let sku_before = kept("properties.sku.name");
    let changed = kept("properties.sku.lastSkuUpdate").filter(|_| {
        document::at(&write.body, "properties.sku.name").is_none_or(|new| Some(new) == sku_before.as_ref())
    });
    for (member, value) in [
        ("sku", json!({"name": "PerGB2018"})),
        ("retentionInDays", json!(30)),
        ("publicNetworkAccessForIngestion", json!("Enabled")),
        ("publicNetworkAccessForQuery", json!("Enabled")),
        ("source", json!("Azure")),
        ("features.legacy", json!(0)),
        ("features.searchVersion", json!(1)),
        ("features.enableLogAccessUsingOnlyResourcePermissions", json!(true)),
        // -1: no limit, so there is no hour at which one starts anew; Azure counts days from UTC midnight.
        ("workspaceCapping.dailyQuotaGb", json!(-1.0)),
        ("workspaceCapping.dataIngestionStatus", json!("RespectQuota")),
        ("workspaceCapping.quotaNextResetTime", json!(shape::time(next_midnight(ctx.now)))),
    ] {
        document::set_default(&mut write.body, &format!("properties.{member}"), value);
    }
    document::set(&mut write.body, "properties.createdDate", created);
    document::set(&mut write.body, "properties.modifiedDate", now.clone());
    document::set(&mut write.body, "properties.sku.lastSkuUpdate", changed.unwrap_or(now));
    for name in KEYS {
        let path = format!("moat.{name}");
        if document::at(&write.body, &path).is_none() {
            let key = AccountKey::derive(ctx.seed.as_bytes(), &format!("{name} of {}", write.id.key()));
            document::set(&mut write.body, &path, json!(key.reveal()));
        }
    }
    shape::note_author(ctx, write);
    Ok(())
}

fn next_midnight(now: jiff::Timestamp) -> jiff::Timestamp {
    const DAY_SECONDS: i64 = 24 * 60 * 60;
    let next = now.as_second().div_euclid(DAY_SECONDS).saturating_add(1).saturating_mul(DAY_SECONDS);
    jiff::Timestamp::from_second(next).unwrap_or(now)
}

fn shared_keys(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value) -> Result<ActionResult, ApiError> {
    let stored = ctx.snapshot.get(id).ok_or_else(|| ApiError::not_found(id))?;
    let key = |name: &str| document::at(&stored.body, &format!("moat.{name}")).cloned().unwrap_or_default();
    let body = json!({"primarySharedKey": key(KEYS[0]), "secondarySharedKey": key(KEYS[1])});
    Ok(ActionResult { body, long_running: false, batch: Batch::default() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{GROUP, World};

    #[test]
    fn keys_are_told_when_asked_for_and_stay() {
        let mut world = World::new(Edition::Current);
        let id = format!("{GROUP}/providers/Microsoft.OperationalInsights/workspaces/moatlogs");
        world.put(&id, json!({})).unwrap();
        let keys = world.post(&id, "sharedKeys", Value::Null).unwrap();
        assert_ne!(keys["primarySharedKey"], keys["secondarySharedKey"]);
        assert!(keys["primarySharedKey"].as_str().unwrap().len() > 40);
        let bad = format!("{GROUP}/providers/Microsoft.OperationalInsights/workspaces/-x-");
        insta::assert_snapshot!(world.put(&bad, json!({})).unwrap_err(), @"(InvalidResourceName) '-x-' is no name of a log workspace: 4 to 63 letters, digits and '-', with a letter or digit at both ends.");
    }
}
