//! Numbered migrations, forward only.
//!
//! A released migration is never edited: add the next file and one line here. Version N of the
//! schema is "migrations 1 to N have run", written in the table `schema_version`.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::error::StoreError;

/// In order; the first makes version 1.
pub(crate) const MIGRATIONS: &[&str] =
    &[include_str!("migrations/0001_documents.sql"), include_str!("migrations/0002_history.sql")];

/// Runs those of `migrations` that the database has not seen, or says why not.
pub(crate) fn migrate(
    db: &mut Connection,
    path: &std::path::Path,
    now: &Timestamp,
    migrations: &[&str],
) -> Result<(), StoreError> {
    // One transaction: a crash leaves the old version, never half of the new one.
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = version(&tx, path)?;
    if found as usize > migrations.len() {
        return Err(StoreError::NewerSchema { found, supported: migrations.len() as u32 });
    }
    if found == 0 {
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied TEXT NOT NULL);",
        )?;
    }
    for (index, sql) in migrations.iter().enumerate().skip(found as usize) {
        tx.execute_batch(sql)?;
        tx.execute("INSERT INTO schema_version (version, applied) VALUES (?1, ?2)", (index + 1, now.to_string()))?;
    }
    tx.commit()?;
    Ok(())
}

fn version(db: &Connection, path: &std::path::Path) -> Result<u32, StoreError> {
    let tables = |sql: &str| db.query_row(sql, [], |row| row.get::<_, u32>(0));
    if tables("SELECT count(*) FROM sqlite_master WHERE name = 'schema_version'")? == 0 {
        if tables("SELECT count(*) FROM sqlite_master")? > 0 {
            return Err(StoreError::Foreign { path: path.to_owned() });
        }
        return Ok(0);
    }
    let newest = db.query_row("SELECT max(version) FROM schema_version", [], |row| row.get::<_, Option<u32>>(0));
    Ok(newest.optional()?.flatten().unwrap_or(0))
}
