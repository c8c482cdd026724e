//! What the commands share: where the workspace is, how to stop, how to skip visibly.
#![allow(clippy::print_stderr, reason = "a command-line tool talks on stderr")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Exit code of something that could not run here; `script/test` counts it as skipped.
pub(crate) const SKIPPED: u8 = 77;

/// A reason not to run here at all.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);
impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Skip {}

/// Prints an error with its causes and makes the exit code of it.
pub(crate) fn exit(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => match e.downcast_ref::<Skip>() {
            Some(skip) => {
                eprintln!("SKIPPED: {skip}");
                ExitCode::from(SKIPPED)
            }
            None => {
                eprintln!("error: {e:#}");
                ExitCode::FAILURE
            }
        },
    }
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
