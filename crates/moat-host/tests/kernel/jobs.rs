//! Attacks of a job: each in a real sandbox, below a real agent, in a real world, as whoever runs the tests.
//!
//! A case runs in an agent's process. It makes sandboxes and looks at what programs in them could do.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use moat_host::run::beneath::{Flow, Folder, Found, Skipped};
use moat_host::run::{
    ENVIRONMENTS_DIR, Ended, Launcher, LimitHit, Mount, RunError, Running, SandboxLimits, SandboxSpec, WORK_DIR,
};
use moat_host::world::{self, Failure, ServerSeat, WorldSpec, cgroup, process};
use moat_host::{Applier, NsName, Step};
use nix::sched::CloneFlags;

use crate::attacks;

/// How long anything here may take; nothing waits for its end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Space of the agent: this program has to fit in.
const DISK_BYTES: u64 = 192 << 20;
/// This program where the agent has it.
const TOOL: &str = "/run/moat/work/tool";

/// An environment that is there, and the one that the agent may write.
const BUILT: &str = "built-1";
const BUILDING: &str = "building-2";

/// What a case has.
pub struct Node {
    launcher: Launcher,
}

/// What a program did.
#[derive(Debug)]
pub struct Done {
    ended: Ended,
    text: String,
}

/// Runs in the agent's process; fails by a panic.
type Case = fn(&Node);

pub const ALL: &[(&str, Case)] = &[
    ("job_runs_and_tells_its_end", runs),
    ("job_that_cannot_start_says_why", programs),
    ("job_ends_when_told_with_all_it_started", ends),
    ("job_ends_with_its_agent", dies_with_agent),
    ("job_sees_no_file_process_or_socket_of_the_host", sees),
    ("job_has_no_rights_and_gains_none", rights),
    ("job_makes_none_of_the_calls_that_lead_out", calls),
    ("job_writes_only_what_is_its_own", writes),
    ("job_does_not_see_or_end_its_neighbour", neighbours),
    ("job_inherits_nothing_and_leaves_no_core", inherits_nothing),
    ("job_that_forks_without_end_stays_within_its_number", fork_bomb),
    ("job_that_fills_its_disk_fills_no_other", full_disk),
    ("job_that_takes_memory_dies_alone", memory_hog),
    ("job_leads_nobody_elsewhere_by_its_outputs", outputs),
    ("job_has_the_network_of_its_node_or_none", network),
    ("job_says_by_what_its_limits_hold", levels),
    ("job_writes_no_environment_but_the_one_it_builds", builds),
    ("job_in_python_works", pythons),
];

/// Why there is no success.
pub enum Failed {
    /// The case found something.
    Case(String),
    /// No world can be made here.
    World(String),
}

