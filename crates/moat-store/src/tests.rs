//! Tests of the store: crashes, full disks, newer schemas, and that a reopened store is the same.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use moat_arm::snapshot::Audit;
use moat_arm::{Batch, ResourceId, Snapshot};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn id(name: &str) -> ResourceId {
    ResourceId::resource_group_scope("s", "g").provider("Microsoft.Network", "virtualNetworks", name)
}

fn put(name: &str, body: Value) -> Batch {
    let mut batch = Batch::default();
    batch.put(id(name), body);
    batch
}

fn write(store: &Store, batch: Batch) -> Result<u64, StoreError> {
    store.submit_blocking(move |world| (batch, world.seq()))
}

fn documents(world: &Snapshot) -> Vec<moat_arm::Stored> {
    world.all().map(|d| (**d).clone()).collect()
}

#[test]
fn what_was_answered_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::Locked { .. })));
    write(&store, put("A", json!({"z": 1, "a": [1.0, 2, "x"]}))).unwrap();
    write(&store, put("a", json!({"z": 2}))).unwrap();
    store.set_meta("tenant", "t").unwrap();
    assert_eq!(store.meta("tenant").unwrap().as_deref(), Some("t"));
    let before = documents(&store.snapshot());
    drop(store);
    assert!(!dir.path().join("store.sqlite3-wal").exists(), "an orderly end leaves one file");
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(documents(&store.snapshot()), before);
    assert_eq!(store.snapshot().seq(), 2);
    assert_eq!(store.snapshot().get(&id("a")).unwrap().id.name(), "A", "casing of creation");
    assert_eq!(store.meta("tenant").unwrap().as_deref(), Some("t"));
    assert_eq!(store.meta("absent").unwrap(), None);
}

#[test]
fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let store = Store::open(&state).unwrap();
    write(&store, put("a", json!({}))).unwrap();
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    for file in std::fs::read_dir(&state).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
    }
}

#[test]
fn a_failed_commit_changes_nothing_and_later_writes_work() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    write(&store, put("kept", json!({"v": 1}))).unwrap();
    let used = store.limit_pages(None);
    store.limit_pages(Some(used));
    let big = "x".repeat(100_000);
    let failed = write(&store, put("big", json!({ "v": big })));
    assert!(matches!(failed, Err(StoreError::Full(_))), "{failed:?}");
    assert_eq!(store.snapshot().seq(), 1);
    assert!(store.snapshot().get(&id("big")).is_none());
    let seen = store.submit_blocking(|world| (Batch::default(), world.len())).unwrap();
    assert_eq!(seen, 1, "the working snapshot is rolled back too");
    store.limit_pages(None);
    write(&store, put("after", json!({}))).unwrap();
    drop(store);
    let world = Store::open(dir.path()).unwrap().snapshot();
    assert_eq!((world.seq(), world.len()), (2, 2));
}

#[test]
fn every_waiter_of_a_failed_group_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let used = store.limit_pages(None);
    store.limit_pages(Some(used));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let ends = runtime.block_on(async {
        // The first holds the writer until the others wait behind it: one group.
        let first = store.submit(move |_| {
            let _ = wait.recv();
            (put("small", json!({})), ())
        });
        let second = store.submit(|_| (Batch::default(), ()));
        let third = store.submit(|_| (put("big", json!({"v": "x".repeat(200_000)})), ()));
        let release = async { go.send(()).unwrap() };
        let (a, b, c, ()) = tokio::join!(first, second, third, release);
        [a, b, c]
    });
    for end in ends {
        assert!(matches!(end, Err(StoreError::Full(_))), "{end:?}");
    }
    assert!(store.snapshot().is_empty());
}

#[test]
fn a_panic_is_an_error_and_the_writer_lives() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let end = store.submit_blocking(|_| -> (Batch, ()) { panic!("on purpose") });
    assert!(matches!(end, Err(StoreError::Panicked)));
    write(&store, put("a", json!({}))).unwrap();
    assert_eq!(store.snapshot().seq(), 1);
}

