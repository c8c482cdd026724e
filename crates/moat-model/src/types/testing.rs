//! The world of the tests: documents in, one write, and what came of it. Runs a type's functions in
//! the order `decide` runs them, so that tests beside a type state behaviour and not calls.
#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use moat_arm::{ApiError, Batch, Change, ResourceId, Snapshot, document};
use serde_json::{Value, json};

use crate::edition::Edition;
use crate::resource_type::{Scope, TypeCtx, Write};
use crate::types;

/// A world that takes writes as the service would.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    pub(crate) edition: Edition,
    pub(crate) now: jiff::Timestamp,
    pub(crate) principal: &'static str,
    writes: u64,
}

/// The resource group of the tests.
pub(crate) const GROUP: &str = "/subscriptions/s/resourceGroups/g";

/// `name` with the type `Microsoft.Network/...` in the tests' group: `virtualNetworks/v`.
pub(crate) fn net(tail: &str) -> String {
    format!("{GROUP}/providers/Microsoft.Network/{tail}")
}

impl World {
    pub(crate) fn new(edition: Edition) -> Self {
        Self { snapshot: Snapshot::default(), edition, now: jiff::Timestamp::UNIX_EPOCH, principal: "owner", writes: 0 }
    }

    pub(crate) fn with_ctx<T>(&self, run: impl FnOnce(&TypeCtx<'_>) -> T) -> T {
        let pool = ["20.51.0.0/29".parse().unwrap()];
        let seed = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, &self.writes.to_be_bytes());
        run(&TypeCtx {
            snapshot: &self.snapshot,
            edition: self.edition,
            now: self.now,
            tenant: "11111111-1111-1111-1111-111111111111",
            seed,
            public_pool: &pool,
            principal: self.principal,
            skip_validation: false,
        })
    }

    /// PUT; the document as stored.
    pub(crate) fn put(&mut self, id: &str, body: Value) -> Result<Value, ApiError> {
        let id = ResourceId::parse(id).unwrap();
        let kind = types::find(&id.resource_type()).unwrap_or_else(|| panic!("no type for {id}"));
        let (target, mut body) = match kind.scope {
            Scope::Embedded(array) => {
                let parent = id.parent().unwrap();
                let mut whole = self.snapshot.get(&parent).unwrap().body.clone();
                let mut child = body;
                document::set(&mut child, "name", json!(id.name()));
                if document::at(&whole, array).is_none() {
                    document::set(&mut whole, array, json!([]));
                }
                let list = types::shape::array_mut(&mut whole, array).unwrap();
                list.retain(|c| !document::str_at(c, "name").unwrap().eq_ignore_ascii_case(id.name()));
                list.push(child);
                (parent, whole)
            }
            _ => (id.clone(), body),
        };
        let target_kind = types::find(&target.resource_type()).unwrap();
        if target_kind.location_required && document::at(&body, "location").is_none() {
            document::set(&mut body, "location", json!("westus2"));
        }
        let before = self.snapshot.get(&target).map(|s| s.body.clone());
        let (stored, batch) = self.with_ctx(|ctx| {
            let mut write = Write { id: &target, before: before.as_ref(), body };
            (target_kind.inherit)(ctx, &mut write);
            for refusal in target_kind.refusals {
                (refusal.check)(ctx, &write)?;
            }
            (target_kind.complete)(ctx, &mut write)?;
            let mut batch = Batch::default();
            batch.put(target.clone(), write.body.clone());
            (target_kind.on_write)(ctx, &write, &mut batch)?;
            Ok::<_, ApiError>((write.body, batch))
        })?;
        self.writes += 1;
        self.snapshot.apply(&batch);
        Ok(match kind.scope {
            Scope::Embedded(array) => {
                crate::refs::named(document::array_at(&stored, array), id.name()).unwrap().clone()
            }
            _ => stored,
        })
    }

    /// DELETE.
    pub(crate) fn delete(&mut self, id: &str) -> Result<(), ApiError> {
        let id = ResourceId::parse(id).unwrap();
        let kind = types::find(&id.resource_type()).unwrap();
        let body = crate::refs::find(&self.snapshot, &id).unwrap().clone();
        let mut batch = Batch::default();
        match kind.scope {
            Scope::Embedded(array) => {
                let parent = id.parent().unwrap();
                let mut whole = self.snapshot.get(&parent).unwrap().body.clone();
                types::shape::array_mut(&mut whole, array)
                    .unwrap()
                    .retain(|c| !document::str_at(c, "name").unwrap().eq_ignore_ascii_case(id.name()));
                batch.put(parent, whole);
            }
            _ => batch.delete(id.clone()),
        }
        self.with_ctx(|ctx| (kind.on_delete)(ctx, &id, &body, &mut batch))?;
        self.writes += 1;
        self.snapshot.apply(&batch);
        Ok(())
    }

