//! The one way a document is written: checks in order, completion, batch, answer.
//!
//! A PUT or PATCH of a document and a PUT of an embedded child all end here with the whole new
//! document, so a rule about a subnet bites the same way whichever way the subnet came.

use std::collections::{BTreeMap, BTreeSet};

use moat_arm::{ApiError, Batch, ResourceId, Stored, document};
use moat_model::ResourceType;
use moat_model::resource_type::{Completion, Scope, Write};
use serde_json::{Value, json};

use crate::operation::{self, Follows, Operation};
use crate::request::{Decision, Method};
use crate::world::World;
use crate::{access, body, embedded, render};

/// What is to be written.
pub(crate) struct Asked<'a> {
    pub(crate) kind: &'static ResourceType,
    pub(crate) id: &'a ResourceId,
    pub(crate) before: Option<&'a Stored>,
    /// The whole new document.
    pub(crate) body: Value,
    /// A state that the platform sets.
    pub(crate) state: Option<Value>,
    pub(crate) answer: Answer<'a>,
}

/// Which part of the document the client gets back.
pub(crate) enum Answer<'a> {
    Document,
    Child { kind: &'static ResourceType, array: &'a str, name: &'a str, created: bool },
}

/// Checks, completes and writes.
pub(crate) fn document(w: &World<'_>, asked: &Asked<'_>) -> Result<Decision, ApiError> {
    let (kind, id) = (asked.kind, asked.id);
    let before = asked.before.map(|b| &b.body);
    let ctx = w.type_ctx();
    let mut write = Write { id, before, body: asked.body.clone() };
    let mut extra = Batch::default();

    // What the platform observed is recorded as it is; only what is asked for can be refused.
    let status_only = w.by_service() && w.request.method == Method::Patch;
    if !status_only {
        (kind.inherit)(&ctx, &mut write);
    }
    private_member(w, &mut write);
    let children = Children::of(w, kind, &mut write)?;
    if !status_only {
        for refusal in kind.refusals {
            (refusal.check)(&ctx, &write)?;
        }
        references(w, asked, &write.body, &children)?;
        children.check_and_complete(&ctx, &mut write, &mut extra)?;
        if kind.completion == Completion::Reconciled {
            document::remove(&mut write.body, "properties.provisioningState");
        }
        (kind.complete)(&ctx, &mut write)?;
        (kind.on_write)(&ctx, &write, &mut extra)?;
    }
    match &asked.state {
        Some(state) => document::set(&mut write.body, "properties.provisioningState", state.clone()),
        None if kind.completion == Completion::Reconciled && !status_only => {
            let state = if before.is_some() { "Updating" } else { "Creating" };
            document::set_default(&mut write.body, "properties.provisioningState", json!(state));
        }
        None => {}
    }

    let stored = Stored {
        id: id.clone(),
        body: write.body,
        seq: w.next_seq(),
        created_seq: asked.before.map_or_else(|| w.next_seq(), |b| b.created_seq),
    };
    let mut batch = Batch::default();
    batch.put(id.clone(), stored.body.clone());
    batch.changes.append(&mut extra.changes);
    let (target_kind, target, created) = match asked.answer {
        Answer::Document => (kind, id.clone(), before.is_none()),
        Answer::Child { kind, name, created, .. } => {
            (kind, id.child(kind.name.rsplit('/').next().unwrap_or_default(), name), created)
        }
    };
    // An operation follows the document that is stored, also when a child was asked for.
    let later = w.request.method == Method::Patch && kind.answers_by_operation(w.api_version());
    let headers = operation_headers(w, kind, later, &stored, &mut batch);
    batch.audit.operation = format!("{}/write", target_kind.name);
    if later && !headers.is_empty() {
        return Ok(Decision { headers, batch, ..Decision::empty(202) });
    }
    if kind.completion == Completion::Accepted && !headers.is_empty() {
        return Ok(Decision { headers, batch, ..Decision::answer(202, json!({})) });
    }
    let body = match asked.answer {
        Answer::Document => render::resource(w, kind, &stored),
        Answer::Child { kind: child, array, name, .. } => match embedded::find(&stored.body, array, name) {
            Some(element) => render::child(w, kind, child, &stored, element),
            None => return Err(super::get::not_found_child(&target)),
        },
    };
    Ok(Decision { status: if created { target_kind.created_status } else { 200 }, headers, body: Some(body), batch })
}

