//! Namespaces and what is done inside them: each time by a thread that lives only for that.
//!
//! INVARIANT: no thread that goes on living ever enters another namespace. In a user namespace
//! there would be no way back, and a runtime's worker would carry it to the next task.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Makes a network namespace, keeps it alive by a mount at `path`, and sets values below `/proc/sys/net`.
pub(super) fn create(path: &Path, sysctls: &BTreeMap<String, String>) -> io::Result<OwnedFd> {
    File::create(path)?;
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let own = Path::new("/proc/thread-self/ns/net");
        mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        write_sysctls(sysctls)?;
        Ok(OwnedFd::from(File::open(own)?))
    })
    .inspect_err(|_| {
        // The empty file would look like a namespace to the next start.
        let _ = fs::remove_file(path);
    })
}

/// Lets a namespace go. It ends when the last process and socket in it end.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    umount2(path, MntFlags::MNT_DETACH)?;
    fs::remove_file(path)
}

/// Runs `work` inside the namespace `ns`.
pub(super) fn inside<T: Send>(ns: impl AsFd + Send, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    in_thread(move || {
        setns(ns, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).stack_size(THREAD_STACK_BYTES);
        let handle = thread.spawn_scoped(scope, work)?;
        handle.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside a namespace panicked")))
    })
}

/// Such a thread makes a few system calls.
const THREAD_STACK_BYTES: usize = 256 << 10;

/// Sets values below `/proc/sys/net` in the namespace of the calling thread. A kernel without IPv6
/// has none of its switches; that is fine, since we only switch it off.
fn write_sysctls(values: &BTreeMap<String, String>) -> io::Result<()> {
    for (path, value) in values {
        match fs::write(Path::new("/proc/sys/net").join(path), value) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.starts_with("ipv6/") => {}
            other => other?,
        }
    }
    Ok(())
}
