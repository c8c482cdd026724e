//! Virtual networks, subnets, peerings and route tables.

use std::net::{IpAddr, Ipv4Addr};

use moat_arm::document::{array_at, bool_at, str_at};
use moat_net::ir::{
    NatGateway, NatGatewayIx, NextHop, NsgIx, Peering, PublicIp, PublicIpIx, Route, RoutePrefix, RouteTable,
    RouteTableIx, Sku, Subnet, Vnet, VnetIx,
};
use serde_json::Value;

use super::read::prefix;
use super::{Doc, Kind, Lowering, What};
use crate::types::microsoft_network::public_ip_prefixes;

/// SKU of a public IP or balancer; Azure's default is Basic.
pub(crate) fn sku(body: &Value) -> Sku {
    match str_at(body, "sku.name") {
        Some(name) if name.eq_ignore_ascii_case("Standard") => Sku::Standard,
        _ => Sku::Basic,
    }
}

impl<'a> Lowering<'a> {
    pub(crate) fn public_addresses(&mut self) {
        for (at, doc) in self.docs(Kind::PublicIp).iter().enumerate() {
            self.place(Kind::PublicIp, &doc.id, at);
            let address = self.address(doc, "properties.ipAddress");
            self.net.public_ips.push(PublicIp { id: doc.id.clone(), address, sku: sku(doc.body) });
        }
        // Addresses of prefixes follow those that are documents of their own; what names a prefix and sends from one
        // address only (a front end of a balancer) takes its first.
        let mut prefixes: Vec<Vec<PublicIpIx>> = Vec::new();
        for (at, doc) in self.docs(Kind::PublicIpPrefix).iter().enumerate() {
            self.place(Kind::PublicIpPrefix, &doc.id, at);
            let block = public_ip_prefixes::block(doc.body);
            if block.is_none() {
                self.problem(&doc.id, "properties.ipPrefix", What::Missing);
            }
            let addresses = block.into_iter().flat_map(|b| u32::from(b.network())..=u32::from(b.broadcast()));
            let mut own = Vec::new();
            for address in addresses.map(|a| Some(IpAddr::from(Ipv4Addr::from(a)))) {
                if self.net.public_ips.iter().any(|p| p.address == address) {
                    continue;
                }
                let at = self.net.public_ips.len();
                let id = if own.is_empty() { doc.id.clone() } else { format!("{}/addresses/{at}", doc.id) };
                own.push(PublicIpIx(self.place(Kind::PublicIp, &id, at)));
                self.net.public_ips.push(PublicIp { id, address, sku: Sku::Standard });
            }
            prefixes.push(own);
        }
        for (at, doc) in self.docs(Kind::NatGateway).iter().enumerate() {
            self.place(Kind::NatGateway, &doc.id, at);
            let ips = self.refer_all(doc, "properties.publicIpAddresses", Kind::PublicIp);
            let public_ips = ips.into_iter().map(PublicIpIx).collect();
            let mut public_ips: Vec<PublicIpIx> = public_ips;
            for prefix in self.refer_all(doc, "properties.publicIpPrefixes", Kind::PublicIpPrefix) {
                public_ips.extend(&prefixes[prefix as usize]);
            }
            self.net.nat_gateways.push(NatGateway { id: doc.id.clone(), public_ips });
        }
    }

    pub(crate) fn vnets(&mut self) {
        let docs = self.docs(Kind::Vnet);
        for (at, doc) in docs.iter().enumerate() {
            self.place(Kind::Vnet, &doc.id, at);
        }
        for (at, doc) in docs.iter().enumerate() {
            let vnet = VnetIx(u32::try_from(at).unwrap_or(u32::MAX));
            let prefixes = self.prefixes(doc, "", "properties.addressSpace.addressPrefixes");
            let peerings = self.children(doc, "virtualNetworkPeerings");
            let peerings = peerings.iter().map(|p| self.peering(p)).collect();
            let servers = array_at(doc.body, "properties.dhcpOptions.dnsServers");
            let dns_servers: Vec<IpAddr> =
                servers.iter().filter_map(Value::as_str).filter_map(|t| t.parse().ok()).collect();
            if dns_servers.len() != servers.len() {
                let what = What::BadAddress("one of its entries".to_owned());
                self.problem(&doc.id, "properties.dhcpOptions.dnsServers", what);
            }
            let id = doc.id.clone();
            self.net.vnets.push(Vnet { id, prefixes, peerings, gateway_prefixes: Vec::new(), dns_servers });
            for subnet in self.children(doc, "subnets") {
                self.subnet(vnet, &subnet);
            }
        }
    }

