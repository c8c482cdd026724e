//! Asking the index: HTTP/1.1 over TLS with this machine's roots, and nothing else of this machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, LOCATION, USER_AGENT};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::index::{Index, is_private, may_reach};

/// Time for name, connection and handshake.
const CONNECT_SECONDS_MAX: Duration = Duration::from_secs(20);
/// Time for the head of an answer.
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(30);
/// Time for the body of a page.
const PAGE_SECONDS_MAX: Duration = Duration::from_secs(60);
/// Redirects followed, each to the same host.
const REDIRECTS_MAX: usize = 3;
/// Connections kept open to one host.
const KEPT_MAX: usize = 4;

/// Why the index gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No address.
    #[error("the name `{host}` has no address")]
    Name {
        /// Of the URL.
        host: String,
    },
    /// An address that pages of this index may not name.
    #[error("`{host}` has the address {address}, which files of this index may not come from")]
    Address {
        /// Of the URL.
        host: String,
        /// Of the host.
        address: IpAddr,
    },
    /// TCP or TLS.
    #[error("`{host}` could not be reached: {why}")]
    Connect {
        /// Of the URL.
        host: String,
        /// From the system.
        why: String,
    },
    /// HTTP.
    #[error("`{host}` broke the conversation off: {why}")]
    Broken {
        /// Of the URL.
        host: String,
        /// From the library.
        why: String,
    },
    /// Elsewhere.
    #[error("`{host}` redirects to another host")]
    Redirect {
        /// Of the URL.
        host: String,
    },
    /// An error of theirs.
    #[error("`{host}` answered {status}")]
    Status {
        /// Of the URL.
        host: String,
        /// HTTP.
        status: u16,
    },
    /// Too slow.
    #[error("`{host}` took more than {seconds} seconds")]
    Slow {
        /// Of the URL.
        host: String,
        /// The limit.
        seconds: u64,
    },
    /// Too long.
    #[error("`{host}` sent more than {limit} bytes")]
    Large {
        /// Of the URL.
        host: String,
        /// The limit.
        limit: usize,
    },
    /// No roots, or none that can be read.
    #[error("this machine has no certificates to trust (`/etc/ssl/certs`; package `ca-certificates`)")]
    NoRoots,
}

/// The index, asked.
pub(crate) struct Upstream {
    pub(crate) index: Index,
    tls: TlsConnector,
    kept: Mutex<BTreeMap<String, Vec<SendRequest<Empty<Bytes>>>>>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("index", &self.index).finish_non_exhaustive()
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Upstream {
    /// Reads the machine's roots.
    pub(crate) fn new(index: Index) -> Result<Self, UpstreamError> {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() && !index.is_loopback() {
            return Err(UpstreamError::NoRoots);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| UpstreamError::NoRoots)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { index, tls: TlsConnector::from(Arc::new(config)), kept: Mutex::default() })
    }

