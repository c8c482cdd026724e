//! Environments that jobs wait for, made one after the other.
//!
//! Level-triggered: every pass looks which hashes the living jobs have and which of them lie whole on the disk. What
//! is missing is built; a restart, a build cut off in the middle and a second job with the same hash are all the same
//! here. A build that failed is remembered as long as a job waits for it, so that a new job tries again.
//!
//! On the disk, below the state: `environments/{hash}` and beside it `{hash}.json`, written last: without it there is
//! no environment. The server owns the folder of all and its entries; what lies inside of one was written by the
//! builder's user, and is never read here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use moat_agent::build::{BUILD_TIME_MAX, BuildConfig, BuildOrder, PARTIAL, Told};
use moat_arm::{Snapshot, Stored};
use moat_control::schedule::observed::{self, Observed};
use moat_host::{NsName, SocketSpec, Step};
use moat_model::environment::{self, Build, Offer};
use moat_model::types::microsoft_machinelearningservices::runs::{JOB_TYPE, Run, Status};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

use crate::control::ControlError;
use crate::packages::proxy::PIP_VERSION;
use crate::packages::{Index, Proxy};
use crate::reconcile::hands::Hands;
use crate::server::Server;

/// Folder of the environments below the state.
const FOLDER: &str = moat_host::world::ENVIRONMENTS;
/// Longest wait without looking again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The builder ends a build at its limit; this much later it is ended itself.
const BACKSTOP: Duration = Duration::from_secs(60);
/// Where the proxy is, in the namespace of a build.
const PROXY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080);
const BACKLOG: u16 = 64;
/// Lines of a log kept; the builder bounds its bytes.
const LOG_LINES_MAX: usize = 50_000;
/// Longest line that the builder is heard to say.
const LINE_BYTES_MAX: usize = 256 << 10;
/// Lines of the log repeated in the error of a run.
const ERROR_LINES_MAX: usize = 12;

/// Takes the log of a build to where the people of these jobs find it.
pub trait LogKeeper: Send + Sync {
    /// Keeps `text` of the build of `hash` with each of `jobs`.
    fn keep<'a>(&'a self, hash: &'a str, jobs: &'a [Arc<Stored>], text: &'a str) -> Keeping<'a>;
}

/// Until the log is where it is to be.
pub type Keeping<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Keeps logs beside the environments, below this state: `environments/{hash}.log`.
#[derive(Debug, Clone)]
pub struct NextToIt(pub PathBuf);

impl NextToIt {
    pub(super) fn keep(&self, hash: &str, text: &str) {
        if let Err(error) = fs::write(self.0.join(FOLDER).join(format!("{hash}.log")), text) {
            tracing::warn!(%error, environment = hash, "the log of a build could not be kept");
        }
    }
}

/// Environments that people asked for before a job does (`moat prepare`), by hash.
#[derive(Debug, Default)]
pub struct Asked {
    builds: Mutex<BTreeMap<String, Build>>,
    changed: Notify,
}

impl Asked {
    fn builds(&self) -> MutexGuard<'_, BTreeMap<String, Build>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for one, and waits for it. `Err` is why it cannot be had. Who stops waiting has not asked any more.
    pub async fn wait(&self, build: Build, observed: &watch::Sender<Observed>) -> Result<(), String> {
        struct Lease<'a>(&'a Asked, String);
        impl Drop for Lease<'_> {
            fn drop(&mut self) {
                self.0.builds().remove(&self.1);
            }
        }
        let hash = build.hash.clone();
        // Who asks again wants another try, not what became of the last one.
        observed.send_if_modified(|o| {
            let failed = matches!(o.environments.get(&hash), Some(observed::Build::Failed(_)));
            failed && o.environments.remove(&hash).is_some()
        });
        self.builds().insert(hash.clone(), build);
        let _lease = Lease(self, hash.clone());
        self.changed.notify_one();
        let done = |o: &Observed| {
            matches!(o.environments.get(&hash), Some(observed::Build::Ready | observed::Build::Failed(_)))
        };
        match observed.subscribe().wait_for(done).await.map(|o| o.environments.get(&hash).cloned()) {
            Ok(Some(observed::Build::Failed(why))) => Err(why),
            Ok(_) => Ok(()),
            Err(_) => Err("the server is ending".to_owned()),
        }
    }
}

