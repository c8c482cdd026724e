//! Random networks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::rng::Rng;
use crate::ir::{
    Access, AddressMatch, Asg, AsgIx, BalancingRule, Direction, Frontend, InboundNatRule, IpConfig, LoadBalancer,
    NatGateway, NatGatewayIx, Net, NextHop, Nic, NicIx, Nsg, NsgIx, OutboundRule, Peering, PortRange, Protocol,
    PublicIp, PublicIpIx, Route, RoutePrefix, RouteTable, RouteTableIx, Rule, Sku, Subnet, SubnetIx, Vnet, VnetIx,
};
use crate::tags::TagSource;

/// What the worlds may use.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the prefixes of service tags come from.
    pub tags: TagSource,
    /// Tags that rules and routes may name.
    pub tag_names: Vec<String>,
    /// Public addresses are taken from here, from .1 on.
    pub public_pool: Ipv4Net,
}
impl Default for Options {
    /// Tags of the seed's edition that are not too large for one kernel set a world.
    fn default() -> Self {
        let names = ["BatchNodeManagement", "AzureMachineLearning", "Storage.WestUS2", "AzureKeyVault.WestEurope"];
        Self {
            tags: TagSource::File(crate::tags::september_2021()),
            tag_names: names.map(str::to_owned).to_vec(),
            public_pool: Ipv4Net::new_assert(Ipv4Addr::new(20, 0, 113, 0), 24),
        }
    }
}

const SCOPE: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/g/providers/Microsoft.Network";

/// Ports that rules and flows use; small, so that they meet.
pub(super) const PORTS: [u16; 8] = [22, 80, 443, 8080, 8786, 29876, 29877, 44224];

struct Builder<'o> {
    rng: Rng,
    options: &'o Options,
    net: Net,
    next_public: u32,
}

/// A network from `seed`: four VNets (two peered, one half-peered, one that overlaps the first),
/// ten NICs, NSGs at both levels, routes of every kind, and every way in and out.
pub fn world(seed: u64, options: &Options) -> Net {
    let mut b = Builder { rng: Rng::new(seed), options, net: Net::default(), next_public: 1 };
    b.tags();
    b.vnets();
    b.net.asgs = (0..2).map(|i| Asg { id: format!("{SCOPE}/applicationSecurityGroups/asg{i}") }).collect();
    b.nics();
    b.security_groups();
    b.route_tables();
    b.ways_in_and_out();
    b.net
}