/// `moat` holds what the platform keeps about a document (see [`body::PRIVATE`]): a client can
/// neither set nor lose it.
fn private_member(w: &World<'_>, write: &mut Write<'_>) {
    if w.by_service() && document::at(&write.body, body::PRIVATE).is_some() {
        return;
    }
    document::remove(&mut write.body, body::PRIVATE);
    if let Some(kept) = write.before.and_then(|b| document::at(b, body::PRIVATE)) {
        document::set(&mut write.body, body::PRIVATE, kept.clone());
    }
}

/// Remembers the operation, if the type or this answer completes `later`, and says where to poll.
fn operation_headers(
    w: &World<'_>,
    kind: &'static ResourceType,
    later: bool,
    stored: &Stored,
    batch: &mut Batch,
) -> Vec<(&'static str, String)> {
    let follows = operation::of_completion(kind.completion).or(later.then_some(Follows::Commit));
    let Some(follows) = follows else { return Vec::new() };
    if w.step || w.by_service() {
        return Vec::new();
    }
    let location = operation::location(w, &stored.id, &stored.body);
    let result = later.then(|| render::resource(w, kind, stored));
    let urls = operation::begin(w, &Operation { target: &stored.id, follows, result, location: &location }, batch);
    let mut headers =
        vec![("Azure-AsyncOperation", urls.status), ("Retry-After", operation::RETRY_AFTER_SECONDS.to_owned())];
    if later || kind.completion == Completion::Accepted {
        headers.push(("Location", urls.result));
    }
    headers
}

/// One embedded child of the new document.
struct Child {
    kind: &'static ResourceType,
    array: &'static str,
    /// Where in the array it stands.
    at: usize,
    name: String,
    /// The element before, if there was one.
    before: Option<Value>,
    /// New, or not as before.
    changed: bool,
}

/// The embedded children of a write, and those that went away.
struct Children {
    here: Vec<Child>,
    gone: Vec<(&'static ResourceType, ResourceId, Value)>,
}

impl Children {
    /// Brings the arrays of `write` into stored form and compares them with what was there.
    fn of(w: &World<'_>, kind: &'static ResourceType, write: &mut Write<'_>) -> Result<Self, ApiError> {
        let mut all = Children { here: Vec::new(), gone: Vec::new() };
        let nothing = Value::Null;
        let old = write.before.unwrap_or(&nothing);
        for (child, array) in w.embedded_in(kind) {
            let segment = child.name.rsplit('/').next().unwrap_or_default();
            match document::at(&write.body, array) {
                Some(Value::Array(_)) => {}
                None => document::set(&mut write.body, array, json!([])),
                Some(_) => {
                    return Err(invalid_format(array, &format!("'{array}' is not an array")));
                }
            }
            // By name, since a search for each of a thousand rules would be a million comparisons.
            let mut known = BTreeMap::new();
            for element in document::array_at(old, array) {
                let name = document::str_at(element, "name").unwrap_or_default();
                known.entry(name.to_ascii_lowercase()).or_insert(element);
            }
            let mut seen = BTreeSet::new();
            let mut elements = Vec::new();
            for element in document::array_at(&write.body, array) {
                let Some(name) = document::str_at(element, "name").filter(|n| !n.is_empty()) else {
                    return Err(invalid_format(array, &format!("an element of '{array}' has no name")));
                };
                if document::at(element, "properties").is_some_and(|p| !p.is_object()) {
                    return Err(invalid_format(array, &format!("'properties' of '{name}' is not an object")));
                }
                if name.contains('/') || name.chars().any(char::is_control) {
                    return Err(invalid_format(array, &format!("the name '{}' is not allowed", name.escape_debug())));
                }
                if !seen.insert(name.to_lowercase()) {
                    return Err(ApiError::bad_request(
                        "DuplicateResourceName",
                        format!("Resource {} has two child resources with the same name ({name}).", write.id),
                    ));
                }
                let before = known.get(&name.to_ascii_lowercase()).map(|b| (*b).clone());
                let name = before.as_ref().and_then(|b| document::str_at(b, "name")).unwrap_or(name).to_owned();
                let mut form = embedded::stored_form(element, &name);
                let id = write.id.child(segment, &name);
                let mut inner = Write { id: &id, before: before.as_ref(), body: form };
                (child.inherit)(&w.type_ctx(), &mut inner);
                form = inner.body;
                let changed = before.as_ref() != Some(&form);
                all.here.push(Child { kind: child, array, at: elements.len(), name, before, changed });
                elements.push(form);
            }
            for element in document::array_at(old, array) {
                let name = document::str_at(element, "name").unwrap_or_default();
                if !seen.contains(&name.to_lowercase()) {
                    all.gone.push((child, write.id.child(segment, name), element.clone()));
                }
            }
            document::set(&mut write.body, array, Value::Array(elements));
        }
        Ok(all)
    }

