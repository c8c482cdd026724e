//! Files of a folder that a stranger controls, touched so that no name, link or device in it leads elsewhere.
//!
//! A job may put anything into its folder: links to the agent's files, pipes that block whoever opens them, a million
//! names, a folder swapped for a link while it is being walked. So nothing here resolves a path of text twice: each
//! step is `openat2` from an open folder, which the kernel refuses at the first link or mount.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

/// Folders in folders.
pub const DEPTH_MAX: usize = 64;
/// Length of a path.
pub const PATH_BYTES_MAX: usize = 1_024;
/// Length of one name, as every common file system has it.
const NAME_BYTES_MAX: usize = 255;

/// A folder and nothing but what lies in it.
#[derive(Debug)]
pub struct Folder(OwnedFd);

/// A regular file that was found.
#[derive(Debug)]
pub struct Found {
    /// Its path below the folder, with `/` between the parts.
    pub path: String,
    /// It, open for reading.
    pub file: File,
    /// Its size when it was opened; it may grow or shrink while it is read.
    pub bytes: u64,
}

/// What a walk met and did not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skipped {
    /// A link: never followed.
    Link,
    /// A pipe, socket or device.
    Special,
    /// It may not be read, or is another mount.
    Unreadable,
    /// Its name is no text, or its path longer than [`PATH_BYTES_MAX`].
    Name,
    /// It lies deeper than [`DEPTH_MAX`].
    Deep,
}

/// Whether a walk goes on.
pub type Flow = std::ops::ControlFlow<()>;

/// A walk met more entries than it may.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// Too many of them.
    #[error("more than {0} entries")]
    TooMany(usize),
    /// The visitor's own error, or the folder's.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn how(flags: OFlag, mode: Mode) -> OpenHow {
    // A handle (O_PATH) opens nothing, and the kernel takes no other flags with it.
    let careful = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let careful = if flags.contains(OFlag::O_PATH) { OFlag::empty() } else { careful };
    let flags = flags | careful | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    OpenHow::new().flags(flags).mode(mode).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    )
}

