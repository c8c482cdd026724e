//! What the front end of a workspace's own services (`managementfrontend`) says of a document that is not there: not
//! Resource Manager's `ResourceNotFound` but a `UserError`, with a note of who says it, where and when.

use moat_arm::{ApiError, ResourceId};
use serde_json::{Value, json};

use crate::refs;
use crate::resource_type::TypeCtx;
use crate::types::shape;

/// The 404 of a datastore, a job, an asset or a version of one.
pub(super) fn not_found(ctx: &TypeCtx<'_>, id: &ResourceId) -> ApiError {
    let names = id.names();
    let name = names.get(1).copied().unwrap_or_default();
    let kind = id.resource_type().split('/').nth(2).unwrap_or_default().to_lowercase();
    let of_asset = |what: &str| {
        let text = match names.get(2) {
            Some(version) => format!("{what} version with name: {name} and version: {version} not found."),
            None => format!("{what} container with name: {name} not found."),
        };
        ApiError::new(404, "UserError", "The specified resource was not found.").with_detail(ApiError::new(
            404,
            &format!("{what}NotFound"),
            text,
        ))
    };
    let (mut error, mut notes) = match kind.as_str() {
        "datastores" => (
            ApiError::new(404, "UserError", format!("Could not find datastore: {name}.")),
            vec![note("InnerError", json!({"code": "NotFoundError", "innerError": null}))],
        ),
        "jobs" => (
            ApiError::new(404, "UserError", format!("Job {name} not found.")),
            vec![
                note(
                    "InnerError",
                    json!({"code": "NotFound", "innerError": {"code": "JobNotFound", "innerError": null}}),
                ),
                note("MessageFormat", json!("Job {jobId} not found.")),
                note("MessageParameters", json!({ "jobId": name })),
            ],
        ),
        "models" => (of_asset("Model"), Vec::new()),
        // AZURE: wording not observed.
        "data" => (of_asset("Data"), Vec::new()),
        "codes" => (of_asset("Code"), Vec::new()),
        _ => (of_asset("Environment"), Vec::new()),
    };
    let region = refs::location_of(ctx.snapshot, id).unwrap_or_default();
    let hex = |name: &str| ctx.uuid(name).simple().to_string();
    let mut all = vec![
        note("ComponentName", json!("managementfrontend")),
        note("Correlation", json!({"operation": hex("operation"), "request": &hex("request")[..16]})),
        note("Environment", json!(region)),
        note("Location", json!(region)),
        note("Time", json!(shape::time(ctx.now))),
    ];
    all.append(&mut notes);
    error.additional_info = all.into();
    error
}

fn note(kind: &str, value: Value) -> Value {
    json!({"type": kind, "info": {"value": value}})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{GROUP, ml_world};

    #[test]
    fn each_kind_has_its_own_words() {
        let world = ml_world(Edition::Current);
        let say = |tail: &str| {
            let id = format!("{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/moatws/{tail}");
            world.with_ctx(|ctx| not_found(ctx, &ResourceId::parse(&id).unwrap()))
        };
        insta::assert_snapshot!(say("datastores/d"), @"(UserError) Could not find datastore: d.");
        insta::assert_snapshot!(say("jobs/j"), @"(UserError) Job j not found.");
        insta::assert_snapshot!(say("models/m").details[0], @"(ModelNotFound) Model container with name: m not found.");
        let version = say("environments/e/versions/1");
        insta::assert_snapshot!(version.details[0], @"(EnvironmentNotFound) Environment version with name: e and version: 1 not found.");
        assert_eq!(version.additional_info[3], note("Location", json!("westus2")));
    }
}
