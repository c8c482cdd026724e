//! What a job costs beside its program: to the first line of its log, a hundred short ones, a long log, and large files.
//!
//! The baseline is the same program run bare, by `sh` on this machine, in the same round. Nodes are there and idle, and
//! the environment of the jobs is an image alone: what Azure needs minutes for is not in it, what Moat does for a job is.
//! Jobs are submitted by PUT and their log is read by `moat job logs --follow`, as a person would.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use moat_bench::report::{Goal, Machine, Row, milliseconds, timed};
use serde_json::{Value, json};

use crate::environment::{Access, Environment};
use crate::http::client::{ARM, Trust, connect, send, token_for};
use crate::note;

const API_VERSION: &str = "2023-04-01";
/// Nodes that are there all the time.
const NODES: u64 = 4;
const SHORT_JOBS: usize = 100;
/// Bytes of the long log; a job may print 256 MiB.
const LOG_BYTES: u64 = 64 << 20;
/// Bytes of the large file.
const FILE_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: u64 = 16 << 20;
const ACCOUNT: &str = "benchstore";
const BLOB_HOST: &str = "benchstore.blob.core.windows.net";
const BLOB_VERSION: &str = "2021-08-06";
/// No job may take longer.
const JOB_MAX: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The goal of the project: from template to first line, of Moat's own time.
const FIRST_LINE_MILLISECONDS_MAX: f64 = 3_000.0;

/// An environment with a workspace and a cluster.
struct Lab {
    environment: Environment,
    runtime: tokio::runtime::Runtime,
    trust: Trust,
    /// For Resource Manager and for storage.
    tokens: [String; 2],
    group: String,
    submitted: std::cell::Cell<usize>,
}

/// See the module.
pub(crate) fn run(binary: &Path, quick: bool) -> Result<Vec<Row>> {
    let rounds = if quick { 2 } else { 9 };
    let machine = Machine::look();
    note(format_args!("a workspace with {NODES} nodes"));
    let lab = Lab::new(binary)?;
    let mut rows = Vec::new();
    note(format_args!("first lines, {rounds} rounds"));
    rows.extend(first_line(&lab, rounds, machine)?);
    note(format_args!("{SHORT_JOBS} short jobs"));
    rows.extend(short_jobs(&lab, if quick { 1 } else { 3 }, machine)?);
    note(format_args!("a log of {} MiB", LOG_BYTES >> 20));
    rows.extend(long_log(&lab, if quick { 1 } else { 3 }, machine)?);
    note(format_args!("a file of {} MiB", FILE_BYTES >> 20));
    rows.extend(large_file(&lab, if quick { 1 } else { 3 }, machine)?);
    Ok(rows)
}

fn first_line(lab: &Lab, rounds: usize, machine: Machine) -> Result<Vec<Row>> {
    let (mut submit, mut first, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let started = Instant::now();
        let name = lab.submit("echo here; sleep 0.2", json!({}))?;
        submit.push(milliseconds(started.elapsed()));
        let mut logs = lab.logs(&name)?;
        let mut line = String::new();
        BufReader::new(logs.stdout.take().context("no output")?).read_line(&mut line)?;
        first.push(milliseconds(started.elapsed()));
        anyhow::ensure!(line == "here\n", "the first line of the log is {line:?}");
        logs.wait()?;
        lab.completed(&name)?;
        let (time, line) = timed(|| {
            let mut child = Command::new("sh").args(["-c", "echo here"]).stdout(Stdio::piped()).spawn()?;
            let mut line = String::new();
            BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
            child.wait()?;
            anyhow::Ok(line)
        });
        line?;
        bare.push(time);
    }
    Ok(vec![
        Row::new("jobs: PUT of a job", "ms", submit, machine),
        Row::new("jobs: submit to first log line", "ms", first, machine)
            .against("sh -c", &bare)
            .goal(Goal::Below(FIRST_LINE_MILLISECONDS_MAX)),
    ])
}

fn short_jobs(lab: &Lab, rounds: usize, machine: Machine) -> Result<Vec<Row>> {
    let (mut all, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let started = Instant::now();
        let names: Vec<String> = (0..SHORT_JOBS).map(|_| lab.submit("true", json!({}))).collect::<Result<_>>()?;
        for name in &names {
            lab.completed(name)?;
        }
        all.push(milliseconds(started.elapsed()));
        let (time, done) =
            timed(|| (0..SHORT_JOBS).try_for_each(|_| Command::new("sh").args(["-c", "true"]).status().map(drop)));
        done?;
        bare.push(time);
    }
    Ok(vec![
        Row::new(format!("jobs: {SHORT_JOBS} short ones, {NODES} nodes"), "ms", all, machine).against("sh -c", &bare),
    ])
}

