//! A fake Azure in this process (TLS by an authority of its own, the routes a node uses, faults on demand) and a
//! sandbox that runs programs as they are. What a test needs to drive a run and to look at what came of it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

use super::super::Jobs;
use super::super::patience::Patience;
use super::super::sandbox::{Exit, Launch, Program, Sandbox, StartError};
use crate::config::{AgentConfig, Destination, Mode};
use crate::egress::Egress;
use crate::handshake::{RunAssertion, Status, WorkAnswer, WorkAsk};
use crate::spec::{Blob, Environment, LOG_PATH, Limits, Prefix, RunSpec};
use crate::work::{Order, RunReport, Ticket};

pub(crate) const LOGIN: &str = "login.microsoftonline.com";
pub(crate) const LEARNING: &str = "westus2.api.azureml.ms";
pub(crate) const STORAGE: &str = "acct.blob.core.windows.net";
pub(crate) const REGISTRY: &str = "mcr.microsoft.com";
pub(crate) const BATCH: &str = "westus2.batch.azure.com";
const KEY: &[u8] = b"a key of thirty-two bytes, or so";
const TOKEN: &str = "the-token-of-the-run";
const SAS: &str = "sv=1&sr=d&sig=s3cret";
/// How long a test waits for what must come.
const WAIT: Duration = Duration::from_secs(30);

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Answered with this and nothing done.
    Status(u16),
    /// The connection is closed, nothing done.
    Cut,
    /// Done, and the connection closed before the answer.
    Lost,
    /// No answer ever comes.
    Hang,
    /// The body breaks off in the middle.
    Half,
}

type FaultRule = Box<dyn FnMut(&Seen) -> Option<Fault> + Send>;

/// A request as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub method: Method,
    pub host: String,
    pub target: String,
}

impl Seen {
    pub(crate) fn is(&self, method: &Method, host: &str, part: &str) -> bool {
        self.method == *method && self.host == host && self.target.contains(part)
    }
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    blobs: BTreeMap<String, Vec<u8>>,
    blocks: BTreeMap<(String, String), Vec<u8>>,
    appended: BTreeMap<String, u64>,
    spec: Option<RunSpec>,
    events: Vec<RunReport>,
    order: Option<Order>,
    faults: Vec<FaultRule>,
    /// Hosts nobody listens for.
    down: Vec<String>,
    /// Hosts at another address.
    moved: BTreeMap<String, SocketAddrV4>,
    work: Vec<Order>,
    asked: Vec<WorkAsk>,
    forge: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fake Azure, an agent's jobs, and a folder for them.
pub(crate) struct World {
    shared: Arc<Shared>,
    pub jobs: Arc<Jobs>,
    _work: tempfile::TempDir,
    _stop: tokio::sync::oneshot::Sender<()>,
}

pub(crate) fn ticket() -> Ticket {
    Ticket {
        run: "happy drain".to_owned(),
        workspace: "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
            .to_owned(),
        attempt: 1,
        tenant: "t".to_owned(),
        region: "westus2".to_owned(),
    }
}

pub(crate) fn prefix(name: &str) -> Prefix {
    Prefix { host: STORAGE.to_owned(), container: "c".to_owned(), prefix: name.to_owned(), sas: SAS.to_owned() }
}

pub(crate) fn blob(path: &str) -> Blob {
    Blob { path: path.to_owned(), host: STORAGE.to_owned(), target: format!("/c/{path}?{SAS}") }
}

/// A run that prints one line.
pub(crate) fn spec() -> RunSpec {
    RunSpec {
        program: ["/bin/sh", "-c", "echo hello"].map(str::to_owned).to_vec(),
        folder: "/mnt/azureml/cr/j/r/exe/wd".to_owned(),
        root: "/mnt/azureml/cr/j/r".to_owned(),
        variables: BTreeMap::new(),
        token_variables: Vec::new(),
        environment: Environment { name: "e:1".to_owned(), folder: None, python: None, image: None },
        code: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
        artifacts: prefix("run"),
        limits: Limits {
            timeout_seconds: None,
            memory_bytes: 1 << 30,
            cpu_milli: 1000,
            processes: 100,
            log_bytes: 64 << 20,
            file_bytes: 1 << 30,
        },
    }
}

/// [`spec`] with a shell script as its program.
pub(crate) fn script(text: &str) -> RunSpec {
    RunSpec { program: ["/bin/sh", "-c", text].map(str::to_owned).to_vec(), ..spec() }
}

pub(crate) fn impatient() -> Patience {
    Patience {
        connect_tries: 2,
        answer_tries: 4,
        pause_first: Duration::from_millis(5),
        pause_max: Duration::from_millis(20),
        head: Duration::from_secs(20),
        piece: Duration::from_secs(20),
        store: Duration::from_secs(20),
        log_batch: Duration::from_millis(20),
        partial_line: Duration::from_millis(100),
        drain: Duration::from_secs(5),
        grace: Duration::from_secs(5),
        farewell: Duration::from_secs(5),
        work_pause: Duration::from_millis(20),
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Mode::Classic, impatient())
    }

