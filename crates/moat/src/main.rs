//! The `moat` command: reads its arguments and calls one file of [`cmd`] a command.
//!
//! What is not here: anything about networks, documents or HTTP. This binary wires the rooms together and is where
//! the processes of an environment begin ([`moat_host::world`]).

mod cmd;
mod control;
mod environment;
mod serve;
mod ui;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // What an environment that was killed could not remove itself (SECURITY.md, "What root does").
    moat_host::world::cgroup::sweep();
    match cmd::run(cmd::Cli::parse()) {
        Ok(code) => code,
        Err(failure) => {
            ui::error(&failure);
            ExitCode::FAILURE
        }
    }
}
