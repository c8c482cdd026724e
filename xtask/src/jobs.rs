//! `cargo xtask jobs --clients DIR`: job files of others, read by azure-ai-ml, sent to a fresh Moat, and run there.
//!
//! Each runs, or is refused by a reason that stands in `docs/jobs.md`. A row that is not as the table says is an
//! error, in either direction, so that the table never tells old news; `--write` makes it anew.
#![allow(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::environment::{self, Environment};
use crate::shared::{Skip, root};

const GROUP: &str = "mygroup";
const WORKSPACE: &str = "moatjobs";
/// Where the table stands, between [`BEGIN`] and the end of the file.
const PAGE: &str = "docs/jobs.md";
const BEGIN: &str = "| file | outcome | reason |\n|---|---|---|\n";
/// What makes a file one that this command submits: it has one of these.
const SIGNS: [&str; 3] = ["commandjob.schema.json", "pipelinejob.schema.json", "sweepjob.schema.json"];
/// Name of the network, and of its only subnet in it.
const SUBNET: &str = "jobs/default";

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder made by script/clients
    #[arg(long)]
    clients: PathBuf,
    /// Write the table instead of comparing with it
    #[arg(long)]
    write: bool,
    /// How many seconds all jobs together may take
    #[arg(long, default_value_t = 900)]
    limit: u32,
    /// Only files whose path contains this
    #[arg(long)]
    only: Option<String>,
}

/// Outcome and reason.
type Row = (String, String);

/// Submits them in an environment of their own.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = corpus()?;
    let mut files = Vec::new();
    find(&folder, &folder, &mut files)?;
    files.sort();
    files.retain(|f| args.only.as_ref().is_none_or(|only| f.contains(only.as_str())));
    if files.is_empty() {
        bail!("no job file of that name");
    }
    let clients = std::path::absolute(&args.clients)?;
    let python = clients.join("v2/bin/python");
    if !python.exists() {
        bail!("no clients in {0}; make them with: script/clients {0}", clients.display());
    }
    let stage = stage(&folder)?;
    let moat = Environment::up(&environment::binary()?, "jobs", "current")?;
    prepare(&moat, &clients)?;
    let found = submit(&moat, &python, stage.path(), &files, args.limit)?;
    let missing: Vec<&str> = files.iter().filter(|f| !found.contains_key(*f)).map(String::as_str).collect();
    if !missing.is_empty() {
        bail!("nothing was said of {}", missing.join(", "));
    }
    println!("jobs: {} files; {}", found.len(), tally(&found));
    let page = root().join(PAGE);
    let text = std::fs::read_to_string(&page).with_context(|| format!("reading {PAGE}"))?;
    let (head, table) = text.split_once(BEGIN).with_context(|| format!("{PAGE} has no table"))?;
    let mut table = read(table);
    if args.write {
        table.retain(|file, _| args.only.as_ref().is_some_and(|only| !file.contains(only.as_str())));
        table.extend(found);
        return std::fs::write(&page, format!("{head}{BEGIN}{}", rows(&table)))
            .with_context(|| format!("writing {PAGE}"));
    }
    table.retain(|file, _| args.only.as_ref().is_none_or(|only| file.contains(only.as_str())));
    let wrong = differences(&table, &found);
    wrong.iter().for_each(|line| println!("WRONG {line}"));
    if wrong.is_empty() { Ok(()) } else { bail!("{} rows of {PAGE} are not as the jobs are", wrong.len()) }
}

/// How many there are of each outcome.
fn tally(found: &BTreeMap<String, Row>) -> String {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    found.values().for_each(|(outcome, _)| *counts.entry(outcome).or_default() += 1);
    counts.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect::<Vec<_>>().join(", ")
}

/// A copy of the files, where stand-ins for what they name can be put beside them.
fn stage(folder: &Path) -> Result<tempfile::TempDir> {
    let stage = tempfile::Builder::new().prefix("moat-jobs-").tempdir().context("making a folder for the files")?;
    let mut pending = vec![folder.to_owned()];
    while let Some(from) = pending.pop() {
        let to = stage.path().join(from.strip_prefix(folder)?);
        std::fs::create_dir_all(&to).with_context(|| format!("making {}", to.display()))?;
        for entry in std::fs::read_dir(&from).with_context(|| format!("reading {}", from.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if let Some(name) = path.file_name() {
                // The content, not the mode: the originals may be read-only.
                let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                std::fs::write(to.join(name), text).with_context(|| format!("writing {}", to.display()))?;
            }
        }
    }
    Ok(stage)
}

fn corpus() -> Result<PathBuf> {
    let shared = std::env::var_os("MOAT_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let folder = shared.join("corpus/sdk");
    folder.canonicalize().map_err(|_| Skip(format!("{} is not there (set MOAT_SHARED)", folder.display())).into())
}

/// Files below `folder` that say they are jobs, by their path in `base`.
fn find(base: &Path, folder: &Path, into: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(base, &path, into)?;
        } else if path.extension().is_some_and(|e| e == "yml" || e == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap_or_default().to_ascii_lowercase();
            let name = path.strip_prefix(base).ok().and_then(Path::to_str);
            if let Some(name) = name.filter(|_| SIGNS.iter().any(|sign| text.contains(sign))) {
                into.push(name.to_owned());
            }
        }
    }
    Ok(())
}

