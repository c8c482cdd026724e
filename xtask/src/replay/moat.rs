//! A fresh Moat for each recording: a whole server with its store, tokens and TLS, in this process,
//! on a copy of the state that a first start makes.
//!
//! It has no data plane. Where Azure's answers depend on one, the harness stands in for it in the
//! plainest way: every node can be reached, at once.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use moat_arm::Snapshot;
use moat_control::schedule::observed::{NodeVerdict, Observed};
use moat_model::Edition;
use moat_server::reconcile::clusters;
use moat_server::{NoHost, Ready, ServeConfig, random};

use super::recording::{Answer, Body, LEADING, Request};
use crate::https::{self, Https, Sender};

/// A server that takes longer to start is broken.
const START_MAX: Duration = Duration::from_secs(60);
/// Steps of clusters after one write; each step of a cluster moves it one state on.
const STEPS_MAX: usize = 200;
const NODE: &str = "Microsoft.MachineLearningServices/workspaces/computes/nodes";

/// State after a first start, to copy.
pub(crate) struct Mould {
    state: tempfile::TempDir,
    edition: Edition,
}

/// A running server.
pub(crate) struct Moat {
    ready: Ready,
    thread: Option<JoinHandle<()>>,
    _state: tempfile::TempDir,
    https: Https,
    connections: HashMap<String, Sender>,
    tokens: BTreeMap<&'static str, String>,
}

/// What a server said.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) answer: Answer,
}

/// A folder in memory where there is one: thousands of small commits need no disk here.
fn folder() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("moat-replay-").tempdir_in(base).context("making a folder for the state")
}

impl Mould {
    pub(crate) fn new(edition: Edition) -> Result<Self> {
        let state = folder()?;
        let first = Started::new(state.path(), edition)?;
        first.ready.server.stop();
        drop(first.thread.join());
        Ok(Self { state, edition })
    }

    /// A server that has seen nothing.
    pub(crate) async fn cast(&self) -> Result<Moat> {
        let state = folder()?;
        copy(&self.state.path().join("state"), &state.path().join("state"))?;
        let Started { ready, thread } = Started::new(state.path(), self.edition)?;
        let https = Https::new(ready.address.port(), &std::fs::read(&ready.ca_file)?)?;
        let (connections, tokens) = Default::default();
        Ok(Moat { ready, thread: Some(thread), _state: state, https, connections, tokens })
    }
}

struct Started {
    ready: Ready,
    thread: JoinHandle<()>,
}

impl Started {
    fn new(folder: &Path, edition: Edition) -> Result<Self> {
        let config = ServeConfig {
            env_name: "replay".to_owned(),
            edition,
            state_dir: folder.join("state"),
            listen: TcpListener::bind("127.0.0.1:0")?,
            control: UnixListener::bind(folder.join("control.sock"))?,
            package_index: None,
        };
        let (tell, hear) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let ended = moat_server::serve(config, Arc::new(NoHost), |ready| drop(tell.send(Ok(ready))));
            if let Err(e) = ended {
                // Nobody hears it once the server has started; requests fail then.
                drop(tell.send(Err(e)));
            }
        });
        let ready = hear.recv_timeout(START_MAX).context("the server does not start")??;
        Ok(Self { ready, thread })
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    let mut entries: Vec<PathBuf> = std::fs::read_dir(from)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    entries.sort();
    for entry in entries {
        let target = to.join(entry.file_name().unwrap_or_default());
        if entry.is_dir() {
            copy(&entry, &target)?;
        } else {
            std::fs::copy(&entry, &target)?;
        }
    }
    Ok(())
}

impl Drop for Moat {
    fn drop(&mut self) {
        self.ready.server.stop();
        if let Some(thread) = self.thread.take() {
            // A panic in the server has shown as failed requests already.
            drop(thread.join());
        }
    }
}

impl Moat {
    pub(crate) fn subscription(&self) -> &str {
        &self.ready.environment.subscription
    }
    pub(crate) fn tenant(&self) -> &str {
        &self.ready.environment.tenant
    }

