//! The launcher: a process of one thread beside the agent's many, so that forking is sound.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid};

use super::limits::{Group, Level};
use super::sandbox::{self, Go, Word};
use super::spec::{Ask, Ended, LimitHit, Refusal, RunError, SandboxSpec, Told};
use crate::protocol;
use crate::world::{Failure, WorldError, process};

/// How long making a sandbox and starting the program may take.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Sandboxes at once: a node has one job; tests and builds have a few.
const SANDBOXES_MAX: usize = 64;

/// Asks the launcher; from any thread. Cloning gives another handle to the same one.
#[derive(Debug, Clone)]
pub struct Launcher(Arc<Mutex<UnixStream>>);

/// A program in its sandbox. Dropping it ends all of it.
#[derive(Debug)]
pub struct Running {
    launcher: Launcher,
    id: u64,
    level: Level,
    /// At its end when all of the sandbox has ended.
    alive: OwnedFd,
    ended: Option<Ended>,
}

impl Launcher {
    /// Starts the launcher. Before the calling process has a second thread, and from a thread that lives as long as
    /// programs are to run: the kernel ends the launcher with it.
    pub fn start() -> io::Result<Launcher> {
        let (near, far) = UnixStream::pair()?;
        process::spawn(CloneFlags::empty(), move || {
            let _ = nix::sys::prctl::set_name(c"moat-launcher");
            process::close_all_but(&[far.as_fd()]);
            serve(&far)
        })?;
        Ok(Launcher(Arc::new(Mutex::new(near))))
    }

    /// Runs a program; returns once it runs. `stdout` and `stderr` may be the same.
    pub fn launch(
        &self,
        spec: &SandboxSpec,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
    ) -> Result<Running, RunError> {
        spec.check().map_err(RunError::Spec)?;
        let (told, fds) = self.ask(&Ask::Launch(Box::new(spec.clone())), &[stdout, stderr]).map_err(RunError::Gone)?;
        match (told, fds.into_iter().next()) {
            (Told::Launched { id, level }, Some(alive)) => {
                Ok(Running { launcher: self.clone(), id, level, alive, ended: None })
            }
            (Told::Refused(refusal), _) => Err(refusal.into()),
            _ => Err(RunError::Gone(io::ErrorKind::InvalidData.into())),
        }
    }

    fn ask(&self, ask: &Ask, fds: &[BorrowedFd<'_>]) -> io::Result<(Told, Vec<OwnedFd>)> {
        // A panic of another thread may have left half a frame, but then the next read fails and says so.
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        protocol::send(&stream, ask, &fds)?;
        protocol::receive(&stream)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Running {
    /// By what means its limits hold: `cgroup-v1`, `cgroup-v2` or `rlimit`.
    pub fn limits(&self) -> &'static str {
        self.level.as_str()
    }

    /// Waits at most `limit` for the end of all of it; `None` if it has not come. `Duration::ZERO` only looks.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<Ended>, RunError> {
        if let Some(ended) = &self.ended {
            return Ok(Some(ended.clone()));
        }
        if !readable(self.alive.as_fd(), Instant::now() + limit) {
            return Ok(None);
        }
        match self.launcher.ask(&Ask::Finish(self.id), &[]).map_err(RunError::Gone)? {
            (Told::Ended(ended), _) => {
                self.ended = Some(ended.clone());
                Ok(Some(ended))
            }
            _ => Err(RunError::Gone(io::ErrorKind::InvalidData.into())),
        }
    }

    /// A descriptor that is readable (at its end) once all of it has ended.
    pub fn alive(&self) -> BorrowedFd<'_> {
        self.alive.as_fd()
    }

    /// SIGTERM to all its processes: they may still end by themselves.
    pub fn terminate(&self) -> Result<(), RunError> {
        self.launcher.ask(&Ask::Terminate(self.id), &[]).map(drop).map_err(RunError::Gone)
    }

    /// SIGKILL to all its processes.
    pub fn kill(&self) -> Result<(), RunError> {
        self.launcher.ask(&Ask::Kill(self.id), &[]).map(drop).map_err(RunError::Gone)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // A launcher that is gone has taken it along.
            let _ = self.launcher.ask(&Ask::Finish(self.id), &[]);
        }
    }
}

/// Whether `fd` has something to read, or is at its end, before `deadline`.
fn readable(fd: BorrowedFd<'_>, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: else the last millisecond would be spent looking.
        let left = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], left) {
            Ok(0) if Instant::now() < deadline => {}
            Ok(0) => return false,
            Ok(_) => return true,
            Err(Errno::EINTR) => {}
            Err(_) => return true, // reading says why
        }
    }
}

/// One sandbox, as the launcher knows it.
struct Sandbox {
    init: Pid,
    line: UnixStream,
    group: Group,
}

