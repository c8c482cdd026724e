//! `If-Match` and its family, on the version that is there when the write happens.

use jiff::Timestamp;
use moat_store::blobs::Blob;

use super::refusal::Refusal;
use super::request::BlobCall;

/// A blob's or a container's etag as it is shown.
pub(super) fn etag(etag: u64) -> String {
    format!("\"0x{etag:X}\"")
}

/// A time as HTTP writes it.
pub(super) fn http_time(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// What a request asks of the present version.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions {
    if_match: Option<String>,
    if_none_match: Option<String>,
    modified_since: Option<Timestamp>,
    unmodified_since: Option<Timestamp>,
}

impl Conditions {
    pub(super) fn of(call: &BlobCall) -> Result<Self, Refusal> {
        let time = |name: &'static str| -> Result<Option<Timestamp>, Refusal> {
            let Some(text) = call.header(name) else { return Ok(None) };
            let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
            parsed.map(Some).map_err(|_| Refusal::header(name))
        };
        Ok(Self {
            if_match: call.header("if-match").map(str::to_owned),
            if_none_match: call.header("if-none-match").map(str::to_owned),
            modified_since: time("if-modified-since")?,
            unmodified_since: time("if-unmodified-since")?,
        })
    }

    /// Before a read of what is there.
    pub(super) fn for_read(&self, tag: u64, modified: Timestamp) -> Result<(), Refusal> {
        match self.verdict(Some((tag, modified))) {
            Verdict::Met => Ok(()),
            Verdict::Failed => Err(Refusal::condition_not_met()),
            Verdict::Same => Err(Refusal::not_modified().with("ETag", etag(tag))),
        }
    }

    /// Before a write.
    pub(super) fn for_write(&self, present: Option<&Blob>) -> Result<(), Refusal> {
        match self.verdict(present.map(|blob| (blob.etag, blob.modified))) {
            Verdict::Met => Ok(()),
            // "Only if there is none": the code says that there is one.
            Verdict::Same if self.if_none_match.as_deref() == Some("*") => Err(Refusal::blob_exists()),
            _ => Err(Refusal::condition_not_met()),
        }
    }

    fn verdict(&self, present: Option<(u64, Timestamp)>) -> Verdict {
        let names = |list: &str, tag: u64| {
            let own = etag(tag);
            list.split(',').map(str::trim).any(|given| given == "*" || given.trim_matches('"') == own.trim_matches('"'))
        };
        let whole = |time: Timestamp| time.as_second();
        if let Some(list) = &self.if_match
            && !present.is_some_and(|(tag, _)| names(list, tag))
        {
            return Verdict::Failed;
        }
        let Some((tag, modified)) = present else { return Verdict::Met };
        if self.unmodified_since.is_some_and(|since| whole(modified) > whole(since)) {
            return Verdict::Failed;
        }
        if let Some(list) = &self.if_none_match {
            // With an etag the date does not count (RFC 9110 13.2.2).
            return if names(list, tag) { Verdict::Same } else { Verdict::Met };
        }
        match self.modified_since {
            Some(since) if whole(modified) <= whole(since) => Verdict::Same,
            _ => Verdict::Met,
        }
    }
}

enum Verdict {
    Met,
    /// What had to be is not.
    Failed,
    /// What had to have changed did not.
    Same,
}