    pub(crate) fn with(mode: Mode, patience: Patience) -> Self {
        let (ca_pem, server) = certificates();
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let (address, stop) = serve(shared.clone(), server);
        let work = tempfile::tempdir().unwrap();
        let config = AgentConfig {
            node_id: "n".to_owned(),
            key: base64::Engine::encode(&base64::engine::general_purpose::STANDARD, KEY),
            mode,
            listen: Vec::new(),
            resolvers: Vec::new(),
            destinations: vec![Destination { label: "Batch".to_owned(), host: BATCH.to_owned(), port: 443 }],
            ca_pem,
        };
        let locating = shared.clone();
        let locate = move |host: &str| {
            let state = locating.state();
            if state.down.iter().any(|d| d == host) {
                // Port 1 of loopback: nobody is there.
                return Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1));
            }
            Ok(state.moved.get(host).copied().unwrap_or(address))
        };
        let egress = Arc::new(Egress::new(&config));
        let folder = work.path().canonicalize().unwrap();
        let jobs = Jobs::start_with(&config, egress, Arc::new(Plain), &folder, Box::new(locate), patience).unwrap();
        Self { shared, jobs, _work: work, _stop: stop }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Waits until `ready` says something about the fake's state.
    fn until<T>(&self, what: &str, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        let end = Instant::now() + WAIT;
        let mut state = self.state();
        loop {
            if let Some(found) = ready(&mut state) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come; report {:?}; seen {:#?}", self.jobs.report(), state.seen);
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(crate) fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        self.state().blobs.insert(format!("c/{name}"), text.as_ref().to_vec());
    }

    pub(crate) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.state().blobs.get(&format!("c/{name}")).cloned()
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.bytes(name).map(|b| String::from_utf8(b).unwrap())
    }

    pub(crate) fn log(&self) -> String {
        self.text(&format!("run/{LOG_PATH}")).unwrap_or_default()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.state().blobs.keys().map(|k| k.trim_start_matches("c/").to_owned()).collect()
    }

    pub(crate) fn events(&self) -> Vec<RunReport> {
        self.state().events.clone()
    }

    /// Waits until that many such requests were seen.
    pub(crate) fn until_count(&self, method: &Method, host: &str, part: &str, times: usize) {
        self.until(part, |state| {
            (state.seen.iter().filter(|s| s.is(method, host, part)).count() >= times).then_some(())
        });
    }

    /// Waits until a question for work says this.
    pub(crate) fn until_asked(&self, ready: impl Fn(&RunReport) -> bool) {
        self.until("a question for work", |state| {
            let said = |asked: &WorkAsk| serde_json::from_str::<Status>(&asked.status).unwrap().run;
            state.asked.iter().filter_map(said).any(|run| ready(&run)).then_some(())
        });
    }

    pub(crate) fn count(&self, method: &Method, host: &str, part: &str) -> usize {
        self.state().seen.iter().filter(|s| s.is(method, host, part)).count()
    }

    pub(crate) fn down(&self, host: &str, down: bool) {
        let mut state = self.state();
        state.down.retain(|d| d != host);
        if down {
            state.down.push(host.to_owned());
        }
    }

    pub(crate) fn moved(&self, host: &str, to: SocketAddrV4) {
        self.state().moved.insert(host.to_owned(), to);
    }

    pub(crate) fn fault(&self, rule: impl FnMut(&Seen) -> Option<Fault> + Send + 'static) {
        self.state().faults.push(Box::new(rule));
    }

    /// The first `times` such requests meet `fault`.
    pub(crate) fn faults(&self, method: Method, host: &'static str, part: &'static str, fault: Fault, times: usize) {
        let mut left = times;
        self.fault(move |seen| {
            if !seen.is(&method, host, part) || left == 0 {
                return None;
            }
            left -= 1;
            Some(fault)
        });
    }

    pub(crate) fn heal(&self) {
        self.state().faults.clear();
    }

    /// Orders for questions for work, in order; forged ones if `forge`.
    pub(crate) fn work(&self, orders: Vec<Order>, forge: bool) {
        let mut state = self.state();
        state.work = orders;
        state.forge = forge;
    }

    /// The next event is answered with this.
    pub(crate) fn answer_event(&self, order: Order) {
        self.state().order = Some(order);
    }

    pub(crate) fn publish(&self, spec: RunSpec) {
        self.state().spec = Some(spec);
    }

    pub(crate) fn begin(&self, spec: RunSpec) {
        self.publish(spec);
        self.jobs.take(Order::Start(ticket()));
    }

    pub(crate) fn cancel(&self, grace_seconds: u32) {
        self.jobs.take(Order::Cancel { ticket: ticket(), grace_seconds });
    }

    pub(crate) fn until_seen(&self, method: &Method, host: &str, part: &str) {
        self.until(part, |state| state.seen.iter().any(|s| s.is(method, host, part)).then_some(()));
    }

    pub(crate) fn until_log(&self, part: &str) {
        let name = format!("c/run/{LOG_PATH}");
        self.until(part, |state| {
            let log = state.blobs.get(&name)?;
            String::from_utf8_lossy(log).contains(part).then_some(())
        });
    }

    /// Waits for the end of the run.
    pub(crate) fn end(&self) -> RunReport {
        self.until_report("the end", |r| r.outcome.is_some())
    }

    pub(crate) fn until_report(&self, what: &str, ready: impl Fn(&RunReport) -> bool) -> RunReport {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut changes = self.jobs.changes();
        let found = runtime.block_on(async {
            let look = async {
                loop {
                    changes.borrow_and_update();
                    if let Some(report) = self.jobs.report().filter(&ready) {
                        return report;
                    }
                    changes.changed().await.unwrap();
                }
            };
            tokio::time::timeout(WAIT, look).await
        });
        found.unwrap_or_else(|_| panic!("{what} did not come: {:?}", self.jobs.report()))
    }

    pub(crate) fn run(&self, spec: RunSpec) -> RunReport {
        self.begin(spec);
        self.end()
    }
}

