//! How the command talks: results on stdout, progress and errors on stderr; readable without colour.

use std::io::Write as _;

use moat_host::world::Failure;

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// A line of a result. A closed pipe is not our business.
pub(crate) fn out(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A value for programs.
pub(crate) fn out_json(value: &serde_json::Value) {
    out(serde_json::to_string_pretty(value).unwrap_or_else(|error| error.to_string()));
}

/// A line about what is going on.
pub(crate) fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// What went wrong and what to do.
pub(crate) fn error(failure: &Failure) {
    note(format_args!("error: {}", failure.what));
    if let Some(help) = &failure.help {
        note(format_args!("help: {help}"));
    }
}

/// An error with its causes, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
