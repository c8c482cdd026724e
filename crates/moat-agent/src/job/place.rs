//! Folders of a run: where the agent has them, and where the program meets them.
//!
//! ```text
//! {work}/root       the run's folder, writable           {root}, with the code in {folder}
//! {work}/io/0..     inputs and named outputs, a mount each   wherever the job wants them
//! {work}/bin        `python` where no environment has one    /mnt/azureml/bin
//! ```
//! Inputs and outputs are mounts of their own, as in Azure: a program cannot put a link in their place. All of it is
//! wiped before the next run. The program's user owns what is here, so nothing is touched by path once it has run:
//! only through [`Folder`], which follows no link.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use moat_host::run::beneath::{self, Folder};

use super::sandbox::Mount;
use super::stop::Stop;
use crate::spec::{ENVIRONMENTS_DIR, Environment, Output, RunSpec};

/// Where a program finds `python` if its environment has no folder.
const BIN_DIR: &str = "/mnt/azureml/bin";
/// Where systems have their programs.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The program's HOME, below the run's folder.
const HOME: &str = "home";
/// What Azure takes from the folder of the program without being asked.
pub(crate) const ARTIFACT_FOLDERS: [&str; 2] = ["outputs", "logs"];

/// The folders of one run.
#[derive(Debug)]
pub(crate) struct Places {
    work: PathBuf,
    root: PathBuf,
    /// Of the program's folder below the root; empty where it is the root itself.
    folder: String,
    mounts: Vec<Mount>,
    io: usize,
}

impl Places {
    /// Wipes what an earlier run left and makes the folders of this one.
    pub(crate) fn make(work: &Path, spec: &RunSpec) -> Result<Self, Stop> {
        let broken = |e: io::Error| Stop::node("making the run's folders", &e);
        let top = Folder::open(work).map_err(broken)?;
        top.clear().map_err(broken)?;
        let root = PathBuf::from(&spec.root);
        let folder = below(&root, &spec.folder).ok_or_else(|| misplaced(&spec.folder))?;
        let inside = top.make_folder("root").map_err(broken)?;
        inside.make_folder(HOME).map_err(broken)?;
        for name in ARTIFACT_FOLDERS {
            inside.make_folder(&join(&folder, name)).map_err(broken)?;
        }
        let mounts = vec![Mount { from: work.join("root"), to: root.clone(), read_only: false }];
        Ok(Self { work: work.to_owned(), root, folder, mounts, io: 0 })
    }

    fn top(&self) -> Result<Folder, Stop> {
        Folder::open(&self.work).map_err(|e| Stop::node("opening the run's folders", &e))
    }

    /// The folder the program starts in.
    pub(crate) fn program_folder(&self) -> Result<Folder, Stop> {
        let broken = |e: io::Error| Stop::node("opening the program's folder", &e);
        let root = self.top()?.folder("root").map_err(broken)?;
        if self.folder.is_empty() { Ok(root) } else { root.folder(&self.folder).map_err(broken) }
    }

    /// A folder of its own that the program meets at `inside`; the same one again for the same place.
    fn place(&mut self, inside: &str, read_only: bool) -> Result<Folder, Stop> {
        let to = absolute(inside).ok_or_else(|| misplaced(inside))?;
        let broken = |e: io::Error| Stop::node("making a folder for data", &e);
        if let Some(known) = self.mounts.iter().skip(1).find(|m| m.to == to) {
            return Folder::open(&known.from).map_err(broken);
        }
        let name = format!("io/{}", self.io);
        self.io += 1;
        let made = self.top()?.make_folder(&name).map_err(broken)?;
        self.mounts.push(Mount { from: self.work.join(name), to, read_only });
        Ok(made)
    }

    /// The folder of an input.
    pub(crate) fn input(&mut self, path: &str, read_only: bool) -> Result<Folder, Stop> {
        self.place(path, read_only)
    }

    /// The folder of a named output, and the name in it where the output is one file.
    pub(crate) fn output(&mut self, output: &Output) -> Result<(Folder, Option<String>), Stop> {
        if !output.file {
            return Ok((self.place(&output.path, false)?, None));
        }
        let (folder, name) = output.path.rsplit_once('/').ok_or_else(|| misplaced(&output.path))?;
        Ok((self.place(folder, false)?, Some(name.to_owned())))
    }

    /// Everything the program meets, and its `PATH`.
    pub(crate) fn finish(&mut self, environment: &Environment) -> Result<String, Stop> {
        if let Some(folder) = &environment.folder {
            if beneath::parts(folder).map(|parts| parts.len()) != Ok(1) {
                return Err(misplaced(folder));
            }
            let path = Path::new(ENVIRONMENTS_DIR).join(folder);
            let found = format!("{}/bin:{SYSTEM_PATH}", path.display());
            self.mounts.push(Mount { from: path.clone(), to: path, read_only: true });
            return Ok(found);
        }
        let Some(python) = &environment.python else { return Ok(SYSTEM_PATH.to_owned()) };
        let broken = |e: io::Error| Stop::node("making the folder with `python`", &e);
        self.top()?.make_folder("bin").map_err(broken)?;
        let bin = self.work.join("bin");
        for name in ["python", "python3"] {
            // Nothing of the job has run: the folder is still ours alone.
            symlink(python, bin.join(name)).map_err(broken)?;
        }
        self.mounts.push(Mount { from: bin, to: PathBuf::from(BIN_DIR), read_only: true });
        Ok(format!("{BIN_DIR}:{SYSTEM_PATH}"))
    }

    pub(crate) fn mounts(&self) -> Vec<Mount> {
        self.mounts.clone()
    }

    pub(crate) fn home(&self) -> String {
        self.root.join(HOME).display().to_string()
    }
}

fn misplaced(path: &str) -> Stop {
    let shown: String = path.chars().take(200).collect();
    Stop::failed("NodeError", format!("The specification places something at `{}`.", shown.escape_debug()))
}

fn absolute(path: &str) -> Option<PathBuf> {
    let inner = path.strip_prefix('/')?;
    beneath::parts(inner.trim_end_matches('/')).ok()?;
    Some(PathBuf::from(path.trim_end_matches('/')))
}

/// `path` below `root`, for [`Folder`]; empty for the root itself.
fn below(root: &Path, path: &str) -> Option<String> {
    let root = absolute(root.to_str()?)?;
    let inner = absolute(path)?;
    Some(inner.strip_prefix(root).ok()?.to_str()?.to_owned())
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_below_is_below() {
        let root = Path::new("/mnt/azureml/cr/j/r");
        assert_eq!(below(root, "/mnt/azureml/cr/j/r/exe/wd"), Some("exe/wd".to_owned()));
        assert_eq!(below(root, "/mnt/azureml/cr/j/r"), Some(String::new()));
        for bad in ["/mnt/azureml/cr/j/rr", "/mnt/azureml/cr/j/r/../s", "exe", "/", ""] {
            assert_eq!(below(root, bad), None, "{bad}");
        }
    }
}
