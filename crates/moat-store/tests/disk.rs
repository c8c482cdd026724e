//! A disk that is really full and really read-only: a tiny tmpfs in a mount namespace of its own.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::path::Path;
use std::process::Command;

use moat_arm::{Batch, ResourceId};
use moat_store::{Store, StoreError};
use serde_json::json;

const MOUNT: &str = "MOAT_STORE_TEST_MOUNT";

/// Runs the test `child` of this binary on a fresh 4 MiB tmpfs. Where the system forbids that, says so.
fn on_a_tiny_disk(child: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=4m tmpfs \"$MOAT_STORE_TEST_MOUNT\"";
    let unshared = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).env(MOUNT, dir.path());
        command
    };
    if !unshared(mount).status().is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: no mount namespace to be had here (unshare --user --mount)");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let script = format!("{mount} && exec \"$0\" --exact {child} --ignored --nocapture");
    let output = unshared(&script).arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

fn write(store: &Store, name: &str, bytes: usize) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    let id = ResourceId::resource_group_scope("s", "g").provider("N", "things", name);
    batch.put(id, json!({ "fill": "x".repeat(bytes) }));
    store.submit_blocking(move |_| (batch, ()))
}

#[test]
fn a_full_disk_is_a_typed_error_and_passes_when_there_is_room() {
    on_a_tiny_disk("child_on_a_full_disk");
}

#[test]
fn a_read_only_disk_is_named() {
    on_a_tiny_disk("child_on_a_read_only_disk");
}

#[test]
#[ignore = "runs on a tiny disk, as a child"]
fn child_on_a_full_disk() {
    let disk = std::env::var(MOUNT).unwrap();
    let state = Path::new(&disk).join("state");
    let store = Store::open(&state).unwrap();
    write(&store, "before", 100).unwrap();
    let ballast = Path::new(&disk).join("ballast");
    // As large as it gets: the last part that fails is what "full" means.
    let full = std::fs::write(&ballast, vec![0; 8 * 1024 * 1024]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let refused = write(&store, "refused", 200_000).unwrap_err();
    assert!(matches!(refused, StoreError::Full(_)), "{refused:?}");
    assert_eq!(store.snapshot().len(), 1, "nothing was changed");
    std::fs::remove_file(&ballast).unwrap();
    write(&store, "after", 100_000).unwrap();
    drop(store);
    assert_eq!(Store::open(&state).unwrap().snapshot().len(), 2);
    // And at the start: no half-made state, an error with a reason.
    std::fs::write(&ballast, vec![0; 8 * 1024 * 1024]).unwrap_err();
    let refused = Store::open(&Path::new(&disk).join("other")).unwrap_err();
    let reason = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(matches!(refused, StoreError::Full(_)) || reason.contains("No space left"), "{refused:?}");
}

#[test]
#[ignore = "runs on a tiny disk, as a child"]
fn child_on_a_read_only_disk() {
    let disk = std::env::var(MOUNT).unwrap();
    let state = Path::new(&disk).join("state");
    let store = Store::open(&state).unwrap();
    write(&store, "kept", 100).unwrap();
    drop(store);
    let remounted = Command::new("mount").args(["-o", "remount,ro", &disk]).status().unwrap();
    assert!(remounted.success());
    let refused = Store::open(&state).unwrap_err();
    assert!(matches!(refused, StoreError::Directory { .. }), "{refused:?}");
    let text = format!("{refused}: {}", std::error::Error::source(&refused).unwrap());
    assert!(text.contains("state") && text.contains("Read-only"), "{text}");
}
