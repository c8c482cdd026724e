//! `Microsoft.MachineLearningServices`: workspaces, their compute clusters and what the service makes for those;
//! datastores, assets and jobs.

pub mod assets;
pub mod auto_network;
pub mod compute_rules;
pub mod computes;
pub mod datastores;
pub mod experiments;
pub mod jobs;
pub mod locations;
mod missing;
pub mod nodes;
mod pending_uploads;
pub mod runs;
pub mod script_runs;
pub mod snapshots;
pub mod vm_sizes;
pub mod workspaces;

/// Versions that clients were seen to use, newest first.
const API_VERSIONS: &[&str] = &[
    "2025-01-01-preview",
    "2024-10-01",
    "2024-10-01-preview",
    "2024-01-01-preview",
    "2023-08-01-preview",
    "2023-04-01",
    "2022-05-01",
    "2020-08-01",
    "2020-02-02",
];
