//! What a body says about the things it names: parts they must have, addresses they must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use moat_arm::ResourceId;
use serde_json::Value;

use super::{kind, known};

/// By id key.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// Names of parts, by collection (`frontendIPConfigurations` of a load balancer).
    parts: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
    /// An address that a subnet must hold.
    addresses: BTreeMap<String, Ipv4Addr>,
    /// VNets on the far side of a peering, whose address space must be one of their own.
    remotes: Vec<String>,
}

impl Hints {
    /// Learns from the body of a document with this id.
    pub(super) fn note(&mut self, id: &ResourceId, body: &Value) {
        for named in super::references(id, body) {
            self.part(named);
        }
        let names = |member: &str| {
            let list = body["properties"][member].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        let remote = body["properties"]["remoteVirtualNetwork"]["id"].as_str().and_then(kind::resource);
        if let Some(remote) = remote.as_ref().filter(|r| !self.remotes.iter().any(|known| known == r.key())) {
            self.remotes.push(remote.key().to_owned());
        }
        for (vnet, member) in [(id.parent(), "localSubnetNames"), (remote, "remoteSubnetNames")] {
            let Some(vnet) = vnet else { continue };
            let subnets = self.parts.entry(vnet.key().to_owned()).or_default().entry("subnets".to_owned()).or_default();
            subnets.extend(names(member));
        }
        // An endpoint names its subnet once, for all of its addresses.
        let subnet = body["properties"]["subnet"]["id"].as_str().and_then(kind::resource);
        let addresses = body["properties"]["ipConfigurations"].as_array().into_iter().flatten();
        let first = addresses.filter_map(|c| c["properties"]["privateIPAddress"].as_str()?.parse().ok()).next();
        if let (Some(subnet), Some(address)) = (subnet, first) {
            self.addresses.entry(subnet.key().to_owned()).or_insert(address);
        }
        self.walk(body);
    }

    /// Learns that this is asked for: a pool is shown with the rules that its balancer has for it.
    pub(super) fn addressed(&mut self, id: &ResourceId) {
        let kind = id.resource_type();
        if let Some(parent) = id.parent().filter(|_| kind.to_lowercase().ends_with("/backendaddresspools")) {
            let collection = kind.rsplit('/').next().unwrap_or_default().to_owned();
            let parts = self.parts.entry(parent.key().to_owned()).or_default();
            parts.entry(collection).or_default().insert(id.name().to_owned());
        }
    }

    fn part(&mut self, id: ResourceId) {
        let Some(parent) = id.parent().filter(|p| p.namespace().is_some()) else { return };
        if known(&parent.resource_type()) && !known(&id.resource_type()) {
            let kind = id.resource_type();
            let collection = kind.rsplit('/').next().unwrap_or_default().to_owned();
            let parts = self.parts.entry(parent.key().to_owned()).or_default();
            parts.entry(collection).or_default().insert(id.name().to_owned());
        } else if !known(&parent.resource_type()) {
            self.part(parent);
        }
    }

    fn walk(&mut self, body: &Value) {
        match body {
            Value::Array(items) => items.iter().for_each(|v| self.walk(v)),
            Value::Object(members) => {
                let subnet = body["subnet"]["id"].as_str().and_then(kind::resource);
                let address = body["privateIPAddress"].as_str().and_then(|a| a.parse().ok());
                if let (Some(subnet), Some(address)) = (subnet, address) {
                    self.addresses.entry(subnet.key().to_owned()).or_insert(address);
                }
                members.values().for_each(|v| self.walk(v));
            }
            _ => {}
        }
    }

    /// Names that the parts of a document must have; `otherwise` if none is named.
    pub(super) fn names(&self, id: &ResourceId, collection: &str, otherwise: &str) -> Vec<String> {
        let named = self.parts.get(id.key()).and_then(|p| {
            p.iter().find(|(c, _)| c.eq_ignore_ascii_case(collection)).map(|(_, names)| names.iter().cloned().collect())
        });
        let names: Vec<String> = named.unwrap_or_default();
        if names.is_empty() && !otherwise.is_empty() { vec![otherwise.to_owned()] } else { names }
    }

    /// The how-manieth far side of a peering this VNet is, from 0.
    pub(super) fn remote(&self, vnet: &ResourceId) -> Option<u8> {
        u8::try_from(self.remotes.iter().position(|r| r == vnet.key())?).ok()
    }

    /// An address that this subnet must hold.
    pub(super) fn address(&self, subnet: &ResourceId) -> Option<Ipv4Addr> {
        self.addresses.get(subnet.key()).copied()
    }

    /// An address that a subnet of this VNet must hold.
    pub(super) fn address_below(&self, vnet: &ResourceId) -> Option<Ipv4Addr> {
        let below = format!("{}/", vnet.key());
        self.addresses.iter().find(|(id, _)| id.starts_with(&below)).map(|(_, address)| *address)
    }
}
