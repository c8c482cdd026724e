//! Tenants, subscriptions and resource providers: what is there before any document.

use moat_arm::{ApiError, ResourceId};
use serde_json::{Value, json};

use crate::decide::method_not_allowed;
use crate::request::{Decision, Method};
use crate::world::World;
use crate::{access, body, locations, providers, tags};

/// An environment has one subscription; others do not exist.
pub(crate) fn in_subscription(w: &World<'_>, subscription: Option<&str>) -> Result<(), ApiError> {
    match subscription {
        Some(s) if !s.eq_ignore_ascii_case(&w.ctx.subscription) => {
            Err(ApiError::new(404, "SubscriptionNotFound", format!("The subscription '{s}' could not be found.")))
        }
        _ => Ok(()),
    }
}

/// `GET /tenants`.
pub(crate) fn tenants(w: &World<'_>) -> Result<Decision, ApiError> {
    let tenant = &w.ctx.tenant;
    Ok(Decision::answer(
        200,
        json!({"value": [{
            "id": format!("/tenants/{tenant}"), "tenantId": tenant, "displayName": "Moat",
            "countryCode": "US", "domains": [], "tenantCategory": "Home",
        }]}),
    ))
}

/// `GET /subscriptions`: those the caller may read anything in, perhaps none.
pub(crate) fn subscriptions(w: &World<'_>) -> Result<Decision, ApiError> {
    let scope = ResourceId::subscription_scope(&w.ctx.subscription);
    let visible = access::allowed(w, "Microsoft.Resources/subscriptions/read", Some(&scope));
    let value: Vec<Value> = visible.then(|| describe(w)).into_iter().collect();
    let count = value.len();
    Ok(Decision::answer(200, json!({"value": value, "count": {"type": "Total", "value": count}})))
}

/// `GET /subscriptions/{s}`.
pub(crate) fn subscription(w: &World<'_>) -> Result<Decision, ApiError> {
    let scope = ResourceId::subscription_scope(&w.ctx.subscription);
    access::require(w, "Microsoft.Resources/subscriptions/read", Some(&scope))?;
    Ok(Decision::answer(200, describe(w)))
}

fn describe(w: &World<'_>) -> Value {
    let subscription = &w.ctx.subscription;
    json!({
        "id": format!("/subscriptions/{subscription}"),
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
        "tags": tags::of_subscription(w),
        "subscriptionId": subscription,
        "tenantId": w.ctx.tenant,
        "displayName": "Moat",
        "state": "Enabled",
        "subscriptionPolicies": {
            "locationPlacementId": "Public_2014-09-01", "quotaId": "Internal_2014-09-01", "spendingLimit": "Off",
        },
    })
}

/// `GET .../providers[/{namespace}]` and `POST .../providers/{namespace}/register`: metadata made
/// from the type table. Everything that is built is registered, always.
pub(crate) fn providers(w: &World<'_>, namespace: Option<&str>, verb: Option<&str>) -> Result<Decision, ApiError> {
    let in_path = w.request.path.split('/').filter(|s| !s.is_empty()).nth(1);
    let subscribed = w.request.path.trim_start_matches('/').to_ascii_lowercase().starts_with("subscriptions/");
    in_subscription(w, in_path.filter(|_| subscribed))?;
    let scope = subscribed.then(|| ResourceId::subscription_scope(&w.ctx.subscription));
    match (w.request.method, verb) {
        (Method::Get | Method::Head, None) => {
            // Metadata at the tenant is public; below a subscription it is the subscription's.
            if scope.is_some() {
                access::require(w, "Microsoft.Resources/subscriptions/providers/read", scope.as_ref())?;
            }
        }
        (Method::Post, Some(verb)) => {
            let namespace = namespace.unwrap_or_default();
            access::require(w, &format!("{namespace}/{verb}/action"), scope.as_ref())?;
        }
        _ => return Err(method_not_allowed(w)),
    }
    let mut namespaces: Vec<&str> = w.all_types().map(|t| t.namespace()).collect();
    namespaces.push("Microsoft.Resources");
    namespaces.sort_unstable();
    namespaces.dedup();
    match namespace {
        None => {
            let value: Vec<Value> = namespaces.iter().map(|n| describe_provider(w, n)).collect();
            Ok(Decision::answer(200, json!({ "value": value })))
        }
        Some(wanted) => match namespaces.iter().find(|n| n.eq_ignore_ascii_case(wanted)) {
            Some(found) => Ok(Decision::answer(200, describe_provider(w, found))),
            None => Err(ApiError::new(
                404,
                "InvalidResourceNamespace",
                format!("The resource namespace '{wanted}' is invalid."),
            )),
        },
    }
}