/// What the loop needs.
pub struct Environments {
    /// Newest documents.
    pub snapshots: watch::Receiver<Snapshot>,
    /// Hands.
    pub host: Arc<dyn Hands>,
    /// What there is to build with.
    pub offer: Arc<Offer>,
    /// Where packages come from.
    pub index: Option<Index>,
    /// State of the environment of Moat.
    pub state: PathBuf,
    /// Where results go.
    pub observed: watch::Sender<Observed>,
    /// Where logs go.
    pub logs: Arc<dyn LogKeeper>,
    /// What people asked for.
    pub asked: Arc<Asked>,
}

impl std::fmt::Debug for Environments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environments").field("index", &self.index).finish_non_exhaustive()
    }
}

/// What stands beside a whole environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Built {
    /// Names the folder.
    pub hash: String,
    /// The interpreter.
    pub python: String,
    /// What was asked for.
    pub requirements: Vec<String>,
    /// From where.
    pub index: String,
    /// By which pip.
    pub pip: String,
    /// Size on disk.
    pub bytes: u64,
    /// When.
    pub at: Timestamp,
}

/// Adds `prepare` to the control socket: builds the environment of a conda file now.
pub fn add_control(server: &Server, asked: &Arc<Asked>) {
    let asked = asked.clone();
    server.control.add("prepare", move |server, params, caller| {
        let asked = asked.clone();
        Box::pin(async move {
            let properties = serde_json::json!({ "condaFile": params.get("condaFile") });
            let resolved = environment::of_properties("conda file", "1", &properties, &server.offer)
                .map_err(|e| ControlError::new("environment-not-supported", e.to_string()))?;
            let python = resolved.python.map(|p| p.path);
            let Some(build) = resolved.build else {
                let _ = caller.ok(&serde_json::json!({ "python": python, "hash": null })).await;
                return Ok(());
            };
            let hash = build.hash.clone();
            let built = tokio::select! {
                built = asked.wait(build, &server.desk.observed) => built,
                () = caller.gone() => return Ok(()),
            };
            built.map_err(|why| ControlError::new("environment-not-built", why))?;
            let _ = caller.ok(&serde_json::json!({ "python": python, "hash": hash })).await;
            Ok(())
        })
    });
}

/// Every whole environment, by hash.
pub fn built(state: &Path) -> Vec<Built> {
    let mut all: Vec<Built> = fs::read_dir(state.join(FOLDER))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.path().extension().is_some_and(|x| x == "json"))
        .filter_map(|e| serde_json::from_slice(&fs::read(e.path()).ok()?).ok())
        .collect();
    all.sort_by(|a, b| a.hash.cmp(&b.hash));
    all
}

/// How a build ended, with its log.
#[derive(Debug)]
struct Outcome {
    result: Result<(), String>,
    log: String,
}

