//! GET of collections: at a scope, below a parent, and the generic `/resources`.
//!
//! Pages are cut by key order: `$skipToken` is the key of the last item sent, so a list stays
//! consistent while others write.

use moat_arm::access::rbac;
use moat_arm::{ApiError, ResourceId, Stored, document};
use moat_model::ResourceType;
use moat_model::resource_type::Scope;
use serde_json::{Map, Value, json};

use crate::filter::{self, Filter};
use crate::request::Decision;
use crate::world::World;
use crate::{access, body, embedded, render};

/// Items on a page when the client does not say.
const PAGE_DEFAULT: usize = 1000;

/// Documents of one type at or below a scope.
pub(crate) fn members(
    w: &World<'_>,
    kind: &'static ResourceType,
    scope: Option<&ResourceId>,
) -> Result<Decision, ApiError> {
    access::require(w, &format!("{}/read", kind.name), scope)?;
    if let Some(scope) = scope {
        w.group_of(scope)?;
    }
    if kind.scope == Scope::Extension {
        return extensions(w, kind, scope);
    }
    let Some(scope) = scope else { return page(w, Vec::new()) };
    if kind.name.matches('/').count() > 1 {
        return page(w, Vec::new());
    }
    let items = w
        .snapshot
        .below(scope)
        .filter(|d| d.id.resource_type().eq_ignore_ascii_case(kind.name))
        .map(|d| (d.id.key().to_owned(), Item::Stored(kind, d.as_ref())))
        .collect();
    page(w, items)
}

/// Children of one resource, documents or embedded.
pub(crate) fn children(
    w: &World<'_>,
    parent_kind: &'static ResourceType,
    kind: &'static ResourceType,
    parent: &ResourceId,
) -> Result<Decision, ApiError> {
    access::require(w, &format!("{}/read", kind.name), Some(parent))?;
    w.group_of(parent)?;
    let holder = w.snapshot.get(parent);
    if let Scope::Embedded(array) = kind.scope {
        let holder = holder.ok_or_else(|| ApiError::not_found(parent))?;
        let items = document::array_at(&holder.body, array)
            .iter()
            .map(|e| {
                let name = document::str_at(e, "name").unwrap_or_default().to_lowercase();
                (name, Item::Ready(render::child(w, parent_kind, kind, holder, e)))
            })
            .collect();
        return page(w, items);
    }
    // The parent may itself be embedded, made on demand, or (locations) never stored.
    if holder.is_none()
        && !kind.on_demand
        && parent_kind.scope != Scope::Subscription
        && !embedded::exists(&|i| w.snapshot.get(i).map(|d| &d.body), parent)
    {
        return Err(ApiError::not_found(parent));
    }
    if holder.is_none() && !kind.listed_without_parent {
        return Err((parent_kind.not_found)(&w.type_ctx(), parent));
    }
    let items = w
        .snapshot
        .below(parent)
        .filter(|d| d.id.resource_type().eq_ignore_ascii_case(kind.name))
        .filter(|d| (kind.listed)(&w.request.query, &d.body))
        .map(|d| (key(w, d), Item::Stored(kind, d.as_ref())))
        .collect();
    page(w, items)
}

/// What a document is sorted by: its place, or by `$orderBy` the time it was made.
fn key(w: &World<'_>, stored: &Stored) -> String {
    let order = w.request.query.get("$orderby");
    let order = order.map(|o| o.to_ascii_lowercase()).unwrap_or_default();
    let (by, direction) = order.split_once(' ').unwrap_or((order.as_str(), "asc"));
    let seq = match by {
        "createdat" | "createdtime" => stored.created_seq,
        "modifiedat" | "modifiedtime" => stored.seq,
        _ => return stored.id.key().to_owned(),
    };
    let place = if direction.trim() == "desc" { u64::MAX - seq } else { seq };
    format!("{place:020}{}", stored.id.key())
}

/// Role assignments and definitions: those at the scope, above it, and (unless `atScope()`) below.
fn extensions(w: &World<'_>, kind: &'static ResourceType, scope: Option<&ResourceId>) -> Result<Decision, ApiError> {
    let filter = w.request.query.get("$filter").map(|f| filter::parse(f)).transpose()?;
    let only_above = filter.as_ref().is_some_and(Filter::at_scope);
    let mut items = Vec::new();
    if kind.name == rbac::ROLE_DEFINITIONS {
        for role in rbac::BUILT_IN {
            let value = rbac::definition_document(role, scope.and_then(ResourceId::subscription));
            items.push((format!("0/{}", role.guid), Item::Ready(value)));
        }
    }
    for stored in w.snapshot.of_type(kind.name) {
        let on = stored.id.parent();
        let above = match (&on, scope) {
            (None, _) => true,
            (Some(on), Some(scope)) => scope.is_within(on),
            (Some(_), None) => false,
        };
        let below = match (&on, scope) {
            (Some(on), Some(scope)) => on.is_within(scope),
            (_, None) => true,
            (None, Some(_)) => false,
        };
        if above || (below && !only_above) {
            items.push((format!("1{}", stored.id.key()), Item::Ready(render::resource(w, kind, stored))));
        }
    }
    if let Some(filter) = filter {
        items.retain(|(_, item)| match item {
            Item::Ready(value) => filter.matches(&|name: &str| extension_member(value, name)),
            Item::Stored(..) => true,
        });
    }
    page(w, items)
}

fn extension_member(value: &Value, name: &str) -> Option<String> {
    // `assignedTo('x')` and `principalId eq 'x'` ask for the same thing without groups.
    let name = if name.eq_ignore_ascii_case("assignedTo") { "principalId" } else { name };
    document::str_at(value, &format!("properties.{name}")).map(str::to_owned)
}

