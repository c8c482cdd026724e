//! `Microsoft.MachineLearningServices/workspaces`: the place that computes belong to (PROTOCOL 6.1).
//!
//! With its storage account come its datastores and their containers. A workspace without one is kept too: clusters
//! live in it, but no job can be submitted.

use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, compute_rules, datastores};
use crate::refs;
use crate::resource_type::{Action, ActionResult, Completion, Refusal, ResourceType, TypeCtx, Write};
use crate::types::microsoft_storage::storage_accounts;
use crate::types::{microsoft_containerregistry::registries, microsoft_network::private_endpoints, shape};

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.MachineLearningServices/workspaces",
    api_versions: API_VERSIONS,
    completion: Completion::Sync,
    // The clients of v1 ask with older versions and know 200 only.
    operations_since: "2022-05-01",
    refusals: &[
        Refusal { id: "workspace-name", requirements: &[], check: name },
        Refusal { id: "workspace-resources", requirements: &[], check: resources },
        Refusal { id: "workspace-public-access", requirements: &[], check: public_access },
    ],
    complete,
    on_write: |ctx, write, batch| {
        datastores::make_system(ctx, write.id, &write.body, batch);
        Ok(())
    },
    render,
    references: |body| {
        refs::ids(body, &RESOURCES.map(|member| format!("properties.{member}")).each_ref().map(String::as_str))
    },
    actions: &[
        Action { name: "checkComputeNameAvailability", run: check_compute_name },
        Action { name: "listKeys", run: list_keys },
        Action { name: "listNotebookKeys", run: notebook_keys },
        Action { name: "diagnose", run: diagnose },
    ],
    ..ResourceType::BLANK
};

/// Members that hold ids; a text that is no id is refused, a missing resource is not.
const RESOURCES: [&str; 4] = ["storageAccount", "keyVault", "applicationInsights", "containerRegistry"];
/// Members that the service owns and a write cannot change.
const OWN: [&str; 3] = ["workspaceId", "creationTime", "tenantId"];
/// Members that templates send as the texts `true` and `false`.
const BOOLEANS: [&str; 6] = [
    "hbiWorkspace",
    "allowPublicAccessWhenBehindVnet",
    "v1LegacyMode",
    "storageHnsEnabled",
    "enableDataIsolation",
    "softDeleteEnabled",
];

fn name(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let name = write.id.name();
    let ok = (3..=33).contains(&name.chars().count())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if ok {
        return Ok(());
    }
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "InvalidWorkspaceName",
        format!(
            "The workspace name '{name}' is not allowed. It must be 3 to 33 characters long, begin with a letter or digit, and hold only letters, digits, '-' and '_'."
        ),
    ))
}

fn resources(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for member in RESOURCES {
        let path = format!("properties.{member}");
        if let Some(text) = document::str_at(&write.body, &path).filter(|t| !t.is_empty()) {
            refs::parse(text, &path)?;
        }
    }
    Ok(())
}

