//! What one decision sees: the type table, the snapshot, the request and its surroundings.

use moat_arm::{ApiError, ResourceId, Snapshot, Stored};
use moat_model::resource_type::Scope;
use moat_model::{ResourceType, TypeCtx};

use crate::catalogue;
use crate::request::{ArmRequest, Ctx, Origin};

/// The table of types, as `moat-model` declares it.
pub(crate) type Types = &'static [&'static ResourceType];

/// Everything a decision may look at.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub(crate) types: Types,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) request: &'a ArmRequest,
    pub(crate) ctx: &'a Ctx,
    /// A step of a template deployment: it is the deployment that clients poll, so steps write no
    /// operation documents of their own.
    pub(crate) step: bool,
}

impl<'a> World<'a> {
    pub(crate) fn type_ctx(&self) -> TypeCtx<'a> {
        TypeCtx {
            snapshot: self.snapshot,
            edition: self.ctx.edition,
            now: self.ctx.now,
            tenant: &self.ctx.tenant,
            seed: self.ctx.seed,
            public_pool: &self.ctx.public_pool,
            principal: &self.request.principal.object_id,
            skip_validation: self.request.query.get("skipvalidation").is_some_and(|v| v.eq_ignore_ascii_case("true")),
        }
    }

    /// Sequence number that the commit of this decision will get: one writer runs decisions one
    /// after the other on its working snapshot.
    pub(crate) fn next_seq(&self) -> u64 {
        self.snapshot.seq() + 1
    }

    /// The platform itself asks.
    pub(crate) fn by_service(&self) -> bool {
        self.request.origin == Origin::Service
    }

    /// All types: the control plane's own and the model's.
    pub(crate) fn all_types(&self) -> impl Iterator<Item = &'static ResourceType> + use<> {
        catalogue::OWN.iter().chain(self.types.iter()).copied()
    }

    /// The table entry of a type, in any case.
    pub(crate) fn find(&self, kind: &str) -> Option<&'static ResourceType> {
        self.all_types().find(|t| t.name.eq_ignore_ascii_case(kind))
    }

    /// The table entry, or why there is none.
    pub(crate) fn find_or_refuse(&self, kind: &str) -> Result<&'static ResourceType, ApiError> {
        if let Some(found) = self.find(kind)
            && (!found.hidden || self.by_service())
        {
            return Ok(found);
        }
        let (namespace, rest) = kind.split_once('/').unwrap_or((kind, ""));
        let known = self.all_types().any(|t| t.namespace().eq_ignore_ascii_case(namespace));
        Err(if known {
            ApiError::new(
                404,
                "InvalidResourceType",
                format!(
                    "The resource type '{rest}' could not be found in the namespace '{namespace}' for api version '{}'.",
                    self.api_version()
                ),
            )
        } else {
            ApiError::new(404, "InvalidResourceNamespace", format!("The resource namespace '{namespace}' is invalid."))
        })
    }

    /// `api-version` of the request, or a date that every list accepts.
    pub(crate) fn api_version(&self) -> &'a str {
        self.request.query.get("api-version").map_or("2024-11-01", String::as_str)
    }

    /// The types that live inside documents of `parent`, with the array they live in.
    pub(crate) fn embedded_in(
        &self,
        parent: &'static ResourceType,
    ) -> impl Iterator<Item = (&'static ResourceType, &'static str)> + use<> {
        self.all_types().filter_map(move |t| match t.scope {
            Scope::Embedded(path)
                if t.name.rsplit_once('/').is_some_and(|(p, _)| p.eq_ignore_ascii_case(parent.name)) =>
            {
                Some((t, path))
            }
            _ => None,
        })
    }

    /// The stored document of the group that `id` lies in.
    pub(crate) fn group_of(&self, id: &ResourceId) -> Result<Option<&'a Stored>, ApiError> {
        let (Some(subscription), Some(group)) = (id.subscription(), id.resource_group()) else { return Ok(None) };
        let scope = ResourceId::resource_group_scope(subscription, group);
        match self.snapshot.get(&scope) {
            Some(found) => Ok(Some(found)),
            None => Err(ApiError::group_not_found(group)),
        }
    }

    /// `id` in the spelling of answers: the type as the table spells it, parents and group as they
    /// were created.
    pub(crate) fn canonical(&self, id: &ResourceId, kind: &ResourceType) -> ResourceId {
        let id = id.with_type_spelling(kind.name);
        let Some(parent) = id.parent() else { return id };
        let last = kind.name.rsplit('/').next().unwrap_or_default();
        if id.names().len() > 1 {
            if let Some(parent_kind) = self.find(&parent.resource_type()) {
                return self.canonical(&parent, parent_kind).child(last, id.name());
            }
            return id;
        }
        let scope = match self.snapshot.get(&parent) {
            Some(stored) => stored.id.clone(),
            None => parent,
        };
        let namespace = kind.namespace();
        let spelled = scope.provider(namespace, last, id.name());
        match self.snapshot.get(&spelled) {
            Some(stored) => stored.id.clone(),
            None => spelled,
        }
    }
}
