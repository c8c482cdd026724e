//! Resource groups.
//!
//! A group is a document like others. Deleting it deletes what is in it, in an order that the
//! contents allow, or refuses as a whole.

use moat_arm::{ApiError, Batch, ResourceId, Snapshot, Stored, document};
use moat_model::resource_type::{Completion, ResourceType};
use serde_json::{Map, Value, json};

use crate::decide::method_not_allowed;
use crate::filter;
use crate::operation::Follows;
use crate::request::{ArmRequest, Decision, Method, Origin, Principal};
use crate::verbs::delete::{self, Removal};
use crate::verbs::list::{Item, page};
use crate::verbs::put;
use crate::world::World;
use crate::{access, body, locations};

const KIND: &str = "Microsoft.Resources/resourceGroups";
const ACTIONS: &str = "Microsoft.Resources/subscriptions/resourceGroups";
/// Longest name of a group, in characters.
const NAME_CHARS_MAX: usize = 90;

/// Decides a request for one group.
pub(crate) fn decide(w: &World<'_>, id: &ResourceId) -> Result<Decision, ApiError> {
    match w.request.method {
        Method::Get => {
            access::require(w, &format!("{ACTIONS}/read"), Some(id))?;
            Ok(Decision::answer(200, render(existing(w, id)?)))
        }
        Method::Head => {
            access::require(w, &format!("{ACTIONS}/read"), Some(id))?;
            existing(w, id).map(|_| Decision::empty(204))
        }
        Method::Put => create_or_replace(w, id),
        Method::Patch => patch(w, id),
        Method::Delete => delete(w, id),
        Method::Post => Err(method_not_allowed(w)),
    }
}

/// `GET /subscriptions/{s}/resourceGroups`.
pub(crate) fn list(w: &World<'_>, subscription: &ResourceId) -> Result<Decision, ApiError> {
    access::require(w, &format!("{ACTIONS}/read"), Some(subscription))?;
    let filter = w.request.query.get("$filter").map(|f| filter::parse(f)).transpose()?;
    let items = w
        .snapshot
        .below(subscription)
        .filter(|d| d.id.namespace().is_none())
        .filter(|d| {
            filter.as_ref().is_none_or(|f| {
                f.matches(&|name: &str| match name.to_ascii_lowercase().strip_prefix("tags/") {
                    Some(tag) => document::str_at(&d.body, &format!("tags.{tag}")).map(str::to_owned),
                    None if name.eq_ignore_ascii_case("name") => Some(d.id.name().to_owned()),
                    None => document::str_at(&d.body, name).map(str::to_owned),
                })
            })
        })
        .map(|d| (d.id.key().to_owned(), Item::Ready(render(d))))
        .collect();
    page(w, items)
}

fn existing<'a>(w: &World<'a>, id: &ResourceId) -> Result<&'a Stored, ApiError> {
    w.snapshot.get(id).map(AsRef::as_ref).ok_or_else(|| ApiError::group_not_found(id.name()))
}

