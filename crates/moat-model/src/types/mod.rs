//! The table of resource types: everything generic reads it, and a type is added by one file and
//! one line here.

pub mod microsoft_containerregistry;
pub mod microsoft_insights;
pub mod microsoft_keyvault;
pub mod microsoft_machinelearningservices;
pub mod microsoft_network;
pub mod microsoft_operationalinsights;
pub mod microsoft_resources;
pub mod microsoft_storage;
mod shape;

#[cfg(test)]
pub(crate) mod testing;

use crate::resource_type::{ResourceType, Scope};

/// Every type, parents before their children.
pub static ALL: &[&ResourceType] = &[
    &microsoft_network::virtual_networks::TYPE,
    &microsoft_network::subnets::TYPE,
    &microsoft_network::peerings::TYPE,
    &microsoft_network::network_security_groups::TYPE,
    &microsoft_network::security_rules::TYPE,
    &microsoft_network::application_security_groups::TYPE,
    &microsoft_network::route_tables::TYPE,
    &microsoft_network::route_tables::ROUTES,
    &microsoft_network::public_ip_prefixes::TYPE,
    &microsoft_network::public_ip_addresses::TYPE,
    &microsoft_network::nat_gateways::TYPE,
    &microsoft_network::load_balancers::TYPE,
    &microsoft_network::load_balancers::BACKEND_POOLS,
    &microsoft_network::load_balancers::INBOUND_NAT_RULES,
    &microsoft_network::network_interfaces::TYPE,
    &microsoft_network::network_watchers::TYPE,
    &microsoft_network::flow_logs::TYPE,
    &microsoft_network::private_endpoints::TYPE,
    &microsoft_network::private_endpoints::ZONE_GROUPS,
    &microsoft_network::private_dns_zones::TYPE,
    &microsoft_network::private_dns_zones::LINKS,
    &microsoft_network::private_dns_zones::A,
    &microsoft_network::private_dns_zones::AAAA,
    &microsoft_network::private_dns_zones::CNAME,
    &microsoft_network::private_dns_zones::TXT,
    &microsoft_network::tags::LOCATIONS,
    &microsoft_machinelearningservices::workspaces::TYPE,
    &microsoft_machinelearningservices::computes::TYPE,
    &microsoft_machinelearningservices::nodes::TYPE,
    &microsoft_machinelearningservices::experiments::TYPE,
    &microsoft_machinelearningservices::snapshots::TYPE,
    &microsoft_machinelearningservices::datastores::TYPE,
    &microsoft_machinelearningservices::assets::CODES,
    &microsoft_machinelearningservices::assets::CODE_VERSIONS,
    &microsoft_machinelearningservices::assets::COMPONENTS,
    &microsoft_machinelearningservices::assets::COMPONENT_VERSIONS,
    &microsoft_machinelearningservices::assets::DATA,
    &microsoft_machinelearningservices::assets::DATA_VERSIONS,
    &microsoft_machinelearningservices::assets::ENVIRONMENTS,
    &microsoft_machinelearningservices::assets::ENVIRONMENT_VERSIONS,
    &microsoft_machinelearningservices::assets::MODELS,
    &microsoft_machinelearningservices::assets::MODEL_VERSIONS,
    &microsoft_machinelearningservices::jobs::TYPE,
    &microsoft_machinelearningservices::locations::TYPE,
    &microsoft_storage::storage_accounts::TYPE,
    &microsoft_storage::blob_services::TYPE,
    &microsoft_storage::containers::TYPE,
    &microsoft_keyvault::vaults::TYPE,
    &microsoft_insights::components::TYPE,
    &microsoft_operationalinsights::workspaces::TYPE,
    &microsoft_containerregistry::registries::TYPE,
    &microsoft_resources::template_specs::TYPE,
    &microsoft_resources::template_specs::VERSIONS,
];

/// The entry of a type, by its full name without regard to case.
pub fn find(name: &str) -> Option<&'static ResourceType> {
    ALL.iter().find(|t| t.name.eq_ignore_ascii_case(name)).copied()
}

/// The types whose documents are embedded in documents of `parent`, with their arrays.
pub fn embedded_in(parent: &str) -> impl Iterator<Item = (&'static ResourceType, &'static str)> {
    ALL.iter().filter_map(move |t| match t.scope {
        Scope::Embedded(array) if t.name.rsplit_once('/').is_some_and(|(p, _)| p.eq_ignore_ascii_case(parent)) => {
            Some((*t, array))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_parents_come_first() {
        let mut seen = BTreeSet::new();
        for t in ALL {
            assert!(seen.insert(t.name.to_lowercase()), "{} twice", t.name);
            if matches!(t.scope, Scope::Embedded(_)) {
                let parent = t.name.rsplit_once('/').map(|(p, _)| p.to_lowercase()).unwrap_or_default();
                assert!(seen.contains(&parent), "{} before its parent", t.name);
            }
            assert!(!t.api_versions.is_empty(), "{} lists no api version", t.name);
        }
    }
}
