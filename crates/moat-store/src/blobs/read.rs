//! Reading: one blob, its content by pieces, its blocks, and lists in order of names.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};

use super::content::Pin;
use super::error::BlobError;
use super::{Blob, Blobs, Key, Kind};

/// Rows asked for at a time when a list is made.
const LIST_ROWS: usize = 1_000;

pub(super) const COLUMNS: &str = "name, kind, size, etag, created, modified, appends, properties, metadata";

/// A list to make.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Generation of the container.
    pub container: String,
    /// Only names that begin so.
    pub prefix: String,
    /// Names that have this after the prefix are shown up to it, once.
    pub delimiter: Option<String>,
    /// Begin at this name.
    pub from: Option<String>,
    /// At most so many entries.
    pub max: usize,
}

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A blob.
    Blob(Box<Blob>),
    /// A folder, with the delimiter at its end.
    Prefix(String),
}

/// Part of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// In order of names.
    pub entries: Vec<Entry>,
    /// Where the next part begins; `None` at the end.
    pub next: Option<String>,
}

/// A block of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its id, as sent (base64).
    pub id: String,
    /// Bytes.
    pub length: u64,
}

/// The blocks of a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocks {
    /// In the order of the blob.
    pub committed: Vec<Block>,
    /// Staged and in no list yet.
    pub staged: Vec<Block>,
}

/// Content of one version of a blob, read by pieces.
#[derive(Debug)]
pub struct Reader {
    /// The version.
    pub blob: Blob,
    /// What is left: the file, and where in it.
    parts: std::collections::VecDeque<(Pin, Range<u64>)>,
    open: Option<File>,
}

impl Reader {
    /// The next bytes, at most `max`; `None` at the end. Blocks.
    pub fn next(&mut self, max: usize) -> Result<Option<Vec<u8>>, BlobError> {
        let Some((pin, range)) = self.parts.front_mut() else { return Ok(None) };
        let file = match &mut self.open {
            Some(file) => file,
            closed => closed.insert(File::open(pin.path())?),
        };
        let wanted = (range.end - range.start).min(max as u64);
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(max)];
        file.read_exact_at(&mut bytes, range.start)?;
        range.start += wanted;
        if range.is_empty() {
            self.parts.pop_front();
            self.open = None;
        }
        Ok(Some(bytes))
    }
}

impl Blobs {
    /// A blob, without its content. Blocks.
    pub fn get(&self, key: &Key) -> Result<Option<Blob>, BlobError> {
        self.inner.read(|db| blob(db, key))
    }

    /// A blob, and its content within what `range` says once the blob is known. Blocks.
    pub fn open_blob<E>(
        &self,
        key: &Key,
        range: impl FnOnce(&Blob) -> Result<Range<u64>, E>,
    ) -> Result<Option<Result<Reader, E>>, BlobError> {
        let inner = &self.inner;
        inner.read(|db| {
            // Whoever removes files waits until ours are pinned.
            let mut pins = inner.folder.pinned();
            let tx = db.unchecked_transaction()?;
            let Some(blob) = blob(&tx, key)? else { return Ok(None) };
            let range = match range(&blob) {
                Ok(range) => range.start..range.end.min(blob.size),
                Err(error) => return Ok(Some(Err(error))),
            };
            let mut statement = tx.prepare_cached(
                "SELECT start, length, file FROM segments
                 WHERE container = ?1 AND name = ?2
                   AND start >= (SELECT coalesce(max(start), 0) FROM segments WHERE container = ?1 AND name = ?2 AND start <= ?3)
                   AND start < ?4 ORDER BY start",
            )?;
            let mut rows = statement.query((&key.container, &key.name, range.start, range.end))?;
            let mut files = Vec::new();
            while let Some(row) = rows.next()? {
                let (start, length): (u64, u64) = (row.get(0)?, row.get(1)?);
                let within = range.start.max(start)..range.end.min(start + length);
                if !within.is_empty() {
                    files.push((row.get(2)?, within.start - start..within.end - start));
                }
            }
            // Nothing may fail from here on: a pin that is dropped waits for what is held here.
            let pin = |(name, within)| (Pin::new(&inner.folder, &mut pins, name, inner.collector.clone()), within);
            let parts = files.into_iter().map(pin).collect();
            Ok(Some(Ok(Reader { blob, parts, open: None })))
        })
    }

