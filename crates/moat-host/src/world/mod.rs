//! The world: the namespaces everything of one environment lives in, and the processes in them.
//!
//! ```text
//! front (host)          makes the world, waits
//!   init                pid 1 of the world: mounts, starts the two below, ends when one of them ends
//!     helper            capabilities inside the world, executes typed requests
//!       agents          one per compute node, no capabilities
//!     server            no capabilities: store, decisions, HTTP, TLS, DNS
//! ```
//!
//! Invariants:
//! - There is always a user namespace, for root too: nothing here has a capability on the host.
//! - Each process dies with its parent, and all with init: kill any of them and the kernel removes every process,
//!   mount and network namespace. What the kernel keeps is empty control groups ([`cgroup`]): whoever waits for the
//!   end removes them, and after `kill -9` the next of our commands.
//! - All forks happen before any thread exists in the forking process.
//! - No word about Azure, HTTP or the store: those come in as a closure.

pub mod cgroup;
pub mod error;
pub(crate) mod fence;
pub mod ids;
mod init;
pub mod place;
pub mod probe;
pub mod process;
pub mod view;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

pub use error::{Failure, WorldError};

use crate::client::HostClient;
use crate::helper::{Agent, Hands};

/// Private directory of the world, in its own mount namespace only.
pub const RUN_DIR: &str = "/run/moat";
/// Where network namespaces are kept by name.
pub const NETNS_DIR: &str = "/run/moat/netns";
/// The server's data directory as the server sees it.
pub const STATE_DIR: &str = "/run/moat/state";
/// Built environments below the data directory; seen by agents at [`crate::run::ENVIRONMENTS_DIR`].
pub const ENVIRONMENTS: &str = "environments";

/// What to make.
#[derive(Debug)]
pub struct WorldSpec {
    /// The environment's name: control groups are named by it.
    pub name: String,
    /// Directory for the server's data, on the host; made if absent, given to the server's user.
    pub data_dir: PathBuf,
    /// Directories that programs run in the world must not see (the data of every environment).
    pub hide: Vec<PathBuf>,
    /// Size of each agent's private space, in bytes of memory: a job's files while it runs.
    pub job_disk_bytes: u64,
    /// Where the processes of the world write; `None` keeps the caller's stdout and stderr.
    pub log: Option<OwnedFd>,
    /// Whether the world outlives the caller.
    pub detach: bool,
    /// Held open as long as the world lives (a lock).
    pub hold: Vec<OwnedFd>,
}

/// What the server process gets.
#[derive(Debug)]
pub struct ServerSeat {
    /// Requests to the helper.
    pub host: HostClient,
    /// Its data directory.
    pub state_dir: PathBuf,
    /// To say that it is ready.
    pub ready: Ready,
}

/// One message to whoever makes the world.
#[derive(Debug)]
pub struct Ready(File);

impl Ready {
    /// Everything works; the caller of `up` may go on.
    pub fn ready(self) {
        self.send(&Report::Ready);
    }
    /// It does not.
    pub fn failed(self, failure: &Failure) {
        self.send(&Report::Failed(failure.clone()));
    }
    fn try_clone(&self) -> std::io::Result<Ready> {
        self.0.try_clone().map(Ready)
    }
    fn send(mut self, report: &Report) {
        // If nobody listens any more there is nobody to tell; the log has it.
        if let Ok(mut line) = serde_json::to_vec(report) {
            line.push(b'\n');
            let _ = self.0.write_all(&line);
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Report {
    Ready,
    Failed(Failure),
}

/// A world that was made.
#[derive(Debug)]
pub struct World {
    init: Pid,
    ready: File,
    groups: cgroup::Groups,
}

/// Signals that ask the front, or init, to end the world.
pub fn ending_signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        set.add(signal);
    }
    set
}

/// Makes a world. Returns in the calling process only; the others never come back from here.
///
/// `server` runs in the server process; `hands` is made in the helper; `agent` runs in each node's process.
/// The caller must have one thread.
pub fn create<H: Hands>(
    spec: WorldSpec,
    server: impl FnOnce(ServerSeat) -> Result<(), Failure>,
    hands: impl FnOnce() -> Result<H, Failure>,
    agent: Agent,
) -> Result<World, WorldError> {
    let (ready_in, ready_out) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(WorldError::step("making a pipe"))?;
    let (go_in, go_out) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(WorldError::step("making a pipe"))?;
    prepare_data_dir(&spec.data_dir)?;
    let (name, data_dir) = (spec.name.clone(), spec.data_dir.clone());
    let wish = ids::Wish::of_caller();

    // Blocked before the fork, so that init cannot lose one; undone in whatever runs other people's code.
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&init::signals()), None).map_err(WorldError::step("blocking signals"))?;
    let flags =
        CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
    let far_ends = [ready_in.as_raw_fd(), go_out.as_raw_fd()];
    let child = process::spawn(flags, move || {
        // Kept open in the world, they would hide the end of this process from it.
        for fd in far_ends {
            let _ = nix::unistd::close(fd);
        }
        init::run(spec, Ready(File::from(ready_out)), File::from(go_in), server, hands, agent)
    });
    let init = child.map_err(|source| WorldError::UserNamespace { source })?;
    cgroup::sweep();
    let groups = cgroup::Groups::make(&name, init).unwrap_or_default();
    let world = World { init, ready: File::from(ready_in), groups };
    match begin(&world, wish, &data_dir, go_out) {
        Ok(()) => Ok(world),
        Err(error) => {
            world.kill();
            Err(error)
        }
    }
}

