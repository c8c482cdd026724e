//! `cargo xtask jobs --clients DIR`: job files of others, read by azure-ai-ml, submitted to a fresh Moat, and run.
//!
//! What becomes of each is held against the table in `docs/jobs.md`: a row that is not as the table says is an error, in
//! either direction, so that the table never tells old news. `--write` makes it anew. Environments of jobs are built from
//! the machine's package index; without one, a job that would have run fails by the name of that, and no other.
#![allow(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::environment::{self, Environment};
use crate::shared::{Skip, root};

const GROUP: &str = "mygroup";
const WORKSPACE: &str = "moatjobs";
const SUBNET: &str = "mynetwork/default";
/// Where the table stands, between [`BEGIN`] and the end of the file.
const PAGE: &str = "docs/jobs.md";
const BEGIN: &str = "| file | stand-ins | outcome | reason |\n|---|---|---|---|\n";
/// Outcomes of jobs that reached a node or failed on the way there: the package index decides which.
const RAN: [&str; 2] = ["Completed", "Failed"];
/// Of a job whose environment has packages, where there is no index.
const NO_INDEX: &str = "was started without a package index";
/// Of a job that the time was over for; never a row of the table.
const UNFINISHED: &str = "unfinished";
/// Where other installers are told the machine's index, after Moat's own variable.
const INDEX_VARIABLES: [&str; 4] = ["MOAT_PACKAGE_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"];
/// What the submitter gets beyond its own time before it is stopped.
const GRACE: Duration = Duration::from_secs(60);

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder made by script/clients
    #[arg(long)]
    clients: PathBuf,
    /// Write what became of the files into the table instead of comparing with it
    #[arg(long)]
    write: bool,
    /// Only files whose path contains this; the other rows are left as they are
    #[arg(long)]
    only: Option<String>,
    /// How long all jobs together may take
    #[arg(long, default_value_t = 12)]
    minutes: u64,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
struct Row {
    file: String,
    /// What it takes for granted and was made.
    stand_ins: String,
    outcome: String,
    reason: String,
}

type Table = BTreeMap<String, Row>;

/// Submits them in an environment of their own.
pub(crate) fn run(args: &Args) -> Result<()> {
    let corpus = corpus()?;
    let mut files = Vec::new();
    find(&corpus, &corpus, &mut files)?;
    files.sort();
    let chosen = |file: &str| args.only.as_ref().is_none_or(|only| file.contains(only.as_str()));
    files.retain(|f| chosen(f));
    if files.is_empty() {
        bail!("no job file of that name");
    }
    let clients = std::path::absolute(&args.clients)?;
    if !clients.join("v2/bin/python").exists() {
        bail!("no clients in {0}; make them with: script/clients {0}", clients.display());
    }
    let index = INDEX_VARIABLES.iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let more = index.as_deref().map_or(vec![], |index| vec!["--package-index", index]);
    let moat = Environment::up_with(&environment::binary()?, "jobs", "current", &more)?;
    prepare(&moat, &clients)?;
    // Stand-ins are put beside the files.
    let folder = tempfile::Builder::new().prefix("moat-jobs-").tempdir().context("making a folder for the files")?;
    copy(&corpus, folder.path())?;
    let found = submit(&moat, &clients, folder.path(), &files, Duration::from_secs(args.minutes * 60))?;
    println!("jobs: {}", summary(&found));
    if found.len() != files.len() {
        bail!("{} of {} files were tried", found.len(), files.len());
    }
    if let Some(row) = found.values().find(|row| row.outcome == UNFINISHED) {
        bail!("{} is {}", row.file, row.reason);
    }
    let page = root().join(PAGE);
    let text = std::fs::read_to_string(&page).with_context(|| format!("reading {PAGE}"))?;
    let (head, table) = text.split_once(BEGIN).with_context(|| format!("{PAGE} has no table"))?;
    let (here, mut others): (Table, Table) = read(table).into_iter().partition(|(file, _)| chosen(file));
    if args.write {
        if index.as_deref() == Some("none") {
            bail!("the table is written with a package index");
        }
        others.extend(found);
        return std::fs::write(&page, format!("{head}{BEGIN}{}", rows(&others)))
            .with_context(|| format!("writing {PAGE}"));
    }
    let wrong = differences(&here, &found, index.as_deref() != Some("none"));
    wrong.iter().for_each(|line| println!("WRONG {line}"));
    if wrong.is_empty() { Ok(()) } else { bail!("{} rows of {PAGE} are not as the jobs are", wrong.len()) }
}