fn long_log(lab: &Lab, rounds: usize, machine: Machine) -> Result<Vec<Row>> {
    let program =
        format!("yes 'a line of a log, as long as such lines are: step 1000, loss 0.123456' | head -c {LOG_BYTES}");
    let rate = |time: f64| LOG_BYTES as f64 / f64::from(1 << 20) / (time / 1e3);
    let (mut streamed, mut written, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let name = lab.submit(&program, json!({}))?;
        let mut logs = lab.logs(&name)?;
        let mut log = logs.stdout.take().context("no output")?;
        let (mut first, mut count, mut buffer) = (None, 0, vec![0; 1 << 16]);
        loop {
            let read = log.read(&mut buffer)?;
            first.get_or_insert_with(Instant::now);
            count += read as u64;
            if read == 0 {
                break;
            }
        }
        let time = first.map_or(f64::NAN, |first| milliseconds(first.elapsed()));
        anyhow::ensure!(count == LOG_BYTES, "{count} bytes of the log came, of {LOG_BYTES}");
        logs.wait()?;
        streamed.push(rate(time));
        written.push(rate(lab.step(&lab.completed(&name)?, "running")?));
        let folder = tempfile::tempdir()?;
        let out = File::create(folder.path().join("log"))?;
        let (time, done) = timed(|| Command::new("sh").args(["-c", &program]).stdout(out).status());
        done?;
        bare.push(rate(time));
    }
    Ok(vec![
        Row::new("jobs: log, streamed to a reader", "MiB/s", streamed, machine).against("to a file", &bare),
        Row::new("jobs: log, while the program runs", "MiB/s", written, machine).against("to a file", &bare),
    ])
}

fn large_file(lab: &Lab, rounds: usize, machine: Machine) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let copy = || -> Result<f64> {
        let (time, done) = timed(|| Command::new("cp").arg(&from).arg(&to).status());
        anyhow::ensure!(done?.success(), "cp failed");
        std::fs::remove_file(&to)?;
        Ok(time)
    };
    std::io::copy(&mut File::open("/dev/urandom")?.take(FILE_BYTES), &mut File::create(&from)?)?;
    let container = lab.container()?;
    let input = json!({"data": {"jobInputType": "uri_file", "mode": "Download",
        "uri": "azureml://datastores/workspaceblobstore/paths/bench/large"}});
    let (mut put, mut get, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let (mut inputs, mut outputs, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(copy()?);
        put.push(lab.upload(&container, "bench/large", &from)?);
        get.push(lab.download(&container, "bench/large")?);
        let name = lab.submit("mkdir -p outputs && cp \"${{inputs.data}}\" outputs/large", input.clone())?;
        let job = lab.completed(&name)?;
        inputs.push(lab.step(&job, "inputs")?);
        outputs.push(lab.step(&job, "outputs")?);
        whole.push(lab.steps(&job)?.iter().map(|(_, time)| time).sum());
    }
    let row = |what: &str, samples| {
        Row::new(format!("jobs: 1 GiB, {what}"), "ms", samples, machine).against("cp on disk", &bare)
    };
    Ok(vec![
        row("upload by a client", put),
        row("download by a client", get),
        row("input to a node", inputs),
        row("output of a node", outputs),
        row("whole job", whole),
    ])
}

impl Lab {
    fn new(binary: &Path) -> Result<Self> {
        let environment = Environment::new(binary)?;
        environment.up_with(&["--job-disk", "4G", "--edition", "current"])?;
        let access = environment.access()?;
        let trust = Trust::new(&access.ca)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let token = |audience| runtime.block_on(token_for(audience, environment.port, &trust, &access));
        let tokens = [token("management.azure.com")?, token("storage.azure.com")?];
        let group = format!("/subscriptions/{}/resourceGroups/bench", access.subscription);
        let lab = Lab { environment, runtime, trust, tokens, group, submitted: std::cell::Cell::new(0) };
        lab.prepare(&access)?;
        Ok(lab)
    }

