//! Process 1 of a sandbox: makes its tree, gives up all rights, starts the program, reaps, forwards.
//!
//! It never runs anything else: it is a fork of the agent, whose memory it still has. So it is not dumpable (nobody
//! may read or trace it) but for the moment in which it writes its id maps, when nobody else is in the sandbox.

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid};
use serde::{Deserialize, Serialize};

use super::limits::{Level, rlimits};
use super::spec::{Refusal, SandboxSpec};
use super::tree::{self, USER_ID};
use crate::netlink::{self, route};
use crate::protocol;
use crate::world::{WorldError, ids, process};

/// Exit code of a sandbox that was never begun (EX_OSERR of sysexits.h).
const EXIT_BROKEN: i32 = 71;
/// A program that could not be found: as shells have it.
const EXIT_NOT_FOUND: i32 = 127;
/// A program that may not be started.
const EXIT_NOT_RUNNABLE: i32 = 126;

/// How much more than by its size a process is to be chosen (0 to 1,000).
const OOM_SCORE: &str = "500";

/// What process 1 tells the launcher.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Word {
    /// It will die with the launcher, and waits to be let on.
    Hello,
    /// The program runs.
    Started,
    /// It does not.
    Failed(Refusal),
    /// The program ended.
    Ended { code: i32, signal: Option<i32> },
}

/// What the launcher tells process 1: it is in its place, and these limits are its own to set.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Go {
    pub(super) level: Level,
}

/// The namespaces of a sandbox.
pub(super) fn namespaces(spec: &SandboxSpec) -> CloneFlags {
    let all = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    if spec.isolate_network { all | CloneFlags::CLONE_NEWNET } else { all }
}

/// Runs in the new process. `agent` are its ids outside; `alive` is held open until the end of all.
pub(super) fn run(
    spec: &SandboxSpec,
    agent: (Uid, Gid),
    line: &UnixStream,
    alive: &OwnedFd,
    [out, err]: [&OwnedFd; 2],
) -> i32 {
    let _ = nix::sys::prctl::set_name(c"moat-job");
    process::close_all_but(&[line.as_fd(), alive.as_fd(), out.as_fd(), err.as_fd()]);
    // The launcher may have ended before this process asked to die with it: then this line is at its end.
    let go = protocol::send(line, &Word::Hello, &[]).and_then(|()| protocol::receive::<Go>(line));
    let Ok(Some((go, _))) = go else { return EXIT_BROKEN };
    let program = match settle(spec, agent, go.level) {
        Ok(()) => start(spec, out, err),
        Err(error) => Err(Refusal::Sandbox(error.to_failure())),
    };
    let program = match program {
        Ok(program) => program,
        Err(refusal) => {
            let _ = protocol::send(line, &Word::Failed(refusal), &[]);
            return EXIT_BROKEN;
        }
    };
    process::close_all_but(&[line.as_fd(), alive.as_fd()]);
    for number in 0..=2 {
        let _ = nix::unistd::close(number);
    }
    if protocol::send(line, &Word::Started, &[]).is_err() {
        return EXIT_BROKEN;
    }
    let (code, signal) = until_end(program);
    let _ = protocol::send(line, &Word::Ended { code, signal }, &[]);
    0
}

fn settle(spec: &SandboxSpec, agent: (Uid, Gid), level: Level) -> Result<(), WorldError> {
    nix::unistd::setsid().map_err(WorldError::step("starting a session"))?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&forwarded()), None).map_err(WorldError::step("blocking signals"))?;
    prefer_for_oom();
    // One user, and no way to another.
    ids::map_own(USER_ID, agent)?;
    unshare(CloneFlags::CLONE_NEWCGROUP).map_err(WorldError::step("hiding the control groups"))?;
    nix::unistd::sethostname(&spec.hostname).map_err(WorldError::step("naming the sandbox"))?;
    if spec.isolate_network {
        netlink::Socket::route()
            .and_then(|mut socket| socket.request(route::link_up(1), "switch loopback on"))
            .map_err(|error| WorldError::step("switching loopback on")(std::io::Error::other(error)))?;
    }
    tree::make(spec)?;
    for (resource, value) in rlimits(&spec.limits, level) {
        bound(resource, value).map_err(WorldError::step("setting a limit"))?;
    }
    if level == Level::Rlimit {
        process::be_nice().map_err(WorldError::step("lowering the priority"))?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    process::become_with(None, &[]).map_err(WorldError::step("dropping rights"))?;
    process::confine(super::fence::filter()).map_err(WorldError::step("closing system calls"))?;
    process::die_with_parent(None).map_err(WorldError::step("dying with the launcher"))
}

