//! Writing. Each function brings content to rest first, then changes the index in one step on the writer thread,
//! after `check` has seen what is there: so a condition (`If-Match`, ...) and the write it guards are one.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension};

use super::content::{self, Content};
use super::error::BlobError;
use super::writer::Fate;
use super::{APPEND_LOCKS, Blob, Blobs, Key, Kind, Metadata, Properties, read};

/// Blocks that a blob may have.
pub const BLOCKS_MAX: usize = 50_000;
/// Blocks that may wait for being committed to one blob.
pub const STAGED_BLOCKS_MAX: usize = 100_000;
/// Between the year 1, where Azure's clock starts, and 1970, in its units of 100 ns.
const TICKS_TO_1970: i128 = 621_355_968_000_000_000;

/// What a written blob is, beside its content.
#[derive(Debug, Clone, Default)]
pub struct NewBlob {
    /// Its headers.
    pub properties: Properties,
    /// Its metadata.
    pub metadata: Metadata,
}

/// Where a block of a list is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSource {
    /// In the blob.
    Committed,
    /// Among the staged.
    Uncommitted,
    /// Among the staged, else in the blob.
    Latest,
}

/// Why a block list was not committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitError<E> {
    /// `check` said no.
    Refused(E),
    /// There is no such block.
    NoBlock,
}

