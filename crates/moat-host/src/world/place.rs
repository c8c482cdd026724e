//! Runs a program of the user at a place of a world, as that user.
//!
//! ```text
//! caller     enters the world's user, mount and network namespaces, forwards signals, holds the lease
//!   guard    in the world's PID namespace; makes namespaces of the program's own
//!     keeper pid 1 of those: mounts, reaps; whatever the program left running ends with it
//!       program
//! ```
//! The program has the caller's ids, folder, terminal and open files; no capability and no way to gain one; the
//! place's network and no other; and ends when the caller or the world does.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid};

use super::error::{Failure, WorldError};
use super::{NETNS_DIR, RUN_DIR, process, view};
use crate::protocol::is_name;

/// A program that could not be started: as shells have it.
const EXIT_NOT_FOUND: i32 = 127;
/// A program that may not be started.
const EXIT_NOT_RUNNABLE: i32 = 126;
/// Our own failure, below those two (as `env`, `nice` and `timeout` do).
const EXIT_OURS: i32 = 125;

/// Where and with what.
#[derive(Debug)]
pub struct PlaceSpec {
    /// Process id of the world's init, on the host.
    pub init: i32,
    /// Name of a network namespace of the world.
    pub netns: String,
    /// Directories to cover with nothing.
    pub hide: Vec<PathBuf>,
    /// Directories to cover with a private one: (covered if it exists, private).
    pub cover: Vec<(PathBuf, PathBuf)>,
    /// Files to make below [`RUN_DIR`]: name and text.
    pub files: Vec<(String, String)>,
}

/// The program did not run.
#[derive(Debug)]
pub struct NotRun {
    /// Why.
    pub failure: Failure,
    /// What to exit with.
    pub code: i32,
}

impl From<WorldError> for NotRun {
    fn from(error: WorldError) -> Self {
        NotRun { failure: error.to_failure(), code: EXIT_OURS }
    }
}

/// Runs `command` there and returns its exit code (128 + signal if one ended it).
///
/// The caller must have one thread, and lives in the world afterwards: do nothing but exit.
pub fn run(spec: &PlaceSpec, mut command: Command) -> Result<i32, NotRun> {
    let mut old_mask = SigSet::empty();
    let forwarded = forwarded_signals();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&forwarded), Some(&mut old_mask))
        .map_err(WorldError::step("blocking signals"))?;
    let folder = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let (why_in, why_out) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(WorldError::step("making a pipe"))?;

    enter(spec)?;
    let why = File::from(why_out);
    let guard = {
        let forwarded = &forwarded;
        process::spawn(CloneFlags::empty(), move || {
            let code = guard(spec, uid, gid, |keeper_spec| {
                keep(keeper_spec, &folder, &old_mask, forwarded, &mut command, &why)
            });
            match code {
                Ok(code) => code,
                Err(error) => tell(&why, &error.to_failure(), EXIT_OURS),
            }
        })
    };
    let guard = guard.map_err(WorldError::step("starting a process in the world"))?;
    let code = forward_until_end(guard, &forwarded);
    let mut text = String::new();
    // Nobody holds the other end any more: either the program runs, or all have ended.
    let _ = File::from(why_in).read_to_string(&mut text);
    match serde_json::from_str(&text) {
        Ok(failure) => Err(NotRun { failure, code }),
        Err(_) => Ok(code),
    }
}

fn tell(mut why: &File, failure: &Failure, code: i32) -> i32 {
    if let Ok(text) = serde_json::to_vec(failure) {
        let _ = why.write_all(&text);
    }
    code
}

/// Moves this process into the world. Its children are born in the world's PID namespace.
fn enter(spec: &PlaceSpec) -> Result<(), WorldError> {
    if !is_name(&spec.netns) {
        return Err(WorldError::step("reading the place's name")(std::io::Error::from(
            std::io::ErrorKind::InvalidData,
        )));
    }
    let open = |kind: &str| {
        File::open(format!("/proc/{}/ns/{kind}", spec.init))
            .map_err(WorldError::step("opening the environment's namespaces"))
    };
    let (user, mnt, pid) = (open("user")?, open("mnt")?, open("pid")?);
    setns(user, CloneFlags::CLONE_NEWUSER).map_err(WorldError::step("entering the user namespace"))?;
    setns(pid, CloneFlags::CLONE_NEWPID).map_err(WorldError::step("entering the PID namespace"))?;
    setns(mnt, CloneFlags::CLONE_NEWNS).map_err(WorldError::step("entering the mount namespace"))?;
    let net = File::open(Path::new(NETNS_DIR).join(&spec.netns)).map_err(WorldError::step("opening the place"))?;
    setns(net, CloneFlags::CLONE_NEWNET).map_err(WorldError::step("entering the network namespace"))
}

