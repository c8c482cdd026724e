//! Method `job_logs` of the control socket: what a job's program wrote, from the blob that its node appends to.
//!
//! Answers are pieces `{"text"}` of bounded size and at last `{"end"}`, the job's status. Whoever follows gets pieces
//! until the run has ended: its node stores the last of the log before it tells the end, so nothing is missed.

use std::convert::Infallible;
use std::time::Duration;

use moat_agent::spec::LOG_PATH;
use moat_arm::{ResourceId, Snapshot, Stored, document};
use moat_model::types::microsoft_machinelearningservices::runs::{ARTIFACT_CONTAINER, Run, Status, artifact_prefix};
use moat_model::types::microsoft_storage::containers;
use moat_store::blobs::{BlobError, Blobs, Key};
use serde_json::{Value, json};

use super::jobs::find;
use crate::control::{Caller, ControlError, Gone};
use crate::server::Server;

/// Bytes of one piece.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// Between two looks at a log that is followed; nodes store lines about as often.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers `job_logs`.
pub(super) async fn answer(server: &Server, params: &Value, caller: &mut Caller) -> Result<(), ControlError> {
    let job = find(&server.store.snapshot(), params)?.id.clone();
    let follow = params["follow"].as_bool().unwrap_or_default();
    match tell(server, &job, follow, caller).await {
        // Who hung up has seen enough.
        Ok(()) | Err(Silent::Gone(Gone)) => Ok(()),
        Err(Silent::Control(error)) => Err(error),
    }
}

/// Why no more is told.
enum Silent {
    Gone(Gone),
    Control(ControlError),
}

impl From<Gone> for Silent {
    fn from(gone: Gone) -> Self {
        Self::Gone(gone)
    }
}

impl From<ControlError> for Silent {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}

async fn tell(server: &Server, job: &ResourceId, follow: bool, caller: &mut Caller) -> Result<(), Silent> {
    let (mut at, mut bytes) = (0, Vec::new());
    loop {
        // Before the log is read: what was written until the end is there when the end is.
        let snapshot = server.store.snapshot();
        let document = snapshot.get(job);
        let key = document.and_then(|job| key(&snapshot, job, LOG_PATH));
        while let Some(piece) = read(&server.blobs, key.as_ref(), at).await? {
            at += piece.len() as u64;
            bytes.extend(piece);
            let text = whole_characters(&mut bytes);
            if !text.is_empty() {
                caller.ok(&json!({ "text": text })).await?;
            }
        }
        let run = document.map(|job| Run::of(&job.body)).unwrap_or_default();
        let status = document.and_then(|job| Status::of(&job.body));
        let is_over = document.is_none() || run.ended.is_some() || status.is_some_and(Status::is_terminal);
        if !follow || is_over {
            if !bytes.is_empty() {
                caller.ok(&json!({ "text": String::from_utf8_lossy(&bytes) })).await?;
            }
            if at == 0 && !follow {
                return Err(nothing(job, status, &run).into());
            }
            caller.ok(&json!({ "end": status })).await?;
            return Ok(());
        }
        tokio::select! {
            () = caller.gone() => return Ok(()),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Why there is no log.
fn nothing(job: &ResourceId, status: Option<Status>, run: &Run) -> ControlError {
    let status = status.map(|s| json!(s)).and_then(|s| s.as_str().map(str::to_owned)).unwrap_or_default();
    let why = run.error.as_ref().map(|e| format!(": {}: {}", e.code, e.message)).unwrap_or_default();
    ControlError::new("no-log", format!("job `{}` has written nothing; it is {status}{why}", job.name()))
}

/// A blob among the artifacts of a job.
pub(super) fn key(snapshot: &Snapshot, job: &Stored, path: &str) -> Option<Key> {
    let workspace = snapshot.get(&job.id.parent()?)?;
    let account = ResourceId::parse(document::str_at(&workspace.body, "properties.storageAccount")?).ok()?;
    let container = containers::find(snapshot, &account, ARTIFACT_CONTAINER)?;
    let container = containers::generation(&container.body)?.to_owned();
    Some(Key { container, name: format!("{}/{path}", artifact_prefix(job.id.name())) })
}

/// The next bytes of the log; `None` when there are none yet.
async fn read(blobs: &Blobs, key: Option<&Key>, at: u64) -> Result<Option<Vec<u8>>, ControlError> {
    let Some(key) = key.cloned() else { return Ok(None) };
    let blobs = blobs.clone();
    let read = tokio::task::spawn_blocking(move || {
        let range = |_: &_| Ok::<_, Infallible>(at..at.saturating_add(PIECE_BYTES_MAX as u64));
        match blobs.open_blob(&key, range)? {
            Some(Ok(mut reader)) => reader.next(PIECE_BYTES_MAX),
            None => Ok(None),
        }
    });
    let read = read.await.unwrap_or(Err(BlobError::Panicked));
    read.map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "a log was not read");
        ControlError::new("not-read", error.to_string())
    })
}

/// Takes the text out of `bytes`, but for the beginning of a character at the end that is not whole yet.
fn whole_characters(bytes: &mut Vec<u8>) -> String {
    let is_cut = |end: &&[u8]| std::str::from_utf8(end).is_err_and(|error| error.error_len().is_none());
    let kept = bytes.utf8_chunks().last().map(|chunk| chunk.invalid()).filter(is_cut).map_or(0, <[u8]>::len);
    let rest = bytes.split_off(bytes.len() - kept);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_is_cut_waits_for_its_rest() {
        let mut bytes = "aé".as_bytes()[..2].to_vec();
        assert_eq!(whole_characters(&mut bytes), "a");
        bytes.push("é".as_bytes()[1]);
        assert_eq!(whole_characters(&mut bytes), "é");
        assert!(bytes.is_empty());
        bytes.extend(b"x\xffy\xff");
        assert_eq!(whole_characters(&mut bytes), "x\u{fffd}y\u{fffd}", "what is no text does not wait");
        assert!(bytes.is_empty());
    }
}
