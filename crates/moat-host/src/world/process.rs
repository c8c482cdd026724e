//! The few raw system calls that make and tame processes. All `unsafe` of the world is here.
//!
//! Everything forks without `exec`: nothing depends on where the binary lies or on what a new file under its
//! name would do. That is sound only while the process has one thread, so every function that forks checks that.
#![allow(unsafe_code, reason = "fork, clone, capset and close_range have no safe form")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::AssertUnwindSafe;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid};

/// Exit code of a child whose closure panicked.
const EXIT_PANIC: i32 = 101;

/// Runs `child` in a new process made with `flags` (0 = plain fork) and returns its pid to the caller.
///
/// The child gets SIGKILL when the calling thread ends, and never returns from here.
pub fn spawn(flags: CloneFlags, child: impl FnOnce() -> i32) -> nix::Result<Pid> {
    await_single_thread()?;
    let parent = nix::unistd::getpid();
    let pid = if flags.is_empty() {
        // SAFETY: this process has one thread (checked above), so the child may run any code.
        match unsafe { libc::fork() } {
            -1 => return Err(Errno::last()),
            pid => pid,
        }
    } else {
        // SAFETY: without CLONE_VM this is a fork: the child has a copy of everything and a stack of its own.
        let got = unsafe {
            libc::syscall(
                libc::SYS_clone,
                (flags.bits() | libc::SIGCHLD) as libc::c_ulong,
                std::ptr::null_mut::<libc::c_void>(),
                std::ptr::null_mut::<libc::c_void>(),
                std::ptr::null_mut::<libc::c_void>(),
                0 as libc::c_ulong,
            )
        };
        if got == -1 {
            return Err(Errno::last());
        }
        got as libc::pid_t
    };
    if pid != 0 {
        return Ok(Pid::from_raw(pid));
    }
    let code = std::panic::catch_unwind(AssertUnwindSafe(|| {
        if die_with_parent(Some(parent)).is_err() {
            return EXIT_PANIC;
        }
        child()
    }))
    .unwrap_or(EXIT_PANIC);
    exit_now(code)
}

/// SIGKILL for this process when its parent ends. `parent`, where it can be seen, closes the race with a parent that
/// ended before the call. The kernel forgets this at a change of ids: call again after one.
pub fn die_with_parent(parent: Option<Pid>) -> nix::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    match parent {
        Some(parent) => match nix::unistd::getppid() {
            now if now == parent => Ok(()),
            // The parent is outside of this PID namespace; had it ended, process 1 would be the parent.
            now if now.as_raw() == 0 => Ok(()),
            _ => Err(Errno::ESRCH),
        },
        None => Ok(()),
    }
}

/// Ends the process without running destructors or `atexit` functions, which belong to the parent.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes no pointer and does not return.
    unsafe { libc::_exit(code) }
}

/// A lock held by another thread would stay locked in the child for ever, so there must be none. A thread that was
/// joined may still be listed for a moment: hence the bound instead of one look.
fn await_single_thread() -> nix::Result<()> {
    const LOOKS_MAX: u32 = 1_000;
    for _ in 0..LOOKS_MAX {
        // Unreadable only before a world has its own /proc: then nothing of ours has started a thread.
        if std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count) == 1 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(Errno::EBUSY)
}

/// Waits for `pid` to end. As a shell says it: its exit code, or 128 + signal.
pub fn wait_code(pid: Pid) -> i32 {
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return EXIT_PANIC,
        }
    }
}

/// Capabilities of Linux by number (include/uapi/linux/capability.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cap {
    /// Signal any process.
    Kill = 5,
    /// Change group ids.
    Setgid = 6,
    /// Change user ids.
    Setuid = 7,
    /// Listen below 1024.
    NetBindService = 10,
    /// Links, routes, rules.
    NetAdmin = 12,
    /// Packet sockets.
    NetRaw = 13,
    /// Mounts and namespaces.
    SysAdmin = 21,
    /// Passing user 0 on to a namespace.
    Setfcap = 31,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}
#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}
/// _LINUX_CAPABILITY_VERSION_3: 64 bits in two words.
const CAP_VERSION: u32 = 0x2008_0522;
/// More than the newest kernel has; the kernel answers EINVAL beyond its last.
const CAP_NUMBERS: std::ops::Range<u8> = 0..64;

/// Becomes inside user and group `id` (`None`: stays who it is) with exactly the capabilities `keep`: permitted and
/// effective; nothing inheritable, ambient or in the bounding set, and `no_new_privs`, so that no program run later
/// gets any of it back.
pub fn become_with(id: Option<u32>, keep: &[Cap]) -> nix::Result<()> {
    for number in CAP_NUMBERS {
        let number = libc::c_ulong::from(number);
        // SAFETY: these two take a number and touch no memory.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) } {
            -1 => break, // beyond the kernel's last capability
            0 => {}
            // SAFETY: as above.
            _ => drop(Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) })?),
        }
    }
    // SAFETY: as above.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0) };
    if let Some(id) = id {
        nix::sys::prctl::set_keepcaps(true)?;
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
        nix::sys::prctl::set_keepcaps(false)?;
    }
    let mask = keep.iter().fold(0u64, |mask, cap| mask | 1 << *cap as u8);
    let word =
        |shift: u32| CapData { effective: (mask >> shift) as u32, permitted: (mask >> shift) as u32, inheritable: 0 };
    let header = CapHeader { version: CAP_VERSION, pid: 0 };
    let words = [word(0), word(32)];
    // SAFETY: both pointers are to live values laid out as capset(2) wants them for version 3.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) } == -1 {
        return Err(Errno::last());
    }
    nix::sys::prctl::set_no_new_privs()
}

