//! `cargo xtask differential`: the model and the kernel must say the same about every packet.
//!
//! Random worlds are planned and made real in throw-away namespaces; each flow is a real packet
//! between real sockets, and what happened at both ends and in the firewall's log is compared with
//! [`moat_net::trace`]. With `--sabotage` the kernel is given a world with one lie in it, which
//! must be noticed: a differential test that cannot fail proves nothing.
#![allow(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use moat_host::layout::BACKBONE;
use moat_host::ruleset::{Base, Chain, ChainKind, Expression, Field, Hook, Rule, Table};
use moat_host::testbed::{Outcome, Probe, Testbed, Unavailable, in_world};
use moat_host::{Fabric, HostPlan, NsName};
use moat_net::generate::{Campaign, Case, Options, Sabotage, sabotage, world};
use moat_net::ir::{Net, Protocol};
use moat_net::trace::{From, Stage, Verdict};

use crate::shared::Skip;

/// Flows in one world.
const FLOWS_PER_WORLD: usize = 10;
/// Worlds tried before a run gives up on finding enough flows.
const WORLDS_PER_FLOW_MAX: u64 = 2;
/// How long a batch of packets may take; silence for that long is an answer, to be confirmed.
const BATCH_WAIT: Duration = Duration::from_millis(250);
/// How long one packet may take when it is sent again to confirm a disagreement.
const CONFIRM_WAIT: Duration = Duration::from_secs(2);
/// Smallest share of allowed flows, in percent.
const ALLOWED_PERCENT_MIN: usize = 40;
/// Smallest share of each of [`STAGES`], in percent.
const STAGE_PERCENT_MIN: usize = 5;
/// Stages that every run must exercise.
const STAGES: [Stage; 8] = [
    Stage::OutNic,
    Stage::OutSubnet,
    Stage::InSubnet,
    Stage::InNic,
    Stage::RouteNone,
    Stage::NoSuchHost,
    Stage::NoPublicIp,
    Stage::ReturnRoute,
];
/// A handful of flows cannot show every stage; from so many on, they have to.
const SHARES_FROM: usize = 100;
/// Flows within which a lie must be noticed.
const SABOTAGE_FLOWS_MAX: usize = 200;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many flows
    #[arg(long, default_value_t = 200)]
    flows: usize,
    /// Seed of worlds and flows
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Give the kernel a world with a lie in it; succeed if every kind of lie is noticed
    #[arg(long)]
    sabotage: bool,
}

/// Runs in a throw-away world of this process's child.
pub(crate) fn run(args: &Args) -> Result<()> {
    let work = || {
        let done = if args.sabotage { lies(args.seed) } else { compare(args.flows, args.seed) };
        match done {
            Ok(()) => 0,
            Err(e) => {
                println!("error: {e:#}");
                1
            }
        }
    };
    match in_world(work) {
        Ok(0) => Ok(()),
        Ok(_) => bail!("the differential test failed"),
        Err(e @ Unavailable::Namespaces(_)) => Err(Skip(format!("{e}; `moat doctor` says what is missing")).into()),
        Err(e) => Err(e.into()),
    }
}

/// What happened to one case.
struct Judged {
    case: Case,
    outcome: Outcome,
    agrees: bool,
}

