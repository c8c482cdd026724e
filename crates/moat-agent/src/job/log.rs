//! The program's output, from its pipe to the append blob that people watch.
//!
//! Two halves share a bounded buffer. The reader never waits for the store until the buffer is full; then it stops
//! reading, and the program waits in `write`: a flood fills nothing, and a slow store holds up neither the program's
//! first lines nor its death. The writer sends whole lines where it can, since clients count lines, and soon, since
//! people wait for the first one. Order is the pipe's: a batch is sent when the one before is known to be stored.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::blob::{BLOCK_BYTES_MAX, End, Store};
use super::http::Trouble;
use super::patience::Patience;
use crate::spec::{LOG_PATH, Prefix};

const TEXT: &str = "text/plain; charset=utf-8";
/// What waits for the store in memory.
const BUFFER_BYTES_MAX: usize = 2 * BLOCK_BYTES_MAX;
/// What is read at once.
const READ_BYTES: usize = 64 * 1024;

/// What the log came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Bytes the program wrote that are in the log.
    pub kept: u64,
    /// Bytes beyond the limit.
    pub lost: u64,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// When the oldest of them came, or was left behind as the beginning of a line.
    since: Option<Instant>,
    closed: bool,
    tally: Tally,
}

/// One log.
pub(crate) struct Log {
    limit: u64,
    buffer: Mutex<Buffer>,
    came: Notify,
    went: Notify,
}

impl Log {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, buffer: Mutex::default(), came: Notify::new(), went: Notify::new() }
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing will come any more: what is there goes out.
    pub(crate) fn close(&self) {
        self.buffer().closed = true;
        self.came.notify_one();
    }

    /// Reads the pipe to its end.
    pub(crate) async fn read(&self, mut pipe: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut piece = vec![0; READ_BYTES];
        loop {
            loop {
                let went = self.went.notified();
                if self.buffer().bytes.len() < BUFFER_BYTES_MAX {
                    break;
                }
                went.await;
            }
            let n = pipe.read(&mut piece).await?;
            if n == 0 {
                return Ok(());
            }
            self.push(&piece[..n]);
        }
    }

    fn push(&self, piece: &[u8]) {
        let mut buffer = self.buffer();
        let room = usize::try_from(self.limit - buffer.tally.kept).unwrap_or(usize::MAX);
        let (kept, lost) = piece.split_at(piece.len().min(room));
        if !lost.is_empty() && buffer.tally.lost == 0 {
            buffer.bytes.extend_from_slice(kept);
            let said =
                format!("\n[moat] The log has reached {} bytes. What follows is counted, not kept.\n", self.limit);
            buffer.bytes.extend_from_slice(said.as_bytes());
        } else {
            buffer.bytes.extend_from_slice(kept);
        }
        buffer.tally.kept += kept.len() as u64;
        buffer.tally.lost += lost.len() as u64;
        if !buffer.bytes.is_empty() {
            buffer.since.get_or_insert_with(Instant::now);
            self.came.notify_one();
        }
    }

    /// Sends what comes until the log is closed and all of it is stored. `begun` is told when the first of it is.
    pub(crate) async fn write(
        &self,
        store: &Store,
        to: &Prefix,
        mut end: End,
        begun: impl FnOnce(),
    ) -> Result<Tally, Trouble> {
        let mut begun = Some(begun);
        let patience = store.client().patience();
        let mut sent: Option<Instant> = None;
        while let Some(batch) = self.batch(sent.map(|at| at + pause(end.blocks, patience.log_batch)), patience).await {
            sent = Some(Instant::now());
            store.append(to, LOG_PATH, &mut end, batch, patience.store).await?;
            if let Some(tell) = begun.take() {
                tell();
            }
        }
        let tally = self.buffer().tally;
        if tally.lost > 0 {
            let said = format!("[moat] {} bytes of the log were kept, {} bytes were not.\n", tally.kept, tally.lost);
            store.append(to, LOG_PATH, &mut end, said.into(), patience.store).await?;
        }
        Ok(tally)
    }

    /// The next bytes to send, not before `due`; `None` when there will be none.
    async fn batch(&self, due: Option<Instant>, patience: &Patience) -> Option<Bytes> {
        loop {
            let came = self.came.notified();
            let wake = {
                let mut buffer = self.buffer();
                let now = Instant::now();
                let old = buffer.since.map(|since| since + patience.partial_line);
                if buffer.bytes.is_empty() {
                    if buffer.closed {
                        return None;
                    }
                    None
                } else if buffer.closed || buffer.bytes.len() >= BLOCK_BYTES_MAX || due.is_none_or(|due| due <= now) {
                    let whole = buffer.closed || old.is_some_and(|old| old <= now);
                    match cut(&buffer.bytes, whole) {
                        0 => old,
                        n => {
                            let rest = buffer.bytes.split_off(n);
                            let batch = std::mem::replace(&mut buffer.bytes, rest);
                            buffer.since = (!buffer.bytes.is_empty()).then_some(now);
                            self.went.notify_one();
                            return Some(batch.into());
                        }
                    }
                } else {
                    due
                }
            };
            match wake {
                Some(at) => tokio::select! { () = came => {}, () = sleep_until(at) => {} },
                None => came.await,
            }
        }
    }
}

/// How much of the buffer to send: whole lines; all of it where the beginning of a line has waited long enough.
fn cut(bytes: &[u8], whole: bool) -> usize {
    let first = &bytes[..bytes.len().min(BLOCK_BYTES_MAX)];
    let line_end = first.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    if (whole && first.len() == bytes.len()) || (line_end == 0 && first.len() == BLOCK_BYTES_MAX) {
        first.len()
    } else {
        line_end
    }
}

/// An append blob has 50,000 blocks. A program that speaks for days gets them at longer and longer intervals: a
/// quarter of a second for its first hour, a minute from the second day on.
fn pause(blocks: u64, first: Duration) -> Duration {
    match blocks {
        0..15_000 => first,
        15_000..30_000 => first * 8,
        30_000..45_000 => first * 40,
        _ => first * 240,
    }
}

/// Opens the log of a run; a second attempt goes on where the first one stopped.
pub(crate) async fn open(store: &Store, to: &Prefix) -> Result<End, Trouble> {
    store.open_append(to, LOG_PATH, TEXT).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sent_whole_unless_they_keep_waiting() {
        assert_eq!(cut(b"a\nb\nhalf", false), 4);
        assert_eq!(cut(b"a\nb\nhalf", true), 8);
        assert_eq!(cut(b"half", false), 0);
        let mut long = vec![b'x'; BLOCK_BYTES_MAX + 5];
        assert_eq!(cut(&long, false), BLOCK_BYTES_MAX, "a line longer than a block is cut");
        long[10] = b'\n';
        assert_eq!(cut(&long, true), 11, "lines that fit are not");
    }

    #[test]
    fn a_week_of_talk_fits_into_one_blob() {
        let total: Duration = (0..50_000).map(|n| pause(n, Duration::from_millis(250))).sum();
        assert!(total > Duration::from_secs(3 * 24 * 3600), "{total:?}");
    }
}
