//! The shape of one resource type's table entry. Routing, lists, RBAC action names, parent and
//! child handling, validation and effective properties are all driven by it; nothing else may
//! switch on a type's name.

use std::collections::BTreeMap;

use moat_arm::{ApiError, Batch, ResourceId, Snapshot};
use serde_json::Value;

use crate::edition::Edition;

/// Where documents of a type live in an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In a resource group, with a location.
    Group,
    /// Below another resource, as documents of their own.
    Child,
    /// Below another resource, embedded in the parent's document at this array
    /// (for example `properties.subnets`).
    ///
    /// A write of such a child is a write of its parent: splice the child (`{name, properties}`)
    /// into the array and run the *parent's* `inherit`, `refusals`, `complete` and `on_write` on the
    /// parent's document. Of the child's own entry only `on_delete` (child id, child value) and
    /// `render` (child id, child value) are called; `render` also for each child inside an answered
    /// parent, after `id`, `name`, `type` and `etag` were put in.
    Embedded(&'static str),
    /// On any scope (locks, role assignments).
    Extension,
    /// In a subscription.
    Subscription,
}

/// How a write of a type completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// The answer is final: 200 or 201 with `provisioningState: Succeeded`.
    Sync,
    /// 201 or 200 with `Azure-AsyncOperation`; done when the data plane has applied the commit.
    Applied,
    /// 202 with `{}`, `Azure-AsyncOperation` and `Location`; done when the data plane has applied the
    /// commit (private DNS).
    Accepted,
    /// 201 or 200 with `Azure-AsyncOperation`; done when the document's own `provisioningState`
    /// becomes terminal (a reconciler writes it).
    ///
    /// DELETE by a client marks the document `Deleting` (after `on_delete` agreed); the reconciler
    /// takes the real thing down and then sends DELETE itself as the service, which removes it.
    Reconciled,
}

/// What a type's functions may know besides the snapshot: everything that is not a document.
#[derive(Debug, Clone)]
pub struct TypeCtx<'a> {
    /// The world the request meets.
    pub snapshot: &'a Snapshot,
    /// Which edition applies.
    pub edition: Edition,
    /// Request time, seconds since 1970.
    pub now: jiff::Timestamp,
    /// Tenant of the environment.
    pub tenant: &'a str,
    /// Fresh, unguessable seed of this request; derive ids with [`TypeCtx::uuid`].
    pub seed: uuid::Uuid,
    /// Public addresses the service may hand out, in order of preference. Already-used ones are
    /// skipped by the allocator.
    pub public_pool: &'a [ipnet::Ipv4Net],
    /// Who asks.
    pub principal: &'a str,
    /// The client asked for the check against the real thing to be left out (`skipValidation` of datastores).
    pub skip_validation: bool,
}

impl TypeCtx<'_> {
    /// An id that is unique to this request and `name`.
    pub fn uuid(&self, name: &str) -> uuid::Uuid {
        uuid::Uuid::new_v5(&self.seed, name.as_bytes())
    }
}

/// A write as a type sees it.
#[derive(Debug)]
pub struct Write<'a> {
    /// Whose document.
    pub id: &'a ResourceId,
    /// The document before, if it exists.
    pub before: Option<&'a Value>,
    /// The document that would be stored; `complete` edits it.
    pub body: Value,
}

/// What the service refuses: one function a rule, named by its id, shared by the server and by
/// the static checks.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    /// Kebab-case id, the same everywhere.
    pub id: &'static str,
    /// Catalogue entries it implements, for example `AML-PRE-003`; may be empty.
    pub requirements: &'static [&'static str],
    /// `Err` is what Azure answers.
    pub check: fn(&TypeCtx<'_>, &Write<'_>) -> Result<(), ApiError>,
}

