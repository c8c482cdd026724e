//! Holds `docs/requirements.md` to the truth: every test it names exists, and no entry of the catalogue is forgotten.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::shared::root;

/// Families whose entries the table must speak of.
const FAMILIES: [&str; 4] = ["AML-RES-", "AML-NET-", "AML-PRE-", "AML-LIF-"];

fn sources(folder: &Path, found: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn table() -> String {
    std::fs::read_to_string(root().join("docs/requirements.md")).unwrap()
}

/// `AML-RES-002, 005, 007` names three entries.
fn entries(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut family = None;
    for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
        let number = |t: &str| t.len() == 3 && t.bytes().all(|b| b.is_ascii_digit());
        match FAMILIES.iter().find(|f| word.strip_prefix(**f).is_some_and(number)) {
            Some(known) => {
                family = Some(*known);
                found.insert(word.to_owned());
            }
            None if number(word) => found.extend(family.map(|f| format!("{f}{word}"))),
            None if word.is_empty() || word == "AND" || word == "and" => {}
            None => family = None,
        }
    }
    found
}

#[test]
fn every_test_that_the_table_names_exists() {
    let mut code = String::new();
    sources(&root().join("crates"), &mut code);
    let table = table();
    let rows = table.lines().filter(|l| l.starts_with("| AML-"));
    let mut names = 0;
    for row in rows {
        let tests = row.rsplit(" | ").next().unwrap();
        for name in tests.split('`').skip(1).step_by(2) {
            let (start, short) = match name.strip_suffix('…') {
                Some(start) => (start, true),
                None => (name, false),
            };
            if !start.contains('_') || start.contains(' ') {
                continue; // an edition or a command, no test
            }
            names += 1;
            let end = if short { "" } else { "(" };
            assert!(code.contains(&format!("fn {start}{end}")), "no test `{name}`, which this row names: {row}");
        }
    }
    assert!(names > 20, "the table was not understood");
}

#[test]
fn every_entry_that_runs_stands_in_the_table() {
    let shared = std::env::var_os("MOAT_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let Ok(catalogue) = std::fs::read_to_string(shared.join("spec/requirements.yaml")) else {
        eprintln!("SKIPPED: the catalogue is not there (set MOAT_SHARED)");
        return;
    };
    let known = entries(&table());
    let mut id = String::new();
    let mut seen = 0;
    for line in catalogue.lines() {
        if let Some(next) = line.strip_prefix("- id: ") {
            id = next.trim().to_owned();
        }
        let runs = matches!(line.trim(), "check_kind: runtime" | "check_kind: both");
        if runs && FAMILIES.iter().any(|f| id.starts_with(f)) {
            seen += 1;
            assert!(known.contains(&id), "{id} is not in docs/requirements.md");
        }
    }
    assert!(seen > 40, "the catalogue was not understood");
}
