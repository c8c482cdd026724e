//! A running world seen from outside: its processes, its control socket, and what the host looks like.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Name of the environment.
const NAME: &str = "crash";
/// How long a start on an existing state may take.
const START_MAX: Duration = Duration::from_secs(60);
/// How long the kernel may take to end a killed world.
const END_MAX: Duration = Duration::from_secs(20);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A control answer that takes longer is stuck.
const CONTROL_MAX: Duration = Duration::from_secs(30);

/// Whom to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Server,
    Helper,
    Init,
    Front,
}

impl Victim {
    /// All of them, one after the other.
    pub(crate) fn by_turns(round: u32) -> Self {
        match round % 4 {
            0 => Victim::Server,
            1 => Victim::Helper,
            2 => Victim::Init,
            _ => Victim::Front,
        }
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Victim::Server => "server",
            Victim::Helper => "helper",
            Victim::Init => "init",
            Victim::Front => "front",
        })
    }
}

/// A process, told from a later one of the same number by its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: i32,
    parent: i32,
    started: u64,
}

/// `moat up` in the foreground, as our child.
pub(crate) struct World {
    front: Child,
    init: i32,
    dir: PathBuf,
    log: PathBuf,
    moat: PathBuf,
    /// Every process of it, as of the kill.
    processes: BTreeSet<Process>,
}

