//! `cargo xtask differential --flows N --seed S`: the kernel and the model must agree.
//!
//! Random networks are made real in throw-away worlds; each flow is sent by real sockets, received
//! by real sockets, and judged against `moat_net::trace`: whether it arrives, where, with which
//! source, whether an answer comes back, and which rule the firewall's log names. `--sabotage`
//! makes the kernel from a network that differs by one small lie and requires that it is noticed.
#![allow(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

mod bed;
mod judge;

use std::io::{Read as _, Seek as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use moat_host::testbed::{Unavailable, in_world};
use moat_net::generate::{Campaign, Case, Options, Sabotage, sabotage, world};
use moat_net::ir::Net;
use moat_net::trace::{Stage, trace};
use serde::{Deserialize, Serialize};

use crate::shared::Skip;

/// Flows a world has unless told: enough to pay for making it, few enough to know many worlds.
const FLOWS_PER_WORLD: usize = 10;
/// Below this many flows a share says nothing.
const SHARES_FROM: usize = 200;
/// Least share of allowed flows, in percent.
const ALLOWED_MIN: usize = 40;
/// Least share, in percent, of each stage in [`MAIN_STAGES`].
const STAGE_MIN: usize = 5;
/// Stages that have to decide often: the four rule lists, and what stops packets most otherwise.
const MAIN_STAGES: [Stage; 8] = [
    Stage::OutNic,
    Stage::OutSubnet,
    Stage::InSubnet,
    Stage::InNic,
    Stage::RouteNone,
    Stage::NoSuchHost,
    Stage::NoPublicIp,
    Stage::ReturnRoute,
];
/// Flows within which a lie must be noticed.
const SABOTAGE_FLOWS_MAX: usize = 200;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many flows to send
    #[arg(long, default_value_t = 200)]
    flows: usize,
    /// Seed of networks and flows
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Over how many networks the flows are spread [default: one for 10 flows]
    #[arg(long)]
    worlds: Option<usize>,
    /// Send only the flows of this network, to look at a disagreement again
    #[arg(long)]
    only: Option<usize>,
    /// Lie to the kernel, and require that it is noticed
    #[arg(long)]
    sabotage: bool,
}

/// A network with the flows to send through it.
struct World {
    number: usize,
    net: Net,
    cases: Vec<Case>,
}

/// What became of the flows of one network.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Findings {
    /// One a flow: what the kernel did, if that is not what the model says.
    disagreements: Vec<Option<String>>,
    /// How many were looked at twice, since the first time nothing was heard.
    twice: usize,
}

/// Makes networks one after the other, each with its flows.
struct Worlds {
    seed: u64,
    options: Options,
    campaign: Campaign,
    number: usize,
}

impl Worlds {
    fn new(seed: u64) -> Self {
        Self { seed, options: Options::default(), campaign: Campaign::new(seed), number: 0 }
    }

    fn next(&mut self, flows: usize) -> World {
        let number = self.number;
        self.number += 1;
        // Neighbouring seeds must not share networks.
        let mixed = self.seed.wrapping_mul(1_000_003).wrapping_add(number as u64);
        let mut net = world(mixed, &self.options);
        net.default_outbound = bed::default_outbound(&net);
        let cases = self.campaign.flows(&net, flows);
        World { number, net, cases }
    }
}

/// Sends, compares, counts.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.sabotage { lie(args) } else { compare(args) }
}

fn compare(args: &Args) -> Result<()> {
    let start = Instant::now();
    let per_world = args.worlds.map_or(FLOWS_PER_WORLD, |w| args.flows.div_ceil(w.max(1)));
    let mut worlds = Worlds::new(args.seed);
    let (mut sent, mut failed, mut twice) = (0, 0, 0);
    while worlds.campaign.total < args.flows as u64 {
        let left = args.flows - usize::try_from(worlds.campaign.total)?;
        let world = worlds.next(per_world.min(left));
        if args.only.is_some_and(|o| o != world.number) {
            continue;
        }
        let findings = send(&world.net, &world.net, &world.cases)?;
        sent += world.cases.len();
        twice += findings.twice;
        for (flow, case, what) in disagreements(&world, &findings) {
            failed += 1;
            println!("DISAGREE world {} flow {flow}: {}", world.number, case.flow);
            println!("  kernel: {what}");
            println!("  model:  {}", story(case));
            println!("  again:  {}", again(args, per_world, world.number));
        }
    }
    let seconds = start.elapsed();
    println!("flows      {sent} in {} networks, {}, seed {}", worlds.number, took(seconds), args.seed);
    println!("second look at {twice}: nothing was heard the first time");
    let short = shares(&worlds.campaign);
    println!("disagreements {failed}");
    println!("differential: {} passed, {failed} failed", sent - failed);
    if failed > 0 {
        bail!("kernel and model disagree about {failed} of {sent} flows");
    }
    if args.flows >= SHARES_FROM && args.only.is_none() && !short.is_empty() {
        bail!("the flows are not a fair choice: {}", short.join(", "));
    }
    Ok(())
}

