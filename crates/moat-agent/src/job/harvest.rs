//! Taking what the program left (phase `outputs`): artifacts and named outputs, from folders that a stranger filled.
//!
//! Links are not followed and special files not opened ([`Folder::walk`]); large files go block by block; names,
//! numbers and sizes have bounds, and a bound that is met is an error that says so, never a silent loss.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use bytes::Bytes;
use moat_host::run::beneath::{self, Flow, Folder, Skipped, WalkError};
use tokio::task::JoinSet;

use super::blob::{BLOCK_BYTES_MAX, Store};
use super::stop::Stop;
use crate::spec::Prefix;

/// Files and folders of one output.
const ENTRIES_MAX: usize = 100_000;
/// Files sent at the same time; each holds one block in memory.
const AT_ONCE_MAX: usize = 4;
/// Things left out that are named; the others are counted.
const NAMED_MAX: usize = 5;
/// Azure's bound of blocks in one blob.
const BLOCKS_MAX: u64 = 50_000;

/// Bytes that one run may leave, its artifacts and all its outputs together. The work folder bounds what is really
/// written; a file of holes takes nothing there, and all of its size in the store.
const RUN_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// What a run may still leave.
#[derive(Debug)]
pub(crate) struct Room(u64);

impl Default for Room {
    fn default() -> Self {
        Self(RUN_BYTES_MAX)
    }
}

impl Room {
    /// Takes so much of it, or says that there is less.
    fn claim(&mut self, bytes: u64, what: &str) -> Result<(), Stop> {
        self.0 = self.0.checked_sub(bytes).ok_or_else(|| {
            let left = self.0;
            let why = format!(
                "There are {bytes} bytes in {what}, and {left} are left of the {RUN_BYTES_MAX} that one run may leave."
            );
            Stop::failed("LimitExceeded", why)
        })?;
        Ok(())
    }
}

/// What was taken, and what was not.
#[derive(Debug, Default)]
pub(crate) struct Harvest {
    pub files: usize,
    pub bytes: u64,
    pub warnings: Vec<String>,
}

/// Sends every file below `folder` to `to`, as `{below}{its path}`.
pub(crate) async fn folder(
    store: &Store,
    folder: Folder,
    to: &Prefix,
    below: &str,
    what: &str,
    room: &mut Room,
) -> Result<Harvest, Stop> {
    let mut skipped = Vec::new();
    let (names, bytes) = names(&folder, what, &mut skipped)?;
    // Before the first byte is sent: half of an output is of no use.
    room.claim(bytes, what)?;
    let mut harvest = Harvest { warnings: told(what, &skipped), ..Harvest::default() };
    let (folder, to, what): (_, Arc<Prefix>, Arc<str>) = (Arc::new(folder), Arc::new(to.clone()), what.into());
    let mut going: JoinSet<Result<u64, Stop>> = JoinSet::new();
    for name in names {
        if going.len() >= AT_ONCE_MAX
            && let Some(done) = going.join_next().await
        {
            harvest.bytes += joined(done)?;
        }
        harvest.files += 1;
        let (store, folder, to, what) = (store.clone(), folder.clone(), to.clone(), what.clone());
        let blob = format!("{below}{name}");
        going.spawn(async move {
            let found = folder.file(&name).map_err(|e| lost(&what, &name, &e))?;
            send(&store, found.file, found.bytes, &to, &blob, &what).await
        });
    }
    while let Some(done) = going.join_next().await {
        harvest.bytes += joined(done)?;
    }
    Ok(harvest)
}

/// Sends one file to the very blob that `to` names.
pub(crate) async fn file(
    store: &Store,
    folder: &Folder,
    name: &str,
    to: &Prefix,
    what: &str,
    room: &mut Room,
) -> Result<Harvest, Stop> {
    match folder.file(name) {
        Ok(found) => {
            room.claim(found.bytes, what)?;
            let bytes = send(store, found.file, found.bytes, to, "", what).await?;
            Ok(Harvest { files: 1, bytes, warnings: Vec::new() })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Ok(Harvest { warnings: vec![format!("The program wrote no file for {what}.")], ..Harvest::default() })
        }
        Err(e) => Err(lost(what, name, &e)),
    }
}

