//! Content files: written once by streaming, read by position, removed when nothing points at them and nobody
//! reads them any more.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::BlobError;

/// The folder of content files.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Readers of each file. Held while a reader looks up its files, and while unread ones are removed, so that no
    /// file goes between the two.
    pub(super) pins: Mutex<BTreeMap<String, usize>>,
}

impl Folder {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self { path, pins: Mutex::default() })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Names of all files there are.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    /// Makes the entries of new files survive a power loss.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    pub(super) fn pinned(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        // Counts are changed in one step each.
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes on their way into the store. Removed when dropped before they are [`Content`] of something.
#[derive(Debug)]
pub struct Upload {
    file: File,
    content: Content,
}

/// Bytes that arrived whole. Removed when dropped, unless a blob took them.
#[derive(Debug)]
pub struct Content {
    pub(super) folder: Arc<Folder>,
    pub(super) name: String,
    /// How many they are.
    pub length: u64,
    taken: bool,
}

impl Upload {
    pub(super) fn begin(folder: Arc<Folder>, name: String) -> Result<Self, BlobError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.file(&name))?;
        Ok(Self { file, content: Content { folder, name, length: 0, taken: false } })
    }

    /// Adds bytes. Blocks.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.file.write_all(bytes)?;
        self.content.length += bytes.len() as u64;
        Ok(())
    }

    /// The bytes so far.
    pub fn len(&self) -> u64 {
        self.content.length
    }

    /// Nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.content.length == 0
    }

    /// Ends it.
    pub fn finish(self) -> Content {
        self.content
    }
}

impl Content {
    /// Brings the bytes to rest. Blocks.
    pub(super) fn sync(&self) -> Result<(), BlobError> {
        if self.length > 0 {
            File::open(self.path())?.sync_data()?;
            self.folder.sync()?;
        }
        Ok(())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.file(&self.name)
    }

    /// The index points at it now.
    pub(super) fn taken(mut self) {
        self.taken = true;
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if !self.taken {
            // What stays here is found at the next start.
            let _ = std::fs::remove_file(self.path());
        }
    }
}

/// A file that stays while this lives.
#[derive(Debug)]
pub(super) struct Pin {
    folder: Arc<Folder>,
    pub(super) name: String,
    /// Wakes who removes files.
    released: SyncSender<()>,
}

impl Pin {
    /// Pins `name`; `pins` is the folder's own, held by who looked the file up.
    pub(super) fn new(
        folder: &Arc<Folder>,
        pins: &mut BTreeMap<String, usize>,
        name: String,
        released: SyncSender<()>,
    ) -> Self {
        *pins.entry(name.clone()).or_default() += 1;
        Self { folder: folder.clone(), name, released }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.file(&self.name)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.folder.pinned();
        if let Some(count) = pins.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.name);
                drop(pins);
                // A full channel has been told already.
                let _ = self.released.try_send(());
            }
        }
    }
}

/// Appends the bytes of `content` to the file `to`, whose first `at` bytes are what counts, and brings them to rest.
pub(super) fn append(content: &Content, to: &Path, at: u64) -> Result<(), BlobError> {
    use std::io::{Seek, SeekFrom};
    let mut file = OpenOptions::new().write(true).open(to)?;
    // What an append left that was cut off lies behind; it is written over.
    file.seek(SeekFrom::Start(at))?;
    io::copy(&mut File::open(content.path())?, &mut file)?;
    file.sync_data()?;
    Ok(())
}
