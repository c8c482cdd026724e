//! Worlds to measure on, as documents: what a client would have sent, made by rule and not by chance.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use moat_arm::{ResourceId, Snapshot, Stored};
use moat_control::{ArmRequest, Ctx, Method, Origin, Principal};
use moat_model::{Edition, lower};
use moat_net::ir::{Net, Semantics};
use serde_json::{Value, json};

/// Subscription of every document here.
pub const SUBSCRIPTION: &str = "11111111-2222-3333-4444-555555555555";
/// Who owns it.
const OWNER: &str = "aaaaaaaa-0000-0000-0000-000000000001";
/// Resource group of every document here.
pub const GROUP: &str = "bench";
/// Version that requests name.
pub const API_VERSION: &str = "2024-05-01";
/// Region of every document here.
pub const LOCATION: &str = "westus2";

fn network(kind: &str, name: &str) -> ResourceId {
    ResourceId::resource_group_scope(SUBSCRIPTION, GROUP).provider("Microsoft.Network", kind, name)
}

/// What a network security group holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Inbound rules.
    pub inbound: u16,
    /// Outbound rules.
    pub outbound: u16,
    /// Whether every other rule allows: then neighbours cannot be folded into one set.
    pub mixed: bool,
    /// Another salt, other ports in every rule.
    pub salt: u16,
}

impl Rules {
    /// So many each way.
    pub fn both(each: u16, mixed: bool) -> Self {
        Self { inbound: each, outbound: each, mixed, salt: 0 }
    }
}

/// A network security group. Of each direction the last rule allows the VNet; all others concern addresses that no
/// packet of a measurement has, so that every packet meets all of them.
pub fn nsg_body(rules: Rules) -> Value {
    let mut all = Vec::new();
    for (direction, count) in [("Inbound", rules.inbound), ("Outbound", rules.outbound)] {
        for at in 0..count {
            let [high, low] = at.to_be_bytes();
            let (access, source, destination, port) = if at + 1 == count {
                ("Allow", "10.0.0.0/8".to_owned(), "10.0.0.0/8".to_owned(), "*".to_owned())
            } else {
                let access = if rules.mixed && at % 2 == 1 { "Allow" } else { "Deny" };
                let port = 20_000 + rules.salt + at % 1_000;
                (access, format!("172.16.{high}.{low}/32"), format!("172.17.{high}.{low}/32"), port.to_string())
            };
            all.push(json!({
                "name": format!("{}-{at}", direction.to_lowercase()),
                "properties": {
                    "priority": 100 + at, "direction": direction, "access": access, "protocol": "Tcp",
                    "sourceAddressPrefix": source, "sourcePortRange": "*",
                    "destinationAddressPrefix": destination, "destinationPortRange": port,
                },
            }));
        }
    }
    json!({"location": LOCATION, "properties": {"securityRules": all}})
}

/// A network: VNets peered with the first, subnets in each, NICs spread over the subnets.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// VNets, at most 200.
    pub vnets: u8,
    /// Subnets of each VNet, at most 16; each has a security group of its own.
    pub subnets: u8,
    /// NICs of each subnet, at most 4,000.
    pub nics: u16,
    /// The group at each subnet.
    pub rules: Rules,
    /// Whether each NIC has the group of its subnet too.
    pub nic_groups: bool,
}

impl Shape {
    /// A team's network.
    pub const SMALL: Self = Self {
        vnets: 1,
        subnets: 3,
        nics: 4,
        rules: Rules { inbound: 10, outbound: 10, mixed: true, salt: 0 },
        nic_groups: false,
    };
    /// A hub with nine spokes.
    pub const MEDIUM: Self = Self {
        vnets: 10,
        subnets: 4,
        nics: 10,
        rules: Rules { inbound: 100, outbound: 100, mixed: true, salt: 0 },
        nic_groups: false,
    };

    /// One VNet, one subnet.
    pub fn star(nics: u16, rules: Rules, nic_groups: bool) -> Self {
        Self { vnets: 1, subnets: 1, nics, rules, nic_groups }
    }

    /// The documents.
    pub fn snapshot(&self) -> Snapshot {
        let mut documents = Vec::new();
        let mut put = |id: ResourceId, body: Value| documents.push(Stored { id, body, seq: 1, created_seq: 1 });
        for vnet in 0..self.vnets {
            let vnet_id = network("virtualNetworks", &format!("v{vnet}"));
            let mut subnets = Vec::new();
            for subnet in 0..self.subnets {
                let name = format!("v{vnet}-s{subnet}");
                let nsg = network("networkSecurityGroups", &name);
                put(nsg.clone(), nsg_body(self.rules));
                subnets.push(json!({"name": format!("s{subnet}"), "properties": {
                    "addressPrefix": format!("10.{vnet}.{}.0/20", u16::from(subnet) * 16),
                    "networkSecurityGroup": {"id": nsg.as_str()},
                }}));
                for nic in 0..self.nics {
                    let mut properties = json!({"ipConfigurations": [{"name": "c", "properties": {
                        "primary": true,
                        "privateIPAddress": address(vnet, subnet, nic).to_string(),
                        "privateIPAllocationMethod": "Static",
                        "subnet": {"id": vnet_id.child("subnets", &format!("s{subnet}")).as_str()},
                    }}]});
                    if self.nic_groups {
                        properties["networkSecurityGroup"] = json!({"id": nsg.as_str()});
                    }
                    let id = network("networkInterfaces", &format!("{name}-n{nic}"));
                    put(id, json!({"location": LOCATION, "properties": properties}));
                }
            }
            let peers: Vec<u8> = if vnet == 0 { (1..self.vnets).collect() } else { vec![0] };
            let peerings: Vec<Value> = peers.iter().map(|peer| peering(*peer)).collect();
            put(
                vnet_id,
                json!({"location": LOCATION, "properties": {
                    "addressSpace": {"addressPrefixes": [format!("10.{vnet}.0.0/16")]},
                    "subnets": subnets, "virtualNetworkPeerings": peerings,
                }}),
            );
        }
        Snapshot::from_documents(1, documents)
    }

