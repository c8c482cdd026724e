//! Which nodes there are, and where they can be spoken with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use moat_arm::{ResourceId, Snapshot, document};
use moat_model::Edition;
use moat_model::types::microsoft_machinelearningservices::auto_network as auto;

/// A node document, with what is needed to talk with it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Key of the document.
    pub(super) document: String,
    /// Id of the document.
    pub(super) id: ResourceId,
    pub(super) nic: String,
    pub(super) private: Ipv4Addr,
    pub(super) public: Option<(Ipv4Addr, u16)>,
    pub(super) ports: Vec<u16>,
    pub(super) region: String,
}

impl Target {
    /// What a node needs to start: its programs lie in a storage account of its region.
    pub(super) fn storage(&self) -> String {
        format!("Storage.{}", self.region)
    }
}

/// Every node that should be talked with, by document key.
pub(super) fn targets(snapshot: &Snapshot, edition: Edition) -> BTreeMap<String, Target> {
    let mut targets = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for stored in snapshot.of_type(auto::NODE_TYPE) {
        let Some(compute) = stored.id.parent().and_then(|id| snapshot.get(&id)) else { continue };
        let text = |name: &str| document::str_at(&stored.body, &format!("properties.{name}"));
        let Some(private) = text("privateIpAddress").and_then(|a| a.parse().ok()) else { continue };
        let Some(nic) = text("nicId").and_then(|t| ResourceId::parse(t).ok()) else { continue };
        if !seen.insert(nic.key().to_owned()) {
            continue;
        }
        let port = document::u64_at(&stored.body, "properties.port").and_then(|p| u16::try_from(p).ok());
        let public = text("publicIpAddress").and_then(|a| a.parse().ok()).zip(port);
        let region = document::str_at(&compute.body, "properties.computeLocation")
            .or_else(|| document::str_at(&compute.body, "location"))
            .unwrap_or_default()
            .to_lowercase()
            .replace(' ', "");
        targets.insert(
            stored.id.key().to_owned(),
            Target {
                document: stored.id.key().to_owned(),
                id: stored.id.clone(),
                nic: nic.key().to_owned(),
                private,
                public,
                ports: auto::inbound_ports(&compute.body, edition),
                region,
            },
        );
    }
    targets
}
