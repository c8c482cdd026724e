//! From the command line to the first 200, and what an environment holds in memory when nothing happens.
//!
//! Warm: keys exist (DECISIONS 12: a key of 2,048 bits takes longer than the whole goal). The
//! request carries a token of the run before, over TLS with the certificate checked.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use moat_bench::report::{Goal, Machine, Row, milliseconds, timed};

use crate::environment::{Environment, memory, tree};
use crate::http::client::{Trust, get_once, token};
use crate::note;

/// The goals of the project.
const WARM_START_MILLISECONDS_MAX: f64 = 50.0;
const IDLE_MIB_MAX: f64 = 30.0;
/// How long an environment rests before its memory is read; also between an end and the next start, since
/// the kernel takes the namespaces of the last one apart in the background and makes new ones wait for it.
const REST: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) fn run(binary: &Path, quick: bool) -> Result<Vec<Row>> {
    let rounds = if quick { 3 } else { 15 };
    let machine = Machine::look();
    let mut rows = Vec::new();

    note(format_args!("cold starts"));
    let mut cold = Vec::new();
    for _ in 0..if quick { 1 } else { 5 } {
        let environment = Environment::new(binary)?;
        let (time, done) = timed(|| environment.up());
        done?;
        cold.push(time);
        drop(environment);
        std::thread::sleep(REST);
    }

    let environment = Environment::new(binary)?;
    environment.up()?;
    let access = environment.access()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let trust = Trust::new(&access.ca)?;
    let bearer = runtime.block_on(token(environment.port, &trust, &access)).context("asking for a token")?;
    environment.down()?;
    std::thread::sleep(REST);

    note(format_args!("{rounds} warm starts"));
    let (mut first, mut ready, mut python, mut truth) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut memories: Vec<Vec<(String, f64, f64)>> = Vec::new();
    for _ in 0..rounds {
        let port = environment.port.to_string();
        let started = Instant::now();
        let mut up = environment.command("up", &["--detach", "--port", &port]);
        let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("starting moat")?;
        runtime
            .block_on(get_once(environment.port, &trust, &bearer, &access.subscription))
            .context("waiting for the first 200")?;
        first.push(milliseconds(started.elapsed()));
        anyhow::ensure!(up.wait()?.success(), "`moat up` failed");
        ready.push(milliseconds(started.elapsed()));
        if memories.len() < 5 {
            std::thread::sleep(REST);
            let seen = tree(environment.init()?).into_iter().filter_map(memory);
            memories.push(seen.map(|m| (m.name, m.rss, m.pss)).collect());
        }
        environment.down()?;
        std::thread::sleep(REST);
        python.push(spawn(Command::new("python3").args(["-c", "pass"]))?);
        truth.push(spawn(&mut Command::new("/bin/true"))?);
    }

    let mut ephemeral = Vec::new();
    for _ in 0..if quick { 1 } else { 5 } {
        let environment = Environment::new(binary)?;
        let mut command = environment.command("up", &["--ephemeral", "--", "true"]);
        let (time, output) = timed(|| command.output());
        let output = output?;
        anyhow::ensure!(output.status.success(), "--ephemeral: {}", String::from_utf8_lossy(&output.stderr));
        ephemeral.push(time);
        std::thread::sleep(REST);
    }

    rows.push(
        Row::new("start: warm, to the first 200", "ms", first, machine)
            .against("python3 -c pass", &python)
            .goal(Goal::Below(WARM_START_MILLISECONDS_MAX)),
    );
    rows.push(Row::new("start: warm, `up --detach` returns", "ms", ready, machine).against("/bin/true", &truth));
    rows.push(Row::new("start: cold, `up --detach` returns", "ms", cold, machine).against("python3 -c pass", &python));
    rows.push(
        Row::new("start: `up --ephemeral -- true`", "ms", ephemeral, machine).against("python3 -c pass", &python),
    );
    let processes = memories.iter().map(Vec::len).min().unwrap_or(0);
    for at in 0..processes {
        let name = memories.first().map_or(String::new(), |m| m[at].0.clone());
        let rss = memories.iter().map(|m| m[at].1).collect();
        rows.push(Row::new(format!("memory: idle RSS of `{name}` ({})", at + 1), "MiB", rss, machine));
    }
    let sum = |pick: fn(&(String, f64, f64)) -> f64| -> Vec<f64> {
        memories.iter().map(|m| m.iter().map(pick).sum()).collect()
    };
    rows.push(
        Row::new("memory: idle, sum of RSS (shared pages counted once a process)", "MiB", sum(|m| m.1), machine)
            .goal(Goal::Below(IDLE_MIB_MAX)),
    );
    rows.push(Row::new("memory: idle, sum of PSS", "MiB", sum(|m| m.2), machine).goal(Goal::Below(IDLE_MIB_MAX)));
    Ok(rows)
}

fn spawn(command: &mut Command) -> Result<f64> {
    let (time, status) = timed(|| command.status());
    anyhow::ensure!(status?.success(), "{command:?} failed");
    Ok(time)
}
