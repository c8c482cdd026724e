//! Process 1 of the world: makes its tree, starts helper and server, and ends as soon as one of them does.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::process::{self, Cap};
use super::{ENVIRONMENTS, Failure, NETNS_DIR, RUN_DIR, Ready, STATE_DIR, ServerSeat, WorldError, WorldSpec};
use super::{cgroup, view};
use crate::client::HostClient;
use crate::helper::{self, Agent, Hands};
use crate::run;

/// How long the server may take to end by itself when asked to.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// Exit code of a world whose server or helper ended unasked (EX_SOFTWARE of sysexits.h).
const EXIT_BROKEN: i32 = 70;
/// What the helper needs, inside the world: links and rules, namespaces and mounts, packet sockets, ports below
/// 1024, and ending and re-owning node agents.
const HELPER_CAPS: [Cap; 7] =
    [Cap::NetAdmin, Cap::SysAdmin, Cap::NetRaw, Cap::NetBindService, Cap::Kill, Cap::Setuid, Cap::Setgid];

/// Inside users of the processes; `None` stays inside user 0. Tells init that its ids are mapped.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Owners {
    pub(super) server: Option<u32>,
    pub(super) helper: Option<u32>,
    pub(super) agent: Option<u32>,
    pub(super) groups: cgroup::Groups,
}

/// What init and the front wait for; blocked in both.
pub(super) fn signals() -> SigSet {
    let mut set = super::ending_signals();
    set.add(Signal::SIGCHLD);
    set
}

/// Runs in the new process.
pub(super) fn run<H: Hands>(
    spec: WorldSpec,
    ready: Ready,
    mut go: File,
    server: impl FnOnce(ServerSeat) -> Result<(), Failure>,
    hands: impl FnOnce() -> Result<H, Failure>,
    agent: Agent,
) -> i32 {
    let mut line = Vec::new();
    let Some(owners) = go.read_to_end(&mut line).ok().and_then(|_| serde_json::from_slice::<Owners>(&line).ok()) else {
        return EXIT_BROKEN; // the front has given up, and says why itself
    };
    drop(go);
    let (server_pid, helper_pid) = match start(&spec, &ready, &owners, server, hands, agent) {
        Ok(pids) => pids,
        Err(error) => {
            ready.failed(&error.to_failure());
            return EXIT_BROKEN;
        }
    };
    drop(ready);
    supervise(server_pid, helper_pid)
}

fn start<H: Hands>(
    spec: &WorldSpec,
    ready: &Ready,
    owners: &Owners,
    server: impl FnOnce(ServerSeat) -> Result<(), Failure>,
    hands: impl FnOnce() -> Result<H, Failure>,
    agent: Agent,
) -> Result<(Pid, Pid), WorldError> {
    let _ = nix::sys::prctl::set_name(c"moat-init");
    // Off the terminal: a Ctrl-C is for the front, which then asks init.
    nix::unistd::setsid().map_err(WorldError::step("starting a session"))?;
    process::detach_stdio_keeping(spec.log.as_ref()).map_err(WorldError::step("opening the log"))?;
    if owners.agent.is_some() {
        nix::unistd::setgroups(&[]).map_err(WorldError::step("dropping groups"))?;
    }
    make_tree(spec, owners)?;
    if spec.detach {
        nix::sys::prctl::set_pdeathsig(None).map_err(WorldError::step("leaving the front"))?;
    }

    let (near, far) = UnixStream::pair().map_err(WorldError::step("making a socket pair"))?;
    let (helper_id, one_user) = (owners.helper, owners.agent.is_none());
    let (hide, disk_bytes) = (spec.hide.clone(), spec.job_disk_bytes);
    let place = helper::AgentPlace { id: owners.agent, hide, disk_bytes };
    let far_in_helper = far.try_clone().map_err(WorldError::step("making a socket pair"))?;
    let helper_pid = process::spawn(CloneFlags::empty(), move || {
        let _ = nix::sys::prctl::set_name(c"moat-helper");
        process::close_all_but(&[far_in_helper.as_fd()]);
        // Where there is one user only, agents are moved to a namespace in which that one is not 0.
        let more: &[Cap] = if one_user { &[Cap::Setfcap] } else { &[] };
        if let Err(error) = take_place(helper_id, &[&HELPER_CAPS, more].concat()) {
            tracing::error!(%error, "the helper could not take its place");
            return EXIT_BROKEN;
        }
        match hands() {
            Ok(hands) => helper::run(far_in_helper, hands, agent, place),
            Err(failure) => {
                tracing::error!(why = failure.what, "the helper could not start");
                EXIT_BROKEN
            }
        }
    })
    .map_err(WorldError::step("starting the helper"))?;
    drop(far);

    let seat_ready = ready.try_clone().map_err(WorldError::step("starting the server"))?;
    let own_ready = ready.try_clone().map_err(WorldError::step("starting the server"))?;
    let server_id = owners.server;
    let server_pid = process::spawn(CloneFlags::empty(), move || {
        let _ = nix::sys::prctl::set_name(c"moat-server");
        if let Err(error) = take_place(server_id, &[]) {
            own_ready.failed(&WorldError::step("dropping the server's rights")(error).to_failure());
            return EXIT_BROKEN;
        }
        let seat = ServerSeat { host: HostClient::new(near), state_dir: STATE_DIR.into(), ready: seat_ready };
        match server(seat) {
            Ok(()) => 0,
            Err(failure) => {
                own_ready.failed(&failure);
                EXIT_BROKEN
            }
        }
    })
    .map_err(WorldError::step("starting the server"))?;
    // What is left to do is to reap, and to ask a server of another user to end.
    process::become_with(None, &[Cap::Kill]).map_err(WorldError::step("dropping init's rights"))?;
    Ok((server_pid, helper_pid))
}

