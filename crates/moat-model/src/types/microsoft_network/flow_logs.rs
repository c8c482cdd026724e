//! `Microsoft.Network/networkWatchers/flowLogs`: that the flows of something are to be recorded in a storage account.
//!
//! Stored and answered only: what packets meet is shown by other means here, and nothing is written to the account. There
//! are two ways to one document: as a resource, and by the older actions of the watcher, which name only the target.

use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, network_interfaces, network_security_groups, subnets, virtual_networks};
use crate::refs;
use crate::resource_type::{ActionResult, Completion, Refusal, ResourceType, Scope, TypeCtx, Write};
use crate::types::microsoft_storage::storage_accounts;
use crate::types::shape;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/networkWatchers/flowLogs",
    api_versions: API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Applied,
    location_required: false,
    stored_only: true,
    refusals: &[
        Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) },
        Refusal { id: "flow-log-target", requirements: &[], check: target },
        Refusal { id: "flow-log-storage", requirements: &[], check: storage },
    ],
    complete: |ctx, write| {
        complete(ctx, write);
        Ok(())
    },
    references: |d| refs::ids(d, &[TARGET, STORAGE]),
    ..ResourceType::BLANK
};

const TARGET: &str = "properties.targetResourceId";
const STORAGE: &str = "properties.storageId";
/// What flows can be recorded of.
const TARGETS: [&ResourceType; 4] =
    [&network_security_groups::TYPE, &virtual_networks::TYPE, &subnets::TYPE, &network_interfaces::TYPE];

fn target(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let id = refs::parse(document::str_at(&write.body, TARGET).unwrap_or_default(), TARGET)?;
    let kind = id.resource_type();
    match TARGETS.iter().find(|t| t.name.eq_ignore_ascii_case(&kind)) {
        Some(known) => refs::check(ctx, write, TARGET, known.name),
        None => {
            let known = TARGETS.map(|t| t.name).join(", ");
            // AZURE: wording not observed.
            Err(ApiError::bad_request(
                "InvalidTargetResourceId",
                format!("Flows of a {kind} are not recorded. The target of {} must be one of: {known}.", write.id),
            )
            .with_target(TARGET))
        }
    }
}

fn storage(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    refs::parse(document::str_at(&write.body, STORAGE).unwrap_or_default(), STORAGE)?;
    refs::check(ctx, write, STORAGE, storage_accounts::TYPE.name)
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) {
    shape::complete_identity(ctx, write);
    let body = &mut write.body;
    for (member, value) in [
        ("enabled", json!(true)),
        ("flowAnalyticsConfiguration", json!({})),
        ("retentionPolicy", json!({"days": 0, "enabled": false})),
        ("format", json!({"type": "JSON", "version": 1})),
    ] {
        document::set_default(body, &format!("properties.{member}"), value);
    }
    // Whoever names a workspace for the analysis does not thereby switch it on.
    const ANALYTICS: &str = "properties.flowAnalyticsConfiguration.networkWatcherFlowAnalyticsConfiguration";
    if document::at(body, ANALYTICS).is_some_and(Value::is_object) {
        document::set_default(body, &format!("{ANALYTICS}.enabled"), json!(false));
    }
    let target = document::str_at(body, TARGET).and_then(|id| ResourceId::parse(id).ok());
    let guid = target
        .as_ref()
        .and_then(|id| refs::find(ctx.snapshot, id))
        .and_then(|t| document::str_at(t, "properties.resourceGuid").map(str::to_owned));
    if let Some(guid) = guid {
        document::set(body, "properties.targetResourceGuid", json!(guid));
    }
}

/// `configureFlowLog` of a watcher: makes or changes the flow log of a target, under the name that Azure gives it.
pub(super) fn configure(ctx: &TypeCtx<'_>, watcher: &ResourceId, asked: &Value) -> Result<ActionResult, ApiError> {
    let target = asked_target(asked)?;
    let known = of_target(ctx, watcher, &target);
    let group = target.resource_group().unwrap_or_default();
    let name = format!("Microsoft.Network{group}{}", target.name());
    let id = known.as_ref().map_or_else(|| watcher.child("flowLogs", &name), |(id, _)| id.clone());
    let mut body =
        known.map_or_else(|| json!({"location": refs::location_of(ctx.snapshot, watcher)}), |(_, body)| body);
    document::set(&mut body, TARGET, json!(target));
    for member in ["storageId", "enabled", "retentionPolicy", "format"] {
        if let Some(value) = document::at(asked, &format!("properties.{member}")) {
            document::set(&mut body, &format!("properties.{member}"), value.clone());
        }
    }
    for (from, to) in
        [("flowAnalyticsConfiguration", "properties.flowAnalyticsConfiguration"), ("identity", "identity")]
    {
        if let Some(value) = document::at(asked, from) {
            document::set(&mut body, to, value.clone());
        }
    }
    let mut write = Write { id: &id, before: None, body };
    TYPE.refusals.iter().try_for_each(|refusal| (refusal.check)(ctx, &write))?;
    complete(ctx, &mut write);
    let answer = information(&target, Some(&write.body));
    let body = write.body;
    let mut batch = Batch::default();
    batch.put(id, body);
    Ok(ActionResult { body: answer, long_running: true, batch })
}

