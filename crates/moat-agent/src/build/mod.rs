//! Builds one environment: an agent of another kind, in a namespace that has loopback and one socket.
//!
//! It may write one folder, that of the environment; runs [`BUILDER`] in a sandbox that may write the same; watches
//! time, size and log; and tells the server over its standard output, a line of JSON each. What runs in the sandbox
//! cannot reach that output: its own goes to a pipe, which is read here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use moat_host::run::{Ended, Launcher, Mount, Running, SandboxLimits, SandboxSpec};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::spec::ENVIRONMENTS_DIR;

/// What runs in the sandbox.
const BUILDER: &str = include_str!("builder.py");
/// Wall clock of a build.
pub const BUILD_TIME_MAX: Duration = Duration::from_secs(30 * 60);
/// Size of an environment, while it is built too.
pub const ENVIRONMENT_BYTES_MAX: u64 = 4 << 30;
/// Files and folders of an environment.
const ENTRIES_MAX: usize = 400_000;
/// Free space that a build leaves on the disk.
const FREE_BYTES_MIN: u64 = 512 << 20;
/// Log of a build; what is beyond is counted, not kept.
pub const LOG_BYTES_MAX: usize = 2 << 20;
/// Longest line of it.
const LINE_BYTES_MAX: u64 = 16 << 10;
/// Pause between two looks at size and time.
const LOOK: Duration = Duration::from_millis(500);
/// Ending of a folder that is not finished; the server takes it off.
pub const PARTIAL: &str = ".partial";

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildConfig {
    /// Names the environment; its folder below the environments has [`PARTIAL`] added.
    pub hash: String,
    /// The interpreter.
    pub python: String,
    /// Lines for pip.
    pub requirements: Vec<String>,
    /// Where the proxy is: `http://127.0.0.1:8080`.
    pub index: String,
    /// Version of pip that the proxy gives.
    pub pip: String,
}

/// What an agent is told to be: a builder. Without this member it is a node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildOrder {
    /// What to build.
    pub build: BuildConfig,
}

/// What it tells, a line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Told {
    /// A line of the log.
    Line(String),
    /// The environment is whole.
    Built {
        /// Its size.
        bytes: u64,
    },
    /// It is not; the text is for the person whose job it is.
    Failed(String),
}

/// Runs the build. Returns an exit code; what happened has been told by then.
pub(crate) fn run(config: &BuildConfig) -> i32 {
    let told = build(config).unwrap_or_else(Told::Failed);
    let code = i32::from(matches!(told, Told::Failed(_)));
    tell(&told);
    code
}

/// A build order in the text that an agent is started with.
pub(crate) fn order(config: &str) -> Option<BuildConfig> {
    serde_json::from_str::<BuildOrder>(config).ok().map(|o| o.build)
}

fn tell(told: &Told) {
    let mut out = std::io::stdout().lock();
    // Whoever reads is the server; if it is gone, so is this process in a moment.
    if let Ok(mut line) = serde_json::to_vec(told) {
        line.push(b'\n');
        let _ = out.write_all(&line);
        let _ = out.flush();
    }
}

fn build(config: &BuildConfig) -> Result<Told, String> {
    let folder = Path::new(ENVIRONMENTS_DIR).join(format!("{}{PARTIAL}", config.hash));
    let broken = |doing: &'static str| move |e: std::io::Error| format!("the builder failed {doing}: {e}");
    // Before there is a second thread.
    let launcher = Launcher::start().map_err(broken("starting its launcher"))?;
    let (read, write) = std::io::pipe().map_err(broken("making a pipe"))?;
    let mut running =
        launcher.launch(&spec(config, &folder), write.as_fd(), write.as_fd()).map_err(|e| e.to_string())?;
    drop(write);
    let log = std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || copy_log(read))
        .map_err(broken("starting a thread"))?;
    let ended = watch(&mut running, &folder)?;
    drop(running);
    // The pipe is at its end once all of the sandbox has ended.
    let _ = log.join();
    match ended {
        Ended { code: 0, .. } => Ok(Told::Built { bytes: size(&folder)? }),
        Ended { limit_hit: Some(limit), .. } => Err(format!("The build met its limit: {limit}")),
        Ended { code, .. } => Err(format!("The packages could not be installed (exit code {code})")),
    }
}

