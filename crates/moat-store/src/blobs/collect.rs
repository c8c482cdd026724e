//! What goes: files that nothing points at, blobs of containers that are gone, blocks that nobody committed.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;

use super::error::BlobError;
use super::{Blobs, Inner, Key, write};

/// How long a staged block waits for its list.
const STAGED_KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Files removed, and rows changed, in one step.
const STEP: usize = 1_000;

/// What a sweep took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Containers that were gone.
    pub containers: usize,
    /// Blocks that waited too long.
    pub blocks: usize,
}

impl Blobs {
    /// Removes what belongs to container generations that `alive` does not know, and blocks staged more than a week
    /// ago. Blocks.
    ///
    /// `alive` is asked after the list of generations was made, and must know every generation that was ever given
    /// to a write before it is asked: then one that it does not know is gone for good.
    pub fn sweep(&self, alive: impl FnOnce() -> std::collections::BTreeSet<String>) -> Result<Swept, BlobError> {
        let here = self.containers()?;
        let alive = alive();
        let mut swept = Swept::default();
        for container in here.into_iter().filter(|c| !alive.contains(c)) {
            swept.containers += 1;
            while self.inner.change_blocking({
                let container = container.clone();
                move |db| remove_some(db, &container)
            })? {}
        }
        let now = (self.inner.now)();
        let before = Timestamp::from_microsecond(now.as_microsecond() - STAGED_KEPT.as_micros() as i64).unwrap_or(now);
        swept.blocks = self.inner.change_blocking(move |db| {
            let before = before.as_microsecond();
            db.execute("INSERT OR IGNORE INTO garbage SELECT file FROM staged WHERE staged < ?1", [before])?;
            Ok(db.execute("DELETE FROM staged WHERE staged < ?1", [before])?)
        })?;
        Ok(swept)
    }
}

/// Removes some blobs of a container; whether there were any.
fn remove_some(db: &Connection, container: &str) -> Result<bool, BlobError> {
    let sql = "SELECT name FROM blobs WHERE container = ?1 UNION SELECT name FROM staged WHERE container = ?1 LIMIT ?2";
    let names: Vec<String> =
        db.prepare_cached(sql)?.query_map((container, STEP), |row| row.get(0))?.collect::<Result<_, _>>()?;
    for name in &names {
        write::remove(db, &Key { container: container.to_owned(), name: name.clone() })?;
    }
    Ok(!names.is_empty())
}

/// Removes files, until the store is gone. `found` are the files that were there before it opened: what a killed
/// process had not yet made part of a blob is among them.
pub(super) fn run(blobs: &Weak<Inner>, wake: &Receiver<()>, found: Vec<String>) {
    if let Some(inner) = blobs.upgrade() {
        report(orphans(&inner, found));
        report(collect(&inner));
    }
    while wake.recv().is_ok() {
        let Some(inner) = blobs.upgrade() else { return };
        report(collect(&inner));
    }
}

fn report(outcome: Result<(), BlobError>) {
    match outcome {
        Ok(()) | Err(BlobError::Stopped) => {}
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "blob files could not be removed"),
    }
}

fn orphans(inner: &Arc<Inner>, found: Vec<String>) -> Result<(), BlobError> {
    let lost = inner.read(|db| {
        let mut known = db.prepare(
            "SELECT EXISTS (SELECT 1 FROM segments WHERE file = ?1) OR EXISTS (SELECT 1 FROM staged WHERE file = ?1)
                 OR EXISTS (SELECT 1 FROM garbage WHERE file = ?1)",
        )?;
        let mut lost = Vec::new();
        for name in found {
            if !known.query_row([&name], |row| row.get::<_, bool>(0))? {
                lost.push(name);
            }
        }
        Ok(lost)
    })?;
    for name in lost {
        std::fs::remove_file(inner.folder.file(&name))?;
    }
    Ok(())
}

fn collect(inner: &Arc<Inner>) -> Result<(), BlobError> {
    let mut after = String::new();
    loop {
        let names: Vec<String> = inner.read(|db| {
            let mut some = db.prepare_cached("SELECT file FROM garbage WHERE file > ?1 ORDER BY file LIMIT ?2")?;
            Ok(some.query_map((&after, STEP), |row| row.get(0))?.collect::<Result<_, _>>()?)
        })?;
        let Some(last) = names.last().cloned() else { return Ok(()) };
        let mut removed = Vec::new();
        for name in names {
            // While this is held nobody can begin to read the file; who reads it has pinned it.
            let pins = inner.folder.pinned();
            if !pins.contains_key(&name) {
                match std::fs::remove_file(inner.folder.file(&name)) {
                    Ok(()) => removed.push(name),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => removed.push(name),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if !removed.is_empty() {
            inner.change_blocking(move |db| {
                let mut forget = db.prepare_cached("DELETE FROM garbage WHERE file = ?1")?;
                for name in removed {
                    forget.execute([name])?;
                }
                Ok(())
            })?;
        }
        after = last;
    }
}
