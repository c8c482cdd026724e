//! Runs the real binary as this user and, when this user is root, as an ordinary one; and looks at the host.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]
#![allow(dead_code, unreachable_pub, reason = "each test file uses what it needs")]

pub mod azure;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Lines};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// An id that no account has: an ordinary user without a range in /etc/subuid.
const STRANGER: u32 = 64_321;
/// For whatever has to happen soon.
pub const SOON: Duration = Duration::from_secs(20);

/// A user with a home and a state root, both gone at the end.
pub struct User {
    uid: Option<u32>,
    dir: TempDir,
    pub moat: PathBuf,
}

/// Runs a test as this user, and as an ordinary one if this is root.
pub fn each_user(test: impl Fn(&User)) {
    let root = nix::unistd::geteuid().is_root();
    test(&User::new(None));
    if root {
        test(&User::new(Some(STRANGER)));
    } else {
        eprintln!("SKIPPED: the run as root (start the tests as root for it)");
    }
}

impl User {
    pub fn new(uid: Option<u32>) -> Self {
        // The build directory may lie in a home that others cannot read.
        let dir = tempfile::Builder::new().prefix("moat-test-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let moat = dir.path().join("moat");
        // By another process: a descriptor open for writing here could be inherited by a command that another
        // test starts at this moment, and the kernel would not run the file ("text file busy").
        assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_moat")).arg(&moat).status().unwrap().success());
        for name in ["home", "state", "tmp"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::os::unix::fs::chown(dir.path().join(name), uid, uid).unwrap();
        }
        User { uid, dir, moat }
    }

    /// An ordinary user: this one, or a stranger where this is root.
    pub fn ordinary() -> Self {
        Self::new(nix::unistd::geteuid().is_root().then_some(STRANGER))
    }

    pub fn uid(&self) -> u32 {
        self.uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw())
    }
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }
    pub fn tmp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    /// A command of this user, in a clean environment.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.home())
            .env("MOAT_HOME", self.state())
            .env("TMPDIR", self.tmp())
            .current_dir(self.home())
            .stdin(Stdio::null());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command
    }
    pub fn moat(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.moat);
        command.args(args);
        command
    }
    /// Runs `moat` to its end.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.moat(args).output().unwrap(), args)
    }
    /// Starts `moat` with a pipe for its stdout.
    pub fn start(&self, args: &[&str]) -> Front {
        let mut child = self.moat(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Front { child, lines }
    }
    /// Runs a shell script inside an environment.
    pub fn exec(&self, script: &str) -> Ran {
        self.run(&["exec", "--", "bash", "-c", script])
    }
    /// Starts the environment, which must work.
    pub fn up(&self, args: &[&str]) {
        let all: Vec<&str> = ["up", "--detach"].iter().chain(args).copied().collect();
        self.run(&all).succeeded();
    }

    /// Kills the process of the environment with this role, and with it all of it; then starts it again.
    pub fn killed_and_up(&self, role: &str, args: &[&str]) {
        kill(self.processes("default")[role], nix::sys::signal::Signal::SIGKILL);
        let all: Vec<&str> = ["up", "--detach"].iter().chain(args).copied().collect();
        // The kernel takes a moment to end what is left.
        eventually("the environment starts again", || self.moat(&all).output().unwrap().status.success());
    }

    /// Process ids on the host of an environment's processes, by role.
    pub fn processes(&self, name: &str) -> BTreeMap<String, i32> {
        let text = std::fs::read_to_string(self.state().join(name).join("world.json")).unwrap();
        let world: serde_json::Value = serde_json::from_str(&text).unwrap();
        let init = i32::try_from(world["init"].as_i64().unwrap()).unwrap();
        let mut found = BTreeMap::from([("init".to_owned(), init)]);
        for pid in all_processes() {
            let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
            let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim();
            if field("PPid:") == init.to_string() {
                found.insert(field("Name:").trim_start_matches("moat-").to_owned(), pid);
            }
        }
        found
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.state()).into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_str() {
                let _ = self.moat(&["down", "-e", name]).output();
            }
        }
    }
}

/// A running `moat`; killed if the test ends first.
pub struct Front {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Front {
    /// The next line it prints.
    pub fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        kill(i32::try_from(self.child.id()).unwrap(), signal);
    }
    /// Waits for its end, at most [`SOON`]; its code as a shell has it.
    #[track_caller]
    pub fn code(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        let mut status = None;
        eventually("a process to end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command did.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
    what: String,
}

impl Ran {
    pub fn of(output: Output, args: &[&str]) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        Ran {
            code: output.status.code().or_else(|| output.status.signal().map(|s| 128 + s)).unwrap(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            what: args.join(" "),
        }
    }
    #[track_caller]
    pub fn exited(self, code: i32) -> Self {
        assert_eq!(self.code, code, "moat {}\n{}\n{}", self.what, self.out, self.err);
        self
    }
    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.exited(0)
    }
    /// Failed with a headline that has all of `words`, and help.
    #[track_caller]
    pub fn failed_saying(self, words: &[&str]) -> Self {
        assert_ne!(self.code, 0, "moat {}\n{}", self.what, self.out);
        assert!(self.err.contains("error: ") && self.err.contains("help: "), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "`{word}` is not in: {}", self.err);
        }
        self
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("moat {}: {e}\n{}", self.what, self.out))
    }
}

pub fn all_processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Whether a process lives (a zombie does not).
pub fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with(['Z', 'X']))
}

/// Waits for a condition, at most [`SOON`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// What of the host must be the same before and after: links, routes, rules, sysctls, mounts, resolver, trust store.
pub fn host_state() -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let links: Vec<String> =
        read("/proc/net/dev").lines().filter_map(|l| Some(l.split_once(':')?.0.trim().into())).collect();
    state.insert("links".into(), links.join(" "));
    for file in [
        "/proc/net/route",
        "/proc/net/fib_trie",
        "/proc/self/mountinfo",
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/nsswitch.conf",
        "/etc/ssl/certs/ca-certificates.crt",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv4/conf/all/rp_filter",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    ] {
        state.insert(file.into(), read(file));
    }
    for (name, args) in [("ip rule", vec!["rule"]), ("ip netns", vec!["netns"])] {
        if let Ok(output) = Command::new("ip").args(&args).output() {
            state.insert(name.into(), String::from_utf8_lossy(&output.stdout).into_owned());
        }
    }
    for dir in ["/run", "/etc", "/etc/ssl/certs", "/var/lib"] {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into())
            .collect();
        names.sort();
        state.insert(dir.into(), names.join(" "));
    }
    state
}

/// Everything below a directory that lives on, relative to it.
pub fn listing(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        names.push(entry.path().display().to_string());
        if entry.path().is_dir() {
            names.extend(listing(&entry.path()));
        }
    }
    names.sort();
    names
}
