//! The network resources that the service makes for a cluster, as documents.
//!
//! One set for each 100 nodes, beside the VNet (AML-RES-001, 002, 005, 007, 009): a security group
//! bound to the node interfaces, a public IP, and a balancer whose inbound NAT rules lead one front
//! end port to each management port of each node. Being documents, the model, the kernel and the
//! client all see the same rules. Pure: whoever schedules decides when to make and remove them.
//!
//! Rules by edition: 29876-29877 from `BatchNodeManagement` in `2021-09` only (AML-RES-003),
//! 44224 from `AzureMachineLearning` in both (AML-RES-004), SSH only where remote login is
//! enabled (AML-RES-016), outbound to VNet and internet, and to Batch in `current` (AML-RES-011).
//! A cluster without public IP gets none of this (network-semantics 20.2, current).

use moat_arm::{ApiError, ResourceId, Snapshot, document};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::edition::Edition;

/// Object id of the platform identity that makes these resources.
pub const SERVICE_PRINCIPAL: &str = "0736f41a-0425-4b46-bdb5-1563eff02385";
/// API version of the service's own requests.
pub const API_VERSION: &str = "2022-01-01";
/// Type of a node document: hidden, a child of its compute.
pub const NODE_TYPE: &str = "Microsoft.MachineLearningServices/workspaces/computes/nodes";
/// Member that marks a document as the service's own; never shown to clients.
pub const OWNER: &str = "moat.owner";
/// Ports Batch connects in to (classic communication).
pub const BATCH_PORTS: [u16; 2] = [29876, 29877];
/// Port the Machine Learning service connects in to.
pub const ML_PORT: u16 = 44224;
/// First front end port of a balancer.
const FRONTEND_PORT_FIRST: u16 = 50000;
/// Front end ports set aside for each node.
const FRONTEND_PORTS_PER_NODE: u16 = 4;

/// A node of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Index in the cluster.
    pub index: u32,
    /// Name of the node.
    pub node: String,
}

/// Whether the nodes of this compute have a public IP; they do unless it was switched off.
pub fn has_public_ip(compute: &Value) -> bool {
    document::bool_at(compute, "properties.properties.enableNodePublicIp").unwrap_or(true)
}

/// The subnet a compute lies in, if it names one.
pub fn subnet(compute: &Value) -> Option<ResourceId> {
    document::str_at(compute, "properties.properties.subnet.id").and_then(|t| ResourceId::parse(t).ok())
}

/// Ports through which services reach a node of this compute from outside.
pub fn inbound_ports(compute: &Value, edition: Edition) -> Vec<u16> {
    match (has_public_ip(compute), edition) {
        (true, Edition::Seed2021) => vec![BATCH_PORTS[0], BATCH_PORTS[1], ML_PORT],
        (true, Edition::Current) => vec![ML_PORT],
        (false, _) => Vec::new(),
    }
}

/// Front end port of a node's first management port; the others follow in order.
pub fn frontend_port(slot: u32) -> u16 {
    let slot = u16::try_from(slot).unwrap_or(0);
    FRONTEND_PORT_FIRST.saturating_add(slot.saturating_mul(FRONTEND_PORTS_PER_NODE))
}

/// The ids of a set: security group, public IP, balancer; empty without public IP.
pub fn set_ids(compute_id: &ResourceId, compute: &Value, set: u32) -> Result<Vec<ResourceId>, ApiError> {
    if !has_public_ip(compute) || subnet(compute).is_none() {
        return Ok(Vec::new());
    }
    let at = Place::of(compute_id, compute)?;
    Ok(vec![at.nsg(compute_id, set), at.public_ip(compute_id, set), at.balancer(compute_id, set)])
}

