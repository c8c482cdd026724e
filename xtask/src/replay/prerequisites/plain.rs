//! The least that a document of a type can be.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use moat_arm::ResourceId;
use serde_json::{Value, json};

use super::hints::Hints;

/// What a body needs to know.
pub(super) struct Wish<'a> {
    pub(super) id: &'a ResourceId,
    pub(super) location: &'a str,
    pub(super) tenant: &'a str,
    /// Tags of groups.
    pub(super) tags: &'a Value,
    pub(super) hints: &'a Hints,
    /// The parent, where it is there already; `Null` else.
    pub(super) parent: &'a Value,
    /// Counts up.
    pub(super) turn: u8,
}

/// The `n`-th name of something of this type.
pub(super) fn name(kind: &str, n: usize) -> String {
    let suffix = if kind.eq_ignore_ascii_case("Microsoft.Network/privateDnsZones") { ".example" } else { "" };
    format!("element{n}{suffix}")
}

impl Wish<'_> {
    /// The id of something in the same group.
    pub(super) fn near(&self, rest: &str) -> String {
        format!("{}/providers/{rest}", self.id.as_str().split("/providers/").next().unwrap_or_default())
    }

    /// The id of something in `Microsoft.Network` in the same group.
    pub(super) fn network(&self, rest: &str) -> String {
        self.near(&format!("Microsoft.Network/{rest}"))
    }

    pub(super) fn at(&self, properties: Value) -> Value {
        json!({"location": self.location, "properties": properties})
    }

    /// Address space of a VNet: what it must hold, else a wide one; one of its own on the far side of a peering.
    pub(super) fn space(&self) -> Vec<String> {
        let wide = match self.hints.remote(self.id) {
            Some(n) => format!("172.{}.0.0/16", 16 + n % 16),
            None => "10.0.0.0/8".to_owned(),
        };
        let held = self.hints.address_below(self.id).map(|a| net(a, 16)).map(|n| n.to_string());
        match held {
            Some(held) if !wide.starts_with("10.") || !held.starts_with("10.") => vec![wide, held],
            _ => vec![wide],
        }
    }

    /// A prefix for a subnet: around the address that it must hold, else near the end of the VNet's first prefix,
    /// where others begin last.
    pub(super) fn subnet(&self) -> String {
        let first = self.parent["properties"]["addressSpace"]["addressPrefixes"][0].as_str();
        let space: Ipv4Net = first.and_then(|p| p.parse().ok()).unwrap_or_else(|| net(Ipv4Addr::new(10, 0, 0, 0), 8));
        let prefix = match self.hints.address(self.id) {
            Some(address) => net(address, 24),
            None if space.prefix_len() >= 24 => space,
            None => {
                let last = u32::from(space.broadcast()) - 256 * u32::from(self.turn);
                net(Ipv4Addr::from(last), 24)
            }
        };
        prefix.to_string()
    }
}

fn net(address: Ipv4Addr, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(address, length).trunc()
}

