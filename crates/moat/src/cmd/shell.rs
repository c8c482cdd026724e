//! `moat shell`: the user's shell at a place.

use std::process::ExitCode;

use clap::Args;
use moat_host::world::Failure;

use super::{Which, exec};
use crate::ui;

/// Open a shell at a place of the network.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Where: `internet` or `VNET/SUBNET`.
    #[arg(long, default_value = "internet")]
    at: String,
}

/// See the module.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let environment = arguments.which.environment()?;
    let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into());
    ui::note(format_args!("at {} of environment `{}`; leave with `exit`", arguments.at, environment.name));
    Ok(exec::finish(exec::at(&environment, &arguments.at, &[shell], &[])))
}
