//! The phase `running`: the program in its sandbox, its output on the way to the log, and the four ways it may end: by
//! itself, because somebody asked, by its time limit, or because the store took no log line any more.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::blob::{End, Store};
use super::http::Trouble;
use super::log::{Log, Tally};
use super::machine::Cancel;
use super::sandbox::{Launch, Mount, Program, Sandbox, StartError};
use super::stop::Stop;
use crate::spec::RunSpec;
use crate::work::Outcome;

/// How long the kernel may take to end what was killed.
const KILLED_WAIT_MAX: Duration = Duration::from_secs(10);
/// Where every sandbox has the authorities that its services prove themselves by.
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Variables by which programs find it: requests and the Azure SDKs, OpenSSL, curl.
const CA_VARIABLES: [&str; 3] = ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"];

/// What is needed to run one program.
pub(super) struct Plan<'a> {
    pub spec: &'a RunSpec,
    pub variables: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    /// Where the log goes on.
    pub end: End,
    /// Told when the first of the output is stored.
    pub log_begun: Box<dyn FnOnce() + Send>,
}

/// A program that ran.
#[derive(Debug)]
pub(super) struct Ran {
    pub outcome: Outcome,
    pub tally: Tally,
    pub warnings: Vec<String>,
}

/// All variables of the program: the specification's, and those only the node knows.
pub(super) fn variables(spec: &RunSpec, token: &str, path: &str, home: &str) -> BTreeMap<String, String> {
    let mut all = spec.variables.clone();
    let path = match all.get("PATH") {
        Some(own) if !own.is_empty() => format!("{path}:{own}"),
        _ => path.to_owned(),
    };
    all.insert("PATH".to_owned(), path);
    all.entry("HOME".to_owned()).or_insert_with(|| home.to_owned());
    for name in CA_VARIABLES {
        all.entry(name.to_owned()).or_insert_with(|| CA_BUNDLE.to_owned());
    }
    all.extend(spec.token_variables.iter().map(|name| (name.clone(), token.to_owned())));
    all
}

/// Runs it to its end, and the log with it. `started` is told which limits hold.
pub(super) async fn run(
    sandbox: &Arc<dyn Sandbox>,
    store: &Store,
    plan: Plan<'_>,
    mut cancel: Cancel,
    started: impl FnOnce(String),
) -> Result<Ran, Stop> {
    let broken = |e: io::Error| Stop::node("starting the program", &e);
    let patience = store.client().patience().clone();
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| broken(e.into()))?;
    let pipe = pipe::Receiver::from_owned_fd(read).map_err(broken)?;
    let mut program = start(sandbox.clone(), &plan, write).await?;
    started(program.limits());

    let log = Arc::new(Log::new(plan.spec.limits.log_bytes));
    let mut reader = Task(tokio::spawn({
        let log = log.clone();
        async move { log.read(pipe).await }
    }));
    let mut writer = Task(tokio::spawn({
        let (log, store, to, end) = (log.clone(), store.clone(), plan.spec.artifacts.clone(), plan.end);
        async move { log.write(&store, &to, end, plan.log_begun).await }
    }));

    let alive = program.alive().try_clone_to_owned().and_then(pipe::Receiver::from_owned_fd).map_err(broken)?;
    let limit = plan.spec.limits.timeout_seconds;
    let mut why = tokio::select! {
        _ = alive.readable() => Why::Itself,
        grace = cancel.asked() => Why::Canceled(grace),
        seconds = passed(limit) => Why::TimedOut { seconds },
        stored = &mut writer.0 => Why::NoStore(stored),
    };
    match &why {
        Why::Itself => {}
        Why::Canceled(grace) => end(&*program, &alive, *grace).await?,
        Why::TimedOut { .. } => end(&*program, &alive, patience.grace).await?,
        Why::NoStore(_) => end(&*program, &alive, Duration::ZERO).await?,
    }
    let exit = program.ended().map_err(|e| Stop::node("asking how the program ended", &e))?;
    // What it wrote last is still in the pipe; nobody holds the other end any more.
    let _ = timeout(patience.drain, &mut reader.0).await;
    log.close();

    let stored = match &mut why {
        Why::NoStore(stored) => std::mem::replace(stored, Ok(Ok(Tally::default()))),
        Why::Canceled(_) => match timeout(patience.farewell, &mut writer.0).await {
            Ok(stored) => stored,
            Err(_) => Ok(Ok(Tally::default())),
        },
        Why::Itself | Why::TimedOut { .. } => tokio::select! {
            stored = &mut writer.0 => stored,
            // It has ended and cannot be ended again; but nobody needs to wait for its log.
            _ = cancel.asked() => {
                why = Why::Canceled(Duration::ZERO);
                let waited = timeout(patience.farewell, &mut writer.0).await;
                waited.unwrap_or(Ok(Ok(Tally::default())))
            }
        },
    };
    let tally = stored
        .map_err(|e| Stop::failed("NodeError", format!("The node failed storing the log: {e}.")))?
        .map_err(|t| Stop::service("storing the log", t))?;
    let outcome = match why {
        Why::Itself => Outcome::Exited { code: exit.code },
        Why::Canceled(_) => Outcome::Canceled,
        Why::TimedOut { seconds } => Outcome::TimedOut { seconds },
        Why::NoStore(_) => return Err(Stop::failed("NodeError", "The log ended before the program did.")),
    };
    Ok(Ran { outcome, tally, warnings: warnings(exit.limit.as_deref(), tally) })
}

