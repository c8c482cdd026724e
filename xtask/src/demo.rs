//! `cargo xtask demo`: the demo must work, and must fail where it is broken on purpose.
//!
//! With `--stranger`, as root, it runs once more as a throw-away user, who has neither cargo nor this folder: the
//! program, the scripts and the clients are copied to where that user can read them.
#![allow(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::environment;
use crate::shared::root;

/// A run and what must come of it.
struct Case {
    name: &'static str,
    arguments: &'static [&'static str],
    code: i32,
    /// Texts that must be in the output.
    says: &'static [&'static str],
}

const CASES: [Case; 5] = [
    Case { name: "as it is", arguments: &[], code: 0, says: &["demo: OK, "] },
    Case {
        name: "44224 denied above the allow",
        arguments: &["--break", "nsg"],
        code: 1,
        says: &["unusable", "AllocationFailed", "'Deny44224' (priority 100)", "'trainnsg'", "demo: FAILED at step "],
    },
    Case {
        name: "uploaded code deleted between two jobs",
        arguments: &["--break", "blob"],
        code: 1,
        says: &["There is no file of the code at", "the job did not complete", "demo: FAILED at step "],
    },
    Case {
        name: "training ends with an error",
        arguments: &["--break", "job"],
        code: 1,
        says: &["asked to fail", "the job did not complete", "demo: FAILED at step "],
    },
    Case {
        name: "probed port open to the internet",
        arguments: &["--break", "probe"],
        code: 1,
        says: &["the port is open to the internet", "demo: FAILED at step "],
    },
];

/// Folder where a user finds programs that are not his own.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As root: once more as a throw-away user, with clients of its own (some minutes more)
    #[arg(long)]
    stranger: bool,
}

/// Runs all cases.
pub(crate) fn run(args: &Args) -> Result<()> {
    let moat = environment::binary()?;
    for case in &CASES {
        let mut demo = Command::new(root().join("script/demo"));
        demo.env("MOAT_BIN", &moat);
        check(case.name, case, demo)?;
    }
    let stranger = args.stranger && nix::unistd::geteuid().is_root();
    if stranger {
        let stage = Stage::new(&moat)?;
        check("as an ordinary user", &CASES[0], stage.demo())?;
    }
    println!("demo: {} runs did what they should", CASES.len() + usize::from(stranger));
    Ok(())
}

fn check(name: &str, case: &Case, mut demo: Command) -> Result<()> {
    println!("== demo: {name}");
    let mut child =
        demo.args(case.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("running script/demo")?;
    let mut text = String::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line.context("reading the output")?;
        println!("   {line}");
        text.push_str(&line);
        text.push('\n');
    }
    let status = child.wait()?;
    if status.code() != Some(case.code) {
        bail!("{name}: the demo ended with {status}, not with {}", case.code);
    }
    for wanted in case.says {
        if !text.contains(wanted) {
            bail!("{name}: the demo did not say `{wanted}`");
        }
    }
    Ok(())
}

/// A throw-away user with what the demo needs; both are removed when dropped.
struct Stage {
    user: String,
    folder: tempfile::TempDir,
    clients: PathBuf,
}

impl Stage {
    fn new(moat: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("moat-demo-").tempdir().context("making a folder")?;
        let path = folder.path().to_owned();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        std::fs::copy(moat, path.join("moat")).context("copying the program")?;
        std::fs::set_permissions(path.join("moat"), std::fs::Permissions::from_mode(0o755))?;
        for part in ["script", "examples"] {
            done(Command::new("cp").arg("-r").arg(root().join(part)).arg(&path))?;
            done(Command::new("chmod").args(["-R", "a+rX"]).arg(path.join(part)))?;
        }

        let user = format!("moatdemo{}", std::process::id());
        done(Command::new("useradd").args(["--create-home", "--shell", "/bin/sh", &user]))?;
        let stage = Stage { user, clients: path.join("clients"), folder };
        // Python of root may lie where nobody else can read it; the clients have to use one that the user can run.
        let python = stage.as_user(&[]).args(["python3", "-c", "import sys, venv; print(sys.executable)"]).output()?;
        let python = String::from_utf8_lossy(&python.stdout).trim().to_owned();
        if python.is_empty() {
            bail!(
                "an ordinary user finds no python3 with venv in {PATH}; on Debian: apt-get install python3 python3-venv"
            );
        }
        done(
            Command::new(root().join("script/clients"))
                .arg(&stage.clients)
                .args(["cli", "v1", "v2"])
                .env("MOAT_PYTHON", python),
        )?;
        done(Command::new("chmod").args(["-R", "a+rX"]).arg(&stage.clients))?;
        Ok(stage)
    }

    /// A command line as the user, in the user's home, with nothing of root's environment.
    fn as_user(&self, variables: &[(&str, &Path)]) -> Command {
        let mut command = Command::new("runuser");
        command.args(["-u", &self.user, "--", "env", "-i"]);
        command.arg(format!("HOME=/home/{}", self.user)).arg(format!("USER={}", self.user)).arg(format!("PATH={PATH}"));
        command.args(variables.iter().map(|(name, value)| format!("{name}={}", value.display())));
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    fn demo(&self) -> Command {
        let folder = self.folder.path();
        let mut command = self.as_user(&[("MOAT_BIN", &folder.join("moat")), ("MOAT_CLIENTS", &self.clients)]);
        command.arg(folder.join("script/demo"));
        command
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Best effort: what is left is a user without password and a home directory.
        let _ = Command::new("userdel").args(["--remove", &self.user]).stderr(Stdio::null()).status();
    }
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", environment::text(&output));
    }
    Ok(())
}