fn compare(flows: usize, seed: u64) -> Result<()> {
    let start = Instant::now();
    let (options, mut campaign) = (Options::default(), Campaign::new(seed));
    let (mut stages, mut allowed, mut total) = (BTreeMap::<&str, usize>::new(), 0, 0);
    let (mut disagreements, mut worlds) = (Vec::new(), 0u64);
    while total < flows || (flows >= SHARES_FROM && total < 2 * flows && lagging(&stages, total).is_some()) {
        let number = seed.wrapping_mul(1_000_003).wrapping_add(worlds);
        let net = world(number, &options);
        worlds += 1;
        if worlds > WORLDS_PER_FLOW_MAX * u64::try_from(flows)? {
            bail!("{worlds} worlds gave only {total} flows");
        }
        let cases = campaign.flows(&net, FLOWS_PER_WORLD.min(flows.saturating_sub(total).max(1)));
        for judged in judge(&net, &net, cases).with_context(|| format!("world {number}"))? {
            total += 1;
            allowed += usize::from(judged.case.trace.verdict == Verdict::Allow);
            *stages.entry(judged.case.trace.stage.as_str()).or_default() += 1;
            if !judged.agrees {
                disagreements.push(format!("world {number}: {}", told(&net, &judged)));
            }
        }
    }
    println!("{total} flows in {worlds} worlds, seed {seed}, {:.1} s", start.elapsed().as_secs_f64());
    println!("allowed: {allowed} ({} %)", allowed * 100 / total.max(1));
    for (stage, n) in &stages {
        println!("  {stage:<20} {n:>5}  {:>3} %", n * 100 / total.max(1));
    }
    for disagreement in &disagreements {
        println!("DISAGREE {disagreement}");
    }
    println!("{} passed, {} failed", total - disagreements.len(), disagreements.len());
    if !disagreements.is_empty() {
        bail!("the kernel and the model disagree");
    }
    if flows >= SHARES_FROM {
        if allowed * 100 < ALLOWED_PERCENT_MIN * total {
            bail!(
                "only {allowed} of {total} flows are allowed; the test would not notice a kernel that drops everything"
            );
        }
        if let Some(stage) = lagging(&stages, total) {
            bail!("the stage {} decided less than {STAGE_PERCENT_MIN} % of {total} flows", stage.as_str());
        }
    }
    Ok(())
}

/// A stage that has decided too few flows yet; more worlds may offer it.
fn lagging(stages: &BTreeMap<&str, usize>, total: usize) -> Option<Stage> {
    let share = |s: &Stage| stages.get(s.as_str()).copied().unwrap_or(0) * 100;
    STAGES.into_iter().find(|s| share(s) < STAGE_PERCENT_MIN * total)
}

fn lies(seed: u64) -> Result<()> {
    let options = Options::default();
    let (mut noticed, mut missed) = (0, 0);
    for kind in Sabotage::ALL {
        let (mut campaign, mut flows, mut found, mut worlds) = (Campaign::new(seed), 0, None, 0u64);
        while flows < SABOTAGE_FLOWS_MAX && found.is_none() && worlds < 50 {
            let net = world(seed.wrapping_mul(1_000_003).wrapping_add(worlds), &options);
            worlds += 1;
            let cases = campaign.flows(&net, FLOWS_PER_WORLD);
            // A world without such a lie still counts its flows: they could not have noticed it.
            let Some((lie, sentence)) = sabotage(&net, kind, &cases) else {
                flows += cases.len();
                continue;
            };
            flows += cases.len();
            let judged = judge(&lie, &net, cases)?;
            found = judged.iter().find(|j| !j.agrees).map(|j| format!("{sentence}; noticed by {}", j.case.flow));
        }
        match found {
            Some(sentence) => {
                println!("noticed within {flows} flows: {sentence}");
                noticed += 1;
            }
            None => {
                println!("NOT NOTICED within {flows} flows: {kind:?}");
                missed += 1;
            }
        }
    }
    println!("{noticed} passed, {missed} failed");
    if missed > 0 {
        bail!("a lie went unnoticed");
    }
    Ok(())
}

