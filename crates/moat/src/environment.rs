//! Environments on disk: one directory each, per user, readable by that user only.
//!
//! ```text
//! ROOT/NAME/lock          held while the environment runs
//!           settings.json what stays from one start to the next: port, edition, package index
//!           world.json    the running world: process id of its init
//!           control.sock  commands to the server
//!           log           what its processes said
//!           home/         ~/.azure and ~/.azureml of programs run in it
//!           data/         the server's own: state, keys. Owned by the server's user; never followed as root
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use moat_host::world::Failure;
use moat_model::Edition;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// Environment variable that names another root.
pub(crate) const ROOT_VARIABLE: &str = "MOAT_HOME";
/// Longest name: it becomes part of file names and of socket paths.
const NAME_BYTES_MAX: usize = 32;
/// What must be free when an environment starts; a commit that fails later is worse than not starting.
const FREE_BYTES_MIN: usize = 1 << 20;
/// A log larger than this is put aside at the next start.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Where an environment lives.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    /// Its name.
    pub(crate) name: String,
    /// The directory with all environments of this user.
    pub(crate) root: PathBuf,
    /// Its own directory.
    pub(crate) dir: PathBuf,
}

/// Kept from one start to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) edition: Edition,
    pub(crate) port: u16,
    /// As `moat up --package-index` takes it; absent: the default.
    #[serde(default)]
    pub(crate) package_index: Option<String>,
}

/// The running world.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Process id of init.
    pub(crate) init: i32,
    /// When that process started, in ticks since boot: tells it from a later one with the same number.
    pub(crate) started: u64,
    pub(crate) url: String,
    pub(crate) edition: Edition,
}

impl Environment {
    /// By name, for this user. Makes nothing.
    pub(crate) fn named(name: &str) -> Result<Self, Failure> {
        Self::below(root()?, name)
    }

    /// In another root.
    pub(crate) fn below(root: PathBuf, name: &str) -> Result<Self, Failure> {
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('-') || !name.bytes().all(fine) {
            return Err(Failure::new(
                format!("`{}` is no name for an environment", name.escape_debug()),
                format!("use 1 to {NAME_BYTES_MAX} lower-case letters, digits and `-`"),
            ));
        }
        Ok(Environment { name: name.to_owned(), dir: root.join(name), root })
    }

    /// The environments of this user.
    pub(crate) fn all() -> Result<Vec<Self>, Failure> {
        let root = root()?;
        let Ok(entries) = std::fs::read_dir(&root) else { return Ok(Vec::new()) };
        let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names.iter().filter_map(|name| Self::below(root.clone(), name).ok()).filter(|e| e.exists()).collect())
    }

    /// Whether it was ever started.
    pub(crate) fn exists(&self) -> bool {
        self.dir.join("lock").exists()
    }

    /// Makes its directory, and tries that it can be written to.
    pub(crate) fn prepare(&self) -> Result<(), Failure> {
        let refused = |error: io::Error| storage_failure(&self.dir, &error);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(refused)?;
        let meta = std::fs::symlink_metadata(&self.dir).map_err(refused)?;
        if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(Failure::new(
                format!("`{}` is not a directory of this user", self.dir.display()),
                format!("remove it, or set {ROOT_VARIABLE} to another directory"),
            ));
        }
        if meta.permissions().mode() & 0o077 != 0 {
            std::fs::set_permissions(&self.dir, std::fs::Permissions::from_mode(0o700)).map_err(refused)?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(self.dir.join("home/azure")).map_err(refused)?;
        DirBuilder::new().recursive(true).mode(0o700).create(self.dir.join("home/azureml")).map_err(refused)?;
        self.try_writing().map_err(refused)
    }

    fn try_writing(&self) -> io::Result<()> {
        let probe = self.dir.join("probe");
        let tried = (|| {
            let mut file = private_file(&probe, OpenOptions::new().create(true).truncate(true))?;
            file.write_all(&vec![0x5a; FREE_BYTES_MIN])?;
            file.sync_all()
        })();
        let removed = if probe.exists() { std::fs::remove_file(&probe) } else { Ok(()) };
        tried.and(removed)
    }

    /// Takes the lock; held until the value is dropped and every copy of its descriptor closed.
    pub(crate) fn lock(&self) -> Result<Flock<File>, Failure> {
        let path = self.dir.join("lock");
        let file = private_file(&path, OpenOptions::new().create(true)).map_err(|e| storage_failure(&path, &e))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EAGAIN => Failure::new(
                format!("environment `{}` is running already", self.name),
                format!(
                    "`moat status -e {0}` shows it, `moat down -e {0}` ends it, `moat up -e OTHER` starts another",
                    self.name
                ),
            ),
            other => storage_failure(&path, &other.into()),
        })
    }

    /// Whether someone holds the lock.
    pub(crate) fn is_locked(&self) -> bool {
        OpenOptions::new()
            .read(true)
            .open(self.dir.join("lock"))
            .is_ok_and(|file| Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
    }

    /// What the last start left.
    pub(crate) fn settings(&self) -> Option<Settings> {
        read_json(&self.dir.join("settings.json"))
    }
    /// For the next start.
    pub(crate) fn keep_settings(&self, settings: &Settings) -> Result<(), Failure> {
        write_json(&self.dir.join("settings.json"), settings)
    }

    /// The running world, if there is one.
    pub(crate) fn running(&self) -> Result<Running, Failure> {
        let running: Option<Running> = read_json(&self.dir.join("world.json"));
        match running {
            Some(running) if start_ticks(running.init) == Some(running.started) => Ok(running),
            // Its processes are out of sight for a program that runs in it.
            Some(_) if self.is_locked() => Err(Failure::new(
                format!("environment `{}` cannot be entered from here", self.name),
                "run `moat exec` outside of `moat exec`, or wait until the environment has started or ended",
            )),
            _ => Err(Failure::new(
                format!("environment `{}` is not running", self.name),
                format!("start it with `moat up -e {} --detach`", self.name),
            )),
        }
    }
    /// Notes the running world.
    pub(crate) fn keep_running(&self, running: &Running) -> Result<(), Failure> {
        write_json(&self.dir.join("world.json"), running)
    }
    /// It ended.
    pub(crate) fn forget_running(&self) {
        let _ = std::fs::remove_file(self.dir.join("world.json"));
        let _ = std::fs::remove_file(self.dir.join("control.sock"));
    }

    /// The log, for appending.
    pub(crate) fn open_log(&self) -> Result<File, Failure> {
        let path = self.log_path();
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
            let _ = std::fs::rename(&path, self.dir.join("log.1"));
        }
        private_file(&path, OpenOptions::new().create(true).append(true)).map_err(|e| storage_failure(&path, &e))
    }
    /// Where the log is.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }
    /// The server's own directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Listens for commands. Only for the holder of the lock.
    pub(crate) fn listen_control(&self) -> Result<UnixListener, Failure> {
        let refused = |error: io::Error| storage_failure(&self.dir.join("control.sock"), &error);
        let _ = std::fs::remove_file(self.dir.join("control.sock"));
        let (_dir, path) = self.short_socket_path().map_err(refused)?;
        let listener = UnixListener::bind(&path).map_err(refused)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(refused)?;
        Ok(listener)
    }
    /// Connects to the server.
    pub(crate) fn connect_control(&self) -> io::Result<UnixStream> {
        let (_dir, path) = self.short_socket_path()?;
        UnixStream::connect(path)
    }
    /// A socket's path has at most 107 bytes; a home directory may be longer than that.
    fn short_socket_path(&self) -> io::Result<(File, PathBuf)> {
        let dir = File::open(&self.dir)?;
        let path = format!("/proc/self/fd/{}/control.sock", dir.as_raw_fd()).into();
        Ok((dir, path))
    }

    /// Removes it from the disk. Only for the holder of the lock.
    pub(crate) fn purge(&self) -> Result<(), Failure> {
        moat_host::world::remove_all(&self.dir).map_err(|error| storage_failure(&self.dir, &error))
    }
}

