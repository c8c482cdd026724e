//! The contract: what is acknowledged stays, what fails changes nothing, and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::*;

struct Bed {
    blobs: Blobs,
    runtime: tokio::runtime::Runtime,
    clock: Arc<AtomicI64>,
}

fn unique() -> impl Fn() -> String + Send + Sync + 'static {
    // Across processes of one test too.
    let process = std::process::id();
    let start = Timestamp::now().as_microsecond();
    let next = AtomicU64::new(0);
    move || format!("{process}-{start}-{}", next.fetch_add(1, Ordering::Relaxed))
}

impl Bed {
    fn open(state: &Path) -> Self {
        let clock = Arc::new(AtomicI64::new(1_800_000_000));
        let now = clock.clone();
        let now = move || Timestamp::from_second(now.load(Ordering::Relaxed)).unwrap();
        let blobs = Blobs::open(state, now, unique()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { blobs, runtime, clock }
    }

    fn content(&self, parts: &[&[u8]]) -> Content {
        let mut upload = self.blobs.upload().unwrap();
        parts.iter().for_each(|part| upload.write(part).unwrap());
        upload.finish()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Blob {
        self.put_as(Kind::Block, name, bytes)
    }

    fn put_as(&self, kind: Kind, name: &str, bytes: &[u8]) -> Blob {
        let put = self.blobs.put(key(name), kind, self.content(&[bytes]), NewBlob::default(), anything);
        let Ok(blob) = self.runtime.block_on(put).unwrap();
        blob
    }

    fn stage(&self, name: &str, block: &str, bytes: &[u8]) {
        let staged = self.blobs.stage(key(name), block.to_owned(), self.content(&[bytes]));
        assert!(self.runtime.block_on(staged).unwrap());
    }

    fn commit(&self, name: &str, list: &[(BlockSource, &str)]) -> Result<Blob, CommitError<Infallible>> {
        let list = list.iter().map(|(source, id)| (*source, (*id).to_owned())).collect();
        self.runtime.block_on(self.blobs.commit(key(name), list, NewBlob::default(), anything)).unwrap()
    }

    fn append(&self, name: &str, bytes: &[u8]) -> (Blob, u64) {
        let appended = self.blobs.append(key(name), self.content(&[bytes]), |_| Ok::<_, Infallible>(()));
        let Ok(done) = self.runtime.block_on(appended).unwrap().unwrap();
        done
    }

    fn delete(&self, name: &str) -> bool {
        let gone = self.blobs.delete(key(name), |_| Ok::<_, Infallible>(()));
        self.runtime.block_on(gone).unwrap().is_some()
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        self.read_range(name, 0..u64::MAX)
    }

    fn read_range(&self, name: &str, range: std::ops::Range<u64>) -> Option<Vec<u8>> {
        let Ok(reader) = self.blobs.open_blob(&key(name), |_| Ok::<_, Infallible>(range)).unwrap()?;
        Some(to_end(reader))
    }

    fn files(&self) -> usize {
        self.blobs.inner.folder.names().unwrap().len()
    }

    /// Waits until so many content files are left.
    #[track_caller]
    fn wait_for_files(&self, count: usize) {
        for _ in 0..1_000 {
            if self.files() == count {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{} files, not {count}", self.files());
    }

    fn names(&self, asked: Listing) -> (Vec<String>, Option<String>) {
        let page = self.blobs.list(&Listing { container: "c".to_owned(), ..asked }).unwrap();
        let name = |entry: &Entry| match entry {
            Entry::Blob(blob) => blob.name.clone(),
            Entry::Prefix(prefix) => format!("{prefix}*"),
        };
        (page.entries.iter().map(name).collect(), page.next)
    }
}

fn anything(_: Option<&Blob>) -> Result<(), Infallible> {
    Ok(())
}

fn key(name: &str) -> Key {
    Key { container: "c".to_owned(), name: name.to_owned() }
}

fn to_end(mut reader: Reader) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.next(7).unwrap() {
        assert!(bytes.len() <= 7 && !bytes.is_empty());
        all.extend(bytes);
    }
    all
}

#[test]
fn what_was_answered_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::open(dir.path());
    let first = bed.put("a/b", b"hello");
    bed.put("empty", b"");
    bed.put_as(Kind::Append, "log", b"");
    bed.append("log", b"one ");
    let (log, at) = bed.append("log", b"two");
    assert_eq!((log.size, log.appends, at), (7, 2, 4));
    drop(bed);
    let bed = Bed::open(dir.path());
    assert_eq!(bed.blobs.get(&key("a/b")).unwrap().unwrap(), first);
    assert_eq!(bed.read("a/b").unwrap(), b"hello");
    assert_eq!(bed.read("empty").unwrap(), b"");
    assert_eq!(bed.read("log").unwrap(), b"one two");
    assert_eq!(bed.read("absent"), None);
    // The clock stands still, and yet.
    assert!(bed.put("a/b", b"again").etag > log.etag);
    use std::os::unix::fs::PermissionsExt;
    for path in [dir.path().join("blobs"), dir.path().join("blobs/content"), dir.path().join("blobs/index.sqlite3")] {
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{path:?}");
    }
}

#[test]
fn blocks_become_a_blob_in_the_order_of_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::open(dir.path());
    use BlockSource::{Committed, Latest, Uncommitted};
    for (id, bytes) in [("1", "aaaa"), ("2", "bbbb"), ("3", "cccc"), ("unused", "xxxx")] {
        bed.stage("big", id, bytes.as_bytes());
    }
    assert!(bed.blobs.get(&key("big")).unwrap().is_none(), "staged is not there");
    assert_eq!(bed.blobs.blocks(&key("big")).unwrap().unwrap().1.staged.len(), 4);
    bed.commit("big", &[(Latest, "2"), (Uncommitted, "1"), (Latest, "2")]).unwrap();
    assert_eq!(bed.read("big").unwrap(), b"bbbbaaaabbbb");
    bed.wait_for_files(2);
    for range in [0..1, 3..5, 4..8, 5..11, 11..12, 8..99] {
        let whole = b"bbbbaaaabbbb";
        let expected = &whole[range.start as usize..(range.end as usize).min(12)];
        assert_eq!(bed.read_range("big", range.clone()).unwrap(), expected, "{range:?}");
    }
    assert_eq!(bed.read_range("big", 12..20).unwrap(), b"");
    bed.stage("big", "2", b"BB");
    assert_eq!(bed.commit("big", &[(Committed, "3")]).unwrap_err(), CommitError::NoBlock);
    assert_eq!(bed.read("big").unwrap(), b"bbbbaaaabbbb", "a list that fails changes nothing");
    bed.commit("big", &[(Committed, "2"), (Uncommitted, "2"), (Latest, "1")]).unwrap();
    assert_eq!(bed.read("big").unwrap(), b"bbbbBBaaaa");
    let (_, blocks) = bed.blobs.blocks(&key("big")).unwrap().unwrap();
    assert_eq!(blocks.committed.iter().map(|b| b.length).collect::<Vec<_>>(), [4, 2, 4]);
    assert!(blocks.staged.is_empty());
    bed.put("big", b"whole");
    assert_eq!(bed.read("big").unwrap(), b"whole");
    bed.wait_for_files(1);
}

#[test]
fn a_condition_and_its_write_are_one() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::open(dir.path());
    let only_new = |blob: Option<&Blob>| if blob.is_some() { Err("exists") } else { Ok(()) };
    let put = |bytes: &[u8]| bed.blobs.put(key("a"), Kind::Block, bed.content(&[bytes]), NewBlob::default(), only_new);
    let (first, second) = bed.runtime.block_on(async { tokio::join!(put(b"first"), put(b"second")) });
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_ne!(first.is_ok(), second.is_ok(), "whoever comes first is the only one");
    assert_eq!(bed.read("a").unwrap(), if first.is_ok() { &b"first"[..] } else { b"second" });
    bed.wait_for_files(1);
}

