//! The network as a value: VNets, subnets, NICs, rule lists, routes, NAT.
//!
//! Arena style: everything lives in a `Vec` of [`Net`] and is named by a typed index, so the value
//! can be cloned, hashed and compared, and a wrong reference cannot be built by lowering twice.
//! Each element keeps the id of the document it came from. Nothing here is resolved yet: tags
//! stay names, since `VirtualNetwork` and `Internet` mean different addresses in each subnet.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

macro_rules! index {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u32);
        impl $name {
            /// Position in the arena.
            pub fn at(self) -> usize { self.0 as usize }
        }
    )*};
}
index! {
    /// Names a [`Vnet`].
    VnetIx;
    /// Names a [`Subnet`].
    SubnetIx;
    /// Names a [`Nic`].
    NicIx;
    /// Names an [`Nsg`].
    NsgIx;
    /// Names an [`Asg`].
    AsgIx;
    /// Names a [`RouteTable`].
    RouteTableIx;
    /// Names a [`PublicIp`].
    PublicIpIx;
    /// Names a [`NatGateway`].
    NatGatewayIx;
    /// Names a [`LoadBalancer`].
    LoadBalancerIx;
}

/// A whole network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Net {
    /// Which of the switchable assumptions hold.
    pub semantics: Semantics,
    /// Service tags that rules and routes may name, spelled as in the tag file.
    pub tags: Arc<BTreeMap<String, Vec<IpNet>>>,
    /// The address that default outbound access lends a VNet (9.3), by lower-case document id; a
    /// VNet without one uses [`crate::layers::egress::default_address`].
    #[serde(default)]
    pub default_outbound: BTreeMap<String, Ipv4Addr>,
    /// Virtual networks.
    pub vnets: Vec<Vnet>,
    /// Subnets of all VNets.
    pub subnets: Vec<Subnet>,
    /// Network interfaces.
    pub nics: Vec<Nic>,
    /// Network security groups.
    pub nsgs: Vec<Nsg>,
    /// Application security groups.
    pub asgs: Vec<Asg>,
    /// Route tables.
    pub route_tables: Vec<RouteTable>,
    /// Public IP addresses.
    pub public_ips: Vec<PublicIp>,
    /// NAT gateways.
    pub nat_gateways: Vec<NatGateway>,
    /// Load balancers.
    pub load_balancers: Vec<LoadBalancer>,
    /// Private endpoints.
    pub private_endpoints: Vec<PrivateEndpoint>,
    /// Azure Firewalls (network rules only so far).
    pub firewalls: Vec<Firewall>,
}

/// The switchable assumptions A1-A24 of the truth vectors, as far as they are switches.
/// The default is what the vectors assume plus [`Semantics::closed_by_default`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Semantics {
    /// Inbound through a Standard public IP or balancer needs an NSG on subnet or NIC
    /// (network-semantics 2.10). Off for the truth vectors, which do not model it.
    pub closed_by_default: bool,
    /// Whether service tag names are compared with case (A24).
    pub tag_names_case_sensitive: bool,
}
impl Default for Semantics {
    fn default() -> Self {
        Self { closed_by_default: true, tag_names_case_sensitive: false }
    }
}

/// A virtual network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vnet {
    /// Document id.
    pub id: String,
    /// Address space.
    pub prefixes: Vec<IpNet>,
    /// Its half of each peering.
    pub peerings: Vec<Peering>,
    /// On-premises prefixes known through its own gateway.
    pub gateway_prefixes: Vec<IpNet>,
    /// Custom DNS servers; empty means Azure DNS.
    pub dns_servers: Vec<IpAddr>,
}

/// One half of a peering; it carries packets only if the other half exists and both are connected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peering {
    /// Name of the half.
    pub name: String,
    /// The other VNet, if it is in this network.
    pub remote: Option<VnetIx>,
    /// `peeringState` is `Connected`.
    pub connected: bool,
    /// `allowVirtualNetworkAccess`.
    pub allow_access: bool,
    /// `allowForwardedTraffic`.
    pub allow_forwarded: bool,
    /// `allowGatewayTransit`.
    pub allow_gateway_transit: bool,
    /// `useRemoteGateways`.
    pub use_remote_gateways: bool,
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subnet {
    /// Document id.
    pub id: String,
    /// Name.
    pub name: String,
    /// The VNet it lies in.
    pub vnet: VnetIx,
    /// Address prefixes.
    pub prefixes: Vec<IpNet>,
    /// NSG at the subnet.
    pub nsg: Option<NsgIx>,
    /// Route table.
    pub route_table: Option<RouteTableIx>,
    /// NAT gateway.
    pub nat_gateway: Option<NatGatewayIx>,
    /// Services with a service endpoint, for example `Microsoft.Storage`.
    pub service_endpoints: Vec<String>,
    /// Whether NSG rules act on private endpoints in this subnet.
    pub endpoint_nsg_policy: bool,
    /// Whether user routes act on private endpoints in this subnet.
    pub endpoint_route_policy: bool,
    /// `defaultOutboundAccess`, true unless switched off.
    pub default_outbound: bool,
}