    /// The network.
    pub fn net(&self) -> Net {
        let tags = lower::tags_of(Edition::Seed2021);
        lower::network(&self.snapshot(), Semantics::default(), &tags).0
    }
}

fn peering(with: u8) -> Value {
    json!({"name": format!("to-{with}"), "properties": {
        "remoteVirtualNetwork": {"id": network("virtualNetworks", &format!("v{with}")).as_str()},
        "allowVirtualNetworkAccess": true, "allowForwardedTraffic": true, "peeringState": "Connected",
    }})
}

/// Document id of a NIC, as plans write places.
pub fn nic_id(vnet: u8, subnet: u8, nic: u16) -> String {
    network("networkInterfaces", &format!("v{vnet}-s{subnet}-n{nic}")).key().to_owned()
}

/// Address of a NIC. Azure keeps the first four of a subnet.
pub fn address(vnet: u8, subnet: u8, nic: u16) -> Ipv4Addr {
    let [high, low] = (u16::from(subnet) * 16 * 256 + 4 + nic).to_be_bytes();
    Ipv4Addr::new(10, vnet, high, low)
}

/// [`address`] as either family.
pub fn ip(vnet: u8, subnet: u8, nic: u16) -> IpAddr {
    address(vnet, subnet, nic).into()
}

/// What a filler document is: every other one a group of four rules, every other one a route table.
pub fn filler(at: usize) -> (&'static str, String, Value) {
    if at.is_multiple_of(2) {
        let mut body = nsg_body(Rules::both(2, true));
        body["tags"] = json!({"round": "0"});
        ("networkSecurityGroups", format!("nsg-{at:05}"), body)
    } else {
        let route = json!({"name": "r", "properties": {"addressPrefix": "10.1.0.0/16", "nextHopType": "None"}});
        let body = json!({"location": LOCATION, "tags": {"round": "0"}, "properties": {"routes": [route]}});
        ("routeTables", format!("rt-{at:05}"), body)
    }
}

/// Path of a document in `subscription`; groups of at most 500 documents.
pub fn filler_path(subscription: &str, at: usize) -> String {
    let (kind, name, _) = filler(at);
    format!("{}/providers/Microsoft.Network/{kind}/{name}", filler_group(subscription, at))
}

/// Path of the resource group of a filler document.
pub fn filler_group(subscription: &str, at: usize) -> String {
    format!("/subscriptions/{subscription}/resourceGroups/{GROUP}-{:02}", at / 500)
}

/// A world of `count` filler documents, each decided as if a client had sent it.
pub fn filled(count: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.apply(&moat_control::bootstrap(SUBSCRIPTION, OWNER, "99999999-0000-0000-0000-000000000000"));
    let mut send = |path: String, body: &Value| {
        let decision = moat_control::decide(&snapshot, &request(Method::Put, path, Some(body.to_string())), &context());
        assert!(decision.status < 300, "a filler was refused: {decision:?}");
        snapshot.apply(&decision.batch);
    };
    for at in 0..count {
        if at.is_multiple_of(500) {
            send(filler_group(SUBSCRIPTION, at), &json!({"location": LOCATION}));
        }
        send(filler_path(SUBSCRIPTION, at), &filler(at).2);
    }
    snapshot
}

/// A request of the owner.
pub fn request(method: Method, path: String, body: Option<String>) -> ArmRequest {
    ArmRequest {
        method,
        path,
        query: BTreeMap::from([("api-version".to_owned(), API_VERSION.to_owned())]),
        body,
        principal: Principal {
            object_id: OWNER.to_owned(),
            app_id: OWNER.to_owned(),
            name: "bench".to_owned(),
            run: None,
        },
        origin: Origin::Public,
        if_match: None,
        if_none_match: None,
    }
}

/// What `decide` knows beside; the data plane has realised everything.
pub fn context() -> Ctx {
    Ctx {
        now: jiff::Timestamp::UNIX_EPOCH,
        seed: uuid::Uuid::from_u128(7),
        edition: Edition::Seed2021,
        tenant: "66666666-7777-8888-9999-000000000000".to_owned(),
        subscription: SUBSCRIPTION.to_owned(),
        applied: u64::MAX,
        base_url: "https://management.azure.com".to_owned(),
        public_pool: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_lower_without_a_problem() {
        for shape in [Shape::SMALL, Shape::MEDIUM, Shape::star(300, Rules::both(3, true), true)] {
            let snapshot = shape.snapshot();
            let tags = lower::tags_of(Edition::Seed2021);
            let (net, problems) = lower::network(&snapshot, Semantics::default(), &tags);
            assert_eq!(problems, []);
            let nics = usize::from(shape.vnets) * usize::from(shape.subnets) * usize::from(shape.nics);
            assert_eq!(net.nics.len(), nics);
            assert_eq!(net.nsgs[0].rules.len(), usize::from(shape.rules.inbound + shape.rules.outbound));
        }
    }

    #[test]
    fn every_filler_is_accepted() {
        assert!(filled(12).len() >= 12);
    }
}
