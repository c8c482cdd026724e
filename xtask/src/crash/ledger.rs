//! What was acknowledged, by path; and whether it is still so.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use crate::api::Api;

/// A document as somebody asked for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// Deleted, or never made.
    Absent,
    /// Written so.
    Written(Value),
}

/// The last acknowledged state of one document, and what may or may not have come after it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) acknowledged: State,
    /// Version the acknowledgement named.
    pub(super) etag: Option<String>,
    /// Sent, but the answer did not come: both outcomes are right.
    pub(super) unanswered: Option<State>,
}

/// All documents that were written, and the nodes that were asked for.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) entries: BTreeMap<String, Entry>,
    /// Nodes asked for and acknowledged.
    pub(super) demand: Option<u64>,
    /// Nodes asked for when the kill came.
    pub(super) demand_unanswered: Option<u64>,
}

impl Ledger {
    /// How many documents are known.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Reads every document and says what is not as it was acknowledged. What turns out to have been
    /// applied without an answer counts as acknowledged from here on; what is wrong is told once and forgotten.
    pub(super) async fn compare(&mut self, api: &Api) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        let mut forget = Vec::new();
        let mut connection = api.connect().await?;
        for (path, entry) in &mut self.entries {
            let answer = connection.send("GET", path, None).await?;
            let found = match answer.status {
                200 => Some(&answer.body),
                404 => None,
                other => {
                    wrong.push(format!("GET {path}: {other} {}", answer.body));
                    forget.push(path.clone());
                    continue;
                }
            };
            let etag = found.and_then(|body| body["etag"].as_str()).map(str::to_owned);
            if entry.unanswered.as_ref().is_some_and(|state| differs(state, found).is_none()) {
                if let Some(state) = entry.unanswered.take() {
                    *entry = Entry { acknowledged: state, etag, unanswered: None };
                }
                continue;
            }
            entry.unanswered = None;
            let version = || format!("version {:?} was acknowledged, {etag:?} is there", entry.etag);
            let other = (entry.etag != etag).then(version);
            if let Some(text) = differs(&entry.acknowledged, found).or(other) {
                wrong.push(format!("{path}: {text}"));
                forget.push(path.clone());
            }
        }
        self.entries.retain(|path, _| !forget.contains(path));
        Ok(wrong)
    }

    /// Whether the nodes aimed at are those somebody asked for.
    pub(super) fn check_demand(&mut self, target: Option<u64>) -> Option<String> {
        let fits = |asked: Option<u64>| asked.is_some() && asked == target;
        if self.demand.is_none() && self.demand_unanswered.is_none() || fits(self.demand) {
            return None;
        }
        if fits(self.demand_unanswered) {
            self.demand = self.demand_unanswered;
            return None;
        }
        Some(format!("{:?} nodes were asked for, the cluster aims at {target:?}", self.demand))
    }

    /// What was not answered has been settled one way or the other.
    pub(super) fn settle_demand(&mut self) {
        self.demand_unanswered = None;
    }

    /// It was told that the nodes aimed at are not those asked for.
    pub(super) fn forget_demand(&mut self) {
        (self.demand, self.demand_unanswered) = (None, None);
    }
}

/// Why `found` is not `wanted`, if so.
fn differs(wanted: &State, found: Option<&Value>) -> Option<String> {
    match (wanted, found) {
        (State::Absent, None) => None,
        (State::Absent, Some(body)) => Some(format!("its deletion was acknowledged, yet it is there: {body}")),
        (State::Written(_), None) => Some("it was acknowledged, and is gone".to_owned()),
        (State::Written(sent), Some(body)) => {
            missing(sent, body, "").map(|at| format!("`{at}` is not as it was written"))
        }
    }
}

/// The first place where `found` lacks what was `sent`; the service may have added to it.
fn missing(sent: &Value, found: &Value, at: &str) -> Option<String> {
    match (sent, found) {
        (Value::Object(sent), Value::Object(found)) => sent
            .iter()
            .find_map(|(name, value)| missing(value, found.get(name).unwrap_or(&Value::Null), &format!("{at}.{name}"))),
        (Value::Array(sent), Value::Array(found)) if sent.len() == found.len() => {
            sent.iter().zip(found).enumerate().find_map(|(i, (s, f))| missing(s, f, &format!("{at}[{i}]")))
        }
        (sent, found) => (sent != found).then(|| at.trim_start_matches('.').to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn additions_are_fine_and_losses_are_named() {
        let sent = State::Written(json!({"tags": {"n": "1"}, "rules": [{"p": 1}]}));
        let found = json!({"tags": {"n": "1"}, "rules": [{"p": 1, "state": "x"}], "etag": "e"});
        assert_eq!(differs(&sent, Some(&found)), None);
        assert_eq!(differs(&State::Absent, None), None);
        for (body, at) in [
            (json!({"tags": {"n": "2"}, "rules": [{"p": 1}]}), "tags.n"),
            (json!({"tags": {"n": "1"}, "rules": []}), "rules"),
            (json!({"tags": {"n": "1"}, "rules": [{"p": 2}]}), "rules[0].p"),
        ] {
            assert_eq!(differs(&sent, Some(&body)), Some(format!("`{at}` is not as it was written")));
        }
        assert!(differs(&sent, None).is_some());
        assert!(differs(&State::Absent, Some(&found)).is_some());
    }

    #[test]
    fn a_scale_request_without_an_answer_may_count_or_not() {
        let ledger = || Ledger { demand: Some(2), demand_unanswered: Some(3), ..Ledger::default() };
        assert_eq!(ledger().check_demand(Some(2)), None);
        assert_eq!(ledger().check_demand(Some(3)), None);
        assert!(ledger().check_demand(Some(1)).is_some());
        assert!(ledger().check_demand(None).is_some());
    }
}
