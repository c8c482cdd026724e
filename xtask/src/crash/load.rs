//! Writes from many connections at once, until the world is killed under them.
//!
//! Each writer owns its documents and writes them one after the other, so that at most one write
//! of each document has no answer when the kill comes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Random;
use super::ledger::{Entry, Ledger, State};
use crate::api::{Api, Connection};
use crate::world::{Victim, World};

/// Connections that write at the same time.
const WRITERS: u64 = 6;
/// Documents of each kind that a writer owns.
const EACH: u64 = 3;
/// Most nodes of the cluster.
const NODES_MAX: u64 = 4;
/// The cluster that is scaled meanwhile.
const CLUSTER: &str = "crashed";

/// What a round writes.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) round: u32,
    pub(super) seed: u64,
}

fn network(api: &Api) -> String {
    format!("{}/resourceGroups/crash/providers/Microsoft.Network", api.subscription())
}

fn workspace(api: &Api) -> String {
    format!(
        "{}/resourceGroups/crash/providers/Microsoft.MachineLearningServices/workspaces/crashed",
        api.subscription()
    )
}

/// Path of the cluster.
pub(super) fn cluster_path(api: &Api) -> String {
    format!("{}/computes/{CLUSTER}", workspace(api))
}

/// What stays the same in all rounds: groups, a VNet for each writer, a cluster.
pub(super) async fn prepare(api: &Api) -> Result<()> {
    let mut connection = api.connect().await?;
    let network = network(api);
    let place = json!({"location": "westus2"});
    let mut make = async |path: &str, body: &Value| -> Result<()> {
        let answer = connection.send("PUT", path, Some(body)).await?;
        if answer.status >= 300 {
            bail!("PUT {path}: {} {}", answer.status, answer.body);
        }
        Ok(())
    };
    make(&format!("{}/resourceGroups/crash", api.subscription()), &place).await?;
    for writer in 0..=WRITERS {
        make(&format!("{network}/virtualNetworks/v{writer}"), &vnet(writer, 0, "0")).await?;
        make(&format!("{network}/networkSecurityGroups/fixed{writer}"), &place).await?;
    }
    make(&workspace(api), &place).await?;
    let subnet = format!("{network}/virtualNetworks/v{WRITERS}/subnets/default");
    let cluster = json!({"location": "westus2", "properties": {"computeType": "AmlCompute", "properties": {
        "vmSize": "STANDARD_D2_V2",
        "scaleSettings": {"minNodeCount": 0, "maxNodeCount": NODES_MAX, "nodeIdleTimeBeforeScaleDown": "PT1S"},
        "subnet": {"id": subnet},
    }}});
    make(&cluster_path(api), &cluster).await
}

fn vnet(writer: u64, second: u64, mark: &str) -> Value {
    json!({"location": "westus2", "tags": {"n": mark}, "properties": {
        "addressSpace": {"addressPrefixes": [format!("10.{writer}.0.0/16")]},
        "subnets": [
            {"name": "default", "properties": {"addressPrefix": format!("10.{writer}.0.0/24")}},
            {"name": "second", "properties": {"addressPrefix": format!("10.{writer}.{}.0/24", second + 1)}},
        ],
    }})
}

fn nsg(random: &mut Random, mark: &str) -> Value {
    let rules: Vec<Value> = (0..random.below(20))
        .map(|i| {
            json!({"name": format!("r{i}"), "properties": {
                "priority": 100 + i, "direction": "Inbound", "protocol": "Tcp",
                "access": if random.below(2) == 0 { "Allow" } else { "Deny" },
                "sourceAddressPrefix": "Internet", "sourcePortRange": "*",
                "destinationAddressPrefix": "*", "destinationPortRange": (1 + random.below(65_535)).to_string(),
            }})
        })
        .collect();
    json!({"location": "westus2", "tags": {"n": mark}, "properties": {"securityRules": rules}})
}

fn nic(network: &str, writer: u64, guarded: bool, mark: &str) -> Value {
    let mut body = json!({"location": "westus2", "tags": {"n": mark}, "properties": {"ipConfigurations": [
        {"name": "ipconfig1", "properties": {"subnet": {"id": format!("{network}/virtualNetworks/v{writer}/subnets/default")}}},
    ]}});
    if guarded {
        body["properties"]["networkSecurityGroup"] =
            json!({"id": format!("{network}/networkSecurityGroups/fixed{writer}")});
    }
    body
}

