//! Makes things at a server, by ordinary requests.

use std::collections::BTreeMap;

use anyhow::Result;
use moat_arm::ResourceId;
use serde_json::{Value, json};

use super::super::moat::Moat;
use super::super::recording::{Origin, Recording, Request};
use super::super::translate::Translator;
use super::bodies::Bodies;
use super::hints::Hints;
use super::plain::{self, Wish};
use super::{ARM, Made, Need, Rule, furnished, known, references};

const API_VERSION: &str = "2024-05-01";
/// A document may need others, which need others.
const DEPTH_MAX: usize = 6;
/// What one template may miss.
const MISSING_MAX: usize = 8;

/// Makes things at a server.
pub(crate) struct Maker<'a> {
    moat: &'a mut Moat,
    translator: &'a Translator,
    bodies: &'a Bodies,
    recording: &'a Recording,
    /// Where groups and resources are made.
    location: String,
    /// How many were made, by rule and type.
    pub(crate) made: BTreeMap<(Rule, String), usize>,
    /// What could not be made, with the server's last word on it.
    pub(crate) unmade: BTreeMap<String, String>,
    /// Tags of groups.
    tags: Value,
    hints: Hints,
    turn: u8,
}

impl<'a> Maker<'a> {
    pub(crate) fn new(
        moat: &'a mut Moat,
        translator: &'a Translator,
        bodies: &'a Bodies,
        recording: &'a Recording,
    ) -> Self {
        // The preparer of azure-cli's tests tags every group that it makes.
        let tags = match recording.origin {
            Origin::Cassette => json!({
                "product": "azurecli", "cause": "automation", "date": "2024-01-01T00:00:00Z", "test": "test", "module": "m",
            }),
            Origin::Proxy => Value::Null,
            Origin::Example => furnished::tags(),
        };
        let mut hints = Hints::default();
        for request in recording.exchanges.iter().map(|e| &e.request) {
            let (path, body) = (translator.text(request.path()), translator.text(&request.body));
            if let Some(id) = super::kind::resource(&path) {
                hints.note(&id, &serde_json::from_str(&body).unwrap_or_default());
                hints.addressed(&id);
            }
        }
        let (made, unmade) = Default::default();
        let location = location(recording);
        Self { moat, translator, bodies, recording, location, made, unmade, tags, hints, turn: 0 }
    }

    /// Makes what is needed (in the recording's words) if it is of a type that Moat has and is not there.
    pub(crate) async fn ensure(&mut self, need: &Need) -> Result<()> {
        let Ok(id) = ResourceId::parse(&self.translator.text(need.id.as_str())) else { return Ok(()) };
        let Some(body) = &need.body else { return self.ensure_here(need.rule, id, DEPTH_MAX).await };
        let request = request("PUT", id.as_str(), self.translator.value(body).to_string());
        if self.moat.send(&request).await?.status < 300 {
            *self.made.entry((need.rule, id.resource_type())).or_default() += 1;
        }
        Ok(())
    }

    /// Makes what the template of a request (in the server's words) refers to and the recording does not make.
    pub(crate) async fn ensure_for_template(&mut self, request: &Request, recording: &Recording) -> Result<()> {
        let requests: Vec<&Request> =
            recording.exchanges.iter().map(|e| &e.request).filter(|r| r.host == ARM).collect();
        let made = Made::of(&requests);
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let target = format!("{}/validate?{query}", path.trim_end_matches('/'));
        let asked = Request { method: "POST".to_owned(), target, ..request.clone() };
        for _ in 0..MISSING_MAX {
            let said = self.moat.send(&asked).await?;
            let text = said.answer.body.json().map(Value::to_string).unwrap_or_default();
            let missing = missing_reference(&text).and_then(|id| ResourceId::parse(id).ok());
            // What the template makes itself is not missing when it is referred to.
            let Some(id) = missing.filter(|id| !made.first.contains_key(id.key())) else { break };
            self.ensure_here(Rule::Reference, id.clone(), DEPTH_MAX).await?;
            if self.get(&id).await?.is_none() {
                break;
            }
        }
        Ok(())
    }

    async fn ensure_here(&mut self, rule: Rule, id: ResourceId, depth: usize) -> Result<()> {
        let kind = id.resource_type();
        let id = as_it_may_be_spelled(id, &kind);
        let group = id.namespace().is_none();
        if depth == 0 || (!known(&kind) && !group) {
            // Part of a document (a frontend, an IP configuration): what it is part of.
            return match id.parent().filter(|p| depth > 0 && p.namespace().is_some()) {
                Some(parent) => Box::pin(self.ensure_here(rule, parent, depth - 1)).await,
                None => Ok(()),
            };
        }
        if self.get(&id).await?.is_some() {
            // Made as a part of its parent.
            return match self.is_example() && self.is_read(rule) {
                true => Box::pin(self.take_into_use(&id, depth - 1)).await,
                false => Ok(()),
            };
        }
        let mut parent = Value::Null;
        if let Some(above) = id.parent().filter(|p| p.resource_group().is_some()) {
            let rule = if above.namespace().is_none() { Rule::Group } else { Rule::Parent };
            Box::pin(self.ensure_here(rule, above.clone(), depth - 1)).await?;
            parent = self.get(&above).await?.unwrap_or_default();
        }
        for body in self.candidates(rule, &id, &parent) {
            self.hints.note(&id, &body);
            for reference in references(&id, &body) {
                if !reference.is_within(&id) {
                    Box::pin(self.ensure_here(Rule::Reference, reference, depth - 1)).await?;
                }
            }
            let said = self.moat.send(&request("PUT", id.as_str(), body.to_string())).await?;
            if said.status < 300 {
                self.unmade.remove(id.as_str());
                *self.made.entry((rule, kind.clone())).or_default() += 1;
                if self.is_example() && self.is_read(rule) {
                    Box::pin(self.take_into_use(&id, depth - 1)).await?;
                }
                break;
            }
            let why = said.answer.body.json().map(|b| b["error"]["message"].to_string()).unwrap_or_default();
            self.unmade.insert(id.as_str().to_owned(), format!("{} {why}", said.status));
        }
        Ok(())
    }

