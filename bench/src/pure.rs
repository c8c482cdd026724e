//! Reads what `cargo bench` left, and makes rows of it.

use std::path::Path;

use anyhow::{Context, Result};
use moat_bench::report::{Machine, Row};
use serde_json::Value;

/// Group, what was measured, what it is compared with.
const FIGURES: &[(&str, &str, &str)] = &[
    ("decide GET", "5000 documents", "50 documents"),
    ("decide PUT", "5000 documents", "50 documents"),
    ("decide PUT", "50 documents", "parse the body"),
    ("apply", "5000 documents", "50 documents"),
    ("lower", "medium", "small"),
    ("plan", "medium", "small"),
    ("diff", "medium, nothing changed", "medium, from nothing"),
    ("diff", "medium, every rule changed", "medium, from nothing"),
    ("trace", "medium", "small"),
];

/// Rows of the estimates below `criterion` (usually `target/criterion`).
pub(crate) fn run(criterion: &Path) -> Result<Vec<Row>> {
    let machine = Machine::look();
    let mut rows = Vec::new();
    for (group, name, baseline) in FIGURES {
        let row = Row::new(format!("pure: {group}, {name}"), "us", samples(criterion, group, name)?, machine);
        rows.push(row.against(baseline, &samples(criterion, group, baseline)?));
    }
    Ok(rows)
}

/// Microseconds of one iteration, one a sample.
fn samples(criterion: &Path, group: &str, name: &str) -> Result<Vec<f64>> {
    let path = criterion.join(group).join(name).join("new/sample.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("reading `{}` (`cargo bench -p moat-bench` makes it)", path.display()))?;
    let sample: Value = serde_json::from_str(&text).context("reading a sample of criterion")?;
    let numbers =
        |name: &str| -> Vec<f64> { sample[name].as_array().into_iter().flatten().filter_map(Value::as_f64).collect() };
    let (times, iterations) = (numbers("times"), numbers("iters"));
    Ok(times.iter().zip(iterations).map(|(nanoseconds, count)| nanoseconds / count / 1e3).collect())
}
