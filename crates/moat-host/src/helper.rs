//! The helper: the only process with capabilities. One thread, typed requests, no client input, no Azure words.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::protocol::{self, AGENT_CONFIG_BYTES_MAX, Answer, Exit, Request, is_name};
use crate::run;
use crate::run::beneath::Folder;
use crate::world::process::{self, Locked};
use crate::world::{NETNS_DIR, WorldError, cgroup, ids, view};
use crate::{Applier, NsName, Observed, SocketSpec, Step};

/// What runs on a node: takes its configuration, returns an exit code.
pub type Agent = fn(&str) -> i32;

/// Agents at once; a cluster of Azure has at most 1,000 nodes here.
const AGENTS_MAX: usize = 4_000;
/// Exit code of an agent that could not be put in its place (EX_OSERR of sysexits.h).
const EXIT_NO_PLACE: i32 = 71;

/// Files and folders in an agent's private space: the kernel keeps a record of each in memory that no size bounds.
const WORK_FILES_MAX: u32 = 200_000;

/// What executes steps. The Linux one is [`Applier`]; tests have their own.
pub trait Hands {
    /// Executes steps in order, up to the first that fails.
    fn apply(&mut self, steps: &[Step]) -> Result<(), String>;
    /// Makes a socket in a namespace.
    fn socket(&mut self, ns: &NsName, spec: &SocketSpec) -> Result<OwnedFd, String>;
    /// Makes a socket for a group of the firewall log of a namespace.
    fn nflog(&mut self, ns: &NsName, group: u16) -> Result<OwnedFd, String>;
    /// Reads back what the kernel has.
    fn observe(&mut self) -> Result<Observed, String>;
    /// Removes every namespace.
    fn reset(&mut self) -> Result<(), String>;
}

impl Hands for Applier {
    fn apply(&mut self, steps: &[Step]) -> Result<(), String> {
        Applier::apply(self, steps).map_err(|error| chain(&error))
    }
    fn socket(&mut self, ns: &NsName, spec: &SocketSpec) -> Result<OwnedFd, String> {
        self.socket_in(ns, spec).map_err(|error| chain(&error))
    }
    fn nflog(&mut self, ns: &NsName, group: u16) -> Result<OwnedFd, String> {
        self.nflog_in(ns, group).map_err(|error| chain(&error))
    }
    fn observe(&mut self) -> Result<Observed, String> {
        Applier::observe(self).map_err(|error| chain(&error))
    }
    fn reset(&mut self) -> Result<(), String> {
        self.destroy().map_err(|error| chain(&error))
    }
}

/// An error with its causes: only text crosses to the other process.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Who agents are and what they must not see.
#[derive(Debug, Clone, Default)]
pub struct AgentPlace {
    /// Inside user; `None` where the world has one user only.
    pub id: Option<u32>,
    /// Directories to cover.
    pub hide: Vec<PathBuf>,
    /// Size of each one's private space.
    pub disk_bytes: u64,
}

/// Serves requests until the server is gone. Returns an exit code.
pub fn run(stream: UnixStream, hands: impl Hands, agent: Agent, place: AgentPlace) -> i32 {
    let mut helper = Helper { hands, agent, place, agents: BTreeMap::new(), exited: Vec::new() };
    loop {
        match protocol::receive::<Request>(&stream) {
            Ok(Some((request, fds))) => {
                let (answer, fd) = helper.answer(request, fds).unwrap_or_else(|refusal| (refusal, None));
                let fds: Vec<_> = fd.iter().map(|fd: &OwnedFd| fd.as_raw_fd()).collect();
                if protocol::send(&stream, &answer, &fds).is_err() {
                    return 0; // the server is gone, and init will end all
                }
            }
            Ok(None) => return 0,
            Err(error) => {
                tracing::error!(%error, "the server sent what is no request");
                return 1;
            }
        }
    }
}

struct Helper<H> {
    hands: H,
    agent: Agent,
    place: AgentPlace,
    /// Living agents.
    agents: BTreeMap<String, Pid>,
    /// Ended, not yet reported.
    exited: Vec<Exit>,
}

type Reply = (Answer, Option<OwnedFd>);

fn refused(why: impl Into<String>) -> Answer {
    Answer::Refused { why: why.into() }
}

