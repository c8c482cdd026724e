//! `cargo xtask soak --jobs N`: many short jobs on a cluster of 0 to 4 nodes, while some are cancelled, agents of
//! nodes are killed and the whole world is killed and started again.
//!
//! What must hold: every job ends; in a state that its history allows; what a completed job printed and wrote is all
//! there; the cluster goes back to zero with its network resources; nothing is left on the host.
#![allow(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::api::{Api, Connection};
use crate::crash::Random;
use crate::environment;
use crate::world::{self, HostView, Victim, World};

/// Lines that a job prints.
const LINES: u64 = 40;
/// Nodes of the cluster.
const NODES_MAX: u64 = 4;
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// No job may take longer than this in all, with its restarts.
const ALL_JOBS_MAX: Duration = Duration::from_secs(1_500);
/// How long the cluster may take to go back to zero.
const EMPTY_MAX: Duration = Duration::from_secs(90);
const ACCOUNT: &str = "moatsoakstore";

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many jobs
    #[arg(long, default_value_t = 200)]
    jobs: u32,
    /// How many agents of nodes to kill
    #[arg(long, default_value_t = 12)]
    node_kills: u32,
    /// How many times to kill the world
    #[arg(long, default_value_t = 4)]
    world_kills: u32,
    /// Seed of the moments and choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What somebody did to a job.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    /// A cancel was acknowledged.
    cancelled: bool,
}

/// Something that happens once so many jobs have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    KillAgent,
    KillWorld,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let moat = environment::binary()?;
    let home = tempfile::Builder::new().prefix("moat-soak-").tempdir().context("making a folder for the state")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut random = Random::new(args.seed);
    let before = HostView::take()?;
    let mut world = World::start(&moat, home.path())?;
    let mut api = Api::new(world.port()?, world.place()?)?;
    let started = Instant::now();
    let mut wrong = Vec::new();
    let names: Vec<String> = (0..args.jobs).map(|n| format!("soak-{n:04}")).collect();
    let mut history: BTreeMap<&str, Done> = BTreeMap::new();

    runtime.block_on(async {
        let mut connection = api.connect().await?;
        prepare(&api, &mut connection).await?;
        for name in &names {
            put(&mut connection, &job_path(&api, name), &job(&api, &mut random)).await?;
        }
        anyhow::Ok(())
    })?;
    println!("soak: {} jobs submitted in {:.1} s", names.len(), started.elapsed().as_secs_f64());

    let mut events = plan(args, &mut random);
    let (mut agents_killed, mut worlds_killed, mut told) = (0, 0, 0);
    loop {
        let states = runtime.block_on(states(&api)).context("listing the jobs")?;
        let ended = names.iter().filter(|n| states.get(*n).is_some_and(|s| is_terminal(s))).count();
        if ended / 20 > told {
            told = ended / 20;
            println!("soak: {ended} of {} jobs have ended after {:.0} s", names.len(), started.elapsed().as_secs_f64());
        }
        if ended == names.len() {
            break;
        }
        if started.elapsed() > ALL_JOBS_MAX {
            let open: Vec<String> =
                states.iter().filter(|(_, s)| !is_terminal(s)).map(|(n, s)| format!("{n} is {s}")).take(10).collect();
            wrong.push(format!("after {} s: {}", ALL_JOBS_MAX.as_secs(), open.join(", ")));
            break;
        }
        // One job in seven is cancelled, wherever it is then.
        let alive: Vec<&String> = names
            .iter()
            .filter(|n| states.get(*n).is_none_or(|s| !is_terminal(s)) && !history.contains_key(n.as_str()))
            .collect();
        if !alive.is_empty() && history.len() < names.len() / 7 && random.below(3) == 0 {
            let name = alive[usize::try_from(random.below(alive.len() as u64))?];
            let status = runtime.block_on(cancel(&api, name))?;
            history.insert(name, Done { cancelled: status < 300 });
        }
        let mut later = Vec::new();
        while events.last().is_some_and(|(at, _)| ended >= *at) {
            match events.pop() {
                Some(event @ (_, Event::KillAgent)) => {
                    if world.kill_an_agent(|n| random.below(n as u64) as usize)? {
                        agents_killed += 1;
                    } else {
                        // No node is up just now: its turn comes at the next look.
                        later.push(event);
                    }
                }
                Some((_, Event::KillWorld)) => {
                    world.kill(Victim::by_turns(worlds_killed))?;
                    wrong.extend(world.gone()?);
                    wrong.extend(before.leaks(&HostView::take()?));
                    world = World::start(&moat, home.path())?;
                    api = Api::new(world.port()?, world.place()?)?;
                    worlds_killed += 1;
                }
                None => {}
            }
        }
        events.append(&mut later);
        std::thread::sleep(LOOK_EVERY);
    }
    let (tally, lost) = runtime.block_on(judge(&api, &world.control_path(), &names, &history))?;
    wrong.extend(lost);
    wrong.extend(runtime.block_on(empty(&api))?);
    world.down()?;
    wrong.extend(world.gone()?);
    wrong.extend(before.leaks(&HostView::take()?));
    wrong.extend(world::control_groups().iter().map(|path| format!("control group is left: {}", path.display())));
    let counts: Vec<String> = tally.iter().map(|(state, n)| format!("{n} {state}")).collect();
    println!(
        "soak: {} in {:.0} s; {agents_killed} agents and {worlds_killed} worlds killed, {} jobs cancelled (seed {})",
        counts.join(", "),
        started.elapsed().as_secs_f64(),
        history.values().filter(|d| d.cancelled).count(),
        args.seed
    );
    for line in &wrong {
        println!("WRONG {line}");
    }
    if !wrong.is_empty() {
        bail!("{} things are wrong", wrong.len());
    }
    Ok(())
}

