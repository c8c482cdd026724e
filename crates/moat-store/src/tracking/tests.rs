//! What was logged stays: series, limits, batches whole or not at all.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn points(points: impl IntoIterator<Item = Point>) -> Batch {
    Batch { points: points.into_iter().collect(), ..Batch::default() }
}

#[test]
fn what_was_logged_is_there_after_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let tracking = Tracking::open(dir.path()).unwrap();
    let batch = Batch {
        points: vec![Point::number("loss", 0.5, 0, 10), Point::number("loss", 0.25, 1, 20)],
        params: vec![("lr".to_owned(), "0.1".to_owned())],
        inputs: vec![("d1".to_owned(), json!({"name": "set"}))],
    };
    block(tracking.log("r1", batch)).unwrap();
    block(tracking.log("r2", points([Point::number("loss", 9.0, 0, 1)]))).unwrap();
    // Not closed in order: what `log` answered is on disk already.
    std::mem::forget(tracking);
    let tracking = Tracking::open(dir.path()).unwrap();
    let summary = tracking.summary("r1").unwrap();
    assert_eq!(summary.latest, [Point::number("loss", 0.25, 1, 20)]);
    assert_eq!(summary.params["lr"], "0.1");
    assert_eq!(summary.inputs, [json!({"name": "set"})]);
    assert_eq!(tracking.summary("unknown").unwrap(), Summary::default());
}

#[test]
fn the_latest_value_has_the_highest_step_then_time_and_nan_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let tracking = Tracking::open(dir.path()).unwrap();
    let logged = [
        Point::number("a", 1.0, 5, 10),
        Point::number("a", 2.0, 4, 99),
        Point::number("a", 3.0, 5, 9),
        Point::number("nan", f64::NAN, 0, 0),
        Point::number("inf", f64::INFINITY, 0, 0),
    ];
    block(tracking.log("r", points(logged))).unwrap();
    let latest: BTreeMap<String, f64> =
        tracking.summary("r").unwrap().latest.into_iter().map(|p| (p.key, p.value.unwrap())).collect();
    assert_eq!((latest["a"], latest["inf"]), (1.0, f64::INFINITY));
    assert!(latest["nan"].is_nan());
}

#[test]
fn a_refused_batch_leaves_nothing_and_hurts_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut database = Database::open(&dir.path().join("t.sqlite3")).unwrap();
    let param = |value: &str| Batch {
        points: vec![Point::number(value, 1.0, 0, 0)],
        params: vec![("p".to_owned(), value.to_owned())],
        ..Batch::default()
    };
    let (first, again, other) = (param("x"), param("x"), param("y"));
    let results = database.write([("r", &first), ("r", &other), ("r", &again)].into_iter()).unwrap();
    assert!(results[0].is_ok() && results[2].is_ok(), "the same value again is no change");
    insta::assert_snapshot!(results[1].as_ref().unwrap_err(), @"the parameter `p` was logged as 'x' and cannot become 'y': parameters of a run do not change");
    let keys: Vec<String> = database.summary("r").unwrap().latest.into_iter().map(|p| p.key).collect();
    assert_eq!(keys, ["x"], "the refused batch's metric is not there");
}

#[test]
fn bounds_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let tracking = Tracking::open(dir.path()).unwrap();
    let series = |from: u64, to: u64| points((from..to).map(|n| Point::number(&format!("m{n}"), 0.0, 0, 0)));
    block(tracking.log("r", series(0, SERIES_PER_RUN_MAX))).unwrap();
    let refused = block(tracking.log("r", series(SERIES_PER_RUN_MAX, SERIES_PER_RUN_MAX + 1))).unwrap_err();
    assert!(matches!(refused, TrackingError::Limit { what: "metrics", .. }), "{refused}");
    for batch in [
        points([Point::number("", 0.0, 0, 0)]),
        points([Point::number(&"k".repeat(KEY_BYTES_MAX + 1), 0.0, 0, 0)]),
        Batch { params: vec![("p".to_owned(), "v".repeat(PARAM_BYTES_MAX + 1))], ..Batch::default() },
        points((0..=ENTRIES_PER_BATCH_MAX).map(|_| Point::number("m", 0.0, 0, 0))),
    ] {
        assert!(matches!(block(tracking.log("r", batch)).unwrap_err(), TrackingError::Limit { .. }));
    }
}

#[test]
fn history_comes_in_pages_and_a_repeated_value_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let tracking = Tracking::open(dir.path()).unwrap();
    let logged = (0..5).map(|n| Point { metric_id: Some(format!("id{n}")), ..Point::number("m", n as f64, n, n) });
    let batch = points(logged);
    block(tracking.log("r", batch.clone())).unwrap();
    block(tracking.log("r", batch)).unwrap();
    let mut seen = Vec::new();
    let mut after = 0;
    loop {
        let page = tracking.history("r", "m", after, 2).unwrap();
        seen.extend(page.points.into_iter().filter_map(|p| p.value));
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(seen, [0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(tracking.series("r").unwrap().len(), 1);
}

#[test]
fn nobody_else_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let _tracking = Tracking::open(dir.path()).unwrap();
    let mode = std::fs::metadata(dir.path().join(DATABASE_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
}