/// Serves until the agent is gone. Returns an exit code.
fn serve(agent: &UnixStream) -> i32 {
    let mut sandboxes: BTreeMap<u64, Sandbox> = BTreeMap::new();
    let mut next = 1;
    while let Ok(Some((ask, fds))) = protocol::receive::<Ask>(agent) {
        let (told, fd) = match ask {
            Ask::Launch(_) if sandboxes.len() >= SANDBOXES_MAX => {
                let failure = Failure::bare(format!("more than {SANDBOXES_MAX} programs at once"));
                (Told::Refused(Refusal::Sandbox(failure)), None)
            }
            Ask::Launch(spec) => match launch(&spec, fds) {
                Ok((sandbox, alive)) => {
                    let (id, level) = (next, sandbox.group.level());
                    next += 1;
                    sandboxes.insert(id, sandbox);
                    (Told::Launched { id, level }, Some(alive))
                }
                Err(refusal) => (Told::Refused(refusal), None),
            },
            Ask::Terminate(id) => (signal(sandboxes.get(&id), Signal::SIGTERM), None),
            Ask::Kill(id) => (signal(sandboxes.get(&id), Signal::SIGKILL), None),
            Ask::Finish(id) => (sandboxes.remove(&id).map_or(Told::Done, |it| Told::Ended(finish(it))), None),
        };
        let fds: Vec<_> = fd.iter().map(|fd: &OwnedFd| fd.as_raw_fd()).collect();
        if protocol::send(agent, &told, &fds).is_err() {
            break;
        }
    }
    for sandbox in std::mem::take(&mut sandboxes).into_values() {
        finish(sandbox);
    }
    0
}

/// The sandbox is not reaped before it is finished, so the number is its own.
fn signal(sandbox: Option<&Sandbox>, signal: Signal) -> Told {
    if let Some(sandbox) = sandbox {
        let _ = kill(sandbox.init, signal);
    }
    Told::Done
}

fn launch(spec: &SandboxSpec, fds: Vec<OwnedFd>) -> Result<(Sandbox, OwnedFd), Refusal> {
    spec.check().map_err(Refusal::Spec)?;
    let broken = |doing| move |error: io::Error| Refusal::Sandbox(WorldError::step(doing)(error).to_failure());
    let mut fds = fds.into_iter();
    let (Some(out), Some(err)) = (fds.next(), fds.next()) else {
        return Err(Refusal::Spec("stdout or stderr is missing".to_owned()));
    };
    let (line, far) = UnixStream::pair().map_err(broken("making a socket pair"))?;
    let (alive, held) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| broken("making a pipe")(error.into()))?;
    // Asked here: inside it has no ids yet.
    let ids = (Uid::effective(), Gid::effective());
    let init = process::spawn(sandbox::namespaces(spec), || sandbox::run(spec, ids, &far, &held, [&out, &err]))
        .map_err(|source| Refusal::Sandbox(WorldError::UserNamespace { source }.to_failure()))?;
    drop((far, held, out, err));
    let mut group = None;
    match (begin(spec, init, &line, &mut group), group) {
        (Ok(()), Some(group)) => Ok((Sandbox { init, line, group }, alive)),
        (result, group) => {
            let _ = kill(init, Signal::SIGKILL);
            process::wait_code(init);
            drop(group); // now that it is empty
            Err(result.err().unwrap_or_else(|| Refusal::Sandbox(Failure::bare("the sandbox has no limits"))))
        }
    }
}

/// Lets the sandbox begin once its limits hold, and waits for its program to run.
fn begin(spec: &SandboxSpec, init: Pid, line: &UnixStream, group: &mut Option<Group>) -> Result<(), Refusal> {
    let deadline = Instant::now() + START_TIME_MAX;
    let died = || Refusal::Sandbox(Failure::bare("the sandbox ended while it was being made"));
    let hear = || match readable(line.as_fd(), deadline) {
        true => protocol::receive::<Word>(line).ok().flatten().map(|(word, _)| word).ok_or_else(died),
        false => Err(Refusal::Slow { seconds: START_TIME_MAX.as_secs() }),
    };
    let Word::Hello = hear()? else { return Err(died()) };
    let level = group.insert(Group::for_job(&spec.limits, init)).level();
    protocol::send(line, &Go { level }, &[]).map_err(|_| died())?;
    match hear()? {
        Word::Started => Ok(()),
        Word::Failed(refusal) => Err(refusal),
        Word::Hello | Word::Ended { .. } => Err(died()),
    }
}

/// Ends it, if it has not ended, and says how it did.
fn finish(sandbox: Sandbox) -> Ended {
    let Sandbox { init, line, group } = sandbox;
    let _ = kill(init, Signal::SIGKILL);
    let init_code = process::wait_code(init);
    // All of it has ended: what process 1 had to say is here, or never will be.
    let mut limit_hit = group.hit();
    let (code, signal) = match protocol::receive::<Word>(&line) {
        Ok(Some((Word::Ended { code, signal }, _))) => (code, signal),
        // It was ended from outside: by us, or by the kernel for its memory.
        _ => (init_code, (init_code > 128).then(|| init_code - 128)),
    };
    if limit_hit.is_none() && signal == Some(libc::SIGXFSZ) {
        limit_hit = Some(LimitHit::FileBytes);
    }
    Ended { code, signal, limit_hit }
}
