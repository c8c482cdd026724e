//! Which files the processes of the world, and programs run in it, see.
//!
//! The host's tree as it is, except: `/run` is private (so no socket of a host daemon, DNS cache or container engine
//! can be reached), `/proc` shows the world only, and the directories in `hide` are empty.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use super::error::WorldError;

/// Entries of the host's /run that hold programs or the user's disks rather than daemons' sockets.
const RUN_KEPT: [&str; 5] = ["current-system", "booted-system", "opengl-driver", "media", "host"];
const NONE: Option<&str> = None;

/// No mount made from here on is seen outside, nor the other way round.
pub fn make_private() -> Result<(), WorldError> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(WorldError::mount("the private tree", "/"))
}

/// A new tmpfs.
pub fn tmpfs(at: &Path, options: &str) -> Result<(), WorldError> {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))
        .map_err(WorldError::mount("a private tmpfs", at))
}

/// Makes what `from` refers to visible at `to`, which must exist.
pub fn bind(from: impl AsFd, to: &Path) -> Result<(), WorldError> {
    let from = PathBuf::from(format!("/proc/self/fd/{}", from.as_fd().as_raw_fd()));
    mount(Some(&from), to, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .map_err(WorldError::mount("a bind mount", to))
}

/// A handle to a file or directory that stays good whatever is mounted over its path.
pub fn handle(path: &Path) -> nix::Result<std::os::fd::OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

/// A /proc of this PID namespace.
pub fn fresh_proc() -> Result<(), WorldError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE).map_err(WorldError::mount("a fresh /proc", "/proc"))
}

/// Puts an empty tmpfs over /run, keeping what is no daemon's.
pub fn private_run() -> Result<(), WorldError> {
    let kept: Vec<_> =
        RUN_KEPT.iter().filter_map(|name| Some((*name, handle(&Path::new("/run").join(name)).ok()?))).collect();
    tmpfs(Path::new("/run"), "mode=0755,size=64m")?;
    for (name, from) in kept {
        let to = Path::new("/run").join(name);
        make_dir(&to, 0o755)?;
        bind(from, &to)?;
    }
    Ok(())
}

/// Makes a directory with all its parents.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), WorldError> {
    std::fs::DirBuilder::new().mode(mode).recursive(true).create(path).map_err(WorldError::step("making a directory"))
}

/// Puts an empty, unwritable directory over each of `paths` that exists.
pub fn hide(paths: &[PathBuf]) -> Result<(), WorldError> {
    for path in paths.iter().filter(|path| path.is_dir()) {
        tmpfs(path, "mode=0555,size=4k")?;
    }
    Ok(())
}

/// Puts `text` over a file of the host, through a file on the private /run. A dangling link is given its target
/// where that lies on the private /run; a file that does not exist elsewhere is left so.
pub fn replace_file(path: &Path, text: &str) -> Result<(), WorldError> {
    let real = match std::fs::canonicalize(path) {
        Ok(real) => real,
        Err(_) => {
            let Ok(target) = std::fs::read_link(path) else { return Ok(()) };
            let target = normal(&path.parent().unwrap_or(Path::new("/")).join(target));
            if target.starts_with("/run") {
                if let Some(dir) = target.parent() {
                    make_dir(dir, 0o755)?;
                }
                return std::fs::write(&target, text).map_err(WorldError::step("writing a private file"));
            }
            return Ok(());
        }
    };
    let name = path.file_name().unwrap_or_default();
    let own = Path::new(super::RUN_DIR).join("etc").join(name);
    make_dir(&Path::new(super::RUN_DIR).join("etc"), 0o755)?;
    std::fs::write(&own, text).map_err(WorldError::step("writing a private file"))?;
    mount(Some(&own), &real, NONE, MsFlags::MS_BIND, NONE).map_err(WorldError::mount("a private file", &real))
}

/// A path without `.` and `..`, by its text alone.
fn normal(path: &Path) -> PathBuf {
    use std::path::Component::{CurDir, ParentDir};
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            CurDir => {}
            ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// The only resolver there is: each VNet's own (network-semantics: 168.63.129.16).
pub(crate) const RESOLVER: &str = "nameserver 168.63.129.16\noptions timeout:2 attempts:2\n";

/// Names are asked of the platform's resolver and of nobody else.
pub fn resolver() -> Result<(), WorldError> {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    replace_file(Path::new("/etc/resolv.conf"), RESOLVER)?;
    replace_file(Path::new("/etc/hosts"), &format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n"))
}

/// Makes the kernel's switches read-only: root outside is their owner even without any capability.
pub fn protect_kernel() -> Result<(), WorldError> {
    for path in ["/proc/sys", "/sys"].map(Path::new).into_iter().filter(|path| path.exists()) {
        mount(Some(path), path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
            .map_err(WorldError::mount("a bind mount", path))?;
        // A bind remount must keep what the mount is locked to (nosuid and so on), which the host chose.
        let kept = nix::sys::statvfs::statvfs(path).map_or(MsFlags::empty(), |stat| locked_flags(stat.flags()));
        mount(NONE, path, NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | kept, NONE)
            .map_err(WorldError::mount("a read-only view", path))?;
    }
    Ok(())
}

fn locked_flags(flags: nix::sys::statvfs::FsFlags) -> MsFlags {
    use nix::sys::statvfs::FsFlags;
    let pairs = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    pairs.into_iter().filter(|(have, _)| flags.contains(*have)).fold(MsFlags::empty(), |sum, (_, flag)| sum | flag)
}