/// `queryFlowLogStatus` of a watcher.
pub(super) fn query(ctx: &TypeCtx<'_>, watcher: &ResourceId, asked: &Value) -> Result<ActionResult, ApiError> {
    let target = asked_target(asked)?;
    if refs::find(ctx.snapshot, &target).is_none() {
        return Err(ApiError::not_found(&target));
    }
    let known = of_target(ctx, watcher, &target);
    let body = information(&target, known.as_ref().map(|(_, body)| body));
    Ok(ActionResult { body, long_running: false, batch: Batch::default() })
}

fn asked_target(asked: &Value) -> Result<ResourceId, ApiError> {
    refs::parse(document::str_at(asked, "targetResourceId").unwrap_or_default(), "targetResourceId")
}

/// The flow log of a target, below this watcher.
fn of_target(ctx: &TypeCtx<'_>, watcher: &ResourceId, target: &ResourceId) -> Option<(ResourceId, Value)> {
    let log = ctx.snapshot.below(watcher).find(|d| {
        d.id.resource_type().eq_ignore_ascii_case(TYPE.name)
            && document::str_at(&d.body, TARGET).is_some_and(|id| refs::same(id, target))
    })?;
    Some((log.id.clone(), log.body.clone()))
}

/// A flow log in the form of the actions. Of a target without one they say that nothing is recorded.
fn information(target: &ResourceId, log: Option<&Value>) -> Value {
    let Some(log) = log else {
        return json!({
            "targetResourceId": target,
            "properties": {"storageId": "", "enabled": false, "retentionPolicy": {"days": 0, "enabled": false}},
            "flowAnalyticsConfiguration": {},
        });
    };
    let member = |name: &str| document::at(log, &format!("properties.{name}")).cloned().unwrap_or_default();
    let mut out = json!({
        "targetResourceId": target,
        "properties": {
            "storageId": member("storageId"), "enabled": member("enabled"),
            "retentionPolicy": member("retentionPolicy"), "format": member("format"),
        },
        "flowAnalyticsConfiguration": member("flowAnalyticsConfiguration"),
    });
    if let Some(identity) = document::at(log, "identity") {
        out["identity"] = identity.clone();
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net};

    fn world() -> (World, String) {
        let mut world = World::new(Edition::Current);
        world.put(&net("networkSecurityGroups/nsg"), json!({"location": "westus2"})).unwrap();
        world.put(&net("networkWatchers/w"), json!({"location": "westus2"})).unwrap();
        let account = net("x").replace("Microsoft.Network/x", "Microsoft.Storage/storageAccounts/moatstore1");
        world.store(&account, json!({"location": "westus2", "properties": {}}));
        (world, account)
    }

    #[test]
    fn both_ways_lead_to_one_document() {
        let (mut world, account) = world();
        let (watcher, nsg) = (net("networkWatchers/w"), net("networkSecurityGroups/nsg"));
        let nothing = world.post(&watcher, "queryFlowLogStatus", json!({"targetResourceId": nsg})).unwrap();
        assert_eq!(nothing["properties"]["enabled"], false);
        let log = json!({"location": "westus2", "properties": {"targetResourceId": nsg, "storageId": account}});
        let made = world.put(&net("networkWatchers/w/flowLogs/mine"), log).unwrap();
        assert_eq!(made["properties"]["retentionPolicy"], json!({"days": 0, "enabled": false}));
        assert_eq!(made["properties"]["targetResourceGuid"], world.get(&nsg)["properties"]["resourceGuid"]);
        let off = json!({"targetResourceId": nsg, "properties": {"storageId": account, "enabled": false}});
        assert_eq!(world.post(&watcher, "configureFlowLog", off).unwrap()["properties"]["enabled"], false);
        assert_eq!(world.get(&net("networkWatchers/w/flowLogs/mine"))["properties"]["enabled"], false);
    }

    #[test]
    fn what_it_names_must_be_there() {
        let (mut world, account) = world();
        let mut check = |target: &str, storage: &str| {
            let log = json!({"properties": {"targetResourceId": target, "storageId": storage}});
            world.put(&net("networkWatchers/w/flowLogs/l"), log).unwrap_err().code
        };
        assert_eq!(check(&net("networkSecurityGroups/gone"), &account), "InvalidResourceReference");
        assert_eq!(check(&net("routeTables/r"), &account), "InvalidTargetResourceId");
        let nsg = net("networkSecurityGroups/nsg");
        assert_eq!(check(&nsg, &account.replace("moatstore1", "gone")), "InvalidResourceReference");
    }
}