fn certificates() -> (String, Arc<rustls::ServerConfig>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::from_params(&params, &key);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let names = [LOGIN, LEARNING, STORAGE, REGISTRY, BATCH].map(str::to_owned).to_vec();
    let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(leaf.der().to_vec())],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der())),
        )
        .unwrap();
    (ca.pem(), Arc::new(server))
}

fn serve(shared: Arc<Shared>, config: Arc<rustls::ServerConfig>) -> (SocketAddrV4, tokio::sync::oneshot::Sender<()>) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("not IPv4") };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            let accept = async {
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    let (acceptor, shared) = (acceptor.clone(), shared.clone());
                    tokio::spawn(async move {
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        let service = service_fn(move |request| answer(shared.clone(), request));
                        let served = hyper::server::conn::http1::Builder::new();
                        let _ = served.serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            };
            tokio::select! { () = accept => {}, _ = stopped => {} }
        });
    });
    (address, stop)
}

/// A service error closes the connection.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Cut>;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let seen = Seen { method: head.method.clone(), host: text("host"), target: head.uri.to_string() };
    let (fault, response) = {
        let mut state = shared.state();
        state.seen.push(seen.clone());
        let fault = state.faults.iter_mut().find_map(|rule| rule(&seen));
        let response = match fault {
            None | Some(Fault::Lost | Fault::Half) => route(&mut state, &seen, &head.headers, &body),
            _ => reply(500, ""),
        };
        (fault, response)
    };
    shared.changed.notify_all();
    match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Cut | Fault::Lost) => Err(Cut),
        Some(Fault::Status(status)) => Ok(reply(status, "").map(whole)),
        Some(Fault::Half) => {
            let (head, body) = response.into_parts();
            let bytes = body.collect().await.unwrap_or_default().to_bytes();
            let pieces = [Ok(hyper::body::Frame::data(bytes.slice(..bytes.len() / 2))), Err(Cut)];
            let mut response = Response::from_parts(head, pieces_body(pieces));
            response.headers_mut().insert("content-length", bytes.len().into());
            Ok(response)
        }
        None => Ok(response.map(whole)),
    }
}

