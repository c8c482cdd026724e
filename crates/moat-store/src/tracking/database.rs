//! The statements behind [`super::Tracking`].

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde_json::Value;

use super::{
    Batch, DATA_BYTES_MAX, ENTRIES_PER_BATCH_MAX, INPUTS_PER_RUN_MAX, KEY_BYTES_MAX, PARAM_BYTES_MAX,
    PARAMS_PER_RUN_MAX, POINTS_PER_RUN_MAX, Page, Point, SERIES_PER_RUN_MAX, Series, Summary, TrackingError,
};
use crate::error::StoreError;

/// The newest schema this program knows, in SQLite's own place for it.
const VERSION: u32 = 1;
/// Reader and writer are never in each other's way for longer than a checkpoint.
const BUSY_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Database {
    db: Connection,
    path: PathBuf,
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        // Made here so that it has its mode from the first byte; SQLite's side files copy it.
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::Directory { path: path.to_owned(), source: source.into() })?;
        let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // FULL syncs the log at every commit: an acknowledged write survives a power loss.
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "foreign_keys", "ON")?;
        let found: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match found {
            VERSION => {}
            0 => db.execute_batch(&format!(
                "BEGIN IMMEDIATE; {} PRAGMA user_version = {VERSION}; COMMIT;",
                include_str!("schema.sql")
            ))?,
            found => return Err(StoreError::NewerSchema { found, supported: VERSION }),
        }
        Ok(Self { db, path: path.to_owned() })
    }

    pub(super) fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { db: connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?, path: path.to_owned() })
    }

    /// One commit; the results are those of the batches, in order. `Err`: nothing was written.
    pub(super) fn write<'a>(
        &mut self,
        batches: impl Iterator<Item = (&'a str, &'a Batch)>,
    ) -> Result<Vec<Result<(), TrackingError>>, StoreError> {
        let written = self.write_group(batches);
        if !self.db.is_autocommit() {
            let _ = self.db.execute_batch("ROLLBACK");
        }
        if !self.db.is_autocommit() {
            *self = Self::open(&self.path)?;
        }
        written
    }

    fn write_group<'a>(
        &self,
        batches: impl Iterator<Item = (&'a str, &'a Batch)>,
    ) -> Result<Vec<Result<(), TrackingError>>, StoreError> {
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let mut results = Vec::new();
        for (run, batch) in batches {
            self.db.execute_batch("SAVEPOINT batch")?;
            let result = check(batch).and_then(|()| self.write_one(run, batch));
            match &result {
                Err(TrackingError::Store(error)) => return Err(error.clone()),
                Err(_) => self.db.execute_batch("ROLLBACK TO batch; RELEASE batch")?,
                Ok(()) => self.db.execute_batch("RELEASE batch")?,
            }
            results.push(result);
        }
        self.db.execute_batch("COMMIT")?;
        Ok(results)
    }

    fn write_one(&self, run: &str, batch: &Batch) -> Result<(), TrackingError> {
        let known = self.run(run)?;
        let run = match known {
            Some(id) => id,
            None => {
                self.db.prepare_cached("INSERT INTO runs (key) VALUES (?1)")?.execute([run])?;
                self.db.last_insert_rowid()
            }
        };
        self.write_points(run, &batch.points)?;
        for (key, value) in &batch.params {
            let old: Option<String> = self
                .db
                .prepare_cached("SELECT value FROM params WHERE run = ?1 AND key = ?2")?
                .query_row(params![run, key], |row| row.get(0))
                .optional()?;
            match old {
                Some(old) if old == *value => {}
                Some(old) => return Err(TrackingError::ParamChanged { key: key.clone(), old, new: value.clone() }),
                None => {
                    let _ = self
                        .db
                        .prepare_cached("INSERT INTO params (run, key, value) VALUES (?1, ?2, ?3)")?
                        .execute(params![run, key, value])?;
                }
            }
        }
        for (digest, body) in &batch.inputs {
            let _ = self
                .db
                .prepare_cached("INSERT OR REPLACE INTO inputs (run, digest, body) VALUES (?1, ?2, ?3)")?
                .execute(params![run, digest, body.to_string()])?;
        }
        if !batch.params.is_empty() {
            self.at_most(run, "params", "parameters", PARAMS_PER_RUN_MAX)?;
        }
        if !batch.inputs.is_empty() {
            self.at_most(run, "inputs", "datasets", INPUTS_PER_RUN_MAX)?;
        }
        Ok(())
    }

    fn write_points(&self, run: i64, points: &[Point]) -> Result<(), TrackingError> {
        let mut new = 0;
        for point in points {
            let series = self.series_of(run, point)?;
            let number = point.value.filter(|v| !v.is_nan());
            let nan = point.value.is_some_and(f64::is_nan);
            // A client that sends a value again, because it did not see the answer, does not count twice.
            new += self
                .db
                .prepare_cached(
                    "INSERT OR IGNORE INTO points (series, metric_id, step, time, value, nan, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    series,
                    point.metric_id,
                    point.step,
                    point.time,
                    number,
                    nan,
                    point.data.as_ref().map(Value::to_string)
                ])? as u64;
        }
        if new == 0 {
            return Ok(());
        }
        let count: u64 = self
            .db
            .prepare_cached("UPDATE runs SET points = points + ?2 WHERE id = ?1 RETURNING points")?
            .query_row(params![run, new], |row| row.get(0))?;
        if count > POINTS_PER_RUN_MAX {
            return Err(TrackingError::Limit { what: "metric values", max: POINTS_PER_RUN_MAX });
        }
        Ok(())
    }

    fn series_of(&self, run: i64, point: &Point) -> Result<i64, TrackingError> {
        let known: Option<i64> = self
            .db
            .prepare_cached("SELECT id FROM series WHERE run = ?1 AND key = ?2")?
            .query_row(params![run, point.key], |row| row.get(0))
            .optional()?;
        if let Some(id) = known {
            return Ok(id);
        }
        self.db
            .prepare_cached("INSERT INTO series (run, key, kind, columns) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![run, point.key, point.kind, point.columns.to_string()])?;
        let id = self.db.last_insert_rowid();
        self.at_most(run, "series", "metrics", SERIES_PER_RUN_MAX)?;
        Ok(id)
    }

    fn at_most(&self, run: i64, table: &'static str, what: &'static str, max: u64) -> Result<(), TrackingError> {
        let count: u64 = self
            .db
            .prepare_cached(&format!("SELECT count(*) FROM {table} WHERE run = ?1"))?
            .query_row([run], |row| row.get(0))?;
        if count > max { Err(TrackingError::Limit { what, max }) } else { Ok(()) }
    }

    fn run(&self, key: &str) -> Result<Option<i64>, StoreError> {
        Ok(self
            .db
            .prepare_cached("SELECT id FROM runs WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?)
    }

    pub(super) fn summary(&self, run: &str) -> Result<Summary, StoreError> {
        let Some(run) = self.run(run)? else { return Ok(Summary::default()) };
        let mut summary = Summary::default();
        let mut latest = self.db.prepare_cached(
            "SELECT s.key, s.kind, s.columns, p.metric_id, p.step, p.time, p.value, p.nan, p.data, p.id
             FROM series s JOIN points p ON p.id = (
                 SELECT id FROM points WHERE series = s.id AND (value IS NOT NULL OR nan) AND data IS NULL
                 ORDER BY step DESC, time DESC, value DESC LIMIT 1)
             WHERE s.run = ?1 ORDER BY s.key",
        )?;
        let mut rows = latest.query([run])?;
        while let Some(row) = rows.next()? {
            summary.latest.push(point(row)?.0);
        }
        let mut statement = self.db.prepare_cached("SELECT key, value FROM params WHERE run = ?1")?;
        let mut rows = statement.query([run])?;
        while let Some(row) = rows.next()? {
            let _ = summary.params.insert(row.get(0)?, row.get(1)?);
        }
        let mut statement = self.db.prepare_cached("SELECT body FROM inputs WHERE run = ?1")?;
        let mut rows = statement.query([run])?;
        while let Some(row) = rows.next()? {
            summary.inputs.push(json(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?));
        }
        Ok(summary)
    }

    pub(super) fn series(&self, run: &str) -> Result<Vec<Series>, StoreError> {
        let Some(run) = self.run(run)? else { return Ok(Vec::new()) };
        let mut statement =
            self.db.prepare_cached("SELECT key, kind, columns FROM series WHERE run = ?1 ORDER BY id")?;
        let mut rows = statement.query([run])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let columns: String = row.get(2)?;
            all.push(Series { key: row.get(0)?, kind: row.get(1)?, columns: json(&columns) });
        }
        Ok(all)
    }

    pub(super) fn history(&self, run: &str, key: &str, after: i64, limit: usize) -> Result<Page, StoreError> {
        let nothing = Page { points: Vec::new(), next: None };
        let Some(run) = self.run(run)? else { return Ok(nothing) };
        let mut statement = self.db.prepare_cached(
            "SELECT s.key, s.kind, s.columns, p.metric_id, p.step, p.time, p.value, p.nan, p.data, p.id
             FROM series s JOIN points p ON p.series = s.id
             WHERE s.run = ?1 AND s.key = ?2 AND p.id > ?3 ORDER BY p.id LIMIT ?4",
        )?;
        // One more than asked for tells whether there is a next page.
        let mut rows = statement.query(params![run, key, after, (limit + 1) as i64])?;
        let mut page = nothing;
        let mut last = after;
        while let Some(row) = rows.next()? {
            if page.points.len() == limit {
                page.next = Some(last);
                break;
            }
            let (point, id) = point(row)?;
            page.points.push(point);
            last = id;
        }
        Ok(page)
    }
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    let db = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY_WAIT)?;
    Ok(db)
}

