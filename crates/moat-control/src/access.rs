//! Rights of the caller: action names from verbs, the refusal texts, linked scopes.

use moat_arm::access::rbac;
use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use crate::world::World;

/// Refuses with `AuthorizationFailed` unless the caller may perform `action` on `scope`
/// (`None`: tenant).
pub(crate) fn require(w: &World<'_>, action: &str, scope: Option<&ResourceId>) -> Result<(), ApiError> {
    if allowed(w, action, scope) {
        return Ok(());
    }
    let (name, oid) = caller(w);
    Err(ApiError::new(
        403,
        "AuthorizationFailed",
        format!(
            "The client '{name}' with object id '{oid}' does not have authorization to perform action '{action}' over scope '{}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
            scope.map_or("/", ResourceId::as_str)
        ),
    ))
}

/// Whether the caller may. The platform itself may everything: rights bind its customers.
pub(crate) fn allowed(w: &World<'_>, action: &str, scope: Option<&ResourceId>) -> bool {
    w.by_service() || rbac::allows(w.snapshot, &w.request.principal.object_id, action, scope)
}

/// Refuses with `LinkedAuthorizationFailed` unless the caller may link to every one of `linked`
/// (network-semantics 17.6). Only network resources ask for it: joining a subnet is what changes
/// who can reach whom.
pub(crate) fn require_links(
    w: &World<'_>,
    action: &str,
    scope: &ResourceId,
    linked: &[ResourceId],
) -> Result<(), ApiError> {
    for link in linked {
        let Some(linked_action) = linked_action(link) else { continue };
        if allowed(w, &linked_action, Some(link)) {
            continue;
        }
        let (name, oid) = caller(w);
        return Err(ApiError::new(
            403,
            "LinkedAuthorizationFailed",
            format!(
                "The client '{name}' with object id '{oid}' has permission to perform action '{action}' on scope '{scope}'; however, it does not have permission to perform action '{linked_action}' on the linked scope(s) '{link}' or the linked scope(s) are invalid."
            ),
        ));
    }
    Ok(())
}

fn linked_action(link: &ResourceId) -> Option<String> {
    if !link.namespace()?.eq_ignore_ascii_case("Microsoft.Network") {
        return None;
    }
    let kind = link.resource_type();
    let verb = if kind.eq_ignore_ascii_case("Microsoft.Network/virtualNetworks") { "peer" } else { "join" };
    Some(format!("{kind}/{verb}/action"))
}

fn caller<'a>(w: &World<'a>) -> (&'a str, &'a str) {
    let p = &w.request.principal;
    let name = if p.app_id.is_empty() { &p.name } else { &p.app_id };
    (name, &p.object_id)
}

/// The first commit of an environment: `principal` becomes Owner of `subscription` and of the blobs in it, by the
/// same kind of document that later grants are. `assignment` is the guid of the first of them.
pub fn bootstrap(subscription: &str, principal: &str, assignment: &str) -> Batch {
    let scope = ResourceId::subscription_scope(subscription);
    let further = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, assignment.as_bytes()).to_string();
    let mut batch = Batch::default();
    for (guid, role) in [(assignment, rbac::OWNER), (&further, rbac::STORAGE_BLOB_DATA_OWNER)] {
        batch.put(
            scope.provider("Microsoft.Authorization", "roleAssignments", guid),
            json!({"properties": {
                "roleDefinitionId": format!("{scope}/providers/{}/{role}", rbac::ROLE_DEFINITIONS),
                "principalId": principal,
                "principalType": "ServicePrincipal",
                "scope": scope.as_str(),
            }}),
        );
    }
    batch
}

/// The members of a role assignment that the service fills in.
pub(crate) fn complete_assignment(body: &mut Value, scope: &str, now: &str, by: &str) {
    document::set(body, "properties.scope", json!(scope));
    document::set_default(body, "properties.principalType", json!("ServicePrincipal"));
    document::set_default(body, "properties.createdOn", json!(now));
    document::set(body, "properties.updatedOn", json!(now));
    document::set_default(body, "properties.createdBy", json!(by));
    document::set(body, "properties.updatedBy", json!(by));
}
