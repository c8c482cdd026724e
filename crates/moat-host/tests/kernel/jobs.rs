//! Attacks of a job: each in a real sandbox, below a real agent, in a real world, as whoever runs the tests.
//!
//! A case runs in an agent's process. It makes sandboxes and looks at what programs in them could do.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use moat_host::run::{Ended, Launcher, Running, SandboxLimits, SandboxSpec, WORK_DIR};
use moat_host::world::{self, Failure, ServerSeat, WorldSpec};
use moat_host::{Applier, NsName, Step};

/// How long anything here may take; nothing waits for its end.
const PATIENCE: Duration = Duration::from_secs(60);

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

pub const ALL: &[(&str, Case)] = &[("job_runs_and_tells_its_end", runs)];

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
        job_disk_bytes: 64 << 20,
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
    seat.host.spawn(&ns, "node", case.to_owned(), Some(std::io::stderr().as_fd())).map_err(fail)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match seat.host.exited().map_err(fail)?.first().map(|exit| exit.code) {
            Some(0) => break,
            Some(code) => return Err(Failure::bare(format!("the case failed (exit code {code})"))),
            None if Instant::now() > deadline => return Err(Failure::bare("the case did not end")),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    seat.ready.ready();
    Ok(())
}

/// The agent: runs the case that its configuration names.
fn agent(config: &str) -> i32 {
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
            limits: SandboxLimits { tmp_bytes: 16 << 20, ..SandboxLimits::default() },
            isolate_network: false,
        }
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

fn runs(node: &Node) {
    let done = node.sh("echo out; echo err >&2; id -u; id -g; cat /proc/self/uid_map; hostname; pwd; exit 7");
    let lines: Vec<&str> = done.text.lines().collect();
    assert_eq!((done.ended.code, done.ended.signal, done.ended.limit_hit), (7, None, None), "{done:?}");
    assert_eq!(lines[..4], ["out", "err", "1000", "1000"], "{done:?}");
    assert_eq!(lines[5..], ["node-1", "/tmp"]);
    let done = node.sh("kill -9 $$");
    assert_eq!((done.ended.code, done.ended.signal), (137, Some(9)));
}
