//! Types that the control plane itself gives meaning to: role assignments and definitions.
//!
//! They are entries of the same table as the model's types, so that routing, lists and envelopes
//! treat them alike.

use moat_arm::access::rbac;
use moat_arm::{ApiError, ResourceId, document};
use moat_model::resource_type::{Completion, Refusal, Scope, Write};
use moat_model::{ResourceType, TypeCtx};
use serde_json::json;

use crate::access;

/// Looked up before the model's table.
pub(crate) static OWN: &[&ResourceType] = &[&ROLE_ASSIGNMENTS, &ROLE_DEFINITIONS, &DEPLOYMENT, &TAG];

/// Type of the tags of something, as a resource of its own.
pub(crate) const TAGS: &str = "Microsoft.Resources/tags";

/// Routed to [`crate::tags`]; only those of a subscription are stored under it.
static TAG: ResourceType = ResourceType {
    name: TAGS,
    api_versions: &["2024-11-01", "2022-09-01", "2021-04-01"],
    scope: Scope::Extension,
    location_required: false,
    ..ResourceType::BLANK
};

/// Type of template deployments.
pub(crate) const DEPLOYMENTS: &str = "Microsoft.Resources/deployments";

/// Routed to [`crate::deployment`]; reading and listing are generic.
static DEPLOYMENT: ResourceType = ResourceType {
    name: DEPLOYMENTS,
    api_versions: &["2025-04-01", "2024-11-01", "2022-09-01", "2020-06-01"],
    scope: Scope::Child,
    completion: Completion::Applied,
    location_required: false,
    ..ResourceType::BLANK
};

static ROLE_ASSIGNMENTS: ResourceType = ResourceType {
    name: rbac::ROLE_ASSIGNMENTS,
    api_versions: &["2022-04-01", "2020-04-01-preview", "2015-07-01"],
    scope: Scope::Extension,
    completion: Completion::Sync,
    location_required: false,
    refusals: &[
        Refusal { id: "role-assignment-complete", requirements: &[], check: assignment_complete },
        Refusal { id: "role-assignment-unique", requirements: &[], check: assignment_unique },
    ],
    complete: |ctx, write| {
        let scope = scope_of(write.id);
        access::complete_assignment(&mut write.body, &scope, &time(ctx), ctx.principal);
        Ok(())
    },
    ..ResourceType::BLANK
};

static ROLE_DEFINITIONS: ResourceType = ResourceType {
    name: rbac::ROLE_DEFINITIONS,
    api_versions: &["2022-04-01", "2022-05-01-preview", "2018-01-01-preview"],
    scope: Scope::Extension,
    completion: Completion::Sync,
    location_required: false,
    refusals: &[Refusal { id: "role-definition-custom", requirements: &[], check: definition_custom }],
    complete: |_, write| {
        document::set(&mut write.body, "properties.type", json!("CustomRole"));
        Ok(())
    },
    ..ResourceType::BLANK
};

fn time(ctx: &TypeCtx<'_>) -> String {
    ctx.now.to_string()
}

/// The scope an extension resource sits on, as text; the tenant is `/`.
fn scope_of(id: &ResourceId) -> String {
    id.parent().map_or_else(|| "/".to_owned(), |p| p.to_string())
}

fn assignment_complete(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let member = |name: &str| document::str_at(&write.body, &format!("properties.{name}"));
    if member("principalId").is_none_or(|p| !is_guid(p)) {
        // AZURE: wording not observed
        return Err(ApiError::bad_request(
            "InvalidPrincipalId",
            "The principal ID of the role assignment is missing or is not a GUID.",
        ));
    }
    if !is_guid(write.id.name()) {
        return Err(ApiError::bad_request(
            "InvalidRoleAssignmentId",
            format!(
                "The role assignment ID '{}' is not valid. The role assignment ID must be a GUID.",
                write.id.name()
            ),
        ));
    }
    let role = member("roleDefinitionId").unwrap_or_default();
    if !rbac::is_known(ctx.snapshot, role) {
        let guid = role.rsplit('/').next().unwrap_or_default();
        return Err(ApiError::bad_request(
            "RoleDefinitionDoesNotExist",
            format!("The specified role definition with ID '{guid}' does not exist."),
        ));
    }
    Ok(())
}

fn assignment_unique(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let scope = write.id.parent();
    let prefix = format!(
        "{}/providers/microsoft.authorization/roleassignments/",
        scope.as_ref().map(ResourceId::key).unwrap_or_default()
    );
    let same = |a, b, name: &str| {
        let path = format!("properties.{name}");
        let value = |v| document::str_at(v, &path).unwrap_or_default().rsplit('/').next().unwrap_or_default();
        value(a).eq_ignore_ascii_case(value(b))
    };
    let twin = ctx.snapshot.with_key_prefix(&prefix).find(|d| {
        d.id != *write.id && same(&d.body, &write.body, "principalId") && same(&d.body, &write.body, "roleDefinitionId")
    });
    match twin {
        Some(_) => Err(ApiError::new(409, "RoleAssignmentExists", "The role assignment already exists.")),
        None => Ok(()),
    }
}

fn definition_custom(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if rbac::built_in(write.id.name()).is_some() {
        // AZURE: wording not observed
        return Err(ApiError::bad_request(
            "RoleDefinitionIsBuiltIn",
            format!("The role definition '{}' is built in and cannot be changed.", write.id.name()),
        ));
    }
    if document::str_at(&write.body, "properties.roleName").is_none_or(str::is_empty) {
        // AZURE: wording not observed
        return Err(ApiError::bad_request("RoleDefinitionNameNullOrEmpty", "The role definition has no 'roleName'."));
    }
    Ok(())
}

fn is_guid(text: &str) -> bool {
    uuid::Uuid::try_parse(text).is_ok_and(|u| u.hyphenated().to_string().eq_ignore_ascii_case(text))
}
