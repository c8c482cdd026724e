//! `moat doctor`: tries each thing of the kernel that Moat needs, in a throw-away process, and says what is missing.

use std::process::ExitCode;

use clap::Args;
use moat_host::world::Failure;

use super::Format;

/// Try what this machine can do.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    format: Format,
}

/// See the module.
pub(crate) fn run(_arguments: &Arguments) -> Result<ExitCode, Failure> {
    Err(Failure::bare("not yet"))
}
