//! What a build may ask: pages of projects, wheels that those pages named, and pip itself.
//!
//! One proxy a build: its page cache is what decides which files exist, and its counters bound the build.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use moat_model::environment::requirement::{normalise, well_formed};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::index::Index;
use super::page::{CONTENT_TYPE, FILE_BYTES_MAX, PAGE_BYTES_MAX, Page, Wheel};
use super::upstream::{Upstream, UpstreamError};

/// pip that builds environments: the newest that still runs on Python 3.8.
pub const PIP_VERSION: &str = "25.0.1";
/// Connections of a build at a time; pip uses one.
const CONNECTIONS_MAX: usize = 16;
/// Requests of one build.
const REQUESTS_MAX: u64 = 10_000;
/// Bytes of wheels for one build.
pub const DOWNLOAD_BYTES_MAX: u64 = 3 << 30;
/// Metadata of one wheel.
const METADATA_BYTES_MAX: usize = 4 << 20;
/// Projects in one build.
const PAGES_MAX: usize = 1_000;
/// Time for a request's head; also how long an idle connection is kept.
const HEAD_SECONDS_MAX: Duration = Duration::from_secs(60);
/// Failures kept for the log of the build.
const TROUBLES_MAX: usize = 20;

type Answer = Response<BoxBody<Bytes, BodyError>>;

/// Why a body ends early: the build sees a broken connection.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The index.
    #[error("the package index broke the conversation off")]
    Upstream(#[source] hyper::Error),
    /// Not what the page promised.
    #[error("the file is not the one that the index's page names")]
    Hash,
    /// Too much.
    #[error("the build has downloaded more than it may")]
    TooMuch,
}

/// The proxy of one build.
#[derive(Debug)]
pub struct Proxy {
    upstream: Upstream,
    pages: Mutex<BTreeMap<String, Arc<Page>>>,
    requests: AtomicU64,
    downloaded: Arc<AtomicU64>,
    troubles: Mutex<Vec<String>>,
}

/// Why a request of a build gets nothing.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is nothing of that name here; a build may ask for `/simple/NAME/` and the wheels named there")]
    NoSuch,
    #[error("only GET is answered")]
    Method,
    #[error("the build has asked or downloaded more than it may")]
    TooMuch,
    #[error("the package index says of `{name}` what is no page of a simple index in JSON (PEP 691)")]
    Page { name: String },
    #[error("the package index has no wheel of pip {PIP_VERSION}, which builds environments")]
    NoPip,
    #[error("the file is not the one that the index's page names")]
    Hash,
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoSuch | Self::NoPip | Self::Upstream(UpstreamError::Status { status: 404 | 410, .. }) => {
                StatusCode::NOT_FOUND
            }
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            // Never 5xx or 429: pip would try again, and nothing would be different.
            _ => StatusCode::FORBIDDEN,
        }
    }

    /// Whether the person whose build it is should read it: a name that the index does not have, pip tells itself.
    fn is_trouble(&self) -> bool {
        self.status() != StatusCode::NOT_FOUND || matches!(self, Self::NoPip)
    }
}

impl Proxy {
    /// For one build.
    pub fn new(index: Index) -> Result<Self, UpstreamError> {
        Ok(Self {
            upstream: Upstream::new(index)?,
            pages: Mutex::default(),
            requests: AtomicU64::new(0),
            downloaded: Arc::default(),
            troubles: Mutex::default(),
        })
    }