/// Writes until the kill, kills, and notes in the ledger what was acknowledged. Returns how much.
pub(super) fn until_killed(
    runtime: &tokio::runtime::Runtime,
    api: &Api,
    world: &mut World,
    plan: &Plan,
    ledger: &mut Ledger,
    wait: Duration,
    victim: Victim,
) -> Result<usize> {
    let known = Mutex::new(std::mem::take(&mut ledger.entries));
    let demand = Mutex::new((ledger.demand, ledger.demand_unanswered));
    let killed = std::sync::atomic::AtomicBool::new(false);
    let counts = std::thread::scope(|scope| -> Result<usize> {
        let shared = Shared { api, known: &known, killed: &killed, round: plan.round };
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let mut random = Random(plan.seed ^ (writer << 32));
                scope.spawn(move || runtime.block_on(write(shared, writer, &mut random)))
            })
            .collect();
        let (demand, killed_seen, look) = (&demand, &killed, &*world);
        let mut random = Random(plan.seed ^ 0xc1);
        let control = look.control_path();
        let scaler = scope.spawn(move || scale(&control, demand, killed_seen, &mut random));
        std::thread::sleep(wait); // the random moment itself
        let done = world.kill(victim);
        killed.store(true, std::sync::atomic::Ordering::SeqCst);
        let mut count = 0;
        for thread in writers {
            count += thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        count += scaler.join().map_err(|_| anyhow::anyhow!("the scaler panicked"))??;
        done?;
        Ok(count)
    });
    ledger.entries = known.into_inner().unwrap_or_default();
    (ledger.demand, ledger.demand_unanswered) = demand.into_inner().unwrap_or_default();
    counts
}

#[derive(Clone, Copy)]
struct Shared<'a> {
    api: &'a Api,
    known: &'a Mutex<BTreeMap<String, Entry>>,
    killed: &'a std::sync::atomic::AtomicBool,
    round: u32,
}

impl Shared<'_> {
    fn dead(&self) -> bool {
        self.killed.load(std::sync::atomic::Ordering::SeqCst)
    }
}

async fn write(shared: Shared<'_>, writer: u64, random: &mut Random) -> Result<usize> {
    let network = network(shared.api);
    let mut connection = match shared.api.connect().await {
        Ok(connection) => connection,
        Err(_) if broke_off(shared) => return Ok(0),
        Err(error) => return Err(error.context("a writer could not connect")),
    };
    let mut count = 0;
    for number in 0.. {
        let mark = format!("{}-{writer}-{number}", shared.round);
        let which = random.below(EACH);
        let (path, state) = match random.below(8) {
            0 => {
                (format!("{network}/virtualNetworks/v{writer}"), State::Written(vnet(writer, random.below(200), &mark)))
            }
            1 => (format!("{network}/networkSecurityGroups/g{writer}-{which}"), State::Absent),
            2 => (format!("{network}/networkInterfaces/n{writer}-{which}"), State::Absent),
            3..=5 => (format!("{network}/networkSecurityGroups/g{writer}-{which}"), State::Written(nsg(random, &mark))),
            _ => {
                let body = nic(&network, writer, random.below(2) == 0, &mark);
                (format!("{network}/networkInterfaces/n{writer}-{which}"), State::Written(body))
            }
        };
        note(shared, &path, |entry| entry.unanswered = Some(state.clone()));
        match send(&mut connection, &path, &state).await {
            Ok(etag) => {
                count += 1;
                note(shared, &path, |entry| *entry = Entry { acknowledged: state, etag, unanswered: None });
            }
            Err(Sent::NoAnswer(_)) if broke_off(shared) => break,
            Err(Sent::NoAnswer(error)) => return Err(error.context(format!("writing {path}"))),
            Err(Sent::Refused(text)) => bail!("writing {path}: {text}"),
        }
    }
    Ok(count)
}

/// A connection may break a moment before the kill is known to have been sent.
fn broke_off(shared: Shared<'_>) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !shared.dead() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    shared.dead()
}

fn note(shared: Shared<'_>, path: &str, change: impl FnOnce(&mut Entry)) {
    let mut known = shared.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let fresh = || Entry { acknowledged: State::Absent, etag: None, unanswered: None };
    change(known.entry(path.to_owned()).or_insert_with(fresh));
}

enum Sent {
    NoAnswer(anyhow::Error),
    Refused(String),
}

/// The version that the acknowledgement names.
async fn send(connection: &mut Connection, path: &str, state: &State) -> Result<Option<String>, Sent> {
    let (method, body) = match state {
        State::Absent => ("DELETE", None),
        State::Written(body) => ("PUT", Some(body)),
    };
    let answer = connection.send(method, path, body).await.map_err(Sent::NoAnswer)?;
    if answer.status >= 300 {
        return Err(Sent::Refused(format!("{} {}", answer.status, answer.body)));
    }
    Ok(answer.body["etag"].as_str().filter(|_| body.is_some()).map(str::to_owned))
}

fn scale(
    control: &std::path::Path,
    demand: &Mutex<(Option<u64>, Option<u64>)>,
    killed: &std::sync::atomic::AtomicBool,
    random: &mut Random,
) -> Result<usize> {
    let set = |value| *demand.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = value;
    let get = || demand.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0;
    let mut count = 0;
    loop {
        let nodes = random.below(NODES_MAX + 1);
        let before = get();
        set((before, Some(nodes)));
        match crate::world::control(control, "cluster_scale", &json!({"name": CLUSTER, "nodes": nodes})) {
            Ok(_) => {
                set((Some(nodes), None));
                count += 1;
            }
            Err(error) => {
                let deadline = Instant::now() + Duration::from_secs(5);
                while !killed.load(std::sync::atomic::Ordering::SeqCst) {
                    if Instant::now() > deadline {
                        return Err(error).context("scaling the cluster");
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                return Ok(count);
            }
        }
        // Not faster than people: each request changes the whole network of the cluster.
        std::thread::sleep(Duration::from_millis(5 + random.below(100)));
    }
}
