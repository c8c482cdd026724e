//! GET one document and PUT durably, over TLS with a token, with 5,000 documents stored.
//!
//! Three servers in the same rounds: the real environment; the same server without a network
//! below; and the baseline, hyper and rustls answering a constant of the same size. For PUT there is a
//! second baseline, one `fdatasync` after another on the same disk. The load generator runs on
//! the same processors, so rates are of both together; processor time of the server alone is printed too.

pub(crate) mod client;
pub(crate) mod load;
pub(crate) mod servers;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use moat_bench::documents::{API_VERSION, LOCATION, filler, filler_group, filler_path};
use moat_bench::report::{Goal, Machine, Row, quantile};
use serde_json::json;

use self::client::Trust;
use self::load::{Ask, Asker, Outcome};
use crate::environment::{Environment, cpu_seconds, tree};
use crate::note;

const DOCUMENTS: usize = 5_000;
const CONNECTIONS: [usize; 2] = [1, 64];
const GETS_PER_SECOND_MIN: f64 = 10_000.0;
const PUTS_PER_SECOND_MIN: f64 = 2_000.0;
const P99_MILLISECONDS_MAX: f64 = 20.0;

/// A server under load.
pub(crate) struct Target {
    name: &'static str,
    port: u16,
    trust: Trust,
    token: String,
    subscription: String,
    /// Root of its processes.
    root: i32,
}

#[derive(Debug, Default, Clone)]
struct Figures {
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    cpu: Vec<f64>,
}

/// See the module.
pub(crate) fn run(binary: &Path, quick: bool) -> Result<Vec<Row>> {
    let (rounds, time) = if quick { (2, Duration::from_millis(500)) } else { (7, Duration::from_millis(1_500)) };
    let machine = Machine::look();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    let environment = Environment::new(binary)?;
    environment.up()?;
    let access = environment.access()?;
    let trust = Trust::new(&access.ca)?;
    let token = runtime.block_on(client::token(environment.port, &trust, &access))?;
    let moat = Target {
        name: "moat",
        port: environment.port,
        trust,
        token,
        subscription: access.subscription,
        root: environment.init()?,
    };
    let folder = tempfile::Builder::new().prefix("moat-bench").tempdir()?;
    let plain_server = servers::Child::without_network(folder.path())?;
    let plain = runtime.block_on(plain_server.target("without network"))?;

    for target in [&moat, &plain] {
        note(format_args!("storing {DOCUMENTS} documents in `{}`", target.name));
        runtime.block_on(fill(target)).with_context(|| format!("filling `{}`", target.name))?;
    }
    let get = get_ask(&moat.subscription);
    let answer = runtime.block_on(load::once(&moat, &get))?;
    let baseline_server = servers::Child::constant(answer.len())?;
    let baseline = runtime.block_on(baseline_server.target("hyper + rustls, constant"))?;

    let targets = [&baseline, &plain, &moat];
    let kinds = [("GET", false), ("PUT", true)];
    let mut figures = vec![vec![Figures::default(); targets.len()]; kinds.len() * CONNECTIONS.len()];
    let mut syncs = Vec::new();
    let mut asked = 0;
    for round in 0..rounds {
        note(format_args!("round {} of {rounds}", round + 1));
        syncs.push(syncs_per_second(folder.path(), time / 3)?);
        for (k, (_, puts)) in kinds.iter().enumerate() {
            for (c, connections) in CONNECTIONS.iter().enumerate() {
                for turn in 0..targets.len() {
                    let t = (round + turn) % targets.len();
                    let target = targets[t];
                    asked += 1;
                    let (puts, subscription) = (*puts, target.subscription.clone());
                    let ask: Asker = Arc::new(move |connection, at| match puts {
                        true => put_ask(&subscription, connection * 61 + at * 7, asked * 1_000_000 + at),
                        false => get_ask(&subscription),
                    });
                    let pids = tree(target.root);
                    let before = cpu_seconds(&pids);
                    let outcome = runtime
                        .block_on(load::run(target, *connections, time, ask))
                        .with_context(|| format!("load on `{}`", target.name))?;
                    let used = cpu_seconds(&pids) - before;
                    figures[k * CONNECTIONS.len() + c][t].add(&outcome, used);
                }
            }
        }
    }
    let (applied, newest) = environment.progress()?;
    note(format_args!("the data plane has realised commit {applied} of {newest}"));

    let mut rows = vec![Row::new("http: size of the document got", "bytes", vec![answer.len() as f64], machine)];
    for (k, (kind, puts)) in kinds.iter().enumerate() {
        for (c, connections) in CONNECTIONS.iter().enumerate() {
            let all = &figures[k * CONNECTIONS.len() + c];
            for (t, target) in targets.iter().enumerate().skip(1) {
                let name = |what: &str| format!("http: {kind} at {connections}, {}, {what}", target.name);
                let (mine, base) = (&all[t], &all[0]);
                let mut rate = Row::new(name("rate"), "1/s", mine.rate.clone(), machine);
                rate = match puts {
                    true => rate.against("fdatasync", &syncs),
                    false => rate.against(baseline.name, &base.rate),
                };
                if *connections == 64 {
                    rate = rate.goal(Goal::AtLeast(if *puts { PUTS_PER_SECOND_MIN } else { GETS_PER_SECOND_MIN }));
                }
                rows.push(rate);
                let row = |what: &str, unit, mine: &Vec<f64>, base: &Vec<f64>| {
                    Row::new(name(what), unit, mine.clone(), machine).against(baseline.name, base)
                };
                rows.push(row("p50", "ms", &mine.p50, &base.p50));
                rows.push(row("p99", "ms", &mine.p99, &base.p99).goal(Goal::Below(P99_MILLISECONDS_MAX)));
                rows.push(row("server CPU", "us", &mine.cpu, &base.cpu));
            }
        }
    }
    Ok(rows)
}