/// Writes the id maps and lets init go.
fn begin(world: &World, wish: ids::Wish, data_dir: &Path, go_out: OwnedFd) -> Result<(), WorldError> {
    let (uid, gid) = wish.write(world.init)?;
    let mut owners = init::Owners { groups: world.groups.clone(), ..Default::default() };
    if uid != ids::IdMap::Single {
        owners.agent = Some(ids::AGENT_ID);
        if nix::unistd::Uid::effective().is_root() {
            owners.server = Some(ids::SERVER_ID);
            owners.helper = Some(ids::HELPER_ID);
            std::os::unix::fs::lchown(data_dir, uid.outside(ids::SERVER_ID), gid.outside(ids::SERVER_ID))
                .map_err(WorldError::step("giving the data directory to the server's user"))?;
        }
    }
    let line = serde_json::to_vec(&owners).map_err(|error| WorldError::step("writing")(std::io::Error::from(error)))?;
    File::from(go_out).write_all(&line).map_err(WorldError::step("starting the world"))
}

/// Removes a directory with all that is in it, also what belongs to other users of a world of this caller: only root
/// of a namespace that has them may. The caller must have one thread.
pub fn remove_all(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
        other => return other,
    }
    let (go_in, go_out) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let far_end = go_out.as_raw_fd();
    let wish = ids::Wish::of_caller();
    let owner = dir.to_owned();
    let removing = process::spawn(CloneFlags::CLONE_NEWUSER, move || {
        let _ = nix::unistd::close(far_end);
        let begun = std::io::Read::read_exact(&mut File::from(go_in), &mut [0]);
        // The folder itself lies in one that may not be of this namespace; it is removed outside.
        let entries = begun.and_then(|()| std::fs::read_dir(owner));
        let removed = entries.and_then(|mut entries| {
            entries.try_for_each(|entry| {
                let entry = entry?;
                let folder = entry.file_type()?.is_dir();
                if folder { std::fs::remove_dir_all(entry.path()) } else { std::fs::remove_file(entry.path()) }
            })
        });
        removed.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
    })?;
    let mapped = wish.write(removing);
    if mapped.is_ok() {
        let _ = File::from(go_out).write_all(b"g");
    } else {
        drop(go_out);
    }
    match process::wait_code(removing) {
        0 => std::fs::remove_dir_all(dir),
        code => Err(std::io::Error::from_raw_os_error(code)),
    }
}

fn prepare_data_dir(dir: &Path) -> Result<(), WorldError> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => return other.map_err(WorldError::step("making the data directory")),
    }
    if std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    Err(WorldError::step("opening the data directory")(std::io::Error::from(std::io::ErrorKind::NotADirectory)))
}

impl World {
    /// Process id of init, on the host.
    pub fn init(&self) -> Pid {
        self.init
    }

    /// Waits until the server says that it is ready, or why it is not, at most `limit`.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<(), WorldError> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        loop {
            let mut fds = [PollFd::new(self.ready.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => return Err(WorldError::Slow { seconds: limit.as_secs() }),
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(WorldError::step("waiting for the world")(error)),
            }
        }
        // One line, not to the end: the server keeps an end to tell of a failure after all.
        let mut line = Vec::new();
        BufReader::new(&mut self.ready)
            .read_until(b'\n', &mut line)
            .map_err(WorldError::step("waiting for the world"))?;
        match serde_json::from_slice(&line) {
            Ok(Report::Ready) => Ok(()),
            Ok(Report::Failed(failure)) => Err(WorldError::Reported(failure)),
            Err(_) => Err(WorldError::Ended { code: process::wait_code(self.init) }),
        }
    }

    /// Whether it has ended, and with which code.
    pub fn ended(&self) -> Option<i32> {
        let code = self.look();
        if code.is_some() {
            self.groups.remove();
        }
        code
    }

    fn look(&self) -> Option<i32> {
        match waitpid(self.init, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Some(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as i32),
            Ok(_) => None,
            Err(_) => Some(0),
        }
    }

    /// Asks it to end; init gives the server a moment and then ends all.
    pub fn stop(&self) {
        // It may have ended already.
        let _ = nix::sys::signal::kill(self.init, Signal::SIGTERM);
    }

    /// Waits for its end, and removes its control groups.
    pub fn wait(&self) -> i32 {
        let code = process::wait_code(self.init);
        self.groups.remove();
        code
    }

    /// Ends it at once.
    pub fn kill(&self) {
        let _ = nix::sys::signal::kill(self.init, Signal::SIGKILL);
        self.wait();
    }
}