/// Leaves this process, and whatever it becomes or starts, no way past its network namespace (see [`super::fence`]).
/// After [`become_with`]: the kernel takes a filter from those who can gain nothing more.
pub fn fence() -> nix::Result<()> {
    confine(super::fence::filter())
}

/// Puts a system call filter on this process and whatever it becomes or starts; those it has stay.
pub(crate) fn confine(mut filter: Vec<libc::sock_filter>) -> nix::Result<()> {
    let len = libc::c_ushort::try_from(filter.len()).map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its instructions live across the call, which copies them.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if set == -1 { Err(Errno::last()) } else { Ok(()) }
}

/// How a mount is locked. Always without devices and without programs that gain rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locked {
    /// Files may be written.
    Writable,
    /// Nothing may be written.
    ReadOnly,
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}
// include/uapi/linux/mount.h
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;

/// Locks what is mounted at `path` (`below`: and everything mounted in it). Linux 5.12.
///
/// Devices of our own making (a `/dev` put together of bind mounts) are those of `below == false`.
pub(crate) fn lock_mount(path: &std::path::Path, locked: Locked, below: bool) -> nix::Result<()> {
    let set = match locked {
        Locked::Writable => MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
        Locked::ReadOnly => MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_RDONLY,
    };
    let attributes = MountAttr { set, clear: 0, propagation: 0, userns_fd: 0 };
    let flags = if below { libc::AT_RECURSIVE } else { 0 };
    let path = nix::NixPath::with_nix_path(path, std::ffi::CStr::to_owned)?;
    // SAFETY: the path ends with NUL, and the attributes are laid out and sized as mount_setattr(2) wants them.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags as libc::c_uint,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if set == -1 { Err(Errno::last()) } else { Ok(()) }
}

/// The lowest priority but one for CPU, for ever: nobody gets it back without a capability.
pub(crate) fn be_nice() -> nix::Result<()> {
    const NICE: libc::c_int = 15;
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) }).map(drop)
}

/// Closes every descriptor from 3 up except `keep`.
///
/// For a child that never returns to code which owns the others.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut kept: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    let mut from = 3;
    for fd in kept {
        close_range(from, fd - 1);
        from = fd + 1;
    }
    close_range(from, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    if first <= last {
        // SAFETY: closing takes no pointer; the caller gave up what lies in the range.
        unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last as libc::c_uint, 0 as libc::c_uint) };
    }
}

/// Makes `fd` this process's stdin, stdout or stderr (`number` 0, 1, 2).
pub fn redirect(number: RawFd, fd: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: 0 to 2 are not owned by any value.
    match unsafe { libc::dup2(fd.as_raw_fd(), number) } {
        -1 => Err(Errno::last()),
        _ => Ok(()),
    }
}

/// stdin from /dev/null; stdout and stderr to `log` where there is one, else left as they are.
pub fn detach_stdio_keeping(log: Option<&OwnedFd>) -> std::io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    redirect(0, null.as_fd())?;
    if let Some(log) = log {
        redirect(1, log.as_fd())?;
        redirect(2, log.as_fd())?;
    }
    Ok(())
}

/// Makes `fd` stay open over `exec` or not.
pub fn set_cloexec(fd: BorrowedFd<'_>, on: bool) -> nix::Result<()> {
    let flags = if on { nix::fcntl::FdFlag::FD_CLOEXEC } else { nix::fcntl::FdFlag::empty() };
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(flags)).map(drop)
}

/// No signal blocked, as code that was not written for this process expects it.
pub fn unblock_signals() -> nix::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// A signal and whether a process sent it (as opposed to the terminal, which tells the whole group itself).
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Number.
    pub number: i32,
    /// `kill(2)` and the like.
    pub by_process: bool,
}

/// Waits for one of `signals`, which must be blocked; `None` after `limit`.
pub fn wait_signal(signals: &SigSet, limit: Option<std::time::Duration>) -> nix::Result<Option<Received>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let timeout = limit.map(nix::sys::time::TimeSpec::from_duration);
    let timeout = timeout.as_ref().map_or(std::ptr::null(), |t| std::ptr::from_ref(t.as_ref()));
    // SAFETY: the pointers are to live values (or null, which means no limit).
    let number = unsafe { libc::sigtimedwait(signals.as_ref(), info.as_mut_ptr(), timeout) };
    if number == -1 {
        return match Errno::last() {
            Errno::EAGAIN => Ok(None),
            other => Err(other),
        };
    }
    // SAFETY: zeroed is a valid siginfo_t, and the kernel has filled it in.
    let code = unsafe { info.assume_init() }.si_code;
    Ok(Some(Received { number, by_process: code <= 0 }))
}