/// The files below `folder`, the bytes of all of them, and what there is beside them.
fn names(folder: &Folder, what: &str, skipped: &mut Vec<(String, Skipped)>) -> Result<(Vec<String>, u64), Stop> {
    let (mut names, mut bytes) = (Vec::new(), 0u64);
    let walked = folder.walk(
        ENTRIES_MAX,
        |found| {
            names.push(found.path);
            bytes = bytes.saturating_add(found.bytes);
            Ok(Flow::Continue(()))
        },
        |path, why| skipped.push((path.to_owned(), why)),
    );
    match walked {
        Ok(()) => Ok((names, bytes)),
        Err(WalkError::TooMany(max)) => {
            let why = format!("There are more than {max} files in {what}. Pack them into archives.");
            Err(Stop::failed("OutputRefused", why))
        }
        Err(WalkError::Io(e)) => Err(Stop::node(&format!("reading {what}"), &e)),
    }
}

/// What was left out, in words; names are a stranger's.
fn told(what: &str, skipped: &[(String, Skipped)]) -> Vec<String> {
    let why = |skipped: Skipped| match skipped {
        Skipped::Link => "is a link",
        Skipped::Special => "is no regular file",
        Skipped::Unreadable => "cannot be read",
        Skipped::Name => "has a name that no blob can have",
        Skipped::Deep => "lies too deep",
    };
    let mut told: Vec<String> = skipped
        .iter()
        .take(NAMED_MAX)
        .map(|(path, s)| {
            let shown: String = path.chars().take(200).collect();
            format!("`{}` in {what} was left out: it {}.", shown.escape_debug(), why(*s))
        })
        .collect();
    if skipped.len() > NAMED_MAX {
        told.push(format!("{} more in {what} were left out.", skipped.len() - NAMED_MAX));
    }
    told
}

async fn send(store: &Store, mut file: File, bytes: u64, to: &Prefix, blob: &str, what: &str) -> Result<u64, Stop> {
    let doing = format!("storing {what}");
    let broken = |e: io::Error| Stop::node(&doing, &e);
    let service = |t| Stop::service(&doing, t);
    let kind = kind_of(if blob.is_empty() { &to.prefix } else { blob });
    if bytes > BLOCKS_MAX * BLOCK_BYTES_MAX as u64 {
        let why = format!("`{}` in {what} is larger than a blob may be.", blob.escape_debug());
        return Err(Stop::failed("OutputRefused", why));
    }
    let first = block(&mut file).map_err(broken)?;
    if first.len() < BLOCK_BYTES_MAX {
        let sent = first.len() as u64;
        store.write(to, blob, kind, first).await.map_err(service)?;
        return Ok(sent);
    }
    let (mut next, mut blocks, mut sent) = (first, 0, 0);
    while !next.is_empty() {
        sent += next.len() as u64;
        store.write_block(to, blob, blocks, next).await.map_err(service)?;
        blocks += 1;
        next = block(&mut file).map_err(broken)?;
    }
    store.commit(to, blob, kind, blocks).await.map_err(service)?;
    Ok(sent)
}

fn block(file: &mut File) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    file.take(BLOCK_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// Media type of a blob, for those that a browser shows.
fn kind_of(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase()).as_deref() {
        Some("txt" | "log") => "text/plain",
        Some("json") => "application/json",
        Some("csv") => "text/csv",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        _ => "application/octet-stream",
    }
}

fn joined<T>(done: Result<Result<T, Stop>, tokio::task::JoinError>) -> Result<T, Stop> {
    done.unwrap_or_else(|e| Err(Stop::failed("NodeError", format!("The node failed moving a file: {e}."))))
}

fn lost(what: &str, name: &str, error: &io::Error) -> Stop {
    if beneath::parts(name).is_err() || error.kind() == io::ErrorKind::InvalidInput {
        let why = format!("`{}` in {what} cannot be taken: {error}.", name.escape_debug());
        return Stop::failed("OutputRefused", why);
    }
    Stop::node(&format!("reading `{}` in {what}", name.escape_debug()), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Outcome;

    #[test]
    fn all_that_a_run_leaves_shares_one_room() {
        let mut room = Room::default();
        room.claim(RUN_BYTES_MAX - 10, "a").unwrap();
        let Err(Stop(Outcome::Failed { code, message })) = room.claim(11, "the output `b`") else { panic!("too much") };
        assert_eq!(code, "LimitExceeded");
        assert!(message.contains("11 bytes in the output `b`, and 10 are left"), "{message}");
        room.claim(10, "c").unwrap();
        assert!(room.claim(u64::MAX, "d").is_err());
    }
}
