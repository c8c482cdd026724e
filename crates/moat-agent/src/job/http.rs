//! HTTP/1.1 over TLS from inside the node's namespace: connections of our own, so that a packet that is dropped has a
//! source port that we know.
//!
//! Names are asked of the resolvers the node was told, services prove themselves by the environment's authority,
//! connections are kept and used again, every wait and size has a bound. Redirects are never followed: a signature
//! belongs to the host it was made for. Errors name hosts, never paths: queries hold signatures.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::patience::Patience;
use crate::connect::{self, CONNECT_WAIT_MAX, TALK_WAIT_MAX};
use crate::handshake::{Finding, Reach};

/// Largest head of an answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most headers in an answer.
const HEADERS_MAX: usize = 64;
/// Connections kept for each host.
const IDLE_MAX: usize = 8;
/// How much of an error's text is read.
const ERROR_BYTES_MAX: usize = 16 * 1024;
/// How much of a service's message is shown.
const ERROR_CHARS_MAX: usize = 600;

/// Where a host is. Blocking.
pub(crate) type Locate = dyn Fn(&str) -> io::Result<SocketAddrV4> + Send + Sync;

/// One request. All that the agent sends may be sent twice without harm.
#[derive(Clone)]
pub(crate) struct Ask {
    /// The service tag that has to be open for it, for findings.
    pub label: String,
    pub method: Method,
    pub host: String,
    /// Path and query, percent-encoded. May hold a signature: never in a text.
    pub target: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl Ask {
    pub(crate) fn new(label: &str, method: Method, host: &str, target: impl Into<String>) -> Self {
        Self {
            label: label.to_owned(),
            method,
            host: host.to_owned(),
            target: target.into(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// With a header; one whose value no header may have is left out.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(name == "authorization");
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, kind: &'static str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("content-type", kind)
    }
}

/// Why there is no answer, or not the one that was needed.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// No connection stood, or it broke before the answer was whole.
    Unreachable(Finding),
    /// The service answered something else.
    Refused {
        host: String,
        status: StatusCode,
        /// The service's own code, `BlobNotFound`; may be empty.
        code: String,
        message: String,
    },
    /// What came is not what this service says.
    Garbled { host: String, what: String },
}

impl Trouble {
    pub(crate) fn garbled(host: &str, what: impl ToString) -> Self {
        Self::Garbled { host: host.to_owned(), what: what.to_string() }
    }

    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// It may pass by waiting.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused { status, .. } => passes(*status),
            Self::Garbled { .. } => false,
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(finding) => {
                let why = match &finding.reach {
                    Reach::Failed(why) => why.as_str(),
                    _ => "no answer",
                };
                write!(f, "{} was not reached: {why}", finding.label)
            }
            Self::Refused { host, status, code, message } => {
                write!(f, "`{host}` answered {}", status.as_u16())?;
                if !code.is_empty() {
                    write!(f, " {code}")?;
                }
                if !message.is_empty() {
                    write!(f, ": {message}")?;
                }
                Ok(())
            }
            Self::Garbled { host, what } => write!(f, "`{host}` answered what cannot be read: {what}"),
        }
    }
}

fn passes(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || (status.is_server_error()
            && status != StatusCode::NOT_IMPLEMENTED
            && status != StatusCode::HTTP_VERSION_NOT_SUPPORTED)
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Ready to become a failure: label, address and ports.
    finding: Finding,
}

/// Shared by all requests of one run, or of one conversation of the agent.
#[derive(Clone)]
pub(crate) struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    locate: Arc<Locate>,
    tls: TlsConnector,
    idle: Mutex<BTreeMap<String, Vec<Connection>>>,
    patience: Patience,
}

impl Client {
    pub(crate) fn new(locate: Box<Locate>, tls: Arc<rustls::ClientConfig>, patience: Patience) -> Self {
        let inner = Inner { locate: locate.into(), tls: TlsConnector::from(tls), idle: Mutex::default(), patience };
        Self { inner: Arc::new(inner) }
    }

    /// The same without the connections that it has kept. Firewalls let pass what stands: by connections of an earlier
    /// run, a run would get past a rule that was made since.
    pub(crate) fn fresh(&self) -> Self {
        let Inner { locate, tls, patience, idle: _ } = &*self.inner;
        let (locate, tls, patience) = (locate.clone(), tls.clone(), patience.clone());
        Self { inner: Arc::new(Inner { locate, tls, idle: Mutex::default(), patience }) }
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.inner.patience
    }