impl Environments {
    /// Runs until `stop` is set.
    pub async fn run(mut self, stop: Arc<AtomicBool>) {
        let mut building: Option<(String, oneshot::Receiver<Outcome>)> = None;
        let mut count = 0u64;
        while !stop.load(Ordering::Relaxed) {
            let snapshot = self.snapshots.borrow_and_update().clone();
            let mut wanted = wanted(&snapshot);
            for hash in self.asked.builds().keys() {
                wanted.entry(hash.clone()).or_default();
            }
            self.look(&wanted, building.as_ref().map(|(hash, _)| hash.as_str()));
            if building.is_none()
                && let Some((hash, jobs)) = self.next(&wanted)
            {
                match self.plan(&snapshot, &hash, &jobs) {
                    Ok((build, index)) => {
                        count += 1;
                        building = Some((hash, self.begin(build, index, count)));
                    }
                    Err(why) => self.publish(&hash, observed::Build::Failed(why)),
                }
                continue;
            }
            tokio::select! {
                changed = self.snapshots.changed() => if changed.is_err() { return },
                () = self.asked.changed.notified() => {}
                outcome = ended(&mut building) => {
                    if let Some((hash, _)) = building.take() {
                        self.take(&hash, outcome).await;
                    }
                }
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Compares what is wanted with the disk and with what was said before.
    fn look(&self, wanted: &BTreeMap<String, Vec<Arc<Stored>>>, building: Option<&str>) {
        let whole: BTreeSet<&String> = wanted.keys().filter(|h| is_whole(&self.state, h)).collect();
        self.observed.send_if_modified(|o| {
            let before = o.environments.clone();
            o.environments.retain(|hash, _| wanted.contains_key(hash));
            for hash in wanted.keys() {
                if whole.contains(hash) {
                    o.environments.insert(hash.clone(), observed::Build::Ready);
                } else if building == Some(hash.as_str()) {
                    o.environments.insert(hash.clone(), observed::Build::Building);
                } else if !matches!(o.environments.get(hash), Some(observed::Build::Failed(_))) {
                    // Also what was ready and is gone: somebody took it away.
                    o.environments.remove(hash);
                }
            }
            o.environments != before
        });
    }

    /// An environment that nobody has looked after yet.
    fn next(&self, wanted: &BTreeMap<String, Vec<Arc<Stored>>>) -> Option<(String, Vec<Arc<Stored>>)> {
        let seen = self.observed.borrow();
        let (hash, jobs) = wanted.iter().find(|(hash, _)| !seen.environments.contains_key(*hash))?;
        Some((hash.clone(), jobs.clone()))
    }

    /// What has to be built for `hash`, read again from the jobs that have it.
    fn plan(&self, snapshot: &Snapshot, hash: &str, jobs: &[Arc<Stored>]) -> Result<(Build, Index), String> {
        let index = self.index.clone().ok_or("No package index is known to this environment of Moat")?;
        if let Some(build) = self.asked.builds().get(hash) {
            return Ok((build.clone(), index));
        }
        let mut why = "The environment was changed or deleted after the job was submitted; submit it again".to_owned();
        for job in jobs {
            match environment::of_job(snapshot, job, &self.offer).map(|r| r.build) {
                Ok(Some(build)) if build.hash == hash => return Ok((build, index)),
                Ok(_) => {}
                Err(e) => why = e.message,
            }
        }
        Err(why)
    }

    fn publish(&self, hash: &str, build: observed::Build) {
        self.observed.send_modify(|o| {
            o.environments.insert(hash.to_owned(), build);
        });
    }

    fn begin(&self, build: Build, index: Index, count: u64) -> oneshot::Receiver<Outcome> {
        tracing::info!(environment = build.hash, requirements = build.requirements.len(), "building an environment");
        self.publish(&build.hash, observed::Build::Building);
        let (told, outcome) = oneshot::channel();
        let work = Work {
            host: self.host.clone(),
            folder: self.state.join(FOLDER),
            id: format!("build-{count}"),
            runtime: Handle::current(),
            build,
            index,
        };
        // A thread of its own: most of its life it waits. If there is none, the channel closes, and that is told.
        let _ = std::thread::Builder::new().name("build".to_owned()).spawn(move || told.send(work.run()));
        outcome
    }

    async fn take(&self, hash: &str, outcome: Option<Outcome>) {
        let outcome = outcome.unwrap_or_else(|| Outcome {
            result: Err("The server could not start the build".to_owned()),
            log: String::new(),
        });
        let jobs = wanted(&self.snapshots.borrow()).remove(hash).unwrap_or_default();
        // Before anybody hears of the end: who reads why a run failed finds the log there.
        self.logs.keep(hash, &jobs, &outcome.log).await;
        match outcome.result {
            Ok(()) => {
                tracing::info!(environment = hash, "an environment is ready");
                self.publish(hash, observed::Build::Ready);
            }
            Err(why) => {
                tracing::warn!(environment = hash, why, "an environment could not be built");
                self.publish(hash, observed::Build::Failed(why));
            }
        }
    }
}

async fn ended(building: &mut Option<(String, oneshot::Receiver<Outcome>)>) -> Option<Outcome> {
    match building {
        Some((_, outcome)) => outcome.await.ok(),
        None => std::future::pending().await,
    }
}

/// Environments of jobs that have not ended, with those jobs.
fn wanted(snapshot: &Snapshot) -> BTreeMap<String, Vec<Arc<Stored>>> {
    let mut wanted: BTreeMap<String, Vec<Arc<Stored>>> = BTreeMap::new();
    for job in snapshot.of_type(JOB_TYPE) {
        if Status::of(&job.body).is_none_or(Status::is_terminal) {
            continue;
        }
        if let Some(hash) = Run::of(&job.body).environment.filter(|h| is_hash(h)) {
            wanted.entry(hash).or_default().push(job.clone());
        }
    }
    wanted
}

/// It becomes the name of a folder.
fn is_hash(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn manifest(folder: &Path, hash: &str) -> PathBuf {
    folder.join(format!("{hash}.json"))
}

fn is_whole(state: &Path, hash: &str) -> bool {
    let folder = state.join(FOLDER);
    manifest(&folder, hash).is_file() && folder.join(hash).is_dir()
}

/// One build.
struct Work {
    host: Arc<dyn Hands>,
    folder: PathBuf,
    id: String,
    runtime: Handle,
    build: Build,
    index: Index,
}

/// Why a build came to nothing before a builder could say anything. Ours to repair, so the chain goes to the log.
#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error("preparing the folder of the environment")]
    Folder(#[source] io::Error),
    #[error("preparing the place of the build")]
    Hands(#[from] crate::reconcile::HandsError),
    #[error("preparing the proxy")]
    Proxy(#[source] io::Error),
    #[error(transparent)]
    Upstream(#[from] crate::packages::upstream::UpstreamError),
}

impl Work {
    fn run(self) -> Outcome {
        let mut log = Log::default();
        let result = match self.build(&mut log) {
            Ok(Told::Built { bytes }) => self.finish(bytes).map_err(|error| {
                tracing::error!(error = &error as &dyn std::error::Error, "an environment could not be stored");
                "The environment could not be stored; the log of Moat says more".to_owned()
            }),
            Ok(Told::Failed(why)) => Err(log.explain(&why)),
            Ok(Told::Line(_)) => Err(log.explain("The builder ended before it was done")),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a build could not be started");
                Err(format!("The build could not be started ({error}); the log of Moat says more"))
            }
        };
        if result.is_err() && self.remove().is_err() {
            tracing::warn!(environment = self.build.hash, "what is left of a build could not be removed");
        }
        if let Err(why) = &result {
            log.line(why.clone());
        }
        Outcome { result, log: log.text() }
    }

    fn partial(&self) -> String {
        format!("{}{PARTIAL}", self.build.hash)
    }

    /// Makes the place, runs the builder in it, and takes the place away.
    fn build(&self, log: &mut Log) -> Result<Told, WorkError> {
        self.remove().map_err(WorkError::Folder)?;
        let folder = self.folder.join(self.partial());
        fs::create_dir(&folder)
            .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)))
            .map_err(WorkError::Folder)?;
        let ns = NsName(self.id.clone());
        // What a world before this one left under the name went with it.
        self.host.apply(&[Step::CreateNs { ns: ns.clone(), sysctls: BTreeMap::new() }])?;
        let told = self.build_in(&ns, log);
        let _ = self.host.kill(&self.id);
        if let Err(error) = self.host.apply(&[Step::DeleteNs { ns }]) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the place of a build stays");
        }
        told
    }

    fn build_in(&self, ns: &NsName, log: &mut Log) -> Result<Told, WorkError> {
        let proxy = Arc::new(Proxy::new(self.index.clone())?);
        let socket = self.host.socket(ns, &SocketSpec::TcpListen { address: PROXY, backlog: BACKLOG })?;
        let serving = {
            let _runtime = self.runtime.enter();
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true).map_err(WorkError::Proxy)?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(WorkError::Proxy)?;
            self.runtime.spawn(proxy.clone().serve(listener))
        };
        let told = self.converse(ns, log);
        serving.abort();
        for trouble in proxy.troubles() {
            log.trouble(format!("package index {}: {trouble}", self.index));
        }
        told
    }

    fn converse(&self, ns: &NsName, log: &mut Log) -> Result<Told, WorkError> {
        let order = BuildOrder {
            build: BuildConfig {
                hash: self.build.hash.clone(),
                python: self.build.python.path.clone(),
                requirements: self.build.requirements.clone(),
                index: format!("http://{PROXY}"),
                pip: PIP_VERSION.to_owned(),
            },
        };
        let order = serde_json::to_string(&order).map_err(|e| WorkError::Folder(e.into()))?;
        let (read, write) = io::pipe().map_err(WorkError::Folder)?;
        self.host.spawn_builder(ns, &self.id, &order, &self.partial(), write.as_fd())?;
        drop(write);
        Ok(listen(read.into(), Instant::now() + BUILD_TIME_MAX + BACKSTOP, log))
    }

    /// Gives the folder its name, and then its mark.
    fn finish(&self, bytes: u64) -> Result<(), io::Error> {
        let (partial, whole) = (self.folder.join(self.partial()), self.folder.join(&self.build.hash));
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o755))?;
        // An environment that is whole by its name must be whole after a power cut too.
        nix::unistd::syncfs(fs::File::open(&partial)?)?;
        fs::rename(&partial, &whole)?;
        let built = Built {
            hash: self.build.hash.clone(),
            python: self.build.python.path.clone(),
            requirements: self.build.requirements.clone(),
            index: self.index.id().to_owned(),
            pip: PIP_VERSION.to_owned(),
            bytes,
            at: Timestamp::now(),
        };
        let mark = manifest(&self.folder, &self.build.hash);
        let fresh = mark.with_extension("new");
        fs::write(&fresh, serde_json::to_vec_pretty(&built)?)?;
        fs::File::open(&fresh)?.sync_all()?;
        fs::rename(&fresh, &mark)?;
        fs::File::open(&self.folder)?.sync_all()
    }

    /// Takes away what an earlier build left: its own folder, and one without a mark.
    fn remove(&self) -> io::Result<()> {
        for name in [self.partial(), self.build.hash.clone()] {
            let folder = self.folder.join(&name);
            if !fs::symlink_metadata(&folder).is_ok_and(|m| m.is_dir()) {
                continue;
            }
            self.host.clear_environment(&name).map_err(io::Error::other)?;
            fs::remove_dir(&folder)?;
        }
        Ok(())
    }
}