impl<H: Hands> Helper<H> {
    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<Reply, Answer> {
        match request {
            Request::Apply { steps } => {
                for ns in steps.iter().flat_map(names_of) {
                    check(ns.as_str())?;
                }
                self.hands.apply(&steps).map(|()| (Answer::Done, None)).map_err(refused)
            }
            Request::Socket { ns, spec } => {
                check(ns.as_str())?;
                self.hands.socket(&ns, &spec).map(|fd| (Answer::Done, Some(fd))).map_err(refused)
            }
            Request::Nflog { ns, group } => {
                check(ns.as_str())?;
                self.hands.nflog(&ns, group).map(|fd| (Answer::Done, Some(fd))).map_err(refused)
            }
            Request::Spawn { ns, id, config, build } => {
                check(ns.as_str())?;
                check(&id)?;
                build.as_deref().map_or(Ok(()), check)?;
                let log = fds.into_iter().next();
                self.spawn(&ns, id, &config, build.as_deref(), log).map(|()| (Answer::Done, None))
            }
            Request::ClearEnvironment { environment } => {
                check(&environment)?;
                self.clear_environment(&environment).map(|()| (Answer::Done, None))
            }
            Request::Kill { id } => {
                check(&id)?;
                self.kill(&id);
                Ok((Answer::Done, None))
            }
            Request::Exited => {
                self.reap();
                Ok((Answer::Exited(std::mem::take(&mut self.exited)), None))
            }
            Request::Observe => {
                self.hands.observe().map(|seen| (Answer::Observed(Box::new(seen)), None)).map_err(refused)
            }
            Request::Reset => {
                let ids: Vec<String> = self.agents.keys().cloned().collect();
                for id in ids {
                    self.kill(&id);
                }
                self.hands.reset().map(|()| (Answer::Done, None)).map_err(refused)
            }
        }
    }

    fn spawn(
        &mut self,
        ns: &NsName,
        id: String,
        config: &str,
        build: Option<&str>,
        log: Option<OwnedFd>,
    ) -> Result<(), Answer> {
        self.reap();
        if self.agents.contains_key(&id) {
            return Err(refused(format!("agent `{id}` runs already")));
        }
        if self.agents.len() >= AGENTS_MAX {
            return Err(refused(format!("more than {AGENTS_MAX} agents")));
        }
        if config.len() > AGENT_CONFIG_BYTES_MAX {
            return Err(refused("the agent's configuration is too long"));
        }
        let netns = File::open(Path::new(NETNS_DIR).join(ns.as_str()))
            .map_err(|error| refused(format!("namespace `{ns}`: {error}")))?;
        let (place, agent) = (self.place.clone(), self.agent);
        let pid = process::spawn(CloneFlags::empty(), move || {
            let entered = enter(&netns, log.as_ref(), &place, build);
            // From here on nothing returns to code that owns a descriptor, so all of the helper's can go.
            std::mem::forget((netns, log));
            process::close_all_but(&[]);
            match entered {
                Ok(()) => agent(config),
                Err(error) => {
                    tracing::error!(why = error.to_failure().what, "an agent could not be put in its place");
                    EXIT_NO_PLACE
                }
            }
        })
        .map_err(|error| refused(format!("starting agent `{id}`: {error}")))?;
        self.agents.insert(id, pid);
        Ok(())
    }

    /// As whoever built it: its files are that user's, and nobody else may remove them.
    fn clear_environment(&mut self, environment: &str) -> Result<(), Answer> {
        let refused = |why: String| refused(format!("clearing environment `{environment}`: {why}"));
        let id = self.place.id;
        let folder = Path::new(run::ENVIRONMENTS_DIR).join(environment);
        let clearing = process::spawn(CloneFlags::empty(), move || {
            process::close_all_but(&[]);
            if process::become_with(id, &[]).is_err() {
                return EXIT_NO_PLACE;
            }
            match Folder::open(&folder).and_then(|folder| folder.clear()) {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(EXIT_NO_PLACE),
            }
        });
        match clearing.map(process::wait_code) {
            Ok(0) => Ok(()),
            Ok(code) => Err(refused(std::io::Error::from_raw_os_error(code).to_string())),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    fn kill(&mut self, id: &str) {
        self.reap();
        let Some(pid) = self.agents.remove(id) else { return };
        // Its session: what it started too. Not reaped above, so the number is still its own.
        let _ = nix::sys::signal::killpg(pid, Signal::SIGKILL);
        let _ = kill(pid, Signal::SIGKILL);
        process::wait_code(pid);
    }

    fn reap(&mut self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(_) | Err(_) => return,
            };
            let ended = self.agents.iter().find(|(_, agent)| **agent == pid).map(|(id, _)| id.clone());
            if let Some(id) = ended {
                self.agents.remove(&id);
                self.exited.push(Exit { id, code });
            }
        }
    }
}