fn whole(body: Full<Bytes>) -> Body {
    body.map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn pieces_body(pieces: [Result<hyper::body::Frame<Bytes>, Cut>; 2]) -> Body {
    struct Pieces(std::array::IntoIter<Result<hyper::body::Frame<Bytes>, Cut>, 2>);
    impl hyper::body::Body for Pieces {
        type Data = Bytes;
        type Error = Cut;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Cut>>> {
            std::task::Poll::Ready(self.0.next())
        }
    }
    Pieces(pieces.into_iter()).boxed_unsync()
}

fn reply(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn route(state: &mut State, seen: &Seen, headers: &hyper::HeaderMap, body: &Bytes) -> Response<Full<Bytes>> {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    match seen.host.as_str() {
        LOGIN => {
            let form = String::from_utf8_lossy(body).into_owned();
            let proof = form.split('&').find_map(|f| f.strip_prefix("client_assertion=")).unwrap_or_default();
            let proof = percent_decode_str(proof).decode_utf8().unwrap();
            match RunAssertion::decode(&proof) {
                Ok(proof) if proof.proves(KEY) && proof.ticket == ticket() && seen.target == "/t/oauth2/v2.0/token" => {
                    let granted = json!({"token_type": "Bearer", "expires_in": 3600, "access_token": TOKEN});
                    reply(200, granted.to_string())
                }
                _ => reply(401, json!({"error": "invalid_client", "error_description": "AADSTS: no"}).to_string()),
            }
        }
        LEARNING if header("authorization").as_deref() != Some(&format!("Bearer {TOKEN}")) => reply(401, ""),
        LEARNING if seen.method == Method::GET && seen.target.ends_with("/runs/happy%20drain/attempts/1") => {
            match &state.spec {
                Some(spec) => reply(200, serde_json::to_vec(spec).unwrap()),
                None => reply(404, json!({"error": {"code": "NotFound", "message": "no such run"}}).to_string()),
            }
        }
        LEARNING if seen.target.ends_with("/attempts/1/events") => {
            state.events.push(serde_json::from_slice(body).unwrap());
            match state.order.take() {
                Some(order) => reply(200, json!({ "order": order }).to_string()),
                None => reply(204, ""),
            }
        }
        REGISTRY => registry(seen, header("authorization").as_deref()),
        BATCH if seen.target == "/nodes/n/work" => {
            let asked: WorkAsk = serde_json::from_slice(body).unwrap();
            assert!(asked.open(KEY, "n").is_ok());
            state.asked.push(asked.clone());
            let order = if state.work.is_empty() { None } else { Some(state.work.remove(0)) };
            let key: &[u8] = if state.forge { b"another" } else { KEY };
            let answer = WorkAnswer::new(key, "n", &asked, order.as_ref()).unwrap();
            reply(200, serde_json::to_vec(&answer).unwrap())
        }
        STORAGE if seen.target.contains(SAS) => storage(state, seen, &header, body),
        STORAGE => reply(403, ""),
        _ => reply(404, ""),
    }
}

fn registry(seen: &Seen, authorization: Option<&str>) -> Response<Full<Bytes>> {
    if seen.target.starts_with("/oauth2/token?scope=") {
        return reply(200, json!({"access_token": "anonymous"}).to_string());
    }
    let mut response = match (seen.target.as_str(), authorization) {
        ("/v2/azureml/base/manifests/latest", _) => reply(200, "{}"),
        ("/v2/closed/base/manifests/latest", Some("Bearer anonymous")) => reply(200, "{}"),
        ("/v2/closed/base/manifests/latest", _) => reply(401, ""),
        _ => reply(404, json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}).to_string()),
    };
    let challenge = format!("Bearer realm=\"https://{REGISTRY}/oauth2/token\",service=\"{REGISTRY}\"");
    response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
    response.headers_mut().insert("docker-content-digest", "sha256:abc".parse().unwrap());
    response
}

