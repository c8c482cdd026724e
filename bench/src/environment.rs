//! A Moat environment in a folder of its own, run by the real binary, and the programs it consists of.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Name of the environment.
const NAME: &str = "bench";

/// How to be let in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) tenant: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: String,
    pub(crate) subscription: String,
    /// Certificates to trust, PEM.
    pub(crate) ca: String,
}

/// See the module. Ended and removed when dropped.
#[derive(Debug)]
pub(crate) struct Environment {
    binary: PathBuf,
    home: TempDir,
    pub(crate) port: u16,
}

impl Environment {
    /// A folder and a free port; nothing runs yet.
    pub(crate) fn new(binary: &Path) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("moat-bench").tempdir().context("making a folder")?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        Ok(Self { binary: binary.to_owned(), home, port })
    }

    /// `moat COMMAND ARGUMENTS`, about this environment; the command may be of several words.
    pub(crate) fn command(&self, command: &str, arguments: &[&str]) -> Command {
        let mut run = Command::new(&self.binary);
        run.args(command.split(' '))
            .args(["-e", NAME])
            .args(arguments)
            .env("MOAT_HOME", self.home.path())
            .env_remove("MOAT_ENV");
        // Programs of a world live on: they must not keep a pipe of ours open.
        run.stdin(Stdio::null());
        run
    }

    fn output(&self, command: &str, arguments: &[&str]) -> Result<Output> {
        let output = self.command(command, arguments).output().context("starting moat")?;
        anyhow::ensure!(
            output.status.success(),
            "`moat {command}` failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output)
    }

    /// Starts it; returns when it is ready.
    pub(crate) fn up(&self) -> Result<()> {
        self.up_with(&[])
    }

    /// Starts it with more arguments.
    pub(crate) fn up_with(&self, more: &[&str]) -> Result<()> {
        self.output("up", &[&["--detach", "--port", &self.port.to_string()], more].concat()).map(drop)
    }

    /// What `moat COMMAND` prints as JSON.
    pub(crate) fn json(&self, command: &str, arguments: &[&str]) -> Result<serde_json::Value> {
        let output = self.output(command, arguments)?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("reading the answer of `moat {command}`"))
    }

    /// Ends it; its state stays.
    pub(crate) fn down(&self) -> Result<()> {
        self.output("down", &[]).map(drop)
    }

    /// What a program inside is told.
    pub(crate) fn access(&self) -> Result<Access> {
        const SCRIPT: &str = r#"printf '%s\n' "$AZURE_TENANT_ID" "$AZURE_CLIENT_ID" "$AZURE_CLIENT_SECRET" "$AZURE_SUBSCRIPTION_ID"; cat "$SSL_CERT_FILE""#;
        let output = self.output("exec", &["--", "sh", "-c", SCRIPT])?;
        let text = String::from_utf8(output.stdout).context("reading the environment's variables")?;
        let mut lines = text.splitn(5, '\n').map(str::to_owned);
        let mut next = || lines.next().context("the environment's variables are incomplete");
        Ok(Access { tenant: next()?, client_id: next()?, client_secret: next()?, subscription: next()?, ca: next()? })
    }

    /// Its first process.
    pub(crate) fn init(&self) -> Result<i32> {
        let status = self.json("status", &["-o", "json"])?;
        status["init"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("the status has no `init`")
    }

    /// What the data plane has realised, and the newest commit.
    pub(crate) fn progress(&self) -> Result<(u64, u64)> {
        let status = self.json("status", &["-o", "json"])?;
        let number =
            |name: &str| status["server"][name].as_u64().with_context(|| format!("the status has no `{name}`"));
        Ok((number("applied")?, number("seq")?))
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.command("down", &["--purge"]).output();
    }
}

/// A process and all below it.
pub(crate) fn tree(root: i32) -> Vec<i32> {
    let mut all = vec![root];
    let mut at = 0;
    while let Some(pid) = all.get(at).copied() {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|c| c.parse::<i32>().ok()));
        }
        at += 1;
    }
    all
}

/// Processor seconds of processes.
pub(crate) fn cpu_seconds(pids: &[i32]) -> f64 {
    /// `USER_HZ` of every Linux that Moat runs on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let ticks = |pid: &i32| -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    };
    pids.iter().filter_map(ticks).sum::<f64>() / TICKS_PER_SECOND
}

/// Memory of a process.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    /// Its name.
    pub(crate) name: String,
    /// Resident, MiB.
    pub(crate) rss: f64,
    /// Resident, pages shared with others divided among them, MiB.
    pub(crate) pss: f64,
}

/// Memory of a process; `None` if it is gone or may not be looked at.
pub(crate) fn memory(pid: i32) -> Option<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib: BTreeMap<&str, f64> = text
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            Some((name, rest.split_whitespace().next()?.parse().ok()?))
        })
        .collect();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
    Some(Memory { name, rss: kib.get("Rss")? / 1024.0, pss: kib.get("Pss")? / 1024.0 })
}
