//! Measures what Moat costs. Every figure is a median with its spread, beside a baseline measured
//! in the same run, because the same machine is not the same machine an hour later.
//!
//! Not here: assertions. A timed test fails for the neighbours' sake; a benchmark only reports.

pub mod documents;
pub mod report;
pub mod sandbox;
pub mod text;