/// A network interface. Its first IP configuration is the primary one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nic {
    /// Document id.
    pub id: String,
    /// Addresses; never empty.
    pub ip_configs: Vec<IpConfig>,
    /// NSG at the NIC.
    pub nsg: Option<NsgIx>,
    /// `enableIPForwarding`.
    pub ip_forwarding: bool,
}

/// One IP configuration of a NIC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Document id of the configuration.
    pub id: String,
    /// Private address.
    pub address: IpAddr,
    /// Subnet.
    pub subnet: SubnetIx,
    /// Instance-level public IP.
    pub public_ip: Option<PublicIpIx>,
    /// Membership in application security groups.
    pub asgs: Vec<AsgIx>,
}

/// A network security group: its own rules only; the six default rules are implied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nsg {
    /// Document id.
    pub id: String,
    /// Custom rules of both directions, in document order.
    pub rules: Vec<Rule>,
}

/// Which way a rule looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// Towards the NIC.
    Inbound,
    /// From the NIC.
    Outbound,
}

/// What a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Access {
    /// Let through.
    Allow,
    /// Drop.
    Deny,
}

/// A concrete IP protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// 6.
    Tcp,
    /// 17.
    Udp,
    /// 1.
    Icmp,
    /// 50.
    Esp,
    /// 51.
    Ah,
}

/// A security rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Name within its NSG.
    pub name: String,
    /// 100-4096; lower is tried first. Default rules use 65000 and above.
    pub priority: u32,
    /// Direction.
    pub direction: Direction,
    /// Verdict.
    pub access: Access,
    /// `None` means any.
    pub protocol: Option<Protocol>,
    /// Alternatives; an empty list matches nothing.
    pub sources: Vec<AddressMatch>,
    /// Alternatives; an empty list matches nothing.
    pub destinations: Vec<AddressMatch>,
    /// Alternatives, inclusive.
    pub source_ports: Vec<PortRange>,
    /// Alternatives, inclusive.
    pub destination_ports: Vec<PortRange>,
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}
impl PortRange {
    /// 0-65535, written `*`.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };
}

/// One alternative of a rule's source or destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AddressMatch {
    /// `*`.
    Any,
    /// A prefix or single address.
    Prefix(IpNet),
    /// A service tag by name, dynamic ones such as `VirtualNetwork` included.
    Tag(String),
    /// Members of an application security group.
    Asg(AsgIx),
}

/// An application security group; members point at it from their IP configurations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asg {
    /// Document id.
    pub id: String,
}

/// A route table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Document id.
    pub id: String,
    /// User-defined routes.
    pub routes: Vec<Route>,
    /// `disableBgpRoutePropagation`.
    pub disable_gateway_routes: bool,
}

/// A user-defined route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Name within its table.
    pub name: String,
    /// What it covers.
    pub prefix: RoutePrefix,
    /// Where it leads.
    pub next_hop: NextHop,
}

/// What a route covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoutePrefix {
    /// An explicit prefix.
    Prefix(IpNet),
    /// All prefixes of a service tag.
    Tag(String),
}

/// Next hop types of user routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NextHop {
    /// Within the VNet.
    VnetLocal,
    /// Out by the subnet's way out.
    Internet,
    /// To the VPN gateway.
    VirtualNetworkGateway,
    /// To an appliance at this address.
    VirtualAppliance(IpAddr),
    /// Dropped.
    None,
}

/// SKU of public IPs and balancers: only Standard is closed by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sku {
    /// Open unless an NSG closes it.
    Basic,
    /// Closed unless an NSG opens it.
    Standard,
}

/// A public IP address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublicIp {
    /// Document id.
    pub id: String,
    /// The address, once allocated.
    pub address: Option<IpAddr>,
    /// SKU.
    pub sku: Sku,
}