#[test]
fn who_hangs_up_takes_nothing_along() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::open(dir.path());
    let content = bed.content(&[b"stays"]);
    let (started, go) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel::<()>());
    bed.runtime.block_on(async {
        let blobs = bed.blobs.clone();
        let hold = tokio::spawn(async move {
            let hold = blobs.change(move |_| {
                started.0.send(()).unwrap();
                let _ = go.1.recv();
                Ok(())
            });
            hold.await.unwrap();
        });
        while started.1.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        let blobs = bed.blobs.clone();
        let put = tokio::spawn(async move {
            let put = blobs.put(key("a"), Kind::Block, content, NewBlob::default(), anything);
            put.await.unwrap()
        });
        while bed.blobs.inner.jobs().unwrap().capacity() == QUEUE_JOBS_MAX {
            tokio::task::yield_now().await;
        }
        put.abort();
        assert!(put.await.unwrap_err().is_cancelled());
        go.0.send(()).unwrap();
        hold.await.unwrap();
        // Behind the other in the queue.
        bed.blobs.change(|_| Ok(())).await.unwrap();
    });
    assert_eq!(bed.read("a").unwrap(), b"stays");
}

#[test]
fn who_reads_reads_one_version_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::open(dir.path());
    let old = vec![1; 100];
    bed.put("a", &old);
    let open = || bed.blobs.open_blob(&key("a"), |_| Ok::<_, Infallible>(0..u64::MAX)).unwrap().unwrap().unwrap();
    let mut reader = open();
    let unread = open();
    let mut seen = reader.next(10).unwrap().unwrap();
    bed.put("a", b"new");
    assert!(bed.delete("a"));
    assert!(!bed.delete("a"));
    seen.extend(to_end(reader));
    assert_eq!(seen, old);
    assert_eq!(to_end(unread), old);
    bed.wait_for_files(0);
}

