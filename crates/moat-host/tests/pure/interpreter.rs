//! A host made of values, as strict as the kernel about what refers to what.

use std::collections::{BTreeMap, BTreeSet};

use moat_host::diff::{NetChange, NftOp, Step};
use moat_host::layout::{Hop, HostPlan, NsName, NsPlan, Veth};
use moat_host::ruleset::{Chain, DataValue, Expression, Set, Table, Verdict};

#[derive(Default)]
pub struct Host {
    namespaces: BTreeMap<NsName, NsPlan>,
    veths: BTreeSet<Veth>,
}

type Result = std::result::Result<(), String>;

fn ensure(yes: bool, what: impl Fn() -> String) -> Result {
    if yes { Ok(()) } else { Err(what()) }
}

impl Host {
    pub fn is(&self, plan: &HostPlan) -> bool {
        self.namespaces == plan.namespaces && self.veths == plan.veths
    }

    pub fn difference(&self, plan: &HostPlan) -> Vec<String> {
        let mut out = Vec::new();
        for (ns, want) in &plan.namespaces {
            let have = self.namespaces.get(ns);
            if have != Some(want) {
                let routes = have.map(|h| h.routes.symmetric_difference(&want.routes).cloned().collect::<Vec<_>>());
                out.push(format!("{ns}: routes {routes:?} nft {}", have.map(|h| &h.nft) == Some(&want.nft)));
            }
        }
        out.extend(self.veths.symmetric_difference(&plan.veths).map(|v| format!("{v:?}")));
        out
    }

    pub fn apply(&mut self, steps: &[Step]) -> Result {
        for step in steps {
            self.step(step).map_err(|e| format!("{e}\nin {step:?}"))?;
        }
        Ok(())
    }

    fn ns(&mut self, ns: &NsName) -> std::result::Result<&mut NsPlan, String> {
        self.namespaces.get_mut(ns).ok_or_else(|| format!("no namespace {ns}"))
    }

    fn has_link(&self, ns: &NsName, link: &str) -> bool {
        link == "lo" || self.veths.iter().flat_map(|v| [&v.a, &v.b]).any(|e| &e.ns == ns && e.link == link)
    }

    /// The kernel forgets everything that hangs on a link when the link goes.
    fn unlink(&mut self, ns: &NsName, link: &str) {
        if let Some(n) = self.namespaces.get_mut(ns) {
            n.addresses.retain(|(l, _)| l != link);
            n.neighbours.retain(|x| x.link != link);
            n.routes.retain(|r| !matches!(&r.hop, Hop::Link(l) | Hop::Via(_, l) if l == link));
        }
    }

    fn step(&mut self, step: &Step) -> Result {
        match step {
            Step::CreateNs { ns, sysctls } => {
                let new = NsPlan { sysctls: sysctls.clone(), ..NsPlan::default() };
                ensure(self.namespaces.insert(ns.clone(), new).is_none(), || "exists".into())
            }
            Step::DeleteNs { ns } => {
                ensure(self.namespaces.remove(ns).is_some(), || "absent".into())?;
                let gone: Vec<Veth> = self.veths.iter().filter(|v| &v.a.ns == ns || &v.b.ns == ns).cloned().collect();
                for v in gone {
                    self.remove_veth(&v);
                }
                Ok(())
            }
            Step::CreateVeth(v) => {
                for end in [&v.a, &v.b] {
                    self.ns(&end.ns)?;
                    ensure(!self.has_link(&end.ns, &end.link), || format!("link {} exists", end.link))?;
                }
                self.veths.insert(v.clone());
                Ok(())
            }
            Step::DeleteVeth { ns, link } => {
                let found = self.veths.iter().find(|v| &v.a.ns == ns && &v.a.link == link).cloned();
                self.remove_veth(&found.ok_or("no such link")?);
                Ok(())
            }
            Step::Net { ns, changes } => changes.iter().try_for_each(|c| self.change(ns, c)),
            Step::Nft { ns, ops } => {
                let n = self.ns(ns)?;
                ops.iter().try_for_each(|op| operate(&mut n.nft, op))?;
                n.nft.as_ref().map_or(Ok(()), check_references)
            }
        }
    }

    fn remove_veth(&mut self, v: &Veth) {
        self.veths.remove(v);
        for end in [&v.a, &v.b] {
            self.unlink(&end.ns, &end.link);
        }
    }