    /// What went wrong between proxy and index, for the log of the build.
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves until the task is dropped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            while connections.try_join_next().is_some() {}
            let proxy = self.clone();
            connections.spawn(async move {
                let serve = service_fn(|request| {
                    let proxy = proxy.clone();
                    async move { Ok::<_, Infallible>(proxy.answer(&request).await) }
                });
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_SECONDS_MAX)
                    .serve_connection(TokioIo::new(stream), serve)
                    .await;
                drop(place);
            });
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        match self.respond(request.method(), request.uri().path()).await {
            Ok(answer) => answer,
            Err(refusal) => {
                if refusal.is_trouble() {
                    let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
                    let text = refusal.to_string();
                    if troubles.len() < TROUBLES_MAX && !troubles.contains(&text) {
                        troubles.push(text);
                    }
                }
                let mut answer = whole("text/plain; charset=utf-8", refusal.to_string().into());
                *answer.status_mut() = refusal.status();
                answer
            }
        }
    }

    async fn respond(&self, method: &Method, path: &str) -> Result<Answer, Refusal> {
        if method != Method::GET {
            return Err(Refusal::Method);
        }
        if self.requests.fetch_add(1, Ordering::Relaxed) >= REQUESTS_MAX {
            return Err(Refusal::TooMuch);
        }
        // Segments as they stand: an encoded slash or dot is in no name that exists.
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match segments.as_slice() {
            ["simple", name] | ["simple", name, ""] => {
                let page = self.page(name).await?;
                Ok(whole(CONTENT_TYPE, page.write(&normalise(name)).to_string().into()))
            }
            ["pip.whl"] => {
                let page = self.page("pip").await?;
                let wheel = page.wheels.get(&format!("pip-{PIP_VERSION}-py3-none-any.whl")).ok_or(Refusal::NoPip)?;
                self.file(wheel).await
            }
            ["files", name, file] => {
                let page = self.page(name).await?;
                if let Some(wheel) = page.wheels.get(*file) {
                    return self.file(wheel).await;
                }
                let wheel = file.strip_suffix(".metadata").and_then(|f| page.wheels.get(f)).ok_or(Refusal::NoSuch)?;
                self.metadata(wheel).await
            }
            _ => Err(Refusal::NoSuch),
        }
    }

    async fn page(&self, name: &str) -> Result<Arc<Page>, Refusal> {
        if !well_formed(name) {
            return Err(Refusal::NoSuch);
        }
        let name = normalise(name);
        if let Some(page) = self.pages.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Ok(page.clone());
        }
        let index = &self.upstream.index;
        let url = index.page(&name).ok_or(Refusal::NoSuch)?;
        let body = self.upstream.text(&url, CONTENT_TYPE, PAGE_BYTES_MAX).await?;
        let page = Page::read(index, &name, &url, &body).map_err(|_| Refusal::Page { name: name.clone() })?;
        let page = Arc::new(page);
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.len() >= PAGES_MAX {
            return Err(Refusal::TooMuch);
        }
        pages.insert(name, page.clone());
        Ok(page)
    }

    async fn file(&self, wheel: &Wheel) -> Result<Answer, Refusal> {
        if self.downloaded.load(Ordering::Relaxed) >= DOWNLOAD_BYTES_MAX {
            return Err(Refusal::TooMuch);
        }
        let (head, body) = self.upstream.get(&wheel.url, "*/*").await?.into_parts();
        let length = head.headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|l| l > FILE_BYTES_MAX) {
            return Err(Refusal::TooMuch);
        }
        let checked = Checked {
            body,
            hash: Some(digest::Context::new(&digest::SHA256)),
            expected: wheel.sha256.clone(),
            left: FILE_BYTES_MAX,
            downloaded: self.downloaded.clone(),
        };
        let mut answer = Response::new(checked.boxed());
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
        Ok(answer)
    }

    async fn metadata(&self, wheel: &Wheel) -> Result<Answer, Refusal> {
        let expected = wheel.metadata_sha256.as_deref().ok_or(Refusal::NoSuch)?;
        let mut url = wheel.url.clone();
        url.set_path(&format!("{}.metadata", wheel.url.path()));
        let body = self.upstream.text(&url, "*/*", METADATA_BYTES_MAX).await?;
        if hex(digest::digest(&digest::SHA256, &body).as_ref()) != expected {
            return Err(Refusal::Hash);
        }
        Ok(whole("application/octet-stream", body))
    }
}

fn whole(content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A wheel on its way: counted, and ended in an error where it is not what the page promised.
struct Checked {
    body: Incoming,
    hash: Option<digest::Context>,
    expected: String,
    left: u64,
    downloaded: Arc<AtomicU64>,
}

impl Body for Checked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let Some(hash) = &mut this.hash else { return Poll::Ready(None) };
            let frame = match std::task::ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                None => {
                    let found = this.hash.take().map(|h| hex(h.finish().as_ref()));
                    let right = found.is_some_and(|f| f == this.expected);
                    return Poll::Ready(if right { None } else { Some(Err(BodyError::Hash)) });
                }
                Some(Err(e)) => {
                    this.hash = None;
                    return Poll::Ready(Some(Err(BodyError::Upstream(e))));
                }
                Some(Ok(frame)) => frame,
            };
            // Trailers are of no use to anybody here.
            let Ok(data) = frame.into_data() else { continue };
            hash.update(&data);
            let length = data.len() as u64;
            let all = this.downloaded.fetch_add(length, Ordering::Relaxed) + length;
            this.left = this.left.saturating_sub(length);
            if this.left == 0 || all > DOWNLOAD_BYTES_MAX {
                this.hash = None;
                return Poll::Ready(Some(Err(BodyError::TooMuch)));
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn size_hint(&self) -> SizeHint {
        // Unknown on purpose: the last chunk of a chunked body comes after the hash was looked at, so that a wrong
        // file is never complete.
        SizeHint::default()
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
