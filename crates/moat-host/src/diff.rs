//! From one plan to the next: typed steps, each bounded in size.
//!
//! Order: build what nobody refers to yet (namespaces, links, routes, chains and sets under names
//! made of their content), then one small transaction per namespace re-points jumps and map
//! elements (the flip), then what nobody refers to any more is removed. Equal plans give no steps.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::layout::{Hop, HostPlan, Neighbour, NsName, NsPlan, PolicyRule, Route, TABLE_LOCAL, TABLE_MAIN, Veth};
use crate::ruleset::{Base, Element, Rule, SetHeader, Table};

/// Rules in one firewall transaction: one netlink send must fit an unprivileged send buffer.
pub const RULES_PER_BATCH_MAX: usize = 200;
/// Set elements in one firewall transaction, for the same reason.
pub const ELEMENTS_PER_BATCH_MAX: usize = 500;
/// Changes of addresses, routes and neighbours in one step.
pub const NET_CHANGES_PER_STEP_MAX: usize = 400;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Make a namespace with its loopback up and these values below `/proc/sys/net/`.
    CreateNs {
        /// Name.
        ns: NsName,
        /// Path to value.
        sysctls: BTreeMap<String, String>,
    },
    /// Remove a namespace; links in it go with it.
    DeleteNs {
        /// Name.
        ns: NsName,
    },
    /// Make a pair of links, both up.
    CreateVeth(Veth),
    /// Remove a pair of links by one end.
    DeleteVeth {
        /// Namespace of that end.
        ns: NsName,
        /// Link.
        link: String,
    },
    /// Change addresses, neighbours, routes and policy rules of a namespace.
    Net {
        /// Namespace.
        ns: NsName,
        /// Changes in order.
        changes: Vec<NetChange>,
    },
    /// One firewall transaction in a namespace: all of it or nothing.
    Nft {
        /// Namespace.
        ns: NsName,
        /// Operations in order.
        ops: Vec<NftOp>,
    },
}

/// A change of addresses, neighbours, routes or policy rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetChange {
    /// Add an address.
    AddAddress(String, ipnet::Ipv4Net),
    /// Remove an address.
    DelAddress(String, ipnet::Ipv4Net),
    /// Add or replace a neighbour.
    AddNeighbour(Neighbour),
    /// Remove a neighbour.
    DelNeighbour(Neighbour),
    /// Add or replace a route.
    AddRoute(Route),
    /// Remove a route.
    DelRoute(Route),
    /// Add a policy rule.
    AddRule(PolicyRule),
    /// Remove a policy rule.
    DelRule(PolicyRule),
}

/// A firewall operation on table [`TABLE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NftOp {
    /// Make the table.
    AddTable,
    /// Remove the table.
    DelTable,
    /// Make a set or map.
    AddSet(String, SetHeader),
    /// Remove a set or map.
    DelSet(String),
    /// Add elements.
    AddElements {
        /// Set.
        set: String,
        /// Its header.
        header: SetHeader,
        /// Elements.
        elements: Vec<Element>,
    },
    /// Remove elements.
    DelElements {
        /// Set.
        set: String,
        /// Its header.
        header: SetHeader,
        /// Elements.
        elements: Vec<Element>,
    },
    /// Make a chain.
    AddChain(String, Option<Base>),
    /// Remove all rules of a chain.
    FlushChain(String),
    /// Append rules.
    AddRules {
        /// Chain.
        chain: String,
        /// Rules in order.
        rules: Vec<Rule>,
    },
    /// Remove a chain.
    DelChain(String),
}

/// Name of the one table per namespace.
pub const TABLE: &str = "moat";