fn public_access(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let value = document::str_at(&write.body, "properties.publicNetworkAccess").filter(|v| !v.is_empty());
    match value {
        Some(v) if !["Enabled", "Disabled"].iter().any(|a| a.eq_ignore_ascii_case(v)) => Err(ApiError::bad_request(
            // AZURE: wording not observed.
            "InvalidRequestFormat",
            format!("publicNetworkAccess of workspace {} is '{v}'. Use Enabled or Disabled.", write.id),
        )),
        _ => Ok(()),
    }
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let location = document::str_at(&write.body, "location").map(refs::location_key).unwrap_or_default();
    let now = shape::time(ctx.now);
    let id = write.id.clone();
    let body = &mut write.body;
    for member in BOOLEANS {
        let path = format!("properties.{member}");
        let value = document::bool_at(body, &path).unwrap_or(false);
        document::set(body, &path, json!(value));
    }
    for (member, fresh) in OWN.into_iter().zip([
        // A workspace made again gets a new one: v1 clients cache by it (PROTOCOL 6.2).
        json!(ctx.uuid("workspaceId").to_string()),
        json!(now),
        json!(ctx.tenant),
    ]) {
        let path = format!("properties.{member}");
        let kept = write.before.and_then(|b| document::at(b, &path)).cloned();
        document::set(body, &path, kept.unwrap_or(fresh));
    }
    document::set_default(body, "tags", json!({}));
    document::set_default(body, "kind", json!("Default"));
    document::set_default(body, "sku", json!({"name": "Basic", "tier": "Basic"}));
    document::set_default(body, "properties.friendlyName", json!(id.name()));
    document::set_default(body, "properties.description", json!(""));
    // Whose telemetry a client sends where: a name for the region's sink, behind which nobody listens.
    let sink = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_DNS, format!("{location}.api.azureml.ms").as_bytes());
    document::set(body, "properties.sdkTelemetryAppInsightsKey", json!(sink.to_string()));
    if document::str_at(body, "properties.publicNetworkAccess").is_none_or(str::is_empty) {
        document::set(body, "properties.publicNetworkAccess", json!("Enabled"));
    }
    for member in RESOURCES {
        document::set_default(body, &format!("properties.{member}"), Value::Null);
    }
    document::set(body, "properties.discoveryUrl", json!(format!("https://{location}.api.azureml.ms/discovery")));
    document::set(
        body,
        "properties.mlFlowTrackingUri",
        json!(format!("azureml://{location}.api.azureml.ms/mlflow/v1.0{id}")),
    );
    shape::complete_identity(ctx, write);
    shape::note_author(ctx, write);
    Ok(())
}

fn render(ctx: &TypeCtx<'_>, id: &ResourceId, body: &mut Value) {
    shape::render_system_data(body);
    managed_network(body);
    // No registry is the empty text here, and `null` for the other three.
    match document::str_at(body, "properties.containerRegistry").map(str::to_owned) {
        None => document::set(body, "properties.containerRegistry", json!("")),
        Some(registry) => {
            let stored = ResourceId::parse(&registry).ok().and_then(|r| ctx.snapshot.get(&r));
            if let Some(tier) = stored.and_then(|r| document::at(&r.body, "sku.tier")) {
                document::set(body, "properties.acrSkuTier", tier.clone());
            }
        }
    }
    let location = document::str_at(body, "location").unwrap_or_default().to_owned();
    let workspace_id = document::str_at(body, "properties.workspaceId").unwrap_or_default().to_owned();
    private_endpoints::render_connections(ctx, id, body);
    for (member, value) in [
        ("privateLinkCount", json!(0)),
        ("ipAllowlist", json!([])),
        ("sasGetterUri", json!("")),
        ("allowRoleAssignmentOnRG", json!(true)),
        ("systemDatastoresAuthMode", json!("accesskey")),
        ("enableServiceSideCMKEncryption", json!(false)),
        ("EnableSoftwareBillOfMaterials", json!(false)),
        ("provisionNetworkNow", json!(false)),
        ("azureOpenAI", json!({"provisioningState": "NotStarted", "resourceId": null, "endpoint": null})),
        (
            "serverlessComputeSettings",
            json!({"serverlessComputeCustomSubnet": null, "serverlessComputeNoPublicIP": false}),
        ),
    ] {
        document::set_default(body, &format!("properties.{member}"), value);
    }
    document::set(
        body,
        "properties.notebookInfo",
        json!({
            "resourceId": workspace_id.replace('-', ""),
            "fqdn": format!("ml-{}-{location}-{workspace_id}.{location}.notebooks.azure.net", id.name()),
            "isPrivateLinkEnabled": false,
            "notebookPreparationError": null,
        }),
    );
}

