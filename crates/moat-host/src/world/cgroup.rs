//! The control group of an environment: made on the host before the world, given to its agents, gone with it.
//!
//! ```text
//! <the caller's own group>/moat-NAME-PID/     one in each tree of version 1, or one in that of version 2
//!   world/      everything of the environment but programs of jobs; empty means that it has ended
//!   job-N/      one program of a job (`crate::run`), made by the agents, who own moat-NAME-PID
//! ```
//! In the world the folders are seen below [`DIR`]. Where nothing can be made there is nothing there, and jobs get
//! rlimits.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::error::WorldError;
use super::view;

/// Where the world and its agents see their groups: [`UNIFIED`], or one folder for each of [`CONTROLLERS`].
pub const DIR: &str = "/run/moat/cgroup";
/// The folder of version 2 in [`DIR`].
pub const UNIFIED: &str = "unified";
/// What is limited: in version 1, trees and folders of their own in [`DIR`].
pub const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Names of environments' groups begin so.
const PREFIX: &str = "moat-";
/// The group of the environment's own processes.
const WORLD: &str = "world";
/// Where control groups are.
const ROOT: &str = "/sys/fs/cgroup";
/// Files by which whoever owns a group moves processes and gives controllers on.
const OWNED: [&str; 4] = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks"];
/// How long the kernel may take to have the last process out of a group.
const BUSY_MAX: Duration = Duration::from_secs(2);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often a group is made anew that somebody swept away before it was lived in.
const TRIES: u32 = 3;

/// The groups of one environment: name in [`DIR`] and folder on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups(Vec<(String, PathBuf)>);

/// The caller's own groups, in which those of environments are made.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Parents {
    /// Version 2.
    Unified(PathBuf),
    /// Version 1, in the order of [`CONTROLLERS`].
    Each([PathBuf; 3]),
}

impl Parents {
    /// From /proc/self/cgroup and the usual place. Version 2 counts where it has the controllers.
    fn find(root: &Path, own: &str) -> Vec<Parents> {
        let mut found = Vec::new();
        if let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) {
            for tree in [root.to_owned(), root.join(UNIFIED)] {
                let dir = tree.join(path);
                let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
                let has = |name: &str| controllers.split_whitespace().any(|c| c == name);
                if CONTROLLERS.iter().all(|name| has(name)) {
                    found.push(Parents::Unified(dir));
                    break;
                }
            }
        }
        let each = CONTROLLERS.map(|name| {
            let line = own.lines().find_map(|line| {
                let (list, path) = line.split_once(':')?.1.split_once(':')?;
                list.split(',').any(|c| c == name).then_some((list, path))
            });
            // A tree of several controllers is named by all of them, with links for each.
            line.map(|(_, path)| root.join(name).join(path.trim_start_matches('/'))).filter(|dir| dir.is_dir())
        });
        if let [Some(memory), Some(cpu), Some(pids)] = each {
            found.push(Parents::Each([memory, cpu, pids]));
        }
        found
    }

    fn of_caller() -> Vec<Parents> {
        Self::find(Path::new(ROOT), &fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
    }

    fn dirs(&self) -> Vec<(&'static str, &Path)> {
        match self {
            Parents::Unified(dir) => vec![(UNIFIED, dir)],
            Parents::Each(dirs) => CONTROLLERS.into_iter().zip(dirs.iter().map(PathBuf::as_path)).collect(),
        }
    }
}

impl Groups {
    /// Makes groups for an environment and moves `init`, a new process, into them. `None` where this user may not;
    /// jobs then have rlimits, which is what they report.
    pub fn make(name: &str, init: Pid) -> Option<Self> {
        for parents in Parents::of_caller() {
            for _ in 0..TRIES {
                match Self::make_in(&parents, name, init) {
                    Ok(groups) => return Some(groups),
                    Err(error) => {
                        tracing::debug!(%error, ?parents, "no control group for this environment");
                        if error.kind() != io::ErrorKind::NotFound {
                            break;
                        }
                    }
                }
            }
        }
        None
    }

    fn make_in(parents: &Parents, name: &str, init: Pid) -> io::Result<Self> {
        let folder = format!("{PREFIX}{name}-{init}");
        let dirs = parents.dirs().into_iter().map(|(kind, parent)| (kind.to_owned(), parent.join(&folder))).collect();
        let groups = Groups(dirs);
        groups.fill(parents, init).inspect_err(|_| groups.remove())?;
        Ok(groups)
    }

    fn fill(&self, parents: &Parents, init: Pid) -> io::Result<()> {
        for (_, dir) in &self.0 {
            make_dir(dir)?;
            make_dir(&dir.join(WORLD))?;
        }
        if let Parents::Unified(parent) = parents {
            // Controllers are given on from group to group; the parent may do so already.
            let wanted = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
            give_on(parent, &wanted)?;
            give_on(&self.0[0].1, &wanted)?;
        }
        self.0.iter().try_for_each(|(_, dir)| fs::write(dir.join(WORLD).join("cgroup.procs"), init.to_string()))
    }