#[test]
fn appends_of_many_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::open(dir.path());
    bed.put_as(Kind::Append, "log", b"");
    let appended: Vec<u64> = bed.runtime.block_on(async {
        let tasks: Vec<_> = (0..40_u8)
            .map(|n| {
                let (blobs, content) = (bed.blobs.clone(), bed.content(&[&[n; 9], b"\n"]));
                tokio::spawn(async move {
                    let done = blobs.append(key("log"), content, |_| Ok::<_, Infallible>(())).await;
                    done.unwrap().unwrap().unwrap().1
                })
            })
            .collect();
        let mut at = Vec::new();
        for task in tasks {
            at.push(task.await.unwrap());
        }
        at
    });
    assert_eq!(appended.iter().collect::<BTreeSet<_>>().len(), 40);
    let log = bed.read("log").unwrap();
    assert_eq!(log.len(), 400);
    for (n, at) in appended.iter().enumerate() {
        assert_eq!(log[*at as usize..*at as usize + 9], [n as u8; 9]);
    }
    bed.wait_for_files(1);
    // What a killed append left behind the end is not seen and is written over.
    let file = bed.blobs.inner.folder.names().unwrap().remove(0);
    let path = bed.blobs.inner.folder.file(&file);
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"half of a lo").unwrap();
    assert_eq!(bed.read("log").unwrap().len(), 400);
    bed.append("log", b"end");
    assert_eq!(&bed.read("log").unwrap()[400..], b"end");
}