fn describe_provider(w: &World<'_>, namespace: &str) -> Value {
    let regions: Vec<&str> = locations::display_names().collect();
    let mut kinds: Vec<(&str, Vec<&str>)> = w
        .all_types()
        .filter(|t| t.namespace() == namespace)
        .filter_map(|t| Some((t.name.split_once('/')?.1, t.api_versions.to_vec())))
        .collect();
    if namespace == "Microsoft.Resources" {
        for kind in ["subscriptions", "resourceGroups", "deployments", "subscriptions/resourceGroups"] {
            kinds.push((kind, vec!["2025-04-01", "2024-11-01", "2022-12-01", "2020-06-01"]));
        }
    }
    let kinds: Vec<Value> = kinds
        .into_iter()
        .map(|(name, mut versions)| {
            if versions.is_empty() {
                versions.push("2024-11-01");
            }
            let mut entry = json!({
                "resourceType": name, "locations": regions, "apiVersions": versions,
                "defaultApiVersion": versions[0], "zoneMappings": [],
                "capabilities": "CrossResourceGroupResourceMove, CrossSubscriptionResourceMove, SupportsTags, SupportsLocation",
            });
            providers::describe(&format!("{namespace}/{name}"), &mut entry);
            entry
        })
        .collect();
    let mut provider = json!({
        "id": format!("/subscriptions/{}/providers/{namespace}", w.ctx.subscription),
        "namespace": namespace,
        "registrationPolicy": "RegistrationRequired",
        "registrationState": "Registered",
        "resourceTypes": kinds,
    });
    if let Some(authorizations) = providers::authorizations(namespace) {
        provider["authorizations"] = authorizations;
    }
    provider
}

/// `POST {scope}/providers/{namespace}/{action}`: the one that clients call is
/// `checkNameAvailability`, which asks whether a globally unique name is free.
pub(crate) fn provider_action(w: &World<'_>, scope: Option<&ResourceId>, kind: &str) -> Result<Decision, ApiError> {
    let (namespace, action) = kind.split_once('/').unwrap_or((kind, ""));
    if !action.eq_ignore_ascii_case("checkNameAvailability") {
        return Err(match w.find_or_refuse(kind) {
            Ok(_) => method_not_allowed(w),
            Err(unknown) => unknown,
        });
    }
    access::require(w, &format!("{namespace}/checkNameAvailability/read"), scope)?;
    let asked = body::object(w.request.body.as_deref())?;
    let name = moat_arm::document::str_at(&asked, "name").unwrap_or_default();
    let of = moat_arm::document::str_at(&asked, "type").unwrap_or_default();
    let kind = w.find_or_refuse(of)?;
    if let Some((reason, message)) = (kind.name_problem)(name) {
        return Ok(Decision::answer(200, json!({"nameAvailable": false, "reason": reason, "message": message})));
    }
    let taken = w.snapshot.of_type(kind.name).any(|d| d.id.name().eq_ignore_ascii_case(name));
    Ok(Decision::answer(
        200,
        if taken {
            json!({
                "nameAvailable": false, "reason": "AlreadyExists",
                "message": format!("The name '{name}' is already taken."),
            })
        } else {
            json!({ "nameAvailable": true })
        },
    ))
}