    fn changed<'s, 'p>(&'s self, parent: &'p Value) -> impl Iterator<Item = (&'s Child, &'p Value)> {
        self.here.iter().filter(|c| c.changed).filter_map(move |c| {
            // Where it stood when it was read, unless something was put before it since.
            let there = document::array_at(parent, c.array).get(c.at);
            let named = there.filter(|e| document::str_at(e, "name") == Some(&c.name));
            Some((c, named.or_else(|| embedded::find(parent, c.array, &c.name))?))
        })
    }

    /// Runs each changed child's own rules and completion, and `on_delete` of those gone.
    fn check_and_complete(
        &self,
        ctx: &moat_model::TypeCtx<'_>,
        parent: &mut Write<'_>,
        extra: &mut Batch,
    ) -> Result<(), ApiError> {
        for (kind, id, element) in &self.gone {
            (kind.on_delete)(ctx, id, element, extra)?;
        }
        let mut completed = Vec::new();
        for (child, element) in self.changed(&parent.body) {
            let segment = child.kind.name.rsplit('/').next().unwrap_or_default();
            let id = parent.id.child(segment, &child.name);
            let mut write = Write { id: &id, before: child.before.as_ref(), body: element.clone() };
            for refusal in child.kind.refusals {
                (refusal.check)(ctx, &write)?;
            }
            (child.kind.complete)(ctx, &mut write)?;
            (child.kind.on_write)(ctx, &write, extra)?;
            completed.push((child, write.body));
        }
        for (child, element) in completed {
            let there = document::array_at_mut(&mut parent.body, child.array).and_then(|all| all.get_mut(child.at));
            match there.filter(|e| document::str_at(e, "name") == Some(&child.name)) {
                Some(slot) => *slot = element,
                None => embedded::splice(&mut parent.body, child.array, &child.name, element),
            }
        }
        Ok(())
    }
}

fn invalid_format(target: &str, why: &str) -> ApiError {
    ApiError::bad_request("InvalidRequestFormat", format!("Cannot parse the request: {why}.")).with_target(target)
}

/// Every document that the new version newly points at must exist, and the caller must be allowed
/// to link to it.
fn references(w: &World<'_>, asked: &Asked<'_>, body: &Value, children: &Children) -> Result<(), ApiError> {
    let mut wanted = (asked.kind.references)(body);
    let mut had = asked.before.map(|b| (asked.kind.references)(&b.body)).unwrap_or_default();
    for (child, element) in children.changed(body) {
        wanted.extend((child.kind.references)(element));
        if let Some(before) = &child.before {
            had.extend((child.kind.references)(before));
        }
    }
    let had: BTreeSet<String> = had.into_iter().map(|t| t.to_lowercase()).collect();
    let mut linked = Vec::new();
    let mut seen = BTreeSet::new();
    for text in wanted {
        if had.contains(&text.to_lowercase()) || !seen.insert(text.to_lowercase()) {
            continue;
        }
        let Ok(id) = ResourceId::parse(&text) else {
            return Err(ApiError::bad_request(
                "LinkedInvalidPropertyId",
                format!(
                    "Property id '{text}' of resource '{}' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{{subscriptionId}}' or '/providers/{{resourceProviderNamespace}}/'.",
                    asked.id
                ),
            ));
        };
        linked.push(id);
    }
    let get = |i: &ResourceId| if i == asked.id { Some(body) } else { w.snapshot.get(i).map(|d| &d.body) };
    for id in &linked {
        // A type nobody can create here cannot be missing either: its ids are taken on trust.
        let known = w.find(&id.resource_type()).is_some() || parent_kind(w, id).is_some();
        if known && !embedded::exists(&get, id) {
            return Err(ApiError::invalid_reference(id.as_str(), asked.id));
        }
    }
    linked.retain(|id| !id.is_within(asked.id));
    access::require_links(w, &format!("{}/write", asked.kind.name), asked.id, &linked)
}

fn parent_kind(w: &World<'_>, id: &ResourceId) -> Option<&'static ResourceType> {
    if id.names().len() < 2 {
        return None;
    }
    w.find(&id.parent()?.resource_type()).filter(|k| !matches!(k.scope, Scope::Embedded(_)))
}
