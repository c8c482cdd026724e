//! `Microsoft.OperationalInsights`.

pub mod workspaces;