impl Figures {
    fn add(&mut self, outcome: &Outcome, cpu_seconds: f64) {
        let count = outcome.latencies.len() as f64;
        self.rate.push(count / outcome.seconds);
        self.p50.push(quantile(&outcome.latencies, 0.5));
        self.p99.push(quantile(&outcome.latencies, 0.99));
        self.cpu.push(cpu_seconds * 1e6 / count);
    }
}

fn get_ask(subscription: &str) -> Ask {
    Ask::get(format!("{}?api-version={API_VERSION}", filler_path(subscription, DOCUMENTS / 2)))
}

/// A document that exists, with another tag: every PUT changes something.
fn put_ask(subscription: &str, at: usize, round: usize) -> Ask {
    let at = at % DOCUMENTS;
    let mut body = filler(at).2;
    body["tags"]["round"] = json!(round.to_string());
    Ask::put(format!("{}?api-version={API_VERSION}", filler_path(subscription, at)), &body)
}

async fn fill(target: &Target) -> Result<()> {
    let subscription = &target.subscription;
    for at in (0..DOCUMENTS).step_by(500) {
        let path = format!("{}?api-version={API_VERSION}", filler_group(subscription, at));
        load::once(target, &Ask::put(path, &json!({"location": LOCATION}))).await?;
    }
    let each = DOCUMENTS.div_ceil(CONNECTIONS[1]);
    let subscription = subscription.clone();
    let ask: Asker = Arc::new(move |connection, at| put_ask(&subscription, connection * each + at, 0));
    load::exactly(target, CONNECTIONS[1], each, ask).await
}

/// What the disk can do: 4 KiB appended and synced, one after the other.
fn syncs_per_second(folder: &Path, time: Duration) -> Result<f64> {
    let mut file = File::create(folder.join("syncs"))?;
    let started = Instant::now();
    let mut done = 0_u32;
    while started.elapsed() < time {
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        done += 1;
    }
    Ok(f64::from(done) / started.elapsed().as_secs_f64())
}
