//! Things as a lived-in subscription has them, for examples of reading and changing: with the members
//! that a client may set and Moat gives a meaning to, and in use. One body a type, the same for all.

use moat_arm::ResourceId;
use serde_json::{Value, json};

use super::plain::Wish;

/// Tags of everything.
pub(super) fn tags() -> Value {
    json!({"made": "beforehand"})
}

/// `body` with what it lacks from `base`. Arrays are taken or left as a whole.
pub(super) fn under(mut body: Value, base: &Value) -> Value {
    if let (Some(members), Some(base)) = (body.as_object_mut(), base.as_object()) {
        for (name, value) in base {
            match members.get_mut(name) {
                Some(own) => *own = under(own.take(), value),
                None => drop(members.insert(name.clone(), value.clone())),
            }
        }
    }
    body
}

/// What the VNet on the far side of a peering has that the near side shows.
pub(super) fn remote() -> Value {
    json!({"properties": {
        "bgpCommunities": {"virtualNetworkCommunity": "12076:20002"},
        "encryption": {"enabled": true, "enforcement": "AllowUnencrypted"},
    }})
}

/// The furnished body of a type; `None` if the least one is all there is.
pub(super) fn body(wish: &Wish<'_>) -> Option<Value> {
    let id = wish.id;
    let part = |collection: &str, name: &str| json!({"id": format!("{id}/{collection}/{name}")});
    let near = |rest: &str| json!({"id": wish.network(rest)});
    let properties = match id.resource_type().to_lowercase().as_str() {
        "microsoft.network/virtualnetworks" => json!({
            "addressSpace": {"addressPrefixes": wish.space()},
            "subnets": [{"name": "default", "properties": {"addressPrefix": "10.250.0.0/24"}}],
        }),
        "microsoft.network/publicipaddresses" => json!({
            "publicIPAllocationMethod": "Static", "idleTimeoutInMinutes": 4, "publicIPAddressVersion": "IPv4",
            "ipTags": [{"ipTagType": "RoutingPreference", "tag": "Internet"}],
            "dnsSettings": {"domainNameLabel": format!("moat-{}", id.name().to_lowercase())},
        }),
        "microsoft.network/networksecuritygroups" => json!({"securityRules": [{"name": "rule1", "properties": {
            "description": "Web", "protocol": "Tcp", "access": "Allow", "direction": "Inbound", "priority": 130,
            "sourceAddressPrefix": "*", "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": "80",
        }}]}),
        "microsoft.network/routetables" => json!({"disableBgpRoutePropagation": true, "routes": [
            {"name": "route1", "properties": {"addressPrefix": "192.0.2.0/24", "nextHopType": "VirtualNetworkGateway"}},
        ]}),
        "microsoft.network/networkwatchers/flowlogs" => json!({
            "targetResourceId": wish.network("networkSecurityGroups/moat-replay"),
            "storageId": wish.near("Microsoft.Storage/storageAccounts/moatreplay"), "enabled": true,
            "retentionPolicy": {"days": 7, "enabled": true}, "format": {"type": "JSON", "version": 2},
            "flowAnalyticsConfiguration": {"networkWatcherFlowAnalyticsConfiguration": {
                "enabled": false, "workspaceId": "-", "workspaceRegion": "-", "trafficAnalyticsInterval": 60,
            }},
        }),
        "microsoft.network/natgateways" => json!({
            "idleTimeoutInMinutes": 5,
            "publicIpAddresses": [near(&format!("publicIPAddresses/moat-replay-{}", id.name()))],
            "publicIpPrefixes": [near(&format!("publicIPPrefixes/moat-replay-{}", id.name()))],
        }),
        "microsoft.network/networkinterfaces" => json!({
            "enableAcceleratedNetworking": true, "enableIPForwarding": false,
            "networkSecurityGroup": near("networkSecurityGroups/moat-replay"),
            "ipConfigurations": [{"name": "ipconfig1", "properties": {
                "primary": true, "privateIPAllocationMethod": "Dynamic", "privateIPAddressVersion": "IPv4",
                "subnet": near("virtualNetworks/moat-replay/subnets/default"),
                "publicIPAddress": near(&format!("publicIPAddresses/moat-replay-{}", id.name())),
            }}],
        }),
        "microsoft.network/loadbalancers" => {
            let frontend = part("frontendIPConfigurations", "frontend");
            let (pool, probe) = (part("backendAddressPools", "pool"), part("probes", "probe"));
            json!({
                "frontendIPConfigurations": [{"name": "frontend", "properties": {
                    "subnet": near("virtualNetworks/moat-replay/subnets/default"),
                }}],
                "backendAddressPools": [{"name": "pool"}],
                "probes": [{"name": "probe", "properties": {
                    "protocol": "Http", "port": 80, "requestPath": "/", "intervalInSeconds": 15, "numberOfProbes": 2,
                    "probeThreshold": 1,
                }}],
                "loadBalancingRules": [{"name": "rule", "properties": {
                    "frontendIPConfiguration": frontend, "backendAddressPool": pool, "probe": probe, "protocol": "Tcp",
                    "frontendPort": 80, "backendPort": 80, "idleTimeoutInMinutes": 15, "enableFloatingIP": true,
                    "enableTcpReset": true, "loadDistribution": "Default",
                }}],
                "inboundNatRules": [{"name": "remote", "properties": {
                    "frontendIPConfiguration": frontend, "protocol": "Tcp", "frontendPort": 3390, "backendPort": 3389,
                    "idleTimeoutInMinutes": 15, "enableFloatingIP": true, "enableTcpReset": true,
                }}],
            })
        }
        "microsoft.network/privateendpoints" => {
            let account = wish.near("Microsoft.Storage/storageAccounts/moatreplay");
            json!({
                "subnet": near("virtualNetworks/moat-replay/subnets/default"),
                "customNetworkInterfaceName": format!("{}-nic", id.name()),
                "applicationSecurityGroups": [near("applicationSecurityGroups/moat-replay")],
                "ipConfigurations": [{"name": "blob", "properties": {
                    "groupId": "blob", "memberName": "blob", "privateIPAddress": format!("10.77.0.{}", wish.turn.saturating_add(10)),
                }}],
                "privateLinkServiceConnections": [{"name": "connection", "properties": {
                    "privateLinkServiceId": account, "groupIds": ["blob"], "requestMessage": "Please approve",
                }}],
            })
        }
        "microsoft.network/privatednszones/a" => return record(json!({"aRecords": [{"ipv4Address": "10.0.0.4"}]})),
        "microsoft.network/privatednszones/cname" => return record(json!({"cnameRecord": {"cname": "moat.example"}})),
        "microsoft.network/privatednszones/txt" => return record(json!({"txtRecords": [{"value": ["moat"]}]})),
        "microsoft.machinelearningservices/workspaces/codes"
        | "microsoft.machinelearningservices/workspaces/data"
        | "microsoft.machinelearningservices/workspaces/environments"
        | "microsoft.machinelearningservices/workspaces/models" => return asset(json!({})),
        "microsoft.machinelearningservices/workspaces/codes/versions" => {
            return asset(json!({"codeUri": "https://moatreplay.blob.core.windows.net/data/code"}));
        }
        "microsoft.machinelearningservices/workspaces/models/versions" => {
            return asset(json!({"modelUri": "azureml://datastores/workspaceblobstore/paths/model"}));
        }
        "microsoft.machinelearningservices/workspaces/data/versions" => {
            return asset(json!({
                "dataType": "uri_file", "dataUri": "azureml://datastores/workspaceblobstore/paths/file",
            }));
        }
        "microsoft.machinelearningservices/workspaces/jobs" => {
            let workspace = id.parent().map(|p| p.to_string()).unwrap_or_default();
            return asset(json!({
                "jobType": "Command", "command": "sleep 3600", "experimentName": "replay", "displayName": id.name(),
                "environmentId":
                    "azureml://registries/azureml/environments/minimal-ubuntu20.04-py38-cpu-inference/labels/latest",
                "computeId": format!("{workspace}/computes/moatreplay"),
            }));
        }
        "microsoft.machinelearningservices/workspaces/datastores" => {
            return asset(json!({
                "datastoreType": "AzureBlob", "accountName": "moatreplay", "containerName": "data",
                "credentials": {"credentialsType": "None"},
            }));
        }
        "microsoft.machinelearningservices/workspaces/computes" => json!({
            "computeType": "AmlCompute", "properties": {
                "vmSize": "STANDARD_D2_V2", "vmPriority": "Dedicated",
                "scaleSettings": {"minNodeCount": 1, "maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "PT5M"},
                "subnet": near("virtualNetworks/moat-replay/subnets/default"),
            },
        }),
        _ => {
            let mut plain = super::plain::body(wish)?;
            if plain.get("location").is_some() {
                plain["tags"] = tags();
            }
            return Some(plain);
        }
    };
    let mut body = wish.at(properties);
    body["tags"] = tags();
    if ["publicipaddresses", "natgateways", "loadbalancers"]
        .iter()
        .any(|k| id.resource_type().to_lowercase().ends_with(k))
    {
        body["sku"] = json!({"name": "Standard"});
    }
    Some(body)
}

/// Something of a workspace, with what its owner noted.
fn asset(mut properties: Value) -> Option<Value> {
    properties["description"] = json!("Made beforehand");
    properties["tags"] = tags();
    properties["properties"] = tags();
    Some(json!({"properties": properties}))
}

/// A record set with what its owner noted.
fn record(mut properties: Value) -> Option<Value> {
    properties["ttl"] = json!(3600);
    properties["metadata"] = tags();
    Some(json!({"properties": properties}))
}

/// What uses `id`, whose document is `body`.
pub(super) fn users(id: &ResourceId, body: &Value, location: &str) -> Vec<(ResourceId, Value)> {
    let group = id.as_str().split("/providers/").next().unwrap_or_default();
    let network = |rest: &str| format!("{group}/providers/Microsoft.Network/{rest}");
    let somewhere = network("virtualNetworks/moat-replay/subnets/default");
    let nic = |members: Value| {
        let configuration = under(members, &json!({"subnet": {"id": somewhere}}));
        let name = format!("moat-replay-uses-{}", id.name());
        let nic = ResourceId::parse(&network(&format!("networkInterfaces/{name}"))).ok();
        let body = json!({"location": location, "properties": {
            "ipConfigurations": [{"name": "ipconfig1", "properties": configuration}],
        }});
        nic.map(|nic| (nic, body)).into_iter().collect::<Vec<_>>()
    };
    match id.resource_type().to_lowercase().as_str() {
        "microsoft.network/publicipaddresses" => nic(json!({"publicIPAddress": {"id": id}})),
        "microsoft.network/virtualnetworks" => {
            let first = body["properties"]["subnets"][0]["id"].as_str().map(str::to_owned);
            let subnet = first.unwrap_or_else(|| format!("{id}/subnets/default"));
            nic(json!({"subnet": {"id": subnet}}))
        }
        "microsoft.network/virtualnetworks/subnets" => nic(json!({"subnet": {"id": id}})),
        "microsoft.network/loadbalancers/inboundnatrules" => nic(json!({"loadBalancerInboundNatRules": [{"id": id}]})),
        "microsoft.network/loadbalancers/backendaddresspools" => {
            nic(json!({"loadBalancerBackendAddressPools": [{"id": id}]}))
        }
        "microsoft.network/natgateways" => {
            let subnet = ResourceId::parse(&network("virtualNetworks/moat-replay-nat/subnets/default")).ok();
            let body = json!({"properties": {"addressPrefix": "10.249.0.0/24", "natGateway": {"id": id}}});
            subnet.map(|s| (s, body)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}