fn render(stored: &Stored) -> Value {
    let mut out = Map::new();
    out.insert("id".to_owned(), json!(stored.id.as_str()));
    out.insert("name".to_owned(), json!(stored.id.name()));
    out.insert("type".to_owned(), json!(KIND));
    if let Value::Object(members) = &stored.body {
        out.extend(members.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
    let mut out = Value::Object(out);
    document::set_default(&mut out, "properties.provisioningState", json!("Succeeded"));
    out
}

fn create_or_replace(w: &World<'_>, id: &ResourceId) -> Result<Decision, ApiError> {
    access::require(w, &format!("{ACTIONS}/write"), Some(id))?;
    name(id.name())?;
    let mut body = body::object(w.request.body.as_deref())?;
    body::well_formed(&body)?;
    body::agrees(&body, id)?;
    body::strip(&mut body);
    let before = w.snapshot.get(id);
    if let Some(before) = before {
        put::not_going(w, before)?;
    }
    let Some(given) = document::str_at(&body, "location").filter(|l| !l.trim().is_empty()) else {
        return Err(ApiError::bad_request(
            "LocationRequired",
            "The location property is required for this definition.",
        ));
    };
    let location = locations::check(given, KIND)?;
    if let Some(old) = before.and_then(|b| document::str_at(&b.body, "location"))
        && old != location
    {
        return Err(ApiError::new(
            409,
            "InvalidResourceGroupLocation",
            format!(
                "Invalid resource group location '{location}'. The Resource group already exists in location '{old}'."
            ),
        ));
    }
    document::set(&mut body, "location", json!(location));
    Ok(write(w, id, before.map(AsRef::as_ref), body))
}

fn patch(w: &World<'_>, id: &ResourceId) -> Result<Decision, ApiError> {
    access::require(w, &format!("{ACTIONS}/write"), Some(id))?;
    let before = existing(w, id)?;
    put::not_going(w, before)?;
    let mut patch = body::object(w.request.body.as_deref())?;
    // Not its tags: a null takes one away. The merged document is checked below.
    body::properties_form(&patch)?;
    body::agrees(&patch, id)?;
    let state = document::at(&patch, "properties.provisioningState").cloned().filter(|_| w.by_service());
    body::strip(&mut patch);
    document::remove(&mut patch, "location");
    let mut merged = before.body.clone();
    document::merge(&mut merged, &patch);
    if let Some(state) = state {
        document::set(&mut merged, "properties.provisioningState", state);
    }
    body::well_formed(&merged)?;
    Ok(write(w, &before.id, Some(before), merged))
}

fn write(w: &World<'_>, id: &ResourceId, before: Option<&Stored>, body: Value) -> Decision {
    let scope = ResourceId::resource_group_scope(&w.ctx.subscription, before.map_or(id.name(), |b| b.id.name()));
    let seq = w.next_seq();
    let stored =
        Stored { id: scope.clone(), body: body.clone(), seq, created_seq: before.map_or(seq, |b| b.created_seq) };
    let mut batch = Batch::default();
    batch.put(scope, body);
    batch.audit.operation = format!("{ACTIONS}/write");
    let status = if before.is_some() { 200 } else { 201 };
    Decision { batch, ..Decision::answer(status, render(&stored)) }
}

fn delete(w: &World<'_>, id: &ResourceId) -> Result<Decision, ApiError> {
    access::require(w, &format!("{ACTIONS}/delete"), Some(id))?;
    let group = existing(w, id)?;
    let mut batch = Batch::default();
    batch.audit.operation = format!("{ACTIONS}/delete");
    let removal = empty(w, group, &mut batch)?;
    let follows = match removal {
        Removal::Done => {
            batch.delete(group.id.clone());
            Follows::Commit
        }
        Removal::Waits => {
            let mut body = group.body.clone();
            document::set(&mut body, "properties.provisioningState", json!("Deleting"));
            batch.put(group.id.clone(), body);
            Follows::Removal
        }
    };
    let location = document::str_at(&group.body, "location").unwrap_or_default();
    let mut decision = delete::accepted(w, &group.id, follows, location, batch);
    // Azure sends only `Location` here: 202 until it is gone, then 200 or 204.
    decision.headers.retain(|(name, _)| *name != "Azure-AsyncOperation");
    Ok(decision)
}

/// Removes everything in the group: round by round whatever its type lets go of, each round in the
/// world that the round before left.
fn empty(w: &World<'_>, group: &Stored, batch: &mut Batch) -> Result<Removal, ApiError> {
    let waiting = deleting_first(w, group);
    if !waiting.is_empty() && !w.by_service() {
        // Computes are taken down by their reconcilers; the rest follows when they are gone.
        for (kind, stored) in waiting {
            delete::remove(w, kind, stored, batch)?;
        }
        return Ok(Removal::Waits);
    }
    let mut world = w.snapshot.clone();
    loop {
        let mut progress = false;
        let mut blocked = Vec::new();
        let here: Vec<ResourceId> = world.below(&group.id).map(|d| d.id.clone()).collect();
        for id in here {
            let mut step = Batch::default();
            // It may have gone with another one in this round.
            let Some(stored) = world.get(&id) else { continue };
            match w.find(&id.resource_type()) {
                Some(kind) => {
                    if let Err(why) = delete::remove(&World { snapshot: &world, ..*w }, kind, stored, &mut step) {
                        blocked.push((id, why));
                        continue;
                    }
                }
                None => step.delete(id),
            }
            world.amend(&step);
            batch.changes.append(&mut step.changes);
            progress = true;
        }
        if blocked.is_empty() {
            return Ok(Removal::Done);
        }
        if !progress {
            return Err(blocked_error(group, blocked));
        }
    }
}

fn deleting_first<'a>(w: &World<'a>, group: &Stored) -> Vec<(&'static ResourceType, &'a Stored)> {
    w.snapshot
        .below(&group.id)
        .filter_map(|d| Some((w.find(&d.id.resource_type())?, d.as_ref())))
        .filter(|(kind, _)| kind.completion == Completion::Reconciled)
        .collect()
}

fn blocked_error(group: &Stored, blocked: Vec<(ResourceId, ApiError)>) -> ApiError {
    let names: Vec<String> =
        blocked.iter().map(|(id, _)| format!("{}/{}", id.resource_type(), id.names().join("/"))).collect();
    let mut error = ApiError::new(
        409,
        "ResourceGroupDeletionBlocked",
        format!(
            "Deletion of resource group '{}' failed as resources with identifiers '{}' could not be deleted. The provisioning state of the resource group will be rolled back.",
            group.id.name(),
            names.join(",")
        ),
    );
    for (id, why) in blocked {
        error = error.with_detail(why.with_target(id.to_string()));
    }
    error
}

fn name(name: &str) -> Result<(), ApiError> {
    let ok = |c: char| c.is_alphanumeric() || "-_.()".contains(c);
    if name.chars().all(ok) && !name.ends_with('.') && name.chars().count() <= NAME_CHARS_MAX {
        return Ok(());
    }
    // AZURE: wording not observed
    Err(ApiError::bad_request(
        "InvalidResourceGroup",
        format!(
            "The provided resource group name '{name}' is invalid. The name can only be a letter, digit, '-', '.', '(', ')' or '_', it cannot end with '.', and it has at most {NAME_CHARS_MAX} characters."
        ),
    ))
}

/// What follows from deletions that were accepted and had to wait, as requests of the service for
/// a reconciler to send: a group or resource that says `Deleting` is deleted when nothing below it
/// does any more. If a document with a reconciler of its own ([`Completion::Reconciled`]) is still
/// below, its deletion failed: the whole deletion is taken back, as Azure does.
pub fn pending_deletions(snapshot: &Snapshot) -> Vec<ArmRequest> {
    let is_reconciled =
        |kind: &str| moat_model::types::find(kind).is_some_and(|t| t.completion == Completion::Reconciled);
    let deleting = |d: &Stored| document::str_at(&d.body, "properties.provisioningState") == Some("Deleting");
    let mut requests = Vec::new();
    for d in snapshot.all().filter(|d| deleting(d) && !is_reconciled(&d.id.resource_type())) {
        if snapshot.below(&d.id).any(|below| deleting(below)) {
            continue;
        }
        let blocked = snapshot.below(&d.id).any(|below| is_reconciled(&below.id.resource_type()));
        requests.push(ArmRequest {
            method: if blocked { Method::Patch } else { Method::Delete },
            path: d.id.as_str().to_owned(),
            query: [("api-version".to_owned(), "2024-11-01".to_owned())].into(),
            body: blocked.then(|| r#"{"properties": {"provisioningState": "Succeeded"}}"#.to_owned()),
            principal: Principal::default(),
            origin: Origin::Service,
            if_match: None,
            if_none_match: None,
        });
    }
    requests
}