/// The documents of a set without nodes, in the order to make them.
pub fn set_documents(
    compute_id: &ResourceId,
    compute: &Value,
    set: u32,
    edition: Edition,
) -> Result<Vec<(ResourceId, Value)>, ApiError> {
    if !has_public_ip(compute) || subnet(compute).is_none() {
        return Ok(Vec::new());
    }
    let at = Place::of(compute_id, compute)?;
    let owner = compute_id.as_str();
    let nsg = json!({
        "location": at.location,
        "moat": { "owner": owner },
        "properties": { "securityRules": security_rules(compute, edition) },
    });
    let public_ip = json!({
        "location": at.location,
        "sku": { "name": "Standard" },
        "moat": { "owner": owner },
        "properties": { "publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4", "idleTimeoutInMinutes": 4 },
    });
    let mut documents = vec![(at.nsg(compute_id, set), nsg), (at.public_ip(compute_id, set), public_ip)];
    if let Some(balancer) = load_balancer(compute_id, compute, set, &[], edition)? {
        documents.push(balancer);
    }
    Ok(documents)
}

/// The balancer of a set with a NAT rule for each management port of each node.
pub fn load_balancer(
    compute_id: &ResourceId,
    compute: &Value,
    set: u32,
    nodes: &[Slot],
    edition: Edition,
) -> Result<Option<(ResourceId, Value)>, ApiError> {
    if !has_public_ip(compute) || subnet(compute).is_none() {
        return Ok(None);
    }
    let at = Place::of(compute_id, compute)?;
    let id = at.balancer(compute_id, set);
    let frontend = id.child("frontendIPConfigurations", "frontend");
    let pool = id.child("backendAddressPools", "nodes");
    let mut rules = Vec::new();
    for slot in nodes {
        let nic = at.nic(&slot.node).child("ipConfigurations", "ipconfig1");
        for (offset, port) in (0u16..).zip(inbound_ports(compute, edition)) {
            rules.push(json!({
                "name": format!("{}-{port}", slot.node),
                "properties": {
                    "frontendIPConfiguration": { "id": frontend.as_str() },
                    "backendIPConfiguration": { "id": nic.as_str() },
                    "protocol": "Tcp",
                    "frontendPort": frontend_port(slot.index % 100).saturating_add(offset),
                    "backendPort": port,
                    "enableFloatingIP": false,
                    "idleTimeoutInMinutes": 4,
                },
            }));
        }
    }
    let body = json!({
        "location": at.location,
        "sku": { "name": "Standard" },
        "moat": { "owner": compute_id.as_str() },
        "properties": {
            "frontendIPConfigurations": [{
                "name": "frontend",
                "properties": { "publicIPAddress": { "id": at.public_ip(compute_id, set).as_str() } },
            }],
            "backendAddressPools": [{ "name": "nodes" }],
            "loadBalancingRules": [],
            "probes": [],
            "inboundNatRules": rules,
            "outboundRules": [{
                "name": "outbound",
                "properties": {
                    "frontendIPConfigurations": [{ "id": frontend.as_str() }],
                    "backendAddressPool": { "id": pool.as_str() },
                    "protocol": "All",
                },
            }],
        },
    });
    Ok(Some((id, body)))
}

/// A fresh node name in Batch's style.
pub fn node_name(compute_id: &ResourceId, index: u32, fresh: Uuid) -> String {
    let kind = Uuid::new_v5(&Uuid::NAMESPACE_OID, compute_id.key().as_bytes()).simple().to_string();
    format!("tvmps_{}{}_{index}", &kind[..8], &fresh.simple().to_string()[..16])
}

