//! Automation in Rust: what CI, developers and the scripts share. One file a command.

mod api;
mod crash;
mod demo;
mod differential;
mod environment;
mod https;
mod jobs;
mod replay;
#[cfg(test)]
mod requirements;
mod scenarios;
mod shared;
mod soak;
mod tags;
mod tidy;
mod world;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Automation of the Moat workspace")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Hold the model against the kernel: random worlds, real packets.
    Differential(differential::Args),
    /// Check what the compiler does not: who may import whom, tables, file lengths, leftovers.
    Tidy,
    /// Kill it at random moments and check that nothing acknowledged is lost.
    Crash(crash::Args),
    /// Run many jobs, cancel some, kill nodes and the server, and check that every job ends in a true state.
    Soak(soak::Args),
    /// Submit job files of others and hold what becomes of them against docs/jobs.md.
    Jobs(jobs::Args),
    /// Run the demo, whole and broken on purpose.
    Demo(demo::Args),
    /// Replay recordings of Azure against a fresh Moat and compare the answers.
    Replay(replay::Args),
    /// Run the shared client scenarios.
    Scenarios(scenarios::Args),
    /// Make the embedded service tag data from Azure's public tag files.
    Tags(tags::Args),
}

fn main() -> std::process::ExitCode {
    let done = match Args::parse().command {
        Command::Tidy => tidy::run(),
        Command::Crash(args) => crash::run(&args),
        Command::Differential(args) => differential::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Jobs(args) => jobs::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Scenarios(args) => scenarios::run(&args),
        Command::Tags(args) => tags::run(&args),
    };
    shared::exit(done)
}
