//! One request, decided. Reads top to bottom: where does the path lead, is the request well
//! formed, who may, and then the verb.

use moat_arm::{ApiError, ResourceId, Snapshot};
use moat_model::ResourceType;
use moat_model::resource_type::Scope;

use crate::catalogue::{DEPLOYMENTS, TAGS};
use crate::path::{self, Target};
use crate::request::{ArmRequest, Ctx, Decision, Method};
use crate::verbs::{action, delete, get, list, patch, put};
use crate::world::{Types, World};
use crate::{deployment, export, groups, locations, operation, scopes, tags};

/// Longest name of a resource, in characters.
const NAME_CHARS_MAX: usize = 260;

/// Decides `request` in the world of `snapshot`. Deterministic; never a 5xx.
///
/// One writer runs decisions one after the other on its working snapshot and commits each batch
/// before the next: operation documents and etags count on their commit being `snapshot.seq() + 1`.
pub fn decide(snapshot: &Snapshot, request: &ArmRequest, ctx: &Ctx) -> Decision {
    decide_with(moat_model::types::ALL, snapshot, request, ctx)
}

/// [`decide`] with another table of types.
pub fn decide_with(types: Types, snapshot: &Snapshot, request: &ArmRequest, ctx: &Ctx) -> Decision {
    let world = World { types, snapshot, request, ctx, step: false };
    decide_in(&world).unwrap_or_else(|e| Decision::refuse(&e))
}

/// [`decide_with`] for a world that is already put together.
pub(crate) fn decide_in(w: &World<'_>) -> Result<Decision, ApiError> {
    let target = path::parse(&w.request.path)?;
    api_version(w)?;
    let mut decision = match target {
        Target::Tenants => only_get(w, || scopes::tenants(w)),
        Target::Subscriptions => only_get(w, || scopes::subscriptions(w)),
        Target::Locations => only_get(w, || {
            scopes::in_subscription(w, first_subscription(&w.request.path))?;
            Ok(Decision::answer(200, locations::list(&w.ctx.subscription)))
        }),
        Target::Providers { namespace, verb } => scopes::providers(w, namespace.as_deref(), verb.as_deref()),
        Target::Groups(scope) => {
            scopes::in_subscription(w, scope.subscription())?;
            only_get(w, || groups::list(w, &scope))
        }
        Target::Resources(scope) => {
            scopes::in_subscription(w, scope.subscription())?;
            only_get(w, || list::resources(w, &scope))
        }
        Target::Operation { guid, result } => only_get(w, || operation::poll(w, &guid, result)),
        Target::Item(id) => {
            scopes::in_subscription(w, id.subscription())?;
            item(w, &id)
        }
        Target::Members { scope, kind } => {
            scopes::in_subscription(w, scope.as_ref().and_then(ResourceId::subscription))?;
            members(w, scope.as_ref(), &kind)
        }
        Target::Below { id, name } => {
            scopes::in_subscription(w, id.subscription())?;
            below(w, &id, &name)
        }
    }?;
    if w.request.method == Method::Head {
        decision.body = None;
    }
    if !decision.batch.is_empty() {
        audit(w, &mut decision);
    }
    Ok(decision)
}

/// A subscription, a group, or a resource.
fn item(w: &World<'_>, id: &ResourceId) -> Result<Decision, ApiError> {
    if id.namespace().is_none() {
        return match id.resource_group() {
            Some(_) => groups::decide(w, id),
            None => only_get(w, || scopes::subscription(w)),
        };
    }
    if id.resource_type().eq_ignore_ascii_case(&format!("{DEPLOYMENTS}/operations")) {
        return only_get(w, || deployment::one_operation(w, id));
    }
    let kind = w.find_or_refuse(&id.resource_type())?;
    fits_scope(kind, id)?;
    names(id)?;
    let id = w.canonical(id, kind);
    if kind.name == DEPLOYMENTS {
        return deployment::item(w, kind, &id);
    }
    if kind.name == TAGS {
        return tags::decide(w, &id);
    }
    match w.request.method {
        Method::Get | Method::Head => get::get(w, kind, &id),
        Method::Put => put::put(w, kind, &id),
        Method::Patch => patch::patch(w, kind, &id),
        Method::Delete => delete::delete(w, kind, &id),
        Method::Post => Err(method_not_allowed(w)),
    }
}

/// `{scope}/providers/{type}`.
fn members(w: &World<'_>, scope: Option<&ResourceId>, kind: &str) -> Result<Decision, ApiError> {
    if w.request.method == Method::Post {
        return scopes::provider_action(w, scope, kind);
    }
    let kind = w.find_or_refuse(kind)?;
    only_get(w, || list::members(w, kind, scope))
}