/// Waits for the end; ends it itself when it takes too long or too much.
fn watch(running: &mut Running, folder: &Path) -> Result<Ended, String> {
    let started = Instant::now();
    loop {
        match running.wait(LOOK) {
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) => {}
            Err(e) => return Err(e.to_string()),
        }
        if started.elapsed() > BUILD_TIME_MAX {
            return Err(format!("The build took more than {} minutes", BUILD_TIME_MAX.as_secs() / 60));
        }
        size(folder)?;
        let free = nix::sys::statvfs::statvfs(folder).map_or(u64::MAX, |s| s.blocks_available() * s.fragment_size());
        if free < FREE_BYTES_MIN {
            return Err("The disk of this machine is almost full".to_owned());
        }
    }
}

/// Bytes on disk below a folder, nothing followed; `Err` beyond the bounds.
fn size(folder: &Path) -> Result<u64, String> {
    use std::os::unix::fs::MetadataExt as _;
    let (mut bytes, mut entries) = (0u64, 0usize);
    let mut open: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        // Files come and go while pip works: what is not there any more counts nothing.
        for entry in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            entries += 1;
            bytes = bytes.saturating_add(meta.blocks().saturating_mul(512));
            if meta.is_dir() {
                open.push(entry.path());
            }
            if bytes > ENVIRONMENT_BYTES_MAX {
                return Err(format!("The environment is larger than {} GiB", ENVIRONMENT_BYTES_MAX >> 30));
            }
            if entries > ENTRIES_MAX {
                return Err(format!("The environment has more than {ENTRIES_MAX} files"));
            }
        }
    }
    Ok(bytes)
}

/// Tells the sandbox's output line by line, up to the limit.
fn copy_log(read: impl Into<std::os::fd::OwnedFd>) {
    let mut read = BufReader::new(File::from(read.into()));
    let (mut told, mut left_out) = (0usize, 0usize);
    loop {
        let mut line = Vec::new();
        match read.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(n) if told + n > LOG_BYTES_MAX => left_out += n,
            Ok(n) => {
                told += n;
                tell(&Told::Line(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
        }
    }
    if left_out > 0 {
        tell(&Told::Line(format!("({left_out} more bytes were left out)")));
    }
}

fn spec(config: &BuildConfig, folder: &Path) -> SandboxSpec {
    // Where jobs will see it, so that the paths written into its scripts are right.
    let inside = Path::new(ENVIRONMENTS_DIR).join(&config.hash);
    let job = json!({
        "folder": inside,
        "index": config.index,
        "pip": config.pip,
        "requirements": config.requirements,
    });
    let variables = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("PIP_CONFIG_FILE", "/dev/null"),
    ];
    SandboxSpec {
        // Isolated, and without the machine's own packages: nothing of it gets into the environment.
        program: [config.python.as_str(), "-I", "-S", "-c", BUILDER, &job.to_string()].map(str::to_owned).to_vec(),
        folder: PathBuf::from("/tmp"),
        variables: BTreeMap::from(variables.map(|(name, value)| (name.to_owned(), value.to_owned()))),
        mounts: vec![Mount { from: folder.to_owned(), to: inside, read_only: false }],
        hostname: "build".to_owned(),
        ca_certificates: String::new(),
        limits: SandboxLimits { cpu_milli: 2_000, ..SandboxLimits::default() },
        // The namespace of a build has loopback and nothing else, but the proxy's socket is in it.
        isolate_network: false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    #[test]
    fn an_order_to_build_is_no_nodes_configuration() {
        let config = BuildConfig {
            hash: "ab".to_owned(),
            python: "/usr/bin/python3.11".to_owned(),
            requirements: vec!["numpy".to_owned()],
            index: "http://127.0.0.1:8080".to_owned(),
            pip: "25".to_owned(),
        };
        let text = serde_json::to_string(&BuildOrder { build: config.clone() }).unwrap();
        assert_eq!(order(&text), Some(config));
        assert_eq!(order("{\"node\": 1}"), None);
    }

    #[test]
    fn sizes_are_of_the_folder_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("away")).unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("in/file"), vec![1u8; 100_000]).unwrap();
        let bytes = size(dir.path()).unwrap();
        assert!((100_000..1_000_000).contains(&bytes), "{bytes}");
    }
}