/// A managed network is kept as it was asked for and never made, so its state is what Azure's is before somebody
/// provisions it; its id is the workspace's.
fn managed_network(body: &mut Value) {
    const AT: &str = "properties.managedNetwork";
    document::set_default(body, &format!("{AT}.isolationMode"), json!("Disabled"));
    // Isolation only grows: a workspace never goes back to a wider mode.
    let modes = ["AllowInternetOutbound", "AllowOnlyApprovedOutbound"];
    let mode = document::str_at(body, &format!("{AT}.isolationMode")).unwrap_or_default().to_owned();
    let reached = modes.iter().position(|m| m.eq_ignore_ascii_case(&mode));
    document::set(body, &format!("{AT}.changeableIsolationModes"), json!(modes[reached.map_or(0, |at| at + 1)..]));
    let id = document::at(body, "properties.workspaceId").cloned().unwrap_or_default();
    document::set(body, &format!("{AT}.networkId"), id);
    document::set_default(body, &format!("{AT}.outboundRules"), json!({}));
    if reached.is_some() {
        document::set(body, &format!("{AT}.status"), json!({"status": "Inactive", "sparkReady": false}));
    }
    let rules = document::at(body, &format!("{AT}.outboundRules")).and_then(Value::as_object).cloned();
    for (name, mut rule) in rules.into_iter().flatten().filter(|(_, rule)| rule.is_object()) {
        document::set_default(&mut rule, "category", json!("UserDefined"));
        document::set_default(&mut rule, "status", json!("Inactive"));
        match document::str_at(&rule, "type").unwrap_or_default().to_lowercase().as_str() {
            "privateendpoint" => document::set_default(&mut rule, "destination.sparkStatus", json!("Inactive")),
            "servicetag" => document::set_default(&mut rule, "destination.action", json!("Allow")),
            _ => {}
        }
        if let Some(Value::Object(all)) = body.pointer_mut("/properties/managedNetwork/outboundRules") {
            all.insert(name, rule);
        }
    }
}

/// The keys of what a workspace was made with.
fn list_keys(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value) -> Result<ActionResult, ApiError> {
    let body = &ctx.snapshot.get(id).ok_or_else(|| ApiError::not_found(id))?.body;
    let companion = |member: &str| {
        let text = document::str_at(body, &format!("properties.{member}"))?;
        ctx.snapshot.get(&ResourceId::parse(text).ok()?)
    };
    let account = companion("storageAccount");
    let key = account.and_then(|a| storage_accounts::keys(&a.body).into_iter().next());
    let insights = companion("applicationInsights");
    let instrumentation = insights.and_then(|i| document::str_at(&i.body, "properties.InstrumentationKey"));
    let registry = companion("containerRegistry").and_then(|r| registries::credentials(&r.id, &r.body));
    Ok(done(json!({
        "userStorageKey": key.map(|k| k.reveal()),
        "userStorageArmId": account.map(|a| a.id.as_str()),
        "userStorageResourceId": account.map(|a| a.id.as_str()),
        "appInsightsInstrumentationKey": instrumentation,
        "containerRegistryCredentials": registry,
        "notebookAccessKeys": null,
    })))
}

fn notebook_keys(_: &TypeCtx<'_>, id: &ResourceId, _: &Value) -> Result<ActionResult, ApiError> {
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "NotebookResourceNotFound",
        format!("The workspace '{}' has no notebook resource: hosted notebooks are not built.", id.name()),
    ))
}

/// What a workspace needs and does not find.
fn diagnose(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value) -> Result<ActionResult, ApiError> {
    let body = &ctx.snapshot.get(id).ok_or_else(|| ApiError::not_found(id))?.body;
    let mut results = serde_json::Map::new();
    for (list, member) in [
        ("storageAccountResults", "storageAccount"),
        ("keyVaultResults", "keyVault"),
        ("containerRegistryResults", "containerRegistry"),
        ("applicationInsightsResults", "applicationInsights"),
    ] {
        let text = document::str_at(body, &format!("properties.{member}"));
        let exists = text.and_then(|t| ResourceId::parse(t).ok()).is_some_and(|t| ctx.snapshot.get(&t).is_some());
        let found = match text {
            Some(text) if !exists => json!([{
                "code": "ResourceNotFound", "level": "Error",
                "message": format!("The workspace needs '{text}', which does not exist."),
            }]),
            _ => json!([]),
        };
        results.insert(list.to_owned(), found);
    }
    for list in [
        "userDefinedRouteResults",
        "networkSecurityRuleResults",
        "resourceLockResults",
        "dnsResolutionResults",
        "otherResults",
    ] {
        results.insert(list.to_owned(), json!([]));
    }
    Ok(ActionResult { body: json!({ "value": results }), long_running: true, batch: Batch::default() })
}