fn storage(
    state: &mut State,
    seen: &Seen,
    header: &dyn Fn(&str) -> Option<String>,
    body: &Bytes,
) -> Response<Full<Bytes>> {
    let (path, query) = seen.target.split_once('?').unwrap();
    let name = percent_decode_str(&path[1..]).decode_utf8().unwrap().into_owned();
    let value = |key: &str| {
        let found = query.split('&').find_map(|p| p.strip_prefix(key)?.strip_prefix('='));
        percent_decode_str(found.unwrap_or_default()).decode_utf8().unwrap().into_owned()
    };
    let refused = |status: u16, code: &str| {
        let mut response = reply(status, format!("<Error><Code>{code}</Code></Error>"));
        response.headers_mut().insert("x-ms-error-code", code.parse().unwrap());
        response
    };
    match (seen.method.as_str(), value("comp").as_str()) {
        ("GET", "list") => {
            // Pages of two, so that every listing has several.
            let start = format!("{name}/{}", value("prefix"));
            let all: Vec<_> = state.blobs.keys().filter(|k| k.starts_with(&start)).cloned().collect();
            let from = value("marker").parse().unwrap_or(0);
            let page: String = all
                .iter()
                .skip(from)
                .take(2)
                .map(|k| format!("<Blob><Name>{}</Name></Blob>", k.split_once('/').unwrap().1.replace('&', "&amp;")))
                .collect();
            let next = if from + 2 < all.len() { (from + 2).to_string() } else { String::new() };
            let text = format!(
                "<EnumerationResults><Blobs>{page}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"
            );
            reply(200, text)
        }
        ("GET" | "HEAD", _) => {
            let Some(blob) = state.blobs.get(&name) else { return refused(404, "BlobNotFound") };
            let from = header("x-ms-range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
            let bytes = blob[from.unwrap_or(0)..].to_vec();
            let mut response = reply(if from.is_some() { 206 } else { 200 }, bytes);
            response.headers_mut().insert("etag", "\"1\"".parse().unwrap());
            if let Some(blocks) = state.appended.get(&name) {
                response.headers_mut().insert("x-ms-blob-committed-block-count", (*blocks).into());
            }
            response
        }
        ("PUT", "appendblock") => {
            let blob = state.blobs.entry(name.clone()).or_default();
            if header("x-ms-blob-condition-appendpos") != Some(blob.len().to_string()) {
                return refused(412, "AppendPositionConditionNotMet");
            }
            blob.extend_from_slice(body);
            *state.appended.entry(name).or_default() += 1;
            reply(201, "")
        }
        ("PUT", "block") => {
            state.blocks.insert((name, value("blockid")), body.to_vec());
            reply(201, "")
        }
        ("PUT", "blocklist") => {
            let text = String::from_utf8_lossy(body).into_owned();
            let ids = text.split("<Latest>").skip(1).map(|t| t.split_once('<').unwrap().0.to_owned());
            let whole: Vec<u8> = ids.flat_map(|id| state.blocks.remove(&(name.clone(), id)).unwrap()).collect();
            state.blobs.insert(name, whole);
            reply(201, "")
        }
        ("PUT", _) if header("if-none-match").is_some() && state.blobs.contains_key(&name) => {
            refused(409, "BlobAlreadyExists")
        }
        ("PUT", _) => {
            state.blobs.insert(name, body.to_vec());
            reply(201, "")
        }
        _ => reply(405, ""),
    }
}

/// Runs programs as they are, in a process group of their own. Where the program's text names a folder of the inside,
/// the folder of the agent's is put in its place.
#[derive(Debug)]
struct Plain;

struct Group {
    pid: i32,
    alive: OwnedFd,
    exit: Arc<Mutex<Option<i32>>>,
}

impl Sandbox for Plain {
    fn start(&self, launch: Launch) -> Result<Box<dyn Program>, StartError> {
        let mut mounts = launch.mounts.clone();
        mounts.sort_by_key(|m| std::cmp::Reverse(m.to.as_os_str().len()));
        let outside = |text: &str| {
            mounts
                .iter()
                .fold(text.to_owned(), |text, m| text.replace(m.to.to_str().unwrap(), m.from.to_str().unwrap()))
        };
        let output = File::from(launch.output);
        let mut command = Command::new(&launch.program[0]);
        command
            .args(launch.program[1..].iter().map(|a| outside(a)))
            .env_clear()
            .envs(launch.variables.iter().map(|(name, value)| (name, outside(value))))
            .current_dir(outside(launch.folder.to_str().unwrap()))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0);
        let mut child = command.spawn().map_err(|e| StartError::Program(format!("`{}`: {e}", launch.program[0])))?;
        drop(command);
        let (alive, held) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let (pid, exit) = (child.id().cast_signed(), Arc::new(Mutex::new(None)));
        let told = exit.clone();
        std::thread::spawn(move || {
            use std::os::unix::process::ExitStatusExt as _;
            let status = child.wait().unwrap();
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            *told.lock().unwrap() = Some(code);
            drop(held);
        });
        Ok(Box::new(Group { pid, alive, exit }))
    }
}

impl Group {
    fn signal(&self, signal: nix::sys::signal::Signal) {
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(self.pid), signal);
    }
}

impl Program for Group {
    fn limits(&self) -> String {
        "none".to_owned()
    }

    fn alive(&self) -> BorrowedFd<'_> {
        self.alive.as_fd()
    }

    fn ended(&mut self) -> std::io::Result<Exit> {
        Ok(Exit { code: self.exit.lock().unwrap().unwrap(), limit: None })
    }

    fn terminate(&self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
    }

    fn kill(&self) {
        self.signal(nix::sys::signal::Signal::SIGKILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.exit.lock().unwrap().is_none() {
            self.kill();
        }
    }
}
