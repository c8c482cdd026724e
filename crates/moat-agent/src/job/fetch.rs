//! Bringing files: the code (phase `code`) and the inputs (phase `inputs`), several at a time.
//!
//! Names come from strangers: one that is no plain path below its folder fails the run, and says which.

use std::sync::Arc;

use moat_host::run::beneath::{self, Folder};
use tokio::task::JoinSet;

use super::blob::{Found, Store};
use super::http::Trouble;
use super::stop::Stop;
use crate::spec::Source;

/// Files brought at the same time.
const AT_ONCE_MAX: usize = 6;
/// Files of one source.
const FILES_MAX: usize = 100_000;

/// What was brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Brought {
    pub files: usize,
    pub bytes: u64,
}

/// Brings all of `source` into `folder`. `what` is for messages: "the code", "the input `data`".
pub(crate) async fn bring(store: &Store, source: &Source, folder: Folder, what: &str) -> Result<Brought, Stop> {
    let doing: Arc<str> = format!("bringing {what}").into();
    let files: Vec<(String, Found)> = match source {
        Source::Folder(prefix) => {
            let listed = store.list(prefix).await.map_err(|t| missing(what, &doing, t))?;
            listed.into_iter().map(|found| (prefix.host.clone(), found)).collect()
        }
        Source::Files(blobs) => {
            blobs.iter().map(|b| (b.host.clone(), Found { path: b.path.clone(), target: b.target.clone() })).collect()
        }
    };
    if files.is_empty() {
        let place = match source {
            Source::Folder(prefix) => format!("`{}` of the container `{}`", prefix.prefix, prefix.container),
            Source::Files(_) => "its place".to_owned(),
        };
        return Err(Stop::failed("InputMissing", format!("There is no file of {what} at {place}. Was it uploaded?")));
    }
    if files.len() > FILES_MAX {
        let why = format!("{what} has {} files, more than {FILES_MAX}. Pack them.", files.len());
        return Err(Stop::failed("LimitExceeded", why));
    }
    for (_, found) in &files {
        beneath::parts(&found.path).map_err(|why| {
            let shown: String = found.path.chars().take(200).collect();
            let text = format!("{what} has a blob `{}` that cannot be a file: {why}. Rename it.", shown.escape_debug());
            Stop::failed("InputRefused", text)
        })?;
    }
    let folder = Arc::new(folder);
    let mut brought = Brought::default();
    let mut going: JoinSet<Result<u64, Stop>> = JoinSet::new();
    let what: Arc<str> = what.into();
    for (host, found) in files {
        if going.len() >= AT_ONCE_MAX
            && let Some(done) = going.join_next().await
        {
            brought.bytes += joined(done)?;
        }
        let (store, folder, doing, what) = (store.clone(), folder.clone(), doing.clone(), what.clone());
        brought.files += 1;
        going.spawn(async move {
            let mut file = folder.create_file(&found.path, false).map_err(|e| clash(&what, &found.path, &e))?;
            store.read(&host, &found.target, &mut file, &doing).await
        });
    }
    // The first failure ends the others: dropping the set does.
    while let Some(done) = going.join_next().await {
        brought.bytes += joined(done)?;
    }
    Ok(brought)
}

fn joined<T>(done: Result<Result<T, Stop>, tokio::task::JoinError>) -> Result<T, Stop> {
    done.unwrap_or_else(|e| Err(Stop::failed("NodeError", format!("The node failed moving a file: {e}."))))
}

fn missing(what: &str, doing: &str, trouble: Trouble) -> Stop {
    match trouble.status().map(|s| s.as_u16()) {
        Some(404) => Stop::failed("InputMissing", format!("The place of {what} does not exist: {trouble}.")),
        _ => Stop::service(doing, trouble),
    }
}

/// Azure's names form no tree: `a` and `a/b` may both be blobs.
fn clash(what: &str, path: &str, error: &std::io::Error) -> Stop {
    use std::io::ErrorKind::{AlreadyExists, NotADirectory};
    if matches!(error.kind(), AlreadyExists | NotADirectory) {
        let text = format!("{what} has `{}` both as a file and as a folder, or twice.", path.escape_debug());
        return Stop::failed("InputRefused", text);
    }
    Stop::node(&format!("writing `{}` of {what}", path.escape_debug()), error)
}
