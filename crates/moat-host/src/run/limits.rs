//! Limits of one sandbox: a control group where the environment has one to give, else rlimits.
//!
//! The environment's group is made by `world::cgroup` and lies below [`crate::world::cgroup::DIR`]; each sandbox gets
//! a group in it, made and removed by the launcher. Version 1 has a tree for each controller, version 2 one for all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::resource::Resource;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::spec::{LimitHit, SandboxLimits};
use crate::world::cgroup::{CONTROLLERS, DIR, UNIFIED};

/// By what means limits are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// Memory, CPU and processes, of all together.
    CgroupV2,
    /// The same, by the older interface.
    CgroupV1,
    /// Memory of each process, not of files in memory; number of processes; a low priority for CPU.
    Rlimit,
}

impl Level {
    /// As it is shown in a job's properties.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::CgroupV2 => "cgroup-v2",
            Level::CgroupV1 => "cgroup-v1",
            Level::Rlimit => "rlimit",
        }
    }
}

/// What a program may map beyond its memory by rlimits: code, files, and address space only reserved, of which
/// runtimes with threads take much.
const ADDRESS_SPACE_TIMES: u64 = 4;
/// Bytes in POSIX message queues, and of pages locked in memory: what distributions give.
const MESSAGE_BYTES: u64 = 800 << 10;
const LOCKED_BYTES: u64 = 8 << 20;
/// Too little for a core file, and the one number (not 0) at which the kernel does not start the host's program for
/// core dumps either, which would run as root outside. The filter of calls keeps it so.
const CORE_BYTES: u64 = 1;
/// Signals waiting.
const SIGNALS_WAITING: u64 = 4_096;
/// The kernel's period for a CPU quota, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// What each process of the sandbox is bound to.
pub(super) fn rlimits(limits: &SandboxLimits, level: Level) -> Vec<(Resource, u64)> {
    let mut all = vec![
        (Resource::RLIMIT_CORE, CORE_BYTES),
        (Resource::RLIMIT_FSIZE, limits.file_bytes),
        (Resource::RLIMIT_NOFILE, u64::from(limits.open_files)),
        (Resource::RLIMIT_MEMLOCK, LOCKED_BYTES),
        (Resource::RLIMIT_MSGQUEUE, MESSAGE_BYTES),
        (Resource::RLIMIT_SIGPENDING, SIGNALS_WAITING),
        (Resource::RLIMIT_NICE, 0),
        (Resource::RLIMIT_RTPRIO, 0),
    ];
    if level == Level::Rlimit {
        all.extend([
            (Resource::RLIMIT_DATA, limits.memory_bytes),
            (Resource::RLIMIT_AS, limits.memory_bytes.saturating_mul(ADDRESS_SPACE_TIMES)),
            // Counted in the sandbox's own user namespace: nobody else's processes, but process 1.
            (Resource::RLIMIT_NPROC, u64::from(limits.processes) + 1),
        ]);
    }
    all
}

/// The group of one sandbox.
#[derive(Debug)]
pub(super) struct Group {
    level: Level,
    /// One for all, or one for each of [`CONTROLLERS`].
    dirs: Vec<PathBuf>,
}

impl Group {
    /// Makes the best there is, and puts `init` and whatever it will start into it.
    pub(super) fn make(base: &Path, limits: &SandboxLimits, init: Pid) -> Self {
        let unified = base.join(UNIFIED);
        if unified.is_dir() {
            match Self::enter(Level::CgroupV2, vec![unified], limits, init) {
                Ok(group) => return group,
                Err(error) => tracing::warn!(%error, "no control group (version 2) for a job"),
            }
        }
        let dirs: Vec<PathBuf> = CONTROLLERS.iter().map(|name| base.join(name)).collect();
        if dirs.iter().all(|dir| dir.is_dir()) {
            match Self::enter(Level::CgroupV1, dirs, limits, init) {
                Ok(group) => return group,
                Err(error) => tracing::warn!(%error, "no control group (version 1) for a job"),
            }
        }
        Group { level: Level::Rlimit, dirs: Vec::new() }
    }

    /// Below the directory that the agent's tree has.
    pub(super) fn for_job(limits: &SandboxLimits, init: Pid) -> Self {
        Self::make(Path::new(DIR), limits, init)
    }

    fn enter(level: Level, parents: Vec<PathBuf>, limits: &SandboxLimits, init: Pid) -> io::Result<Self> {
        let name = format!("job-{init}");
        let dirs = parents.into_iter().map(|dir| dir.join(&name)).collect();
        // Removed again by `drop`, whatever of it was made.
        let group = Group { level, dirs };
        for dir in &group.dirs {
            // One of an earlier launcher that had no time to clear up: the number was given anew.
            let _ = fs::remove_dir(dir);
            fs::create_dir(dir)?;
        }
        for (name, value) in group.settings(limits) {
            group.write(name, &value)?;
        }
        for (name, value) in OPTIONAL_SETTINGS {
            let _ = group.write(name, value);
        }
        // A limit on memory with swap can only be set above the one without; some kernels have none.
        let _ = group.write("memory.memsw.limit_in_bytes", &limits.memory_bytes.to_string());
        for dir in &group.dirs {
            fs::write(dir.join("cgroup.procs"), init.to_string())?;
        }
        Ok(group)
    }

