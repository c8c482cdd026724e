//! `cargo xtask crash --kills N`: nothing that was acknowledged is lost, and the kernel comes back.
//!
//! Each round starts an environment on the state the last one left, compares every acknowledged
//! write with what is read now, waits until the kernel is as planned, then writes from many
//! connections at once and kills one process (server, helper, init or front, by turns) with
//! SIGKILL at a random moment. After that no process of the world may be left and the host must
//! be as before. One round more than kills: the last one only reads.
#![allow(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

mod ledger;
mod load;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::api::Api;
use crate::environment;
use crate::world::{HostView, Victim, World};
use ledger::Ledger;
use load::Plan;

/// Shortest and longest time that writes go on before the kill, in milliseconds.
const WRITE_MILLIS: std::ops::Range<u64> = 10..900;
/// How long kernel and clusters may take to become as they were asked to be.
const CONVERGE_MAX: Duration = Duration::from_secs(60);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many times to kill
    #[arg(long, default_value_t = 25)]
    kills: u32,
    /// Seed of the moments and of what is written
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A small generator: the same seed writes the same things and kills at the same offsets.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Starts at `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }
    /// Splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// Kills, restarts, compares.
pub(crate) fn run(args: &Args) -> Result<()> {
    let moat = environment::binary()?;
    let home = tempfile::Builder::new().prefix("moat-crash-").tempdir().context("making a folder for the state")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut random = Random(args.seed);
    let mut ledger = Ledger::default();
    let (mut passed, mut failed, mut written) = (0u32, 0u32, 0usize);
    for round in 0..=args.kills {
        let kill = round < args.kills;
        let before = HostView::take()?;
        let mut world = World::start(&moat, home.path())?;
        let api = Api::new(world.port()?, world.place()?)?;
        let mut wrong = if round == 0 {
            runtime.block_on(load::prepare(&api)).context("preparing the load")?;
            Vec::new()
        } else {
            compare(&runtime, &world, &api, &mut ledger)?
        };
        let (what, wrote) = if kill {
            let victim = Victim::by_turns(round);
            let wait = Duration::from_millis(WRITE_MILLIS.start + random.below(WRITE_MILLIS.end - WRITE_MILLIS.start));
            let plan = Plan { round, seed: random.next() };
            let wrote = load::until_killed(&runtime, &api, &mut world, &plan, &mut ledger, wait, victim)?;
            (format!("{victim} killed after {} ms", wait.as_millis()), wrote)
        } else {
            world.down()?;
            ("ended in order".to_owned(), 0)
        };
        written += wrote;
        wrong.extend(world.gone()?);
        wrong.extend(before.leaks(&HostView::take()?));
        // A round is judged by what the kill before it did: the first has none.
        let verdict = if wrong.is_empty() { "ok" } else { "FAILED" };
        println!("{round:>4}  {verdict:<6}  {what}, {wrote} writes acknowledged, {} documents known", ledger.len());
        for line in &wrong {
            println!("      {line}");
        }
        if round > 0 || !wrong.is_empty() {
            if wrong.is_empty() { passed += 1 } else { failed += 1 }
        }
    }
    println!("crash: {passed} passed, {failed} failed ({written} writes acknowledged, seed {})", args.seed);
    if failed > 0 {
        bail!("{failed} of {} kills lost something", args.kills);
    }
    Ok(())
}

/// Everything acknowledged is there, and kernel and cluster become as the documents say.
fn compare(runtime: &tokio::runtime::Runtime, world: &World, api: &Api, ledger: &mut Ledger) -> Result<Vec<String>> {
    let mut wrong = runtime.block_on(ledger.compare(api))?;
    let deadline = Instant::now() + CONVERGE_MAX;
    loop {
        let trouble = unconverged(runtime, world, api, ledger)?;
        match trouble {
            None => {
                ledger.settle_demand();
                return Ok(wrong);
            }
            Some(text) if Instant::now() > deadline => {
                wrong.push(format!("after {} s: {text}", CONVERGE_MAX.as_secs()));
                ledger.forget_demand();
                return Ok(wrong);
            }
            Some(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// What is still on its way, if anything.
fn unconverged(
    runtime: &tokio::runtime::Runtime,
    world: &World,
    api: &Api,
    ledger: &mut Ledger,
) -> Result<Option<String>> {
    let status = world.control("status", &json!({}))?;
    let verified = match world.control("verify", &json!({})) {
        Ok(verified) => verified,
        Err(error) => return Ok(Some(format!("the kernel could not be verified: {error:#}"))),
    };
    if verified["equal"] != true {
        return Ok(Some(format!("the kernel differs from the plan: {}", verified["differences"])));
    }
    if verified["seq"] != status["seq"] {
        return Ok(Some(format!("the kernel is at {}, the documents at {}", verified["seq"], status["seq"])));
    }
    let cluster = runtime.block_on(api.get(&load::cluster_path(api)))?;
    let inner = &cluster.body["properties"]["properties"];
    let (target, current) = (inner["targetNodeCount"].as_u64(), inner["currentNodeCount"].as_u64());
    if target != current {
        return Ok(Some(format!("the cluster has {current:?} of {target:?} nodes")));
    }
    Ok(ledger.check_demand(target))
}
