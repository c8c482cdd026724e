//! `cargo xtask scenarios --clients DIR`: the shared client scenarios, inside `moat exec`.
//!
//! The scripts drive unmodified Azure clients and print a PASS or FAIL line for each step. What is
//! known not to work yet stands in [`EXPECTED_FAILURES`] by the step's name; a step there that
//! passes is an error too, so that the table never tells old news.
#![allow(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::environment::{self, Environment};
use crate::shared::{Skip, root};

/// Names that the document's own code uses.
const NAMES: [(&str, &str); 3] = [("RG", "mygroup"), ("WS", "moatws"), ("LOCATION", "westus2")];
/// The editions, each with an environment of its own (DECISIONS 1).
const EDITIONS: [&str; 2] = [SEED, CURRENT];
const SEED: &str = "2021-09";
const CURRENT: &str = "current";

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder made by script/clients
    #[arg(long)]
    clients: PathBuf,
    /// Only scenarios whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// Which of the client environments runs a scenario.
#[derive(Debug, Clone, Copy)]
enum Client {
    Cli,
    V1,
    V2,
}

#[derive(Debug)]
struct Scenario {
    file: &'static str,
    edition: &'static str,
    client: Client,
    /// What must exist before.
    needs: Needs,
    /// `internet` or `VNET/SUBNET`.
    at: &'static str,
    variables: &'static [(&'static str, &'static str)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Needs {
    Nothing,
    Network,
    Workspace,
    /// A subnet with a NAT gateway: nodes without public IP have no way out of their own.
    NatNetwork,
}

const INTERNET: &str = "internet";

const fn scenario(file: &'static str, edition: &'static str, client: Client, needs: Needs) -> Scenario {
    Scenario { file, edition, client, needs, at: INTERNET, variables: &[] }
}

/// In order: later ones use what earlier ones of the same edition made.
const SCENARIOS: &[Scenario] = &[
    scenario("10_auth.py", SEED, Client::V2, Needs::Nothing),
    scenario("20_az_account_group.sh", SEED, Client::Cli, Needs::Nothing),
    scenario("21_az_network.sh", SEED, Client::Cli, Needs::Nothing),
    Scenario {
        at: "mynetwork/default",
        variables: &[("MOAT_IMDS", "1")],
        ..scenario("10_auth.py", SEED, Client::V2, Needs::Network)
    },
    scenario("30_v1_seed_amlcompute.py", SEED, Client::V1, Needs::Workspace),
    scenario("32_v1_script_run.py", SEED, Client::V1, Needs::Workspace),
    scenario("40_v2_workspace.py", CURRENT, Client::V2, Needs::NatNetwork),
    scenario("41_v2_compute.py", CURRENT, Client::V2, Needs::NatNetwork),
    scenario("42_v2_job.py", CURRENT, Client::V2, Needs::NatNetwork),
    scenario("51_blob.py", CURRENT, Client::V2, Needs::NatNetwork),
];

/// Compute instances come with part 5; deleting one that is not there ends well.
const INSTANCE: &str = "41_v2_compute.py";

/// Steps that are known to fail: scenario, place, step.
const EXPECTED_FAILURES: &[(&str, &str, &str)] = &[
    // Only compute nodes have an identity; a program at a subnet is nobody's node (DECISIONS 10).
    ("10_auth.py", "mynetwork/default", "managed identity via 169.254.169.254"),
    (INSTANCE, INTERNET, "ComputeInstance in a subnet without public IP"),
    (INSTANCE, INTERNET, "list"),
    (INSTANCE, INTERNET, "stop / start / restart"),
];

#[derive(Debug, Default)]
struct Tally {
    passed: u32,
    expected: u32,
    wrong: Vec<String>,
}

