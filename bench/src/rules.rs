//! Replacing a security group of 1,000 rules, from the documents' network to the kernel's verdict.

use anyhow::{Context, Result};
use moat_bench::documents::{Rules, Shape};
use moat_bench::report::{Goal, Machine, Row, timed};
use moat_bench::{sandbox, text};
use moat_host::diff::{NftOp, Step};
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
        let path = folder.path().join(format!("{at}.nft"));
        std::fs::write(&path, whole_table(&plan(net, &fabric), &router))?;
        files.push(path);
    }
    // Where `nft -f` replaces: a namespace with the same links is not needed to load rules by name.
    sandbox::run(std::process::Command::new("ip").args(["netns", "add", "baseline"]))?;
    sandbox::run_in("baseline", "nft", &["-f"], &files[0])?;

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
        let (time, done) = timed(|| sandbox::run_in("baseline", "nft", &["-f"], &files[round % 2]));
        done.context("replacing by nft")?;
        baseline.push(time);
    }
    sandbox::run(std::process::Command::new("ip").args(["netns", "del", "baseline"]))?;
    applier.destroy().context("removing")?;
    Ok(vec![
        Row::new(format!("rules: swap {name}"), "ms", whole, machine)
            .against("nft -f", &baseline)
            .goal(Goal::Below(SWAP_MILLISECONDS_MAX)),
        Row::new(format!("rules: of that plan + diff, {name}"), "ms", pure, machine),
    ])
}

/// One transaction that replaces everything in `ns`.
fn whole_table(plan: &HostPlan, ns: &NsName) -> String {
    let steps = diff(&HostPlan::default(), plan);
    let only: Vec<Step> = steps.into_iter().filter(|s| matches!(s, Step::Nft { ns: n, .. } if n == ns)).collect();
    let replace = Step::Nft { ns: ns.clone(), ops: vec![NftOp::AddTable, NftOp::DelTable] };
    let all: Vec<Step> = std::iter::once(replace).chain(only).collect();
    text::commands(&all).nft.remove(ns).unwrap_or_default()
}
