//! Plays one recording against a fresh Moat and compares what it says.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::Value;

use super::blanks;
use super::kind::{self, Kind};
use super::moat::{Mould, Said};
use super::prerequisites::{self, Bodies, Maker, Rule};
use super::recording::{Answer, Body, Exchange, Expected, Origin, Recording, Request};
use super::score::{self, Context, Difference};
use super::translate::{self, Poll, Translator};

/// One exchange, compared.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) kind: Kind,
    /// Method; `poll` for polls of operations.
    pub(crate) method: String,
    /// What was asked, in the recording's words.
    pub(crate) asked: String,
    pub(crate) differences: Vec<Difference>,
    /// The stub's answer counts as the recorded one.
    pub(crate) stub: bool,
}

/// One recording, compared.
#[derive(Debug, Default)]
pub(crate) struct Played {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) made: BTreeMap<(Rule, String), usize>,
    /// What should have been made, and why it was not.
    pub(crate) unmade: BTreeMap<String, String>,
}

/// Plays `recording`.
pub(crate) async fn play(recording: &Recording, mould: &Mould, bodies: &Bodies) -> Result<Played> {
    let recording = &blanks::named(&translate::with_workspace(recording));
    let mut moat = mould.cast().await?;
    let mut translator = Translator::new(moat.subscription(), moat.tenant());
    let example = recording.origin == Origin::Example;
    let mut maker = Maker::new(&mut moat, &translator, bodies, recording);
    for need in prerequisites::of(recording) {
        maker.ensure(&need).await?;
    }
    let Maker { mut made, mut unmade, .. } = maker;
    let own = own_ids(recording, &translator);
    let mut outcomes = Vec::new();
    let mut started: BTreeMap<String, Kind> = BTreeMap::new();
    let mut foreign: BTreeMap<String, String> = BTreeMap::new();
    for exchange in &recording.exchanges {
        let Exchange { request, expected } = exchange;
        let poll = translator.poll(request);
        translator.counts_deployment(request);
        let mut sent = translator.request(request);
        let (kind, method) = match translator.operation(request).and_then(|o| started.get(&o)) {
            Some(kind) => (kind.clone(), "poll".to_owned()),
            None => (kind_of(request, &mut foreign), request.method.clone()),
        };
        if is_token_request(request) {
            sent.body = moat.token_form(&asked_scope(&request.body));
        }
        if is_deployment(&sent) && !example {
            let mut maker = Maker::new(&mut moat, &translator, bodies, recording);
            maker.ensure_for_template(&sent, recording).await?;
            for (what, count) in maker.made {
                *made.entry(what).or_default() += count;
            }
            unmade.extend(maker.unmade);
        }
        let said = match poll {
            Poll::Unnamed => Err("the operation was over at once and has no name here".to_owned()),
            Poll::At(host, target) => {
                (sent.host, sent.target) = (host, target);
                moat.send(&sent).await.map_err(|e| format!("{e:#}"))
            }
            Poll::None => moat.send(&sent).await.map_err(|e| format!("{e:#}")),
        };
        let said = match said {
            // An example of a PUT may be one of a change: the second time it is.
            Ok(first) if example && sent.method == "PUT" && !expected.answers.contains_key(&first.status) => {
                moat.send(&sent).await.map_err(|e| format!("{e:#}"))
            }
            other => other,
        };
        if let Ok(said) = &said
            && let Some(answer) = expected.answers.get(&said.status).or_else(|| expected.answers.values().next())
        {
            translator.learn(answer, &said.answer);
        }
        if let Ok(said) = &said
            && said.status < 300
            && is_deployment(&sent)
        {
            let here = Request { method: "GET".to_owned(), body: String::new(), ..sent.clone() };
            let here = moat.send(&here).await?;
            let made = here.answer.body.json().and_then(|b| b["properties"]["outputResources"].as_array());
            translator.learn_made(made.into_iter().flatten().filter_map(|r| r["id"].as_str()));
        }
        for (_, operation) in expected.answers.values().flat_map(super::polls::announced) {
            started.insert(operation, kind.clone());
        }
        let expected = translated(expected, &translator);
        let body: Value = serde_json::from_str(&sent.body).unwrap_or_default();
        let path = sent.path().to_lowercase();
        let context = Context { own: &own, example, path: &path, sent: &body };
        let compare = |said: &Said| score::compare(&expected, said, &context);
        outcomes.push(Outcome {
            kind,
            method,
            asked: format!("{} {}", request.method, request.target),
            differences: match &said {
                Ok(said) => compare(said),
                Err(why) => vec![Difference::NoAnswer(why.clone())],
            },
            stub: compare(&score::stub()).is_empty(),
        });
    }
    Ok(Played { outcomes, made, unmade })
}

/// The ids that the requests address, in the server's words.
fn own_ids(recording: &Recording, translator: &Translator) -> BTreeSet<String> {
    let requests = recording.exchanges.iter().map(|e| &e.request);
    let ids = requests.filter(|r| r.method != "GET" && r.method != "HEAD").filter_map(|r| kind::resource(r.path()));
    ids.map(|id| translator.text(id.as_str()).to_lowercase()).collect()
}

fn translated(expected: &Expected, translator: &Translator) -> Expected {
    let answers = expected.answers.iter().map(|(status, answer)| {
        let body = match &answer.body {
            Body::Json(value) => Body::Json(translator.value(value)),
            other => other.clone(),
        };
        (*status, Answer { headers: answer.headers.clone(), body })
    });
    Expected { answers: answers.collect() }
}

/// What a request is about; `foreign` are the deployments so far with something in them that Moat does not have.
fn kind_of(request: &Request, foreign: &mut BTreeMap<String, String>) -> Kind {
    let kind = Kind::of(request);
    if !kind.name.eq_ignore_ascii_case("Microsoft.Resources/deployments") {
        return kind;
    }
    let Some(deployment) = kind::resource(request.path()) else { return kind };
    let body = serde_json::from_str(&request.body).unwrap_or_default();
    if let Some(found) = kind::foreign_type(&body) {
        foreign.insert(deployment.key().to_owned(), found);
    }
    foreign.get(deployment.key()).map_or(kind, |found| Kind::deployment_with(found))
}

/// Whether a request deploys a template.
fn is_deployment(request: &Request) -> bool {
    let path = request.path().to_lowercase();
    let mut from_end = path.trim_end_matches('/').rsplit('/').skip(1);
    request.method == "PUT" && from_end.next() == Some("deployments")
}

/// Recordings blank out who asked for a token; here the environment's own principal does.
fn is_token_request(request: &Request) -> bool {
    request.host == "login.microsoftonline.com" && request.path().ends_with("/token")
}

/// What a recorded form asked a token for.
fn asked_scope(form: &str) -> String {
    let scope = form.split('&').find_map(|p| p.strip_prefix("scope=").or_else(|| p.strip_prefix("resource=")));
    match scope.map(|s| s.replace("%3A", ":").replace("%2F", "/").replace('+', " ")) {
        Some(scope) if scope.starts_with("https://") => scope.split(' ').next().unwrap_or_default().to_owned(),
        _ => "https://management.azure.com/.default".to_owned(),
    }
}
