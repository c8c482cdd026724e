//! What an environment of a job asks for, and what this machine makes of it. Pure.
//!
//! An environment is an image (an identity, see [`image`]) and a conda file (see [`conda`]), or the name of a curated
//! one (see [`curated`]). [`resolve()`] turns the reference in a job into an interpreter of this machine and a list of
//! requirements for its package index, named by a hash of both; what cannot be had that way is refused by name.
//! Not here: building it (`moat-server::reconcile::environments`), and asking the registry (the agent).

pub mod conda;
pub mod curated;
pub mod image;
mod known;
pub mod python;
pub mod requirement;
mod resolve;
mod yaml;

use moat_arm::ApiError;

pub use image::{IDENTITY_WARNING, ImageReference};
pub use python::Interpreter;
pub use resolve::{
    BUILDER_VERSION, Build, ENVIRONMENT_VERSION, Offer, Resolved, of_job, of_properties, resolve, resolve_definition,
};

/// Why an environment cannot be had here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A job without one.
    #[error("The job names no environment")]
    Missing,
    /// No document, and no curated one.
    #[error("There is no environment of that name and version in the workspace, and no curated one")]
    Unknown,
    /// Not one of the forms of a reference.
    #[error(
        "This is no reference to an environment; known are `azureml:NAME:VERSION`, `azureml:NAME@latest`, an ARM id, and \
         `azureml://registries/azureml/environments/NAME/versions/VERSION`"
    )]
    Reference,
    /// A registry of somebody's own.
    #[error("The registry `{name}` is not served here; only the curated environments of `azureml` are")]
    Registry {
        /// As written.
        name: String,
    },
    /// A curated environment that has no list of packages.
    #[error("This curated environment is not available: {why}")]
    Curated {
        /// From the table.
        why: &'static str,
    },
    /// A Dockerfile.
    #[error(
        "It is built from a Dockerfile, which needs a container engine; nodes here have none. Name an image, and list the \
         packages in a conda file"
    )]
    BuildContext,
    /// Windows.
    #[error("Its `osType` is Windows; nodes here run Linux")]
    Windows,
    /// No YAML, or beyond the bounds.
    #[error("Its conda file cannot be read: {why}")]
    Syntax {
        /// What and where.
        why: String,
    },
    /// YAML of another form.
    #[error("Its conda file cannot be read: {what} is not {wanted}")]
    Shape {
        /// Which member.
        what: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// Another installer than pip.
    #[error("Its conda file has dependencies for `{name}`; only conda's own and `pip` are known")]
    Installer {
        /// As written.
        name: String,
    },
    /// A conda package.
    #[error("The conda package `{entry}` cannot be installed: {why}")]
    CondaPackage {
        /// As written.
        entry: String,
        /// From the table.
        why: &'static str,
    },
    /// A line below `pip:`.
    #[error("The requirement `{line}` is refused: {why}")]
    Requirement {
        /// As written.
        line: String,
        /// What it is.
        why: &'static str,
    },
    /// More than anybody needs.
    #[error("It has more than {limit} requirements")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The version of the interpreter.
    #[error("`{text}` is no version of Python; known are forms such as `python=3.11` and `python>=3.9,<3.12`")]
    PythonVersion {
        /// As written.
        text: String,
    },
    /// An interpreter that is not there.
    #[error(
        "This machine has no interpreter for `{asked}`. It has {present}; ask for one of these, or install that interpreter \
         in /usr/bin or /usr/local/bin"
    )]
    NoInterpreter {
        /// As written.
        asked: String,
        /// What there is.
        present: String,
    },
    /// Packages without an index.
    #[error(
        "It needs `{first}`, but this environment of Moat was started without a package index (`moat up --package-index none`)"
    )]
    NoIndex {
        /// A requirement.
        first: String,
    },
    /// An image reference.
    #[error("`{text}` is no image reference: {why}")]
    Image {
        /// As written.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Refusal {
    /// The answer to a client that named the environment `name`.
    fn of(&self, name: &str) -> ApiError {
        let code = if *self == Self::Unknown { "EnvironmentNotFound" } else { "EnvironmentNotSupported" };
        // AZURE: wording not observed; there the image build of the job fails.
        ApiError::bad_request(code, format!("Environment '{}': {self}", clip(name)))
    }
}

/// Longest piece of a client's text in a message.
const SHOWN_CHARS_MAX: usize = 120;

/// A client's text for a message.
fn clip(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// `a, b`; `none` for nothing.
fn list(items: impl Iterator<Item = String>) -> String {
    let joined = items.collect::<Vec<_>>().join(", ");
    if joined.is_empty() { "none".to_owned() } else { joined }
}