    /// The answer to a GET, with a status of success.
    pub(crate) async fn get(&self, url: &Url, accept: &'static str) -> Result<http::Response<Incoming>, UpstreamError> {
        let mut url = url.clone();
        let host = || url.host_str().unwrap_or_default().to_owned();
        let first = host();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.ask(&url, accept).await?;
            let status = answer.status();
            if status.is_success() {
                return Ok(answer);
            }
            if !status.is_redirection() {
                return Err(UpstreamError::Status { host: first, status: status.as_u16() });
            }
            let next = answer.headers().get(LOCATION).and_then(|l| url.join(l.to_str().ok()?).ok());
            match next {
                Some(next) if next.host() == url.host() && self.index.may_ask(&next) => url = next,
                _ => return Err(UpstreamError::Redirect { host: first }),
            }
        }
        Err(UpstreamError::Redirect { host: first })
    }

    /// The body of a GET, if it is not too long.
    pub(crate) async fn text(&self, url: &Url, accept: &'static str, limit: usize) -> Result<Bytes, UpstreamError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let body = Limited::new(self.get(url, accept).await?.into_body(), limit);
        match tokio::time::timeout(PAGE_SECONDS_MAX, body.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => Err(UpstreamError::Large { host, limit }),
            Ok(Err(e)) => Err(UpstreamError::Broken { host, why: e.to_string() }),
            Err(_) => Err(UpstreamError::Slow { host, seconds: PAGE_SECONDS_MAX.as_secs() }),
        }
    }

    async fn ask(&self, url: &Url, accept: &'static str) -> Result<http::Response<Incoming>, UpstreamError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let key = url.origin().ascii_serialization();
        let broken = |why: String| UpstreamError::Broken { host: host.clone(), why };
        let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let request = || {
            http::Request::get(target)
                .header(HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
                .header(ACCEPT, accept)
                .header(USER_AGENT, concat!("moat/", env!("CARGO_PKG_VERSION")))
                .body(Empty::new())
                .map_err(|e| broken(e.to_string()))
        };
        let send = async |sender: &mut SendRequest<Empty<Bytes>>| {
            let answer = tokio::time::timeout(ANSWER_SECONDS_MAX, sender.send_request(request()?));
            match answer.await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(e)) => Err(broken(e.to_string())),
                Err(_) => Err(UpstreamError::Slow { host: host.clone(), seconds: ANSWER_SECONDS_MAX.as_secs() }),
            }
        };
        if let Some(mut sender) = self.take(&key)
            && let Ok(answer) = send(&mut sender).await
        {
            self.keep(key, sender);
            return Ok(answer);
        }
        // None kept, or it had been closed meanwhile.
        let opening = tokio::time::timeout(CONNECT_SECONDS_MAX, self.open(url)).await;
        let mut sender = opening.unwrap_or_else(|_| {
            Err(UpstreamError::Slow { host: host.clone(), seconds: CONNECT_SECONDS_MAX.as_secs() })
        })?;
        let answer = send(&mut sender).await?;
        self.keep(key, sender);
        Ok(answer)
    }

    /// A kept connection whose last answer has been read.
    fn take(&self, key: &str) -> Option<SendRequest<Empty<Bytes>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = kept.get_mut(key)?;
        senders.retain(|s| !s.is_closed());
        let at = senders.iter().position(SendRequest::is_ready)?;
        Some(senders.swap_remove(at))
    }

    fn keep(&self, key: String, sender: SendRequest<Empty<Bytes>>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = kept.entry(key).or_default();
        if senders.len() < KEPT_MAX {
            senders.push(sender);
        }
    }

    async fn open(&self, url: &Url) -> Result<SendRequest<Empty<Bytes>>, UpstreamError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let connect = |why: String| UpstreamError::Connect { host: host.clone(), why };
        let mut last = UpstreamError::Name { host: host.clone() };
        for address in self.addresses(url).await? {
            let stream = match TcpStream::connect(address).await {
                Ok(stream) => stream,
                Err(e) => {
                    last = connect(e.to_string());
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let stream: Box<dyn Stream> = if url.scheme() == "https" {
                let name = match url.host() {
                    Some(Host::Domain(name)) => {
                        ServerName::try_from(name.to_owned()).map_err(|e| connect(e.to_string()))?
                    }
                    _ => ServerName::from(address.ip()),
                };
                Box::new(self.tls.connect(name, stream).await.map_err(|e| connect(e.to_string()))?)
            } else {
                Box::new(stream)
            };
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|e| connect(e.to_string()))?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to the package index ended early");
                }
            });
            return Ok(sender);
        }
        Err(last)
    }

    /// Where a URL leads, if all of its addresses may be asked.
    async fn addresses(&self, url: &Url) -> Result<Vec<SocketAddr>, UpstreamError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let found = self.look_up(url).await.ok_or_else(|| UpstreamError::Name { host: host.clone() })?;
        let own = self.index.is_own(url);
        let private = !own && self.index_is_private().await;
        match found.iter().find(|a| !may_reach(a.ip(), own, private)) {
            Some(bad) => Err(UpstreamError::Address { host, address: bad.ip() }),
            None => Ok(found),
        }
    }

    async fn index_is_private(&self) -> bool {
        let Some(page) = self.index.page("pip") else { return false };
        self.look_up(&page).await.is_some_and(|found| found.iter().all(|a| is_private(a.ip())))
    }

    async fn look_up(&self, url: &Url) -> Option<Vec<SocketAddr>> {
        let port = url.port_or_known_default()?;
        let found: Vec<SocketAddr> = match url.host()? {
            Host::Ipv4(a) => vec![(a, port).into()],
            Host::Ipv6(a) => vec![(a, port).into()],
            Host::Domain(name) => tokio::net::lookup_host((name, port)).await.ok()?.collect(),
        };
        (!found.is_empty()).then_some(found)
    }
}
