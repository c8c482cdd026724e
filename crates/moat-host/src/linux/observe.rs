//! What the kernel has, in the plan's words.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Applier, Result, refused};
use crate::layout::{Neighbour, NsName, PolicyRule, Route};
use crate::netlink::{Socket, nft, route};

/// Everything there is in the applier's namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// By namespace.
    pub namespaces: BTreeMap<NsName, NsObserved>,
}

/// What one namespace has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NsObserved {
    /// Links without loopback.
    pub links: BTreeMap<String, LinkObserved>,
    /// Addresses, loopback's own 127.0.0.1 left out.
    pub addresses: BTreeSet<(String, Ipv4Net)>,
    /// Permanent neighbours.
    pub neighbours: BTreeSet<Neighbour>,
    /// Routes that the kernel did not make itself.
    pub routes: BTreeSet<Route>,
    /// Policy rules by mark.
    pub rules: BTreeSet<PolicyRule>,
    /// Chains: how many rules, and the log prefixes among them in order.
    pub chains: BTreeMap<String, (usize, Vec<String>)>,
    /// Sets: how many elements.
    pub sets: BTreeMap<String, usize>,
    /// Packets counted by log prefix.
    pub counted: BTreeMap<String, u64>,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkObserved {
    /// Switched on.
    pub up: bool,
    /// Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Index, as firewall logs name it.
    pub index: u32,
}

impl Applier {
    /// Asks the kernel about every namespace.
    pub fn observe(&self) -> Result<Observed> {
        let mut out = Observed::default();
        for ns in self.namespaces() {
            out.namespaces.insert(ns.clone(), self.observe_one(ns)?);
        }
        Ok(out)
    }

    /// Asks the kernel about one namespace.
    pub fn observe_one(&self, ns: &NsName) -> Result<NsObserved> {
        let mut socket = self.open_socket(ns, Socket::route)?;
        let links = route::links(&mut socket).map_err(refused(ns))?;
        let names: BTreeMap<u32, String> = links.iter().map(|l| (l.index, l.name.clone())).collect();
        let name = |index: u32| names.get(&index).cloned();
        let addresses = route::addresses(&mut socket).map_err(refused(ns))?;
        let neighbours = route::neighbours(&mut socket).map_err(refused(ns))?;
        let routes = route::routes(&mut socket).map_err(refused(ns))?;
        let rules = route::policy_rules(&mut socket).map_err(refused(ns))?;
        let mut out = NsObserved {
            links: links
                .into_iter()
                .filter(|l| l.name != "lo")
                .map(|l| (l.name, LinkObserved { up: l.up, mac: l.mac, index: l.index }))
                .collect(),
            addresses: addresses
                .into_iter()
                .filter(|(_, a)| !a.addr().is_loopback())
                .filter_map(|(i, a)| Some((name(i)?, a)))
                .collect(),
            neighbours: neighbours
                .into_iter()
                .filter_map(|(i, address, mac)| Some(Neighbour { link: name(i)?, address, mac }))
                .collect(),
            routes: routes.into_iter().filter_map(|r| r.planned(name)).collect(),
            rules: rules.into_iter().collect(),
            ..NsObserved::default()
        };
        let mut socket = self.open_socket(ns, Socket::netfilter)?;
        for (chain, seen) in nft::chains(&mut socket).map_err(refused(ns))? {
            for rule in &seen.rules {
                if let (Some(log), Some(packets)) = (&rule.log, rule.packets) {
                    *out.counted.entry(log.clone()).or_default() += packets;
                }
            }
            let logs = seen.rules.iter().filter_map(|r| r.log.clone()).collect();
            out.chains.insert(chain, (seen.rules.len(), logs));
        }
        out.sets = nft::sets(&mut socket).map_err(refused(ns))?;
        Ok(out)
    }
}
