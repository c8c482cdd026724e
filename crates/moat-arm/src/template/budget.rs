//! How much one deployment may make: a short template can describe a value of any size (a variable that doubles
//! another, forty times), and the writer evaluates templates one after the other.
//!
//! Work is counted in bytes made or compared. What a function is about to make is counted before it is made.

use std::cell::Cell;

use super::Failure;
use crate::syntax::{Kind, Node, Span};

/// Most that one value may weigh. Azure limits an expanded template to 4 MB.
const VALUE_MAX: usize = 4 << 20;
/// Most work of one deployment, all its templates together.
const WORK_MAX: usize = 64 << 20;

/// What is left to one deployment.
#[derive(Debug)]
pub struct Budget {
    left: Cell<usize>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: Cell::new(WORK_MAX) }
    }
}

impl Budget {
    /// Work of `amount` is about to be done.
    pub(super) fn spend(&self, amount: usize, span: Span) -> Result<(), Failure> {
        let Some(left) = self.left.get().checked_sub(amount) else {
            self.left.set(0);
            return Err(Failure::new(span, "evaluating the template takes more than a deployment may make"));
        };
        self.left.set(left);
        Ok(())
    }

    /// A value of `weight` is about to be made, or was.
    pub(super) fn value(&self, weight: usize, span: Span) -> Result<(), Failure> {
        if weight > VALUE_MAX {
            return Err(Failure::new(span, format!("a value of the template is larger than {VALUE_MAX} bytes")));
        }
        self.spend(weight, span)
    }

    /// `times` pairs of elements are about to be compared.
    pub(super) fn comparisons(&self, times: usize, span: Span) -> Result<(), Failure> {
        self.spend(times.saturating_mul(size_of::<Node>()), span)
    }
}

/// Bytes a node takes, about.
pub(super) fn weight(node: &Node) -> usize {
    let inner = match &node.kind {
        Kind::String(text) | Kind::Unknown(text) => text.len(),
        Kind::Array(elements) => elements.iter().map(weight).sum(),
        Kind::Object(members) => members.iter().map(|m| m.name.len() + weight(&m.value)).sum(),
        Kind::Null | Kind::Bool(_) | Kind::Number(_) => 0,
    };
    size_of::<Node>() + inner
}
