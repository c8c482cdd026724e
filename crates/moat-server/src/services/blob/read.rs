//! Get Blob, its head, its metadata and its blocks.

use std::ops::Range;

use http::Method;
use moat_store::blobs::{Blob, Kind};

use super::caller::{self, Caller};
use super::conditions::{Conditions, etag, http_time};
use super::refusal::Refusal;
use super::{Known, body, xml};
use crate::http::reply::Reply;
use crate::server::Server;

/// What a blob is that says nothing.
pub(super) const CONTENT_TYPE: &str = "application/octet-stream";
/// Longest range whose sum is made on the way.
const RANGE_SUM_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub(super) async fn get(server: &Server, known: &Known) -> Result<Reply, Refusal> {
    let key = known.key(caller::READ_BLOB)?;
    let call = &known.call;
    let conditions = Conditions::of(call)?;
    if call.method == Method::HEAD {
        let blob = find(server, key).await?;
        conditions.for_read(blob.etag, blob.modified)?;
        return Ok(headers(Reply::empty(200), known, &blob).with("Content-Length", blob.size.to_string()));
    }
    let asked = match call.header("x-ms-range").or_else(|| call.header("range")) {
        Some(text) => Some(Asked::parse(text).ok_or_else(|| Refusal::header("x-ms-range"))?),
        None => None,
    };
    let with_sum = call.header("x-ms-range-get-content-md5").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let blobs = server.blobs.clone();
    let opened = body::blocking(move || {
        blobs.open_blob(&key, |blob| {
            conditions.for_read(blob.etag, blob.modified)?;
            asked.map_or(Ok(0..blob.size), |asked| asked.within(blob.size))
        })
    });
    let reader = opened.await.map_err(|error| Refusal::store(server, "reading a blob", &error))?;
    let mut reader = reader.ok_or_else(Refusal::blob_not_found)??;
    let blob = reader.blob.clone();
    let range = asked.map_or(Ok(0..blob.size), |asked| asked.within(blob.size))?;
    let length = range.end - range.start;
    let status = if asked.is_some() { 206 } else { 200 };
    let mut sum = None;
    let reply = if with_sum && asked.is_some() {
        if length > RANGE_SUM_BYTES_MAX {
            return Err(Refusal::header("x-ms-range-get-content-md5"));
        }
        let whole = body::blocking(move || {
            let mut whole = Vec::new();
            while let Some(piece) = reader.next(RANGE_SUM_BYTES_MAX as usize)? {
                whole.extend(piece);
            }
            Ok(whole)
        });
        let whole = whole.await.map_err(|error| Refusal::store(server, "reading a blob", &error))?;
        sum = Some(body::md5_of(&whole));
        Reply::bytes(status, CONTENT_TYPE, whole)
    } else if length == 0 {
        Reply::empty(status)
    } else {
        Reply::stream(status, body::send(reader))
    };
    let mut reply = headers(reply, known, &blob).with("Content-Length", length.to_string());
    if asked.is_some() {
        reply = reply.with("Content-Range", format!("bytes {}-{}/{}", range.start, range.end - 1, blob.size));
        // The blob's own sum is not the sum of a part.
        if let Some(md5) = &blob.properties.content_md5 {
            reply = reply.with("x-ms-blob-content-md5", md5.as_str());
        }
        if let Some(sum) = sum {
            reply = reply.with("Content-MD5", sum);
        }
    } else if let Some(md5) = &blob.properties.content_md5 {
        reply = reply.with("Content-MD5", md5.as_str());
    }
    Ok(reply)
}

pub(super) async fn metadata(server: &Server, known: &Known) -> Result<Reply, Refusal> {
    let blob = find(server, known.key(caller::READ_BLOB)?).await?;
    Conditions::of(&known.call)?.for_read(blob.etag, blob.modified)?;
    Ok(with_metadata(tagged(Reply::empty(200), &blob), &blob))
}

