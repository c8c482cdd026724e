//! BGP communities by which a VNet's routes are marked towards ExpressRoute.
//!
//! The client chooses the VNet's own (`virtualNetworkCommunity`); Azure adds the one of the region. Nothing here speaks
//! BGP: the number is shown, as Azure shows it.

/// Regions and the last two digits of their community. Microsoft publishes them as `12076:510nn` for its own services
/// (ExpressRoute routing requirements, "Support for BGP communities").
// AZURE: private peering has `12076:500nn` for the same region in every example; not observed for each of them.
const REGIONS: [(&str, u8); 30] = [
    ("westeurope", 2),
    ("northeurope", 3),
    ("eastus", 4),
    ("eastus2", 5),
    ("westus", 6),
    ("northcentralus", 7),
    ("southcentralus", 8),
    ("centralus", 9),
    ("eastasia", 10),
    ("southeastasia", 11),
    ("japaneast", 12),
    ("japanwest", 13),
    ("brazilsouth", 14),
    ("australiaeast", 15),
    ("australiasoutheast", 16),
    ("canadacentral", 20),
    ("canadaeast", 21),
    ("uksouth", 24),
    ("ukwest", 25),
    ("westus2", 26),
    ("westcentralus", 27),
    ("koreasouth", 28),
    ("koreacentral", 29),
    ("francecentral", 30),
    ("francesouth", 31),
    ("southafricanorth", 34),
    ("uaenorth", 36),
    ("switzerlandnorth", 38),
    ("germanywestcentral", 41),
    ("norwayeast", 42),
];

/// The community of a region, by its short name; `None` where it is not known.
pub(super) fn of_region(region: &str) -> Option<String> {
    let (_, digits) = REGIONS.iter().find(|(name, _)| *name == region)?;
    Some(format!("12076:500{digits:02}"))
}
