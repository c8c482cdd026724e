//! The part of Azure's blob service that a node speaks: list, read, write, append. Every request carries a signature
//! of narrow scope in its query; there is no other secret.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use quick_xml::Reader;
use quick_xml::events::Event;
use tokio::time::{Instant, sleep};

use super::http::{Ask, Client, Trouble};
use super::stop::Stop;
use crate::spec::Prefix;

/// What stays as it is in a segment of a path or a value of a query.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// As above, for whole names.
const KEPT_IN_NAME: &AsciiSet = &KEPT.remove(b'/');
/// The protocol spoken.
const VERSION: &str = "2021-12-02";
/// Largest page of a listing.
const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most blobs below one prefix.
const BLOBS_MAX: usize = 100_000;
/// One block, and the largest body sent.
pub(crate) const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Azure's bound of blocks in one blob.
const BLOCKS_MAX: u64 = 50_000;

/// Percent-encodes one segment or value.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, KEPT).to_string()
}

/// One blob of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its name below the prefix.
    pub path: String,
    /// Path and query to read it by.
    pub target: String,
}

/// Where an appended blob ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub bytes: u64,
    pub blocks: u64,
}

/// The storage services of a region.
#[derive(Clone)]
pub(crate) struct Store {
    client: Client,
    label: String,
}

