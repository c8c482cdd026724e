//! `Microsoft.Network`: what it refuses and what it fills in. What a packet meets is decided in
//! `moat-net`; this folder only keeps documents that make sense there.

pub mod application_security_groups;
mod communities;
mod effective;
pub mod flow_logs;
pub mod load_balancers;
pub mod nat_gateways;
pub mod network_interfaces;
pub mod network_security_groups;
pub mod network_watchers;
pub mod peerings;
mod prefix;
pub mod private_dns_zones;
pub mod private_endpoints;
pub mod public_ip_addresses;
pub mod public_ip_prefixes;
pub mod route_tables;
pub mod security_rules;
pub mod subnets;
pub mod tags;
pub mod virtual_networks;

pub use tags::service_tags;

/// Versions that clients were seen to use, newest first.
const API_VERSIONS: &[&str] = &[
    "2026-03-01",
    "2026-01-01",
    "2025-09-01",
    "2025-07-01",
    "2024-07-01",
    "2023-11-01",
    "2022-01-01",
    "2021-05-01",
    "2021-02-01",
    "2020-11-01",
    "2015-06-15",
];