/// Runs a case in a world of its own. The caller must have one thread.
pub fn run(name: &str) -> Result<(), Failed> {
    let data = tempfile::tempdir().unwrap();
    let log = tempfile::tempfile().unwrap();
    let spec = WorldSpec {
        name: format!("test-{}", std::process::id()),
        data_dir: data.path().join("data"),
        hide: vec![data.path().join("data")],
        job_disk_bytes: DISK_BYTES,
        log: Some(OwnedFd::from(log.try_clone().unwrap())),
        detach: false,
        hold: Vec::new(),
    };
    let case = name.to_owned();
    let hands = || Applier::new(world::NETNS_DIR).map_err(|error| Failure::bare(error.to_string()));
    let made = world::create(spec, move |seat| serve(seat, &case), hands, agent);
    let mut world = made.map_err(|error| Failed::World(chain(&error)))?;
    let result = world.wait_ready(PATIENCE).map_err(|error| chain(&error));
    world.stop();
    world.wait();
    result.map_err(|why| {
        let mut text = String::new();
        let mut log = log;
        log.rewind().and_then(|()| log.read_to_string(&mut text)).unwrap();
        Failed::Case(format!("{why}\n{text}"))
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The server: one node, and its agent's exit code is the answer.
fn serve(seat: ServerSeat, case: &str) -> Result<(), Failure> {
    let fail = |error: moat_host::HostError| Failure::bare(chain(&error));
    let ns = NsName::from("n-1");
    seat.host.apply(vec![Step::CreateNs { ns: ns.clone(), sysctls: BTreeMap::new() }]).map_err(fail)?;
    let environments = seat.state_dir.join(world::ENVIRONMENTS);
    for (name, mode) in [(BUILT, 0o755), (BUILDING, 0o777)] {
        std::fs::create_dir(environments.join(name)).unwrap();
        std::fs::write(environments.join(name).join("old"), "old\n").unwrap();
        std::fs::set_permissions(environments.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let log = std::io::stderr();
    seat.host.spawn_builder(&ns, "node", case.to_owned(), BUILDING, Some(log.as_fd())).map_err(fail)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match seat.host.exited().map_err(fail)?.first().map(|exit| exit.code) {
            Some(0) => break,
            Some(code) => return Err(Failure::bare(format!("the case failed (exit code {code})"))),
            None if Instant::now() > deadline => return Err(Failure::bare("the case did not end")),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    // What agents leave in an environment is another user's, and still goes.
    std::fs::remove_file(environments.join(BUILDING).join("old")).unwrap();
    seat.host.clear_environment(BUILDING).map_err(fail)?;
    std::fs::remove_dir(environments.join(BUILDING)).unwrap();
    assert!(seat.host.clear_environment("../data").is_err());
    assert!(seat.host.clear_environment("none").is_err());
    seat.ready.ready();
    Ok(())
}

/// The agent: runs the case that its configuration names.
fn agent(config: &str) -> i32 {
    std::fs::copy("/proc/self/exe", TOOL).unwrap();
    std::fs::set_permissions(TOOL, std::fs::Permissions::from_mode(0o755)).unwrap();
    let node = Node { launcher: Launcher::start().unwrap() };
    let (_, case) = ALL.iter().find(|(name, _)| *name == config).unwrap();
    case(&node);
    0
}

impl Node {
    fn spec(&self, script: &str) -> SandboxSpec {
        let path = ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned());
        SandboxSpec {
            program: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            folder: "/tmp".into(),
            variables: BTreeMap::from([path]),
            mounts: Vec::new(),
            hostname: "node-1".to_owned(),
            ca_certificates: "no certificate\n".to_owned(),
            limits: SandboxLimits { tmp_bytes: 8 << 20, ..SandboxLimits::default() },
            isolate_network: false,
        }
    }

    /// One of `attacks`, with a writable folder `/job`.
    fn attack(&self, name: &str) -> SandboxSpec {
        let mut spec = self.spec("");
        spec.program = ["/tool", attacks::FLAG, name].map(str::to_owned).to_vec();
        spec.mounts.push(Mount { from: TOOL.into(), to: "/tool".into(), read_only: true });
        spec.mounts.push(self.folder("job", false));
        spec
    }

    /// A folder of the agent's, at `/job`.
    fn folder(&self, name: &str, read_only: bool) -> Mount {
        let from = Path::new(WORK_DIR).join(name);
        std::fs::create_dir_all(&from).unwrap();
        Mount { from, to: "/job".into(), read_only }
    }

    /// Starts `spec`; its output goes to a file.
    fn start(&self, spec: &SandboxSpec) -> (Running, File) {
        let out = tempfile::tempfile_in(WORK_DIR).unwrap();
        (self.launcher.launch(spec, out.as_fd(), out.as_fd()).unwrap(), out)
    }

    fn finish(&self, (mut running, mut out): (Running, File)) -> Done {
        let ended = running.wait(PATIENCE).unwrap().expect("the program ends");
        let mut bytes = Vec::new();
        out.rewind().and_then(|()| out.read_to_end(&mut bytes)).unwrap();
        Done { ended, text: String::from_utf8_lossy(&bytes).into_owned() }
    }

    fn run(&self, spec: &SandboxSpec) -> Done {
        self.finish(self.start(spec))
    }

    fn sh(&self, script: &str) -> Done {
        self.run(&self.spec(script))
    }
}

/// Waits for a condition, with a bound.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn runs(node: &Node) {
    let done = node.sh("echo out; echo err >&2; id -u; id -g; hostname; pwd; env | sort; exit 7");
    let lines: Vec<&str> = done.text.lines().collect();
    assert_eq!((done.ended.code, done.ended.signal, done.ended.limit_hit), (7, None, None), "{done:?}");
    assert_eq!(lines[..6], ["out", "err", "1000", "1000", "node-1", "/tmp"]);
    assert_eq!(lines[6..], ["PATH=/usr/local/bin:/usr/bin:/bin", "PWD=/tmp"]);
    let done = node.sh("kill -9 $$");
    assert_eq!((done.ended.code, done.ended.signal), (137, Some(9)));
}

fn programs(node: &Node) {
    let refused = |change: fn(&mut SandboxSpec)| {
        let mut spec = node.spec("true");
        change(&mut spec);
        let null = File::open("/dev/null").unwrap();
        node.launcher.launch(&spec, null.as_fd(), null.as_fd()).unwrap_err()
    };
    let program = |error| match error {
        RunError::Program { code, .. } => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(program(refused(|spec| spec.program = vec!["no-such-program".into()])), 127);
    assert_eq!(program(refused(|spec| spec.program = vec!["/etc/passwd".into()])), 126);
    assert_eq!(program(refused(|spec| spec.folder = "/nowhere".into())), 126);
    assert!(matches!(refused(|spec| spec.program.clear()), RunError::Spec(_)));
    // By the PATH it was given, not by ours.
    let mut spec = node.spec("");
    spec.program = vec!["sh".into(), "-c".into(), "echo found".into()];
    assert_eq!(node.run(&spec).text, "found\n");
}

fn ends(node: &Node) {
    // A shell that waits for a child: both are told.
    let (running, out) = node.start(&node.spec("sleep 1000; true"));
    running.terminate().unwrap();
    assert_eq!(node.finish((running, out)).ended.signal, Some(libc::SIGTERM));
    // One that does not listen, and what it left running, are ended.
    let spec = {
        let mut spec =
            node.spec("trap '' TERM; (trap '' TERM; sleep 1000) & touch /job/ready; while :; do sleep 1; done");
        spec.mounts.push(node.folder("deaf", false));
        spec
    };
    let (mut running, out) = node.start(&spec);
    until("the program starts", || Path::new(WORK_DIR).join("deaf/ready").exists());
    running.terminate().unwrap();
    assert_eq!(running.wait(Duration::from_millis(300)).unwrap(), None);
    running.kill().unwrap();
    assert_eq!(node.finish((running, out)).ended.code, 137);
    // What a program leaves behind ends with it.
    let done = node.sh("sleep 1000 & exit 0");
    assert_eq!(done.ended.code, 0);
}

fn dies_with_agent(node: &Node) {
    let spec = node.spec("trap '' TERM; (sleep 1000) & sleep 1000");
    let (read, write) = std::io::pipe().unwrap();
    // An agent of its own, which ends without a word while its job runs.
    let other = process::spawn(CloneFlags::empty(), || {
        let launcher = Launcher::start().unwrap();
        let running = launcher.launch(&spec, write.as_fd(), write.as_fd()).unwrap();
        std::mem::forget(running);
        process::exit_now(9)
    });
    assert_eq!(process::wait_code(other.unwrap()), 9);
    drop(write);
    // At its end only when nobody of the sandbox is left.
    let mut read = read;
    assert_eq!(read.read(&mut [0]).unwrap(), 0);
}

fn sees(node: &Node) {
    let places = "/root /home /var /run /sys /opt /boot /srv /mnt /media /lost+found /etc/shadow /etc/gshadow /etc/ssh \
                  /etc/ssl/private /etc/machine-id /etc/fstab /proc/1 /proc/kcore.x /dev/sda /dev/mem /dev/kmsg /dev/vda";
    let done = node.sh(&format!("for p in {places}; do [ -e $p ] && echo \"seen $p\"; done; ls /"));
    assert!(!done.text.contains("seen"), "{done:?}");
    let top: Vec<&str> = done.text.lines().collect();
    for name in &top {
        let known = ["bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr"];
        assert!(known.contains(name), "{name}");
    }
    assert!(top.contains(&"usr"), "the test can fail: {done:?}");
    // Users of the host, certificates, names.
    let done = node.sh("cat /etc/passwd /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt");
    assert_eq!(done.text.lines().filter(|line| line.contains(":x:")).count(), 3, "{done:?}");
    assert!(
        done.text.ends_with("nameserver 168.63.129.16\noptions timeout:2 attempts:2\nno certificate\n"),
        "{done:?}"
    );
    // Its own processes, and nobody's sockets: the host's daemons are not reached by name either.
    let done = node.sh("cd /proc; for p in [0-9]*; do cat $p/comm; done; grep -c '[@/]' net/unix");
    let lines: Vec<&str> = done.text.lines().collect();
    assert!(lines[..lines.len() - 1].iter().all(|name| ["sh", "cat", "grep"].contains(name)), "{done:?}");
    assert_eq!(lines.last(), Some(&"0"), "a socket with a name: {done:?}");
    let done = node.sh(
        "head -c1 /proc/kcore /proc/keys /proc/timer_list /proc/sysrq-trigger 2>/dev/null | grep -v '^==>' | wc -c",
    );
    assert!(done.text.trim().parse::<u32>().unwrap() <= 4, "covered files are empty: {done:?}");
}

fn rights(node: &Node) {
    assert_eq!(node.sh("cat /proc/self/oom_score_adj").text, "500\n");
    let done = node.sh("cat /proc/self/status");
    for (name, value) in [
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Uid", "1000\t1000\t1000\t1000"),
        ("Gid", "1000\t1000\t1000\t1000"),
    ] {
        assert!(done.text.contains(&format!("{name}:\t{value}\n")), "{name}: {done:?}");
    }
    // No program gains anything by its owner, and no device is one.
    let mut spec = node.spec("cat /proc/self/mounts");
    spec.mounts.push(node.folder("job", false));
    let done = node.run(&spec);
    let mut seen = 0;
    for line in done.text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (at, flags) = (fields[1], fields[3].split(',').collect::<Vec<_>>());
        let device = at.starts_with("/dev/") && at != "/dev/shm" || at.starts_with("/proc/");
        assert!(device || flags.contains(&"nosuid") && flags.contains(&"nodev"), "{line}");
        let writable = device || ["/tmp", "/dev/shm", "/job"].contains(&at);
        assert!(writable || flags.contains(&"ro"), "{line}");
        seen += 1;
    }
    assert!(seen > 8, "{done:?}");
    // A program that belongs to root and changes its user, if this host has one.
    if Path::new("/usr/bin/su").exists() {
        let done = node.sh("/usr/bin/su -c 'id -u' </dev/null; cat /proc/self/uid_map");
        assert!(!done.text.lines().any(|line| line == "0"), "{done:?}");
    }
}

fn calls(node: &Node) {
    let done = node.run(&node.attack("calls"));
    assert!(!done.text.contains("OPEN"), "{}", done.text);
    assert!(done.text.lines().count() >= 40 && done.ended.code == 0, "{done:?}");
    let done = node.run(&node.attack("terminal"));
    assert_eq!(done.text.trim(), libc::EPERM.to_string());
}

fn writes(node: &Node) {
    let script = "for f in /x /usr/x /etc/x /dev/x /proc/x /usr/bin/sh /etc/passwd /proc/sys/kernel/core_pattern \
                  /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/self/oom_score_adj; do (echo x > $f) 2>/dev/null && \
                  echo \"wrote $f\"; done; echo x > /tmp/x && cat /tmp/x";
    assert_eq!(node.sh(script).text, "x\n");
    let mut spec =
        node.spec("(echo x > /job/new) 2>&1 | grep -c 'Read-only'; cat /job/old; echo y > /job/inner/y; ls /job");
    std::fs::create_dir_all(Path::new(WORK_DIR).join("inner")).unwrap();
    let input = node.folder("input", true);
    std::fs::create_dir_all(input.from.join("inner")).unwrap();
    std::fs::write(input.from.join("old"), "data\n").unwrap();
    spec.mounts.push(input);
    spec.mounts.push(Mount { from: Path::new(WORK_DIR).join("inner"), to: "/job/inner".into(), read_only: false });
    assert_eq!(node.run(&spec).text, "1\ndata\ninner\nold\n");
    assert_eq!(std::fs::read_to_string(Path::new(WORK_DIR).join("inner/y")).unwrap(), "y\n");
    // A link in a folder that a job wrote leads no mount elsewhere.
    let trap = node.folder("trap", false);
    std::os::unix::fs::symlink("/usr", trap.from.join("link")).unwrap();
    for (from, to) in [("trap/link", "/job"), ("inner", "/job/link/x")] {
        let mut spec = node.spec("true");
        spec.mounts.push(trap.clone());
        spec.mounts.push(Mount { from: Path::new(WORK_DIR).join(from), to: to.into(), read_only: false });
        let null = File::open("/dev/null").unwrap();
        let error = node.launcher.launch(&spec, null.as_fd(), null.as_fd()).unwrap_err();
        assert!(matches!(error, RunError::Sandbox(_)), "{error:?}");
    }
}

fn neighbours(node: &Node) {
    let mut first = node.spec("echo s3cret > /tmp/s3cret; touch /dev/shm/s3cret /job/here; sleep 1000");
    first.mounts.push(node.folder("first", false));
    let (running, _out) = node.start(&first);
    until("the first writes", || Path::new(WORK_DIR).join("first/here").exists());
    let mut second = node.spec("ls -A /tmp /dev/shm /job; kill -9 -1; true");
    second.mounts.push(node.folder("second", false));
    let done = node.run(&second);
    assert!(!done.text.contains("s3cret") && !done.text.contains("here"), "{done:?}");
    let mut running = running;
    assert_eq!(running.wait(Duration::from_millis(100)).unwrap(), None, "nobody's process but its own was killed");
}

fn inherits_nothing(node: &Node) {
    let _open = File::open("/etc/passwd").unwrap();
    let done = node.sh("ls /proc/self/fd; ulimit -c; readlink /proc/self/fd/0; kill -SEGV $$");
    // 3 is the folder that `ls` reads.
    assert!(done.text.starts_with("0\n1\n2\n3\n0\n/dev/null\n"), "{done:?}");
    assert_eq!(done.ended.signal, Some(libc::SIGSEGV));
}

fn fork_bomb(node: &Node) {
    let mut spec = node.attack("forks");
    spec.limits.processes = 40;
    let (running, out) = node.start(&spec);
    let level = running.limits();
    until("it forks all it may", || Path::new(WORK_DIR).join("job/forked").exists());
    let neighbour = node.sh("for i in 1 2 3 4 5 6 7 8; do /bin/true || exit 1; done; echo works");
    assert_eq!(neighbour.text, "works\n");
    std::fs::write(Path::new(WORK_DIR).join("job/enough"), "").unwrap();
    let done = node.finish((running, out));
    let (count, error) = done.text.trim().split_once(' ').unwrap();
    assert_eq!((count, error), ("39", libc::EAGAIN.to_string().as_str()), "itself is one: {done:?}");
    assert_eq!(done.ended.limit_hit, (level != "rlimit").then_some(LimitHit::Processes));
}

fn full_disk(node: &Node) {
    let mut spec = node
        .spec("head -c 100M /dev/zero > /tmp/big; head -c 300M /dev/zero > /job/big; echo x > /dev/shm/x && echo fine");
    spec.mounts.push(node.folder("full", false));
    let done = node.run(&spec);
    assert_eq!(done.text.matches("No space left on device").count(), 2, "{done:?}");
    assert!(done.text.ends_with("fine\n"), "{done:?}");
    std::fs::remove_file(Path::new(WORK_DIR).join("full/big")).unwrap();
    let done = node.sh("head -c 1M /dev/zero > /tmp/small && echo fine");
    assert_eq!(done.text, "fine\n", "the next has its own");
    let mut spec = node.spec("");
    spec.limits.file_bytes = 1 << 20;
    spec.program = ["/usr/bin/head", "-c", "2M", "/dev/zero"].map(str::to_owned).to_vec();
    let done = node.run(&spec);
    assert_eq!(done.ended.limit_hit, Some(LimitHit::FileBytes), "{:?}", done.ended);
}

fn memory_hog(node: &Node) {
    let (quiet, quiet_out) = node.start(&node.spec("read never < /dev/zero; sleep 1000"));
    let mut spec = node.attack("memory");
    spec.limits.memory_bytes = 96 << 20;
    let (running, out) = node.start(&spec);
    let level = running.limits();
    let done = node.finish((running, out));
    assert!(!done.text.contains("took"), "{done:?}");
    if level == "rlimit" {
        assert_eq!(done.ended.code, 3, "{done:?}");
    } else {
        assert_eq!((done.ended.code, done.ended.limit_hit), (137, Some(LimitHit::Memory)), "{done:?}");
    }
    let mut quiet = quiet;
    assert_eq!(quiet.wait(Duration::ZERO).unwrap(), None, "the neighbour lives");
    drop(quiet_out);
}

fn outputs(node: &Node) {
    let mut spec = node.spec(
        "cd /job; echo good > good; ln -s /run/moat/work/secret stolen; ln -s .. up; mkfifo pipe; mkdir d; \
         ln /etc/passwd d/hard 2>/dev/null; echo deep > d/deep; ln -s ../good d/near; chmod 0 d/deep",
    );
    std::fs::write(Path::new(WORK_DIR).join("secret"), "s3cret").unwrap();
    spec.mounts.push(node.folder("out", false));
    node.run(&spec);
    let folder = Folder::open(&Path::new(WORK_DIR).join("out")).unwrap();
    let (mut files, mut skipped) = (Vec::new(), Vec::new());
    let visit = |found: Found| {
        files.push(found.path);
        Ok(Flow::Continue(()))
    };
    folder.walk(100, visit, |path, why| skipped.push((path.to_owned(), why))).unwrap();
    assert_eq!(files, ["good"]);
    let links: Vec<&str> = skipped.iter().filter(|(_, why)| *why == Skipped::Link).map(|(p, _)| p.as_str()).collect();
    assert_eq!(links, ["d/near", "stolen", "up"]);
    assert!(skipped.contains(&("pipe".to_owned(), Skipped::Special)), "{skipped:?}");
    folder.clear().unwrap();
}

fn network(node: &Node) {
    let ns = |done: Done| done.text.trim().to_owned();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap().to_string_lossy().into_owned();
    assert_eq!(ns(node.sh("readlink /proc/self/ns/net")), own);
    let mut spec = node.attack("loopback");
    spec.isolate_network = true;
    assert_eq!(ns(node.run(&spec)), "works");
    spec.program =
        ["/bin/sh", "-c", "readlink /proc/self/ns/net; tail -n +3 /proc/net/dev | wc -l"].map(str::to_owned).into();
    let text = ns(node.run(&spec));
    let (name, links) = text.split_once('\n').unwrap();
    assert!(name != own && links.trim() == "1", "{text}");
}

fn levels(node: &Node) {
    let groups = Path::new(cgroup::DIR);
    let expected = match (groups.join(cgroup::UNIFIED).is_dir(), groups.join("memory").is_dir()) {
        (true, _) => "cgroup-v2",
        (_, true) => "cgroup-v1",
        _ => "rlimit",
    };
    let (running, out) = node.start(&node.spec("cat /proc/self/cgroup"));
    assert_eq!(running.limits(), expected);
    let done = node.finish((running, out));
    // Where it is limited it is at the top of what it sees; nothing tells about the groups of the host.
    for line in done.text.lines().filter(|line| expected == "cgroup-v1" && line.contains(":memory:")) {
        assert!(line.ends_with(":memory:/"), "{done:?}");
    }
    let left = |dir: &str| {
        let entries = std::fs::read_dir(groups.join(dir)).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("job-")).count()
    };
    assert_eq!(left("memory") + left("pids") + left("cpu") + left(cgroup::UNIFIED), 0, "its groups ended with it");
}

fn builds(node: &Node) {
    let at =
        |name: &str, to: &str| Mount { from: Path::new(ENVIRONMENTS_DIR).join(name), to: to.into(), read_only: false };
    let mut spec = node.spec(
        "cat /built/old; (echo x > /built/x) 2>&1 | grep -c 'Read-only'; mkdir /building/bin && echo y > /building/bin/y; \
         chmod 500 /building/bin; cat /building/bin/y; ls / | grep built",
    );
    // Asked to be writable both: what is not the agent's to write stays as it is.
    spec.mounts.extend([at(BUILT, "/built"), at(BUILDING, "/building")]);
    assert_eq!(node.run(&spec).text, "old\n1\ny\nbuilt\n");
    let listed = std::fs::read_dir(ENVIRONMENTS_DIR).map(|entries| entries.count());
    let one_user = std::fs::metadata(WORK_DIR).unwrap().uid() == std::fs::metadata(ENVIRONMENTS_DIR).unwrap().uid();
    assert!(one_user || listed.is_err(), "names are not to be listed by another user");
}

fn pythons(node: &Node) {
    if !Path::new("/usr/bin/python3").exists() {
        eprintln!("SKIPPED: there is no /usr/bin/python3 here");
        return;
    }
    let mut spec = node.spec("");
    let script = "import multiprocessing, ssl, socket, tempfile, threading, getpass\n\
                  with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, [-1, -2])))\n\
                  t = threading.Thread(target=lambda: print('thread')); t.start(); t.join()\n\
                  print(getpass.getuser(), tempfile.gettempdir())";
    spec.program = ["/usr/bin/python3", "-c", script].map(str::to_owned).to_vec();
    assert_eq!(node.run(&spec).text, "3\nthread\nazureuser /tmp\n");
}
