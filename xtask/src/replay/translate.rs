//! The words of a recording in the words of the server at hand: its subscription and tenant, and
//! the ids, versions and operation URLs that it chose itself and that later requests quote.

use std::collections::BTreeMap;

use serde_json::Value;

use super::polls;
use super::recording::{Answer, Request};

/// What is known so far about one recording.
#[derive(Debug)]
pub(crate) struct Translator {
    subscription: String,
    tenant: String,
    /// Recorded id or version, as the server at hand has it.
    learned: BTreeMap<String, String>,
    /// Recorded operation, as the server at hand names it; `None`: it was done at once.
    operations: BTreeMap<String, Option<String>>,
    /// The operation that the newest exchange with one announced.
    newest: Option<String>,
}

/// What a recorded poll is here.
#[derive(Debug, PartialEq)]
pub(crate) enum Poll {
    /// Not the poll of an operation that this recording started.
    None,
    /// At this host and target.
    At(String, String),
    /// The server named no operation.
    Unnamed,
}

impl Translator {
    pub(crate) fn new(subscription: &str, tenant: &str) -> Self {
        let (learned, operations, newest) = Default::default();
        Self { subscription: subscription.to_owned(), tenant: tenant.to_owned(), learned, operations, newest }
    }

    /// A text of the recording.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut out = subscriptions(text, &self.subscription);
        for (recorded, here) in &self.learned {
            if out.contains(recorded.as_str()) {
                out = out.replace(recorded, here);
            }
        }
        out
    }

    /// A body of the recording.
    pub(crate) fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|v| self.value(v)).collect(),
            Value::Object(members) => members.iter().map(|(k, v)| (self.text(k), self.value(v))).collect(),
            other => other.clone(),
        }
    }

    /// A request of the recording.
    pub(crate) fn request(&self, request: &Request) -> Request {
        let mut target = self.text(&request.target);
        if request.host == "login.microsoftonline.com"
            && let Some((_, rest)) = target.trim_start_matches('/').split_once('/')
        {
            target = format!("/{}/{rest}", self.tenant);
        }
        Request {
            method: request.method.clone(),
            host: request.host.clone(),
            target,
            headers: request.headers.iter().map(|(k, v)| (k.clone(), self.text(v))).collect(),
            body: self.text(&request.body),
        }
    }

    /// The operation that a recorded request polls. Some recordings blank out ids in what was sent
    /// and keep them in what was answered: then it is the newest one.
    pub(crate) fn operation(&self, request: &Request) -> Option<String> {
        let key = polls::key(request.path());
        if self.operations.contains_key(&key) {
            return Some(key);
        }
        self.newest.clone().filter(|_| request.method == "GET" && polls::is_operation(&key))
    }

    /// Where that operation is.
    pub(crate) fn poll(&self, request: &Request) -> Poll {
        match self.operation(request).and_then(|o| self.operations.get(&o)) {
            None => Poll::None,
            Some(None) => Poll::Unnamed,
            Some(Some(url)) => super::recording::split_url(url).map_or(Poll::Unnamed, |(h, t)| Poll::At(h, t)),
        }
    }

    /// Learns from what was answered then and now.
    pub(crate) fn learn(&mut self, recorded: &Answer, here: &Answer) {
        if let Some((_, operation)) = polls::announced(recorded).next() {
            self.newest = Some(operation);
        }
        for (header, operation) in polls::announced(recorded) {
            let other = if header == "location" { "azure-asyncoperation" } else { "location" };
            let url = [header, other].into_iter().filter_map(|h| here.headers.get(h)).find(|u| polls::is_operation(u));
            self.operations.insert(operation, url.cloned());
        }
        if let (Some(then), Some(now)) = (recorded.headers.get("etag"), here.headers.get("etag")) {
            self.pair(then, now);
        }
        if let (Some(then), Some(now)) = (recorded.body.json(), here.body.json()) {
            self.pairs(then, now);
        }
    }

    fn pairs(&mut self, then: &Value, now: &Value) {
        match (then, now) {
            (Value::Object(then), Value::Object(now)) => {
                for (name, value) in then {
                    if let Some(here) = now.get(name) {
                        self.pairs(value, here);
                    }
                }
            }
            (Value::Array(then), Value::Array(now)) => {
                for (index, value) in then.iter().enumerate() {
                    let same = value.get("name").and_then(|n| now.iter().find(|v| v.get("name") == Some(n)));
                    let same_place = || now.get(index).filter(|_| now.len() == then.len());
                    if let Some(here) = same.or_else(same_place) {
                        self.pairs(value, here);
                    }
                }
            }
            (Value::String(then), Value::String(now)) => self.pair(then, now),
            _ => {}
        }
    }

    fn pair(&mut self, then: &str, now: &str) {
        let bare = |t: &str| t.trim_start_matches("W/").trim_matches('"').to_owned();
        let (then, now) = (bare(then), bare(now));
        // What recordings blank out stands for many things.
        let blank = then.chars().all(|c| c == '0' || c == '-');
        if is_guid(&then) && !blank && !now.is_empty() && then != now && now != self.subscription {
            self.learned.entry(then).or_insert(now);
        }
    }
}

fn is_guid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12]) && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

/// Puts `ours` wherever an id names a subscription.
fn subscriptions(text: &str, ours: &str) -> String {
    const WORD: &str = "/subscriptions/";
    let lower = text.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(at) = lower[from..].find(WORD) {
        let start = from + at + WORD.len();
        let length = text[start..].find(|c: char| !(c.is_ascii_alphanumeric() || "-_{}".contains(c)));
        let end = length.map_or(text.len(), |l| start + l);
        out.push_str(&text[from..start]);
        out.push_str(if end > start { ours } else { "" });
        from = end;
    }
    out.push_str(&text[from..]);
    out
}
