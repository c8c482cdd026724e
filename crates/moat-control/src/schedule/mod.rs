//! Scheduling: pure steps from what is wanted and what was seen to changes of documents.
//! Time is an argument, so an hour costs a test nothing.

pub mod cluster;

#[cfg(test)]
mod cluster_tests;