fn corpus() -> Result<PathBuf> {
    let shared = std::env::var_os("MOAT_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let folder = shared.join("corpus/sdk");
    folder.canonicalize().map_err(|_| Skip(format!("{} is not there (set MOAT_SHARED)", folder.display())).into())
}

/// Job files below `folder`, by their path in `base`.
fn find(base: &Path, folder: &Path, into: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(base, &path, into)?;
        } else if path.extension().is_some_and(|e| e == "yml" || e == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let name = path.strip_prefix(base).ok().and_then(Path::to_str);
            into.extend(name.filter(|_| is_job(&text)).map(str::to_owned));
        }
    }
    Ok(())
}

/// Whether a file is a job of any kind: it says so by its schema, or is a command with a compute. Components, environments
/// and answers of the REST interface are not.
fn is_job(text: &str) -> bool {
    let has = |key: &str| text.lines().any(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')));
    let schema = |line: &str| line.contains("$schema") && line.to_ascii_lowercase().contains("job.schema.json");
    text.lines().any(schema) || (has("command") && has("compute"))
}

/// Copies what lies in `from` into the folder `to`; also where the originals may not be written to.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            std::fs::create_dir(&target).with_context(|| format!("making {}", target.display()))?;
            copy(&path, &target)?;
        } else {
            std::fs::copy(&path, &target).with_context(|| format!("copying {}", path.display()))?;
        }
    }
    Ok(())
}

/// A group, a network and a workspace, made by the clients. The clusters that the files name are made beside their jobs.
fn prepare(moat: &Environment, clients: &Path) -> Result<()> {
    let script = r#"az() { "$0" "$@" --only-show-errors -o none; }
az login --service-principal -u "$AZURE_CLIENT_ID" -p "$AZURE_CLIENT_SECRET" --tenant "$AZURE_TENANT_ID" &&
az group create -n "$RG" -l westus2 &&
az network vnet create -g "$RG" -n "${SUBNET%/*}" --address-prefixes 10.0.0.0/16 --subnet-name "${SUBNET#*/}" --subnet-prefixes 10.0.0.0/24 &&
"$1" -W ignore "$2" "$RG" "$WS""#;
    let (az, python) = (clients.join("cli/bin/az"), clients.join("v2/bin/python"));
    let maker = root().join("script/demo.d/workspace.py");
    let program: [&OsStr; 6] =
        ["sh".as_ref(), "-c".as_ref(), script.as_ref(), az.as_ref(), python.as_ref(), maker.as_ref()];
    let variables = [("RG", GROUP), ("WS", WORKSPACE), ("SUBNET", SUBNET)];
    let done = moat.exec("internet", &variables, &program).output().context("running moat exec")?;
    if done.status.success() { Ok(()) } else { bail!("making the workspace failed: {}", environment::text(&done)) }
}

/// Lets the submitter run, for `time` and a little more; a submitter that stops early is an error with what it said.
fn submit(moat: &Environment, clients: &Path, folder: &Path, files: &[String], time: Duration) -> Result<Table> {
    let script = root().join("script/jobs.d/submit.py");
    let mut program: Vec<OsString> =
        vec![clients.join("v2/bin/python").into(), "-W".into(), "ignore".into(), script.into()];
    let seconds = time.as_secs().to_string();
    program.extend([GROUP.into(), WORKSPACE.into(), folder.into(), SUBNET.into(), OsString::from(seconds)]);
    program.extend(files.iter().map(OsString::from));
    let program: Vec<&OsStr> = program.iter().map(OsString::as_os_str).collect();
    let mut log = tempfile::tempfile().context("making a file for errors")?;
    let mut child = moat
        .exec("internet", &[("PYTHONDONTWRITEBYTECODE", "1")], &program)
        .stdout(Stdio::piped())
        .stderr(log.try_clone()?)
        .spawn()
        .context("running moat exec")?;
    let output = BufReader::new(child.stdout.take().context("no output")?);
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || output.lines().try_for_each(|line| sender.send(line)));
    let until = Instant::now() + time + GRACE;
    let mut found = Table::new();
    let ended = loop {
        match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let line = line.context("reading the output")?;
                let row: Row = serde_json::from_str(&line).with_context(|| format!("reading a row: {line}"))?;
                println!("{:>28}  {}  {}", row.outcome, row.file, row.reason);
                found.insert(row.file.clone(), row);
            }
            Err(RecvTimeoutError::Disconnected) => break Some(child.wait()?),
            Err(RecvTimeoutError::Timeout) => break None,
        }
    };
    if ended.is_none() {
        // It may have ended by itself in between, which is as good.
        let _ = child.kill();
        child.wait()?;
    } else {
        // An error of it is a receiver that is gone; it is not.
        let _ = reader.join();
    }
    match ended.filter(ExitStatus::success) {
        Some(_) => Ok(found),
        None => {
            let mut text = String::new();
            log.rewind()?;
            log.read_to_string(&mut text)?;
            let how = ended.map_or_else(|| "was stopped: its time was over".to_owned(), |s| format!("ended with {s}"));
            bail!("submit.py {how}, after {} of {} files: {}", found.len(), files.len(), text.trim())
        }
    }
}

