//! Replacing a security group of 1,000 rules, from the documents' network to the kernel's verdict.
//!
//! The baseline writes the same table anew by `nft -f`. In a user namespace one file of 1,000 rules
//! is refused (`Message too long`: the send buffer may not be raised), so it is given in as few files as
//! go through. That leaves a moment without rules, which Moat's build-then-flip does not.

use std::path::PathBuf;

use anyhow::{Context, Result};
use moat_bench::documents::{Rules, Shape};
use moat_bench::report::{Goal, Machine, Row, timed};
use moat_bench::{sandbox, text};
use moat_host::diff::{ELEMENTS_PER_BATCH_MAX, NftOp, RULES_PER_BATCH_MAX, Step};
use moat_host::{Applier, Fabric, HostPlan, NsName, diff, plan};

use crate::note;

/// The goal of the project.
const SWAP_MILLISECONDS_MAX: f64 = 50.0;

/// See the module.
pub(crate) fn run(quick: bool) -> Result<Vec<Row>> {
    let machine = Machine::look();
    sandbox::enter()?;
    let rounds = if quick { 4 } else { 31 };
    note(format_args!("{rounds} rounds"));
    let mut rows = Vec::new();
    for (name, each, mixed) in
        [("100 rules", 50, true), ("1,000 rules", 500, true), ("1,000 rules of one action", 500, false)]
    {
        rows.extend(swap(name, Rules::both(each, mixed), rounds, machine)?);
    }
    Ok(rows)
}

/// Every port of every rule changes, forth and back.
fn swap(name: &str, rules: Rules, rounds: usize, machine: Machine) -> Result<Vec<Row>> {
    let fabric = Fabric::default();
    let net = |salt| Shape::star(2, Rules { salt, ..rules }, false).net();
    let nets = [net(0), net(5_000)];
    let mut now = plan(&nets[0], &fabric);
    let mut applier = Applier::new(sandbox::PINS)?;
    applier.apply(&diff(&HostPlan::default(), &now)).context("making the network")?;
    let router = now
        .namespaces
        .iter()
        .max_by_key(|(_, p)| {
            p.nft.as_ref().map_or(0, |t| t.chains.values().map(|c| c.rules.len()).sum::<usize>() + t.sets.len())
        })
        .map(|(ns, _)| ns.clone())
        .context("the plan has no namespace")?;

    let folder = tempfile::tempdir_in("/run")?;
    let mut files = Vec::new();
    for (at, net) in nets.iter().enumerate() {
        let mut parts = Vec::new();
        for (part, text) in whole_table(&plan(net, &fabric), &router).iter().enumerate() {
            let path = folder.path().join(format!("{at}-{part}.nft"));
            std::fs::write(&path, text)?;
            parts.push(path);
        }
        files.push(parts);
    }
    // Rules name links, so they load without them.
    sandbox::run(std::process::Command::new("ip").args(["netns", "add", "baseline"]))?;
    by_nft(&files[0])?;

    let (mut whole, mut pure, mut baseline) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let net = &nets[round % 2];
        let (planning, (next, steps)) = timed(|| {
            let next = plan(net, &fabric);
            let steps = diff(&now, &next);
            (next, steps)
        });
        let (kernel, done) = timed(|| applier.apply(&steps));
        done.context("swapping")?;
        now = next;
        pure.push(planning);
        whole.push(planning + kernel);
        let (time, done) = timed(|| by_nft(&files[round % 2]));
        done.context("replacing by nft")?;
        baseline.push(time);
    }
    sandbox::run(std::process::Command::new("ip").args(["netns", "del", "baseline"]))?;
    applier.destroy().context("removing")?;
    Ok(vec![
        Row::new(format!("rules: swap {name}"), "ms", whole, machine)
            .against(&format!("nft -f, {} files", files[0].len()), &baseline)
            .goal(Goal::Below(SWAP_MILLISECONDS_MAX)),
        Row::new(format!("rules: of that plan + diff, {name}"), "ms", pure, machine),
    ])
}

fn by_nft(parts: &[PathBuf]) -> Result<()> {
    parts.iter().try_for_each(|part| sandbox::run_in("baseline", "nft", &["-f"], part))
}

/// Files that replace everything in `ns`, each as large as one transaction may be.
fn whole_table(plan: &HostPlan, ns: &NsName) -> Vec<String> {
    let weight = |op: &NftOp| match op {
        NftOp::AddRules { rules, .. } => rules.len() as f64 / RULES_PER_BATCH_MAX as f64,
        NftOp::AddElements { elements, .. } => elements.len() as f64 / ELEMENTS_PER_BATCH_MAX as f64,
        _ => 0.3 / RULES_PER_BATCH_MAX as f64,
    };
    let mut parts = vec![vec![NftOp::AddTable, NftOp::DelTable]];
    let mut full = 0.0;
    for step in diff(&HostPlan::default(), plan) {
        let Step::Nft { ns: at, ops } = step else { continue };
        if at != *ns {
            continue;
        }
        let more: f64 = ops.iter().map(weight).sum();
        if full + more > 1.0 {
            parts.push(Vec::new());
            full = 0.0;
        }
        full += more;
        if let Some(part) = parts.last_mut() {
            part.extend(ops);
        }
    }
    let text = |ops| text::commands(&[Step::Nft { ns: ns.clone(), ops }]).nft.remove(ns).unwrap_or_default();
    parts.into_iter().map(text).collect()
}
