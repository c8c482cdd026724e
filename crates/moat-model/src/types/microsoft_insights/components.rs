//! `Microsoft.Insights/components`: kept, with an application id and a key of their own. Telemetry goes nowhere here.

use moat_arm::{ApiError, ResourceId, document};
use serde_json::json;

use crate::refs;
use crate::resource_type::{Completion, Refusal, ResourceType, TypeCtx, Write};
use crate::types::microsoft_operationalinsights;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Insights/components",
    api_versions: &["2020-02-02", "2020-02-02-preview", "2018-05-01-preview", "2015-05-01"],
    completion: Completion::Sync,
    stored_only: true,
    refusals: &[Refusal { id: "insights-workspace", requirements: &[], check: workspace }],
    complete,
    references: |body| refs::ids(body, &[WORKSPACE]),
    ..ResourceType::BLANK
};

/// The log workspace behind it.
const WORKSPACE: &str = "properties.WorkspaceResourceId";

fn workspace(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let Some(text) = document::str_at(&write.body, WORKSPACE) else { return Ok(()) };
    let kind = microsoft_operationalinsights::workspaces::TYPE.name;
    if ResourceId::parse(text).is_ok_and(|id| id.resource_type().eq_ignore_ascii_case(kind)) {
        return Ok(());
    }
    // AZURE: wording not observed.
    Err(ApiError::bad_request("BadRequest", format!("'{text}' is no id of a log workspace.")).with_target(WORKSPACE))
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    for member in ["AppId", "InstrumentationKey"] {
        let path = format!("properties.{member}");
        let kept = write.before.and_then(|b| document::str_at(b, &path)).map(str::to_owned);
        document::set(&mut write.body, &path, json!(kept.unwrap_or_else(|| ctx.uuid(member).to_string())));
    }
    let location = document::str_at(&write.body, "location").map(refs::location_key).unwrap_or_default();
    let text = |path: &str| document::str_at(&write.body, path).unwrap_or_default().to_owned();
    let connection = format!(
        "InstrumentationKey={};IngestionEndpoint=https://{location}-0.in.applicationinsights.azure.com/;ApplicationId={}",
        text("properties.InstrumentationKey"),
        text("properties.AppId")
    );
    let with_workspace = document::str_at(&write.body, WORKSPACE).is_some();
    for (member, value) in [
        ("kind", json!("web")),
        ("properties.Application_Type", json!("web")),
        ("properties.Flow_Type", json!("Bluefield")),
        ("properties.IngestionMode", json!(if with_workspace { "LogAnalytics" } else { "ApplicationInsights" })),
        ("properties.RetentionInDays", json!(90)),
        ("properties.publicNetworkAccessForIngestion", json!("Enabled")),
        ("properties.publicNetworkAccessForQuery", json!("Enabled")),
    ] {
        document::set_default(&mut write.body, member, value);
    }
    document::set(&mut write.body, "properties.ApplicationId", json!(write.id.name()));
    document::set(&mut write.body, "properties.ConnectionString", json!(connection));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{GROUP, World};

    #[test]
    fn keys_stay_and_the_workspace_must_be_one() {
        let mut world = World::new(Edition::Current);
        let id = format!("{GROUP}/providers/Microsoft.Insights/components/moatai");
        let first = world.put(&id, json!({})).unwrap();
        let second = world.put(&id, json!({"tags": {"a": "b"}})).unwrap();
        assert_eq!(first["properties"]["InstrumentationKey"], second["properties"]["InstrumentationKey"]);
        assert!(second["properties"]["ConnectionString"].as_str().unwrap().contains("westus2-0.in."));
        let wrong = json!({"properties": {"WorkspaceResourceId": id}});
        insta::assert_snapshot!(world.put(&id, wrong).unwrap_err(), @"(BadRequest) '/subscriptions/s/resourceGroups/g/providers/Microsoft.Insights/components/moatai' is no id of a log workspace.");
    }
}