/// `{id}/{name}`: children, a reading or an action.
fn below(w: &World<'_>, id: &ResourceId, name: &str) -> Result<Decision, ApiError> {
    if id.namespace().is_none() {
        let exports = id.resource_group().is_some() && name.eq_ignore_ascii_case("exportTemplate");
        return match w.request.method {
            Method::Post if exports => export::decide(w, id),
            _ => Err(unknown_segment(w, name)),
        };
    }
    let kind = w.find_or_refuse(&id.resource_type())?;
    fits_scope(kind, id)?;
    let id = w.canonical(id, kind);
    if kind.name == DEPLOYMENTS {
        return deployment::below(w, kind, &id, name);
    }
    let reads = matches!(w.request.method, Method::Get | Method::Head);
    if reads && let Ok(child) = w.find_or_refuse(&format!("{}/{name}", kind.name)) {
        return list::children(w, kind, child, &id);
    }
    if reads && let Some(reading) = kind.readings.iter().find(|r| r.name.eq_ignore_ascii_case(name)) {
        return action::reading(w, kind, reading, &id);
    }
    match kind.actions.iter().find(|a| a.name.eq_ignore_ascii_case(name)) {
        Some(found) if w.request.method == Method::Post => action::action(w, kind, found, &id),
        Some(_) => Err(method_not_allowed(w)),
        None if reads => {
            Err(w.find_or_refuse(&format!("{}/{name}", kind.name)).err().unwrap_or_else(|| unknown_segment(w, name)))
        }
        None => Err(unknown_segment(w, name)),
    }
}

/// A version must be named on every call, in ARM's form: a date with an optional suffix.
fn api_version(w: &World<'_>) -> Result<(), ApiError> {
    let Some(version) = w.request.query.get("api-version").filter(|v| !v.is_empty()) else {
        return Err(ApiError::bad_request(
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        ));
    };
    let bytes = version.as_bytes();
    let date = bytes.len() >= 10
        && bytes[..10].iter().enumerate().all(|(i, b)| if i == 4 || i == 7 { *b == b'-' } else { b.is_ascii_digit() });
    let suffix = bytes.get(10..).unwrap_or_default();
    let tail = suffix.is_empty()
        || (suffix[0] == b'-'
            && suffix.len() > 1
            && suffix[1..].iter().all(|b| b.is_ascii_alphanumeric() || *b == b'.'));
    if date && tail {
        return Ok(());
    }
    Err(ApiError::bad_request("InvalidApiVersionParameter", format!("The api-version '{version}' is invalid.")))
}

/// A type of a resource group cannot be addressed without one.
fn fits_scope(kind: &ResourceType, id: &ResourceId) -> Result<(), ApiError> {
    let wrong = |where_: &str| {
        // AZURE: wording not observed
        Err(ApiError::new(
            404,
            "InvalidResourceScope",
            format!("The resource type '{}' lives in a {where_}, and '{id}' does not name one.", kind.name),
        ))
    };
    match kind.scope {
        Scope::Group | Scope::Embedded(_) if id.resource_group().is_none() => wrong("resource group"),
        Scope::Subscription if id.subscription().is_none() => wrong("subscription"),
        _ => Ok(()),
    }
}

/// Names hold no characters that ARM keeps for itself.
fn names(id: &ResourceId) -> Result<(), ApiError> {
    for name in id.names() {
        let odd = name.chars().find(|c| c.is_control() || "<>%&\\?#*:\"|".contains(*c));
        if odd.is_some() || name.chars().count() > NAME_CHARS_MAX || name.ends_with(['.', ' ']) {
            return Err(ApiError::bad_request(
                "InvalidResourceName",
                format!(
                    "Resource name {name} is invalid. The name can be up to {NAME_CHARS_MAX} characters long; it may not end with '.' or a space, and may not contain < > % & \\ ? # * : \" |."
                ),
            ));
        }
    }
    Ok(())
}

fn only_get(w: &World<'_>, read: impl FnOnce() -> Result<Decision, ApiError>) -> Result<Decision, ApiError> {
    if matches!(w.request.method, Method::Get | Method::Head) { read() } else { Err(method_not_allowed(w)) }
}

pub(crate) fn method_not_allowed(w: &World<'_>) -> ApiError {
    ApiError::new(
        405,
        "HttpMethodNotAllowed",
        format!("The method {} is not supported for the resource at '{}'.", verb(w.request.method), w.request.path),
    )
}

fn verb(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Put => "PUT",
        Method::Patch => "PATCH",
        Method::Post => "POST",
        Method::Delete => "DELETE",
    }
}

fn unknown_segment(w: &World<'_>, name: &str) -> ApiError {
    // AZURE: wording not observed
    ApiError::new(
        404,
        "InvalidRequestUri",
        format!("'{name}' is neither a collection nor an action that is known at '{}'.", w.request.path),
    )
}

fn first_subscription(path: &str) -> Option<&str> {
    let mut segments = path.split('/').filter(|s| !s.is_empty());
    segments.next().filter(|s| s.eq_ignore_ascii_case("subscriptions")).and_then(|_| segments.next())
}

/// Who and what, kept with every change.
fn audit(w: &World<'_>, decision: &mut Decision) {
    let audit = &mut decision.batch.audit;
    audit.principal.clone_from(&w.request.principal.object_id);
    if audit.operation.is_empty() {
        audit.operation = format!("{} {}", verb(w.request.method), w.request.path);
    }
    audit.correlation = w.ctx.correlation();
}
