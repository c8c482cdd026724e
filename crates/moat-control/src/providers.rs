//! What resource providers say about themselves that follows from nothing here: which of Microsoft's applications act for
//! a provider under which roles, API profiles, zones and edge zones.
//!
//! Facts of Azure, as `GET .../providers/{namespace}` answered in recordings of azure-cli (2022 to 2025; the newest counts).
//! Of namespaces that no recording reads nothing is said.

use serde_json::{Value, json};

/// Application, role, and the role under which it manages what it made; empty: none.
struct Authorization(&'static str, &'static str, &'static str);

/// Namespaces with those that act for them.
static AUTHORIZATIONS: &[(&str, &[Authorization])] =
    &[("Microsoft.Network", NETWORK), ("Microsoft.OperationalInsights", OPERATIONAL_INSIGHTS)];

static NETWORK: &[Authorization] = &[
    Authorization("b4ca0290-4e73-4e31-ade0-c82ecfaabf6a", "18363e25-ff21-4159-ae8d-7dfecb5bd001", ""),
    Authorization("40c49ff3-c6ae-436d-b28e-b8e268841980", "d4d2d679-cce0-429d-9a3b-17118c035f66", ""),
    Authorization("d66e9e8e-53a4-420c-866d-5bb39aaea675", "d4d2d679-cce0-429d-9a3b-17118c035f66", ""),
    Authorization("2cf9eb86-36b5-49dc-86ae-9a63135dfa8c", "13ba9ab4-19f0-4804-adc4-14ece36cc7a1", ""),
    Authorization("7c33bfcb-8d33-48d6-8e60-dc6404003489", "ad6261e4-fa9a-4642-aa5f-104f1b67e9e3", ""),
    Authorization("1e3e4475-288f-4018-a376-df66fd7fac5f", "1d538b69-3d87-4e56-8ff8-25786fd48261", ""),
    Authorization("a0be0c72-870e-46f0-9c49-c98333a996f7", "7ce22727-ffce-45a9-930c-ddb2e56fa131", ""),
    Authorization("486c78bf-a0f7-45f1-92fd-37215929e116", "98a9e526-0a60-4c1f-a33a-ae46e1f8dc0d", ""),
    Authorization("19947cfd-0303-466c-ac3c-fcc19a7a1570", "d813ab6c-bfb7-413e-9462-005b21f0ce09", ""),
    Authorization("341b7f3d-69b3-47f9-9ce7-5b7f4945fdbd", "8141843c-c51c-4c1e-a5bf-0d351594b86c", ""),
    Authorization("328fd23b-de6e-462c-9433-e207470a5727", "79e29e06-4056-41e5-a6b2-959f1f47747e", ""),
    Authorization(
        "6d057c82-a784-47ae-8d12-ca7b38cf06b4",
        "c27dd31e-c1e5-4ab0-93e1-a12ba34f182e",
        "82e8942a-bcb6-444a-b1c4-31a3ea463a7d",
    ),
    Authorization("79d7fb34-4bef-4417-8184-ff713af7a679", "1c1f11ef-abfa-4abe-a02b-226771d07fc7", ""),
    Authorization("6e02f8e9-db9b-4eb5-aa5a-7c8968375f68", "787424c7-f9d2-416b-a939-4d59deb2d259", ""),
    Authorization("60b2e7d5-a27f-426d-a6b1-acced0846fdf", "0edb7c43-ed90-4da9-9ca2-e9a5d1521b00", ""),
];

static OPERATIONAL_INSIGHTS: &[Authorization] = &[
    Authorization("d2a0a418-0aac-4541-82b2-b3142c89da77", "86695298-2eb9-48a7-9ec3-2fdb38b6878b", ""),
    Authorization("ca7f3f0b-7d91-482c-8e09-c5d840d0eac5", "5d5a2e56-9835-44aa-93db-d2f19e155438", ""),
];

/// Types with a version in each profile of Azure Stack.
static PROFILED: &[&str] = &[
    "Microsoft.Network/virtualNetworks",
    "Microsoft.Network/publicIPAddresses",
    "Microsoft.Network/networkInterfaces",
    "Microsoft.Network/loadBalancers",
    "Microsoft.Network/networkSecurityGroups",
    "Microsoft.Network/routeTables",
];

/// Profiles with their version.
static PROFILES: &[(&str, &str)] =
    &[("2017-03-09-profile", "2015-06-15"), ("2018-03-01-hybrid", "2017-10-01"), ("2019-03-01-hybrid", "2017-10-01")];

/// Types that can be put into zones.
static ZONAL: &[&str] =
    &["Microsoft.Network/publicIPAddresses", "Microsoft.Network/publicIPPrefixes", "Microsoft.Network/natGateways"];

/// Regions with three zones each.
static ZONES: &[&str] = &[
    "Australia East",
    "Austria East",
    "Brazil South",
    "Canada Central",
    "Central India",
    "Central US",
    "Chile Central",
    "East Asia",
    "East US",
    "East US 2",
    "France Central",
    "Germany West Central",
    "Indonesia Central",
    "Israel Central",
    "Italy North",
    "Japan East",
    "Japan West",
    "Korea Central",
    "Malaysia West",
    "Mexico Central",
    "New Zealand North",
    "North Europe",
    "Norway East",
    "Poland Central",
    "Qatar Central",
    "South Africa North",
    "South Central US",
    "Southeast Asia",
    "Spain Central",
    "Sweden Central",
    "Switzerland North",
    "UAE North",
    "UK South",
    "West Europe",
    "West US 2",
    "West US 3",
];

/// The region with four.
const FOUR_ZONES: &str = "East US 2 EUAP";

/// Types that can be put into edge zones.
static AT_EDGES: &[&str] = &[
    "Microsoft.Network/virtualNetworks",
    "Microsoft.Network/publicIPAddresses",
    "Microsoft.Network/networkInterfaces",
    "Microsoft.Network/privateEndpoints",
    "Microsoft.Network/loadBalancers",
    "Microsoft.Network/publicIPPrefixes",
];

/// Edge zones by region.
static EDGES: &[(&str, &[&str])] = &[
    ("East US 2 EUAP", &["microsoftrrdclab3", "microsoftrrdclab4", "microsoftdclabs1", "microsoftrrezm1"]),
    ("West US", &["microsoftlosangeles1", "losangeles"]),
    ("East US", &["microsoftnewyork1"]),
    ("Australia Southeast", &["microsoftperth1"]),
    ("South Central US", &["attdallas1"]),
    ("West US 2", &["portland"]),
];

/// `authorizations` of a namespace, if they are known.
pub(crate) fn authorizations(namespace: &str) -> Option<Value> {
    let (_, known) = AUTHORIZATIONS.iter().find(|(name, _)| *name == namespace)?;
    let shown = known.iter().map(|Authorization(application, role, manages)| {
        let mut one = json!({ "applicationId": application });
        for (member, role) in [("roleDefinitionId", role), ("managedByRoleDefinitionId", manages)] {
            if !role.is_empty() {
                one[member] = json!(role);
            }
        }
        one
    });
    Some(shown.collect())
}

/// Adds to the entry of a type in `resourceTypes` what is known of the type.
pub(crate) fn describe(kind: &str, entry: &mut Value) {
    if PROFILED.contains(&kind) {
        let profile = |(profile, version): &(&str, &str)| json!({ "profileVersion": profile, "apiVersion": version });
        entry["apiProfiles"] = PROFILES.iter().map(profile).collect();
    }
    if ZONAL.contains(&kind) {
        let zones = |region: &&str| json!({ "location": region, "zones": ["3", "1", "2"] });
        let mut mappings: Vec<Value> = ZONES.iter().map(zones).collect();
        mappings.push(json!({ "location": FOUR_ZONES, "zones": ["3", "1", "2", "4"] }));
        entry["zoneMappings"] = mappings.into();
    }
    if AT_EDGES.contains(&kind) {
        let zones = |(region, zones): &(&str, &[&str])| json!({ "location": region, "type": "EdgeZone", "extendedLocations": zones });
        entry["locationMappings"] = EDGES.iter().map(zones).collect();
    }
}