impl World {
    /// Starts it and waits until it answers.
    pub(crate) fn start(moat: &Path, home: &Path) -> Result<Self> {
        let log = home.join("up.log");
        let out = File::create(&log).context("making the log")?;
        let front = Command::new(moat)
            .args(["up", "-e", NAME])
            .env("MOAT_HOME", home)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("running moat up")?;
        let mut world =
            World { front, init: 0, dir: home.join(NAME), log, moat: moat.to_owned(), processes: BTreeSet::new() };
        let deadline = Instant::now() + START_MAX;
        loop {
            if let Some(status) = world.front.try_wait()? {
                bail!("moat up ended with {status}: {}", world.said());
            }
            if let Some(init) = world.ready() {
                world.init = init;
                return Ok(world);
            }
            if Instant::now() > deadline {
                let said = world.said();
                let _ = world.front.kill();
                bail!("moat up was not ready after {} s: {said}", START_MAX.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Process id of init, once the server answers.
    fn ready(&self) -> Option<i32> {
        let noted = self.noted()?;
        let init = i32::try_from(noted["init"].as_i64()?).ok()?;
        // The note of a killed world stays until the next one is ready.
        let process = process(init)?;
        (Some(process.started) == noted["started"].as_u64() && self.control("status", &json!({})).is_ok())
            .then_some(init)
    }

    fn noted(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.dir.join("world.json")).ok()?).ok()
    }

    fn said(&self) -> String {
        let front = std::fs::read_to_string(&self.log).unwrap_or_default();
        let inside = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = inside.lines().collect();
        format!("{front}\n{}", lines[lines.len().saturating_sub(10)..].join("\n"))
    }

    /// The loopback port.
    pub(crate) fn port(&self) -> Result<u16> {
        let noted = self.noted().context("the world is not noted")?;
        let port = noted["url"].as_str().and_then(|url| url.rsplit(':').next()).and_then(|port| port.parse().ok());
        port.context("the world's address has no port")
    }

    /// Credentials and CA of a client on the internet.
    pub(crate) fn place(&self) -> Result<Value> {
        self.control("place", &json!({"at": "internet"}))
    }

    /// One request on the control socket.
    pub(crate) fn control(&self, method: &str, params: &Value) -> Result<Value> {
        control(&self.control_path(), method, params)
    }

    /// Where the control socket is.
    pub(crate) fn control_path(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// SIGKILL to one of its processes.
    pub(crate) fn kill(&mut self, victim: Victim) -> Result<()> {
        let all = processes()?;
        let front = i32::try_from(self.front.id())?;
        self.processes = tree(&all, front);
        self.processes.extend(tree(&all, self.init));
        let named = |comm: &str| {
            let child = all.iter().find(|p| p.parent == self.init && name(p.pid).as_deref() == Some(comm));
            child.map(|p| p.pid).with_context(|| format!("there is no process {comm}"))
        };
        let pid = match victim {
            Victim::Server => named("moat-server")?,
            Victim::Helper => named("moat-helper")?,
            Victim::Init => self.init,
            Victim::Front => front,
        };
        kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("killing the {victim}"))
    }

    /// SIGKILL to the agent of one node, chosen by `choose` among as many as there are; false if there is none.
    pub(crate) fn kill_an_agent(&self, choose: impl FnOnce(usize) -> usize) -> Result<bool> {
        let mut agents: Vec<i32> = tree(&processes()?, self.init)
            .into_iter()
            .map(|p| p.pid)
            .filter(|pid| name(*pid).as_deref() == Some("moat-agent"))
            .collect();
        agents.sort_unstable();
        if agents.is_empty() {
            return Ok(false);
        }
        let agent = agents[choose(agents.len()) % agents.len()];
        // It may have ended by itself since.
        Ok(kill(Pid::from_raw(agent), Signal::SIGKILL).is_ok())
    }

    /// `moat down`.
    pub(crate) fn down(&mut self) -> Result<()> {
        let all = processes()?;
        self.processes = tree(&all, i32::try_from(self.front.id())?);
        self.processes.extend(tree(&all, self.init));
        let home = self.dir.parent().unwrap_or(&self.dir);
        let done = Command::new(&self.moat).args(["down", "-e", NAME]).env("MOAT_HOME", home).output()?;
        if !done.status.success() {
            bail!("moat down failed: {}", crate::environment::text(&done));
        }
        Ok(())
    }

    /// Waits until nothing of it is left; what is left after that is a finding.
    pub(crate) fn gone(mut self) -> Result<Vec<String>> {
        let deadline = Instant::now() + END_MAX;
        loop {
            let ended = self.front.try_wait()?.is_some();
            let left: Vec<&Process> =
                self.processes.iter().filter(|p| process(p.pid).is_some_and(|now| now.started == p.started)).collect();
            if ended && left.is_empty() {
                return Ok(Vec::new());
            }
            if Instant::now() > deadline {
                let mut wrong: Vec<String> = left
                    .iter()
                    .map(|p| format!("process {} ({}) is left", p.pid, name(p.pid).unwrap_or_default()))
                    .collect();
                if !ended {
                    wrong.push("moat up does not end".to_owned());
                    let _ = self.front.kill();
                    let _ = self.front.wait();
                }
                return Ok(wrong);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// One request on a control socket.
pub(crate) fn control(path: &Path, method: &str, params: &Value) -> Result<Value> {
    let mut stream = UnixStream::connect(path).context("connecting to the control socket")?;
    stream.set_read_timeout(Some(CONTROL_MAX))?;
    stream.write_all(format!("{}\n", json!({"method": method, "params": params})).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let mut answer: Value = serde_json::from_str(&line).context("the control socket closed")?;
    match answer.get_mut("ok") {
        Some(ok) => Ok(ok.take()),
        None => bail!("{}", answer["error"]["message"].as_str().unwrap_or("no answer")),
    }
}

fn process(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Counting starts after the name, which may hold anything but its own closing bracket at the end.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // A zombie has ended; only its parent has not looked yet.
    let alive = !matches!(*fields.first()?, "Z" | "X");
    alive.then_some(Process { pid, parent: fields.get(1)?.parse().ok()?, started: fields.get(19)?.parse().ok()? })
}

fn name(pid: i32) -> Option<String> {
    Some(std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned())
}

fn processes() -> Result<Vec<Process>> {
    let entries = std::fs::read_dir("/proc").context("listing processes")?;
    Ok(entries.filter_map(|entry| process(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect())
}

/// `root` and everything below it.
fn tree(all: &[Process], root: i32) -> BTreeSet<Process> {
    let mut found: BTreeSet<Process> = all.iter().filter(|p| p.pid == root).copied().collect();
    loop {
        let more: Vec<Process> =
            all.iter().filter(|p| !found.contains(*p) && found.iter().any(|f| f.pid == p.parent)).copied().collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// Control groups of worlds of [`NAME`]. What a killed world leaves, the next command removes.
pub(crate) fn control_groups() -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::from("/sys/fs/cgroup")]);
    while let Some(folder) = open.pop() {
        // A group may end while it is being listed.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&format!("moat-{NAME}-"))) {
                found.push(entry.path());
            }
            open.push(entry.path());
        }
    }
    found
}

/// What of the host a world must not change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HostView {
    links: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    routes: BTreeSet<String>,
    rules: BTreeSet<String>,
}

impl HostView {
    /// As it is now.
    pub(crate) fn take() -> Result<Self> {
        let names = |folder: &str| -> BTreeSet<String> {
            let entries = std::fs::read_dir(folder).into_iter().flatten();
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
        };
        let lines = |path: &str| -> BTreeSet<String> {
            std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
        };
        let rules = Command::new("ip").arg("rule").output().context("running ip rule")?;
        Ok(Self {
            links: names("/sys/class/net"),
            namespaces: names("/run/netns"),
            mounts: lines("/proc/self/mountinfo"),
            routes: lines("/proc/net/route"),
            rules: String::from_utf8_lossy(&rules.stdout).lines().map(str::to_owned).collect(),
        })
    }

    /// What differs in `after`.
    pub(crate) fn leaks(&self, after: &Self) -> Vec<String> {
        let parts = [
            ("link", &self.links, &after.links),
            ("network namespace", &self.namespaces, &after.namespaces),
            ("mount", &self.mounts, &after.mounts),
            ("route", &self.routes, &after.routes),
            ("routing rule", &self.rules, &after.rules),
        ];
        parts
            .iter()
            .flat_map(|(what, before, after)| {
                let added = after.difference(before).map(move |one| format!("{what} on the host is new: {one}"));
                let lost = before.difference(after).map(move |one| format!("{what} on the host is gone: {one}"));
                added.chain(lost)
            })
            .collect()
    }
}