/// A node's interface, in the resource group of the VNet.
pub fn nic(
    compute_id: &ResourceId,
    compute: &Value,
    set: u32,
    node: &str,
    _edition: Edition,
) -> Result<(ResourceId, Value), ApiError> {
    let at = Place::of(compute_id, compute)?;
    let mut config = json!({
        "privateIPAllocationMethod": "Dynamic",
        "privateIPAddressVersion": "IPv4",
        "primary": true,
        "subnet": { "id": at.subnet.as_str() },
    });
    let mut body = json!({ "location": at.location, "moat": { "owner": compute_id.as_str() }, "properties": {} });
    if has_public_ip(compute) {
        let pool = at.balancer(compute_id, set).child("backendAddressPools", "nodes");
        config["loadBalancerBackendAddressPools"] = json!([{ "id": pool.as_str() }]);
        body["properties"]["networkSecurityGroup"] = json!({ "id": at.nsg(compute_id, set).as_str() });
    }
    body["properties"]["ipConfigurations"] = json!([{ "name": "ipconfig1", "properties": config }]);
    Ok((at.nic(node), body))
}

/// The public address of a set, once allocated.
pub fn public_address(snapshot: &Snapshot, compute_id: &ResourceId, compute: &Value, set: u32) -> Option<String> {
    let at = Place::of(compute_id, compute).ok()?;
    let stored = snapshot.get(&at.public_ip(compute_id, set))?;
    document::str_at(&stored.body, "properties.ipAddress").map(str::to_owned)
}

fn security_rules(compute: &Value, edition: Edition) -> Vec<Value> {
    let rule =
        |name: &str, priority: u32, direction: &str, source: &str, destination: &str, protocol: &str, ports: &str| {
            json!({ "name": name, "properties": {
                "priority": priority, "direction": direction, "access": "Allow", "protocol": protocol,
                "sourceAddressPrefix": source, "sourcePortRange": "*",
                "destinationAddressPrefix": destination, "destinationPortRange": ports,
            }})
        };
    let mut rules = Vec::new();
    if edition == Edition::Seed2021 {
        rules.push(rule("BatchServiceRule", 120, "Inbound", "BatchNodeManagement", "*", "Tcp", "29876-29877"));
    }
    rules.push(rule("AzureMachineLearningRule", 130, "Inbound", "AzureMachineLearning", "*", "Tcp", "44224"));
    let remote =
        document::str_at(compute, "properties.properties.remoteLoginPortPublicAccess").unwrap_or("NotSpecified");
    if remote.eq_ignore_ascii_case("Enabled") {
        rules.push(rule("RemoteLoginRule", 140, "Inbound", "*", "*", "Tcp", "22"));
    }
    rules.push(rule("AllowVnetOutRule", 120, "Outbound", "*", "VirtualNetwork", "*", "*"));
    rules.push(rule("AllowInternetOutRule", 130, "Outbound", "*", "Internet", "*", "*"));
    if edition == Edition::Current {
        rules.push(rule("BatchServiceOutRule", 110, "Outbound", "*", "BatchNodeManagement", "Tcp", "443"));
    }
    rules
}

/// Where a compute's network resources go: the resource group of its VNet.
struct Place {
    group: ResourceId,
    subnet: ResourceId,
    location: String,
}

impl Place {
    fn of(compute_id: &ResourceId, compute: &Value) -> Result<Self, ApiError> {
        let subnet = subnet(compute).ok_or_else(|| {
            ApiError::bad_request(
                "InvalidSubnet",
                format!(
                    "The compute `{}` names no subnet; a compute outside a virtual network has no nodes here.",
                    compute_id.name()
                ),
            )
        })?;
        let (Some(subscription), Some(group)) = (subnet.subscription(), subnet.resource_group()) else {
            return Err(ApiError::invalid_reference(subnet.as_str(), compute_id));
        };
        let location = document::str_at(compute, "properties.computeLocation")
            .or_else(|| document::str_at(compute, "location"))
            .unwrap_or_default()
            .to_lowercase()
            .replace(' ', "");
        Ok(Self { group: ResourceId::resource_group_scope(subscription, group), subnet, location })
    }

    fn named(&self, kind: &str, name: &str) -> ResourceId {
        self.group.provider("Microsoft.Network", kind, name)
    }

    fn set_name(compute_id: &ResourceId, set: u32, what: &str) -> String {
        let guid = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{}#{set}", compute_id.key()).as_bytes());
        format!("{guid}-azurebatch-cloudservice{what}")
    }