    /// The form by which the environment's own principal asks for a token.
    pub(crate) fn token_form(&self, scope: &str) -> String {
        let environment = &self.ready.environment;
        let scope = scope.replace(':', "%3A").replace('/', "%2F");
        format!(
            "grant_type=client_credentials&client_id={}&client_secret={}&scope={scope}",
            environment.client_id,
            environment.client_secret.reveal()
        )
    }

    /// Sends a request as the environment's own principal, and lets the world follow.
    pub(crate) async fn send(&mut self, request: &Request) -> Result<Said> {
        let token = match scope(&request.host) {
            Some(scope) => Some(self.token(scope).await?),
            None => None,
        };
        let said = self.call(request, token).await?;
        if request.method != "GET" && request.method != "HEAD" {
            self.settle().await?;
        }
        Ok(said)
    }

    async fn token(&mut self, scope: &'static str) -> Result<String> {
        if let Some(known) = self.tokens.get(scope) {
            return Ok(known.clone());
        }
        let request = Request {
            method: "POST".to_owned(),
            host: "login.microsoftonline.com".to_owned(),
            target: format!("/{}/oauth2/v2.0/token", self.tenant()),
            headers: BTreeMap::from([("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned())]),
            body: self.token_form(&format!("{scope}/.default")),
        };
        let said = self.call(&request, None).await?;
        let token = said.answer.body.json().and_then(|b| b["access_token"].as_str()).context("no token was issued")?;
        self.tokens.insert(scope, format!("Bearer {token}"));
        Ok(self.tokens[scope].clone())
    }

    async fn call(&mut self, request: &Request, token: Option<String>) -> Result<Said> {
        let mut builder = hyper::Request::builder()
            .method(request.method.as_str())
            .uri(&request.target)
            .header("host", &request.host);
        for (name, value) in request.headers.iter().filter(|(name, _)| travels(name)) {
            builder = builder.header(name, value);
        }
        if let Some(token) = token {
            builder = builder.header("authorization", token);
        }
        let http = builder.body(Full::from(request.body.clone())).context("making a request")?;
        // A connection that the server closed is opened anew.
        let mut sender = match self.connections.remove(&request.host).filter(|s| !s.is_closed()) {
            Some(open) => open,
            None => self.https.open(&request.host).await?,
        };
        let answer = https::send(&mut sender, http).await?;
        self.connections.insert(request.host.clone(), sender);
        let headers = LEADING
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), answer.headers.get(*name)?.to_str().ok()?.to_owned())))
            .collect();
        let body = Body::of_text(&String::from_utf8_lossy(&answer.body));
        Ok(Said { status: answer.status, answer: Answer { headers, body } })
    }

    /// Takes clusters and deletions as far as they go.
    async fn settle(&self) -> Result<()> {
        let server = &self.ready.server;
        for _ in 0..STEPS_MAX {
            let context = server.context(random::uuid());
            let step = move |snapshot: &Snapshot| {
                let nodes = snapshot.of_type(NODE).map(|n| (n.id.key().to_owned(), NodeVerdict::Reachable)).collect();
                let batch = clusters::step(snapshot, &Observed { nodes, ..Observed::default() }, &context);
                let moved = !batch.is_empty();
                (batch, moved)
            };
            if !server.store.submit(step).await? {
                break;
            }
        }
        Ok(())
    }
}

/// Which headers of a recorded request are sent again: what it asks, not how it came.
fn travels(name: &str) -> bool {
    let own = ["content-type", "accept", "if-match", "if-none-match", "range"].contains(&name);
    own || (name.starts_with("x-ms-") && name != "x-ms-authorization-auxiliary")
}

/// What a token for a service is asked for.
fn scope(host: &str) -> Option<&'static str> {
    match host {
        "login.microsoftonline.com" => None,
        "graph.microsoft.com" => Some("https://graph.microsoft.com"),
        h if h.ends_with(".core.windows.net") => Some("https://storage.azure.com"),
        h if h.ends_with(".azureml.ms") => Some("https://ml.azure.com"),
        _ => Some("https://management.azure.com"),
    }
}
