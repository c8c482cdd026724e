//! `bench`: runs one measurement and prints its table; `bench/run` runs all.
//!
//! A process each: some measurements enter namespaces for good, and memory of one should not burden the next.

mod dataplane;
mod environment;
mod http;
mod jobs;
mod nodes;
mod pure;
mod rules;
mod start;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use moat_bench::report::{self, Row};

/// What Moat costs on this machine, each figure beside a baseline of the same run.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    command: What,
    /// Print rows as JSON lines.
    #[arg(long, global = true)]
    json: bool,
    /// Fewer rounds: for a look, not for a report.
    #[arg(long, global = true)]
    quick: bool,
    #[command(flatten)]
    moat: Moat,
}

/// Which program is measured.
#[derive(Debug, Clone, Args)]
struct Moat {
    /// The `moat` binary; by default the one beside this program.
    #[arg(long = "moat", global = true, env = "MOAT_BIN", value_name = "FILE")]
    binary: Option<PathBuf>,
}

impl Moat {
    fn binary(&self) -> Result<PathBuf> {
        let path = match &self.binary {
            Some(path) => path.clone(),
            None => std::env::current_exe().context("finding this program")?.with_file_name("moat"),
        };
        anyhow::ensure!(path.is_file(), "there is no `{}`; build it, or name it with --moat", path.display());
        Ok(path)
    }
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// Start to the first 200; memory at rest.
    Start,
    /// GET and durable PUT over TLS with tokens.
    Http,
    /// Attaching nodes to the network.
    Nodes,
    /// Replacing a security group of 1,000 rules.
    Rules,
    /// Packets through the router and its rules.
    Dataplane,
    /// Jobs: to the first line of the log, many short ones, a long log, large files.
    Jobs,
    /// What `cargo bench` measured of the pure crates.
    Pure {
        /// Criterion's folder.
        #[arg(default_value = "target/criterion")]
        criterion: PathBuf,
    },
    /// The table of rows that were printed with --json.
    Table {
        /// Rows, one a line.
        rows: PathBuf,
    },
    /// The server without a network below it (for `http`).
    #[command(hide = true)]
    Serve { directory: PathBuf },
    /// A server that answers the same bytes to everything (for `http`).
    #[command(hide = true)]
    Constant { bytes: usize },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let quick = cli.quick;
    let rows = match &cli.command {
        What::Start => start::run(&cli.moat.binary()?, quick)?,
        What::Http => http::run(&cli.moat.binary()?, quick)?,
        What::Nodes => nodes::run(quick)?,
        What::Rules => rules::run(quick)?,
        What::Dataplane => dataplane::run(quick)?,
        What::Jobs => jobs::run(&cli.moat.binary()?, quick)?,
        What::Pure { criterion } => pure::run(criterion)?,
        What::Table { rows } => read(rows)?,
        What::Serve { directory } => return http::servers::without_network(directory),
        What::Constant { bytes } => return http::servers::constant(*bytes),
    };
    print(&rows, cli.json)
}

#[allow(clippy::print_stdout, reason = "a command line tool")]
fn print(rows: &[Row], json: bool) -> Result<()> {
    if json {
        for row in rows {
            println!("{}", serde_json::to_string(row)?);
        }
    } else {
        print!("{}", report::table(rows));
    }
    Ok(())
}

/// Says what goes on.
#[allow(clippy::print_stderr, reason = "a command line tool")]
fn note(what: std::fmt::Arguments<'_>) {
    eprintln!("bench: {what}");
}

fn read(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading `{}`", path.display()))?;
    text.lines().map(|line| serde_json::from_str(line).context("reading a row")).collect()
}
