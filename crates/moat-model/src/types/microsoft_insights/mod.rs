//! `Microsoft.Insights`.

pub mod components;
