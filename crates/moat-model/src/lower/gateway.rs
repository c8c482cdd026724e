//! VPN gateways: what a VNet knows of on-premises space (A12).

use moat_arm::document::{array_at, str_at};

use super::{Kind, Lowering, What};

impl Lowering<'_> {
    /// For each gateway, in document order, the prefixes of the local gateways its connections
    /// name. BGP and gateways between VNets are not modelled.
    pub(crate) fn gateways(&mut self) {
        let locals = self.docs(Kind::LocalGateway);
        for (at, doc) in locals.iter().enumerate() {
            self.place(Kind::LocalGateway, &doc.id, at);
        }
        let gateways = self.docs(Kind::VpnGateway);
        for (at, doc) in gateways.iter().enumerate() {
            self.place(Kind::VpnGateway, &doc.id, at);
        }
        let mut links = Vec::new();
        for doc in &self.docs(Kind::Connection) {
            if str_at(doc.body, "properties.virtualNetworkGateway2.id").is_some() {
                self.problem(&doc.id, "properties.virtualNetworkGateway2", What::NotModelled);
                continue;
            }
            let gateway = self.refer(doc, "properties.virtualNetworkGateway1.id", Kind::VpnGateway);
            let local = self.refer(doc, "properties.localNetworkGateway2.id", Kind::LocalGateway);
            links.extend(gateway.zip(local));
        }
        for (doc, at) in gateways.iter().zip(0u32..) {
            let config = array_at(doc.body, "properties.ipConfigurations").first();
            let subnet =
                config.and_then(|c| str_at(c, "properties.subnet.id")).and_then(|s| self.find(Kind::Subnet, s));
            let Some(subnet) = subnet else {
                self.problem(&doc.id, "properties.ipConfigurations", What::Missing);
                continue;
            };
            let vnet = self.net.subnets[subnet as usize].vnet;
            for (_, local) in links.iter().filter(|(gateway, _)| *gateway == at) {
                let path = "properties.localNetworkAddressSpace.addressPrefixes";
                let prefixes = self.prefixes(&locals[*local as usize], "", path);
                self.net.vnets[vnet.at()].gateway_prefixes.extend(prefixes);
            }
        }
    }
}