    fn workspace(&self) -> String {
        format!("{}/providers/Microsoft.MachineLearningServices/workspaces/bench", self.group)
    }

    /// The documents, and as many idle nodes as there are to be.
    fn prepare(&self, access: &Access) -> Result<()> {
        let of = |rest: &str| format!("{}/providers/{rest}", self.group);
        let (vnet, storage, vault, insights) = (
            of("Microsoft.Network/virtualNetworks/bench"),
            of(&format!("Microsoft.Storage/storageAccounts/{ACCOUNT}")),
            of("Microsoft.KeyVault/vaults/benchvault"),
            of("Microsoft.Insights/components/bench"),
        );
        let placed = |mut body: Value| {
            body["location"] = json!("westus2");
            body
        };
        self.put(&self.group, &placed(json!({})))?;
        let space = json!({"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
            "subnets": [{"name": "default", "properties": {"addressPrefix": "10.0.0.0/24"}}]});
        self.put(&vnet, &placed(json!({ "properties": space })))?;
        self.put(&storage, &placed(json!({"kind": "StorageV2", "sku": {"name": "Standard_LRS"}})))?;
        let sealed =
            json!({"tenantId": access.tenant, "sku": {"family": "A", "name": "standard"}, "accessPolicies": []});
        self.put(&vault, &placed(json!({ "properties": sealed })))?;
        self.put(&insights, &placed(json!({"kind": "web", "properties": {"Application_Type": "web"}})))?;
        let parts = json!({"storageAccount": storage, "keyVault": vault, "applicationInsights": insights});
        self.put(&self.workspace(), &placed(json!({"identity": {"type": "SystemAssigned"}, "properties": parts})))?;
        let image = json!({"properties": {"image": "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04"}});
        self.put(&format!("{}/environments/plain/versions/1", self.workspace()), &image)?;
        let cluster = json!({
            "vmSize": "STANDARD_D2_V2",
            "scaleSettings": {"minNodeCount": NODES, "maxNodeCount": NODES, "nodeIdleTimeBeforeScaleDown": "PT120S"},
            "subnet": {"id": format!("{vnet}/subnets/default")},
        });
        let path = format!("{}/computes/bench", self.workspace());
        self.put(&path, &placed(json!({"properties": {"computeType": "AmlCompute", "properties": cluster}})))?;
        self.until("the nodes are idle", || {
            let seen = self.arm(Method::GET, &path, None)?;
            Ok((seen["properties"]["properties"]["nodeStateCounts"]["idleNodeCount"] == NODES).then_some(()))
        })
    }

    fn put(&self, path: &str, body: &Value) -> Result<()> {
        self.arm(Method::PUT, path, Some(body)).map(drop)
    }

    fn arm(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(&method)
            .uri(format!("{path}?api-version={API_VERSION}"))
            .header("Host", ARM)
            .header("Authorization", format!("Bearer {}", self.tokens[0]))
            .header("Content-Type", "application/json")
            .body(Full::new(Bytes::from(text)))?;
        let answer = self.runtime.block_on(async {
            let mut sender = connect(self.environment.port, &self.trust, ARM).await?;
            send(&mut sender, request).await
        });
        let answer = answer.with_context(|| format!("{method} {path}"))?;
        serde_json::from_slice(&answer).with_context(|| format!("reading the answer to {method} {path}"))
    }