    /// The blocks of a blob; `None` if there is neither a blob nor a staged block of it. Blocks.
    pub fn blocks(&self, key: &Key) -> Result<Option<(Option<Blob>, Blocks)>, BlobError> {
        self.inner.read(|db| {
            let tx = db.unchecked_transaction()?;
            let found = blob(&tx, key)?;
            let all = |sql: &str| -> Result<Vec<Block>, BlobError> {
                let mut statement = tx.prepare_cached(sql)?;
                let rows = statement.query_map((&key.container, &key.name), |row| {
                    Ok(Block { id: row.get(0)?, length: row.get(1)? })
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            };
            let blocks = Blocks {
                committed: all("SELECT block, length FROM segments WHERE container = ?1 AND name = ?2 AND block IS NOT NULL ORDER BY start")?,
                staged: all("SELECT block, length FROM staged WHERE container = ?1 AND name = ?2 ORDER BY block")?,
            };
            Ok((found.is_some() || !blocks.staged.is_empty()).then_some((found, blocks)))
        })
    }

    /// Part of a list. Blocks.
    pub fn list(&self, asked: &Listing) -> Result<Page, BlobError> {
        self.inner.read(|db| list(db, asked))
    }

    /// Every container generation that has anything here. Blocks.
    pub(super) fn containers(&self) -> Result<Vec<String>, BlobError> {
        self.inner.read(|db| {
            let mut found = std::collections::BTreeSet::new();
            for table in ["blobs", "staged"] {
                let mut statement =
                    db.prepare_cached(&format!("SELECT min(container) FROM {table} WHERE container > ?1"))?;
                let mut last = String::new();
                // From one to the next by the index, not over every row.
                while let Some(next) = statement.query_row([&last], |row| row.get::<_, Option<String>>(0))? {
                    found.insert(next.clone());
                    last = next;
                }
            }
            Ok(found.into_iter().collect())
        })
    }
}

fn list(db: &Connection, asked: &Listing) -> Result<Page, BlobError> {
    let mut page = Page::default();
    let mut from = match &asked.from {
        Some(from) if *from > asked.prefix => from.clone(),
        _ => asked.prefix.clone(),
    };
    let sql = format!("SELECT {COLUMNS} FROM blobs WHERE container = ?1 AND name >= ?2 ORDER BY name LIMIT ?3");
    let mut statement = db.prepare_cached(&sql)?;
    'again: loop {
        let mut rows = statement.query((&asked.container, &from, LIST_ROWS))?;
        let mut read = 0;
        while let Some(row) = rows.next()? {
            read += 1;
            let name = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
            let Some(rest) = name.strip_prefix(asked.prefix.as_str()) else { return Ok(page) };
            if page.entries.len() >= asked.max {
                page.next = Some(name.to_owned());
                return Ok(page);
            }
            if let Some(delimiter) = &asked.delimiter
                && let Some(at) = rest.find(delimiter.as_str())
            {
                let folder = &name[..asked.prefix.len() + at + delimiter.len()];
                page.entries.push(Entry::Prefix(folder.to_owned()));
                // Past the whole folder at once, however much is in it.
                match after_all_of(folder) {
                    Some(next) => from = next,
                    None => return Ok(page),
                }
                continue 'again;
            }
            from = format!("{name}\0");
            page.entries.push(Entry::Blob(Box::new(of_row(row)?)));
        }
        if read < LIST_ROWS {
            return Ok(page);
        }
    }
}

/// The least text that is greater than every text that begins with `prefix`.
fn after_all_of(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Over the gap of surrogates, which are no characters.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

pub(super) fn blob(db: &Connection, key: &Key) -> Result<Option<Blob>, BlobError> {
    let sql = format!("SELECT {COLUMNS} FROM blobs WHERE container = ?1 AND name = ?2");
    let mut statement = db.prepare_cached(&sql)?;
    let found = statement.query_row((&key.container, &key.name), |row| Ok(of_row(row))).optional()?;
    found.transpose()
}

fn of_row(row: &Row<'_>) -> Result<Blob, BlobError> {
    let text = |at| -> Result<String, BlobError> { Ok(row.get(at)?) };
    let time = |at| -> Result<Timestamp, BlobError> {
        Ok(Timestamp::from_microsecond(row.get(at)?).unwrap_or(Timestamp::UNIX_EPOCH))
    };
    let metadata: BTreeMap<String, String> = serde_json::from_str(&text(8)?)?;
    Ok(Blob {
        name: text(0)?,
        kind: Kind::parse(&text(1)?).unwrap_or(Kind::Block),
        size: row.get(2)?,
        etag: row.get(3)?,
        created: time(4)?,
        modified: time(5)?,
        appends: row.get(6)?,
        properties: serde_json::from_str(&text(7)?)?,
        metadata: metadata.into_iter().collect(),
    })
}