/// When to kill what, by jobs ended; the next is the last.
fn plan(args: &Args, random: &mut Random) -> Vec<(usize, Event)> {
    let mut events: Vec<(usize, Event)> = Vec::new();
    for (count, event) in [(args.node_kills, Event::KillAgent), (args.world_kills, Event::KillWorld)] {
        let at = |random: &mut Random| random.below(u64::from(args.jobs) * 9 / 10) as usize;
        events.extend((0..count).map(|_| (at(random), event)));
    }
    events.sort_unstable_by(|a, b| b.cmp(a));
    events
}

fn group(api: &Api) -> String {
    format!("{}/resourceGroups/soak", api.subscription())
}

fn workspace(api: &Api) -> String {
    format!("{}/providers/Microsoft.MachineLearningServices/workspaces/soak", group(api))
}

fn job_path(api: &Api, name: &str) -> String {
    format!("{}/jobs/{name}", workspace(api))
}

async fn put(connection: &mut Connection, path: &str, body: &Value) -> Result<()> {
    let answer = connection.send("PUT", path, Some(body)).await?;
    if answer.status >= 300 {
        bail!("PUT {path}: {} {}", answer.status, answer.body);
    }
    Ok(())
}

async fn prepare(api: &Api, connection: &mut Connection) -> Result<()> {
    let place = json!({"location": "westus2"});
    let network = format!("{}/providers/Microsoft.Network", group(api));
    put(connection, &group(api), &place).await?;
    let vnet = json!({"location": "westus2", "properties": {
        "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "subnets": [{"name": "default", "properties": {"addressPrefix": "10.0.0.0/24"}}],
    }});
    put(connection, &format!("{network}/virtualNetworks/soak"), &vnet).await?;
    let companion = |provider: &str, name: &str| format!("{}/providers/{provider}/{name}", group(api));
    let storage = companion("Microsoft.Storage/storageAccounts", ACCOUNT);
    let vault = companion("Microsoft.KeyVault/vaults", "soakvault");
    let insights = companion("Microsoft.Insights/components", "soak");
    let account = json!({"location": "westus2", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}});
    put(connection, &storage, &account).await?;
    let vault_body = json!({"location": "westus2", "properties": {
        "tenantId": api.tenant(), "sku": {"family": "A", "name": "standard"}, "accessPolicies": [],
    }});
    put(connection, &vault, &vault_body).await?;
    put(
        connection,
        &insights,
        &json!({"location": "westus2", "kind": "web", "properties": {"Application_Type": "web"}}),
    )
    .await?;
    let body = json!({"location": "westus2", "identity": {"type": "SystemAssigned"}, "properties": {
        "storageAccount": storage, "keyVault": vault, "applicationInsights": insights,
    }});
    put(connection, &workspace(api), &body).await?;
    let environment = json!({"properties": {"image": "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04"}});
    put(connection, &format!("{}/environments/plain/versions/1", workspace(api)), &environment).await?;
    let cluster = json!({"location": "westus2", "properties": {"computeType": "AmlCompute", "properties": {
        "vmSize": "STANDARD_D2_V2",
        "scaleSettings": {"minNodeCount": 0, "maxNodeCount": NODES_MAX, "nodeIdleTimeBeforeScaleDown": "PT5S"},
        "subnet": {"id": format!("{network}/virtualNetworks/soak/subnets/default")},
    }}});
    put(connection, &format!("{}/computes/soak", workspace(api)), &cluster).await
}