    fn settings(&self, limits: &SandboxLimits) -> Vec<(&'static str, String)> {
        let quota = u64::from(limits.cpu_milli) * CPU_PERIOD / 1_000;
        let quota = quota.max(1_000); // the kernel's least
        // Process 1 counts too.
        let pids = ("pids.max", (u64::from(limits.processes) + 1).to_string());
        match self.level {
            Level::CgroupV2 => vec![
                ("memory.max", limits.memory_bytes.to_string()),
                ("cpu.max", format!("{quota} {CPU_PERIOD}")),
                pids,
            ],
            Level::CgroupV1 => vec![
                ("memory.limit_in_bytes", limits.memory_bytes.to_string()),
                ("cpu.cfs_period_us", CPU_PERIOD.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
                pids,
            ],
            Level::Rlimit => Vec::new(),
        }
    }

    /// The directory in which a file such as `memory.max` is.
    fn path(&self, file: &str) -> Option<PathBuf> {
        match &self.dirs[..] {
            [one] => Some(one.join(file)),
            many => {
                let controller = file.split('.').next()?;
                let at = CONTROLLERS.iter().position(|name| *name == controller)?;
                Some(many.get(at)?.join(file))
            }
        }
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let path = self.path(file).ok_or(io::ErrorKind::NotFound)?;
        fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    fn read(&self, file: &str) -> String {
        self.path(file).and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
    }

    /// By what means it holds.
    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// Which limit the kernel counted as met.
    pub(super) fn hit(&self) -> Option<LimitHit> {
        let memory = match self.level {
            Level::CgroupV2 => "memory.events",
            Level::CgroupV1 => "memory.oom_control",
            Level::Rlimit => return None,
        };
        if count(&self.read(memory), "oom_kill") > 0 {
            return Some(LimitHit::Memory);
        }
        (count(&self.read("pids.events"), "max") > 0).then_some(LimitHit::Processes)
    }
}

/// Settings a kernel may lack: no swap beyond the memory, and all of a job dies for its memory, not a part.
const OPTIONAL_SETTINGS: [(&str, &str); 2] = [("memory.swap.max", "0"), ("memory.oom.group", "1")];

impl Drop for Group {
    fn drop(&mut self) {
        for dir in &self.dirs {
            // Its processes have ended; the kernel may still be taking the last one apart. What stays is removed
            // with the environment.
            for _ in 0..REMOVE_TRIES {
                match fs::remove_dir(dir) {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    _ => break,
                }
            }
        }
    }
}

/// How often removing a group is tried, a millisecond apart.
const REMOVE_TRIES: u32 = 200;

/// A number in a file of `name value` lines.
fn count(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn settings(level: Level, dirs: usize) -> Vec<(&'static str, String)> {
        let dirs = (0..dirs).map(|n| PathBuf::from(format!("/d{n}"))).collect();
        let group = Group { level, dirs };
        let limits = SandboxLimits { memory_bytes: 1 << 30, cpu_milli: 1_500, processes: 9, ..Default::default() };
        for (name, _) in group.settings(&limits) {
            assert!(group.path(name).is_some(), "{name}");
        }
        let got = group.settings(&limits);
        std::mem::forget(group);
        got
    }

    #[test]
    fn each_version_says_the_same_in_its_own_words() {
        let named = |pairs: &[(&'static str, &str)]| -> Vec<_> {
            pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
        };
        let v2 = named(&[("memory.max", "1073741824"), ("cpu.max", "150000 100000"), ("pids.max", "10")]);
        assert_eq!(settings(Level::CgroupV2, 1), v2);
        let v1 = named(&[
            ("memory.limit_in_bytes", "1073741824"),
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "150000"),
            ("pids.max", "10"),
        ]);
        assert_eq!(settings(Level::CgroupV1, 3), v1);
    }

    #[test]
    fn counters_are_read_by_their_whole_name() {
        let text = "low 1\noom 7\noom_kill 2\noom_group_kill 9\n";
        assert_eq!(count(text, "oom_kill"), 2);
        assert_eq!(count(text, "oom"), 7);
        assert_eq!(count(text, "max"), 0);
        assert_eq!(count("oom_kill x", "oom_kill"), 0);
    }

    #[test]
    fn without_a_group_each_process_is_bound() {
        let limits = SandboxLimits::default();
        let of = |level| rlimits(&limits, level).into_iter().map(|(what, _)| what).collect::<Vec<_>>();
        assert!(of(Level::Rlimit).contains(&Resource::RLIMIT_NPROC));
        assert!(!of(Level::CgroupV1).contains(&Resource::RLIMIT_AS));
        assert!(of(Level::CgroupV2).contains(&Resource::RLIMIT_CORE));
    }
}