/// Sends every case through a kernel that was given `planned`, and compares with `model`.
fn judge(planned: &Net, model: &Net, cases: Vec<Case>) -> Result<Vec<Judged>> {
    let mut bed = Testbed::new().context("making a world")?;
    let plan = moat_host::plan(planned, &Fabric { any_public: true, ..Fabric::default() });
    bed.realise(with_ends(plan, planned)).context("applying the plan")?;
    let cases: Vec<Case> = cases.into_iter().map(|c| observable(model, c)).collect();
    let probes: Vec<Option<Probe>> =
        cases.iter().enumerate().map(|(i, c)| probe(&bed, planned, c, u16::try_from(i).unwrap_or(0))).collect();
    let mut outcomes = vec![Outcome::default(); cases.len()];
    for batch in batches(&cases, &probes) {
        let sent: Vec<Probe> = batch.iter().filter_map(|i| probes[*i].clone()).collect();
        for (i, outcome) in batch.iter().zip(bed.probe(&sent, BATCH_WAIT).context("sending packets")?) {
            outcomes[*i] = outcome;
        }
    }
    let mut judged = Vec::new();
    for ((case, mut outcome), probe) in cases.into_iter().zip(outcomes).zip(probes) {
        let Some(probe) = probe else { bail!("no place for {}", case.flow) };
        let mut agrees = agree(&bed.plan, &case, &outcome);
        if !agrees {
            // A busy machine may have been late: alone and with patience it must say the same again.
            let again = bed.probe(std::slice::from_ref(&probe), CONFIRM_WAIT).context("sending a packet again")?;
            outcome = again.into_iter().next().unwrap_or_default();
            agrees = agree(&bed.plan, &case, &outcome);
        }
        judged.push(Judged { case, outcome, agrees });
    }
    bed.applier.destroy().context("removing the world")?;
    Ok(judged)
}

/// Appliances take every packet that comes in as their own (its destination becomes their address,
/// and answers leave as from the destination), so that what is handed to one can be seen there.
fn with_ends(mut plan: HostPlan, net: &Net) -> HostPlan {
    for nic in net.nics.iter().filter(|n| n.ip_forwarding) {
        let Some(ns) = plan.places.get(&nic.id.to_ascii_lowercase()).cloned() else { continue };
        let (Some(ns), Some(IpAddr::V4(address))) =
            (plan.namespaces.get_mut(&ns), nic.ip_configs.first().map(|c| c.address))
        else {
            continue;
        };
        let from_outside =
            Expression::LinkIs { field: Field::InLink, name: "eth0".to_owned(), prefix: false, not: false };
        let take = Rule { expressions: vec![from_outside, Expression::Dnat { address, port: None }] };
        let base = Base { kind: ChainKind::Nat, hook: Hook::Prerouting, priority: -100, drop: false };
        let chain = Chain { base: Some(base), rules: vec![take] };
        ns.nft = Some(Table { sets: BTreeMap::new(), chains: BTreeMap::from([("c_take".to_owned(), chain)]) });
    }
    plan
}

/// A TCP packet whose answer cannot come back shows nothing at either end; such a case becomes one
/// with UDP, and the model is asked anew.
fn observable(net: &Net, case: Case) -> Case {
    let one_way = case.trace.verdict == Verdict::Allow && !case.replies;
    if !one_way || case.flow.protocol != Protocol::Tcp {
        return case;
    }
    let flow = moat_net::packet::Flow { protocol: Protocol::Udp, ..case.flow };
    let trace = moat_net::trace::trace(net, case.from, flow);
    let replies = moat_net::generate::replies(net, &trace);
    Case { from: case.from, flow, trace, replies }
}

/// Ports tell packets of one batch apart; ICMP has none, so each of those goes alone.
fn batches(cases: &[Case], probes: &[Option<Probe>]) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let Some(probe) = &probes[i] else { continue };
        let port = |j: &usize| probes[*j].as_ref().map(|p| p.source.port());
        let fits = |batch: &&mut Vec<usize>| {
            batch.iter().all(|j| cases[*j].flow.protocol.has_ports() && port(j) != Some(probe.source.port()))
        };
        match case.flow.protocol.has_ports().then(|| all.iter_mut().find(fits)).flatten() {
            Some(batch) => batch.push(i),
            None => all.push(vec![i]),
        }
    }
    all
}