/// Where the environments of this user are.
fn root() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(root) = absolute(ROOT_VARIABLE) {
        return Ok(root);
    }
    let home = || absolute("HOME").filter(|home| home.is_dir()).map(|home| home.join(".local/share"));
    match absolute("XDG_DATA_HOME").or_else(home) {
        Some(base) => Ok(base.join("moat")),
        None if nix::unistd::geteuid().is_root() => Ok("/var/lib/moat".into()),
        None => Err(Failure::new(
            "this user has no home directory to keep environments in",
            format!("set HOME, XDG_DATA_HOME or {ROOT_VARIABLE} to a directory you may write to"),
        )),
    }
}

/// When process `pid` started, in ticks since boot; `None` if it has ended, also when nobody has noted that yet.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields 3 and 22; the name before them may hold anything, but what follows it holds no bracket.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The refusal of a disk, for people.
pub(crate) fn storage_failure(path: &Path, error: &io::Error) -> Failure {
    let help = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "free some space there".to_owned(),
        Some(libc::EROFS | libc::EACCES | libc::EPERM) => {
            format!("make it writable for this user, or set {ROOT_VARIABLE} to a directory that is")
        }
        _ => format!("check the directory, or set {ROOT_VARIABLE} to another one"),
    };
    Failure::new(format!("the state directory cannot be used: `{}`: {error}", path.display()), help)
}

fn private_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// By a new file and a rename: never half a file.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = private_file(&new, OpenOptions::new().create(true).truncate(true))?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(|error| storage_failure(path, &error))
}

/// Reads at most `limit` bytes of a file in a directory that belongs to the server's user: no link is followed.
pub(crate) fn read_untrusted(path: &Path, limit: u64) -> Option<String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).ok()?;
    let mut text = String::new();
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.take(limit).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_root() {
        let at = |name: &str| Environment::below("/r".into(), name);
        assert_eq!(at("ci-1").unwrap().dir, Path::new("/r/ci-1"));
        for bad in ["", ".", "..", "a/b", "A", "-x", "a b", &"x".repeat(33)] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_lock_keeps_a_second_start_out() {
        let root = tempfile::tempdir().unwrap();
        let one = Environment::below(root.path().into(), "one").unwrap();
        one.prepare().unwrap();
        assert!(!one.is_locked());
        let held = one.lock().unwrap();
        assert!(one.is_locked());
        assert!(one.lock().unwrap_err().what.contains("running already"));
        drop(held);
        assert!(!one.is_locked());
    }

    #[test]
    fn a_dead_or_reused_process_is_not_a_running_world() {
        let root = tempfile::tempdir().unwrap();
        let one = Environment::below(root.path().into(), "one").unwrap();
        one.prepare().unwrap();
        let own = std::process::id() as i32;
        let world = |started| Running { init: own, started, url: String::new(), edition: Edition::Seed2021 };
        one.keep_running(&world(start_ticks(own).unwrap())).unwrap();
        assert!(one.running().is_ok());
        one.keep_running(&world(1)).unwrap();
        assert!(one.running().unwrap_err().what.contains("not running"));
    }
}
