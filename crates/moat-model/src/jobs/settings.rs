//! Settings of a job that would change what it does: carried out, or refused by name.

use jiff::SignedDuration;
use moat_arm::{ApiError, document};
use serde_json::Value;

use super::refuse;

/// Longest limit of a job; Azure's is 30 days for low priority, 90 for dedicated nodes.
const TIMEOUT_DAYS_MAX: i64 = 90;

/// The settings of `properties` that are carried out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) timeout_seconds: Option<u64>,
    pub(super) priority: u64,
}

/// Reads them, or refuses what is not built.
pub(super) fn read(properties: &Value, cluster_size: &str) -> Result<Settings, ApiError> {
    let at = |path: &str| document::at(properties, path);
    let text = |path: &str| document::str_at(properties, path).filter(|t| !t.is_empty());
    let not_built = |member: &str, what: String| {
        Err(refuse("SettingNotSupported", what).with_target(format!("properties.{member}")))
    };
    if let Some(kind) = text("distribution.distributionType") {
        return not_built("distribution", format!("Distributed jobs ({kind}) are not built: a job has one node."));
    }
    if let Some(count) = document::u64_at(properties, "resources.instanceCount").filter(|c| *c > 1) {
        return not_built(
            "resources.instanceCount",
            format!("The job asks for {count} nodes; a job has one node here."),
        );
    }
    if let Some(size) = text("resources.instanceType").filter(|s| !s.eq_ignore_ascii_case(cluster_size)) {
        return not_built(
            "resources.instanceType",
            format!(
                "The job asks for '{size}', its cluster has '{cluster_size}'. Leave it out, or name another cluster."
            ),
        );
    }
    if let Some(arguments) = text("resources.dockerArgs") {
        return not_built(
            "resources.dockerArgs",
            format!("'{arguments}' is for a container engine; nodes here have none."),
        );
    }
    if let Some(kind) = text("identity.identityType").filter(|k| !k.eq_ignore_ascii_case("AMLToken")) {
        return not_built(
            "identity",
            format!("A job runs with the token of its own run; the identity '{kind}' is not built."),
        );
    }
    if let Some(tier) =
        text("queueSettings.jobTier").filter(|t| !["Null", "Standard"].iter().any(|k| k.eq_ignore_ascii_case(t)))
    {
        return not_built(
            "queueSettings.jobTier",
            format!("The tier '{tier}' comes with serverless compute, which is not built."),
        );
    }
    if let Some((name, kind)) = service(at("services")) {
        return not_built(
            "services",
            format!("The service '{name}' ({kind}) would open a port of the node, which is not built."),
        );
    }
    if text("autologgerSettings.mlflowAutologger").is_some_and(|v| v.eq_ignore_ascii_case("Enabled")) {
        return not_built(
            "autologgerSettings",
            "Logging that the platform switches on is not built; call `mlflow.autolog()` in the code.".to_owned(),
        );
    }
    for (member, what) in [
        ("notificationSetting.emails", "Mail about jobs is not built."),
        ("notificationSetting.webhooks", "Webhooks about jobs are not built."),
        ("secretsConfiguration", "Secrets of a key vault are not brought into jobs."),
        ("componentId", "Jobs made of components are not built; write the command into the job."),
        ("sourceJobId", "Jobs made of other jobs are not built; send the job itself."),
    ] {
        if at(member).is_some_and(is_something) {
            return not_built(member, what.to_owned());
        }
    }
    if let Some(Value::Object(members)) = at("properties")
        && let Some(name) = members.keys().find(|k| k.to_ascii_lowercase().contains("pathoncompute"))
    {
        return not_built(&format!("properties.{name}"), "Paths of data inside the job cannot be chosen.".to_owned());
    }
    Ok(Settings {
        timeout_seconds: timeout(text("limits.timeout"))?,
        priority: document::u64_at(properties, "queueSettings.priority").unwrap_or(0),
    })
}

fn timeout(text: Option<&str>) -> Result<Option<u64>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let parsed: Option<SignedDuration> = text.parse().ok();
    let fits = parsed.filter(|t| t.as_secs() >= 1 && t.as_hours() <= TIMEOUT_DAYS_MAX * 24);
    match fits.and_then(|t| u64::try_from(t.as_secs()).ok()) {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(refuse(
            "InvalidTimeout",
            format!("The limit '{text}' is no time between a second and {TIMEOUT_DAYS_MAX} days in the form PT1H30M."),
        )
        .with_target("properties.limits.timeout")),
    }
}

/// A service that a client asks for; `Tracking` and `Studio` come from the platform and are echoed by clients.
fn service(services: Option<&Value>) -> Option<(String, String)> {
    let own = |kind: &str| ["Tracking", "Studio"].iter().any(|k| k.eq_ignore_ascii_case(kind));
    services?.as_object()?.iter().find_map(|(name, service)| {
        let kind = document::str_at(service, "jobServiceType").unwrap_or(name.as_str());
        (!service.is_null() && !own(kind)).then(|| (name.clone(), kind.to_owned()))
    })
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}