/// A NAT gateway; subnets point at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NatGateway {
    /// Document id.
    pub id: String,
    /// Its public addresses.
    pub public_ips: Vec<PublicIpIx>,
}

/// A load balancer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// Document id.
    pub id: String,
    /// SKU.
    pub sku: Sku,
    /// Front ends.
    pub frontends: Vec<Frontend>,
    /// Load-balancing rules.
    pub rules: Vec<BalancingRule>,
    /// Inbound NAT rules.
    pub nat_rules: Vec<InboundNatRule>,
    /// Outbound rules.
    pub outbound_rules: Vec<OutboundRule>,
}

/// A front end of a balancer: public or private.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frontend {
    /// Document id of the front end configuration.
    pub id: String,
    /// Public address document, for a public balancer.
    pub public_ip: Option<PublicIpIx>,
    /// Private address, for an internal balancer.
    pub private: Option<(IpAddr, SubnetIx)>,
}

/// A member of a backend pool: a NIC and the position of its IP configuration.
pub type Backend = (NicIx, u32);

/// A load-balancing rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BalancingRule {
    /// Name.
    pub name: String,
    /// Position in `frontends`.
    pub frontend: u32,
    /// `None` means all protocols (HA ports).
    pub protocol: Option<Protocol>,
    /// Front end port; 0 with HA ports.
    pub frontend_port: u16,
    /// Backend port; 0 with HA ports.
    pub backend_port: u16,
    /// Members.
    pub backends: Vec<Backend>,
    /// `disableOutboundSnat`.
    pub disable_outbound_snat: bool,
}

/// An inbound NAT rule: one front end port to one NIC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InboundNatRule {
    /// Name.
    pub name: String,
    /// Position in `frontends`.
    pub frontend: u32,
    /// Protocol.
    pub protocol: Protocol,
    /// Front end port.
    pub frontend_port: u16,
    /// Backend port.
    pub backend_port: u16,
    /// The member, once associated.
    pub backend: Option<Backend>,
}

/// An outbound rule: pool members leave with a front end's address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutboundRule {
    /// Name.
    pub name: String,
    /// Positions in `frontends`.
    pub frontends: Vec<u32>,
    /// Members.
    pub backends: Vec<Backend>,
}

/// A private endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrivateEndpoint {
    /// Document id.
    pub id: String,
    /// Subnet.
    pub subnet: SubnetIx,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Connection state is `Approved`.
    pub approved: bool,
}

/// An Azure Firewall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Firewall {
    /// Document id.
    pub id: String,
    /// Subnet (`AzureFirewallSubnet`).
    pub subnet: SubnetIx,
    /// Private address.
    pub address: IpAddr,
    /// Network rule collections, in document order.
    pub collections: Vec<FirewallCollection>,
}

/// A network rule collection of a firewall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FirewallCollection {
    /// Name.
    pub name: String,
    /// Lower is tried first.
    pub priority: u32,
    /// Verdict of every rule in it.
    pub access: Access,
    /// Rules in listed order.
    pub rules: Vec<FirewallRule>,
}

/// A network rule of a firewall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FirewallRule {
    /// Name.
    pub name: String,
    /// Empty means any.
    pub protocols: Vec<Protocol>,
    /// Alternatives.
    pub sources: Vec<AddressMatch>,
    /// Alternatives.
    pub destinations: Vec<AddressMatch>,
    /// Alternatives.
    pub destination_ports: Vec<PortRange>,
}

impl Net {
    /// The VNet named by `ix`.
    pub fn vnet(&self, ix: VnetIx) -> &Vnet {
        &self.vnets[ix.at()]
    }
    /// The subnet named by `ix`.
    pub fn subnet(&self, ix: SubnetIx) -> &Subnet {
        &self.subnets[ix.at()]
    }
    /// The NIC named by `ix`.
    pub fn nic(&self, ix: NicIx) -> &Nic {
        &self.nics[ix.at()]
    }
    /// The NSG named by `ix`.
    pub fn nsg(&self, ix: NsgIx) -> &Nsg {
        &self.nsgs[ix.at()]
    }
    /// NICs with their indices.
    pub fn nics(&self) -> impl Iterator<Item = (NicIx, &Nic)> {
        self.nics.iter().enumerate().map(|(i, n)| (NicIx(u32::try_from(i).unwrap_or(u32::MAX)), n))
    }
}