/// Why the program is not running any more.
enum Why {
    Itself,
    Canceled(Duration),
    TimedOut { seconds: u64 },
    NoStore(Result<Result<Tally, Trouble>, tokio::task::JoinError>),
}

/// A task that ends with whoever waits for it.
pub(super) struct Task<T>(pub JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn start(sandbox: Arc<dyn Sandbox>, plan: &Plan<'_>, output: OwnedFd) -> Result<Box<dyn Program>, Stop> {
    let launch = Launch {
        program: plan.spec.program.clone(),
        variables: plan.variables.clone(),
        folder: plan.spec.folder.clone().into(),
        mounts: plan.mounts.clone(),
        limits: plan.spec.limits.clone(),
        output,
    };
    let started = tokio::task::spawn_blocking(move || sandbox.start(launch)).await;
    match started {
        Ok(Ok(program)) => Ok(program),
        Ok(Err(StartError::Program(why))) => {
            Err(Stop::failed("UserError", format!("The program did not start: {why}.")))
        }
        Ok(Err(StartError::Sandbox(why))) => {
            Err(Stop::failed("NodeError", format!("The node could not make a sandbox for the program: {why}.")))
        }
        Err(e) => Err(Stop::failed("NodeError", format!("The node failed starting the program: {e}."))),
    }
}

async fn passed(limit: Option<u64>) -> u64 {
    match limit {
        Some(seconds) => {
            sleep(Duration::from_secs(seconds)).await;
            seconds
        }
        None => std::future::pending().await,
    }
}

/// SIGTERM, the grace, SIGKILL to all of it.
async fn end(program: &dyn Program, alive: &pipe::Receiver, grace: Duration) -> Result<(), Stop> {
    if !grace.is_zero() {
        program.terminate();
        if timeout(grace, alive.readable()).await.is_ok() {
            return Ok(());
        }
    }
    program.kill();
    match timeout(KILLED_WAIT_MAX, alive.readable()).await {
        Ok(_) => Ok(()),
        Err(_) => Err(Stop::failed("NodeError", "The program could not be ended.")),
    }
}

fn warnings(limit: Option<&str>, tally: Tally) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(limit) = limit {
        warnings.push(format!("The program met its limit: {limit}."));
    }
    if tally.lost > 0 {
        let (kept, lost) = (tally.kept, tally.lost);
        warnings.push(format!("The log was longer than allowed: {kept} bytes were kept, {lost} were not."));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::world::spec;

    #[test]
    fn the_environment_comes_first_and_the_token_is_where_it_was_asked_for() {
        let mut spec = spec();
        spec.variables.insert("PATH".to_owned(), "/own".to_owned());
        spec.variables.insert("HOME".to_owned(), "/elsewhere".to_owned());
        spec.token_variables = vec!["AZUREML_RUN_TOKEN".to_owned()];
        let all = variables(&spec, "secret", "/env/bin:/usr/bin", "/home");
        assert_eq!(all["PATH"], "/env/bin:/usr/bin:/own");
        assert_eq!(all["HOME"], "/elsewhere");
        assert_eq!(all["AZUREML_RUN_TOKEN"], "secret");
        assert_eq!(all["SSL_CERT_FILE"], CA_BUNDLE);
    }

    #[test]
    fn what_a_person_should_know_is_said() {
        assert!(warnings(None, Tally { kept: 5, lost: 0 }).is_empty());
        assert_eq!(warnings(Some("memory"), Tally { kept: 5, lost: 2 }).len(), 2);
    }
}
