//! What the service refuses, as one table over all types.
//!
//! The server runs a type's refusals when a write comes in; static checks run the same functions
//! over a template's resources. A rule lives with its type; this file only lists them.

use crate::resource_type::{Refusal, ResourceType};
use crate::types;

/// Every refusal with the type it belongs to, in table order.
pub fn all() -> impl Iterator<Item = (&'static ResourceType, &'static Refusal)> {
    types::ALL.iter().flat_map(|t| t.refusals.iter().map(move |r| (*t, r)))
}

/// The refusals that implement a catalogue entry such as `AML-PRE-018`.
pub fn of_requirement(entry: &str) -> impl Iterator<Item = (&'static ResourceType, &'static Refusal)> {
    all().filter(move |(_, r)| r.requirements.contains(&entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_kebab_case_and_unique_within_a_type() {
        let mut seen = BTreeSet::new();
        for (t, r) in all() {
            assert!(r.id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{}", r.id);
            assert!(seen.insert((t.name, r.id)), "{} twice in {}", r.id, t.name);
        }
        assert!(!seen.is_empty());
    }

    #[test]
    fn what_the_service_itself_refuses_of_the_catalogue_is_there() {
        for entry in ["AML-PRE-001", "AML-PRE-002", "AML-PRE-007", "AML-PRE-014", "AML-PRE-017", "AML-PRE-018"] {
            assert!(of_requirement(entry).next().is_some(), "{entry} has no refusal");
        }
    }
}
