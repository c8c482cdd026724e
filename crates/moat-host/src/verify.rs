//! Is the kernel as planned? Compared after a crash and by `moat status`; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use crate::layout::{HostPlan, NsName};
use crate::linux::Observed;
use crate::ruleset::{Chain, Expression};

/// A difference between plan and kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mismatch {
    /// Namespace.
    pub ns: NsName,
    /// What it is about: `route`, `chain g0123`.
    pub what: String,
    /// What was planned; `None`: nothing.
    pub planned: Option<String>,
    /// What is there; `None`: nothing.
    pub seen: Option<String>,
}

/// Every difference; empty if the kernel is as planned.
pub fn verify(plan: &HostPlan, seen: &Observed) -> Vec<Mismatch> {
    let mut out = Vec::new();
    for ns in seen.namespaces.keys().filter(|n| !plan.namespaces.contains_key(*n)) {
        out.push(Mismatch { ns: ns.clone(), what: "namespace".into(), planned: None, seen: Some("there".into()) });
    }
    for (ns, want) in &plan.namespaces {
        let Some(have) = seen.namespaces.get(ns) else {
            out.push(Mismatch { ns: ns.clone(), what: "namespace".into(), planned: Some("there".into()), seen: None });
            continue;
        };
        let mut check = Check { ns, out: &mut out };
        check.sets("address", &want.addresses, &have.addresses);
        check.sets("neighbour", &want.neighbours, &have.neighbours);
        check.sets("route", &want.routes, &have.routes);
        check.sets("policy rule", &want.rules, &have.rules);
        let links: BTreeMap<String, ([u8; 6], bool)> = plan
            .veths
            .iter()
            .flat_map(|v| [&v.a, &v.b])
            .filter(|e| &e.ns == ns)
            .map(|e| (e.link.clone(), (e.mac, true)))
            .collect();
        let seen_links = have.links.iter().map(|(n, l)| (n.clone(), (l.mac.unwrap_or_default(), l.up))).collect();
        check.maps("link", &links, &seen_links);
        let (chains, sets) = match &want.nft {
            Some(t) => (
                t.chains.iter().map(|(n, c)| (n.clone(), (c.rules.len(), logs(c)))).collect(),
                t.sets.iter().map(|(n, s)| (n.clone(), s.elements.len())).collect(),
            ),
            None => (BTreeMap::new(), BTreeMap::new()),
        };
        check.maps("chain", &chains, &have.chains);
        check.maps("set", &sets, &have.sets);
    }
    out.sort();
    out
}

fn logs(chain: &Chain) -> Vec<String> {
    let all = chain.rules.iter().flat_map(|r| &r.expressions);
    all.filter_map(|e| match e {
        Expression::Log { prefix, .. } => Some(prefix.clone()),
        _ => None,
    })
    .collect()
}

struct Check<'a> {
    ns: &'a NsName,
    out: &'a mut Vec<Mismatch>,
}

impl Check<'_> {
    fn sets<T: Ord + Debug>(&mut self, what: &str, planned: &BTreeSet<T>, seen: &BTreeSet<T>) {
        for missing in planned.difference(seen) {
            self.add(what.to_owned(), Some(format!("{missing:?}")), None);
        }
        for extra in seen.difference(planned) {
            self.add(what.to_owned(), None, Some(format!("{extra:?}")));
        }
    }

    fn maps<T: PartialEq + Debug>(&mut self, what: &str, planned: &BTreeMap<String, T>, seen: &BTreeMap<String, T>) {
        let names: BTreeSet<&String> = planned.keys().chain(seen.keys()).collect();
        for name in names {
            let (p, s) = (planned.get(name), seen.get(name));
            if p != s {
                let show = |v: Option<&T>| v.map(|v| format!("{v:?}"));
                self.add(format!("{what} {name}"), show(p), show(s));
            }
        }
    }

    fn add(&mut self, what: String, planned: Option<String>, seen: Option<String>) {
        self.out.push(Mismatch { ns: self.ns.clone(), what, planned, seen });
    }
}