/// Prints who decided how many flows; returns what is below its least share.
fn shares(campaign: &Campaign) -> Vec<String> {
    let total = campaign.total.max(1);
    let percent = |n: u64| format!("{}.{}%", n * 100 / total, n * 1000 / total % 10);
    let below = |n: u64, least: usize| n * 100 < total * least as u64;
    println!("allowed    {:>5} {:>6}", campaign.allowed, percent(campaign.allowed));
    for (stage, n) in &campaign.counts {
        println!("  {:<18} {n:>5} {:>6}", stage.as_str(), percent(*n));
    }
    let mut short = Vec::new();
    if below(campaign.allowed, ALLOWED_MIN) {
        short.push(format!("{} are allowed, not {ALLOWED_MIN}%", percent(campaign.allowed)));
    }
    for stage in MAIN_STAGES {
        let n = campaign.counts.get(&stage).copied().unwrap_or(0);
        if below(n, STAGE_MIN) {
            short.push(format!("{} decides {}, not {STAGE_MIN}%", stage.as_str(), percent(n)));
        }
    }
    short
}

/// Every kind of lie must be noticed, and by a flow that the lie is about.
fn lie(args: &Args) -> Result<()> {
    let (mut passed, mut failed) = (0, 0);
    for kind in Sabotage::ALL {
        let mut worlds = Worlds::new(args.seed);
        let (mut flows, mut caught) = (0, false);
        while flows < SABOTAGE_FLOWS_MAX.min(args.flows) && !caught {
            let world = worlds.next(FLOWS_PER_WORLD);
            flows += world.cases.len();
            let Some((lie, what)) = sabotage(&world.net, kind, &world.cases) else { continue };
            let findings = send(&world.net, &lie, &world.cases)?;
            let concerned = |case: &Case| trace(&lie, case.from, case.flow) != case.trace;
            let noticed: Vec<_> = disagreements(&world, &findings).filter(|(_, case, _)| concerned(case)).collect();
            println!("{kind:?}: {what}: {} flows disagree, {flows} sent so far", noticed.len());
            if let Some((flow, case, what)) = noticed.first() {
                println!("  world {} flow {flow}: {}: kernel: {what}; model: {}", world.number, case.flow, story(case));
                caught = true;
            }
        }
        if caught {
            passed += 1
        } else {
            failed += 1
        }
        println!("{kind:?}: {}", if caught { "caught" } else { "NOT CAUGHT" });
    }
    println!("differential --sabotage: {passed} passed, {failed} failed");
    if failed > 0 {
        bail!("{failed} kinds of lies were not noticed");
    }
    Ok(())
}

fn disagreements<'a>(world: &'a World, findings: &'a Findings) -> impl Iterator<Item = (usize, &'a Case, &'a str)> {
    let both = world.cases.iter().zip(&findings.disagreements).enumerate();
    both.filter_map(|(i, (case, what))| Some((i, case, what.as_deref()?)))
}

/// What the model says, on one line.
fn story(case: &Case) -> String {
    let way = if case.replies { "with an answer" } else { "one way" };
    let seen = format!("seen as {} ({way})", case.trace.seen);
    format!("{seen}; {}", case.trace.to_string().replace('\n', "; "))
}

fn again(args: &Args, per_world: usize, number: usize) -> String {
    let worlds = args.flows.div_ceil(per_world);
    format!("cargo xtask differential --flows {} --seed {} --worlds {worlds} --only {number}", args.flows, args.seed)
}

fn took(time: Duration) -> String {
    format!("{}.{} s", time.as_secs(), time.subsec_millis() / 100)
}

/// Sends `cases` through a kernel made from `real` and compares with what they say of `net`.
fn send(net: &Net, real: &Net, cases: &[Case]) -> Result<Findings> {
    // A file, since a full pipe would stop the child before the parent reads.
    let mut report = tempfile::tempfile().context("making a file for the findings")?;
    let mut theirs = report.try_clone()?;
    let done = in_world(|| {
        let outcome = bed::findings(net, real, cases)
            .map_err(|e| format!("{e:#}"))
            .and_then(|f| serde_json::to_string(&f).map_err(|e| e.to_string()));
        let (text, code) = match outcome {
            Ok(text) => (text, 0),
            Err(text) => (text, 1),
        };
        if theirs.write_all(text.as_bytes()).is_ok() { code } else { 1 }
    });
    let code = match done {
        Ok(code) => code,
        Err(e @ Unavailable::Namespaces(_)) => return Err(Skip(format!("{:#}", anyhow::Error::from(e))).into()),
        Err(e @ Unavailable::Threads) => return Err(e.into()),
    };
    let mut text = String::new();
    report.rewind()?;
    report.read_to_string(&mut text)?;
    if code != 0 {
        bail!("a world could not be made: {text} (exit code {code})");
    }
    serde_json::from_str(&text).context("reading the findings")
}
