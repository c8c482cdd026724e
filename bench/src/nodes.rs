//! Attaching nodes: a namespace, a link, addresses, routes and rule chains for each.
//!
//! Measured from the model's value to the kernel: plan, diff, apply. The baseline makes the very
//! same objects by `ip -batch` and `nft -f`, the fastest way without a program of one's own.

use std::time::Duration;

use anyhow::{Context, Result};
use moat_bench::documents::{Rules, Shape};
use moat_bench::report::{Goal, Machine, Row, timed};
use moat_bench::{sandbox, text};
use moat_host::{Applier, Fabric, HostPlan, diff, plan};

use crate::note;

/// Rules each way of the group at the subnet and at each NIC.
const RULES: u16 = 10;
/// The kernel takes namespaces apart in the background; what comes next should not pay for it.
const REST: Duration = Duration::from_millis(500);
/// The goal of the project for 100 nodes.
const HUNDRED_NODES_MILLISECONDS_MAX: f64 = 1_000.0;

/// See the module.
pub(crate) fn run(quick: bool) -> Result<Vec<Row>> {
    let machine = Machine::look();
    sandbox::enter()?;
    let mut rows = Vec::new();
    for (nodes, rounds) in [(1, 15), (100, 9), (500, 5)] {
        let rounds = if quick { 2 } else { rounds };
        note(format_args!("{nodes} nodes, {rounds} rounds"));
        rows.extend(attach(nodes, rounds, machine)?);
    }
    Ok(rows)
}

fn attach(nodes: u16, rounds: usize, machine: Machine) -> Result<Vec<Row>> {
    let shape = |nics| Shape::star(nics, Rules::both(RULES, true), true);
    let fabric = Fabric::default();
    // The VNet with its router is there before; one NIC is, so that the shape of the plan is the same.
    let before = plan(&shape(1).net(), &fabric);
    let net = shape(1 + nodes).net();
    let (mut whole, mut planning, mut baseline, mut down) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut applier = Applier::new(sandbox::PINS)?;
        applier.apply(&diff(&HostPlan::default(), &before)).context("making the empty network")?;
        let (pure, steps) = timed(|| diff(&before, &plan(&net, &fabric)));
        let (kernel, done) = timed(|| applier.apply(&steps));
        done.context("attaching")?;
        planning.push(pure);
        whole.push(pure + kernel);
        let (time, done) = timed(|| applier.destroy());
        done.context("removing")?;
        down.push(time);
        std::thread::sleep(REST);

        let mut applier = Applier::new(sandbox::PINS)?;
        applier.apply(&diff(&HostPlan::default(), &before)).context("making the empty network")?;
        baseline.push(by_commands(&text::commands(&steps)).context("attaching by ip and nft")?);
        for ns in steps.iter().filter_map(created) {
            sandbox::run(std::process::Command::new("ip").args(["netns", "del", ns]))?;
        }
        applier.destroy().context("removing")?;
        std::thread::sleep(REST);
    }
    let name = |what: &str| format!("nodes: {what} {nodes}");
    let attached = Row::new(name("attach"), "ms", whole, machine).against("ip -batch + nft -f", &baseline);
    let attached = if nodes == 100 { attached.goal(Goal::Below(HUNDRED_NODES_MILLISECONDS_MAX)) } else { attached };
    Ok(vec![
        attached,
        Row::new(name("of that plan + diff,"), "ms", planning, machine),
        Row::new(name("remove"), "ms", down, machine),
    ])
}

fn created(step: &moat_host::Step) -> Option<&str> {
    match step {
        moat_host::Step::CreateNs { ns, .. } => Some(ns.as_str()),
        _ => None,
    }
}

/// Runs the commands; milliseconds. The files they read are written before.
fn by_commands(commands: &text::Commands) -> Result<f64> {
    let folder = tempfile::tempdir_in("/run")?;
    let file = |name: &str, text: &str| -> Result<_> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let host = file("host", &commands.host)?;
    let mut ip = Vec::new();
    for (ns, text) in &commands.ip {
        ip.push((ns.as_str(), file(&format!("{ns}.ip"), text)?));
    }
    // Links are made from the router's side: its batch comes first.
    ip.sort_by_key(|(ns, _)| !commands.ip.iter().any(|(n, text)| n.as_str() == *ns && text.contains("type veth")));
    let mut nft = Vec::new();
    for (ns, text) in &commands.nft {
        nft.push((ns.as_str(), file(&format!("{ns}.nft"), text)?));
    }
    let (time, done) = timed(|| {
        sandbox::run(std::process::Command::new("ip").arg("-batch").arg(&host))?;
        for (ns, batch) in &ip {
            sandbox::run(std::process::Command::new("ip").args(["-n", ns, "-batch"]).arg(batch))?;
        }
        for (ns, rules) in &nft {
            sandbox::run_in(ns, "nft", &["-f"], rules)?;
        }
        Ok(())
    });
    done.map(|()| time)
}