/// Namespaces a step names: they become file names.
fn names_of(step: &Step) -> Vec<&NsName> {
    match step {
        Step::CreateNs { ns, .. }
        | Step::DeleteNs { ns }
        | Step::DeleteVeth { ns, .. }
        | Step::Net { ns, .. }
        | Step::Nft { ns, .. } => vec![ns],
        Step::CreateVeth(veth) => vec![&veth.a.ns, &veth.b.ns],
    }
}

fn check(name: &str) -> Result<(), Answer> {
    if is_name(name) { Ok(()) } else { Err(refused(format!("`{}` is no name", name.escape_debug()))) }
}

/// Puts this new process into a node: its network, its files, its user, no rights.
fn enter(netns: &File, log: Option<&OwnedFd>, place: &AgentPlace, build: Option<&str>) -> Result<(), WorldError> {
    let _ = nix::sys::prctl::set_name(c"moat-agent");
    nix::unistd::setsid().map_err(WorldError::step("starting a session"))?;
    let null =
        File::options().read(true).write(true).open("/dev/null").map_err(WorldError::step("opening /dev/null"))?;
    let out = log.map_or(null.as_fd(), |log| log.as_fd());
    process::redirect(0, null.as_fd()).map_err(WorldError::step("opening stdin"))?;
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(WorldError::step("entering the namespace"))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(WorldError::step("making a private tree"))?;
    view::make_private()?;
    view::hide(&place.hide)?;
    let shared = Shared::open(build)?;
    view::private_run()?;
    shared.show()?;
    workplace(place)?;
    view::resolver()?;
    view::protect_kernel()?;
    if place.id.is_none() {
        one_user()?;
    }
    process::become_with(place.id, &[]).map_err(WorldError::step("dropping rights"))?;
    process::fence().map_err(WorldError::step("closing the ways past the network"))?;
    process::die_with_parent(None).map_err(WorldError::step("dying with the helper"))?;
    process::unblock_signals().map_err(WorldError::step("unblocking signals"))?;
    for number in [1, 2] {
        process::redirect(number, out).map_err(WorldError::step("opening the log"))?;
    }
    Ok(())
}

/// Where the world has one user only, its 0: a user namespace in which that one has another number. A sandbox is made
/// without rights, and the kernel lets nobody without them pass a 0 on.
fn one_user() -> Result<(), WorldError> {
    let outside = (nix::unistd::Uid::effective(), nix::unistd::Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|source| WorldError::UserNamespace { source })?;
    ids::map_own(ids::AGENT_ID, outside)
}

/// What an agent sees of the world's private directory: handles, taken before a directory of its own covers it.
struct Shared {
    environments: OwnedFd,
    /// The one that this agent builds.
    build: Option<(PathBuf, OwnedFd)>,
    /// Control groups, where there are any.
    groups: Option<OwnedFd>,
}

impl Shared {
    fn open(build: Option<&str>) -> Result<Self, WorldError> {
        let dir = Path::new(run::ENVIRONMENTS_DIR);
        let open = |path: &Path| view::handle(path).map_err(WorldError::mount("the environments", path));
        let build = match build {
            None => None,
            Some(name) => {
                let folder = Folder::open(&dir.join(name)).map_err(WorldError::step("opening the environment"))?;
                Some((dir.join(name), OwnedFd::from(folder)))
            }
        };
        Ok(Shared { environments: open(dir)?, build, groups: view::handle(Path::new(cgroup::DIR)).ok() })
    }