    /// In the world, before its tree covers the host's: makes them visible and gives them to `owner`.
    pub(super) fn show(&self, owner: Option<u32>) -> Result<(), WorldError> {
        for (name, dir) in &self.0 {
            let own = |path: &Path| {
                std::os::unix::fs::chown(path, owner, owner)
                    .map_err(WorldError::step("giving a control group to agents"))
            };
            own(dir)?;
            for file in OWNED.iter().map(|file| dir.join(file)).filter(|file| file.exists()) {
                own(&file)?;
            }
            let to = Path::new(DIR).join(name);
            view::make_dir(&to, 0o755)?;
            view::bind(view::handle(dir).map_err(WorldError::mount("a control group", dir))?, &to)?;
        }
        Ok(())
    }

    /// Removes them; those with processes in them stay.
    ///
    /// A process leaves its groups a little after it has ended for those who wait for it, so a group may be busy for
    /// some milliseconds.
    pub fn remove(&self) {
        let deadline = Instant::now() + BUSY_MAX;
        for (_, dir) in &self.0 {
            remove_tree(dir);
            while dir.exists() && Instant::now() < deadline {
                std::thread::sleep(LOOK_EVERY);
                remove_tree(dir);
            }
        }
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn give_on(dir: &Path, wanted: &str) -> io::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    let has = fs::read_to_string(&file)?;
    if CONTROLLERS.iter().all(|name| has.split_whitespace().any(|c| c == *name)) {
        return Ok(());
    }
    fs::write(file, wanted)
}

/// Removes a group and those in it, innermost first. Files in it are the kernel's and go with it.
fn remove_tree(dir: &Path) {
    let inner = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path());
    }
    let _ = fs::remove_dir(dir);
}

/// Removes groups of environments that ended without a word (`kill -9`), of any name. Living ones are left alone.
pub fn sweep() {
    for parents in Parents::of_caller() {
        for (_, parent) in parents.dirs() {
            sweep_in(parent);
        }
    }
}

fn sweep_in(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let (name, dir) = (entry.file_name(), entry.path());
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX)) && dir.join(WORLD).is_dir();
        let empty = fs::read_to_string(dir.join(WORLD).join("cgroup.procs")).is_ok_and(|text| text.trim().is_empty());
        if ours && empty {
            remove_tree(&dir);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const HYBRID: &str = "9:name=systemd:/\n8:pids:/\n4:memory:/a/b\n2:cpuacct:/\n1:cpu,cpuacct:/c\n0::/\n";

    fn tree(dirs: &[&str], files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        dirs.iter().for_each(|dir| fs::create_dir_all(root.path().join(dir)).unwrap());
        files.iter().for_each(|(file, text)| fs::write(root.path().join(file), text).unwrap());
        root
    }

    #[test]
    fn both_versions_are_found_where_they_can_limit() {
        let root = tree(&["memory/a/b", "cpu/c", "pids", "unified"], &[("unified/cgroup.controllers", "")]);
        let at = |path: &str| root.path().join(path);
        let each = Parents::Each([at("memory/a/b"), at("cpu/c"), at("pids/")]);
        assert_eq!(Parents::find(root.path(), HYBRID), [each], "version 2 has no controllers here");
        let root = tree(&["user.slice"], &[("user.slice/cgroup.controllers", "cpuset cpu io memory pids\n")]);
        let unified = Parents::Unified(root.path().join("user.slice"));
        assert_eq!(Parents::find(root.path(), "0::/user.slice\n"), [unified]);
        let root = tree(&["user.slice"], &[("user.slice/cgroup.controllers", "memory pids\n")]);
        assert_eq!(Parents::find(root.path(), "0::/user.slice\n"), [], "not all that is needed");
        assert_eq!(Parents::find(root.path(), ""), []);
    }

    #[test]
    fn only_dead_environments_are_swept() {
        let root = tree(
            &["moat-a-1/world", "moat-b-2/world", "moat-b-2/job-7", "moat-else", "other-1/world"],
            &[("moat-a-1/world/cgroup.procs", "17\n"), ("moat-b-2/world/cgroup.procs", "")],
        );
        sweep_in(root.path());
        // The kernel's files go with a group; here they keep the folder, so what is looked at is the one without.
        assert!(!root.path().join("moat-b-2/job-7").exists());
        let left = || {
            let names = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        };
        assert_eq!(left(), ["moat-a-1", "moat-b-2", "moat-else", "other-1"], "one without a list is no group");
    }
}