/// The steps that lead from `old` to `new`.
pub fn diff(old: &HostPlan, new: &HostPlan) -> Vec<Step> {
    let mut steps = Vec::new();
    let gone: BTreeSet<&NsName> = old.namespaces.keys().filter(|n| !new.namespaces.contains_key(*n)).collect();
    // A link cannot change its peer or its address: it is removed and made again. Links whose
    // namespace goes away are removed first, so that their names are free at once.
    let mut lost: BTreeSet<(&NsName, &str)> = BTreeSet::new();
    for veth in old.veths.difference(&new.veths) {
        steps.push(Step::DeleteVeth { ns: veth.a.ns.clone(), link: veth.a.link.clone() });
        lost.insert((&veth.a.ns, &veth.a.link));
        lost.insert((&veth.b.ns, &veth.b.link));
    }
    let empty = NsPlan::default();
    let mut remade = BTreeSet::new();
    for (ns, plan) in &new.namespaces {
        match old.namespaces.get(ns) {
            Some(before) if before.sysctls == plan.sysctls => {}
            Some(_) => {
                // Values below /proc/sys are set at creation only; nothing we plan changes them.
                steps.push(Step::DeleteNs { ns: ns.clone() });
                steps.push(Step::CreateNs { ns: ns.clone(), sysctls: plan.sysctls.clone() });
                remade.insert(ns);
            }
            None => steps.push(Step::CreateNs { ns: ns.clone(), sysctls: plan.sysctls.clone() }),
        }
    }
    for veth in &new.veths {
        let kept = old.veths.contains(veth) && !remade.contains(&veth.a.ns) && !remade.contains(&veth.b.ns);
        if !kept {
            for end in [&veth.a, &veth.b] {
                lost.insert((&end.ns, &end.link));
            }
            steps.push(Step::CreateVeth(veth.clone()));
        }
    }
    let before = |ns: &NsName| if remade.contains(ns) { &empty } else { old.namespaces.get(ns).unwrap_or(&empty) };
    // Firewalls are complete before the first route leads a packet through a new namespace.
    let mut removals = Vec::new();
    let mut changes: BTreeMap<&NsName, NetChanges> =
        new.namespaces.iter().map(|(ns, plan)| (ns, net_changes(ns, before(ns), plan, &lost))).collect();
    for (ns, c) in &mut changes {
        net_steps(ns, std::mem::take(&mut c.inert), &mut steps);
    }
    for (ns, plan) in &new.namespaces {
        table_steps(ns, before(ns).nft.as_ref(), plan.nft.as_ref(), &mut steps, &mut removals);
    }
    for (ns, c) in &mut changes {
        net_steps(ns, std::mem::take(&mut c.live), &mut steps);
    }
    steps.append(&mut removals);
    for (ns, c) in changes {
        net_steps(ns, c.unused, &mut steps);
    }
    steps.extend(gone.into_iter().map(|ns| Step::DeleteNs { ns: ns.clone() }));
    steps
}

fn net_steps(ns: &NsName, changes: Vec<NetChange>, steps: &mut Vec<Step>) {
    for part in changes.chunks(NET_CHANGES_PER_STEP_MAX) {
        steps.push(Step::Net { ns: ns.clone(), changes: part.to_vec() });
    }
}

/// Changes of one namespace by when they are safe.
#[derive(Default)]
struct NetChanges {
    /// Routing tables that no packet is marked for yet: before the flip.
    inert: Vec<NetChange>,
    /// What packets meet at once: after the flip, when the rules for it are there.
    live: Vec<NetChange>,
    /// Routing tables that no packet is marked for any more: after the flip.
    unused: Vec<NetChange>,
}

/// Changes of one namespace. What hung on a link in `lost` went away with it.
fn net_changes(ns: &NsName, old: &NsPlan, new: &NsPlan, lost: &BTreeSet<(&NsName, &str)>) -> NetChanges {
    let is_lost = |link: &str| lost.contains(&(ns, link));
    let route_lost = |r: &Route| match &r.hop {
        Hop::Link(l) | Hop::Via(_, l) => is_lost(l),
        Hop::Blackhole | Hop::Throw | Hop::Local => false,
    };
    let by_mark = |r: &Route| r.table != TABLE_MAIN && r.table != TABLE_LOCAL;
    let kept: BTreeSet<_> = new.routes.iter().map(|r| (r.table, r.prefix, r.metric)).collect();
    let mut out = NetChanges::default();
    for r in old.routes.difference(&new.routes) {
        if !route_lost(r) && !kept.contains(&(r.table, r.prefix, r.metric)) {
            if by_mark(r) { &mut out.unused } else { &mut out.live }.push(NetChange::DelRoute(r.clone()));
        }
    }
    out.unused.extend(old.rules.difference(&new.rules).cloned().map(NetChange::DelRule));
    let neighbours: BTreeSet<_> = new.neighbours.iter().map(|n| (&n.link, n.address)).collect();
    for n in old.neighbours.difference(&new.neighbours) {
        if !is_lost(&n.link) && !neighbours.contains(&(&n.link, n.address)) {
            out.live.push(NetChange::DelNeighbour(n.clone()));
        }
    }
    for (link, net) in old.addresses.difference(&new.addresses).filter(|(l, _)| !is_lost(l)) {
        out.live.push(NetChange::DelAddress(link.clone(), *net));
    }
    for (link, net) in new.addresses.iter().filter(|a| !old.addresses.contains(a) || is_lost(&a.0)) {
        out.live.push(NetChange::AddAddress(link.clone(), *net));
    }
    for n in new.neighbours.iter().filter(|n| !old.neighbours.contains(n) || is_lost(&n.link)) {
        out.live.push(NetChange::AddNeighbour(n.clone()));
    }
    for r in new.routes.iter().filter(|r| !old.routes.contains(r) || route_lost(r)) {
        if by_mark(r) { &mut out.inert } else { &mut out.live }.push(NetChange::AddRoute(r.clone()));
    }
    out.inert.extend(new.rules.difference(&old.rules).cloned().map(NetChange::AddRule));
    out
}

/// Collects operations into transactions of bounded size.
struct Batches<'a> {
    ns: &'a NsName,
    ops: Vec<NftOp>,
    weight: usize,
    out: &'a mut Vec<Step>,
}

