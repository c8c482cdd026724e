//! The commands: one file each, and the arguments that `--help` shows.

mod cluster;
mod doctor;
mod down;
mod env;
mod exec;
mod flows;
mod job;
mod prepare;
mod shell;
mod status;
mod trace;
mod up;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use moat_host::world::Failure;

use crate::environment::Environment;
use crate::ui::Output;

/// A local Azure for secured machine-learning environments: real Azure calls, real packets, one machine.
#[derive(Debug, Parser)]
#[command(name = "moat", version, disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start an environment.
    Up(up::Arguments),
    /// End an environment; its state stays.
    Down(down::Arguments),
    /// Run a program at a place of the network, with the environment's names, certificates and credentials.
    Exec(exec::Arguments),
    /// Open a shell at a place of the network.
    Shell(shell::Arguments),
    /// Show a running environment.
    Status(status::Arguments),
    /// Try what this machine can do, and say what is missing.
    Doctor(doctor::Arguments),
    /// Say what would happen to a packet, hop by hop, and which rule decides.
    Trace(trace::Arguments),
    /// Show what the firewalls accepted and dropped, with the rule's name.
    Flows(flows::Arguments),
    /// Look at and scale compute clusters.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Look at jobs, read their logs, end them.
    #[command(subcommand)]
    Job(job::Command),
    /// Build the environment of a conda file before a job needs it.
    Prepare(prepare::Arguments),
    /// Look at environments.
    #[command(subcommand)]
    Env(env::Command),
}

/// Which environment.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// Name of the environment.
    #[arg(short = 'e', long = "env", value_name = "NAME", default_value = "default", env = "MOAT_ENV")]
    name: String,
}

impl Which {
    fn environment(&self) -> Result<Environment, Failure> {
        Environment::named(&self.name)
    }
}

/// How to print.
#[derive(Debug, Clone, Args)]
pub(crate) struct Format {
    /// Output format.
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    output: Output,
}

impl Format {
    fn is_json(&self) -> bool {
        self.output == Output::Json
    }
}

/// Runs one command.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Up(arguments) => up::run(arguments),
        Command::Down(arguments) => down::run(&arguments),
        Command::Exec(arguments) => exec::run(&arguments),
        Command::Shell(arguments) => shell::run(arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Flows(arguments) => flows::run(&arguments),
        Command::Cluster(command) => cluster::run(&command),
        Command::Job(command) => job::run(&command),
        Command::Prepare(arguments) => prepare::run(&arguments),
        Command::Env(command) => env::run(&command),
    }
}

/// A child's exit code as ours.
fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