    /// Looks again until there is something.
    fn until<T>(&self, what: &str, look: impl Fn() -> Result<Option<T>>) -> Result<T> {
        let started = Instant::now();
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            anyhow::ensure!(started.elapsed() < JOB_MAX, "{what}: not after {} s", JOB_MAX.as_secs());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// PUTs a job; its name.
    fn submit(&self, program: &str, inputs: Value) -> Result<String> {
        let number = self.submitted.get();
        self.submitted.set(number + 1);
        let name = format!("bench-{number:04}");
        let workspace = self.workspace();
        let job = json!({"properties": {
            "jobType": "Command",
            "experimentName": "bench",
            "computeId": format!("{workspace}/computes/bench"),
            "environmentId": format!("{workspace}/environments/plain/versions/1"),
            "command": program,
            "inputs": inputs,
        }});
        self.put(&format!("{workspace}/jobs/{name}"), &job)?;
        Ok(name)
    }

    /// Waits for the end of a job, which must be a good one; the job as Moat shows it.
    fn completed(&self, name: &str) -> Result<Value> {
        let path = format!("{}/jobs/{name}", self.workspace());
        let status = self.until("the job ends", || {
            let job = self.arm(Method::GET, &path, None)?;
            let status = job["properties"]["status"].as_str().unwrap_or_default().to_owned();
            Ok(matches!(status.as_str(), "Completed" | "Failed" | "Canceled").then_some(status))
        })?;
        let job = self.environment.json("job show", &[name, "-o", "json"])?;
        if status == "Completed" { Ok(job) } else { bail!("job {name} is {status}: {}", job["error"]) }
    }

    /// `moat job logs --follow`.
    fn logs(&self, name: &str) -> Result<std::process::Child> {
        let mut logs = self.environment.command("job logs", &["--follow", name]);
        logs.stdout(Stdio::piped()).spawn().context("following the log")
    }

    /// How long each step of a job took: the time to the one after it, milliseconds.
    fn steps(&self, job: &Value) -> Result<Vec<(String, f64)>> {
        let steps = job["steps"].as_array().context("the job has no steps")?;
        // A step is shown with the time since the one before; the beginning of the log is within another step.
        let mut times: Vec<(String, f64)> = Vec::new();
        for step in steps {
            let took = step["milliseconds"].as_f64().unwrap_or_default();
            if let Some((_, last)) = times.last_mut() {
                *last += took;
            }
            match step["step"].as_str() {
                Some("log begun") => {}
                name => times.push((name.unwrap_or_default().to_owned(), 0.0)),
            }
        }
        Ok(times)
    }

    fn step(&self, job: &Value, name: &str) -> Result<f64> {
        let steps = self.steps(job)?;
        let found = steps.iter().find(|(step, _)| step == name).map(|(_, time)| *time);
        found.with_context(|| format!("the job has no step `{name}`: {steps:?}"))
    }

    /// Of the workspace's own store.
    fn container(&self) -> Result<String> {
        let store = self.arm(Method::GET, &format!("{}/datastores/workspaceblobstore", self.workspace()), None)?;
        Ok(store["properties"]["containerName"].as_str().context("the datastore has no container")?.to_owned())
    }

    /// Puts a file as blocks, one after the other on one connection; milliseconds.
    fn upload(&self, container: &str, blob: &str, file: &Path) -> Result<f64> {
        let mut file = File::open(file)?;
        let path = format!("/{container}/{blob}");
        let (time, done) = timed(|| {
            self.runtime.block_on(async {
                let mut sender = connect(self.environment.port, &self.trust, BLOB_HOST).await?;
                let mut list = "<BlockList>".to_owned();
                for number in 0..FILE_BYTES / BLOCK_BYTES {
                    // Four bytes of a name, in base64.
                    let id = format!("{number:04}AAAA");
                    let mut block = vec![0; BLOCK_BYTES as usize];
                    file.read_exact(&mut block)?;
                    let request = self.blob("PUT", &format!("{path}?comp=block&blockid={id}"), block.into())?;
                    send(&mut sender, request).await?;
                    list.push_str(&format!("<Latest>{id}</Latest>"));
                }
                list.push_str("</BlockList>");
                send(&mut sender, self.blob("PUT", &format!("{path}?comp=blocklist"), list.into())?).await.map(drop)
            })
        });
        done.map(|()| time).context("uploading")
    }

    /// Reads it all; milliseconds.
    fn download(&self, container: &str, blob: &str) -> Result<f64> {
        let request = self.blob("GET", &format!("/{container}/{blob}"), Bytes::new())?;
        let (time, done) = timed(|| {
            self.runtime.block_on(async {
                let mut sender = connect(self.environment.port, &self.trust, BLOB_HOST).await?;
                sender.ready().await?;
                let mut answer = sender.send_request(request).await?;
                let mut count = 0;
                while let Some(frame) = answer.frame().await {
                    count += frame?.data_ref().map_or(0, |data| data.len() as u64);
                }
                anyhow::ensure!(count == FILE_BYTES, "{} with {count} bytes", answer.status());
                Ok(())
            })
        });
        done.map(|()| time).context("downloading")
    }

    fn blob(&self, method: &str, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
        let request = Request::builder().method(method).uri(path).header("Host", BLOB_HOST);
        let request = request.header("x-ms-version", BLOB_VERSION);
        Ok(request.header("Authorization", format!("Bearer {}", self.tokens[1])).body(Full::new(body))?)
    }
}