#[test]
fn versions_say_who_and_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let time: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
    let store = Store::open_with_clock(dir.path(), move || time).unwrap();
    let n = VERSIONS_KEPT_PER_DOCUMENT + 5;
    for i in 0..n {
        let mut batch = put("a", json!({ "v": i }));
        batch.audit =
            Audit { principal: "p".to_owned(), operation: "o/write".to_owned(), correlation: format!("c{i}") };
        write(&store, batch).unwrap();
    }
    let mut batch = Batch::default();
    batch.delete(id("A"));
    write(&store, batch).unwrap();
    let versions = store.history(&id("a")).unwrap();
    assert_eq!(versions.len() as u32, VERSIONS_KEPT_PER_DOCUMENT);
    let [.., before, last] = versions.as_slice() else { panic!() };
    assert_eq!(last.body, None);
    assert_eq!(before.body, Some(json!({ "v": n - 1 })));
    let change = before.change.as_ref().unwrap();
    assert_eq!((change.audit.correlation.as_str(), change.time), (format!("c{}", n - 1).as_str(), time));
    assert_eq!(store.changes(0, 3).unwrap().len(), 3);
    assert_eq!(store.changes(u64::from(n), 9).unwrap()[0].seq, u64::from(n) + 1);
}

#[test]
fn an_old_state_is_migrated_and_a_newer_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(DATABASE_FILE);
    let mut db = rusqlite::Connection::open(&path).unwrap();
    schema::migrate(&mut db, &path, &Timestamp::UNIX_EPOCH, &schema::MIGRATIONS[..1]).unwrap();
    db.execute("INSERT INTO documents VALUES (?1, ?2, '{\"v\":1}', 7, 7)", (id("a").key(), id("a").as_str())).unwrap();
    drop(db);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.snapshot().get(&id("a")).unwrap().body, json!({"v": 1}));
    drop(store);
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute("INSERT INTO schema_version VALUES (999, 'later')", []).unwrap();
    drop(db);
    let refused = Store::open(dir.path()).unwrap_err();
    assert!(matches!(refused, StoreError::NewerSchema { found: 999, supported: SCHEMA_VERSION }));
    let text = refused.to_string();
    assert!(text.contains("999") && text.contains(&SCHEMA_VERSION.to_string()), "{text}");
}

#[test]
fn a_database_of_someone_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let db = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    db.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(db);
    assert!(matches!(Store::open(dir.path()), Err(StoreError::Foreign { .. })));
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let refused = Store::open(&dir.path().join("file/state")).unwrap_err();
    assert!(refused.to_string().contains("file/state"), "{refused}");
}

/// The child of [`acknowledged_writes_survive_kill_9`]: writes for ever, saying what was acknowledged.
#[test]
#[ignore = "runs as a child process of the kill test"]
fn child_that_writes_until_killed() {
    let Some(dir) = std::env::var_os("MOAT_STORE_KILL_DIR") else { return };
    let store = Store::open(Path::new(&dir)).unwrap();
    let start = store.snapshot().seq();
    let mut out = std::io::stdout();
    for i in start.. {
        write(&store, put(&format!("d{}", i % 50), json!({ "v": i, "fill": "x".repeat(500) }))).unwrap();
        writeln!(out, "ack {i}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::child_that_writes_until_killed", "--ignored", "--nocapture"])
            .env("MOAT_STORE_KILL_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut last = None;
        // Not a time but a number of acknowledged writes: the kill falls inside the next ones.
        for _ in 0..20 + round * 7 {
            last = lines.by_ref().find_map(|l| l.strip_prefix("ack ").and_then(|n| n.parse::<u64>().ok()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let last = lines.filter_map(|l| l.strip_prefix("ack ").and_then(|n| n.parse().ok())).last().or(last).unwrap();
        let world = Store::open(dir.path()).unwrap().snapshot();
        assert!(world.seq() > last, "acknowledged {last}, found {}", world.seq());
        let newest = &world.get(&id(&format!("d{}", last % 50))).unwrap().body["v"];
        assert!(newest.as_u64().unwrap() >= last);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn reopening_gives_the_same_world(
        batches in prop::collection::vec(prop::collection::vec((0..6_u8, prop::option::of(any::<i64>())), 0..4), 0..20)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut model = Snapshot::default();
        for changes in batches {
            let mut batch = Batch::default();
            for (name, value) in changes {
                let id = id(&format!("n{name}"));
                match value {
                    Some(v) => batch.put(id, json!({"properties": {"v": v}})),
                    None => batch.delete(id),
                }
            }
            model.apply(&batch);
            write(&store, batch).unwrap();
        }
        prop_assert_eq!(documents(&store.snapshot()), documents(&model));
        drop(store);
        let reopened = Store::open(dir.path()).unwrap().snapshot();
        prop_assert_eq!(reopened.seq(), model.seq());
        prop_assert_eq!(documents(&reopened), documents(&model));
    }
}