    fn peering(&mut self, doc: &Doc<'_>) -> Peering {
        let flag = |name: &str| bool_at(doc.body, &format!("properties.{name}"));
        Peering {
            name: doc.name.clone(),
            remote: str_at(doc.body, "properties.remoteVirtualNetwork.id")
                .and_then(|id| self.find(Kind::Vnet, id))
                .map(VnetIx),
            // A template has no state yet; both halves together mean connected (6.1).
            connected: str_at(doc.body, "properties.peeringState").is_none_or(|s| s.eq_ignore_ascii_case("Connected")),
            allow_access: flag("allowVirtualNetworkAccess").unwrap_or(true),
            allow_forwarded: flag("allowForwardedTraffic").unwrap_or(false),
            allow_gateway_transit: flag("allowGatewayTransit").unwrap_or(false),
            use_remote_gateways: flag("useRemoteGateways").unwrap_or(false),
        }
    }

    fn subnet(&mut self, vnet: VnetIx, doc: &Doc<'_>) {
        let prefixes = self.prefixes(doc, "properties.addressPrefix", "properties.addressPrefixes");
        let mut services = Vec::new();
        for endpoint in array_at(doc.body, "properties.serviceEndpoints") {
            let Some(service) = str_at(endpoint, "service") else { continue };
            match moat_net::routes::endpoint_tag(service) {
                Some(tag) => self.use_tag(tag),
                None => self.problem(&doc.id, "properties.serviceEndpoints", What::BadValue(service.to_owned())),
            }
            services.push(service.to_owned());
        }
        let policy = str_at(doc.body, "properties.privateEndpointNetworkPolicies").unwrap_or("Disabled");
        let policy_is = |value: &str| policy.eq_ignore_ascii_case("Enabled") || policy.eq_ignore_ascii_case(value);
        let subnet = Subnet {
            id: doc.id.clone(),
            name: doc.name.clone(),
            vnet,
            prefixes,
            nsg: self.refer(doc, "properties.networkSecurityGroup.id", Kind::Nsg).map(NsgIx),
            route_table: self.refer(doc, "properties.routeTable.id", Kind::RouteTable).map(RouteTableIx),
            nat_gateway: self.refer(doc, "properties.natGateway.id", Kind::NatGateway).map(NatGatewayIx),
            service_endpoints: services,
            endpoint_nsg_policy: policy_is("NetworkSecurityGroupEnabled"),
            endpoint_route_policy: policy_is("RouteTableEnabled"),
            default_outbound: bool_at(doc.body, "properties.defaultOutboundAccess").unwrap_or(true),
        };
        let at = self.net.subnets.len();
        self.place(Kind::Subnet, &doc.id, at);
        self.net.subnets.push(subnet);
    }

    pub(crate) fn route_tables(&mut self) {
        for (at, doc) in self.docs(Kind::RouteTable).iter().enumerate() {
            self.place(Kind::RouteTable, &doc.id, at);
            let routes = self.children(doc, "routes");
            let routes = routes.iter().filter_map(|r| self.user_route(r)).collect();
            let disable_gateway_routes = bool_at(doc.body, "properties.disableBgpRoutePropagation").unwrap_or(false);
            self.net.route_tables.push(RouteTable { id: doc.id.clone(), routes, disable_gateway_routes });
        }
    }

    fn user_route(&mut self, doc: &Doc<'_>) -> Option<Route> {
        let Some(text) = str_at(doc.body, "properties.addressPrefix") else {
            self.problem(&doc.id, "properties.addressPrefix", What::Missing);
            return None;
        };
        let prefix = match prefix(text) {
            Some(p) => RoutePrefix::Prefix(p),
            None if text.starts_with(|c: char| c.is_ascii_digit()) || text.contains(':') => {
                self.problem(&doc.id, "properties.addressPrefix", What::BadAddress(text.to_owned()));
                return None;
            }
            None => RoutePrefix::Tag(self.tag(&doc.id, "properties.addressPrefix", text)),
        };
        let kind = str_at(doc.body, "properties.nextHopType").unwrap_or_default();
        let next_hop = match kind.to_lowercase().as_str() {
            "vnetlocal" => NextHop::VnetLocal,
            "internet" => NextHop::Internet,
            "virtualnetworkgateway" => NextHop::VirtualNetworkGateway,
            "none" => NextHop::None,
            "virtualappliance" => match self.address(doc, "properties.nextHopIpAddress") {
                Some(address) => NextHop::VirtualAppliance(address),
                None => {
                    self.problem(&doc.id, "properties.nextHopIpAddress", What::Missing);
                    return None;
                }
            },
            _ => {
                self.problem(&doc.id, "properties.nextHopType", What::BadValue(kind.to_owned()));
                return None;
            }
        };
        Some(Route { name: doc.name.clone(), prefix, next_hop })
    }
}
