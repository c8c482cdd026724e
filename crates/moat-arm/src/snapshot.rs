//! The world as a value: every document, immutable, at one sequence number.
//!
//! INVARIANT: keys are [`ResourceId::key`]s, so a prefix scan of `scope.key() + "/"` finds all that
//! lies below a scope. Child resources that Azure embeds in their parent (subnets, security rules,
//! routes, peerings) are stored in the parent's document, not under keys of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::ResourceId;
use crate::ordered::Ordered;

/// One stored document.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its id, spelled as created.
    pub id: ResourceId,
    /// What the client sent, completed. Has no `id`, `name`, `type` or `etag` members: those are
    /// rendered from `id` and `seq` when answered.
    pub body: Value,
    /// Sequence number of the commit that wrote this version.
    pub seq: u64,
    /// Sequence number of the commit that created the document.
    pub created_seq: u64,
}

/// A change to one document.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Create or replace.
    Put {
        /// Which document.
        id: ResourceId,
        /// Its new body.
        body: Value,
    },
    /// Remove; removing what is not there changes nothing.
    Delete {
        /// Which document.
        id: ResourceId,
    },
}

/// Who asked for a batch and why; kept with every change row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Object id of the principal.
    pub principal: String,
    /// ARM action, for example `Microsoft.Network/virtualNetworks/write`.
    pub operation: String,
    /// Correlation id of the request.
    pub correlation: String,
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// In order; a later change to the same document wins.
    pub changes: Vec<Change>,
    /// Who and why.
    pub audit: Audit,
}

impl Batch {
    /// No changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
    /// Adds a put.
    pub fn put(&mut self, id: ResourceId, body: Value) {
        self.changes.push(Change::Put { id, body });
    }
    /// Adds a delete.
    pub fn delete(&mut self, id: ResourceId) {
        self.changes.push(Change::Delete { id });
    }
}

/// All documents at one moment. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    seq: u64,
    documents: Arc<Ordered>,
    /// The same documents by lower-cased type, so that a commit copies only the types it touches.
    by_type: Arc<BTreeMap<Arc<str>, Arc<Ordered>>>,
}

impl Snapshot {
    /// A snapshot from stored documents, at `seq`.
    pub fn from_documents(seq: u64, documents: impl IntoIterator<Item = Stored>) -> Self {
        let documents: Ordered = documents.into_iter().map(|d| (Arc::from(d.id.key()), Arc::new(d))).collect();
        let mut by_type = BTreeMap::<Arc<str>, Ordered>::new();
        for (key, document) in documents.from("") {
            by_type.entry(type_key(&document.id)).or_default().insert(key.clone(), document.clone());
        }
        let by_type = by_type.into_iter().map(|(kind, documents)| (kind, Arc::new(documents))).collect();
        Self { seq, documents: Arc::new(documents), by_type: Arc::new(by_type) }
    }

    /// Sequence number of the newest commit in this snapshot; 0 is the empty world.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there is no document at all.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// The document with this id.
    pub fn get(&self, id: &ResourceId) -> Option<&Arc<Stored>> {
        self.documents.get(id.key())
    }