/// `GET {scope}/resources`: every top-level resource, in the short form, really filtered.
pub(crate) fn resources(w: &World<'_>, scope: &ResourceId) -> Result<Decision, ApiError> {
    let action = if scope.resource_group().is_some() {
        "Microsoft.Resources/subscriptions/resourceGroups/resources/read"
    } else {
        "Microsoft.Resources/subscriptions/resources/read"
    };
    access::require(w, action, Some(scope))?;
    w.group_of(scope)?;
    let filter = w.request.query.get("$filter").map(|f| filter::parse(f)).transpose()?;
    let mut items = Vec::new();
    for stored in w.snapshot.below(scope) {
        let Some(kind) = w.find(&stored.id.resource_type()) else { continue };
        if kind.scope != Scope::Group || kind.hidden {
            continue;
        }
        let wanted = filter.as_ref().is_none_or(|f| f.matches(&|name: &str| resource_member(stored, name)));
        if wanted {
            items.push((stored.id.key().to_owned(), Item::Ready(short_form(w, kind, stored))));
        }
    }
    page(w, items)
}

fn resource_member(stored: &Stored, name: &str) -> Option<String> {
    let text = |path: &str| document::str_at(&stored.body, path).map(str::to_owned);
    match name.to_ascii_lowercase().as_str() {
        "resourcegroup" => stored.id.resource_group().map(str::to_owned),
        "name" => Some(stored.id.name().to_owned()),
        "resourcetype" => Some(stored.id.resource_type()),
        "location" => text("location"),
        "identity/principalid" => text("identity.principalId"),
        "plan/name" => text("plan.name"),
        // Tags are compared by the pair in filter.rs; here a tag's value by its name.
        other => {
            let tag = other.strip_prefix("tags/")?;
            document::at(&stored.body, "tags")
                .and_then(|tags| document::get(tags, tag))
                .and_then(Value::as_str)
                .map(str::to_owned)
        }
    }
}

/// The members that the generic list shows.
fn short_form(w: &World<'_>, kind: &'static ResourceType, stored: &Stored) -> Value {
    let mut out = Map::new();
    out.insert("id".to_owned(), json!(stored.id.with_type_spelling(kind.name).as_str()));
    out.insert("name".to_owned(), json!(stored.id.name()));
    out.insert("type".to_owned(), json!(kind.name));
    for member in ["location", "tags", "sku", "kind", "identity", "plan", "zones", "managedBy"] {
        if let Some(value) = document::at(&stored.body, member) {
            out.insert(member.to_owned(), value.clone());
        }
    }
    let expand = w.request.query.get("$expand").map(|e| e.to_ascii_lowercase()).unwrap_or_default();
    if expand.contains("provisioningstate")
        && let Some(state) = render::state(w, kind, stored)
    {
        out.insert("provisioningState".to_owned(), json!(state));
    }
    Value::Object(out)
}

/// Something to list: rendered only when its page is sent.
pub(crate) enum Item<'a> {
    Stored(&'static ResourceType, &'a Stored),
    Ready(Value),
}

/// Cuts the page that the query asks for out of `items` (each with its sort key, in order).
pub(crate) fn page(w: &World<'_>, mut items: Vec<(String, Item<'_>)>) -> Result<Decision, ApiError> {
    let top = match w.request.query.get("$top") {
        None => PAGE_DEFAULT,
        Some(text) => match text.parse::<usize>() {
            Ok(n) if n > 0 => n.min(PAGE_DEFAULT),
            _ => {
                return Err(ApiError::bad_request(
                    "InvalidQueryParameter",
                    format!("The query parameter '$top' is '{text}'; a number above 0 is expected."),
                ));
            }
        },
    };
    items.sort_by(|a, b| a.0.cmp(&b.0));
    let start = match (w.request.query.get("$skiptoken"), w.request.query.get("$skip")) {
        (None, None) => 0,
        (None, Some(text)) => text.parse::<usize>().map_err(|_| {
            ApiError::bad_request(
                "InvalidQueryParameter",
                format!("The query parameter '$skip' is '{text}'; a number is expected."),
            )
        })?,
        (Some(token), _) => items.partition_point(|(key, _)| key <= token),
    };
    let rest = items.get(start..).unwrap_or_default();
    let last = rest.get(..top).filter(|_| rest.len() > top).and_then(|page| page.last()).map(|(key, _)| key.clone());
    let value: Vec<Value> = items
        .into_iter()
        .skip(start)
        .take(top)
        .map(|(_, item)| match item {
            Item::Stored(kind, stored) => render::resource(w, kind, stored),
            Item::Ready(value) => value,
        })
        .collect();
    let mut out = json!({ "value": value });
    // Omitted on the last page, not null: v1 of the ML client follows the key if it is there.
    if let Some(last) = last {
        out["nextLink"] = json!(next_link(w, &last));
    }
    Ok(Decision::answer(200, out))
}

fn next_link(w: &World<'_>, last: &str) -> String {
    let path: String = w.request.path.split('/').map(body::percent_encode).collect::<Vec<_>>().join("/");
    let mut link = format!("{}{path}?", w.ctx.base_url);
    for (name, value) in &w.request.query {
        // The token says where to go on, also where the first page was reached by a number.
        if name != "$skiptoken" && name != "$skip" {
            link.push_str(&format!(
                "{}={}&",
                body::percent_encode(name).replace("%24", "$"),
                body::percent_encode(value)
            ));
        }
    }
    link.push_str(&format!("$skiptoken={}", body::percent_encode(last)));
    link
}