    fn is_example(&self) -> bool {
        self.recording.origin == Origin::Example
    }

    /// What is made by this rule is looked at or changed, not only named or taken away.
    fn is_read(&self, rule: Rule) -> bool {
        let deletes = self.recording.exchanges.iter().any(|e| e.request.method == "DELETE");
        matches!(rule, Rule::Target | Rule::Element) && !deletes
    }

    /// Bodies to try, best first.
    fn candidates(&mut self, rule: Rule, id: &ResourceId, parent: &Value) -> Vec<Value> {
        self.turn = self.turn.wrapping_add(1);
        let wish = Wish {
            id,
            location: &self.location,
            tenant: self.moat.tenant(),
            tags: &self.tags,
            hints: &self.hints,
            parent,
            turn: self.turn,
        };
        let mut plain = plain::body(&wish);
        if !self.is_example() {
            return plain.into_iter().collect();
        }
        if self.hints.remote(id).is_some() {
            plain = plain.map(|plain| furnished::under(plain, &furnished::remote()));
        }
        let mut samples: Vec<Value> = self.bodies.like(&self.recording.name, &id.resource_type());
        for sample in &mut samples {
            *sample = self.translator.value(sample);
            // What refers to each other lies in one region.
            if sample["location"].as_str().is_some_and(|l| !l.eq_ignore_ascii_case("global")) {
                sample["location"] = json!(self.location);
            }
        }
        if !self.is_read(rule) {
            return plain.into_iter().chain(samples).collect();
        }
        let furnished = furnished::body(&wish).or_else(|| plain.clone());
        let mut bodies = Vec::new();
        for sample in samples {
            if let Some(furnished) = &furnished {
                bodies.push(furnished::under(sample.clone(), furnished));
            }
            bodies.push(sample);
        }
        if rule == Rule::Element && bodies.len() > 1 {
            // Each element of a list is like another example.
            let turn = usize::from(self.turn) % (bodies.len() / 2);
            bodies.rotate_left(2 * turn);
        }
        bodies.into_iter().chain(furnished).chain(plain).collect()
    }

    /// Makes what uses `id`.
    async fn take_into_use(&mut self, id: &ResourceId, depth: usize) -> Result<()> {
        let body = self.get(id).await?.unwrap_or_default();
        for (user, body) in furnished::users(id, &body, &self.location) {
            if self.get(&user).await?.is_some() {
                continue;
            }
            let above = user.parent().filter(|p| p.namespace().is_some());
            for needed in references(&user, &body).into_iter().chain(above) {
                Box::pin(self.ensure_here(Rule::Reference, needed, depth.saturating_sub(1))).await?;
            }
            let said = self.moat.send(&request("PUT", user.as_str(), body.to_string())).await?;
            if said.status < 300 {
                *self.made.entry((Rule::Use, user.resource_type())).or_default() += 1;
            } else {
                let why = said.answer.body.json().map(|b| b["error"]["message"].to_string()).unwrap_or_default();
                self.unmade.insert(user.as_str().to_owned(), format!("{} {why}", said.status));
            }
        }
        Ok(())
    }

    async fn get(&mut self, id: &ResourceId) -> Result<Option<Value>> {
        let said = self.moat.send(&request("GET", id.as_str(), String::new())).await?;
        Ok(said.answer.body.json().filter(|_| said.status == 200).cloned())
    }
}

/// What an answer says was referred to and is not there.
fn missing_reference(answer: &str) -> Option<&str> {
    let (_, rest) = answer.split_once("Resource /subscriptions/")?;
    let (id, _) = rest.split_once(" referenced by")?;
    let start = answer.len() - rest.len() - "/subscriptions/".len();
    answer.get(start..start + "/subscriptions/".len() + id.len())
}

/// Ids are compared without regard to case, but an account's own name is in lower case.
fn as_it_may_be_spelled(id: ResourceId, kind: &str) -> ResourceId {
    let name = id.name().to_lowercase();
    match kind.eq_ignore_ascii_case("Microsoft.Storage/storageAccounts").then(|| id.as_str().rsplit_once('/')) {
        Some(Some((above, _))) => ResourceId::parse(&format!("{above}/{name}")).unwrap_or(id),
        _ => id,
    }
}

/// The first location that the requests name: where a person who records has everything.
fn location(recording: &Recording) -> String {
    let named = recording.exchanges.iter().find_map(|e| {
        let body: Value = serde_json::from_str(&e.request.body).ok()?;
        body["location"].as_str().filter(|l| !l.eq_ignore_ascii_case("global")).map(str::to_owned)
    });
    named.unwrap_or_else(|| "westus".to_owned())
}

fn request(method: &str, path: &str, body: String) -> Request {
    Request {
        method: method.to_owned(),
        host: ARM.to_owned(),
        target: format!("{}?api-version={API_VERSION}", path.replace(' ', "%20")),
        headers: BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]),
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_misses_is_read_out_of_it() {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a";
        let said =
            format!("{{\"message\": \"Resource {id} referenced by resource /subscriptions/s/x was not found.\"}}");
        assert_eq!(missing_reference(&said), Some(id));
        assert_eq!(missing_reference("something else"), None);
    }
}
