//! Names of parts of a resource that a recording blanks out in what was sent and keeps in what was answered
//! (`codes/000000000000000` for one version and the next): a blank is what the answer's own `id` says there, else what
//! the next answer about the same blank says. So it is with the one name that azure-cli's tests write in place of that of
//! every deployment.

use super::polls;
use super::recording::{Exchange, Recording};
use super::translate::{MOCK_DEPLOYMENT, is_blank};

/// Where in a path the names of parts begin: below `/subscriptions/S/resourceGroups/G/providers/N/T/NAME`.
const PARTS: usize = 9;

/// A recording with those names in its addresses.
pub(crate) fn named(recording: &Recording) -> Recording {
    let mut named = recording.clone();
    for (at, exchange) in named.exchanges.iter_mut().enumerate() {
        let later = recording.exchanges.get(at..).unwrap_or_default();
        let (path, query) = match exchange.request.target.split_once('?') {
            Some((path, query)) => (path, format!("?{query}")),
            None => (exchange.request.target.as_str(), String::new()),
        };
        let mut segments: Vec<&str> = path.split('/').collect();
        let blanks: Vec<usize> =
            (PARTS..segments.len()).filter(|s| s % 2 == 0 && is_blank_part(segments[*s])).collect();
        for blank in blanks {
            let about = segments_of(path).take(blank + 1).collect::<Vec<_>>();
            if let Some(name) = later.iter().find_map(|e| said(e, &about)) {
                segments[blank] = name;
            }
        }
        let deployment = scope_of_mock(path).and_then(|scope| later.iter().find_map(|e| deployment_said(e, &scope)));
        let mut target = segments.join("/");
        if let Some(name) = deployment {
            target = target.replace(&format!("/deployments/{MOCK_DEPLOYMENT}"), &format!("/deployments/{name}"));
        }
        exchange.request.target = format!("{target}{query}");
    }
    named
}

/// The scope of a deployment whose name was replaced; polls keep theirs, since by it their operation is known.
fn scope_of_mock(path: &str) -> Option<String> {
    let (scope, rest) = path.split_once("/deployments/")?;
    let mock = rest.split('/').next() == Some(MOCK_DEPLOYMENT) && !polls::is_operation(path);
    let scope = scope.to_lowercase();
    mock.then(|| scope.trim_end_matches("/providers/microsoft.resources").to_owned())
}

/// What an answer says is the name of the deployment of a scope.
fn deployment_said<'a>(exchange: &'a Exchange, scope: &str) -> Option<&'a str> {
    scope_of_mock(exchange.request.path()).filter(|s| s == scope)?;
    let (_, rest) = said_id(exchange)?.split_once("/deployments/")?;
    rest.split('/').next()
}

/// The id of what was answered, or of the first of several.
fn said_id(exchange: &Exchange) -> Option<&str> {
    let (_, answer) = exchange.expected.answers.iter().find(|(status, _)| **status < 300)?;
    let body = answer.body.json()?;
    body.get("id").or_else(|| body.pointer("/value/0/id"))?.as_str()
}

/// What an answer says in place of the last of these segments, if it was asked for them.
fn said<'a>(exchange: &'a Exchange, about: &[String]) -> Option<&'a str> {
    if !segments_of(exchange.request.path()).take(about.len()).eq(about.iter().cloned()) {
        return None;
    }
    let id = said_id(exchange)?;
    let kind = about.get(about.len().checked_sub(2)?)?;
    let mut segments = id.split('/').skip(about.len() - 2);
    segments.next().filter(|s| s.eq_ignore_ascii_case(kind))?;
    segments.next().filter(|name| !is_blank_part(name))
}

fn segments_of(path: &str) -> impl Iterator<Item = String> {
    path.split('/').map(str::to_lowercase)
}

/// Blanks of parts may have the form of a GUID.
fn is_blank_part(name: &str) -> bool {
    is_blank(&name.replace('-', ""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::super::recording::{Answer, Body, Expected, Origin, Request};
    use super::*;

    const WORKSPACE: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.X/ys/00000";

    fn exchange(method: &str, part: &str, status: u16, body: Value) -> Exchange {
        let (host, target) = ("management.azure.com".to_owned(), format!("{WORKSPACE}/{part}?api-version=1"));
        let (method, headers, sent) = (method.to_owned(), BTreeMap::new(), String::new());
        let answer = Answer { headers: BTreeMap::new(), body: Body::Json(body) };
        let expected = Expected { answers: BTreeMap::from([(status, answer)]) };
        Exchange { request: Request { method, host, target, headers, body: sent }, expected }
    }

    #[test]
    fn a_blank_part_is_what_its_own_answer_or_the_next_one_says() {
        let says = |name: &str| json!({"id": format!("{}/codes/{name}/versions/1", WORKSPACE.replace("00000", "w"))});
        let exchanges = vec![
            exchange("GET", "codes/00000000-0000/versions", 404, json!({})),
            exchange("PUT", "codes/00000000-0000/versions/1", 201, says("first")),
            exchange("PUT", "codes/00000000-0000/versions/1", 201, says("second")),
            exchange("GET", "datas/00000/versions/1", 200, json!({})),
        ];
        let (name, origin) = ("r".to_owned(), Origin::Cassette);
        let recording = named(&Recording { name, origin, exchanges, repeated_polls: 0 });
        let parts: Vec<&str> =
            recording.exchanges.iter().map(|e| e.request.path().strip_prefix(WORKSPACE).unwrap()).collect();
        let expected =
            ["/codes/first/versions", "/codes/first/versions/1", "/codes/second/versions/1", "/datas/00000/versions/1"];
        assert_eq!(parts, expected);
    }

    #[test]
    fn a_deployment_has_the_name_that_its_answer_tells() {
        const SCOPE: &str = "/subscriptions/s/resourcegroups/g";
        let said = json!({"id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Resources/deployments/real"});
        let mut exchanges = vec![exchange("POST", "", 204, Value::Null), exchange("PUT", "", 201, said)];
        exchanges[0].request.target = format!("{SCOPE}/deployments/mock-deployment/cancel?api-version=1");
        exchanges[1].request.target = format!("{SCOPE}/providers/Microsoft.Resources/deployments/mock-deployment");
        let (name, origin) = ("r".to_owned(), Origin::Cassette);
        let recording = named(&Recording { name, origin, exchanges, repeated_polls: 0 });
        let targets: Vec<&str> = recording.exchanges.iter().map(|e| e.request.target.as_str()).collect();
        assert_eq!(targets[0], format!("{SCOPE}/deployments/real/cancel?api-version=1"));
        assert_eq!(targets[1], format!("{SCOPE}/providers/Microsoft.Resources/deployments/real"));
    }
}