impl Store {
    pub(crate) fn new(client: Client, region: &str) -> Self {
        Self { client, label: format!("Storage.{region}") }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    fn ask(&self, method: Method, host: &str, target: String) -> Ask {
        Ask::new(&self.label, method, host, target).header("x-ms-version", VERSION)
    }

    /// Everything below a prefix.
    pub(crate) async fn list(&self, below: &Prefix) -> Result<Vec<Found>, Trouble> {
        let start = if below.prefix.is_empty() { String::new() } else { format!("{}/", below.prefix) };
        let mut found = Vec::new();
        let mut marker = String::new();
        loop {
            let target = format!(
                "/{}?restype=container&comp=list&prefix={}&marker={}&{}",
                encode(&below.container),
                encode(&start),
                encode(&marker),
                below.sas
            );
            let answer = self.client.expect(&self.ask(Method::GET, &below.host, target)).await?;
            let page = page(&answer.bytes(LIST_BYTES_MAX).await?).map_err(|e| Trouble::garbled(&below.host, e))?;
            for name in page.names {
                let Some(path) = name.strip_prefix(&start) else {
                    return Err(Trouble::garbled(&below.host, "a listing with blobs that are not below the prefix"));
                };
                // A blob of this name stands for the folder itself.
                if !path.is_empty() && !path.ends_with('/') {
                    found.push(Found { path: path.to_owned(), target: target_of(below, path) });
                }
            }
            if found.len() > BLOBS_MAX {
                return Err(Trouble::garbled(&below.host, format!("more than {BLOBS_MAX} blobs below one prefix")));
            }
            if page.next.is_empty() {
                return Ok(found);
            }
            if page.next == marker {
                return Err(Trouble::garbled(&below.host, "a listing that goes in circles"));
            }
            marker = page.next;
        }
    }

    /// Reads a blob into a file. What broke off is taken up where it stopped.
    pub(crate) async fn read(&self, host: &str, target: &str, file: &mut File, doing: &str) -> Result<u64, Stop> {
        let service = |t| Stop::service(doing, t);
        let (mut got, mut etag) = (0u64, String::new());
        let mut tries = 0;
        loop {
            let mut ask = self.ask(Method::GET, host, target.to_owned());
            if got > 0 {
                ask = ask.header("x-ms-range", &format!("bytes={got}-")).header("if-match", &etag);
            }
            let mut answer = self.client.expect(&ask).await.map_err(service)?;
            if got > 0 && answer.status != StatusCode::PARTIAL_CONTENT {
                return Err(service(Trouble::garbled(host, "the whole blob where the rest was asked for")));
            }
            etag = answer.header("etag").unwrap_or_default().to_owned();
            loop {
                match answer.piece().await {
                    Ok(Some(piece)) => {
                        file.write_all(&piece).map_err(|e| Stop::node(doing, &e))?;
                        got += piece.len() as u64;
                        tries = 0;
                    }
                    Ok(None) => return Ok(got),
                    Err(trouble) => {
                        tries += 1;
                        if tries >= self.client.patience().answer_tries || etag.is_empty() {
                            return Err(service(trouble));
                        }
                        sleep(self.client.patience().pause_first).await;
                        break;
                    }
                }
            }
        }
    }

    /// Writes a small blob whole.
    pub(crate) async fn write(&self, to: &Prefix, path: &str, kind: &'static str, body: Bytes) -> Result<(), Trouble> {
        let ask = self
            .ask(Method::PUT, &to.host, target_of(to, path))
            .header("x-ms-blob-type", "BlockBlob")
            .header("x-ms-blob-content-type", kind)
            .body(kind, body);
        self.client.expect(&ask).await?.done().await
    }

    /// One block of a large blob; [`Store::commit`] makes the blob of them.
    pub(crate) async fn write_block(&self, to: &Prefix, path: &str, index: u64, body: Bytes) -> Result<(), Trouble> {
        let target = format!("{}&comp=block&blockid={}", target_of(to, path), encode(&block_id(index)));
        let ask = self.ask(Method::PUT, &to.host, target).body("application/octet-stream", body);
        self.client.expect(&ask).await?.done().await
    }

    pub(crate) async fn commit(&self, to: &Prefix, path: &str, kind: &'static str, blocks: u64) -> Result<(), Trouble> {
        let list: String = (0..blocks).map(|i| format!("<Latest>{}</Latest>", block_id(i))).collect();
        let body = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{list}</BlockList>");
        let ask = self
            .ask(Method::PUT, &to.host, format!("{}&comp=blocklist", target_of(to, path)))
            .header("x-ms-blob-content-type", kind)
            .body("application/xml", body);
        self.client.expect(&ask).await?.done().await
    }

    /// Makes an empty append blob, or finds the end of the one that an earlier attempt made.
    pub(crate) async fn open_append(&self, to: &Prefix, path: &str, kind: &'static str) -> Result<End, Trouble> {
        let ask = self
            .ask(Method::PUT, &to.host, target_of(to, path))
            .header("x-ms-blob-type", "AppendBlob")
            .header("x-ms-blob-content-type", kind)
            .header("if-none-match", "*");
        match self.client.expect(&ask).await {
            Ok(answer) => answer.done().await.map(|()| End::default()),
            Err(t) if matches!(t.status(), Some(StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED)) => {
                self.end(to, path).await
            }
            Err(t) => Err(t),
        }
    }

    async fn end(&self, to: &Prefix, path: &str) -> Result<End, Trouble> {
        let answer = self.client.expect(&self.ask(Method::HEAD, &to.host, target_of(to, path))).await?;
        let number = |name: &str| answer.header(name).and_then(|v| v.parse().ok());
        let bytes = number("content-length").ok_or_else(|| Trouble::garbled(&to.host, "a blob without length"))?;
        let blocks = number("x-ms-blob-committed-block-count").unwrap_or(0);
        answer.done().await?;
        Ok(End { bytes, blocks })
    }

    /// Appends at `end` and nowhere else: what was sent twice, since the first answer was lost, is there once.
    /// A store that does not answer is asked for `patience`.
    pub(crate) async fn append(
        &self,
        to: &Prefix,
        path: &str,
        end: &mut End,
        body: Bytes,
        patience: Duration,
    ) -> Result<(), Trouble> {
        if end.blocks >= BLOCKS_MAX {
            return Err(Trouble::garbled(&to.host, format!("the log has all the {BLOCKS_MAX} blocks it may have")));
        }
        let until = Instant::now() + patience;
        let after = End { bytes: end.bytes + body.len() as u64, blocks: end.blocks + 1 };
        let ask = self
            .ask(Method::PUT, &to.host, format!("{}&comp=appendblock", target_of(to, path)))
            .header("x-ms-blob-condition-appendpos", &end.bytes.to_string())
            .body("text/plain", body);
        loop {
            let trouble = match self.client.expect(&ask).await {
                Ok(answer) => {
                    *end = after;
                    return answer.done().await;
                }
                Err(trouble) if trouble.status() == Some(StatusCode::PRECONDITION_FAILED) => {
                    match self.end(to, path).await {
                        Ok(now) if now.bytes == after.bytes => {
                            *end = after;
                            return Ok(());
                        }
                        Ok(_) => return Err(trouble),
                        Err(t) => t,
                    }
                }
                Err(trouble) => trouble,
            };
            if !trouble.may_pass() || Instant::now() >= until {
                return Err(trouble);
            }
            sleep(self.client.patience().pause_max).await;
        }
    }
}

/// Path and query of a blob below a prefix; of the prefix itself where `path` is empty (a blob of its own).
fn target_of(prefix: &Prefix, path: &str) -> String {
    let mut target = format!("/{}", encode(&prefix.container));
    for part in [prefix.prefix.as_str(), path] {
        if !part.is_empty() {
            target.push('/');
            target.extend(utf8_percent_encode(part, KEPT_IN_NAME));
        }
    }
    format!("{target}?{}", prefix.sas)
}

fn block_id(index: u64) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{index:012}"))
}

