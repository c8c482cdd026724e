//! The few statements Moat needs of SQLite, and nothing that knows why.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use moat_arm::snapshot::Audit;
use moat_arm::{Batch, Change, ResourceId, Snapshot, Stored};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde_json::Value;

use crate::error::StoreError;
use crate::{COMMITS_KEPT, VERSIONS_KEPT_PER_DOCUMENT, schema};

/// Only a checkpoint of our own reader can be in the way, and it is short.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Old rows are removed once in so many commits.
const PRUNE_EVERY_COMMITS: u64 = 1_024;

/// One commit: who did what, when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRow {
    /// Sequence number of the world this commit made.
    pub seq: u64,
    /// Who and why.
    pub audit: Audit,
    /// When.
    pub time: Timestamp,
}

/// One version of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// The commit that made it.
    pub seq: u64,
    /// The body; `None` says that this commit deleted the document.
    pub body: Option<Value>,
    /// Who and when, while the change row is kept.
    pub change: Option<ChangeRow>,
}

/// The writer's connection.
pub(crate) struct Database {
    db: Connection,
    path: PathBuf,
}

impl Database {
    pub(crate) fn open(path: &Path, now: &Timestamp) -> Result<Self, StoreError> {
        let mut db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        make_durable(&db)?;
        db.pragma_update(None, "foreign_keys", "ON")?;
        schema::migrate(&mut db, path, now, schema::MIGRATIONS)?;
        Ok(Self { db, path: path.to_owned() })
    }

    /// The world as committed.
    pub(crate) fn load(&self) -> Result<Snapshot, StoreError> {
        let mut statement = self.db.prepare("SELECT key, id, body, seq, created_seq FROM documents")?;
        let mut rows = statement.query([])?;
        let mut documents = Vec::new();
        while let Some(row) = rows.next()? {
            let key: String = row.get(0)?;
            let damaged = |reason: String| StoreError::Damaged { key: key.clone(), reason };
            let id = ResourceId::parse(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)
                .map_err(|e| damaged(e.to_string()))?;
            let body = serde_json::from_str(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?)
                .map_err(|e| damaged(e.to_string()))?;
            documents.push(Stored { id, body, seq: row.get(3)?, created_seq: row.get(4)? });
        }
        Ok(Snapshot::from_documents(self.seq()?, documents))
    }

    /// Sequence number of the newest commit in the file.
    pub(crate) fn seq(&self) -> Result<u64, StoreError> {
        let newest: Option<u64> = self.db.query_row("SELECT max(seq) FROM changes", [], |row| row.get(0))?;
        Ok(newest.unwrap_or(0))
    }

    pub(crate) fn begin(&self) -> Result<(), StoreError> {
        Ok(self.db.execute_batch("BEGIN IMMEDIATE")?)
    }

    pub(crate) fn commit(&self) -> Result<(), StoreError> {
        Ok(self.db.execute_batch("COMMIT")?)
    }

    /// Leaves no transaction open, whatever happened before; reopens the file if it must.
    pub(crate) fn abandon(&mut self, now: &Timestamp) -> Result<(), StoreError> {
        if !self.db.is_autocommit() {
            // SQLite has often rolled back already; then this fails and is_autocommit says so.
            let _ = self.db.execute_batch("ROLLBACK");
        }
        if !self.db.is_autocommit() {
            *self = Self::open(&self.path, now)?;
        }
        Ok(())
    }