/// When the machine's memory is short, a job is to go before anything else. A hint: where it is refused, the kernel
/// chooses by size alone. Dumpable from here until the id maps are written, since the file belongs to who may dump.
fn prefer_for_oom() {
    let _ = nix::sys::prctl::set_dumpable(true);
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
}

/// Never more than the caller itself may have.
fn bound(resource: Resource, value: u64) -> nix::Result<()> {
    let (_, most) = nix::sys::resource::getrlimit(resource)?;
    let value = value.min(most);
    setrlimit(resource, value, value)
}

/// Starts the program; returns once it is another image, or why it is not.
fn start(spec: &SandboxSpec, out: &OwnedFd, err: &OwnedFd) -> Result<Pid, Refusal> {
    let broken = |doing| move |error: Errno| Refusal::Sandbox(WorldError::step(doing)(error).to_failure());
    let (why_in, why_out) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(broken("making a pipe"))?;
    let program = process::spawn(CloneFlags::empty(), || {
        process::close_all_but(&[why_out.as_fd(), out.as_fd(), err.as_fd()]);
        let error = exec(spec, out, err);
        let _ = serde_json::to_writer(fs::File::from(why_out), &error);
        EXIT_BROKEN
    })
    .map_err(broken("starting the program"))?;
    let mut text = Vec::new();
    // It ends when the program's image is there (the other end closes itself then) or when it never will be.
    let _ = fs::File::from(why_in).read_to_end(&mut text);
    match serde_json::from_slice(&text) {
        Ok(refusal) => Err(refusal),
        Err(_) => Ok(program),
    }
}

/// Becomes the program; returns only why that failed.
fn exec(spec: &SandboxSpec, out: &OwnedFd, err: &OwnedFd) -> Refusal {
    let prepared = prepare_stdio(out, err);
    if let Err(error) = prepared {
        return Refusal::Sandbox(error.to_failure());
    }
    if let Err(error) = std::env::set_current_dir(&spec.folder) {
        let what = format!("going to the folder `{}`: {error}", spec.folder.display());
        return Refusal::Program { what, code: EXIT_NOT_RUNNABLE };
    }
    let [name, arguments @ ..] = &spec.program[..] else {
        return Refusal::Spec("there is no program to run".to_owned());
    };
    let error = Command::new(name).args(arguments).env_clear().envs(&spec.variables).exec();
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => EXIT_NOT_FOUND,
        _ => EXIT_NOT_RUNNABLE,
    };
    Refusal::Program { what: format!("running `{name}`: {error}"), code }
}

fn prepare_stdio(out: &OwnedFd, err: &OwnedFd) -> Result<(), WorldError> {
    nix::unistd::setsid().map_err(WorldError::step("starting a session"))?;
    let null = fs::File::open("/dev/null").map_err(WorldError::step("opening /dev/null"))?;
    for (number, fd) in [(0, null.as_fd()), (1, out.as_fd()), (2, err.as_fd())] {
        process::redirect(number, fd).map_err(WorldError::step("opening stdin and stdout"))?;
    }
    process::unblock_signals().map_err(WorldError::step("unblocking signals"))
}

/// What the launcher passes on, and the end of a child.
fn forwarded() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGCHLD);
    set
}

/// Reaps everything until `program` ends.
fn until_end(program: Pid) -> (i32, Option<i32>) {
    let signals = forwarded();
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == program => return (code, None),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => {
                    return (128 + signal as i32, Some(signal as i32));
                }
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {}
                Ok(_) | Err(Errno::EINTR) => break,
                Err(_) => return (EXIT_BROKEN, None),
            }
        }
        if let Ok(Some(got)) = process::wait_signal(&signals, None)
            && got.number == Signal::SIGTERM as i32
        {
            // All of them: a shell does not pass it on to what it waits for.
            let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
        }
    }
}
