//! Automation in Rust: what CI, developers and the scripts share. One file a command.

mod shared;
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
}

fn main() -> std::process::ExitCode {
    let done = match Args::parse().command {
        Command::Tidy => tidy::run(),
    };
    shared::exit(done)
}