impl Blobs {
    /// Writes a whole blob. Blocks that were staged for it are dropped.
    pub async fn put<E: Send + 'static>(
        &self,
        key: Key,
        kind: Kind,
        content: Content,
        new: NewBlob,
        check: impl FnOnce(Option<&Blob>) -> Result<(), E> + Send + 'static,
    ) -> Result<Result<Blob, E>, BlobError> {
        let content = at_rest(content).await?;
        let now = (self.inner.now)();
        let stored = self.change_with(Some(content), move |db, content| {
            let (length, file) = named(content);
            let before = read::blob(db, &key)?;
            if let Err(refused) = check(before.as_ref()) {
                return Ok((Err(refused), Fate::Back));
            }
            discard_content(db, &key)?;
            discard_staged(db, &key)?;
            let blob = fresh(db, &key, kind, length, new, before.as_ref(), now)?;
            store(db, &key, &blob)?;
            put_segments(db, &key, [Segment { length, file, block: None }])?;
            Ok((Ok(blob), fate(length > 0)))
        });
        Ok(stored.await?.0)
    }

    /// Keeps a block for a later list. `Ok(false)`: there are too many already.
    pub async fn stage(&self, key: Key, block: String, content: Content) -> Result<bool, BlobError> {
        let content = at_rest(content).await?;
        let now = (self.inner.now)();
        let staged = self.change_with(Some(content), move |db, content| {
            let (length, file) = named(content);
            let many: usize = db
                .prepare_cached("SELECT count(*) FROM staged WHERE container = ?1 AND name = ?2")?
                .query_row((&key.container, &key.name), |row| row.get(0))?;
            if many >= STAGED_BLOCKS_MAX {
                return Ok((false, Fate::Back));
            }
            db.prepare_cached(
                "INSERT OR IGNORE INTO garbage SELECT file FROM staged WHERE container = ?1 AND name = ?2 AND block = ?3",
            )?
            .execute((&key.container, &key.name, &block))?;
            db.prepare_cached("INSERT OR REPLACE INTO staged VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute((
                &key.container,
                &key.name,
                &block,
                length,
                &file,
                now.as_microsecond(),
            ))?;
            Ok((true, Fate::Taken))
        });
        Ok(staged.await?.0)
    }

    /// Makes a blob of blocks, in the order of `list`. Staged blocks that are not in it are dropped.
    pub async fn commit<E: Send + 'static>(
        &self,
        key: Key,
        list: Vec<(BlockSource, String)>,
        new: NewBlob,
        check: impl FnOnce(Option<&Blob>) -> Result<(), E> + Send + 'static,
    ) -> Result<Result<Blob, CommitError<E>>, BlobError> {
        let now = (self.inner.now)();
        self.change(move |db| {
            let before = read::blob(db, &key)?;
            if let Err(refused) = check(before.as_ref()) {
                return Ok(Err(CommitError::Refused(refused)));
            }
            let committed = known_blocks(db, &key, "segments")?;
            let staged = known_blocks(db, &key, "staged")?;
            let mut segments = Vec::with_capacity(list.len());
            for (source, id) in &list {
                let found = match source {
                    BlockSource::Committed => committed.get(id),
                    BlockSource::Uncommitted => staged.get(id),
                    BlockSource::Latest => staged.get(id).or_else(|| committed.get(id)),
                };
                let Some((length, file)) = found else { return Ok(Err(CommitError::NoBlock)) };
                segments.push(Segment { length: *length, file: file.clone(), block: Some(id.clone()) });
            }
            discard_content(db, &key)?;
            discard_staged(db, &key)?;
            // What is still used was only moved.
            let mut kept = db.prepare_cached("DELETE FROM garbage WHERE file = ?1")?;
            for file in segments.iter().map(|s| &s.file).collect::<BTreeSet<_>>() {
                kept.execute([file])?;
            }
            let size = segments.iter().map(|s| s.length).sum();
            let blob = fresh(db, &key, Kind::Block, size, new, before.as_ref(), now)?;
            store(db, &key, &blob)?;
            put_segments(db, &key, segments)?;
            Ok(Ok(blob))
        })
        .await
    }

    /// Adds to the end of an append blob. `check` also says whether it may, by its kind and its length. The answer is
    /// the blob and where the bytes stand in it; `None`: there is no such blob.
    pub async fn append<E: Send + 'static>(
        &self,
        key: Key,
        content: Content,
        check: impl Fn(&Blob) -> Result<(), E> + Send + Sync + Clone + 'static,
    ) -> Result<Option<Result<(Blob, u64), E>>, BlobError> {
        let blobs = self.clone();
        // A task of its own: once bytes are on their way into the file, nobody else may begin at the same place,
        // also when who asked has hung up.
        let appended = tokio::spawn(async move { blobs.append_alone(key, content, check).await });
        appended.await.unwrap_or(Err(BlobError::Panicked))
    }

    async fn append_alone<E: Send + 'static>(
        &self,
        key: Key,
        mut content: Content,
        check: impl Fn(&Blob) -> Result<(), E> + Send + Sync + Clone + 'static,
    ) -> Result<Option<Result<(Blob, u64), E>>, BlobError> {
        let lock = key.name.bytes().fold(0_usize, |sum, b| sum.wrapping_mul(31).wrapping_add(usize::from(b)));
        let _alone = self.inner.appending[lock % APPEND_LOCKS].lock().await;
        loop {
            let (this, at, checked) = (self.clone(), key.clone(), check.clone());
            let begun = blocking(move || {
                let Some((blob, last)) = this.inner.read(|db| last_segment(db, &at))? else { return Ok(None) };
                if let Err(refused) = checked(&blob) {
                    return Ok(Some(Err(refused)));
                }
                match &last {
                    Some(last) => {
                        content::append(&content, &this.inner.folder.file(&last.file), blob.size - last.start)?
                    }
                    None => content.sync()?,
                }
                Ok(Some(Ok((blob, last, content))))
            });
            let (seen, last, arrived) = match begun.await? {
                None => return Ok(None),
                Some(Err(refused)) => return Ok(Some(Err(refused))),
                Some(Ok(begun)) => begun,
            };
            let (at, now) = (key.clone(), (self.inner.now)());
            let done = self.change_with(Some(arrived), move |db, content| {
                let (length, file) = named(content);
                let Some(mut blob) = read::blob(db, &at)?.filter(|blob| blob.etag == seen.etag) else {
                    return Ok((None, Fate::Back));
                };
                let position = blob.size;
                blob.size += length;
                blob.appends += 1;
                blob.modified = now;
                blob.etag = next_etag(db, now)?;
                blob.properties.content_md5 = None;
                store(db, &at, &blob)?;
                match &last {
                    Some(last) => {
                        db.prepare_cached(
                            "UPDATE segments SET length = ?4 WHERE container = ?1 AND name = ?2 AND start = ?3",
                        )?
                        .execute((
                            &at.container,
                            &at.name,
                            last.start,
                            blob.size - last.start,
                        ))?;
                    }
                    None => put_segments(db, &at, [Segment { length, file, block: None }])?,
                }
                Ok((Some((blob, position)), fate(last.is_none() && length > 0)))
            });
            match done.await? {
                (Some(done), _) => return Ok(Some(Ok(done))),
                // Somebody wrote or deleted it meanwhile; what was appended lies behind the end, where nobody reads.
                (None, Some(back)) => content = back,
                (None, None) => return Err(BlobError::Stopped),
            }
        }
    }

    /// Changes headers and metadata, as `edit` says. `None`: there is no such blob.
    pub async fn edit<E: Send + 'static>(
        &self,
        key: Key,
        edit: impl FnOnce(&mut Blob) -> Result<(), E> + Send + 'static,
    ) -> Result<Option<Result<Blob, E>>, BlobError> {
        let now = (self.inner.now)();
        self.change(move |db| {
            let Some(mut blob) = read::blob(db, &key)? else { return Ok(None) };
            if let Err(refused) = edit(&mut blob) {
                return Ok(Some(Err(refused)));
            }
            blob.modified = now;
            blob.etag = next_etag(db, now)?;
            store(db, &key, &blob)?;
            Ok(Some(Ok(blob)))
        })
        .await
    }

    /// Deletes a blob and what is staged for it. `None`: there is no such blob.
    pub async fn delete<E: Send + 'static>(
        &self,
        key: Key,
        check: impl FnOnce(&Blob) -> Result<(), E> + Send + 'static,
    ) -> Result<Option<Result<(), E>>, BlobError> {
        self.change(move |db| {
            let Some(blob) = read::blob(db, &key)? else { return Ok(None) };
            if let Err(refused) = check(&blob) {
                return Ok(Some(Err(refused)));
            }
            remove(db, &key)?;
            Ok(Some(Ok(())))
        })
        .await
    }
}

