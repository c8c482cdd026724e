//! The tree of files a sandbox sees, made from nothing: what is not put in is not there.
//!
//! Runs as process 1 of the sandbox, in its own user and mount namespaces, before the program.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use super::beneath::{Folder, relative};
use super::spec::{Mount, SandboxSpec};
use super::{PROC_DIR, ROOT_DIR};
use crate::world::process::{Locked, lock_mount};
use crate::world::{WorldError, view};

/// The one user inside. Azure's job images have another name for it; programs need only that there is one.
pub(super) const USER_ID: u32 = 1_000;
/// Room for the tree itself: mount points and a few small files.
const ROOT_OPTIONS: &str = "mode=0755,size=4m,nr_inodes=8k";

/// Where programs are, on any distribution. Links (`/bin` to `usr/bin`) stay links.
const SYSTEM: [&str; 8] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "gnu"];
/// What programs read below /etc, where the host has it. Nothing that tells about this host's users or services.
const ETC: [&str; 14] = [
    "alternatives",
    "bash.bashrc",
    "debian_version",
    "fonts",
    "gai.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "mime.types",
    "os-release",
    "protocols",
    "services",
];
/// Devices everybody may use.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Entries of /proc about the whole machine that no job needs: covered, though most are closed to it anyway.
const PROC_COVERED: [&str; 16] = [
    "acpi",
    "asound",
    "bus",
    "driver",
    "fs",
    "irq",
    "kallsyms",
    "kcore",
    "keys",
    "key-users",
    "latency_stats",
    "sched_debug",
    "scsi",
    "sysrq-trigger",
    "sysvipc",
    "timer_list",
];
/// Where programs of the common distributions look for certificates.
const CERTIFICATES: [&str; 3] =
    ["etc/ssl/certs/ca-certificates.crt", "etc/ssl/cert.pem", "etc/pki/tls/certs/ca-bundle.crt"];

/// Makes the tree and makes it this process's root.
pub(super) fn make(spec: &SandboxSpec) -> Result<(), WorldError> {
    view::make_private()?;
    let root = Path::new(ROOT_DIR);
    view::tmpfs(root, ROOT_OPTIONS)?;
    let tree = Tree { root: Folder::open(root).map_err(WorldError::step("opening the sandbox's root"))? };
    tree.system()?;
    tree.etc(spec)?;
    tree.dev(spec)?;
    tree.proc()?;
    tree.private("tmp", &format!("mode=1777,size={},nr_inodes=256k", spec.limits.tmp_bytes))?;
    for entry in &spec.mounts {
        tree.mount(entry)?;
    }
    drop(tree);
    enter(root)?;
    // Last: everything has its place. What is mounted in it is not touched by this.
    lock_mount(Path::new("/"), Locked::ReadOnly, false).map_err(WorldError::mount("a read-only root", "/"))
}