/// A POST action of a type, for example `effectiveRouteTable`.
#[derive(Debug, Clone, Copy)]
pub struct Action {
    /// Last path segment, compared without case.
    pub name: &'static str,
    /// Runs it on the document with this id; the value is the request's body (`Null` for none).
    pub run: fn(&TypeCtx<'_>, &ResourceId, &Value) -> Result<ActionResult, ApiError>,
}

/// What an action answers.
#[derive(Debug)]
pub struct ActionResult {
    /// Response body; `Null` for none.
    pub body: Value,
    /// Answer with 202 and a Location that yields `body`.
    pub long_running: bool,
    /// Writes that go with it.
    pub batch: Batch,
}

/// One resource type.
#[derive(Debug)]
pub struct ResourceType {
    /// Canonical spelling, for example `Microsoft.Network/virtualNetworks`.
    pub name: &'static str,
    /// API versions to list in provider metadata, newest first; any well-formed version is accepted.
    pub api_versions: &'static [&'static str],
    /// Where it lives.
    pub scope: Scope,
    /// How writes complete.
    pub completion: Completion,
    /// `location` is required on PUT.
    pub location_required: bool,
    /// Stored and answered, but nothing acts on it yet.
    pub stored_only: bool,
    /// Clients never see it: no route, no list (node documents of a cluster).
    pub hidden: bool,
    /// Made by its first use (versions of assets): a write needs no parent document, for `on_write` makes it; a list
    /// below a missing parent is empty; actions run also before the document is there.
    pub on_demand: bool,
    /// A list below a parent that is not there is empty, though the type is made on demand; `false`: it is a 404.
    pub listed_without_parent: bool,
    /// What is answered where there is no such document.
    pub not_found: fn(&TypeCtx<'_>, &ResourceId) -> ApiError,
    /// Whether a document is in a list that was asked for with this query (`listViewType`, `hash`, `tag`, ...); the
    /// names of a query are in lower case.
    pub listed: fn(&BTreeMap<String, String>, &Value) -> bool,
    /// Whether what long-running actions of this type began is over, by the document; `None`: once the data plane has
    /// applied the commit.
    pub settled: Option<fn(&Value) -> bool>,
    /// Status of the answer to a PUT that made the resource; some clients take no other than Azure's own.
    pub created_status: u16,
    /// Since this API version PATCH and DELETE are answered by 202 and an operation, before it at once; empty: never.
    pub operations_since: &'static str,
    /// What is wrong with a name, as `checkNameAvailability` says it: reason and message.
    pub name_problem: fn(&str) -> Option<(&'static str, String)>,
    /// Runs before `refusals` on PUT and PATCH: carries over what an omitted member keeps (subnets
    /// of a VNet that was sent without `subnets`, the subnet of a cluster sent as `{}`).
    pub inherit: fn(&TypeCtx<'_>, &mut Write<'_>),
    /// Checks in order; the first refusal is the answer.
    pub refusals: &'static [Refusal],
    /// Fills in what the service adds (ids, defaults, allocated addresses). Runs after `refusals`.
    pub complete: fn(&TypeCtx<'_>, &mut Write<'_>) -> Result<(), ApiError>,
    /// Further changes that go with a write in the same batch (allocated children, other halves).
    pub on_write: fn(&TypeCtx<'_>, &Write<'_>, &mut Batch) -> Result<(), ApiError>,
    /// May this document (or embedded child) be deleted? Adds what goes with it to the batch.
    pub on_delete: fn(&TypeCtx<'_>, &ResourceId, &Value, &mut Batch) -> Result<(), ApiError>,
    /// Adds computed members to an answer (`ipConfigurations` of a subnet, node counts, ...). It sees what the platform
    /// keeps about the document (`moat`); that is taken out of the answer afterwards.
    pub render: fn(&TypeCtx<'_>, &ResourceId, &mut Value),
    /// POST actions.
    pub actions: &'static [Action],
    /// GET `{id}/{name}` answers that are not documents, for example `serviceTags` of
    /// `Microsoft.Network/locations`. A type whose documents are never stored (`locations`) may
    /// have them: they are answered whether or not the document exists if `scope` is
    /// [`Scope::Subscription`].
    pub readings: &'static [Action],
    /// Members that hold ids of other documents; used for reference checks and delete conflicts.
    pub references: fn(&Value) -> Vec<String>,
}

impl ResourceType {
    /// An entry with no behaviour; used as the base of struct-update syntax in `types/`.
    pub const BLANK: ResourceType = ResourceType {
        name: "",
        api_versions: &[],
        scope: Scope::Group,
        completion: Completion::Sync,
        location_required: true,
        stored_only: false,
        hidden: false,
        on_demand: false,
        listed_without_parent: true,
        not_found: |_, id| ApiError::not_found(id),
        listed: |_, _| true,
        settled: None,
        created_status: 201,
        operations_since: "",
        name_problem: |_| None,
        inherit: |_, _| {},
        refusals: &[],
        complete: |_, _| Ok(()),
        on_write: |_, _, _| Ok(()),
        on_delete: |_, _, _, _| Ok(()),
        render: |_, _, _| {},
        actions: &[],
        readings: &[],
        references: |_| Vec::new(),
    };

    /// Whether PATCH and DELETE of this API version are answered by an operation. Versions are dates, so texts compare.
    pub fn answers_by_operation(&self, api_version: &str) -> bool {
        !self.operations_since.is_empty() && api_version >= self.operations_since
    }

    /// `Microsoft.Network` of `Microsoft.Network/virtualNetworks`.
    pub fn namespace(&self) -> &'static str {
        self.name.split_once('/').map_or(self.name, |(n, _)| n)
    }
}