pub(super) async fn blocks(server: &Server, known: &Known) -> Result<Reply, Refusal> {
    let key = known.key(caller::READ_BLOB)?;
    let (committed, staged) = match known.call.param("blocklisttype").unwrap_or("committed").to_lowercase().as_str() {
        "committed" => (true, false),
        "uncommitted" => (false, true),
        "all" => (true, true),
        _ => return Err(Refusal::query("blocklisttype")),
    };
    let blobs = server.blobs.clone();
    let found = body::blocking(move || blobs.blocks(&key)).await;
    let found = found.map_err(|error| Refusal::store(server, "reading blocks", &error))?;
    let (blob, blocks) = found.ok_or_else(Refusal::blob_not_found)?;
    if blob.as_ref().is_some_and(|blob| blob.kind != Kind::Block) {
        return Err(Refusal::blob_type());
    }
    let mut out = format!("{}<BlockList>", xml::HEAD);
    for (asked, name, list) in
        [(committed, "CommittedBlocks", &blocks.committed), (staged, "UncommittedBlocks", &blocks.staged)]
    {
        if asked {
            out.push_str(&format!("<{name}>"));
            for block in list {
                out.push_str(&format!(
                    "<Block>{}<Size>{}</Size></Block>",
                    xml::element("Name", &block.id),
                    block.length
                ));
            }
            out.push_str(&format!("</{name}>"));
        }
    }
    out.push_str("</BlockList>");
    let reply = Reply::bytes(200, "application/xml", out.into_bytes());
    Ok(match blob {
        Some(blob) => tagged(reply, &blob).with("x-ms-blob-content-length", blob.size.to_string()),
        None => reply,
    })
}

async fn find(server: &Server, key: moat_store::blobs::Key) -> Result<Blob, Refusal> {
    let blobs = server.blobs.clone();
    let found = body::blocking(move || blobs.get(&key)).await;
    found.map_err(|error| Refusal::store(server, "reading a blob", &error))?.ok_or_else(Refusal::blob_not_found)
}

/// `ETag` and `Last-Modified`.
pub(super) fn tagged(reply: Reply, blob: &Blob) -> Reply {
    reply.with("ETag", etag(blob.etag)).with("Last-Modified", http_time(blob.modified))
}

fn with_metadata(reply: Reply, blob: &Blob) -> Reply {
    blob.metadata.iter().fold(reply, |reply, (name, value)| reply.with(format!("x-ms-meta-{name}"), value.as_str()))
}

fn headers(reply: Reply, known: &Known, blob: &Blob) -> Reply {
    let properties = &blob.properties;
    let mut reply = with_metadata(tagged(reply, blob), blob)
        .with("Accept-Ranges", "bytes")
        .with("Content-Type", properties.content_type.as_deref().unwrap_or(CONTENT_TYPE))
        .with("x-ms-blob-type", blob.kind.as_str())
        .with("x-ms-creation-time", http_time(blob.created))
        .with("x-ms-lease-status", "unlocked")
        .with("x-ms-lease-state", "available")
        .with("x-ms-server-encrypted", "true");
    for (name, value) in [
        ("Content-Encoding", &properties.content_encoding),
        ("Content-Language", &properties.content_language),
        ("Content-Disposition", &properties.content_disposition),
        ("Cache-Control", &properties.cache_control),
    ] {
        if let Some(value) = value {
            reply = reply.with(name, value.as_str());
        }
    }
    if known.call.method == Method::HEAD
        && let Some(md5) = &properties.content_md5
    {
        reply = reply.with("Content-MD5", md5.as_str());
    }
    match blob.kind {
        Kind::Append => reply = reply.with("x-ms-blob-committed-block-count", blob.appends.to_string()),
        Kind::Block => reply = reply.with("x-ms-access-tier", "Hot").with("x-ms-access-tier-inferred", "true"),
    }
    if let Caller::Signature(granted) = &known.caller {
        // Later ones replace earlier ones.
        reply = granted.headers.iter().fold(reply, |reply, (name, value)| reply.with(*name, value.as_str()));
    }
    reply
}

/// A range as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    first: u64,
    last: Option<u64>,
}

impl Asked {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
        let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
        let asked = Self { first: first.parse().ok()?, last };
        last.is_none_or(|last| last >= asked.first).then_some(asked)
    }

    fn within(self, size: u64) -> Result<Range<u64>, Refusal> {
        if self.first >= size {
            return Err(Refusal::range(size));
        }
        Ok(self.first..self.last.map_or(size, |last| last.saturating_add(1).min(size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_the_end() {
        let within = |text: &str, size| Asked::parse(text).map(|asked| asked.within(size).map_err(|r| r.status));
        assert_eq!(within("bytes=0-33554431", 10), Some(Ok(0..10)));
        assert_eq!(within("bytes=3-3", 10), Some(Ok(3..4)));
        assert_eq!(within("bytes=4-", 10), Some(Ok(4..10)));
        assert_eq!(within("bytes=0-18446744073709551615", 10), Some(Ok(0..10)));
        assert_eq!(within("bytes=10-", 10), Some(Err(416)));
        assert_eq!(within("bytes=0-5", 0), Some(Err(416)));
        for bad in ["bytes=5-4", "bytes=-5", "bytes=a-b", "0-5", "bytes=0-1,3-4"] {
            assert_eq!(within(bad, 10), None, "{bad}");
        }
    }
}
