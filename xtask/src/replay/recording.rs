//! What was recorded: requests, and apart from them what was answered, so that nothing that talks
//! to a server can see an expectation.

use std::collections::BTreeMap;

use serde_json::Value;

/// Where a recording comes from; its preconditions differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// A test of azure-cli or an extension (VCR).
    Cassette,
    /// A test of an SDK (test proxy).
    Proxy,
    /// One exchange of a REST specification.
    Example,
}

/// A request and what was answered.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) request: Request,
    pub(crate) expected: Expected,
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    /// Upper case.
    pub(crate) method: String,
    pub(crate) host: String,
    /// Percent-encoded, with the query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// What Azure answered. An example lists several answers, of which one has to come.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// By status.
    pub(crate) answers: BTreeMap<u16, Answer>,
}

/// One answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answer {
    /// Names in lower case; only those that lead somewhere.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Body,
}

/// A body that was answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Body {
    #[default]
    Empty,
    Json(Value),
    /// Something else (XML, text, bytes that were not kept).
    Other,
}

impl Body {
    /// Text of an answer as a body.
    pub(crate) fn of_text(text: &str) -> Self {
        let text = text.trim_start_matches('\u{feff}').trim();
        match serde_json::from_str(text) {
            _ if text.is_empty() => Body::Empty,
            Ok(value) => Body::Json(value),
            Err(_) => Body::Other,
        }
    }

    pub(crate) fn json(&self) -> Option<&Value> {
        if let Body::Json(value) = self { Some(value) } else { None }
    }
}

/// Recorded exchanges that belong together.
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    /// Its file, relative to the path that was given.
    pub(crate) name: String,
    pub(crate) origin: Origin,
    pub(crate) exchanges: Vec<Exchange>,
    /// Polls that were left out, since a client repeats them until something is done.
    pub(crate) repeated_polls: usize,
}

/// Headers of an answer that name URLs or versions.
pub(crate) const LEADING: [&str; 3] = ["azure-asyncoperation", "location", "etag"];

impl Request {
    /// The path without its query, as sent.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// Splits an absolute URL into its host and the rest.
pub(crate) fn split_url(url: &str) -> Option<(String, String)> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, target) = rest.split_at(at);
    let host = host.split(':').next().unwrap_or_default().to_lowercase();
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    (!host.is_empty()).then_some((host, target))
}
