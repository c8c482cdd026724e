//! `Microsoft.Storage`: accounts, their blob service and its containers. What lies in a container is no document:
//! blobs are kept by `moat-store`, under the container's generation ([`containers::generation`]).

pub mod blob_services;
pub mod containers;
mod sas_actions;
pub mod storage_accounts;

/// Versions that clients were seen to use, newest first.
const API_VERSIONS: &[&str] = &[
    "2025-08-01",
    "2025-01-01",
    "2024-01-01",
    "2023-05-01",
    "2022-09-01",
    "2021-09-01",
    "2021-06-01",
    "2019-06-01",
    "2019-04-01",
];