fn open_beneath(folder: impl AsFd, path: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    loop {
        match openat2(&folder, path, how(flags, mode)) {
            // The kernel could not be sure because something was renamed meanwhile; it asks to try again.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Splits a path from a stranger into its parts, or says why it is none that can be used.
pub fn parts(path: &str) -> Result<Vec<&str>, &'static str> {
    if path.is_empty() {
        return Err("it is empty");
    }
    if path.len() > PATH_BYTES_MAX {
        return Err("it is too long");
    }
    if path.contains('\0') {
        return Err("it has a NUL in it");
    }
    if path.starts_with('/') {
        return Err("it is absolute");
    }
    let parts: Vec<&str> = path.split('/').collect();
    if parts.len() > DEPTH_MAX {
        return Err("it is too deep");
    }
    for part in &parts {
        match *part {
            "" => return Err("a part of it is empty"),
            "." | ".." => return Err("it has `.` or `..` in it"),
            part if part.len() > NAME_BYTES_MAX => return Err("a part of it is too long"),
            _ => {}
        }
    }
    Ok(parts)
}

fn refused(path: &str, why: &str) -> io::Error {
    let shown: String = path.chars().take(100).collect();
    io::Error::new(io::ErrorKind::InvalidInput, format!("the path `{}` cannot be used: {why}", shown.escape_debug()))
}

impl Folder {
    /// Opens a folder of our own: `path` must be trusted, but no part of it may be a link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let root = File::open("/")?;
        openat2(root, path, how).map(Folder).map_err(io::Error::from)
    }

    /// The folder `path` below this one.
    pub fn folder(&self, path: &str) -> io::Result<Folder> {
        parts(path).map_err(|why| refused(path, why))?;
        open_beneath(&self.0, Path::new(path), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
            .map(Folder)
            .map_err(io::Error::from)
    }

    /// The regular file `path` below this one, for reading.
    pub fn file(&self, path: &str) -> io::Result<Found> {
        parts(path).map_err(|why| refused(path, why))?;
        self.take(Path::new(path), path.to_owned())
    }

    /// Opens for reading if it is a regular file. An open that could block or act on a device cannot happen: what it
    /// is gets looked at through a handle that opens nothing.
    fn take(&self, relative: &Path, path: String) -> io::Result<Found> {
        let handle = open_beneath(&self.0, relative, OFlag::O_PATH, Mode::empty())?;
        let kind = nix::sys::stat::fstat(&handle)?;
        if !is_kind(&kind, libc::S_IFREG) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file"));
        }
        // It may have been replaced since: O_NONBLOCK keeps a pipe from blocking, and the look is taken again.
        let file = File::from(open_beneath(&self.0, relative, OFlag::O_RDONLY, Mode::empty())?);
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file"));
        }
        Ok(Found { path, file, bytes: meta.size() })
    }

    /// Makes the folder `path` and those above it, where they are missing.
    pub fn make_folder(&self, path: &str) -> io::Result<Folder> {
        let mut at = Folder(self.0.try_clone()?);
        for part in parts(path).map_err(|why| refused(path, why))? {
            at = at.enter_or_make(part)?;
        }
        Ok(at)
    }

    fn enter_or_make(&self, name: &str) -> io::Result<Folder> {
        match nix::sys::stat::mkdirat(&self.0, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        open_beneath(&self.0, Path::new(name), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
            .map(Folder)
            .map_err(io::Error::from)
    }

    /// Makes a new file at `path`, and folders above it where they are missing. One that is there already is an
    /// error (`AlreadyExists`): whoever brings files from outside brings each once.
    pub fn create_file(&self, path: &str, executable: bool) -> io::Result<File> {
        let parts = parts(path).map_err(|why| refused(path, why))?;
        let (name, above) = parts.split_last().ok_or_else(|| refused(path, "it is empty"))?;
        let mut at = Folder(self.0.try_clone()?);
        for part in above {
            at = at.enter_or_make(part)?;
        }
        let mode = Mode::from_bits_truncate(if executable { 0o755 } else { 0o644 });
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        open_beneath(&at.0, Path::new(name), flags, mode).map(File::from).map_err(io::Error::from)
    }

    /// Visits every regular file below, folder by folder, names in order of their bytes; tells what it leaves out.
    /// At most `entries_max` entries are met, whatever they are.
    pub fn walk(
        &self,
        entries_max: usize,
        mut visit: impl FnMut(Found) -> io::Result<Flow>,
        mut skipped: impl FnMut(&str, Skipped),
    ) -> Result<(), WalkError> {
        let mut left = entries_max;
        let top = Folder(self.0.try_clone()?);
        walk_in(&top, "", 1, &mut left, entries_max, &mut visit, &mut skipped).map(drop)
    }

    /// Removes everything in it, without following anything. What is another mount stays, and is an error.
    pub fn clear(&self) -> io::Result<()> {
        clear_in(&self.0, 0)
    }
}

impl From<Folder> for OwnedFd {
    fn from(folder: Folder) -> Self {
        folder.0
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn is_kind(stat: &nix::sys::stat::FileStat, kind: libc::mode_t) -> bool {
    stat.st_mode & libc::S_IFMT == kind
}

/// Names in a folder, sorted; at most `max` + 1 of them.
fn names(folder: &OwnedFd, max: usize) -> io::Result<Vec<OsString>> {
    // A folder read twice through one open file would go on where it stopped, so it gets one of its own.
    let own = open_beneath(folder, Path::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(own)?.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
        if names.len() > max {
            break;
        }
    }
    names.sort();
    Ok(names)
}

fn walk_in(
    folder: &Folder,
    above: &str,
    depth: usize,
    left: &mut usize,
    entries_max: usize,
    visit: &mut dyn FnMut(Found) -> io::Result<Flow>,
    skipped: &mut dyn FnMut(&str, Skipped),
) -> Result<Flow, WalkError> {
    for name in names(&folder.0, *left)? {
        *left = left.checked_sub(1).ok_or(WalkError::TooMany(entries_max))?;
        let shown = format!("{above}{}", String::from_utf8_lossy(name.as_bytes()));
        if name.to_str().is_none() || shown.len() > PATH_BYTES_MAX {
            skipped(&shown, Skipped::Name);
            continue;
        }
        // A handle opens nothing: no pipe waits, no device acts. With O_NOFOLLOW a link gives a handle to itself.
        let handle = nix::fcntl::openat(
            &folder.0,
            Path::new(&name),
            OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        let Ok(kind) = handle.and_then(|handle| nix::sys::stat::fstat(&handle)) else {
            skipped(&shown, Skipped::Unreadable); // it went away, or may not be looked at
            continue;
        };
        if is_kind(&kind, libc::S_IFLNK) {
            skipped(&shown, Skipped::Link);
        } else if is_kind(&kind, libc::S_IFDIR) {
            if depth >= DEPTH_MAX {
                skipped(&shown, Skipped::Deep);
                continue;
            }
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            match open_beneath(&folder.0, Path::new(&name), flags, Mode::empty()) {
                Ok(inner) => {
                    let (inner, above) = (Folder(inner), format!("{shown}/"));
                    if walk_in(&inner, &above, depth + 1, left, entries_max, visit, skipped)?.is_break() {
                        return Ok(Flow::Break(()));
                    }
                }
                Err(_) => skipped(&shown, Skipped::Unreadable),
            }
        } else if is_kind(&kind, libc::S_IFREG) {
            match folder.take(Path::new(&name), shown.clone()) {
                Ok(found) => {
                    if visit(found)?.is_break() {
                        return Ok(Flow::Break(()));
                    }
                }
                Err(_) => skipped(&shown, Skipped::Unreadable),
            }
        } else {
            skipped(&shown, Skipped::Special);
        }
    }
    Ok(Flow::Continue(()))
}

/// Folders a job made may be deeper than anybody walks, and closed to their owner; both must still go.
fn clear_in(folder: &OwnedFd, depth: usize) -> io::Result<()> {
    use nix::unistd::{UnlinkatFlags, unlinkat};
    loop {
        let some = names(folder, NAMES_AT_ONCE)?;
        if some.is_empty() {
            return Ok(());
        }
        for name in some {
            let path = PathBuf::from(name);
            match unlinkat(folder, &path, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => continue,
                Err(Errno::EISDIR | Errno::EPERM) => {}
                Err(error) => return Err(error.into()),
            }
            // Ours by its owner: open it up. A link in its place meanwhile is refused by the open below.
            let _ =
                nix::sys::stat::fchmodat(folder, &path, Mode::S_IRWXU, nix::sys::stat::FchmodatFlags::NoFollowSymlink);
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            let inner = open_beneath(folder, &path, flags, Mode::empty())?;
            if depth < CLEAR_DEPTH_MAX {
                clear_in(&inner, depth + 1)?;
            } else {
                lift(folder, &inner)?;
            }
            drop(inner);
            unlinkat(folder, &path, UnlinkatFlags::RemoveDir)?;
        }
    }
}

/// Folders read at once while clearing: a folder with millions of names needs no more memory.
const NAMES_AT_ONCE: usize = 10_000;
/// Recursion while clearing, each with one open folder.
const CLEAR_DEPTH_MAX: usize = 200;

/// Moves what lies in `inner` up into `folder`, under names of our own, where it is found and cleared later.
fn lift(folder: &OwnedFd, inner: &OwnedFd) -> io::Result<()> {
    let mut number = 0u64;
    loop {
        let some = names(inner, NAMES_AT_ONCE)?;
        if some.is_empty() {
            return Ok(());
        }
        for name in some {
            loop {
                let lifted = PathBuf::from(format!("lifted-{number}"));
                number += 1;
                let flags = nix::fcntl::RenameFlags::RENAME_NOREPLACE;
                match nix::fcntl::renameat2(inner, Path::new(&name), folder, &lifted, flags) {
                    Ok(()) | Err(Errno::ENOENT) => break,
                    Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// The parts of a path that the caller made, without its leading slash; for [`Folder`] calls.
pub(super) fn relative(path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> = path
        .components()
        .filter(|part| *part != Component::RootDir)
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    Some(parts?.join("/"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().canonicalize().unwrap()).unwrap();
        (dir, folder)
    }

    fn seen(folder: &Folder) -> (Vec<String>, Vec<(String, Skipped)>) {
        let (mut files, mut rest) = (Vec::new(), Vec::new());
        let visit = |found: Found| {
            files.push(found.path);
            Ok(Flow::Continue(()))
        };
        folder.walk(1_000, visit, |path, why| rest.push((path.to_owned(), why))).unwrap();
        (files, rest)
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\0b", &"x".repeat(256)] {
            assert!(parts(bad).is_err(), "{bad:?}");
        }
        assert!(parts(&vec!["d"; DEPTH_MAX + 1].join("/")).is_err());
        assert!(parts(&vec!["long-name-of-a-folder"; 60].join("/")).is_err());
        assert_eq!(parts("a/b c/ü..").unwrap(), ["a", "b c", "ü.."]);
    }

    #[test]
    fn files_are_made_below_and_nowhere_else() {
        let (dir, folder) = folder();
        let outside = tempfile::tempdir().unwrap();
        folder.create_file("a/b/c.txt", false).unwrap().write_all(b"hi").unwrap();
        assert_eq!(std::fs::read(dir.path().join("a/b/c.txt")).unwrap(), b"hi");
        let again = folder.create_file("a/b/c.txt", false).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        symlink(outside.path(), dir.path().join("out")).unwrap();
        symlink(outside.path().join("new"), dir.path().join("file")).unwrap();
        for path in ["out/x", "file", "../x", "out/a/b"] {
            assert!(folder.create_file(path, false).is_err(), "{path}");
            assert!(folder.make_folder(path).is_err(), "{path}");
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_pipes_and_sockets_are_told_and_not_touched() {
        let (dir, folder) = folder();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        std::fs::write(at("sub/good"), "text").unwrap();
        symlink("/etc/passwd", at("sub/stolen")).unwrap();
        symlink("/etc", at("etc")).unwrap();
        symlink("good", at("sub/near")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let (files, rest) = seen(&folder);
        assert_eq!(files, ["sub/good"]);
        let expected = [
            ("etc", Skipped::Link),
            ("pipe", Skipped::Special),
            ("socket", Skipped::Special),
            ("sub/near", Skipped::Link),
            ("sub/stolen", Skipped::Link),
        ];
        assert_eq!(rest, expected.map(|(path, why)| (path.to_owned(), why)));
        for path in ["pipe", "socket", "etc", "etc/passwd", "sub/stolen", "sub"] {
            assert!(folder.file(path).is_err(), "{path}");
        }
        let mut text = String::new();
        folder.file("sub/good").unwrap().file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
    }

    #[test]
    fn a_walk_has_bounds() {
        let (dir, folder) = folder();
        for n in 0..20 {
            std::fs::write(dir.path().join(format!("f{n}")), "").unwrap();
        }
        let count = |max| {
            let mut count = 0;
            let visit = |_| {
                count += 1;
                Ok(Flow::Continue(()))
            };
            (folder.walk(max, visit, |_, _| ()).is_ok(), count)
        };
        assert_eq!(count(20), (true, 20));
        let (whole, met) = count(19);
        assert!(!whole && met <= 19);
        let mut first = Vec::new();
        let visit = |found: Found| {
            first.push(found.path);
            Ok(Flow::Break(()))
        };
        folder.walk(100, visit, |_, _| ()).unwrap();
        assert_eq!(first, ["f0"]);
    }

    #[test]
    fn what_is_too_deep_is_told_and_still_removed() {
        let (dir, folder) = folder();
        // Deeper than any path of text may be: made step by step, as a job would.
        let mut at = Folder(folder.0.try_clone().unwrap());
        for _ in 0..CLEAR_DEPTH_MAX * 3 {
            at = at.enter_or_make("deep").unwrap();
        }
        at.create_file("end", false).unwrap();
        let (files, rest) = seen(&folder);
        assert_eq!(files, [""; 0]);
        assert!(matches!(&rest[..], [(_, Skipped::Deep)]), "{rest:?}");
        symlink("/etc", dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("closed")).unwrap();
        std::fs::write(dir.path().join("closed/in"), "").unwrap();
        let shut = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        std::fs::set_permissions(dir.path().join("closed"), shut).unwrap();
        folder.clear().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(Path::new("/etc/passwd").exists());
    }
}