    fn change(&mut self, ns: &NsName, change: &NetChange) -> Result {
        let link = match change {
            NetChange::AddAddress(l, _) | NetChange::DelAddress(l, _) => Some(l.clone()),
            NetChange::AddNeighbour(n) | NetChange::DelNeighbour(n) => Some(n.link.clone()),
            NetChange::AddRoute(r) | NetChange::DelRoute(r) => match &r.hop {
                Hop::Link(l) | Hop::Via(_, l) => Some(l.clone()),
                _ => None,
            },
            _ => None,
        };
        if let Some(link) = link {
            ensure(self.has_link(ns, &link), || format!("no link {link} in {ns}"))?;
        }
        let n = self.ns(ns)?;
        let done = match change.clone() {
            NetChange::AddAddress(l, a) => n.addresses.insert((l, a)),
            NetChange::DelAddress(l, a) => n.addresses.remove(&(l, a)),
            NetChange::AddNeighbour(x) => {
                n.neighbours.retain(|o| (&o.link, o.address) != (&x.link, x.address));
                n.neighbours.insert(x)
            }
            NetChange::DelNeighbour(x) => n.neighbours.remove(&x),
            NetChange::AddRoute(r) => {
                n.routes.retain(|o| (o.table, o.prefix, o.metric) != (r.table, r.prefix, r.metric));
                n.routes.insert(r)
            }
            NetChange::DelRoute(r) => n.routes.remove(&r),
            NetChange::AddRule(r) => n.rules.insert(r),
            NetChange::DelRule(r) => n.rules.remove(&r),
        };
        ensure(done, || format!("changes nothing: {change:?}"))
    }
}

fn operate(table: &mut Option<Table>, op: &NftOp) -> Result {
    match op {
        NftOp::AddTable => {
            ensure(table.is_none(), || "table exists".into())?;
            *table = Some(Table::default());
            return Ok(());
        }
        NftOp::DelTable => return ensure(table.take().is_some(), || "no table".into()),
        _ => {}
    }
    let t = table.as_mut().ok_or("no table")?;
    let no_chain = |c: &String| format!("no chain {c}");
    let no_set = |s: &String| format!("no set {s}");
    match op {
        NftOp::AddSet(name, header) => {
            let set = Set { header: header.clone(), elements: BTreeSet::new() };
            ensure(t.sets.insert(name.clone(), set).is_none(), || format!("set {name} exists"))
        }
        NftOp::DelSet(name) => {
            ensure(!sets_used(t).contains(name), || format!("set {name} is in use"))?;
            ensure(t.sets.remove(name).is_some(), || no_set(name))
        }
        NftOp::AddElements { set, elements, .. } => {
            let all = t.chains.keys().cloned().collect::<BTreeSet<_>>();
            let into = t.sets.get_mut(set).ok_or_else(|| no_set(set))?;
            for e in elements {
                if let Some(DataValue::Verdict(Verdict::Jump(c) | Verdict::Goto(c))) = &e.value {
                    ensure(all.contains(c), || no_chain(c))?;
                }
                ensure(!into.elements.iter().any(|o| o.key == e.key), || format!("element {:?} exists", e.key))?;
                into.elements.insert(e.clone());
            }
            Ok(())
        }
        NftOp::DelElements { set, elements, .. } => {
            let from = t.sets.get_mut(set).ok_or_else(|| no_set(set))?;
            elements.iter().try_for_each(|e| ensure(from.elements.remove(e), || "no element".into()))
        }
        NftOp::AddChain(name, base) => {
            let chain = Chain { base: base.clone(), rules: vec![] };
            ensure(t.chains.insert(name.clone(), chain).is_none(), || format!("chain {name} exists"))
        }
        NftOp::FlushChain(name) => {
            t.chains.get_mut(name).ok_or_else(|| no_chain(name))?.rules.clear();
            Ok(())
        }
        NftOp::AddRules { chain, rules } => {
            t.chains.get_mut(chain).ok_or_else(|| no_chain(chain))?.rules.extend(rules.iter().cloned());
            check_references(t)
        }
        NftOp::DelChain(name) => {
            ensure(!t.chain_targets().contains(name.as_str()), || format!("chain {name} is in use"))?;
            ensure(t.chains.remove(name).is_some_and(|c| c.rules.is_empty()), || no_chain(name))
        }
        NftOp::AddTable | NftOp::DelTable => Ok(()),
    }
}

fn sets_used(t: &Table) -> BTreeSet<String> {
    let all = t.chains.values().flat_map(|c| &c.rules).flat_map(|r| &r.expressions);
    all.filter_map(|e| match e {
        Expression::InSet { set, .. } => Some(set.clone()),
        Expression::VerdictMap { map, .. }
        | Expression::MarkFromMap { map, .. }
        | Expression::DnatMap { map, .. }
        | Expression::SnatMap { map, .. } => Some(map.clone()),
        Expression::HasPorts => Some("ported".to_owned()),
        _ => None,
    })
    .collect()
}

fn check_references(t: &Table) -> Result {
    for set in sets_used(t) {
        ensure(t.sets.contains_key(&set), || format!("no set {set}"))?;
    }
    for chain in t.chain_targets() {
        ensure(t.chains.contains_key(chain), || format!("no chain {chain}"))?;
    }
    Ok(())
}
