//! The ARM template language: expressions, parameters, variables, and the resources of a template
//! in the order of their dependencies.
//!
//! Values are [`Node`]s: they carry where they were written, and may be unknown. Whoever
//! evaluates says, through [`Surroundings`], what only the outside knows: the target group, the
//! documents that `reference` reads. Nothing here creates a resource.

mod budget;
mod evaluate;
mod expression;
mod functions;
mod plan;
mod text_functions;

#[cfg(test)]
mod tests;

use crate::syntax::{Node, Span};

pub use budget::Budget;
pub use evaluate::{Evaluator, Inputs};
pub use plan::{Plan, Planned, plan};

/// Why a template cannot be used, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The text at fault.
    pub span: Span,
    /// A sentence part without a full stop, for a person.
    pub message: String,
}

impl Failure {
    /// A failure at `span`.
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into() }
    }
}

/// What expressions may ask of the world around a template.
pub trait Surroundings {
    /// `subscription()`.
    fn subscription(&self) -> Node;
    /// `resourceGroup()`; `None` outside of a group.
    fn resource_group(&self) -> Option<Node>;
    /// `deployment()`.
    fn deployment(&self) -> Node;
    /// `tenant()`.
    fn tenant(&self) -> Node;
    /// `reference(id[, _, 'Full'])`: the properties of a resource, or all of it. `id` is a full id.
    fn reference(&self, id: &str, full: bool) -> Result<Node, String>;
    /// `utcNow(format)`: the time in ISO 8601 basic form (`20261123T100000Z`).
    fn utc_now(&self) -> String;
    /// `newGuid()`: fresh for each call of one deployment, numbered from 0.
    fn new_guid(&self, number: usize) -> String;
}
