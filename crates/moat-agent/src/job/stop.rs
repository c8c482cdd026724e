//! Why a run does not go on, in the words of [`Outcome`].

use std::io;

use super::http::Trouble;
use crate::work::Outcome;

/// The end of a run before its phases are through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stop(pub Outcome);

impl Stop {
    /// With a code of [`Outcome::Failed`].
    pub(crate) fn failed(code: &str, message: impl Into<String>) -> Self {
        Self(Outcome::Failed { code: code.to_owned(), message: message.into() })
    }

    /// The node itself could not do its part.
    pub(crate) fn node(doing: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded {
            let why = format!("The node's disk is full after {doing}. Use a larger VM size or less data.");
            return Self::failed("LimitExceeded", why);
        }
        Self::failed("NodeError", format!("The node failed {doing}: {error}."))
    }

    /// A service did not do its part while `doing` something.
    pub(crate) fn service(doing: &str, trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unreachable(finding) => Self(Outcome::Unreachable(finding)),
            other => Self::failed("ServiceError", format!("The node failed {doing}: {other}.")),
        }
    }
}