/// The least body, if there is one to be guessed.
pub(super) fn body(wish: &Wish<'_>) -> Option<Value> {
    let (id, location) = (wish.id, wish.location);
    let at = |properties: Value| wish.at(properties);
    let kind = id.resource_type().to_lowercase();
    Some(match kind.as_str() {
        "microsoft.resources/resourcegroups" | "" => json!({"location": location, "tags": wish.tags}),
        "microsoft.network/virtualnetworks" => {
            let space = wish.space();
            let subnet = |(n, name): (usize, String)| {
                let first = space[0].split('.').take(2).collect::<Vec<_>>().join(".");
                json!({"name": name, "properties": {"addressPrefix": format!("{first}.{n}.0/24")}})
            };
            let subnets: Vec<_> = wish.hints.names(id, "subnets", "").into_iter().enumerate().map(subnet).collect();
            at(json!({"addressSpace": {"addressPrefixes": space}, "subnets": subnets}))
        }
        "microsoft.network/virtualnetworks/subnets" => json!({"properties": {"addressPrefix": wish.subnet()}}),
        "microsoft.network/virtualnetworks/virtualnetworkpeerings" => json!({"properties": {
            "remoteVirtualNetwork": {"id": wish.network("virtualNetworks/moat-replay-remote")},
        }}),
        "microsoft.network/networksecuritygroups/securityrules" => json!({"properties": {
            "protocol": "*", "access": "Allow", "direction": "Inbound", "priority": 4000,
            "sourceAddressPrefix": "*", "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": "80",
        }}),
        "microsoft.network/routetables/routes" => {
            json!({"properties": {"addressPrefix": "192.0.2.0/24", "nextHopType": "None"}})
        }
        "microsoft.network/publicipaddresses" => json!({
            "location": location, "sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"},
        }),
        "microsoft.network/publicipprefixes" => {
            json!({"location": location, "sku": {"name": "Standard"}, "properties": {"prefixLength": 31}})
        }
        "microsoft.network/natgateways" => {
            json!({"location": location, "sku": {"name": "Standard"}, "properties": {}})
        }
        "microsoft.network/loadbalancers" => {
            let frontend = |name: String| {
                let address = wish.network(&format!("publicIPAddresses/moat-replay-{}-{name}", id.name()));
                json!({"name": name, "properties": {"publicIPAddress": {"id": address}}})
            };
            let frontends = wish.hints.names(id, "frontendIPConfigurations", "frontend");
            let pools = wish.hints.names(id, "backendAddressPools", "");
            let rule = |(n, pool): (usize, &String)| {
                json!({"name": format!("rule{n}"), "properties": {
                    "frontendIPConfiguration": {"id": format!("{id}/frontendIPConfigurations/{}", frontends[0])},
                    "backendAddressPool": {"id": format!("{id}/backendAddressPools/{pool}")},
                    "protocol": "Tcp", "frontendPort": 80 + n, "backendPort": 80,
                }})
            };
            let rules: Vec<_> = pools.iter().enumerate().map(rule).collect();
            let probe = |name| json!({"name": name, "properties": {"protocol": "Tcp", "port": 80}});
            let probes = wish.hints.names(id, "probes", "");
            json!({"location": location, "sku": {"name": "Standard"}, "properties": {
                "frontendIPConfigurations": frontends.into_iter().map(frontend).collect::<Vec<_>>(),
                "backendAddressPools": pools.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
                "loadBalancingRules": rules,
                "probes": probes.into_iter().map(probe).collect::<Vec<_>>(),
            }})
        }
        "microsoft.network/networkinterfaces" => {
            let subnet = wish.network("virtualNetworks/moat-replay/subnets/default");
            let configuration = |(n, name): (usize, String)| json!({"name": name, "properties": {"primary": n == 0, "subnet": {"id": subnet}}});
            let names = wish.hints.names(id, "ipConfigurations", "ipconfig1");
            at(json!({"ipConfigurations": names.into_iter().enumerate().map(configuration).collect::<Vec<_>>()}))
        }
        "microsoft.network/loadbalancers/inboundnatrules" => {
            let frontend = wish.parent["properties"]["frontendIPConfigurations"][0]["id"].clone();
            json!({"properties": {
                "frontendIPConfiguration": {"id": frontend}, "protocol": "Tcp",
                "frontendPort": 50_000 + u16::from(wish.turn), "backendPort": 22,
            }})
        }
        "microsoft.network/privateendpoints" => at(json!({
            "subnet": {"id": wish.network("virtualNetworks/moat-replay/subnets/default")},
            "privateLinkServiceConnections": [{"name": "connection", "properties": {
                "privateLinkServiceId": wish.near("Microsoft.Storage/storageAccounts/moatreplay"),
                "groupIds": ["blob"],
            }}],
        })),
        "microsoft.network/networkwatchers/flowlogs" => at(json!({
            "targetResourceId": wish.network("networkSecurityGroups/moat-replay"),
            "storageId": wish.near("Microsoft.Storage/storageAccounts/moatreplay"), "enabled": true,
        })),
        "microsoft.network/privatednszones" => json!({"location": "global", "properties": {}}),
        "microsoft.network/privatednszones/virtualnetworklinks" => json!({"location": "global", "properties": {
            "virtualNetwork": {"id": wish.network("virtualNetworks/moat-replay-linked")},
            "registrationEnabled": false,
        }}),
        "microsoft.network/privatednszones/a" => {
            json!({"properties": {"ttl": 3600, "aRecords": [{"ipv4Address": "10.0.0.4"}]}})
        }
        "microsoft.network/privatednszones/aaaa" => {
            json!({"properties": {"ttl": 3600, "aaaaRecords": [{"ipv6Address": "fd00::4"}]}})
        }
        "microsoft.network/privatednszones/cname" => {
            json!({"properties": {"ttl": 3600, "cnameRecord": {"cname": "moat.example"}}})
        }
        "microsoft.network/privatednszones/txt" => {
            json!({"properties": {"ttl": 3600, "txtRecords": [{"value": ["moat"]}]}})
        }
        "microsoft.machinelearningservices/workspaces" => json!({
            "location": location, "identity": {"type": "SystemAssigned"}, "properties": {
                "friendlyName": id.name(),
                "storageAccount": wish.near("Microsoft.Storage/storageAccounts/moatreplay"),
                "keyVault": wish.near("Microsoft.KeyVault/vaults/moatreplay"),
                "applicationInsights": wish.near("Microsoft.Insights/components/moatreplay"),
                "containerRegistry": wish.near("Microsoft.ContainerRegistry/registries/moatreplay"),
            },
        }),
        "microsoft.machinelearningservices/workspaces/computes" => at(json!({
            "computeType": "AmlCompute", "properties": {
                "vmSize": "STANDARD_D2_V2", "vmPriority": "Dedicated",
                "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 1},
            },
        })),
        // As every client uploads code, which looks for it by its hash.
        "microsoft.machinelearningservices/workspaces/codes/versions" => json!({"properties": {
            "codeUri": "https://moatreplay.blob.core.windows.net/code/moat",
            "properties": {"hash_sha256": "0".repeat(64), "hash_version": "202208"},
        }}),
        "microsoft.machinelearningservices/workspaces/data/versions" => {
            json!({"properties": {"dataType": "uri_folder", "dataUri": "azureml://datastores/workspaceblobstore/paths/moat/"}})
        }
        "microsoft.machinelearningservices/workspaces/environments/versions" => {
            json!({"properties": {"image": "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest"}})
        }
        "microsoft.machinelearningservices/workspaces/models/versions" => {
            json!({"properties": {"modelUri": "azureml://datastores/workspaceblobstore/paths/moat/model"}})
        }
        "microsoft.storage/storageaccounts" => json!({
            "location": location, "sku": {"name": "Standard_LRS"}, "kind": "StorageV2", "properties": {},
        }),
        "microsoft.keyvault/vaults" => at(json!({
            "tenantId": wish.tenant, "sku": {"family": "A", "name": "standard"},
            // Whoever makes one by a client is let in by it.
            "accessPolicies": [{
                "tenantId": wish.tenant, "objectId": "5ca1ab1e-0000-4000-8000-000000000001",
                "permissions": {"keys": ["all"], "secrets": ["all"], "certificates": ["all"], "storage": ["all"]},
            }],
        })),
        "microsoft.insights/components" => {
            json!({"location": location, "kind": "web", "properties": {"Application_Type": "web"}})
        }
        "microsoft.containerregistry/registries" => {
            json!({"location": location, "sku": {"name": "Standard"}, "properties": {}})
        }
        "microsoft.authorization/roleassignments" => json!({"properties": {
            "principalId": "5ca1ab1e-0000-4000-8000-000000000001",
            "roleDefinitionId":
                "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7",
        }}),
        "microsoft.resources/deployments" => json!({"properties": {"mode": "Incremental", "template": {
            "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
            "contentVersion": "1.0.0.0", "resources": [],
        }}}),
        // Has nothing that must be given, or nothing that could be guessed.
        _ => at(json!({})),
    })
}