#[test]
fn lists_are_in_order_and_folders_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::open(dir.path());
    for n in 0..1_500 {
        let blob =
            bed.blobs.put(key(&format!("many/{n:04}")), Kind::Block, bed.content(&[]), NewBlob::default(), anything);
        // Empty, so that the test waits for no disk.
        bed.runtime.block_on(blob).unwrap().unwrap();
    }
    for name in ["a", "a/1", "a/2/x", "b", "many", "many0", "z\u{d7ff}", "z\u{e000}", "é"] {
        bed.put(name, b"");
    }
    let all = |prefix: &str, delimiter: Option<&str>, max| {
        let (mut names, mut from, mut pages) = (Vec::new(), None, 0);
        loop {
            let asked = Listing {
                prefix: prefix.to_owned(),
                delimiter: delimiter.map(str::to_owned),
                from,
                max,
                ..Listing::default()
            };
            let (page, next) = bed.names(asked);
            assert!(page.len() <= max);
            names.extend(page);
            pages += 1;
            match next {
                Some(next) => from = Some(next),
                None => return (names, pages),
            }
        }
    };
    let top = ["a", "a/*", "b", "many", "many/*", "many0", "z\u{d7ff}", "z\u{e000}", "é"];
    assert_eq!(all("", Some("/"), 5_000), (top.map(str::to_owned).to_vec(), 1));
    assert_eq!(all("", Some("/"), 2).0, top);
    assert_eq!(all("a/", Some("/"), 1).0, ["a/1", "a/2/*"]);
    assert_eq!(all("a/2", None, 10).0, ["a/2/x"]);
    assert_eq!(all("z", Some("\u{d7ff}"), 10).0, ["z\u{d7ff}*", "z\u{e000}"]);
    let (many, pages) = all("many/", None, 700);
    assert_eq!((many.len(), pages), (1_500, 3));
    assert!(many.is_sorted());
    assert_eq!(all("", None, 5_000).0.len(), 1_509);
    assert!(all("nothing", None, 10).0.is_empty());
}

#[test]
fn what_belongs_to_nobody_goes() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::open(dir.path());
    bed.put("kept", b"kept");
    let gone = |name: &str| Key { container: "gone".to_owned(), name: name.to_owned() };
    for n in 0..3 {
        let put = bed.blobs.put(gone(&n.to_string()), Kind::Block, bed.content(&[b"x"]), NewBlob::default(), anything);
        bed.runtime.block_on(put).unwrap().unwrap();
    }
    bed.runtime.block_on(bed.blobs.stage(gone("staged"), "1".to_owned(), bed.content(&[b"x"]))).unwrap();
    bed.stage("kept", "old", b"old");
    bed.clock.fetch_add(8 * 24 * 3_600, Ordering::Relaxed);
    bed.stage("kept", "young", b"young");
    drop(bed.content(&[b"an upload that was cut off"]));
    assert_eq!(bed.files(), 7);
    let swept = bed.blobs.sweep(|| BTreeSet::from(["c".to_owned()])).unwrap();
    assert_eq!(swept, Swept { containers: 1, blocks: 1 });
    bed.wait_for_files(2);
    assert_eq!(bed.read("kept").unwrap(), b"kept");
    assert!(bed.blobs.get(&gone("0")).unwrap().is_none());
    // What a killed process left half-written.
    let upload = bed.content(&[b"half"]);
    upload.taken();
    assert_eq!(bed.files(), 3);
    drop(bed);
    let bed = Bed::open(dir.path());
    bed.wait_for_files(2);
    assert_eq!(bed.read("kept").unwrap(), b"kept");
}

#[test]
fn a_failed_commit_changes_nothing_and_later_writes_work() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::open(dir.path());
    bed.put("a", b"before");
    let limit = |pages: Option<u32>| {
        let set = bed.blobs.change(move |db| {
            let used: u32 = db.pragma_query_value(None, "page_count", |row| row.get(0))?;
            let max = pages.map_or(u32::MAX - 1, |more| used + more);
            db.pragma_update_and_check(None, "max_page_count", max, |row| row.get::<_, u32>(0))?;
            Ok(())
        });
        bed.runtime.block_on(set).unwrap();
    };
    limit(Some(0));
    let fat = |name: &str| {
        let metadata = vec![("fill".to_owned(), "x".repeat(100_000))];
        let new = NewBlob { metadata, ..NewBlob::default() };
        bed.blobs.put(key(name), Kind::Block, bed.content(&[b"after"]), new, anything)
    };
    // One that fits and one that does not, in one group or in two: each is answered truly.
    let small = bed.blobs.edit(key("a"), |_| Ok::<_, Infallible>(()));
    let (full, edited) = bed.runtime.block_on(async { tokio::join!(fat("b"), small) });
    assert!(matches!(full, Err(BlobError::Full)), "{full:?}");
    let present = bed.blobs.get(&key("a")).unwrap().unwrap();
    assert!(edited.is_err() || edited.unwrap().unwrap().unwrap() == present);
    assert_eq!(bed.read("a").unwrap(), b"before");
    assert!(bed.blobs.get(&key("b")).unwrap().is_none());
    bed.wait_for_files(1);
    limit(None);
    bed.runtime.block_on(fat("b")).unwrap().unwrap();
    assert_eq!(bed.read("b").unwrap(), b"after");
}