/// One page of a listing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    names: Vec<String>,
    next: String,
}

fn page(text: &[u8]) -> Result<Page, String> {
    let mut reader = Reader::from_reader(text);
    let mut page = Page::default();
    // Names of the elements we are in, and the text of the innermost.
    let (mut path, mut value): (Vec<Vec<u8>>, String) = (Vec::new(), String::new());
    let (mut name, mut encoded, mut folder) = (String::new(), false, false);
    let within = |path: &[Vec<u8>], last: &[&[u8]]| {
        path.len() >= last.len() && path[path.len() - last.len()..].iter().zip(last).all(|(a, b)| a == b)
    };
    loop {
        match reader.read_event().map_err(|e| e.to_string())? {
            Event::Start(start) => {
                value.clear();
                path.push(start.name().as_ref().to_vec());
                if within(&path, &[b"Blob", b"Name"]) {
                    encoded =
                        start.attributes().flatten().any(|a| a.key.as_ref() == b"Encoded" && &*a.value == b"true");
                }
            }
            Event::Text(text) => value.push_str(&text.decode().map_err(|e| e.to_string())?),
            Event::CData(text) => value.push_str(&text.decode().map_err(|e| e.to_string())?),
            Event::GeneralRef(reference) => match reference.resolve_char_ref().map_err(|e| e.to_string())? {
                Some(c) => value.push(c),
                None => {
                    let entity = reference.decode().map_err(|e| e.to_string())?;
                    let known = quick_xml::escape::resolve_predefined_entity(&entity);
                    value.push_str(known.ok_or_else(|| format!("the entity `{entity}`"))?);
                }
            },
            Event::End(_) => {
                if within(&path, &[b"Blob", b"Name"]) {
                    name = std::mem::take(&mut value);
                    if encoded {
                        name = percent_decode_str(&name).decode_utf8().map_err(|e| e.to_string())?.into_owned();
                    }
                } else if within(&path, &[b"Properties", b"ResourceType"]) {
                    folder = value == "directory";
                } else if within(&path, &[b"Blobs", b"Blob"]) {
                    let name = std::mem::take(&mut name);
                    if !std::mem::take(&mut folder) {
                        page.names.push(name);
                    }
                } else if within(&path, &[b"EnumerationResults", b"NextMarker"]) {
                    page.next = std::mem::take(&mut value);
                }
                value.clear();
                path.pop();
            }
            Event::Eof if path.is_empty() => return Ok(page),
            Event::Eof => return Err("a listing that ends in the middle".to_owned()),
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_listing_is_read_as_azure_writes_it() {
        let text = br#"<?xml version="1.0" encoding="utf-8"?>
<EnumerationResults ServiceEndpoint="https://a/" ContainerName="c"><Prefix>p/</Prefix><Blobs>
<Blob><Name>p/a &amp; b &#x41;.txt</Name><Properties><Etag>"0"</Etag><BlobType>BlockBlob</BlobType></Properties></Blob>
<Blob><Name Encoded="true">p/%EF%BF%BE</Name><Properties/></Blob>
<Blob><Name>p/dir</Name><Properties><ResourceType>directory</ResourceType></Properties></Blob>
<BlobPrefix><Name>p/q/</Name></BlobPrefix></Blobs><NextMarker>m1</NextMarker></EnumerationResults>"#;
        let names = ["p/a & b A.txt".to_owned(), "p/\u{fffe}".to_owned()].to_vec();
        assert_eq!(page(text), Ok(Page { names, next: "m1".to_owned() }));
        let last = b"<EnumerationResults><Blobs /><NextMarker /></EnumerationResults>";
        assert_eq!(page(last), Ok(Page::default()));
        assert!(page(b"<EnumerationResults><Blobs>").is_err());
        assert!(page(b"<EnumerationResults>&evil;</EnumerationResults>").is_err());
    }

    #[test]
    fn names_reach_the_wire_whole() {
        let prefix = Prefix {
            host: "a.blob.core.windows.net".to_owned(),
            container: "c".to_owned(),
            prefix: "x/y z".to_owned(),
            sas: "sig=s".to_owned(),
        };
        assert_eq!(target_of(&prefix, "a/?#%\u{e4}"), "/c/x/y%20z/a/%3F%23%25%C3%A4?sig=s");
        assert_eq!(target_of(&prefix, ""), "/c/x/y%20z?sig=s");
        assert_eq!(target_of(&Prefix { prefix: String::new(), ..prefix }, "a"), "/c/a?sig=s");
    }
}