fn point(row: &rusqlite::Row<'_>) -> Result<(Point, i64), rusqlite::Error> {
    let columns: String = row.get(2)?;
    let nan: bool = row.get(7)?;
    let data: Option<String> = row.get(8)?;
    let point = Point {
        key: row.get(0)?,
        kind: row.get(1)?,
        columns: json(&columns),
        metric_id: row.get(3)?,
        step: row.get(4)?,
        time: row.get(5)?,
        value: if nan { Some(f64::NAN) } else { row.get(6)? },
        data: data.as_deref().map(json),
    };
    Ok((point, row.get(9)?))
}

/// JSON of ours. A damaged one shows as null rather than hiding a run's other metrics.
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// Sizes that need no look into the database.
fn check(batch: &Batch) -> Result<(), TrackingError> {
    let limit = |what, max: usize| Err(TrackingError::Limit { what, max: max as u64 });
    if batch.points.len() + batch.params.len() + batch.inputs.len() > ENTRIES_PER_BATCH_MAX {
        return limit("entries in one batch", ENTRIES_PER_BATCH_MAX);
    }
    let keys = batch.points.iter().map(|p| &p.key).chain(batch.params.iter().map(|(key, _)| key));
    if keys.into_iter().any(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
        return limit("bytes in the name of a metric or parameter, and at least one", KEY_BYTES_MAX);
    }
    if batch.params.iter().any(|(_, value)| value.len() > PARAM_BYTES_MAX) {
        return limit("bytes in one parameter", PARAM_BYTES_MAX);
    }
    let data = batch.points.iter().flat_map(|p| p.data.iter().chain([&p.columns]));
    let bodies = batch.inputs.iter().map(|(_, body)| body);
    if data.chain(bodies).any(|value| value.to_string().len() > DATA_BYTES_MAX) {
        return limit("bytes in one value or dataset", DATA_BYTES_MAX);
    }
    Ok(())
}