/// A group, a network and a workspace, made by the clients.
fn prepare(moat: &Environment, clients: &Path) -> Result<()> {
    let script = r#"az() { "$0" "$@" --only-show-errors -o none; }
az login --service-principal -u "$AZURE_CLIENT_ID" -p "$AZURE_CLIENT_SECRET" --tenant "$AZURE_TENANT_ID" &&
az group create -n "$RG" -l westus2 &&
az network vnet create -g "$RG" -n "${SUBNET%/*}" --subnet-name "${SUBNET#*/}" &&
"$1" -W ignore "$2" "$RG" "$WS""#;
    let (az, python) = (clients.join("cli/bin/az"), clients.join("v2/bin/python"));
    let maker = root().join("script/demo.d/workspace.py");
    let program: [&OsStr; 6] =
        ["sh".as_ref(), "-c".as_ref(), script.as_ref(), az.as_ref(), python.as_ref(), maker.as_ref()];
    let done = moat.exec("internet", &[("RG", GROUP), ("WS", WORKSPACE), ("SUBNET", SUBNET)], &program).output()?;
    if done.status.success() { Ok(()) } else { bail!("making the workspace failed: {}", environment::text(&done)) }
}

fn submit(
    moat: &Environment,
    python: &Path,
    folder: &Path,
    files: &[String],
    limit: u32,
) -> Result<BTreeMap<String, Row>> {
    let script = root().join("script/jobs.d/submit.py");
    let mut program: Vec<OsString> = vec![python.into(), "-W".into(), "ignore".into(), script.into()];
    program.extend([GROUP.into(), WORKSPACE.into(), SUBNET.into(), folder.into(), limit.to_string().into()]);
    program.extend(files.iter().map(OsString::from));
    let program: Vec<&OsStr> = program.iter().map(OsString::as_os_str).collect();
    let variables = [("PYTHONDONTWRITEBYTECODE", "1")];
    let mut child =
        moat.exec("internet", &variables, &program).stdout(Stdio::piped()).spawn().context("running moat exec")?;
    let mut found = BTreeMap::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line.context("reading the output")?;
        let parts: Vec<&str> = line.split('\t').collect();
        if let [file, outcome, reason] = parts.as_slice() {
            println!("{outcome:>28}  {file}  {reason}");
            found.insert((*file).to_owned(), ((*outcome).to_owned(), (*reason).to_owned()));
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("submit.py ended with {status}; what it said is above");
    }
    Ok(found)
}

fn rows(found: &BTreeMap<String, Row>) -> String {
    found.iter().map(|(file, (outcome, reason))| format!("| `{file}` | {outcome} | {reason} |\n")).collect()
}

fn read(table: &str) -> BTreeMap<String, Row> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, file, outcome, reason, _] = cells.as_slice() else { return None };
        Some((file.trim_matches('`').to_owned(), ((*outcome).to_owned(), (*reason).to_owned())))
    };
    table.lines().filter_map(row).collect()
}

fn differences(table: &BTreeMap<String, Row>, found: &BTreeMap<String, Row>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, (outcome, reason)) in found {
        match table.get(file) {
            Some((o, r)) if (o, r.as_str()) == (outcome, reason.trim()) => {}
            Some((o, r)) => wrong.push(format!("{file}: {outcome} {reason}; the table says {o} {r}")),
            None => wrong.push(format!("{file}: {outcome} {reason}; not in the table")),
        }
    }
    wrong
        .extend(table.keys().filter(|f| !found.contains_key(*f)).map(|f| format!("{f}: in the table, but not a file")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_as_it_is_written() {
        let found: BTreeMap<String, Row> = [
            ("a.yml".to_owned(), ("accepted".to_owned(), String::new())),
            ("b.yml".to_owned(), ("SettingNotSupported".to_owned(), "Not built.".to_owned())),
        ]
        .into();
        assert!(differences(&read(&rows(&found)), &found).is_empty());
        let mut other = found.clone();
        other.insert("a.yml".to_owned(), ("CodeNotFound".to_owned(), String::new()));
        other.remove("b.yml");
        assert_eq!(differences(&read(&rows(&found)), &other).len(), 2);
    }
}