fn done(body: Value) -> ActionResult {
    ActionResult { body, long_running: false, batch: Batch::default() }
}

fn check_compute_name(ctx: &TypeCtx<'_>, id: &ResourceId, body: &Value) -> Result<ActionResult, ApiError> {
    let asked = document::str_at(body, "name").unwrap_or_default();
    let compute = id.child("computes", asked);
    let region = refs::location_of(ctx.snapshot, id);
    let problem = compute_rules::name_problem(asked)
        .or_else(|| compute_rules::name_taken(ctx.snapshot, &compute, region.as_deref(), true));
    let reason = problem
        .as_ref()
        .map(|_| if compute_rules::name_problem(asked).is_some() { "Invalid" } else { "AlreadyExists" });
    Ok(ActionResult {
        body: json!({
            "isAvailable": problem.is_none(),
            "nameAvailable": problem.is_none(),
            "reason": reason,
            "message": problem,
        }),
        long_running: false,
        batch: Batch::default(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{GROUP, World};

    fn id(name: &str) -> String {
        format!("{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/{name}")
    }

    #[test]
    fn a_workspace_answers_what_its_clients_read() {
        let mut world = World::new(Edition::Current);
        let storage = format!("{GROUP}/providers/Microsoft.Storage/storageAccounts/not-here");
        let body = json!({"identity": {"type": "SystemAssigned"}, "properties": {"storageAccount": storage, "hbiWorkspace": "false"}});
        let stored = world.put(&id("ws1"), body).unwrap();
        let answered = world.get(&id("ws1"));
        let p = &answered["properties"];
        assert_eq!(p["discoveryUrl"], "https://westus2.api.azureml.ms/discovery");
        assert_eq!(p["mlFlowTrackingUri"], format!("azureml://westus2.api.azureml.ms/mlflow/v1.0{}", id("ws1")));
        assert_eq!(p["hbiWorkspace"], false);
        assert_eq!(p["containerRegistry"], "");
        assert!(answered["systemData"]["createdBy"].is_string());
        assert!(answered["identity"]["principalId"].is_string());
        // Written again it stays itself; made again it is another.
        let again = world.put(&id("ws1"), json!({"properties": {"friendlyName": "x"}})).unwrap();
        assert_eq!(again["properties"]["workspaceId"], stored["properties"]["workspaceId"]);
        world.delete(&id("ws1")).unwrap();
        let other = world.put(&id("ws1"), json!({"properties": {}})).unwrap();
        assert_ne!(other["properties"]["workspaceId"], stored["properties"]["workspaceId"]);
    }

    #[test]
    fn bad_names_and_ids_are_refused() {
        let mut world = World::new(Edition::Current);
        insta::assert_snapshot!(world.put(&id("w"), json!({"properties": {}})).unwrap_err(), @"(InvalidWorkspaceName) The workspace name 'w' is not allowed. It must be 3 to 33 characters long, begin with a letter or digit, and hold only letters, digits, '-' and '_'.");
        let no_id = json!({"properties": {"keyVault": "myvault"}});
        insta::assert_snapshot!(world.put(&id("ws1"), no_id).unwrap_err().code, @"LinkedInvalidPropertyId");
    }

    #[test]
    fn compute_names_can_be_asked_for() {
        let mut world = World::new(Edition::Current);
        world.put(&id("ws1"), json!({"properties": {}})).unwrap();
        let mut ask = |name: &str| {
            let body = json!({"Name": name, "Type": "Microsoft.BatchAI/DataScienceInstance"});
            world.post(&id("ws1"), "checkComputeNameAvailability", body).unwrap()["isAvailable"] == true
        };
        assert!(ask("v1ci"));
        assert!(!ask("1ci"));
    }
}