    /// The answer, whatever its status; faults that pass by waiting are tried again, for a while.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Answer, Trouble> {
        let patience = &self.inner.patience;
        let mut pause = patience.pause_first;
        let (mut unreached, mut tries) = (0, 0);
        loop {
            tries += 1;
            let wanted = match self.once(ask).await {
                Ok(answer) if !passes(answer.status) || tries >= patience.answer_tries => return Ok(answer),
                Ok(answer) => answer.retry_after(),
                Err(NotAnswered { trouble, connected }) => {
                    unreached += u32::from(!connected);
                    if unreached >= patience.connect_tries || tries >= patience.answer_tries {
                        return Err(trouble);
                    }
                    None
                }
            };
            sleep(wanted.unwrap_or(pause).min(patience.pause_max)).await;
            pause = (pause * 2).min(patience.pause_max);
        }
    }

    /// [`Client::send`], where any status but a success is a failure.
    pub(crate) async fn expect(&self, ask: &Ask) -> Result<Answer, Trouble> {
        let answer = self.send(ask).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(answer.into_refusal().await) }
    }

    async fn once(&self, ask: &Ask) -> Result<Answer, NotAnswered> {
        // A kept connection may have been closed by the service just now: that says nothing about the service.
        if let Some(connection) = self.take(&ask.host) {
            if let Ok(answer) = self.over(connection, ask).await {
                return Ok(answer);
            }
            self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner).remove(&ask.host);
        }
        let connection =
            self.connect(ask).await.map_err(|f| NotAnswered { trouble: Trouble::Unreachable(f), connected: false })?;
        self.over(connection, ask).await.map_err(|trouble| NotAnswered { trouble, connected: true })
    }

    fn take(&self, host: &str) -> Option<Connection> {
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(host)?;
        kept.retain(|c| !c.sender.is_closed());
        kept.pop()
    }

    fn keep(&self, host: String, connection: Connection) {
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(host).or_default();
        if kept.len() < IDLE_MAX && !connection.sender.is_closed() {
            kept.push(connection);
        }
    }

    async fn over(&self, mut connection: Connection, ask: &Ask) -> Result<Answer, Trouble> {
        let mut request = Request::builder().method(&ask.method).uri(&ask.target).header(HOST, &ask.host);
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        // hyper says no length for an empty body, and storage asks for one on every write.
        if ask.body.is_empty() && ask.method != Method::GET && ask.method != Method::HEAD {
            request = request.header(CONTENT_LENGTH, 0);
        }
        let request =
            request.body(Full::new(ask.body.clone())).map_err(|e| Trouble::garbled(&ask.host, e.to_string()))?;
        connection.finding.label.clone_from(&ask.label);
        let broken = |finding: &Finding, why: &str| {
            Trouble::Unreachable(Finding { reach: Reach::Failed(why.to_owned()), ..finding.clone() })
        };
        let answered = timeout(self.inner.patience.head, async {
            connection.sender.ready().await?;
            connection.sender.send_request(request).await
        });
        match answered.await {
            Ok(Ok(response)) => {
                let (head, body) = response.into_parts();
                Ok(Answer {
                    status: head.status,
                    headers: head.headers,
                    body,
                    host: ask.host.clone(),
                    connection: Some(connection),
                    client: self.clone(),
                })
            }
            Ok(Err(e)) => Err(broken(&connection.finding, &format!("the connection broke: {}", root(&e)))),
            Err(_) => Err(broken(&connection.finding, "the connection stands, but no answer came")),
        }
    }

    async fn connect(&self, ask: &Ask) -> Result<Connection, Finding> {
        let mut finding =
            Finding { label: ask.label.clone(), address: None, port: 443, source_port: None, reach: Reach::Untried };
        match self.dial(&ask.host, &mut finding).await {
            Ok(sender) => Ok(Connection { sender, finding }),
            Err(e) => Err(Finding { reach: Reach::Failed(e.to_string()), ..finding }),
        }
    }

    async fn dial(&self, host: &str, finding: &mut Finding) -> io::Result<SendRequest<Full<Bytes>>> {
        let (inner, name) = (self.inner.clone(), host.to_owned());
        let found = tokio::task::spawn_blocking(move || (inner.locate)(&name)).await;
        let address = found.map_err(io::Error::other)??;
        finding.address = Some(address.ip().to_string());
        finding.port = address.port();
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        finding.source_port = Some(connect::begin(&socket, address)?);
        let stream = TcpStream::from_std(socket.into())?;
        let late = |what: &'static str| move |_| io::Error::new(io::ErrorKind::TimedOut, what);
        timeout(CONNECT_WAIT_MAX, stream.writable()).await.map_err(late("no answer"))??;
        if let Some(e) = stream.take_error()? {
            return Err(e);
        }
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let stream = timeout(TALK_WAIT_MAX, self.inner.tls.connect(name, stream))
            .await
            .map_err(late("TCP stands, but TLS was not answered"))??;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // Ends with its sender; what broke it is told to whoever waits for the answer.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}

struct NotAnswered {
    trouble: Trouble,
    connected: bool,
}

/// The cause at the bottom: hyper's own words say only where it noticed.
fn root(error: &hyper::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// An answer whose body has not been read.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    host: String,
    body: Incoming,
    connection: Option<Connection>,
    client: Client,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).field("host", &self.host).finish_non_exhaustive()
    }
}

