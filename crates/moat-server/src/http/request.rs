//! One HTTP request, read whole and decoded once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, request::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use moat_arm::ApiError;
use moat_control::{Method, Origin};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Longest body; ARM's own limit is 4 MiB.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What of a body is read for anybody. More is read for few at a time, since callers are not known before their
/// request is whole: a thousand connections of strangers must not fill the memory.
const BODY_BYTES_FREE: usize = 64 * 1024;

/// Bodies longer than [`BODY_BYTES_FREE`] held at a time.
const LONG_BODIES_MAX: usize = 16;

/// Places for long bodies. One for the process, since its memory is one, however many listeners it has.
static LONG_BODIES: Semaphore = Semaphore::const_new(LONG_BODIES_MAX);

/// How much of a body that is too long is still read before the connection is cut.
const BODY_DISCARD_BYTES_MAX: usize = 16 * BODY_BYTES_MAX;

/// Time a client has for sending its body.
pub const BODY_READ_SECONDS_MAX: Duration = Duration::from_secs(30);

/// A request whose body is still on its way.
#[derive(Debug)]
pub(crate) struct Arriving {
    /// Method, target and headers.
    pub(crate) parts: Parts,
    /// What comes.
    pub(crate) body: Incoming,
    /// Host name, lower case, without port.
    pub(crate) host: String,
    /// From where.
    pub(crate) origin: Origin,
    /// Source address.
    pub(crate) peer: SocketAddr,
}

/// A request, ready to be answered.
#[derive(Debug, Clone)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Host name, lower case, without port.
    pub host: String,
    /// Percent-decoded path.
    pub path: String,
    /// Percent-decoded query, names lower-cased; the first of several counts.
    pub query: BTreeMap<String, String>,
    /// From where.
    pub origin: Origin,
    /// Source address.
    pub peer: SocketAddr,
    headers: Redacted,
    body: Bytes,
    /// Held while a long body is.
    _long: Option<Arc<SemaphorePermit<'static>>>,
}

/// Headers carry tokens, so they do not show in `Debug`.
#[derive(Clone)]
struct Redacted(HeaderMap);

impl std::fmt::Debug for Redacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({} headers)", self.0.len())
    }
}

impl Call {
    /// Reads the body and decodes the target.
    pub(crate) async fn read(arriving: Arriving) -> Result<Self, ApiError> {
        let Arriving { parts, body, host, origin, peer } = arriving;
        let method = method(&parts.method)?;
        let path = path(parts.uri.path())?;
        let query = parts.uri.query().map(query).unwrap_or_default();
        let (body, long) = match tokio::time::timeout(BODY_READ_SECONDS_MAX, read_body(body)).await {
            Ok(Some((body, long))) if body.len() <= BODY_BYTES_MAX => (body, long),
            // Not 413: azureml-core would send it again and again (PROTOCOL 0.9).
            Ok(Some(_)) => {
                return Err(ApiError::bad_request(
                    "RequestContentTooLarge",
                    format!("The request content exceeded the maximum size of {BODY_BYTES_MAX} bytes."),
                ));
            }
            Ok(None) | Err(_) => {
                return Err(ApiError::bad_request("InvalidRequestContent", "The request content could not be read."));
            }
        };
        Ok(Self {
            method,
            host,
            path,
            query,
            origin,
            peer,
            headers: Redacted(parts.headers),
            body,
            _long: long.map(Arc::new),
        })
    }

    /// A header, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.0.get(name)?.to_str().ok()
    }

    /// The body as text; `None` if it is empty or no UTF-8.
    pub fn text(&self) -> Option<&str> {
        let body = self.body.as_ref();
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        (!body.is_empty()).then(|| std::str::from_utf8(body).ok()).flatten()
    }

    /// Whether there is a body that is not text.
    pub fn is_binary(&self) -> bool {
        !self.body.is_empty() && std::str::from_utf8(&self.body).is_err()
    }
}

/// The body, or its first bytes beyond the limit. Reads (and forgets) some more than is allowed: a
/// client that is cut off while it sends would see a broken connection instead of the reason.
async fn read_body(mut body: Incoming) -> Option<(Bytes, Option<SemaphorePermit<'static>>)> {
    let mut kept = Vec::new();
    let mut read = 0;
    let mut long = None;
    while read <= BODY_DISCARD_BYTES_MAX {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame.ok()?.into_data() else { continue };
        read += data.len();
        if long.is_none() && read > BODY_BYTES_FREE {
            long = Some(LONG_BODIES.acquire().await.ok()?);
        }
        if kept.len() <= BODY_BYTES_MAX {
            kept.extend_from_slice(&data);
        }
    }
    Some((kept.into(), long))
}

fn method(method: &http::Method) -> Result<Method, ApiError> {
    Ok(match *method {
        http::Method::GET => Method::Get,
        http::Method::HEAD => Method::Head,
        http::Method::PUT => Method::Put,
        http::Method::PATCH => Method::Patch,
        http::Method::POST => Method::Post,
        http::Method::DELETE => Method::Delete,
        _ => return Err(ApiError::new(405, "MethodNotAllowed", "The HTTP method is not supported.")),
    })
}

fn path(raw: &str) -> Result<String, ApiError> {
    let malformed = || ApiError::bad_request("InvalidRequestUri", "The request URI is malformed.");
    // An encoded slash would move segment borders after other parties looked at them.
    if raw.to_ascii_lowercase().contains("%2f") {
        return Err(malformed());
    }
    let path = percent_decode(raw, false).ok_or_else(malformed)?;
    if path.chars().any(char::is_control) { Err(malformed()) } else { Ok(path) }
}

/// A query string as a map; names lower-cased.
pub(crate) fn query(raw: &str) -> BTreeMap<String, String> {
    pairs(raw).map(|(name, value)| (name.to_lowercase(), value)).rev().collect()
}

/// An `application/x-www-form-urlencoded` body as a map.
pub fn form(raw: &str) -> BTreeMap<String, String> {
    pairs(raw).rev().collect()
}

fn pairs(raw: &str) -> impl DoubleEndedIterator<Item = (String, String)> {
    raw.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (form_decode(name), form_decode(value))
    })
}

/// Decodes `%XX` and `+`; text that is no valid encoding stays as it is.
pub fn form_decode(raw: &str) -> String {
    percent_decode(raw, true).unwrap_or_else(|| raw.to_owned())
}

/// Decodes `%XX`; `None` where that is no encoding or no UTF-8.
pub fn decode(raw: &str) -> Option<String> {
    percent_decode(raw, false)
}

fn percent_decode(raw: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'%' => {
                let (hex, tail) = rest.split_at_checked(2)?;
                let digit = |b: u8| char::from(b).to_digit(16);
                bytes.push(u8::try_from(digit(hex[0])? * 16 + digit(hex[1])?).ok()?);
                rest = tail;
            }
            b'+' if plus_is_space => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_decoded_once() {
        assert_eq!(path("/a%20b/c+d").unwrap(), "/a b/c+d");
        assert!(path("/a%2Fb").is_err() && path("/a%0a").is_err() && path("/%zz").is_err() && path("/%e").is_err());
        let q = query("API-Version=1&$filter=name%20eq%20'x'&api-version=2&a+b=");
        assert_eq!(q["api-version"], "1");
        assert_eq!(q["$filter"], "name eq 'x'");
        assert_eq!(q["a b"], "");
    }
}
