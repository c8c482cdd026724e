//! Recordings of our own, right and then made wrong in one way each: what is wrong must cost.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use moat_model::Edition;
use serde_json::json;

use super::moat::Mould;
use super::play::{Played, play};
use super::prerequisites::Bodies;
use super::read;
use super::recording::{Body, Recording};
use super::report::Report;

fn samples() -> read::Found {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/replay/samples");
    read::all(&[folder]).unwrap()
}

fn sample(name: &str) -> Recording {
    samples().recordings.into_iter().find(|r| r.name.ends_with(name)).unwrap()
}

fn replay(recording: &Recording) -> Played {
    let mould = Mould::new(Edition::Current).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(play(recording, &mould, &Bodies::default())).unwrap()
}

/// Each exchange in one line: what it is about and what differs.
fn told(played: &Played) -> Vec<String> {
    let line = |o: &super::play::Outcome| {
        let differences: Vec<_> = o.differences.iter().map(ToString::to_string).collect();
        let kind = o.kind.name.rsplit('/').next().unwrap();
        format!(
            "{} {kind}: {}",
            o.method,
            if differences.is_empty() { "alike".to_owned() } else { differences.join("; ") }
        )
    };
    played.outcomes.iter().map(line).collect()
}

#[test]
fn what_can_be_read_is_read_and_the_rest_is_named() {
    let found = samples();
    let names: Vec<_> = found.recordings.iter().map(|r| r.name.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["network.yaml", "proxy.json", "SubnetGet.json"]);
    assert_eq!(found.recordings[0].repeated_polls, 1, "only the last poll of an operation counts");
    let (name, why) = found.unreadable.first_key_value().unwrap();
    assert!(name.ends_with("Mystery.json") && why.contains("its name says no method"), "{name}: {why}");
    assert_eq!(found.unreadable.len(), 1);
}

#[test]
fn a_right_answer_is_alike_and_a_stub_is_not() {
    let played = replay(&sample("network.yaml"));
    assert_eq!(
        told(&played),
        [
            "PUT resourceGroups: alike",
            "PUT virtualNetworks: alike",
            "poll virtualNetworks: alike",
            "GET subnets: alike"
        ]
    );
    let recordings = [sample("network.yaml")];
    let report = Report::of(&recordings, &[played], Default::default());
    let tally = report.in_scope();
    assert_eq!((tally.alike, tally.stub, tally.all), (4, 0, 4));
}

#[test]
fn what_a_recording_takes_for_granted_is_made_and_counted() {
    let played = replay(&sample("proxy.json"));
    assert_eq!(told(&played), ["PUT networkSecurityGroups: alike", "GET networkSecurityGroups: alike"]);
    let made: Vec<_> = played.made.keys().map(|(rule, _)| rule.as_str()).collect();
    assert_eq!(made, ["group"]);
    let played = replay(&sample("SubnetGet.json"));
    assert_eq!(told(&played), ["GET subnets: alike"]);
    let made: Vec<_> = played.made.keys().map(|(rule, _)| rule.as_str()).collect();
    assert_eq!(made, ["group", "parent", "target", "use"], "the subnet that is read is in use");
}

/// Changes what exchange `index` of the cassette expects.
#[track_caller]
fn wrong(index: usize, change: impl Fn(u16, &mut serde_json::Value) -> u16, expected: &str) {
    let mut recording = sample("network.yaml");
    let answers = &mut recording.exchanges[index].expected.answers;
    let (status, mut answer) = answers.pop_first().unwrap();
    let Body::Json(body) = &mut answer.body else { unreachable!("every answer of the sample is JSON") };
    let status = change(status, body);
    answers.insert(status, answer);
    let played = replay(&recording);
    let differences: Vec<_> = played.outcomes.iter().filter(|o| !o.differences.is_empty()).collect();
    assert_eq!(differences.len(), 1, "{:?}", told(&played));
    let said = differences[0].differences[0].to_string();
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn each_kind_of_difference_costs_its_exchange() {
    wrong(1, |_, _| 200, "status 201, recorded 200");
    wrong(
        3,
        |status, body| {
            body["error"]["code"] = json!("SomethingElse");
            status
        },
        "error code NotFound, recorded SomethingElse",
    );
    wrong(
        1,
        |status, body| {
            body["properties"]["subnets"][0]["properties"]["wat"] = json!("?");
            status
        },
        "without properties.subnets[].properties.wat",
    );
    wrong(
        1,
        |status, body| {
            body["properties"]["subnets"] = json!({});
            status
        },
        "properties.subnets is an array, recorded an object",
    );
    wrong(
        1,
        |status, body| {
            body["name"] = json!("other");
            status
        },
        "name is net, recorded other",
    );
}

#[test]
fn a_null_asks_nothing() {
    let mut recording = sample("proxy.json");
    let answer = recording.exchanges[1].expected.answers.get_mut(&200).unwrap();
    answer.body = Body::Json(json!({"properties": {"wat": null}}));
    assert!(replay(&recording).outcomes[1].differences.is_empty());
}