fn at(index: usize) -> u32 {
    // Worlds have dozens of things, never 2^32.
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl Builder<'_> {
    fn tags(&mut self) {
        let names = &self.options.tag_names;
        let tags: BTreeMap<String, Vec<IpNet>> = names
            .iter()
            .filter_map(|n| self.options.tags.canonical(n, false))
            .map(|n| (n.clone(), self.options.tags.prefixes(&n)))
            .collect();
        self.net.tags = Arc::new(tags);
    }

    fn vnets(&mut self) {
        let first = at(self.rng.below(100));
        let second = 100 + at(self.rng.below(100));
        let third = at(self.rng.below(15));
        let space = |a: u32, b: u32| Ipv4Net::new_assert(Ipv4Addr::from_bits(a << 24 | b << 16), 16);
        let spaces = [space(10, first), space(10, second), space(172, 16 + third), space(10, first)];
        let subnets = [3, 2, 1, 2];
        for (i, (space, subnets)) in spaces.into_iter().zip(subnets).enumerate() {
            self.net.vnets.push(Vnet {
                id: format!("{SCOPE}/virtualNetworks/v{i}"),
                prefixes: vec![space.into()],
                peerings: Vec::new(),
                gateway_prefixes: Vec::new(),
                dns_servers: Vec::new(),
            });
            for s in 0..subnets {
                let third = [0u32, 1, 255][s % 3];
                let prefix = Ipv4Net::new_assert(Ipv4Addr::from_bits(space.addr().to_bits() | third << 8), 24);
                self.net.subnets.push(Subnet {
                    id: format!("{SCOPE}/virtualNetworks/v{i}/subnets/s{s}"),
                    name: format!("s{s}"),
                    vnet: VnetIx(at(i)),
                    prefixes: vec![prefix.into()],
                    nsg: None,
                    route_table: None,
                    nat_gateway: None,
                    service_endpoints: Vec::new(),
                    endpoint_nsg_policy: false,
                    endpoint_route_policy: false,
                    default_outbound: self.rng.chance(70),
                });
            }
        }
        let mut half = |to: u32, connected: bool, open: usize| Peering {
            name: format!("to-v{to}"),
            remote: Some(VnetIx(to)),
            connected,
            allow_access: self.rng.chance(open),
            allow_forwarded: self.rng.chance(50),
            allow_gateway_transit: false,
            use_remote_gateways: false,
        };
        let halves = [half(1, true, 95), half(2, false, 100), half(0, true, 85)];
        let [to_second, to_third, back] = halves;
        self.net.vnets[0].peerings = vec![to_second, to_third];
        self.net.vnets[1].peerings = vec![back];
    }

    fn nics(&mut self) {
        // Subnets 0-2 are of the first VNet, 3-4 of the second, 5 of the third, 6-7 of the fourth.
        for (i, subnet) in [0, 0, 1, 1, 2, 3, 4, 5, 6, 7].into_iter().enumerate() {
            let base = match self.net.subnets[subnet].prefixes[0] {
                IpNet::V4(p) => p.addr().to_bits(),
                IpNet::V6(_) => continue,
            };
            // The first usable address, the next, or the last one: the edges of a subnet.
            let host = if i % 2 == 0 { 4 } else { [5, 254, 128][self.rng.below(3)] };
            let asgs = (0..2).filter(|_| self.rng.chance(35)).map(AsgIx).collect();
            let id = format!("{SCOPE}/networkInterfaces/n{i}");
            self.net.nics.push(Nic {
                ip_configs: vec![IpConfig {
                    id: format!("{id}/ipConfigurations/c"),
                    address: IpAddr::V4(Ipv4Addr::from_bits(base | host)),
                    subnet: SubnetIx(at(subnet)),
                    public_ip: None,
                    asgs,
                }],
                id,
                nsg: None,
                // An appliance in the third subnet of the first VNet, one in the peer.
                ip_forwarding: i == 4 || i == 6,
            });
        }
    }

    fn address(&self, nic: usize) -> IpAddr {
        self.net.nics[nic].ip_configs[0].address
    }

    /// A prefix somebody in this world lives in: a NIC, half a subnet, a subnet, a VNet.
    fn some_prefix(&mut self) -> IpNet {
        let nic = self.rng.below(self.net.nics.len());
        let length = self.rng.weighted(&[(3, 32u8), (2, 25), (4, 24), (2, 16), (1, 9)], 24);
        match self.address(nic) {
            IpAddr::V4(a) => Ipv4Net::new(a, length).map_or(IpNet::from(IpAddr::V4(a)), |p| p.trunc().into()),
            other => other.into(),
        }
    }

    fn some_tag(&mut self) -> Option<String> {
        let names: Vec<&String> = self.net.tags.keys().collect();
        self.rng.pick(&names).map(|n| (*n).clone())
    }

    /// One side of a rule; kinds are never mixed, as in Azure (2.3).
    fn side(&mut self) -> Vec<AddressMatch> {
        match self.rng.below(100) {
            0..35 => vec![AddressMatch::Any],
            35..65 => {
                let count = 1 + self.rng.below(3);
                (0..count).map(|_| AddressMatch::Prefix(self.some_prefix())).collect()
            }
            65..80 => {
                let tag =
                    self.rng.weighted(&[(4, "VirtualNetwork"), (4, "Internet"), (1, "AzureLoadBalancer")], "Internet");
                vec![AddressMatch::Tag(tag.to_owned())]
            }
            80..90 => self.some_tag().map_or_else(|| vec![AddressMatch::Any], |t| vec![AddressMatch::Tag(t)]),
            _ => vec![AddressMatch::Asg(AsgIx(at(self.rng.below(2))))],
        }
    }

    fn ports(&mut self, wide: usize) -> Vec<PortRange> {
        if self.rng.chance(wide) {
            return vec![PortRange::ALL];
        }
        let count = 1 + self.rng.below(3);
        (0..count)
            .map(|_| {
                let first = self.rng.pick(&PORTS).copied().unwrap_or(443);
                let width = self.rng.weighted(&[(5, 0u16), (2, 1), (2, 100), (1, 9000)], 0);
                PortRange { first, last: first.saturating_add(width) }
            })
            .collect()
    }

    fn security_groups(&mut self) {
        for i in 0..6 {
            let mut rules = Vec::new();
            for r in 0..(2 + self.rng.below(8)) {
                let direction = if self.rng.chance(50) { Direction::Inbound } else { Direction::Outbound };
                let protocols =
                    [(4, None), (4, Some(Protocol::Tcp)), (3, Some(Protocol::Udp)), (1, Some(Protocol::Icmp))];
                let protocol = self.rng.weighted(&protocols, None);
                // ICMP with ports never matches (A5); Azure's portal writes `*` for it.
                let wide = if protocol == Some(Protocol::Icmp) { 90 } else { 45 };
                rules.push(Rule {
                    name: format!("r{r}"),
                    // Unique, in an order that is not the document's.
                    priority: 100 + at(self.rng.below(390)) * 10 + at(r),
                    direction,
                    access: if self.rng.chance(55) { Access::Allow } else { Access::Deny },
                    protocol,
                    sources: self.side(),
                    destinations: self.side(),
                    source_ports: self.ports(92),
                    destination_ports: self.ports(wide),
                });
            }
            self.net.nsgs.push(Nsg { id: format!("{SCOPE}/networkSecurityGroups/nsg{i}"), rules });
        }
        for s in 0..self.net.subnets.len() {
            self.net.subnets[s].nsg = self.rng.chance(55).then(|| NsgIx(at(self.rng.below(6))));
        }
        for n in 0..self.net.nics.len() {
            self.net.nics[n].nsg = self.rng.chance(45).then(|| NsgIx(at(self.rng.below(6))));
        }
    }

    fn route_tables(&mut self) {
        for i in 0..3 {
            let mut routes = Vec::new();
            for r in 0..(1 + self.rng.below(4)) {
                // The first table mostly overrides the default route: that is how replies get lost (5.11).
                let override_default = i == 0 && r == 0 && self.rng.chance(70);
                let prefix = match if override_default { 8 } else { self.rng.below(10) } {
                    0..6 => RoutePrefix::Prefix(self.some_prefix()),
                    6..8 => match self.some_tag() {
                        Some(tag) => RoutePrefix::Tag(tag),
                        None => RoutePrefix::Prefix(self.some_prefix()),
                    },
                    8 => RoutePrefix::Prefix(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into()),
                    _ => RoutePrefix::Prefix(Ipv4Net::new_assert(Ipv4Addr::new(8, 0, 0, 0), 7).into()),
                };
                let known = routes.iter().any(|r: &Route| r.prefix == prefix);
                let next_hop = match self.rng.below(10) {
                    0..3 => NextHop::None,
                    3..5 => NextHop::Internet,
                    5..8 => {
                        let appliance = if self.rng.chance(70) { 4 } else { 6 };
                        NextHop::VirtualAppliance(self.address(appliance))
                    }
                    // Nobody there, or a NIC that does not forward.
                    8 => NextHop::VirtualAppliance(self.address(2)),
                    _ => NextHop::VnetLocal,
                };
                // VnetLocal beyond the own space is not something Azure documents.
                let own = matches!(prefix, RoutePrefix::Prefix(p) if self.net.vnets[0].prefixes[0].contains(&p));
                if !known && (next_hop != NextHop::VnetLocal || own) {
                    routes.push(Route { name: format!("u{r}"), prefix, next_hop });
                }
            }
            let id = format!("{SCOPE}/routeTables/rt{i}");
            self.net.route_tables.push(RouteTable { id, routes, disable_gateway_routes: false });
        }
        for s in 0..self.net.subnets.len() {
            // Not the appliances' own subnets: their routes would send the packet back to them (5.8).
            let appliance = s == 2 || s == 4;
            let table = (!appliance && self.rng.chance(60)).then(|| RouteTableIx(at(self.rng.below(3))));
            self.net.subnets[s].route_table = table;
        }
    }

    fn public_ip(&mut self, sku: Sku) -> PublicIpIx {
        let ix = PublicIpIx(at(self.net.public_ips.len()));
        let address = Ipv4Addr::from_bits(self.options.public_pool.network().to_bits() + self.next_public);
        self.next_public += 1;
        let id = format!("{SCOPE}/publicIPAddresses/pip{}", ix.0);
        self.net.public_ips.push(PublicIp { id, address: Some(address.into()), sku });
        ix
    }

    fn ways_in_and_out(&mut self) {
        for nic in [0, 2, 5, 8] {
            if self.rng.chance(75) {
                let sku = if self.rng.chance(60) { Sku::Standard } else { Sku::Basic };
                let ip = self.public_ip(sku);
                self.net.nics[nic].ip_configs[0].public_ip = Some(ip);
            }
        }
        // A public address that leads nowhere.
        self.public_ip(Sku::Standard);
        let gateway_ip = self.public_ip(Sku::Standard);
        self.net
            .nat_gateways
            .push(NatGateway { id: format!("{SCOPE}/natGateways/nat0"), public_ips: vec![gateway_ip] });
        let subnet = [0, 1, 3, 5][self.rng.below(4)];
        self.net.subnets[subnet].nat_gateway = Some(NatGatewayIx(0));
        self.balancer();
    }

    fn balancer(&mut self) {
        let id = format!("{SCOPE}/loadBalancers/lb0");
        let sku = if self.rng.chance(75) { Sku::Standard } else { Sku::Basic };
        let ip = self.public_ip(sku);
        let frontend = Frontend { id: format!("{id}/frontendIPConfigurations/f"), public_ip: Some(ip), private: None };
        let members = [1u32, 3];
        let nat_rules = members.iter().zip(0u16..).map(|(nic, i)| InboundNatRule {
            name: format!("node{i}"),
            frontend: 0,
            protocol: Protocol::Tcp,
            frontend_port: 50_000 + i,
            backend_port: 44_224,
            backend: Some((NicIx(*nic), 0)),
        });
        let rules = vec![
            BalancingRule {
                name: "web".to_owned(),
                frontend: 0,
                protocol: Some(Protocol::Tcp),
                frontend_port: 80,
                backend_port: 8080,
                backends: vec![(NicIx(1), 0), (NicIx(3), 0)],
                disable_outbound_snat: true,
            },
            BalancingRule {
                name: "dns".to_owned(),
                frontend: 0,
                protocol: Some(Protocol::Udp),
                frontend_port: 443,
                backend_port: 443,
                backends: vec![(NicIx(3), 0)],
                disable_outbound_snat: true,
            },
        ];
        let outbound_rules = if self.rng.chance(60) {
            vec![OutboundRule { name: "out".to_owned(), frontends: vec![0], backends: vec![(NicIx(3), 0)] }]
        } else {
            Vec::new()
        };
        let nat_rules = nat_rules.collect();
        self.net.load_balancers.push(LoadBalancer {
            id,
            sku,
            frontends: vec![frontend],
            rules,
            nat_rules,
            outbound_rules,
        });
    }
}
