//! The truth vectors: 100 worlds, 2,500 packets, every expected member of every answer.
//!
//! They are not part of this repository: they are read from `$MOAT_SHARED/vectors` or from
//! `../shared/vectors` beside it, and the test says so when it has to skip.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods, reason = "a test reads files")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use moat_model::world_file::{Case, World};
use moat_net::tags::TagSource;
use serde_json::Value;

fn vectors() -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("MOAT_SHARED").map(PathBuf::from).unwrap_or_else(|| root.join("../shared"));
    let dev = shared.join("vectors/dev");
    dev.join("cases.jsonl").is_file().then_some(dev)
}

#[test]
fn every_case_of_the_truth_vectors_agrees() {
    let Some(dev) = vectors() else {
        eprintln!("SKIPPED: no truth vectors; set MOAT_SHARED to the folder that holds vectors/");
        return;
    };
    let mut worlds: BTreeMap<String, World> = BTreeMap::new();
    let (mut cases, mut wrong) = (0, Vec::new());
    for line in std::fs::read_to_string(dev.join("cases.jsonl")).unwrap().lines() {
        let case = Case::parse(line).unwrap();
        let name = case.topology.clone().unwrap();
        let world = worlds.entry(name.clone()).or_insert_with(|| {
            let world = World::parse(&std::fs::read_to_string(dev.join(&name)).unwrap(), &TagSource::None).unwrap();
            assert_eq!(world.problems, [], "{name}");
            world
        });
        let answer = serde_json::to_value(world.run(&case).unwrap()).unwrap();
        let expected: Value = serde_json::from_str(line).unwrap();
        for (member, value) in expected["expected"].as_object().unwrap() {
            if answer.get(member) != Some(value) {
                wrong.push(format!("{} {member}: got {}, want {value}", case.id, answer[member]));
            }
        }
        cases += 1;
    }
    assert!(wrong.is_empty(), "{} of {cases} cases differ:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert!(cases >= 2500, "only {cases} cases");
}
