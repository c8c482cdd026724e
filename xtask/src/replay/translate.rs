//! The words of a recording in the words of the server at hand: its subscription and tenant, and
//! the ids, versions and operation URLs that it chose itself and that later requests quote.
//!
//! Some recordings blank out names and versions in what was sent (`workspaces/000000000000000`,
//! `api-version=0000-00-00`): a blank name means what a template before made of that type and in that group, if it
//! made one, and a blank version one of today.

use std::collections::{BTreeMap, BTreeSet};

use moat_arm::ResourceId;
use serde_json::Value;

use super::recording::{Answer, Recording, Request};
use super::{polls, prerequisites};

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
    /// What templates made here: group, type, name.
    made: Vec<(String, String, String)>,
    /// Deployments so far.
    deployments: usize,
}

const WORKSPACE: &str = "Microsoft.MachineLearningServices/workspaces";
/// What azure-cli's tests write in place of the name of a deployment.
pub(crate) const MOCK_DEPLOYMENT: &str = "mock-deployment";
/// Shortest name of zeros that counts as blanked out.
const BLANK_MIN: usize = 5;
/// Stands for an API version that was blanked out.
const VERSION_OF_TODAY: &str = "2024-10-01";

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
        let (learned, operations, newest, made) = Default::default();
        let (subscription, tenant) = (subscription.to_owned(), tenant.to_owned());
        Self { subscription, tenant, learned, operations, newest, made, deployments: 0 }
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
        let target =
            self.text(&request.target).replace("api-version=0000-00-00", &format!("api-version={VERSION_OF_TODAY}"));
        let mut target = self.named(&without_skip_token(&target));
        if self.deployments > 1 {
            let nth = format!("/deployments/{MOCK_DEPLOYMENT}-{}", self.deployments);
            target = target.replace(&format!("/deployments/{MOCK_DEPLOYMENT}"), &nth);
        }
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

    /// The tests of azure-cli write one name in place of that of every deployment; each time one is made it is another.
    pub(crate) fn counts_deployment(&mut self, request: &Request) {
        let path = request.path().trim_end_matches('/');
        if request.method == "PUT" && path.ends_with(&format!("/deployments/{MOCK_DEPLOYMENT}")) {
            self.deployments += 1;
        }
    }

    /// Remembers what a template made here.
    pub(crate) fn learn_made<'a>(&mut self, ids: impl Iterator<Item = &'a str>) {
        for id in ids.filter_map(|id| ResourceId::parse(id).ok()) {
            if let (Some(group), [name]) = (id.resource_group(), &id.names()[..]) {
                let kind = id.resource_type().to_lowercase();
                self.made.push((group.to_lowercase(), kind, (*name).to_owned()));
            }
        }
    }

    /// A path with names in place of blanks.
    fn named(&self, target: &str) -> String {
        let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
        let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        let is = |at: usize, word: &str| segments.get(at).is_some_and(|s| s.eq_ignore_ascii_case(word));
        if is(3, "resourceGroups") && is(5, "providers") && segments.get(8).is_some_and(|name| is_blank(name)) {
            let (group, kind) = (segments[4].to_lowercase(), segments[6..8].join("/").to_lowercase());
            let made: BTreeSet<&str> = self
                .made
                .iter()
                .filter(|(g, k, _)| *g == group && *k == kind)
                .map(|(_, _, name)| name.as_str())
                .collect();
            if let [name] = made.into_iter().collect::<Vec<_>>()[..] {
                segments[8] = name.to_owned();
            }
        }
        let path = segments.join("/");
        query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"))
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
            // Answers to polls tell the operation once more, and the last one here does not.
            let known = self.operations.entry(operation).or_default();
            if let Some(url) = url {
                *known = Some(url.clone());
            }
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

/// A list is asked for from its start: the other server's mark of where a page began means nothing here.
fn without_skip_token(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let marks = |p: &&str| p.to_lowercase().replace("%24", "$").starts_with("$skiptoken=");
    let rest: Vec<&str> = query.split('&').filter(|p| !marks(p)).collect();
    format!("{path}?{}", rest.join("&"))
}

/// A recording with the workspace that its bodies speak of in place of a blank one in its addresses, if it is one only.
pub(crate) fn with_workspace(recording: &Recording) -> Recording {
    let mut recording = recording.clone();
    let named: BTreeSet<(String, String)> = recording
        .exchanges
        .iter()
        .filter_map(|e| serde_json::from_str::<Value>(&e.request.body).ok())
        .flat_map(|body| prerequisites::ids(&body))
        .filter_map(|id| {
            let mut here = Some(id);
            while let Some(id) = here {
                if id.resource_type().eq_ignore_ascii_case(WORKSPACE) {
                    return Some((id.resource_group()?.to_owned(), id.name().to_owned()));
                }
                here = id.parent();
            }
            None
        })
        .collect();
    let [(group, name)] = &named.into_iter().collect::<Vec<_>>()[..] else { return recording };
    for request in recording.exchanges.iter_mut().map(|e| &mut e.request) {
        let mut segments: Vec<&str> = request.target.split('/').collect();
        let blank =
            [4, 8].iter().all(|at| segments.get(*at).is_some_and(|s| is_blank(s.split('?').next().unwrap_or(s))));
        let of_workspace = segments.get(6..8).is_some_and(|kind| kind.join("/").eq_ignore_ascii_case(WORKSPACE));
        if blank && of_workspace {
            let last = segments[8].split_once('?').map_or_else(|| name.clone(), |(_, query)| format!("{name}?{query}"));
            (segments[4], segments[8]) = (group, &last);
            request.target = segments.join("/");
        }
    }
    recording
}

/// A name that was blanked out.
pub(crate) fn is_blank(name: &str) -> bool {
    name.len() >= BLANK_MIN && name.bytes().all(|b| b == b'0')
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
        let length = text[start..].find(|c: char| !(c.is_ascii_alphanumeric() || "-_{}%".contains(c)));
        let end = length.map_or(text.len(), |l| start + l);
        out.push_str(&text[from..start]);
        out.push_str(if end > start { ours } else { "" });
        from = end;
    }
    out.push_str(&text[from..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(target: &str) -> Request {
        let headers = BTreeMap::new();
        let host = "management.azure.com".to_owned();
        Request { method: "PUT".to_owned(), host, target: target.to_owned(), headers, body: String::new() }
    }

    #[test]
    fn a_blank_name_is_what_a_template_made() {
        const BLANK: &str = "/subscriptions/s/resourceGroups/000000000000000/providers/Microsoft.X/ys/000000000000000";
        let mut translator = Translator::new("ours", "tenant");
        let target = |t: &Translator| t.request(&at(&format!("{BLANK}?api-version=0000-00-00&$skiptoken=abc"))).target;
        let blank = BLANK.replace("/s/", "/ours/");
        assert_eq!(target(&translator), format!("{blank}?api-version={VERSION_OF_TODAY}"));
        let made = ["/subscriptions/ours/resourceGroups/000000000000000/providers/Microsoft.X/ys/real"];
        translator.learn_made(made.into_iter());
        let named = blank.replace("ys/000000000000000", "ys/real");
        assert_eq!(target(&translator), format!("{named}?api-version={VERSION_OF_TODAY}"));
    }

    #[test]
    fn each_deployment_of_a_blank_name_is_another() {
        const TARGET: &str = "/subscriptions/s/providers/Microsoft.Resources/deployments/mock-deployment?api-version=1";
        let mut translator = Translator::new("s", "tenant");
        for expected in ["mock-deployment", "mock-deployment-2"] {
            translator.counts_deployment(&at(TARGET));
            let sent = translator.request(&at(TARGET));
            assert_eq!(sent.path().rsplit('/').next(), Some(expected));
        }
    }
}