/// Runs them in an environment of their own.
pub(crate) fn run(args: &Args) -> Result<()> {
    let scripts = scripts()?;
    let clients = std::path::absolute(&args.clients)?;
    if !clients.join("cli/bin/az").exists() {
        bail!("no clients in {0}; make them with: script/clients {0}", clients.display());
    }
    let chosen: Vec<&Scenario> =
        SCENARIOS.iter().filter(|s| args.only.as_ref().is_none_or(|only| s.file.contains(only.as_str()))).collect();
    if chosen.is_empty() {
        bail!("no scenario of that name");
    }
    let mut tally = Tally::default();
    let moat = environment::binary()?;
    for edition in EDITIONS {
        let mut here = chosen.iter().filter(|s| s.edition == edition).peekable();
        if here.peek().is_none() {
            continue;
        }
        let environment = Environment::up(&moat, "scenarios", edition)?;
        for scenario in here {
            prepare(&environment, &clients, scenario.needs)?;
            println!("== {} at {} (edition {edition})", scenario.file, scenario.at);
            let lines = play(&environment, &scripts, &clients, scenario)?;
            judge(scenario, &lines, &mut tally);
        }
    }
    for wrong in &tally.wrong {
        println!("WRONG {wrong}");
    }
    println!("scenarios: {} passed, {} failed, {} failed as expected", tally.passed, tally.wrong.len(), tally.expected);
    if !tally.wrong.is_empty() {
        bail!("{} steps did not do what they should", tally.wrong.len());
    }
    Ok(())
}

fn scripts() -> Result<PathBuf> {
    let shared = std::env::var_os("MOAT_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let scripts = shared.join("scenarios");
    match scripts.canonicalize() {
        Ok(path) => Ok(path),
        Err(_) => Err(Skip(format!("{} is not there (set MOAT_SHARED)", scripts.display())).into()),
    }
}

/// What a scenario takes for granted, made by the clients where it is missing.
fn prepare(environment: &Environment, clients: &Path, needs: Needs) -> Result<()> {
    const NETWORK: &str = r#"az() { "$0" "$@" --only-show-errors -o none; }
az login --service-principal -u "$AZURE_CLIENT_ID" -p "$AZURE_CLIENT_SECRET" --tenant "$AZURE_TENANT_ID" &&
az group create -n "$RG" -l "$LOCATION" &&
{ az network vnet show -g "$RG" -n mynetwork 2>/dev/null ||
  az network vnet create -g "$RG" -n mynetwork --address-prefixes 10.0.0.0/16 --subnet-name default --subnet-prefixes 10.0.0.0/24; }"#;
    const NAT: &str = r#" &&
{ az network nat gateway show -g "$RG" -n nat 2>/dev/null || {
    az network public-ip create -g "$RG" -n natip --sku Standard &&
    az network nat gateway create -g "$RG" -n nat --public-ip-addresses natip &&
    az network vnet subnet update -g "$RG" --vnet-name mynetwork -n default --nat-gateway nat; }; }"#;
    const WORKSPACE: &str = r#" &&
{ az resource show -g "$RG" -n "$WS" --resource-type Microsoft.MachineLearningServices/workspaces 2>/dev/null ||
  "$1" -W ignore "$2" "$RG" "$WS"; }"#;
    let script = match needs {
        Needs::Nothing => return Ok(()),
        Needs::Network => NETWORK.to_owned(),
        Needs::NatNetwork => format!("{NETWORK}{NAT}"),
        Needs::Workspace => format!("{NETWORK}{WORKSPACE}"),
    };
    let (az, python) = (clients.join("cli/bin/az"), clients.join("v2/bin/python"));
    let maker = root().join("script/demo.d/workspace.py");
    let program: [&OsStr; 6] =
        ["sh".as_ref(), "-c".as_ref(), script.as_ref(), az.as_ref(), python.as_ref(), maker.as_ref()];
    let done = environment.exec(INTERNET, &NAMES, &program).output().context("running moat exec")?;
    if !done.status.success() {
        bail!("preparing {needs:?} failed: {}", environment::text(&done));
    }
    Ok(())
}

/// Runs one script and returns its lines, which are printed as they come.
fn play(environment: &Environment, scripts: &Path, clients: &Path, scenario: &Scenario) -> Result<Vec<String>> {
    let bin = |name: &str| clients.join(name).join("bin");
    let file = scripts.join(scenario.file);
    let (folder, program): (PathBuf, Vec<OsString>) = match scenario.client {
        Client::Cli => (bin("cli"), vec!["bash".into(), file.into()]),
        Client::V1 => (bin("v1"), vec![bin("v1").join("python").into(), "-W".into(), "ignore".into(), file.into()]),
        Client::V2 => (bin("v2"), vec![bin("v2").join("python").into(), "-W".into(), "ignore".into(), file.into()]),
    };
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    // The scenarios lie in a folder that may be read-only.
    let mut variables = vec![("PATH", path.as_str()), ("PYTHONDONTWRITEBYTECODE", "1")];
    variables.extend(NAMES);
    variables.extend(scenario.variables);
    let program: Vec<&OsStr> = program.iter().map(OsString::as_os_str).collect();
    let log = tempfile::tempfile().context("making a file for errors")?;
    let mut child = environment
        .exec(scenario.at, &variables, &program)
        .current_dir(scripts)
        .stdout(Stdio::piped())
        .stderr(log.try_clone()?)
        .spawn()
        .context("running moat exec")?;
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line.context("reading the output")?;
        println!("{line}");
        lines.push(line);
    }
    child.wait()?;
    if !lines.iter().any(|line| is_summary(line)) {
        println!("{}", tail(log)?);
    }
    Ok(lines)
}