    fn show(&self) -> Result<(), WorldError> {
        let dir = Path::new(run::ENVIRONMENTS_DIR);
        view::make_dir(dir, 0o755)?;
        view::bind(&self.environments, dir)?;
        process::lock_mount(dir, Locked::ReadOnly, true).map_err(WorldError::mount("a read-only view", dir))?;
        if let Some((at, folder)) = &self.build {
            view::bind(folder, at)?;
            process::lock_mount(at, Locked::Writable, true).map_err(WorldError::mount("an environment", at))?;
        }
        if let Some(groups) = &self.groups {
            view::make_dir(Path::new(cgroup::DIR), 0o755)?;
            view::bind(groups, Path::new(cgroup::DIR))?;
        }
        Ok(())
    }
}

/// The agent's own space, and what sandboxes are made with.
fn workplace(place: &AgentPlace) -> Result<(), WorldError> {
    let dir = Path::new(run::WORK_DIR);
    view::make_dir(dir, 0o755)?;
    let (size, id) = (place.disk_bytes, place.id.unwrap_or(0));
    view::tmpfs(dir, &format!("mode=0700,uid={id},gid={id},size={size},nr_inodes={WORK_FILES_MAX}"))?;
    run::prepare()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::client::{HostClient, HostError};

    /// Remembers what it was asked, and hands out the read end of a pipe with a word in it.
    struct Fake(std::sync::mpsc::Sender<usize>);

    impl Hands for Fake {
        fn apply(&mut self, steps: &[Step]) -> Result<(), String> {
            self.0.send(steps.len()).map_err(|error| error.to_string())
        }
        fn socket(&mut self, ns: &NsName, _: &SocketSpec) -> Result<OwnedFd, String> {
            let (read, write) = nix::unistd::pipe().map_err(|error| error.to_string())?;
            File::from(write).write_all(ns.as_str().as_bytes()).map_err(|error| error.to_string())?;
            Ok(read)
        }
        fn nflog(&mut self, _: &NsName, group: u16) -> Result<OwnedFd, String> {
            Err(format!("group {group} is taken"))
        }
        fn observe(&mut self) -> Result<Observed, String> {
            Ok(Observed::default())
        }
        fn reset(&mut self) -> Result<(), String> {
            Ok(())
        }
    }

    fn check_helper(test: impl FnOnce(&HostClient, &std::sync::mpsc::Receiver<usize>)) {
        let (near, far) = UnixStream::pair().unwrap();
        let (asked_out, asked) = std::sync::mpsc::channel();
        let helper = std::thread::spawn(move || run(far, Fake(asked_out), |_| 0, AgentPlace::default()));
        let client = HostClient::new(near);
        test(&client, &asked);
        drop(client);
        assert_eq!(helper.join().unwrap(), 0, "it ends with its server");
    }

    #[test]
    fn requests_are_carried_out_and_refusals_come_back_in_words() {
        check_helper(|client, asked| {
            let step = |ns: &str| Step::DeleteNs { ns: ns.into() };
            client.apply(vec![step("a"), step("b")]).unwrap();
            assert_eq!(asked.try_recv(), Ok(2));
            let spec = SocketSpec::Tcp { bind: None };
            let mut text = String::new();
            File::from(client.socket(&"r-1".into(), spec).unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, "r-1");
            assert_eq!(
                client.nflog(&"r-1".into(), 7).unwrap_err().to_string(),
                "the helper could not: group 7 is taken"
            );
            assert_eq!(client.observe().unwrap(), Observed::default());
            client.reset().unwrap();
            client.kill("nobody").unwrap();
            assert_eq!(client.exited().unwrap(), []);
        });
    }

    #[test]
    fn names_that_are_paths_never_reach_the_hands() {
        check_helper(|client, asked| {
            for bad in ["../etc", "a/b", ""] {
                let ns = NsName::from(bad);
                let steps = vec![Step::DeleteNs { ns: "fine".into() }, Step::DeleteNs { ns: ns.clone() }];
                assert!(matches!(client.apply(steps), Err(HostError::Refused { .. })), "{bad}");
                assert!(asked.try_recv().is_err(), "not even the first step");
                assert!(matches!(client.spawn(&ns, "id", String::new(), None), Err(HostError::Refused { .. })));
                assert!(matches!(client.spawn(&"bb".into(), bad, String::new(), None), Err(HostError::Refused { .. })));
            }
        });
    }
}
