//! One call to the blob service: where it goes, and its headers. The body stays on the wire until somebody who may
//! send it is known.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::HeaderMap;
use hyper::body::Incoming;
use moat_control::Origin;
use moat_model::storage::names;
use moat_store::blobs::{Metadata, Properties};

use super::refusal::Refusal;
use crate::http::request::{Arriving, decode, query};

/// Longest metadata of a blob or container, names and values together.
const METADATA_BYTES_MAX: usize = 8 * 1024;
const METADATA_PREFIX: &str = "x-ms-meta-";

/// A call with its target decoded. `Debug` is left out: headers and query carry signatures.
pub(super) struct BlobCall {
    pub(super) method: http::Method,
    /// First label of the host name.
    pub(super) account: String,
    /// First segment of the path.
    pub(super) container: Option<String>,
    /// The rest of the path.
    pub(super) blob: Option<String>,
    /// Decoded, names in lower case; the first of several counts.
    pub(super) query: BTreeMap<String, String>,
    pub(super) raw_path: String,
    pub(super) raw_query: String,
    pub(super) origin: Origin,
    pub(super) peer: SocketAddr,
    headers: HeaderMap,
    /// Taken by who reads it.
    pub(super) body: Option<Incoming>,
}

impl BlobCall {
    pub(super) fn of(arriving: Arriving) -> Result<Self, Refusal> {
        let Arriving { parts, body, host, origin, peer } = arriving;
        let raw_path = parts.uri.path().to_owned();
        let raw_query = parts.uri.query().unwrap_or_default().to_owned();
        let (container, blob) = target(&raw_path)?;
        Ok(Self {
            method: parts.method,
            account: host.split('.').next().unwrap_or_default().to_owned(),
            container,
            blob,
            query: query(&raw_query),
            raw_path,
            raw_query,
            origin,
            peer,
            headers: parts.headers,
            body: Some(body),
        })
    }

    /// A header, if it is there and is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Every header that is text.
    pub(super) fn headers(&self) -> Vec<(&str, &str)> {
        self.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect()
    }

    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A header that holds a number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        self.header(name).map(|text| text.trim().parse().map_err(|_| Refusal::header(name))).transpose()
    }

    /// Bytes that the client says it sends.
    pub(super) fn length(&self) -> Result<u64, Refusal> {
        self.number("content-length")?.ok_or_else(Refusal::length_required)
    }

    /// `x-ms-meta-*`. HTTP has no case in names, so neither have these.
    pub(super) fn metadata(&self) -> Result<Metadata, Refusal> {
        let mut metadata = Metadata::new();
        let mut bytes = 0;
        for name in self.headers.keys().filter(|name| name.as_str().starts_with(METADATA_PREFIX)) {
            let short = &name.as_str()[METADATA_PREFIX.len()..];
            let values: Option<Vec<&str>> = self.headers.get_all(name).iter().map(|v| v.to_str().ok()).collect();
            let value = values.ok_or_else(|| Refusal::header(name.as_str()))?.join(",");
            let first = short.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
            if !first || !short.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(Refusal::new(
                    400,
                    "InvalidMetadata",
                    "The metadata specified is invalid. It has characters that are not permitted.",
                ));
            }
            bytes += short.len() + value.len();
            metadata.push((short.to_owned(), value));
        }
        if bytes > METADATA_BYTES_MAX {
            return Err(Refusal::new(
                400,
                "MetadataTooLarge",
                "The size of the specified metadata exceeds the maximum size permitted.",
            ));
        }
        metadata.sort();
        Ok(metadata)
    }

    /// The headers that a blob keeps: `x-ms-blob-*`, and the plain ones where `plain` says that they speak of the
    /// blob and not of this request's body.
    pub(super) fn properties(&self, plain: bool) -> Properties {
        let get = |name: &str| {
            let ours = self.header(&format!("x-ms-blob-{name}"));
            ours.or_else(|| self.header(name).filter(|_| plain)).filter(|v| !v.is_empty()).map(str::to_owned)
        };
        Properties {
            content_type: get("content-type"),
            content_encoding: get("content-encoding"),
            content_language: get("content-language"),
            content_disposition: self
                .header("x-ms-blob-content-disposition")
                .filter(|v| !v.is_empty())
                .map(str::to_owned),
            cache_control: get("cache-control"),
            content_md5: self.header("x-ms-blob-content-md5").filter(|v| !v.is_empty()).map(str::to_owned),
        }
    }
}

/// Container and blob of a path. What one segment means is told before decoding: an encoded slash is part of a
/// blob's name, and never the border of a container.
pub(super) fn target(raw_path: &str) -> Result<(Option<String>, Option<String>), Refusal> {
    let decode = |raw: &str| decode(raw).ok_or_else(Refusal::uri);
    let path = raw_path.strip_prefix('/').unwrap_or(raw_path);
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    if first.is_empty() {
        return if rest.is_empty() { Ok((None, None)) } else { Err(Refusal::uri()) };
    }
    let container = decode(first)?;
    if !names::is_container(&container) {
        return Err(Refusal::name());
    }
    if rest.is_empty() {
        return Ok((Some(container), None));
    }
    let blob = decode(rest)?;
    if !names::is_blob(&blob) {
        return Err(Refusal::uri());
    }
    Ok((Some(container), Some(blob)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_decoded_once_and_means_one_place() {
        let some = |c: &str, b: &str| Ok((Some(c.to_owned()), Some(b.to_owned())));
        assert_eq!(target("/"), Ok((None, None)));
        assert_eq!(target("/data"), Ok((Some("data".to_owned()), None)));
        assert_eq!(target("/data/"), Ok((Some("data".to_owned()), None)));
        assert_eq!(target("/data/a/b%20c"), some("data", "a/b c"));
        assert_eq!(target("/data/a%2Fb+c"), some("data", "a/b+c"));
        assert_eq!(target("/data/%252e%252e/x"), some("data", "%2e%2e/x"));
        assert_eq!(target("/data//a"), some("data", "/a"));
        for bad in [
            "/data/..",
            "/data/a/%2e%2e/b",
            "/data/%2E%2E%2Fb",
            "/data/a/../b",
            "/data/.",
            "/data/a%00",
            "/data/%zz",
            "/data/a%5cb",
        ] {
            assert_eq!(target(bad).unwrap_err().code, "InvalidUri", "{bad}");
        }
        for bad in ["/da%2Fta/x", "/Data/x", "/../data", "/%2e%2e/data", "/a/x"] {
            assert_eq!(target(bad).unwrap_err().code, "InvalidResourceName", "{bad}");
        }
        assert_eq!(target("//data/x").unwrap_err().code, "InvalidUri");
    }
}
