//! The regions a subscription sees, as reference data.
//!
//! A region is only a name here: everything runs on one machine.

use moat_arm::ApiError;
use serde_json::{Value, json};

struct Region(&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

/// Name, display name, geography group, latitude, longitude, paired region (newer ones have none).
static REGIONS: &[Region] = &[
    Region("australiacentral", "Australia Central", "Asia Pacific", "-35.3075", "149.1244", "australiacentral2"),
    Region("australiacentral2", "Australia Central 2", "Asia Pacific", "-35.3075", "149.1244", "australiacentral"),
    Region("australiaeast", "Australia East", "Asia Pacific", "-33.86", "151.2094", "australiasoutheast"),
    Region("australiasoutheast", "Australia Southeast", "Asia Pacific", "-37.8136", "144.9631", "australiaeast"),
    Region("austriaeast", "Austria East", "Europe", "48.1985", "16.3673", ""),
    Region("brazilsouth", "Brazil South", "South America", "-23.55", "-46.633", "southcentralus"),
    Region("brazilsoutheast", "Brazil Southeast", "South America", "-22.90278", "-43.2075", "brazilsouth"),
    Region("canadacentral", "Canada Central", "Canada", "43.653", "-79.383", "canadaeast"),
    Region("canadaeast", "Canada East", "Canada", "46.817", "-71.217", "canadacentral"),
    Region("centralindia", "Central India", "Asia Pacific", "18.5822", "73.9197", "southindia"),
    Region("centralus", "Central US", "US", "41.5908", "-93.6208", "eastus2"),
    Region("centraluseuap", "Central US EUAP", "Canary (US)", "41.5908", "-93.6208", "eastus2euap"),
    Region("chilecentral", "Chile Central", "South America", "-33.4475", "-70.6736", ""),
    Region("eastasia", "East Asia", "Asia Pacific", "22.267", "114.188", "southeastasia"),
    Region("eastus", "East US", "US", "37.3719", "-79.8164", "westus"),
    Region("eastus2", "East US 2", "US", "36.6681", "-78.3889", "centralus"),
    Region("eastus2euap", "East US 2 EUAP", "Canary (US)", "36.6681", "-78.3889", "centraluseuap"),
    Region("francecentral", "France Central", "Europe", "46.3772", "2.373", "francesouth"),
    Region("francesouth", "France South", "Europe", "43.8345", "2.1972", "francecentral"),
    Region("germanynorth", "Germany North", "Europe", "53.073635", "8.806422", "germanywestcentral"),
    Region("germanywestcentral", "Germany West Central", "Europe", "50.110924", "8.682127", "germanynorth"),
    Region("indonesiacentral", "Indonesia Central", "Asia Pacific", "-6.1944", "106.8229", ""),
    Region("israelcentral", "Israel Central", "Middle East", "31.2655", "33.4506", ""),
    Region("italynorth", "Italy North", "Europe", "45.4640", "9.1900", ""),
    Region("japaneast", "Japan East", "Asia Pacific", "35.68", "139.77", "japanwest"),
    Region("japanwest", "Japan West", "Asia Pacific", "34.6939", "135.5022", "japaneast"),
    Region("koreacentral", "Korea Central", "Asia Pacific", "37.5665", "126.978", "koreasouth"),
    Region("koreasouth", "Korea South", "Asia Pacific", "35.1796", "129.0756", "koreacentral"),
    Region("malaysiawest", "Malaysia West", "Asia Pacific", "3.1390", "101.6869", ""),
    Region("mexicocentral", "Mexico Central", "Mexico", "20.5888", "-100.3899", ""),
    Region("newzealandnorth", "New Zealand North", "Asia Pacific", "-36.8485", "174.7633", ""),
    Region("northcentralus", "North Central US", "US", "41.8819", "-87.6278", "southcentralus"),
    Region("northeurope", "North Europe", "Europe", "53.3478", "-6.2597", "westeurope"),
    Region("norwayeast", "Norway East", "Europe", "59.913868", "10.752245", "norwaywest"),
    Region("norwaywest", "Norway West", "Europe", "58.969975", "5.733107", "norwayeast"),
    Region("polandcentral", "Poland Central", "Europe", "52.23334", "21.01666", ""),
    Region("qatarcentral", "Qatar Central", "Middle East", "25.5517", "51.4392", ""),
    Region("southafricanorth", "South Africa North", "Africa", "-25.73134", "28.21837", "southafricawest"),
    Region("southafricawest", "South Africa West", "Africa", "-34.075691", "18.843266", "southafricanorth"),
    Region("southcentralus", "South Central US", "US", "29.4167", "-98.5", "northcentralus"),
    Region("southeastasia", "Southeast Asia", "Asia Pacific", "1.283", "103.833", "eastasia"),
    Region("southindia", "South India", "Asia Pacific", "12.9822", "80.1636", "centralindia"),
    Region("spaincentral", "Spain Central", "Europe", "40.4259", "3.4209", ""),
    Region("swedencentral", "Sweden Central", "Europe", "60.67488", "17.14127", "swedensouth"),
    Region("switzerlandnorth", "Switzerland North", "Europe", "47.451542", "8.564572", "switzerlandwest"),
    Region("switzerlandwest", "Switzerland West", "Europe", "46.204391", "6.143158", "switzerlandnorth"),
    Region("uaecentral", "UAE Central", "Middle East", "24.466667", "54.366669", "uaenorth"),
    Region("uaenorth", "UAE North", "Middle East", "25.266666", "55.316666", "uaecentral"),
    Region("uksouth", "UK South", "Europe", "50.941", "-0.799", "ukwest"),
    Region("ukwest", "UK West", "Europe", "53.427", "-3.084", "uksouth"),
    Region("westcentralus", "West Central US", "US", "40.89", "-110.234", "westus2"),
    Region("westeurope", "West Europe", "Europe", "52.3667", "4.9", "northeurope"),
    Region("westindia", "West India", "Asia Pacific", "19.088", "72.868", "southindia"),
    Region("westus", "West US", "US", "37.783", "-122.417", "eastus"),
    Region("westus2", "West US 2", "US", "47.233", "-119.852", "westcentralus"),
    Region("westus3", "West US 3", "US", "33.448376", "-112.074036", "eastus"),
];

/// `West US 2` and `westus2` are one region; answers use the short name.
pub(crate) fn normalise(location: &str) -> String {
    location.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect()
}

/// The short name of a location that a resource of `kind` may have; `global` always counts.
pub(crate) fn check(location: &str, kind: &str) -> Result<String, ApiError> {
    let name = normalise(location);
    if name == "global" || REGIONS.iter().any(|r| r.0 == name) {
        return Ok(name);
    }
    Err(ApiError::bad_request(
        "LocationNotAvailableForResourceType",
        format!(
            "The provided location '{location}' is not available for resource type '{kind}'. List of available regions for the resource type is '{}'.",
            names().collect::<Vec<_>>().join(",")
        ),
    ))
}

/// Short names, in order.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    REGIONS.iter().map(|r| r.0)
}

/// Display names, as provider metadata lists them.
pub(crate) fn display_names() -> impl Iterator<Item = &'static str> {
    REGIONS.iter().map(|r| r.1)
}

/// The answer to `GET /subscriptions/{s}/locations`.
pub(crate) fn list(subscription: &str) -> Value {
    let id = |name: &str| format!("/subscriptions/{subscription}/locations/{name}");
    let value: Vec<Value> = REGIONS
        .iter()
        .map(|r| {
            json!({
                "id": id(r.0), "name": r.0, "type": "Region", "displayName": r.1,
                "regionalDisplayName": format!("({}) {}", r.2, r.1),
                "metadata": {
                    "regionType": "Physical", "regionCategory": "Recommended", "geographyGroup": r.2,
                    "latitude": r.3, "longitude": r.4, "physicalLocation": "",
                    "pairedRegion": if r.5.is_empty() { json!([]) } else { json!([{"name": r.5, "id": id(r.5)}]) },
                },
            })
        })
        .collect();
    json!({ "value": value })
}
