//! A Moat environment for the length of a command: started, used, removed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::shared;

/// The program under test: `MOAT_BIN`, or the release build, which is made if need be.
pub(crate) fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MOAT_BIN") {
        let path = std::path::absolute(path)?;
        if !path.is_file() {
            bail!("MOAT_BIN is not a file: {}", path.display());
        }
        return Ok(path);
    }
    let done = Command::new(env!("CARGO"))
        .args(["build", "--release", "--workspace", "--quiet"])
        .current_dir(shared::root())
        .status()
        .context("running cargo build")?;
    if !done.success() {
        bail!("the release build failed");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shared::root().join("target"), PathBuf::from);
    Ok(target.join("release/moat"))
}

/// A running environment; purged when dropped.
#[derive(Debug)]
pub(crate) struct Environment {
    moat: PathBuf,
    name: String,
    /// State root of its own, so that nothing of the user's is touched.
    home: tempfile::TempDir,
}

impl Environment {
    /// `moat up --detach`.
    pub(crate) fn up(moat: &Path, name: &str, edition: &'static str) -> Result<Self> {
        Self::up_with(moat, name, edition, &[])
    }

    /// `moat up --detach` with more arguments.
    pub(crate) fn up_with(moat: &Path, name: &str, edition: &'static str, more: &[&str]) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("moat-").tempdir().context("making a folder for the state")?;
        let this = Self { moat: moat.to_owned(), name: name.to_owned(), home };
        let up = this
            .moat(["up", "--detach", "-e", name, "--edition", edition].iter().chain(more))
            .output()
            .context("running moat up")?;
        if !up.status.success() {
            bail!("moat up failed: {}", text(&up));
        }
        Ok(this)
    }

    fn moat<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(&self.moat);
        command.args(args).env("MOAT_HOME", self.home.path()).stdin(Stdio::null());
        command
    }

    /// A program at a place, with `variables` set inside.
    pub(crate) fn exec(&self, at: &str, variables: &[(&str, &str)], program: &[&OsStr]) -> Command {
        let mut command = self.moat(["exec", "-e", &self.name, "--at", at, "--", "env"]);
        command.args(variables.iter().map(|(name, value)| format!("{name}={value}"))).args(program);
        command
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // Its processes would outlive the folder otherwise; a failure shows as processes left behind.
        let _ = self.moat(["down", "--purge", "-e", &self.name]).output();
    }
}

/// What a program said, for an error.
pub(crate) fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).trim().to_owned()
}