/// Gives up what this process does not need, and makes it unreadable to others of its user.
fn take_place(id: Option<u32>, caps: &[Cap]) -> nix::Result<()> {
    process::become_with(id, caps)?;
    process::die_with_parent(Some(Pid::from_raw(1)))?;
    nix::sys::prctl::set_dumpable(false)?;
    nix::unistd::chdir("/")?;
    process::unblock_signals()
}

fn make_tree(spec: &WorldSpec, owners: &Owners) -> Result<(), WorldError> {
    let data = view::handle(&spec.data_dir).map_err(WorldError::step("opening the data directory"))?;
    view::make_private()?;
    view::private_run()?;
    view::make_dir(Path::new(RUN_DIR), 0o755)?;
    view::make_dir(Path::new(NETNS_DIR), 0o755)?;
    view::make_dir(Path::new(STATE_DIR), 0o700)?;
    view::bind(data, Path::new(STATE_DIR))?;
    environments(owners)?;
    owners.groups.show(owners.agent)?;
    view::fresh_proc()?;
    std::os::unix::fs::chown(NETNS_DIR, owners.helper, owners.helper)
        .map_err(WorldError::step("giving the namespace directory to the helper"))
}

/// Built environments, by their content: of the server, for all to pass through and nobody else to list. They get a
/// place of their own, since agents cannot pass through the server's directory.
fn environments(owners: &Owners) -> Result<(), WorldError> {
    let (dir, to) = (Path::new(STATE_DIR).join(ENVIRONMENTS), Path::new(run::ENVIRONMENTS_DIR));
    view::make_dir(&dir, 0o711)?;
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o711))
        .and_then(|()| std::os::unix::fs::chown(&dir, owners.server, owners.server))
        .map_err(WorldError::step("preparing the directory of environments"))?;
    view::make_dir(to, 0o711)?;
    view::bind(view::handle(&dir).map_err(WorldError::mount("the environments", to))?, to)
}

/// Reaps; ends when told to, or when one of the two ends.
fn supervise(server: Pid, helper: Pid) -> i32 {
    let signals = signals();
    let mut told = false;
    let mut stop_at: Option<Instant> = None;
    loop {
        let limit = stop_at.map(|at| at.saturating_duration_since(Instant::now()));
        match process::wait_signal(&signals, limit) {
            Ok(None) => {
                tracing::warn!("the server took too long to end");
                return if told { 0 } else { EXIT_BROKEN };
            }
            Ok(Some(got)) if got.number != Signal::SIGCHLD as i32 => {
                if !told {
                    told = true;
                    stop_at = Some(Instant::now() + STOP_TIME_MAX);
                    let _ = kill(server, Signal::SIGTERM);
                }
            }
            Ok(Some(_)) | Err(_) => {}
        }
        // One SIGCHLD may stand for several ends.
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(_) | Err(_) => break,
            };
            if pid == server {
                if told || code == 0 {
                    return 0;
                }
                tracing::error!(code, "the server ended");
                return EXIT_BROKEN;
            }
            if pid == helper && code == 0 {
                // It ends so when the server is gone; which is about to be told, with the server's own code.
                stop_at.get_or_insert_with(|| Instant::now() + STOP_TIME_MAX);
            } else if pid == helper {
                tracing::error!(code, "the helper ended");
                return if told { 0 } else { EXIT_BROKEN };
            }
        }
    }
}