impl Answer {
    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn retry_after(&self) -> Option<Duration> {
        self.header(RETRY_AFTER.as_str())?.parse().ok().map(Duration::from_secs)
    }

    /// The next piece of the body; `None` at its end, after which the connection is used again.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Trouble> {
        let Some(connection) = &self.connection else { return Ok(None) };
        let finding = &connection.finding;
        let broken = |why: String| Trouble::Unreachable(Finding { reach: Reach::Failed(why), ..finding.clone() });
        loop {
            match timeout(self.client.inner.patience.piece, self.body.frame()).await {
                Err(_) => return Err(broken("the answer stopped in the middle".to_owned())),
                Ok(Some(Err(e))) => return Err(broken(format!("the answer broke off: {}", root(&e)))),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(None) => {
                    if let Some(connection) = self.connection.take() {
                        self.client.keep(std::mem::take(&mut self.host), connection);
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// All of the body, if it is at most `max` bytes.
    pub(crate) async fn bytes(mut self, max: usize) -> Result<Vec<u8>, Trouble> {
        let host = self.host.clone();
        let mut all = Vec::new();
        while let Some(piece) = self.piece().await? {
            if all.len() + piece.len() > max {
                return Err(Trouble::garbled(&host, format!("the answer is larger than {max} bytes")));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// The body as JSON.
    pub(crate) async fn json<T: serde::de::DeserializeOwned>(self, max: usize) -> Result<T, Trouble> {
        let host = self.host.clone();
        let bytes = self.bytes(max).await?;
        // Where it went wrong, not what stood there: it may be a secret.
        serde_json::from_slice(&bytes).map_err(|e| {
            Trouble::garbled(&host, format!("not the JSON expected, at line {} column {}", e.line(), e.column()))
        })
    }

    /// Reads the body away, so that the connection can be used again.
    pub(crate) async fn done(self) -> Result<(), Trouble> {
        self.bytes(ERROR_BYTES_MAX).await.map(drop)
    }

    /// What an answer that is no success says.
    pub(crate) async fn into_refusal(self) -> Trouble {
        let (host, status) = (self.host.clone(), self.status);
        let mut code = self.header("x-ms-error-code").unwrap_or_default().to_owned();
        let mut message = String::new();
        let text = self.bytes(ERROR_BYTES_MAX).await.unwrap_or_default();
        if let Ok(body) = serde_json::from_slice::<serde_json::Value>(&text) {
            let text = |pointer: &str| body.pointer(pointer).and_then(|v| v.as_str()).map(str::to_owned);
            // ARM and the data planes; Azure AD; registries.
            let said = text("/error/code").or_else(|| text("/error")).or_else(|| text("/errors/0/code"));
            let why =
                text("/error/message").or_else(|| text("/error_description")).or_else(|| text("/errors/0/message"));
            code = said.unwrap_or(code);
            message = why.unwrap_or_default();
        }
        let short = |text: String| text.chars().take(ERROR_CHARS_MAX).collect();
        Trouble::Refused { host, status, code: short(code), message: short(message) }
    }
}