fn tail(mut log: std::fs::File) -> Result<String> {
    use std::io::{Read as _, Seek as _};
    let mut text = String::new();
    log.rewind()?;
    log.read_to_string(&mut text)?;
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(30)..].join("\n"))
}

fn is_summary(line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    matches!(words.as_slice(), [p, "passed,", f, "failed"] if p.parse::<u32>().is_ok() && f.parse::<u32>().is_ok())
}

/// Counts the steps of one run and notes what is not as it should be.
fn judge(scenario: &Scenario, lines: &[String], tally: &mut Tally) {
    let expected =
        |step: &str| EXPECTED_FAILURES.iter().any(|(f, at, s)| (*f, *at) == (scenario.file, scenario.at) && *s == step);
    let at = format!("{} at {}", scenario.file, scenario.at);
    let mut steps = 0;
    for line in lines {
        if let Some(step) = line.strip_prefix("PASS ") {
            steps += 1;
            match expected(step) {
                false => tally.passed += 1,
                true => {
                    tally.wrong.push(format!("{at}: `{step}` passed, but stands in the table of expected failures"))
                }
            }
        } else if let Some(rest) = line.strip_prefix("FAIL ") {
            steps += 1;
            match expected(rest.split(" - ").next().unwrap_or(rest)) {
                true => tally.expected += 1,
                false => tally.wrong.push(format!("{at}: {rest}")),
            }
        }
    }
    if steps == 0 || !lines.iter().any(|line| is_summary(line)) {
        tally.wrong.push(format!("{at}: it stopped before its end"));
    }
    for (file, place, step) in EXPECTED_FAILURES {
        let seen = || lines.iter().any(|l| l.starts_with(&format!("FAIL {step} - ")) || *l == format!("PASS {step}"));
        if (*file, *place) == (scenario.file, scenario.at) && !seen() {
            tally.wrong.push(format!("{at}: there is no step `{step}`, but the table of expected failures names it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(place: usize, lines: &[&str]) -> (u32, u32, Vec<String>) {
        let mut tally = Tally::default();
        let lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        judge(&SCENARIOS[place], &lines, &mut tally);
        (tally.passed, tally.expected, tally.wrong)
    }

    #[test]
    fn a_script_that_stops_half_way_is_wrong() {
        assert_eq!(judged(0, &["PASS a", "1 passed, 0 failed"]), (1, 0, vec![]));
        assert_eq!(judged(0, &["PASS a"]).2, ["10_auth.py at internet: it stopped before its end"]);
        assert_eq!(judged(0, &["PASS a", "FAIL b - no", "1 passed, 1 failed"]).2, ["10_auth.py at internet: b - no"]);
    }

    #[test]
    fn an_expected_failure_that_passes_is_wrong() {
        let (place, step) = (3, EXPECTED_FAILURES[0].2);
        assert_eq!(judged(place, &[&format!("FAIL {step} - no"), "0 passed, 1 failed"]), (0, 1, vec![]));
        assert_eq!(judged(place, &[&format!("PASS {step}"), "1 passed, 0 failed"]).2.len(), 1);
        assert_eq!(judged(place, &["PASS other", "1 passed, 0 failed"]).2.len(), 1);
    }
}