/// Removes a blob with everything of it.
pub(super) fn remove(db: &Connection, key: &Key) -> Result<(), BlobError> {
    discard_content(db, key)?;
    discard_staged(db, key)?;
    db.prepare_cached("DELETE FROM blobs WHERE container = ?1 AND name = ?2")?.execute((&key.container, &key.name))?;
    Ok(())
}

struct Segment {
    length: u64,
    file: String,
    block: Option<String>,
}

fn named(content: Option<&Content>) -> (u64, String) {
    content.map(|content| (content.length, content.name.clone())).unwrap_or_default()
}

fn fate(taken: bool) -> Fate {
    if taken { Fate::Taken } else { Fate::Back }
}

async fn at_rest(content: Content) -> Result<Content, BlobError> {
    blocking(move || content.sync().map(|()| content)).await
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, BlobError> + Send + 'static,
) -> Result<R, BlobError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(BlobError::Panicked))
}

fn next_etag(db: &Connection, now: jiff::Timestamp) -> Result<u64, BlobError> {
    let ticks = u64::try_from(now.as_nanosecond() / 100 + TICKS_TO_1970).unwrap_or(0);
    Ok(db
        .prepare_cached("UPDATE last_etag SET etag = max(etag + 1, ?1) RETURNING etag")?
        .query_row([ticks], |row| row.get(0))?)
}

fn fresh(
    db: &Connection,
    key: &Key,
    kind: Kind,
    size: u64,
    new: NewBlob,
    before: Option<&Blob>,
    now: jiff::Timestamp,
) -> Result<Blob, BlobError> {
    Ok(Blob {
        name: key.name.clone(),
        kind,
        size,
        etag: next_etag(db, now)?,
        created: before.map_or(now, |b| b.created),
        modified: now,
        appends: 0,
        properties: new.properties,
        metadata: new.metadata,
    })
}

fn store(db: &Connection, key: &Key, blob: &Blob) -> Result<(), BlobError> {
    let metadata: BTreeMap<_, _> = blob.metadata.iter().map(|(name, value)| (name, value)).collect();
    db.prepare_cached("INSERT OR REPLACE INTO blobs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?.execute((
        &key.container,
        &key.name,
        blob.kind.as_str(),
        blob.size,
        blob.etag,
        blob.created.as_microsecond(),
        blob.modified.as_microsecond(),
        blob.appends,
        serde_json::to_string(&blob.properties)?,
        serde_json::to_string(&metadata)?,
    ))?;
    Ok(())
}

fn put_segments(db: &Connection, key: &Key, segments: impl IntoIterator<Item = Segment>) -> Result<(), BlobError> {
    let mut insert = db.prepare_cached("INSERT INTO segments VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let mut start = 0;
    for Segment { length, file, block } in segments.into_iter().filter(|s| s.length > 0) {
        insert.execute((&key.container, &key.name, start, length, file, block))?;
        start += length;
    }
    Ok(())
}

fn discard_content(db: &Connection, key: &Key) -> Result<(), BlobError> {
    discard(db, key, "segments")
}

fn discard_staged(db: &Connection, key: &Key) -> Result<(), BlobError> {
    discard(db, key, "staged")
}

fn discard(db: &Connection, key: &Key, table: &str) -> Result<(), BlobError> {
    let of = (&key.container, &key.name);
    db.prepare_cached(&format!(
        "INSERT OR IGNORE INTO garbage SELECT file FROM {table} WHERE container = ?1 AND name = ?2"
    ))?
    .execute(of)?;
    db.prepare_cached(&format!("DELETE FROM {table} WHERE container = ?1 AND name = ?2"))?.execute(of)?;
    Ok(())
}

/// Length and file of each block, by its id.
fn known_blocks(db: &Connection, key: &Key, table: &str) -> Result<BTreeMap<String, (u64, String)>, BlobError> {
    let sql =
        format!("SELECT block, length, file FROM {table} WHERE container = ?1 AND name = ?2 AND block IS NOT NULL");
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map((&key.container, &key.name), |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The file at the end of a blob.
struct Last {
    /// Where in the blob it begins.
    start: u64,
    file: String,
}

fn last_segment(db: &Connection, key: &Key) -> Result<Option<(Blob, Option<Last>)>, BlobError> {
    let tx = db.unchecked_transaction()?;
    let Some(blob) = read::blob(&tx, key)? else { return Ok(None) };
    let last = tx
        .prepare_cached(
            "SELECT start, file FROM segments WHERE container = ?1 AND name = ?2 ORDER BY start DESC LIMIT 1",
        )?
        .query_row((&key.container, &key.name), |row| Ok(Last { start: row.get(0)?, file: row.get(1)? }))
        .optional()?;
    Ok(Some((blob, last)))
}
