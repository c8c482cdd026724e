//! The control socket: how `moat status`, `exec`, `trace` and the others talk to their server.
//!
//! One JSON object a line. Request `{"method":..,"params":{..}}`; answers `{"ok":..}` or
//! `{"error":{"code","message"}}`; a stream is many `ok` lines, ended by closing. Only the owner of
//! the environment and root may talk: the peer's uid is checked, the file's mode is not trusted.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::server::Server;

/// Longest request line.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// Connections at a time; each `moat exec` holds one.
const CONNECTIONS_MAX: usize = 256;
/// Time for the request line to arrive.
const REQUEST_SECONDS_MAX: Duration = Duration::from_secs(10);
/// After a failed accept, so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(50);

/// A refusal on the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// Kebab-case, for programs.
    pub code: String,
    /// For people.
    pub message: String,
}

impl ControlError {
    /// A refusal.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}

/// The other end has hung up.
#[derive(Debug, thiserror::Error)]
#[error("the other end of the control socket has gone")]
pub struct Gone;

/// The caller's end of one request: where answers go, and whether anyone still listens.
#[derive(Debug)]
pub struct Caller {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Caller {
    /// Sends one `ok` line.
    pub async fn ok(&mut self, value: &Value) -> Result<(), Gone> {
        self.line(&json!({ "ok": value })).await
    }

    async fn line(&mut self, line: &Value) -> Result<(), Gone> {
        self.write.write_all(format!("{line}\n").as_bytes()).await.map_err(|_| Gone)
    }

    /// Returns when the other end hangs up: the end of a lease or of a stream. Cancel-safe.
    pub async fn gone(&mut self) {
        let mut ignored = [0; 64];
        while matches!(self.read.read(&mut ignored).await, Ok(n) if n > 0) {}
    }
}

/// What a method returns. `Ok` after its last `ok` line.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<(), ControlError>> + Send + 'a>>;

type Method = dyn for<'a> Fn(Arc<Server>, Value, &'a mut Caller) -> Answering<'a> + Send + Sync;

/// Methods by name.
#[derive(Default)]
pub struct ControlHandlers(RwLock<BTreeMap<&'static str, Arc<Method>>>);

impl std::fmt::Debug for ControlHandlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let methods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(methods.keys()).finish()
    }
}

impl ControlHandlers {
    /// Adds a method that streams or holds a lease; a later one of the same name replaces it.
    pub fn add<F>(&self, name: &'static str, method: F)
    where
        F: for<'a> Fn(Arc<Server>, Value, &'a mut Caller) -> Answering<'a> + Send + Sync + 'static,
    {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::new(method));
    }

    /// Adds a method with one answer.
    pub fn add_simple<F, Fut>(&self, name: &'static str, method: F)
    where
        F: Fn(Arc<Server>, Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Value, ControlError>> + Send + 'static,
    {
        self.add(name, move |server, params, caller| {
            let answer = method(server, params);
            Box::pin(async move {
                let value = answer.await?;
                // Who hung up does not want it.
                let _ = caller.ok(&value).await;
                Ok(())
            })
        });
    }

    fn find(&self, name: &str) -> Option<Arc<Method>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

/// The methods every server has.
pub(crate) fn add_basic(handlers: &ControlHandlers) {
    handlers.add_simple("status", |server, _| async move { Ok(status(&server)) });
    handlers.add_simple("stop", |server, _| async move {
        server.stop();
        Ok(json!({}))
    });
}

fn status(server: &Server) -> Value {
    let environment = &server.environment;
    let snapshot = server.store.snapshot();
    let applied = if server.host.has_data_plane() { *server.applied.borrow() } else { snapshot.seq() };
    let mut documents = BTreeMap::<String, usize>::new();
    for document in snapshot.all() {
        *documents.entry(document.id.resource_type()).or_default() += 1;
    }
    json!({
        "environment": environment.name,
        "edition": environment.edition,
        "pid": std::process::id(),
        "stateDir": server.state_dir,
        "tenant": environment.tenant,
        "subscription": environment.subscription,
        "clientId": environment.client_id,
        "seq": snapshot.seq(),
        "applied": applied,
        "dataPlane": server.host.has_data_plane(),
        "refused": server.refused(),
        "documents": documents,
        "packageIndex": server.offer.index,
        "interpreters": server.offer.interpreters,
        "environments": crate::reconcile::environments::built(&server.state_dir),
    })
}

#[derive(Deserialize)]
struct Request {
    method: String,
    #[serde(default)]
    params: Value,
}

/// Serves the socket until the task is dropped.
pub(crate) async fn run(server: Arc<Server>, listener: UnixListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "accepting on the control socket failed");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let server = server.clone();
        tokio::spawn(async move {
            connection(server, stream).await;
            drop(place);
        });
    }
}

async fn connection(server: Arc<Server>, stream: UnixStream) {
    let peer = stream.peer_cred().map(|credentials| credentials.uid());
    let (read, write) = stream.into_split();
    let mut caller = Caller { read: BufReader::new(read), write };
    // Inside the environment's user namespace, root outside that is not mapped shows as the overflow
    // id; it is refused, and root can become the owner.
    let own = nix::unistd::geteuid().as_raw();
    if !peer.is_ok_and(|uid| uid == own || uid == 0) {
        tracing::warn!("a control connection of another user was refused");
        let _ = caller
            .line(&json!({"error": ControlError::new("not-owner", "this environment belongs to another user")}))
            .await;
        return;
    }
    let mut line = String::new();
    let mut limited = (&mut caller.read).take(LINE_BYTES_MAX);
    match tokio::time::timeout(REQUEST_SECONDS_MAX, limited.read_line(&mut line)).await {
        Ok(Ok(n)) if n > 0 => {}
        _ => return,
    }
    let end = match serde_json::from_str::<Request>(&line) {
        Ok(request) => match server.control.find(&request.method) {
            Some(method) => method(server.clone(), request.params, &mut caller).await,
            None => Err(ControlError::new("unknown-method", format!("there is no method `{}`", request.method))),
        },
        Err(error) => Err(ControlError::new("bad-request", format!("the request is not understood: {error}"))),
    };
    if let Err(error) = end {
        let _ = caller.line(&json!({ "error": error })).await;
    }
}
