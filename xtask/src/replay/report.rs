//! Counts outcomes and writes them down.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::kind::{self, Kind};
use super::play::Played;
use super::prerequisites::Rule;
use super::recording::Recording;

/// How many are alike.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) alike: usize,
    pub(crate) stub: usize,
    pub(crate) all: usize,
}

impl Tally {
    pub(crate) fn percent(self) -> f64 {
        percent(self.alike, self.all)
    }
    fn add(&mut self, other: Tally) {
        self.alike += other.alike;
        self.stub += other.stub;
        self.all += other.all;
    }
}

fn percent(part: usize, all: usize) -> f64 {
    if all == 0 { 0.0 } else { 100.0 * part as f64 / all as f64 }
}

/// Everything about one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: BTreeMap<(Kind, String), Tally>,
    /// First difference of each exchange in scope that is not alike, by class.
    classes: BTreeMap<&'static str, usize>,
    made: BTreeMap<(Rule, String), usize>,
    unmade: usize,
    unreadable: BTreeMap<String, String>,
    recordings: usize,
    repeated_polls: usize,
}

impl Report {
    pub(crate) fn of(recordings: &[Recording], played: &[Played], unreadable: BTreeMap<String, String>) -> Self {
        let mut report = Self { unreadable, recordings: recordings.len(), ..Self::default() };
        report.repeated_polls = recordings.iter().map(|r| r.repeated_polls).sum();
        for one in played {
            for (what, count) in &one.made {
                *report.made.entry(what.clone()).or_default() += count;
            }
            report.unmade += one.unmade.len();
            for outcome in &one.outcomes {
                let alike = outcome.differences.is_empty();
                let row = report.rows.entry((outcome.kind.clone(), outcome.method.clone())).or_default();
                row.add(Tally { alike: usize::from(alike), stub: usize::from(outcome.stub), all: 1 });
                if let Some(first) = outcome.differences.first().filter(|_| outcome.kind.in_scope) {
                    *report.classes.entry(first.class()).or_default() += 1;
                }
            }
        }
        report
    }

    fn sum(&self, wanted: impl Fn(&Kind) -> bool) -> Tally {
        let mut sum = Tally::default();
        self.rows.iter().filter(|((kind, _), _)| wanted(kind)).for_each(|(_, tally)| sum.add(*tally));
        sum
    }

    /// Of the types that Moat has.
    pub(crate) fn in_scope(&self) -> Tally {
        self.sum(|k| k.in_scope)
    }

    /// Rows by type, those in scope first.
    fn table(&self, in_scope_only: bool) -> Vec<(String, String, Tally)> {
        let mut rows: Vec<_> = self.rows.iter().filter(|((k, _), _)| k.in_scope || !in_scope_only).collect();
        rows.sort_by_key(|((kind, method), _)| (!kind.in_scope, kind.name.clone(), method.clone()));
        let name = |k: &Kind| if k.in_scope { k.name.clone() } else { format!("- {}", k.name) };
        rows.into_iter().map(|((k, m), t)| (name(k), m.clone(), *t)).collect()
    }

    /// For people.
    pub(crate) fn text(&self, in_scope_only: bool) -> String {
        let mut out = String::new();
        for (name, method, tally) in self.table(in_scope_only) {
            let Tally { alike, stub, all } = tally;
            let _ = writeln!(
                out,
                "{name:<66} {method:<6} {alike:>5} of {all:>5} {:>6.1} %  stub {stub:>5}",
                tally.percent()
            );
        }
        let _ = writeln!(out, "\n{}", self.summary().join("\n"));
        out
    }

    fn summary(&self) -> Vec<String> {
        let line = |what: &str, t: Tally| {
            format!(
                "{what}: {} of {} exchanges alike, {:.1} % (a stub that answers 200 {{}}: {}, {:.1} %)",
                t.alike,
                t.all,
                t.percent(),
                t.stub,
                percent(t.stub, t.all)
            )
        };
        let mut lines = vec![
            line("in scope", self.in_scope()),
            line("in scope without polls", {
                let mut sum = Tally::default();
                let rows = self.rows.iter().filter(|((k, m), _)| k.in_scope && m != "poll");
                rows.for_each(|(_, t)| sum.add(*t));
                sum
            }),
            line("all", self.sum(|_| true)),
        ];
        let classes: Vec<_> = self.classes.iter().map(|(class, n)| format!("{class} {n}")).collect();
        lines.push(format!("first difference of those in scope: {}", classes.join(", ")));
        let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
        for ((rule, _), count) in &self.made {
            *rules.entry(rule.as_str()).or_default() += count;
        }
        let rules: Vec<_> = rules.iter().map(|(rule, n)| format!("{rule} {n}")).collect();
        lines.push(format!("made beforehand, by rule: {}; could not be made: {}", rules.join(", "), self.unmade));
        lines.push(format!(
            "{} recordings, {} repeated polls left out, {} files unreadable",
            self.recordings,
            self.repeated_polls,
            self.unreadable.len()
        ));
        lines
    }

    /// For the record.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::new();
        for line in self.summary() {
            let _ = writeln!(out, "* {line}");
        }
        let _ = writeln!(out, "\n| type | method | alike | of | % | stub |\n|---|---|---|---|---|---|");
        for (name, method, t) in self.table(false) {
            let name = name.replace('*', "\\*");
            let _ = writeln!(out, "| {name} | {method} | {} | {} | {:.1} | {} |", t.alike, t.all, t.percent(), t.stub);
        }
        let _ = writeln!(out, "\nIn scope: {}.", kind::in_scope().join(", "));
        out
    }

    /// For programs.
    pub(crate) fn json(&self) -> String {
        let tally = |t: Tally| json!({"alike": t.alike, "all": t.all, "stub": t.stub});
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|((kind, method), t)| {
                json!({"type": kind.name, "inScope": kind.in_scope, "method": method, "tally": tally(*t)})
            })
            .collect();
        let made: Vec<Value> = self
            .made
            .iter()
            .map(|((rule, kind), n)| json!({"rule": rule.as_str(), "type": kind, "count": n}))
            .collect();
        let report = json!({
            "inScope": tally(self.in_scope()),
            "all": tally(self.sum(|_| true)),
            "typesInScope": kind::in_scope(),
            "rows": rows,
            "differencesInScope": self.classes,
            "madeBeforehand": made,
            "recordings": self.recordings,
            "repeatedPolls": self.repeated_polls,
            "unreadable": self.unreadable,
        });
        format!("{report:#}\n")
    }
}

/// Every difference of the types whose name contains `wanted`.
pub(crate) fn differences(recordings: &[Recording], played: &[Played], wanted: &str) -> String {
    let wanted = wanted.to_lowercase();
    let mut out = String::new();
    for (recording, one) in recordings.iter().zip(played) {
        for outcome in one.outcomes.iter().filter(|o| o.kind.name.to_lowercase().contains(&wanted)) {
            if outcome.differences.is_empty() {
                continue;
            }
            let _ = writeln!(out, "{}\n  {} [{} {}]", recording.name, outcome.asked, outcome.kind.name, outcome.method);
            for difference in &outcome.differences {
                let _ = writeln!(out, "    {difference}");
            }
            for (id, why) in &one.unmade {
                let _ = writeln!(out, "      (not made: {id}: {why})");
            }
        }
    }
    out
}
