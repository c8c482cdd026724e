//! Small networks for tests, by names and addresses.

use std::net::IpAddr;
use std::sync::Arc;

use moat_net::ir::*;

/// A network under construction. Everything is looked up by the name it was given.
#[derive(Default)]
pub struct Build {
    pub net: Net,
}

fn ix<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap()
}

impl Build {
    pub fn vnet(&mut self, name: &str, prefix: &str) -> VnetIx {
        let at = VnetIx(ix(&self.net.vnets));
        self.net.vnets.push(Vnet {
            id: format!("/vnets/{name}"),
            prefixes: vec![prefix.parse().unwrap()],
            peerings: vec![],
            gateway_prefixes: vec![],
            dns_servers: vec![],
        });
        at
    }

    pub fn subnet(&mut self, vnet: VnetIx, name: &str, prefix: &str) -> SubnetIx {
        let at = SubnetIx(ix(&self.net.subnets));
        self.net.subnets.push(Subnet {
            id: format!("{}/subnets/{name}", self.net.vnet(vnet).id),
            name: name.into(),
            vnet,
            prefixes: vec![prefix.parse().unwrap()],
            nsg: None,
            route_table: None,
            nat_gateway: None,
            service_endpoints: vec![],
            endpoint_nsg_policy: false,
            endpoint_route_policy: false,
            default_outbound: true,
        });
        at
    }

    pub fn nic(&mut self, name: &str, subnet: SubnetIx, address: &str) -> NicIx {
        let at = NicIx(ix(&self.net.nics));
        self.net.nics.push(Nic {
            id: format!("/nics/{name}"),
            ip_configs: vec![IpConfig {
                id: format!("/nics/{name}/ip"),
                address: address.parse().unwrap(),
                subnet,
                public_ip: None,
                asgs: vec![],
            }],
            nsg: None,
            ip_forwarding: false,
        });
        at
    }

    /// Rules as lines: `100 in deny tcp SOURCE DESTINATION PORT`, `*` for anything.
    pub fn nsg(&mut self, name: &str, rules: &[&str]) -> NsgIx {
        let at = NsgIx(ix(&self.net.nsgs));
        let rules = rules.iter().map(|r| rule(r)).collect();
        self.net.nsgs.push(Nsg { id: format!("/nsgs/{name}"), rules });
        at
    }

    pub fn public_ip(&mut self, name: &str, address: &str, sku: Sku) -> PublicIpIx {
        let at = PublicIpIx(ix(&self.net.public_ips));
        let address = Some(address.parse().unwrap());
        self.net.public_ips.push(PublicIp { id: format!("/ips/{name}"), address, sku });
        at
    }

    pub fn route_table(&mut self, name: &str, routes: &[(&str, NextHop)]) -> RouteTableIx {
        let at = RouteTableIx(ix(&self.net.route_tables));
        let routes = routes
            .iter()
            .map(|(p, hop)| Route {
                name: p.replace('/', "_"),
                prefix: p.parse().map_or_else(|_| RoutePrefix::Tag((*p).into()), RoutePrefix::Prefix),
                next_hop: *hop,
            })
            .collect();
        self.net.route_tables.push(RouteTable { id: format!("/routes/{name}"), routes, disable_gateway_routes: false });
        at
    }

    pub fn peer(&mut self, a: VnetIx, b: VnetIx) {
        for (from, to) in [(a, b), (b, a)] {
            self.net.vnets[from.at()].peerings.push(Peering {
                name: format!("to-{}", to.0),
                remote: Some(to),
                connected: true,
                allow_access: true,
                allow_forwarded: false,
                allow_gateway_transit: false,
                use_remote_gateways: false,
            });
        }
    }

    pub fn tag(&mut self, name: &str, prefixes: &[&str]) {
        let tags = Arc::make_mut(&mut self.net.tags);
        tags.insert(name.into(), prefixes.iter().map(|p| p.parse().unwrap()).collect());
    }

    pub fn config(&mut self, nic: NicIx) -> &mut IpConfig {
        &mut self.net.nics[nic.at()].ip_configs[0]
    }

    pub fn subnet_mut(&mut self, subnet: SubnetIx) -> &mut Subnet {
        &mut self.net.subnets[subnet.at()]
    }
}

fn rule(text: &str) -> Rule {
    let [priority, direction, access, protocol, source, destination, port] =
        text.split_whitespace().collect::<Vec<_>>()[..]
    else {
        panic!("seven words: {text}")
    };
    let side = |t: &str| match t {
        "*" => AddressMatch::Any,
        t => t
            .parse()
            .map(AddressMatch::Prefix)
            .or_else(|_| t.parse::<IpAddr>().map(|a| AddressMatch::Prefix(a.into())))
            .unwrap_or_else(|_| AddressMatch::Tag(t.into())),
    };
    let ports = match port {
        "*" => vec![PortRange::ALL],
        list => list
            .split(',')
            .map(|p| {
                let (a, b) = p.split_once('-').unwrap_or((p, p));
                PortRange { first: a.parse().unwrap(), last: b.parse().unwrap() }
            })
            .collect(),
    };
    Rule {
        name: format!("r{priority}{direction}"),
        priority: priority.parse().unwrap(),
        direction: if direction == "in" { Direction::Inbound } else { Direction::Outbound },
        access: if access == "allow" { Access::Allow } else { Access::Deny },
        protocol: match protocol {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "icmp" => Some(Protocol::Icmp),
            _ => None,
        },
        sources: vec![side(source)],
        destinations: vec![side(destination)],
        source_ports: vec![PortRange::ALL],
        destination_ports: ports,
    }
}