/// `78 files: 12 Completed, 6 Failed, ...`.
fn summary(found: &Table) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in found.values() {
        *counts.entry(row.outcome.split(':').next().unwrap_or_default()).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    format!("{} files: {}", found.len(), counts.join(", "))
}

fn rows(table: &Table) -> String {
    let row = |r: &Row| format!("| `{}` | {} | {} | {} |\n", r.file, r.stand_ins, r.outcome, r.reason);
    table.values().map(row).collect()
}

fn read(table: &str) -> Table {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, file, stand_ins, outcome, reason, _] = cells.as_slice() else { return None };
        let [file, stand_ins, outcome, reason] =
            [file.trim_matches('`'), stand_ins, outcome, reason].map(str::to_owned);
        Some((file.clone(), Row { file, stand_ins, outcome, reason }))
    };
    table.lines().filter_map(row).collect()
}

/// Rows that are not as the table says.
fn differences(table: &Table, found: &Table, has_index: bool) -> Vec<String> {
    let as_said = |said: &Row, row: &Row| {
        let missing = !has_index && row.reason.contains(NO_INDEX) && RAN.iter().any(|o| said.outcome.starts_with(o));
        missing || said == row
    };
    let mut wrong = Vec::new();
    for (file, row) in found {
        let is = format!("{file}: {} ({}) {}", row.outcome, row.stand_ins, row.reason);
        match table.get(file) {
            Some(said) if as_said(said, row) => {}
            Some(said) => {
                wrong.push(format!("{is}; the table says {} ({}) {}", said.outcome, said.stand_ins, said.reason))
            }
            None => wrong.push(format!("{is}; not in the table")),
        }
    }
    wrong
        .extend(table.keys().filter(|f| !found.contains_key(*f)).map(|f| format!("{f}: in the table, but not a file")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, &str, &str)]) -> Table {
        let row = |(file, outcome, reason): &(&str, &str, &str)| Row {
            file: (*file).to_owned(),
            stand_ins: "`src`".to_owned(),
            outcome: (*outcome).to_owned(),
            reason: (*reason).to_owned(),
        };
        rows.iter().map(row).map(|row| (row.file.clone(), row)).collect()
    }

    #[test]
    fn the_table_is_read_as_it_is_written() {
        let found = table(&[("a.yml", "Completed", ""), ("b.yml", "refused: SettingNotSupported", "Not built.")]);
        assert!(differences(&read(&rows(&found)), &found, true).is_empty());
        let other = table(&[("a.yml", "refused: CodeNotFound", "")]);
        assert_eq!(differences(&read(&rows(&found)), &other, true).len(), 2);
        assert_eq!(summary(&found), "2 files: 1 Completed, 1 refused");
    }

    #[test]
    fn without_an_index_a_job_may_fail_by_that_and_by_nothing_else() {
        let said = table(&[("a.yml", "Completed", ""), ("b.yml", "refused: X", "")]);
        let failed =
            |file| table(&[(file, "Failed", "It needs `numpy`, but Moat was started without a package index")]);
        let wrong = |found: &Table, has_index| {
            let said =
                said.iter().filter(|(f, _)| found.contains_key(*f)).map(|(f, r)| (f.clone(), r.clone())).collect();
            differences(&said, found, has_index).len()
        };
        assert_eq!(wrong(&failed("a.yml"), false), 0);
        assert_eq!(wrong(&failed("a.yml"), true), 1);
        assert_eq!(wrong(&failed("b.yml"), false), 1);
        assert_eq!(wrong(&table(&[("a.yml", "Failed", "exit code 1")]), false), 1);
    }

    #[test]
    fn jobs_of_every_kind_are_found() {
        for text in [
            "$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json\n",
            "# yaml-language-server: $schema=https://x/latest/commandJob.schema.json\ncommand: ls\n",
            "command: ls\ncompute: azureml:cpu\n",
        ] {
            assert!(is_job(text), "{text}");
        }
        for text in [
            "$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json\ncommand: ls\n",
            "{\n  \"command\": \"ls\",\n  \"compute\": \"x\"\n}",
            "name: e\nimage: ubuntu\n",
        ] {
            assert!(!is_job(text), "{text}");
        }
    }
}