    /// Writes `batch` as commit `after.seq()`; `after` is the world with the batch applied.
    pub(crate) fn write(&self, batch: &Batch, after: &Snapshot, now: &Timestamp) -> Result<(), StoreError> {
        let seq = after.seq();
        let audit = &batch.audit;
        self.db
            .prepare_cached(
                "INSERT INTO changes (seq, principal, operation, correlation, time) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((seq, &audit.principal, &audit.operation, &audit.correlation, now.to_string()))?;
        // A later change to the same document wins, so only the last one is written.
        let mut written = std::collections::BTreeSet::new();
        for change in batch.changes.iter().rev() {
            let (Change::Put { id, .. } | Change::Delete { id }) = change;
            if !written.insert(id.key()) {
                continue;
            }
            let replaced = self
                .db
                .prepare_cached(
                    "INSERT INTO history (key, seq, body) SELECT key, seq, body FROM documents WHERE key = ?1",
                )?
                .execute([id.key()])?;
            match after.get(id) {
                Some(stored) => {
                    self.db
                        .prepare_cached(
                            "INSERT OR REPLACE INTO documents (key, id, body, seq, created_seq) VALUES (?1, ?2, ?3, ?4, ?5)",
                        )?
                        .execute((id.key(), stored.id.as_str(), stored.body.to_string(), stored.seq, stored.created_seq))?;
                }
                None if replaced > 0 => {
                    self.db.prepare_cached("DELETE FROM documents WHERE key = ?1")?.execute([id.key()])?;
                    self.db
                        .prepare_cached("INSERT INTO history (key, seq, body) VALUES (?1, ?2, NULL)")?
                        .execute((id.key(), seq))?;
                }
                None => {}
            }
            if replaced > 0 {
                self.db
                    .prepare_cached(
                        "DELETE FROM history WHERE key = ?1 AND seq <= (SELECT seq FROM history WHERE key = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
                    )?
                    .execute((id.key(), VERSIONS_KEPT_PER_DOCUMENT))?;
            }
        }
        if seq.is_multiple_of(PRUNE_EVERY_COMMITS) {
            let oldest = seq.saturating_sub(COMMITS_KEPT);
            self.db.prepare_cached("DELETE FROM changes WHERE seq <= ?1")?.execute([oldest])?;
            self.db.prepare_cached("DELETE FROM history WHERE seq <= ?1")?.execute([oldest])?;
        }
        Ok(())
    }

    pub(crate) fn set_meta(&self, key: &str, value: &str) -> Result<(), StoreError> {
        self.db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", (key, value))?;
        Ok(())
    }

    /// Makes the database "full" at `pages` (a real `SQLITE_FULL`), or lifts that; returns pages in use.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: Option<u32>) -> u32 {
        let used: u32 = self.db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        let _: u32 = self
            .db
            .pragma_update_and_check(None, "max_page_count", pages.unwrap_or(u32::MAX - 1), |row| row.get(0))
            .unwrap();
        used
    }
}

/// A second, read-only connection for questions about the past; opened at the first question.
pub(crate) struct Reader {
    path: PathBuf,
    db: Option<Connection>,
}

impl Reader {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, db: None }
    }

    pub(crate) fn close(&mut self) {
        self.db = None;
    }

    fn db(&mut self) -> Result<&Connection, StoreError> {
        let db = match self.db.take() {
            Some(db) => db,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        Ok(self.db.insert(db))
    }

    pub(crate) fn meta(&mut self, key: &str) -> Result<Option<String>, StoreError> {
        Ok(self.db()?.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()?)
    }

    pub(crate) fn changes(&mut self, after: u64, limit: usize) -> Result<Vec<ChangeRow>, StoreError> {
        let mut statement = self.db()?.prepare(
            "SELECT seq, principal, operation, correlation, time FROM changes WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        )?;
        let rows = statement.query_map((after, limit), |row| change_row(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn history(&mut self, key: &str) -> Result<Vec<Version>, StoreError> {
        let mut statement = self.db()?.prepare(
            "SELECT v.seq, v.body, c.seq, c.principal, c.operation, c.correlation, c.time
             FROM (SELECT seq, body FROM history WHERE key = ?1 UNION ALL SELECT seq, body FROM documents WHERE key = ?1) v
             LEFT JOIN changes c ON c.seq = v.seq ORDER BY v.seq",
        )?;
        let mut rows = statement.query([key])?;
        let mut versions = Vec::new();
        while let Some(row) = rows.next()? {
            let body: Option<String> = row.get(1)?;
            let body = body
                .map(|text| serde_json::from_str(&text))
                .transpose()
                .map_err(|e| StoreError::Damaged { key: key.to_owned(), reason: e.to_string() })?;
            let change = row.get::<_, Option<u64>>(2)?.map(|_| change_row(row, 2)).transpose()?;
            versions.push(Version { seq: row.get(0)?, body, change });
        }
        Ok(versions)
    }
}

fn change_row(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<ChangeRow> {
    let time: String = row.get(first + 4)?;
    let time = time.parse().map_err(|e: jiff::Error| {
        rusqlite::Error::FromSqlConversionFailure(first + 4, rusqlite::types::Type::Text, Box::new(e))
    })?;
    let audit =
        Audit { principal: row.get(first + 1)?, operation: row.get(first + 2)?, correlation: row.get(first + 3)? };
    Ok(ChangeRow { seq: row.get(first)?, audit, time })
}

/// FULL syncs the log at every commit: an acknowledged write survives a power loss.
pub(crate) fn make_durable(db: &Connection) -> Result<(), rusqlite::Error> {
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")
}

pub(crate) fn connect(path: &Path, mode: OpenFlags) -> Result<Connection, rusqlite::Error> {
    let db = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY_WAIT)?;
    Ok(db)
}