fn job(api: &Api, random: &mut Random) -> Value {
    let pause = random.below(30);
    json!({"properties": {
        "jobType": "Command",
        "experimentName": "soak",
        "computeId": format!("{}/computes/soak", workspace(api)),
        "environmentId": format!("{}/environments/plain/versions/1", workspace(api)),
        "command": format!(
            "for i in $(seq 1 {LINES}); do echo \"line $i of $AZUREML_RUN_ID\"; sleep 0.0{pause:02}; done; mkdir -p outputs; echo $AZUREML_RUN_ID > outputs/name.txt"
        ),
    }})
}

/// Status by name.
async fn states(api: &Api) -> Result<BTreeMap<String, String>> {
    let mut connection = api.connect().await?;
    let mut found = BTreeMap::new();
    let mut next = Some(format!("{}/jobs", workspace(api)));
    while let Some(path) = next {
        let answer = connection.send("GET", &path, None).await?;
        if answer.status != 200 {
            bail!("GET {path}: {} {}", answer.status, answer.body);
        }
        for job in answer.body["value"].as_array().into_iter().flatten() {
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            found.insert(text(&job["name"]), text(&job["properties"]["status"]));
        }
        next = answer.body["nextLink"].as_str().and_then(|l| l.split_once(".com")).map(|(_, path)| path.to_owned());
    }
    Ok(found)
}

async fn cancel(api: &Api, name: &str) -> Result<u16> {
    Ok(api.connect().await?.send("POST", &format!("{}/cancel", job_path(api, name)), None).await?.status)
}

fn is_terminal(status: &str) -> bool {
    matches!(status, "Completed" | "Failed" | "Canceled")
}

/// Counts by state, and what is not true.
async fn judge(
    api: &Api,
    control: &Path,
    names: &[String],
    history: &BTreeMap<&str, Done>,
) -> Result<(BTreeMap<String, u32>, Vec<String>)> {
    let states = states(api).await?;
    let (mut tally, mut wrong) = (BTreeMap::new(), Vec::new());
    for name in names {
        let state = states.get(name).map_or("lost", String::as_str);
        *tally.entry(state.to_owned()).or_insert(0) += 1;
        let cancelled = history.get(name.as_str()).is_some_and(|d| d.cancelled);
        match state {
            "Completed" => wrong.extend(kept(api, name).await?),
            "Canceled" if cancelled => {}
            // Three attempts may be cut off by as many kills; the run has to say so.
            "Failed" => {
                let why = failure(control, name)?;
                if !why.starts_with("attempt 3") {
                    wrong.push(format!("{name} failed: {why}"));
                }
            }
            other => wrong.push(format!("{name} is {other}")),
        }
    }
    Ok((tally, wrong))
}

/// The error of a job, its attempt and warnings.
fn failure(control: &Path, name: &str) -> Result<String> {
    let job = world::control(control, "job_show", &json!({ "name": name }))?;
    Ok(format!("attempt {}: {} {}", job["attempt"], job["error"], job["warnings"]))
}

/// What a completed job printed and wrote.
async fn kept(api: &Api, name: &str) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let blob = async |path: &str| api.blob(ACCOUNT, &format!("azureml/ExperimentRun/dcid.{name}/{path}")).await;
    let (status, log) = blob("user_logs/std_log.txt").await?;
    let log = String::from_utf8_lossy(&log).into_owned();
    let expected: Vec<String> = (1..=LINES).map(|i| format!("line {i} of {name}")).collect();
    let lines: Vec<&str> = log.lines().filter(|l| l.starts_with("line ")).collect();
    // An attempt that was cut off may have left its beginning.
    let last = lines.len().saturating_sub(expected.len());
    if lines[last..] != expected {
        wrong.push(format!("{name} is completed, but its log ({status}) has {} lines: {log:?}", lines.len()));
    }
    let (status, written) = blob("outputs/name.txt").await?;
    if status != 200 || String::from_utf8_lossy(&written).trim() != name {
        wrong.push(format!("{name} is completed, but its artifact is {status}"));
    }
    Ok(wrong)
}

/// Waits until no node and no network resource of the cluster is left.
async fn empty(api: &Api) -> Result<Vec<String>> {
    let deadline = Instant::now() + EMPTY_MAX;
    loop {
        let cluster = api.get(&format!("{}/computes/soak", workspace(api))).await?;
        let nodes = cluster.body["properties"]["properties"]["currentNodeCount"].as_u64();
        let resources = api.get(&format!("{}/resources", group(api))).await?;
        let left: Vec<&str> = resources.body["value"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|r| r["name"].as_str())
            .filter(|n| n.contains("azurebatch"))
            .collect();
        if nodes == Some(0) && left.is_empty() {
            return Ok(Vec::new());
        }
        if Instant::now() > deadline {
            return Ok(vec![format!("after {} s: {nodes:?} nodes, {left:?}", EMPTY_MAX.as_secs())]);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