/// The log of a build, bounded.
#[derive(Debug, Default)]
struct Log {
    lines: Vec<String>,
    troubles: Vec<String>,
}

impl Log {
    fn line(&mut self, line: String) {
        if self.lines.len() < LOG_LINES_MAX {
            self.lines.push(line);
        }
    }

    fn trouble(&mut self, text: String) {
        self.troubles.push(text);
    }

    fn text(&self) -> String {
        self.lines.iter().chain(&self.troubles).map(|l| format!("{l}\n")).collect()
    }

    /// What is told in the run: the end of the tool's own words, and what the proxy knows.
    fn explain(&self, why: &str) -> String {
        let last = &self.lines[self.lines.len().saturating_sub(ERROR_LINES_MAX)..];
        let parts =
            std::iter::once(why).chain(last.iter().map(String::as_str)).chain(self.troubles.iter().map(String::as_str));
        parts.filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n")
    }
}

/// Hears the builder until it ends or the time is up.
fn listen(read: OwnedFd, until: Instant, log: &mut Log) -> Told {
    let mut last = Told::Failed("The builder ended before it was done".to_owned());
    let mut rest: Vec<u8> = Vec::new();
    let mut bytes = [0u8; 16 << 10];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Told::Failed("The builder did not end in time".to_owned());
        }
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(read.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) | Err(_) => {}
        }
        match nix::unistd::read(&read, &mut bytes) {
            Err(nix::errno::Errno::EINTR) => continue,
            Ok(0) | Err(_) => return last,
            Ok(n) => rest.extend_from_slice(&bytes[..n]),
        }
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            match serde_json::from_slice::<Told>(&line) {
                Ok(Told::Line(line)) => log.line(line),
                Ok(told) => last = told,
                // Its own complaints, before it could speak properly.
                Err(_) => log.line(String::from_utf8_lossy(&line).trim_end().to_owned()),
            }
        }
        if rest.len() > LINE_BYTES_MAX {
            rest.clear();
        }
    }
}