/// Leaves the old tree for good: nothing leads back to it.
fn enter(root: &Path) -> Result<(), WorldError> {
    let step = |doing| move |error: nix::Error| WorldError::step(doing)(error);
    nix::unistd::chdir(root).map_err(step("going to the sandbox's root"))?;
    // Both in one place: the old root comes to lie over the new one, and is taken away.
    nix::unistd::pivot_root(".", ".").map_err(step("changing the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(step("leaving the old root"))?;
    nix::unistd::chdir("/").map_err(step("going to the new root"))
}

struct Tree {
    root: Folder,
}

impl Tree {
    fn at(&self, name: &str) -> PathBuf {
        Path::new(ROOT_DIR).join(name)
    }

    fn folder(&self, name: &str) -> Result<PathBuf, WorldError> {
        view::make_dir(&self.at(name), 0o755)?;
        Ok(self.at(name))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), WorldError> {
        fs::write(self.at(name), text).map_err(WorldError::step("writing a file of the sandbox"))
    }

    fn link(&self, target: impl AsRef<Path>, name: &str) -> Result<(), WorldError> {
        symlink(target, self.at(name)).map_err(WorldError::step("making a link of the sandbox"))
    }

    /// A tmpfs of its own.
    fn private(&self, name: &str, options: &str) -> Result<(), WorldError> {
        view::tmpfs(&self.folder(name)?, options)
    }

    fn system(&self) -> Result<(), WorldError> {
        SYSTEM.iter().try_for_each(|name| self.take(&Path::new("/").join(name), name))
    }

    /// What the host has at `from`, read-only; a link as a link. Nothing where it has nothing.
    fn take(&self, from: &Path, to: &str) -> Result<(), WorldError> {
        let Ok(meta) = fs::symlink_metadata(from) else { return Ok(()) };
        if meta.is_symlink() {
            let target = fs::read_link(from).map_err(WorldError::step("reading a link of the system"))?;
            return self.link(target, to);
        }
        if meta.is_dir() {
            self.folder(to)?;
        } else {
            self.write(to, "")?;
        }
        let from = view::handle(from).map_err(WorldError::mount("a part of the system", from))?;
        bind_locked(&from, &self.at(to), Locked::ReadOnly)
    }

    fn etc(&self, spec: &SandboxSpec) -> Result<(), WorldError> {
        self.folder("etc")?;
        for name in ETC {
            self.take(&Path::new("/etc").join(name), &format!("etc/{name}"))?;
        }
        let (user, host) = (USER_ID, &spec.hostname);
        self.write(
            "etc/passwd",
            &format!(
                "root:x:0:0:root:/:/usr/sbin/nologin\nazureuser:x:{user}:{user}::/tmp:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
            ),
        )?;
        self.write("etc/group", &format!("root:x:0:\nazureuser:x:{user}:\nnogroup:x:65534:\n"))?;
        self.write("etc/hostname", &format!("{host}\n"))?;
        self.write("etc/hosts", &format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {host}\n"))?;
        self.write("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")?;
        self.write("etc/resolv.conf", view::RESOLVER)?;
        for name in CERTIFICATES {
            if let Some((folder, _)) = name.rsplit_once('/') {
                self.folder(folder)?;
            }
            self.write(name, &spec.ca_certificates)?;
        }
        Ok(())
    }

    fn dev(&self, spec: &SandboxSpec) -> Result<(), WorldError> {
        let dev = self.folder("dev")?;
        mount(Some("tmpfs"), &dev, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0755,size=64k"))
            .map_err(WorldError::mount("a private tmpfs", &dev))?;
        for name in DEVICES {
            let Ok(device) = view::handle(&Path::new("/dev").join(name)) else { continue };
            self.write(&format!("dev/{name}"), "")?;
            view::bind(device, &dev.join(name))?;
        }
        for (target, name) in [("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")] {
            self.link(target, &format!("dev/{name}"))?;
        }
        self.private("dev/shm", &format!("mode=1777,size={},nr_inodes=64k", spec.limits.shm_bytes))?;
        let pts = self.folder("dev/pts")?;
        let options = "newinstance,ptmxmode=0666,mode=0620,max=64";
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        // A kernel without pseudo terminals has none to give: programs then do without, too.
        if mount(Some("devpts"), &pts, Some("devpts"), flags, Some(options)).is_ok() {
            self.link("pts/ptmx", "dev/ptmx")?;
        }
        lock_mount(&dev, Locked::ReadOnly, false).map_err(WorldError::mount("a read-only /dev", &dev))
    }

    /// This PID namespace's own, read-only: the kernel's switches are not to be touched. A process sees only those
    /// it could trace; process 1, which still has memory of the agent's, is not one of them.
    fn proc(&self) -> Result<(), WorldError> {
        let proc = self.folder("proc")?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
        let hiding = mount(Some("proc"), &proc, Some("proc"), flags, Some("hidepid=invisible"));
        hiding
            .or_else(|_| mount(Some("proc"), &proc, Some("proc"), flags, Some("hidepid=2")))
            .map_err(WorldError::mount("a fresh /proc", &proc))?;
        let null = view::handle(Path::new("/dev/null")).map_err(WorldError::mount("a covered file", &proc))?;
        for name in PROC_COVERED {
            let over = proc.join(name);
            let Ok(meta) = fs::symlink_metadata(&over) else { continue };
            if meta.is_dir() {
                view::tmpfs(&over, "mode=0555,size=4k,nr_inodes=2")?;
                lock_mount(&over, Locked::ReadOnly, false).map_err(WorldError::mount("a covered folder", &over))?;
            } else if meta.is_file() {
                view::bind(&null, &over)?;
            }
        }
        Ok(())
    }

    /// What the agent gives. Neither end may lead through a link: the folders are ones that jobs wrote in.
    fn mount(&self, entry: &Mount) -> Result<(), WorldError> {
        let fail = |error: nix::Error| WorldError::mount("a folder of the job", &entry.to)(error);
        let from = open_plain(&entry.from).map_err(fail)?;
        let kind = nix::sys::stat::fstat(&from).map_err(fail)?.st_mode & libc::S_IFMT;
        let to = relative(&entry.to).filter(|path| !path.is_empty()).ok_or_else(|| fail(nix::Error::EINVAL))?;
        let to = self
            .target(&to, kind == libc::S_IFDIR)
            .map_err(|error| fail(error.raw_os_error().map_or(nix::Error::EINVAL, nix::Error::from_raw)))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", to.as_raw_fd()));
        view::bind(&from, &path)?;
        let over = Path::new(ROOT_DIR).join(entry.to.strip_prefix("/").unwrap_or(&entry.to));
        lock_mount(&over, if entry.read_only { Locked::ReadOnly } else { Locked::Writable }, true).map_err(fail)
    }

    /// The place for a mount, made where it is missing.
    fn target(&self, to: &str, folder: bool) -> io::Result<OwnedFd> {
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW).resolve(
            // Not without mounts: it may lie in an earlier one.
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        let open = |path: &str| openat2(&self.root, path, how).map_err(io::Error::from);
        let mut at = open(".")?;
        let mut done = String::new();
        let parts: Vec<&str> = to.split('/').collect();
        for (n, part) in parts.iter().enumerate() {
            if !done.is_empty() {
                done.push('/');
            }
            done.push_str(part);
            at = match open(&done) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if folder || n + 1 < parts.len() {
                        nix::sys::stat::mkdirat(&at, *part, Mode::from_bits_truncate(0o755))?;
                    } else {
                        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                        nix::fcntl::openat(&at, *part, flags, Mode::from_bits_truncate(0o644))?;
                    }
                    open(&done)?
                }
                other => other?,
            };
        }
        Ok(at)
    }
}

/// A handle to a path of the agent's without any link in it.
fn open_plain(path: &Path) -> nix::Result<OwnedFd> {
    let root = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

fn bind_locked(from: &OwnedFd, to: &Path, locked: Locked) -> Result<(), WorldError> {
    view::bind(from, to)?;
    lock_mount(to, locked, true).map_err(WorldError::mount("a read-only view", to))
}

/// What the agent's own tree must have before any sandbox is made: places, and a whole /proc (see [`PROC_DIR`]).
pub(crate) fn prepare() -> Result<(), WorldError> {
    view::make_dir(Path::new(ROOT_DIR), 0o755)?;
    view::make_dir(Path::new(PROC_DIR), 0o755)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(Some("proc"), PROC_DIR, Some("proc"), flags, None::<&str>)
        .map_err(WorldError::mount("a fresh /proc", PROC_DIR))
}
