//! Automation in Rust: what CI, developers and the scripts share. One file a command.

mod shared;
mod tags;
mod tidy;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Automation of the Moat workspace")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check what the compiler does not: who may import whom, tables, file lengths, leftovers.
    Tidy,
    /// Make the embedded service tag data from Azure's public tag files.
    Tags(tags::Args),
}

fn main() -> std::process::ExitCode {
    let done = match Args::parse().command {
        Command::Tidy => tidy::run(),
        Command::Tags(args) => tags::run(&args),
    };
    shared::exit(done)
}
