//! `moat prepare`: builds the environment of a conda file now, so that no job has to wait for it; and tells why one
//! cannot be built without submitting a job.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use moat_host::world::Failure;
use serde_json::json;

use super::{Format, Which};
use crate::control::Control;
use crate::ui;

/// Longest conda file; the server's own limit is lower.
const FILE_BYTES_MAX: u64 = 512 << 10;

/// Build the environment of a conda file.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    format: Format,
    /// The conda file, as `Environment(conda_file=...)` of azure-ai-ml takes it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// See the module.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let unreadable = |why: String| Failure::bare(format!("reading `{}`: {why}", arguments.file.display()));
    let length = std::fs::metadata(&arguments.file).map_err(|error| unreadable(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(unreadable(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(&arguments.file).map_err(|error| unreadable(error.to_string()))?;
    let answer = Control::connect(&arguments.which.environment()?)?.call("prepare", &json!({ "condaFile": text }));
    let answer = answer.map_err(|failure| Failure {
        help: failure
            .help
            .or_else(|| Some("`moat status` shows which interpreters and package index there are".into())),
        ..failure
    })?;
    if arguments.format.is_json() {
        ui::out_json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    let python = super::status::plain(&answer["python"]);
    match answer["hash"].as_str() {
        Some(hash) => ui::out(format_args!("ready: {hash} ({python})")),
        None => ui::out(format_args!("nothing to install: {python} is enough")),
    }
    Ok(ExitCode::SUCCESS)
}