#[test]
fn a_panic_is_an_error_and_the_writer_lives() {
    let dir = tempfile::tempdir().unwrap();
    let bed = Bed::open(dir.path());
    let put = bed.blobs.put(key("a"), Kind::Block, bed.content(&[b"x"]), NewBlob::default(), |_| {
        if true { panic!("on purpose") } else { Ok::<_, Infallible>(()) }
    });
    assert!(matches!(bed.runtime.block_on(put), Err(BlobError::Panicked)));
    bed.put("a", b"y");
    bed.wait_for_files(1);
}

/// The child of [`acknowledged_writes_survive_kill_9`]: writes for ever, saying what was acknowledged.
#[test]
#[ignore = "runs as a child process of the kill test"]
fn child_that_writes_until_killed() {
    let Some(dir) = std::env::var_os("MOAT_BLOB_KILL_DIR") else { return };
    let bed = Bed::open(Path::new(&dir));
    let mut out = std::io::stdout();
    if bed.blobs.get(&key("log")).unwrap().is_none() {
        bed.put_as(Kind::Append, "log", b"");
    }
    let start = bed.blobs.get(&key("log")).unwrap().unwrap().appends;
    for i in start.. {
        let name = format!("b{}", i % 20);
        match i % 3 {
            0 => drop(bed.put(&name, format!("{i:8}").repeat(5_000).as_bytes())),
            1 => {
                bed.stage(&name, "1", format!("{i:8}").repeat(2_000).as_bytes());
                bed.stage(&name, "2", format!("{i:8}").repeat(3_000).as_bytes());
                bed.commit(&name, &[(BlockSource::Latest, "1"), (BlockSource::Latest, "2")]).unwrap();
            }
            _ => drop(bed.delete(&name)),
        }
        bed.append("log", format!("{i:8}").as_bytes());
        writeln!(out, "ack {i}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "blobs::tests::child_that_writes_until_killed", "--ignored", "--nocapture"])
            .env("MOAT_BLOB_KILL_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let ack = |line: String| line.strip_prefix("ack ").and_then(|n| n.parse::<u64>().ok());
        let mut last = None;
        // Not a time but a number of acknowledged writes: the kill falls inside the next ones.
        for _ in 0..20 + round * 7 {
            last = lines.by_ref().find_map(ack);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let last = lines.filter_map(ack).last().or(last).unwrap();
        let bed = Bed::open(dir.path());
        let log = String::from_utf8(bed.read("log").unwrap()).unwrap();
        let entries: Vec<u64> =
            log.as_bytes().chunks(8).map(|n| String::from_utf8_lossy(n).trim().parse().unwrap()).collect();
        assert!(entries.iter().enumerate().all(|(at, n)| at as u64 == *n), "{entries:?}");
        assert!(entries.len() as u64 > last, "acknowledged {last}, the log has {}", entries.len());
        // Every blob is one whole version, and not older than the last one acknowledged.
        for n in 0..20 {
            let Some(content) = bed.read(&format!("b{n}")) else { continue };
            assert_eq!(content.len(), 40_000);
            assert!(content.chunks(8).all(|chunk| chunk == &content[..8]));
            let written: u64 = String::from_utf8_lossy(&content[..8]).trim().parse().unwrap();
            assert!(written + 40 > last && written % 20 == n, "b{n} is of {written}, last {last}");
        }
    }
}