fn probe(bed: &Testbed, net: &Net, case: &Case, number: u16) -> Option<Probe> {
    let from = match case.from {
        From::Nic(nic) => bed.place(&net.nic(nic).id)?,
        From::Internet => NsName::from(BACKBONE),
        From::InternetTo(_) | From::Probe(_) => return None,
    };
    let v4 = |a: IpAddr| match a {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => None,
    };
    let has_ports = case.flow.protocol.has_ports();
    // Without ports this is the identifier of the echo.
    let source_port = if has_ports { case.flow.source_port } else { 4000 + number };
    Some(Probe {
        from,
        source: SocketAddrV4::new(v4(case.flow.source)?, source_port),
        destination: SocketAddrV4::new(v4(case.flow.destination)?, case.flow.destination_port),
        protocol: case.flow.protocol,
        listen: ends(bed, net, case),
    })
}

/// Everywhere the packet could come out, also where the model says that it must not.
fn ends(bed: &Testbed, net: &Net, case: &Case) -> Vec<(NsName, u16)> {
    let mut ends = Vec::new();
    for (address, port) in [
        (case.flow.destination, case.flow.destination_port),
        (case.trace.seen.destination, case.trace.seen.destination_port),
    ] {
        for nic in net.nics.iter().filter(|n| n.ip_configs.iter().any(|c| c.address == address)) {
            ends.extend(bed.place(&nic.id).map(|ns| (ns, port)));
        }
        if moat_net::address::is_public(address) {
            ends.push((NsName::from(BACKBONE), port));
        }
    }
    if let Some(nic) = case.trace.arrived {
        ends.extend(bed.place(&net.nic(nic).id).map(|ns| (ns, case.trace.seen.destination_port)));
    }
    for nic in net.nics.iter().filter(|n| n.ip_forwarding) {
        ends.extend(bed.place(&nic.id).map(|ns| (ns, case.flow.destination_port)));
    }
    ends.sort();
    ends.dedup();
    ends
}

/// Whether what happened is what the model said.
fn agree(plan: &HostPlan, case: &Case, outcome: &Outcome) -> bool {
    let trace = &case.trace;
    match (trace.verdict, trace.stage) {
        (Verdict::Allow, _) if case.replies => outcome.answered,
        (Verdict::Allow, _) => outcome.arrived.is_some(),
        // The first packet comes through; its answer leaves another way and is lost (5.11).
        (_, Stage::ReturnRoute) => !outcome.answered,
        (Verdict::Deny, _) => {
            // The kernel looks for a route before it asks the rules: a packet without one dies unlogged.
            let rule = outcome.dropped.as_ref().map(|(_, id)| plan.rule_ids.get(id));
            let same = |r: Option<&moat_host::RuleRef>| {
                trace.lists.last().is_some_and(|l| r.is_some_and(|r| r.rule == l.rule))
            };
            outcome.arrived.is_none() && !outcome.answered && rule.is_none_or(same)
        }
        (Verdict::Drop, _) => outcome.arrived.is_none() && !outcome.answered,
    }
}

fn told(net: &Net, judged: &Judged) -> String {
    let from = match judged.case.from {
        From::Nic(nic) => net.nic(nic).id.clone(),
        _ => "internet".to_owned(),
    };
    let name = |ns: &NsName| ns.as_str().to_owned();
    format!(
        "{} from {from}: the model says {:?} ({}){}, the kernel: arrived at {:?}, answered {}, dropped by {:?}\n{}",
        judged.case.flow,
        judged.case.trace.verdict,
        judged.case.trace.stage.as_str(),
        if judged.case.replies { "" } else { ", no way back" },
        judged.outcome.arrived.as_ref().map(|(ns, a): &(NsName, Ipv4Addr)| format!("{} from {a}", name(ns))),
        judged.outcome.answered,
        judged.outcome.dropped.as_ref().map(|(ns, id)| format!("{} rule {id}", name(ns))),
        judged.case.trace
    )
}