    /// GET, with what the type renders.
    pub(crate) fn get(&self, id: &str) -> Value {
        let id = ResourceId::parse(id).unwrap();
        let kind = types::find(&id.resource_type()).unwrap();
        let mut body = crate::refs::find(&self.snapshot, &id).unwrap().clone();
        self.with_ctx(|ctx| (kind.render)(ctx, &id, &mut body));
        body
    }

    /// POST of an action.
    pub(crate) fn post(&mut self, id: &str, action: &str, body: Value) -> Result<Value, ApiError> {
        let id = ResourceId::parse(id).unwrap();
        let kind = types::find(&id.resource_type()).unwrap();
        let action = kind.actions.iter().find(|a| a.name.eq_ignore_ascii_case(action)).unwrap();
        let result = self.with_ctx(|ctx| (action.run)(ctx, &id, &body))?;
        self.snapshot.apply(&result.batch);
        Ok(result.body)
    }

    /// Stores a document past all checks.
    pub(crate) fn store(&mut self, id: &str, body: Value) {
        let changes = vec![Change::Put { id: ResourceId::parse(id).unwrap(), body }];
        self.snapshot.apply(&Batch { changes, ..Batch::default() });
    }
}

/// Id of a cluster in the tests' workspace.
pub(crate) fn cluster_id(name: &str) -> String {
    format!("{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/moatws/computes/{name}")
}

/// A cluster as azureml-core sends it, with `inner` merged into its inner properties.
pub(crate) fn cluster(inner: Value) -> Value {
    let mut body = json!({"location": "westus2", "properties": {"computeType": "AmlCompute", "computeLocation": "westus2",
        "properties": {"vmSize": "STANDARD_D2_V2", "vmPriority": "dedicated",
            "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 4, "nodeIdleTimeBeforeScaleDown": "PT1800S"},
            "subnet": {"id": net("virtualNetworks/mynetwork/subnets/default")},
            "remoteLoginPortPublicAccess": "NotSpecified", "enableNodePublicIp": true}}});
    document::merge(&mut body["properties"]["properties"], &inner);
    body
}

/// A workspace, and networks to put clusters into: `mynetwork` with a delegated subnet too, `far` in
/// another region, and `docker` in the range of the Docker bridge.
pub(crate) fn ml_world(edition: Edition) -> World {
    let mut world = World::new(edition);
    let aci = json!([{"name": "aci", "properties": {"serviceName": "Microsoft.ContainerInstance/containerGroups"}}]);
    for (name, location, space, subnets) in [
        (
            "mynetwork",
            "westus2",
            "10.0.0.0/16",
            json!([
                {"name": "default", "properties": {"addressPrefix": "10.0.0.0/24"}},
                {"name": "second", "properties": {"addressPrefix": "10.0.1.0/24"}},
                {"name": "aci", "properties": {"addressPrefix": "10.0.2.0/24", "delegations": aci}},
            ]),
        ),
        ("far", "eastus", "10.1.0.0/16", json!([{"name": "default", "properties": {"addressPrefix": "10.1.0.0/24"}}])),
        (
            "docker",
            "westus2",
            "172.16.0.0/12",
            json!([{"name": "default", "properties": {"addressPrefix": "172.16.0.0/24"}}]),
        ),
    ] {
        let body = json!({"location": location, "properties": {"addressSpace": {"addressPrefixes": [space]}, "subnets": subnets}});
        world.put(&net(&format!("virtualNetworks/{name}")), body).unwrap();
    }
    let workspace = format!("{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/moatws");
    world.put(&workspace, json!({"properties": {}})).unwrap();
    world
}

/// Gives the workspace of [`ml_world`] a storage account, and so datastores.
pub(crate) fn store(world: &mut World) {
    let account = format!("{GROUP}/providers/Microsoft.Storage/storageAccounts/moatstore1");
    world.put(&account, json!({})).unwrap();
    let workspace = format!("{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/moatws");
    world.put(&workspace, json!({"properties": {"storageAccount": account}})).unwrap();
}