/// Makes the program's own namespaces and runs `keeper` as their first process.
fn guard(spec: &PlaceSpec, uid: Uid, gid: Gid, keeper: impl FnOnce(&PlaceSpec) -> i32) -> Result<i32, WorldError> {
    // Who made the world is 0 in it. A caller with another group takes the one the world knows.
    nix::unistd::setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))
        .and_then(|()| nix::unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)))
        .map_err(WorldError::step("taking the world's ids"))?;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC)
        .map_err(|source| WorldError::UserNamespace { source })?;
    let map = |file: &str, text: &str| std::fs::write(file, text).map_err(|source| WorldError::IdMap { source });
    map("/proc/self/setgroups", "deny")?;
    map("/proc/self/uid_map", &format!("{uid} 0 1"))?;
    map("/proc/self/gid_map", &format!("{gid} 0 1"))?;
    let forwarded = forwarded_signals();
    let keeper = process::spawn(CloneFlags::empty(), move || keeper(spec))
        .map_err(WorldError::step("starting a process in the world"))?;
    Ok(forward_until_end(keeper, &forwarded))
}

fn keep(
    spec: &PlaceSpec,
    folder: &Path,
    old_mask: &SigSet,
    forwarded: &SigSet,
    command: &mut Command,
    why: &File,
) -> i32 {
    if let Err(error) = settle(spec, folder) {
        return tell(why, &error.to_failure(), EXIT_OURS);
    }
    let program = process::spawn(CloneFlags::empty(), move || {
        let _ = nix::sys::prctl::set_pdeathsig(None); // the keeper is process 1: its end is everybody's
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(old_mask), None);
        let error = command.exec();
        let name = command.get_program().to_string_lossy().into_owned();
        let (code, help) = match error.kind() {
            std::io::ErrorKind::NotFound => (EXIT_NOT_FOUND, "check the spelling, or give its full path"),
            _ => (EXIT_NOT_RUNNABLE, "check that it may be executed"),
        };
        tell(why, &Failure::new(format!("running `{name}`: {error}"), help), code)
    });
    match program {
        Ok(program) => forward_until_end(program, forwarded),
        Err(error) => tell(why, &WorldError::step("starting the program")(error).to_failure(), EXIT_OURS),
    }
}

/// The program's tree and rights.
fn settle(spec: &PlaceSpec, folder: &Path) -> Result<(), WorldError> {
    view::make_private()?;
    for (over, with) in spec.cover.iter().filter(|(over, _)| over.is_dir()) {
        // Opened here: a bind mount takes only what belongs to this mount namespace.
        view::bind(view::handle(with).map_err(WorldError::mount("a private directory", over))?, over)?;
    }
    view::hide(&spec.hide)?;
    view::private_run()?;
    view::make_dir(Path::new(RUN_DIR), 0o755)?;
    for (name, text) in &spec.files {
        std::fs::write(Path::new(RUN_DIR).join(name), text).map_err(WorldError::step("writing a private file"))?;
    }
    view::resolver()?;
    view::fresh_proc()?;
    view::protect_kernel()?;
    // By path: a handle from outside would be a way back to the tree without the covers.
    std::env::set_current_dir(folder)
        .or_else(|_| std::env::set_current_dir("/"))
        .map_err(WorldError::step("going to the folder"))?;
    process::become_with(None, &[]).map_err(WorldError::step("dropping rights"))?;
    process::fence().map_err(WorldError::step("closing the ways past the network"))?;
    process::die_with_parent(None).map_err(WorldError::step("dying with the caller"))
}

/// What a shell, a supervisor or CI sends to a command it runs, and the end of a child.
fn forwarded_signals() -> SigSet {
    let mut set = super::ending_signals();
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM, Signal::SIGCHLD] {
        set.add(signal);
    }
    set
}

/// Waits for `child`, passing signals on to it. Those of the terminal it gets itself, being in the same group.
fn forward_until_end(child: Pid, signals: &SigSet) -> i32 {
    loop {
        if let Ok(Some(got)) = process::wait_signal(signals, None)
            && got.number != Signal::SIGCHLD as i32
        {
            if let (true, Ok(signal)) = (got.by_process, Signal::try_from(got.number)) {
                let _ = kill(child, signal);
            }
            continue;
        }
        loop {
            // The keeper is process 1 and reaps what the program leaves behind, too.
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => return code,
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return 128 + signal as i32,
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {}
                Ok(_) => break,
                Err(_) => return EXIT_OURS,
            }
        }
    }
}