    fn nsg(&self, compute_id: &ResourceId, set: u32) -> ResourceId {
        self.named("networkSecurityGroups", &Self::set_name(compute_id, set, "networksecuritygroup"))
    }

    fn public_ip(&self, compute_id: &ResourceId, set: u32) -> ResourceId {
        self.named("publicIPAddresses", &Self::set_name(compute_id, set, "publicip"))
    }

    fn balancer(&self, compute_id: &ResourceId, set: u32) -> ResourceId {
        self.named("loadBalancers", &Self::set_name(compute_id, set, "loadbalancer"))
    }

    fn nic(&self, node: &str) -> ResourceId {
        self.named("networkInterfaces", &format!("{node}-nic"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::types::testing::{World, cluster, cluster_id, ml_world, net};

    const SUBNET: &str =
        "/subscriptions/s/resourceGroups/netrg/providers/Microsoft.Network/virtualNetworks/v/subnets/default";

    fn compute(extra: Value) -> (ResourceId, Value) {
        let id = ResourceId::parse(
            "/subscriptions/s/resourceGroups/mlrg/providers/Microsoft.MachineLearningServices/workspaces/w/computes/c",
        )
        .unwrap();
        let mut body = json!({ "location": "westus2", "properties": { "computeType": "AmlCompute",
            "properties": { "subnet": { "id": SUBNET } } } });
        document::merge(&mut body["properties"]["properties"], &extra);
        (id, body)
    }

    fn rule_names(edition: Edition, extra: Value) -> Vec<String> {
        let (id, body) = compute(extra);
        let documents = set_documents(&id, &body, 0, edition).unwrap();
        document::array_at(&documents[0].1, "properties.securityRules")
            .iter()
            .map(|r| r["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    #[test]
    fn a_set_lies_in_the_group_of_the_vnet() {
        let (id, body) = compute(json!({}));
        let documents = set_documents(&id, &body, 0, Edition::Seed2021).unwrap();
        assert_eq!(documents.len(), 3);
        assert!(documents.iter().all(|(d, _)| d.resource_group() == Some("netrg")));
    }

    #[test]
    fn rules_follow_the_edition() {
        assert!(rule_names(Edition::Seed2021, json!({})).contains(&"BatchServiceRule".to_owned()));
        let current = rule_names(Edition::Current, json!({}));
        assert!(
            !current.contains(&"BatchServiceRule".to_owned()) && current.contains(&"BatchServiceOutRule".to_owned())
        );
        assert!(!current.contains(&"RemoteLoginRule".to_owned()));
        assert!(
            rule_names(Edition::Current, json!({ "remoteLoginPortPublicAccess": "Enabled" }))
                .contains(&"RemoteLoginRule".to_owned())
        );
    }

    #[test]
    fn without_public_ip_nothing_is_made() {
        let (id, body) = compute(json!({ "enableNodePublicIp": false }));
        assert!(set_documents(&id, &body, 0, Edition::Current).unwrap().is_empty());
        assert!(load_balancer(&id, &body, 0, &[], Edition::Current).unwrap().is_none());
        let (_, nic) = nic(&id, &body, 0, "n", Edition::Current).unwrap();
        assert!(document::at(&nic, "properties.networkSecurityGroup").is_none());
    }

    #[test]
    fn each_management_port_of_each_node_has_its_own_front_end_port() {
        let (id, body) = compute(json!({}));
        let slots: Vec<Slot> = (0..100).map(|index| Slot { index, node: format!("n{index}") }).collect();
        let (_, balancer) = load_balancer(&id, &body, 0, &slots, Edition::Seed2021).unwrap().unwrap();
        let mut ports: Vec<u64> = document::array_at(&balancer, "properties.inboundNatRules")
            .iter()
            .filter_map(|r| document::u64_at(r, "properties.frontendPort"))
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 300);
    }

    /// A world in which the service writes what it makes for `cpucluster`, whose subnet has room for
    /// three nodes.
    fn service_world(edition: Edition) -> (World, ResourceId, Value) {
        let mut world = ml_world(edition);
        let small = json!({ "properties": { "addressPrefix": "10.0.3.0/29" } });
        world.put(&net("virtualNetworks/mynetwork/subnets/small"), small).unwrap();
        let subnet = json!({ "subnet": { "id": net("virtualNetworks/mynetwork/subnets/small") } });
        let body = world.put(&cluster_id("cpucluster"), cluster(subnet)).unwrap();
        world.principal = SERVICE_PRINCIPAL;
        (world, ResourceId::parse(&cluster_id("cpucluster")).unwrap(), body)
    }

    #[test]
    fn the_types_take_what_the_service_makes_until_the_subnet_is_full() {
        for edition in [Edition::Seed2021, Edition::Current] {
            let (mut world, id, compute) = service_world(edition);
            for (document, body) in set_documents(&id, &compute, 0, edition).unwrap() {
                world.put(document.as_str(), body).unwrap();
            }
            let mut slots = Vec::new();
            let mut refused = None;
            for index in 0..4 {
                let node = node_name(&id, index, Uuid::from_u128(u128::from(index)));
                let (document, body) = nic(&id, &compute, 0, &node, edition).unwrap();
                match world.put(document.as_str(), body) {
                    Ok(_) => slots.push(Slot { index, node }),
                    Err(e) => refused = Some(e.code),
                }
            }
            // AML-PRE-006: three of four, and why.
            assert_eq!((slots.len(), refused.as_deref()), (3, Some("SubnetIsFull")));
            let (balancer, body) = load_balancer(&id, &compute, 0, &slots, edition).unwrap().unwrap();
            world.put(balancer.as_str(), body).unwrap();
            let answered = world.get(balancer.as_str());
            let members = &answered["properties"]["backendAddressPools"][0]["properties"]["backendIPConfigurations"];
            assert_eq!(members.as_array().unwrap().len(), 3);
            assert_eq!(public_address(&world.snapshot, &id, &compute, 0).as_deref(), Some("20.51.0.1"));
        }
    }

    #[test]
    fn clients_cannot_take_away_what_the_service_made() {
        let (mut world, id, compute) = service_world(Edition::Seed2021);
        for (document, body) in set_documents(&id, &compute, 0, Edition::Seed2021).unwrap() {
            world.put(document.as_str(), body).unwrap();
        }
        let node = node_name(&id, 0, Uuid::nil());
        let (nic_id, body) = nic(&id, &compute, 0, &node, Edition::Seed2021).unwrap();
        world.put(nic_id.as_str(), body).unwrap();
        world.principal = "owner";
        let ids = set_ids(&id, &compute, 0).unwrap();
        let codes: Vec<String> =
            ids.iter().chain([&nic_id]).map(|document| world.delete(document.as_str()).unwrap_err().code).collect();
        assert_eq!(
            codes,
            [
                "InUseNetworkSecurityGroupCannotBeDeleted",
                "PublicIPAddressCannotBeDeleted",
                "LoadBalancerInUseByVirtualMachineScaleSet",
                "NicInUse"
            ]
        );
        // In the order the scheduler uses, the service may.
        world.principal = SERVICE_PRINCIPAL;
        for document in [&nic_id].into_iter().chain(ids.iter().rev()) {
            world.delete(document.as_str()).unwrap();
        }
    }

    #[test]
    fn sets_have_names_of_their_own() {
        let (id, body) = compute(json!({}));
        let (first, second) = (set_ids(&id, &body, 0).unwrap(), set_ids(&id, &body, 1).unwrap());
        assert!(first.iter().all(|a| !second.contains(a)));
        assert_eq!(first, set_ids(&id, &body, 0).unwrap());
    }
}