    /// Every document strictly below `scope`, in key order.
    pub fn below<'a>(&'a self, scope: &ResourceId) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        let prefix = format!("{}/", scope.key());
        self.documents.from(&prefix).take_while(move |(k, _)| k.starts_with(&prefix)).map(|(_, d)| d)
    }

    /// Every document whose key starts with `prefix` (lower-case), in key order. For prefixes that are
    /// not themselves ids, such as `{scope}/providers/microsoft.authorization/roleassignments/`.
    pub fn with_key_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Stored>> {
        self.documents.from(prefix).take_while(move |(k, _)| k.starts_with(prefix)).map(|(_, d)| d)
    }

    /// Every document, in key order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.documents.values()
    }

    /// Every document of a type (compared without case), in key order.
    pub fn of_type<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        self.by_type.get(kind.to_lowercase().as_str()).into_iter().flat_map(|documents| documents.values())
    }

    /// Every document of a type that lives in resource groups, such as
    /// `Microsoft.Network/networkInterfaces`, in key order.
    pub fn in_groups(&self, kind: &str) -> Vec<&Arc<Stored>> {
        self.of_type(kind).filter(|d| d.id.resource_group().is_some()).collect()
    }

    /// The next snapshot: `batch` applied, sequence number one higher. An empty batch changes nothing.
    pub fn apply(&mut self, batch: &Batch) {
        if batch.is_empty() {
            return;
        }
        self.seq += 1;
        self.amend(batch);
    }

    /// Applies more of the same commit: `batch` at the sequence number this snapshot has. For
    /// working out a commit in steps; what is published is made by [`Snapshot::apply`].
    pub fn amend(&mut self, batch: &Batch) {
        let seq = self.seq;
        let documents = Arc::make_mut(&mut self.documents);
        let by_type = Arc::make_mut(&mut self.by_type);
        for change in &batch.changes {
            match change {
                Change::Put { id, body } => {
                    let (id, created_seq) = match documents.get(id.key()) {
                        // ARM answers with the casing a resource was created with.
                        Some(old) => (old.id.clone(), old.created_seq),
                        None => (id.clone(), seq),
                    };
                    let key = Arc::<str>::from(id.key());
                    let document = Arc::new(Stored { id, body: body.clone(), seq, created_seq });
                    let of_type = by_type.entry(type_key(&document.id)).or_default();
                    Arc::make_mut(of_type).insert(key.clone(), document.clone());
                    documents.insert(key, document);
                }
                Change::Delete { id } => {
                    if documents.remove(id.key())
                        && let Some(of_type) = by_type.get_mut(&type_key(id))
                    {
                        Arc::make_mut(of_type).remove(id.key());
                    }
                }
            }
        }
    }
}

fn type_key(id: &ResourceId) -> Arc<str> {
    Arc::from(id.resource_type().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_index_by_type_follows_every_change() {
        let id = |text: &str| ResourceId::parse(text).unwrap();
        let (nsg, nic) = (
            "/subscriptions/s/resourceGroups/g/providers/N/nsgs/a",
            "/subscriptions/s/resourceGroups/g/providers/N/nics/a",
        );
        let mut batch = Batch::default();
        batch.put(id(nsg), json!({"v": 1}));
        batch.put(id(nic), json!({}));
        let mut world = Snapshot::default();
        world.apply(&batch);
        let before = world.clone();
        let mut batch = Batch::default();
        batch.put(id(&nsg.to_uppercase().replace("/SUBSCRIPTIONS", "/subscriptions")), json!({"v": 2}));
        batch.delete(id(nic));
        batch.delete(id("/subscriptions/s/resourceGroups/g/providers/N/nics/absent"));
        world.apply(&batch);
        let bodies = |world: &Snapshot, kind: &str| world.of_type(kind).map(|d| d.body.clone()).collect::<Vec<_>>();
        assert_eq!(bodies(&world, "n/NSGs"), [json!({"v": 2})]);
        assert!(bodies(&world, "N/nics").is_empty());
        assert_eq!(bodies(&before, "N/nsgs"), [json!({"v": 1})], "older snapshots do not change");
        let reloaded = Snapshot::from_documents(world.seq(), world.all().map(|d| (**d).clone()));
        assert_eq!(bodies(&reloaded, "N/nsgs"), bodies(&world, "N/nsgs"));
    }

    #[test]
    fn types_are_found_across_groups_whose_names_begin_alike() {
        let ids = [
            "/subscriptions/s",
            "/subscriptions/s/providers/A.B/nics/not-in-a-group",
            "/subscriptions/s/resourceGroups/g",
            "/subscriptions/s/resourceGroups/g-2",
            "/subscriptions/s/resourceGroups/g.3/providers/A.B/nics/c",
            "/subscriptions/s/resourceGroups/g/providers/A.B/nics/a",
            "/subscriptions/s/resourceGroups/g/providers/A.B/nics/a/providers/X.Y/locks/l",
            "/subscriptions/s/resourceGroups/g/providers/A.B/vnets/v",
            "/subscriptions/s/resourceGroups/G-2/providers/a.b/NICS/b",
            "/subscriptions/t/resourceGroups/g/providers/A.B/nics/d",
        ];
        let documents = ids.iter().filter_map(|text| {
            let id = ResourceId::parse(text).ok()?;
            Some(Stored { id, body: json!({}), seq: 1, created_seq: 1 })
        });
        let snapshot = Snapshot::from_documents(1, documents);
        let names: Vec<&str> = snapshot.in_groups("A.B/nics").iter().map(|d| d.id.name()).collect();
        assert_eq!(names, ["b", "c", "a", "d"]);
    }
}