impl Batches<'_> {
    /// Adds one operation; a full batch is closed first.
    fn push(&mut self, op: NftOp) {
        // Elements are about 2/5 of a rule's size; everything is counted in elements.
        let weight = match &op {
            NftOp::AddElements { elements, .. } | NftOp::DelElements { elements, .. } => elements.len(),
            NftOp::AddRules { rules, .. } => rules.len() * ELEMENTS_PER_BATCH_MAX / RULES_PER_BATCH_MAX,
            _ => 1,
        };
        if self.weight + weight > ELEMENTS_PER_BATCH_MAX {
            self.close();
        }
        self.weight += weight;
        self.ops.push(op);
    }
    fn close(&mut self) {
        if !self.ops.is_empty() {
            self.out.push(Step::Nft { ns: self.ns.clone(), ops: std::mem::take(&mut self.ops) });
        }
        self.weight = 0;
    }
}

/// Build, flip and removal of one table.
fn table_steps(ns: &NsName, old: Option<&Table>, new: Option<&Table>, steps: &mut Vec<Step>, removals: &mut Vec<Step>) {
    if old == new {
        return;
    }
    let Some(new) = new else {
        removals.push(Step::Nft { ns: ns.clone(), ops: vec![NftOp::DelTable] });
        return;
    };
    let none = Table::default();
    let mut build = Batches { ns, ops: Vec::new(), weight: 0, out: steps };
    if old.is_none() {
        build.push(NftOp::AddTable);
    }
    let old = old.unwrap_or(&none);
    // Build: new sets and chains. Elements of verdict maps wait until all chains exist, base
    // chains wait until everything they lead to is complete.
    let added_sets = || new.sets.iter().filter(|(n, _)| !old.sets.contains_key(*n));
    let added_chains = || new.chains.iter().filter(|(n, _)| !old.chains.contains_key(*n));
    for (name, set) in added_sets() {
        build.push(NftOp::AddSet(name.clone(), set.header.clone()));
    }
    for (name, _) in added_chains().filter(|(_, c)| c.base.is_none()) {
        build.push(NftOp::AddChain(name.clone(), None));
    }
    for (name, set) in added_sets() {
        let all: Vec<&Element> = set.elements.iter().collect();
        for part in all.chunks(ELEMENTS_PER_BATCH_MAX) {
            let elements = part.iter().map(|e| (*e).clone()).collect();
            build.push(NftOp::AddElements { set: name.clone(), header: set.header.clone(), elements });
        }
    }
    for (name, chain) in added_chains().filter(|(_, c)| c.base.is_none()) {
        for part in chain.rules.chunks(RULES_PER_BATCH_MAX) {
            build.push(NftOp::AddRules { chain: name.clone(), rules: part.to_vec() });
        }
    }
    build.close();
    // Flip: what exists before and after under one name.
    for (name, chain) in added_chains().filter(|(_, c)| c.base.is_some()) {
        build.push(NftOp::AddChain(name.clone(), chain.base.clone()));
        build.push(NftOp::AddRules { chain: name.clone(), rules: chain.rules.clone() });
    }
    for (name, chain) in &new.chains {
        if old.chains.get(name).is_some_and(|o| o.rules != chain.rules) {
            build.push(NftOp::FlushChain(name.clone()));
            build.push(NftOp::AddRules { chain: name.clone(), rules: chain.rules.clone() });
        }
    }
    for (name, set) in &new.sets {
        let Some(before) = old.sets.get(name) else { continue };
        for (gone, list) in [
            (true, before.elements.difference(&set.elements).collect::<Vec<_>>()),
            (false, set.elements.difference(&before.elements).collect::<Vec<_>>()),
        ] {
            for part in list.chunks(ELEMENTS_PER_BATCH_MAX) {
                let elements = part.iter().map(|e| (*e).clone()).collect();
                let (set, header) = (name.clone(), set.header.clone());
                build.push(if gone {
                    NftOp::DelElements { set, header, elements }
                } else {
                    NftOp::AddElements { set, header, elements }
                });
            }
        }
    }
    build.close();
    // Remove: nobody refers to these any more, except each other: flush all before any goes.
    let mut remove = Batches { ns, ops: Vec::new(), weight: 0, out: removals };
    let dead = || old.chains.keys().filter(|n| !new.chains.contains_key(*n));
    for name in dead() {
        remove.push(NftOp::FlushChain(name.clone()));
    }
    // A verdict map holds its chains: it goes before them.
    for (name, _) in old.sets.iter().filter(|(n, s)| !new.sets.contains_key(*n) && s.header.data.is_some()) {
        remove.push(NftOp::DelSet(name.clone()));
    }
    for name in dead() {
        remove.push(NftOp::DelChain(name.clone()));
    }
    for (name, _) in old.sets.iter().filter(|(n, s)| !new.sets.contains_key(*n) && s.header.data.is_none()) {
        remove.push(NftOp::DelSet(name.clone()));
    }
    remove.close();
}
