//! Network interfaces and private endpoints.

use moat_arm::document::{array_at, bool_at, str_at};
use moat_net::ir::{AsgIx, IpConfig, Nic, NsgIx, PrivateEndpoint, PublicIpIx, SubnetIx};

use super::{Doc, Kind, Lowering, What};
use crate::types::microsoft_network::network_interfaces::endpoint_of;
use crate::types::microsoft_network::private_endpoints::ADDRESSES;

impl<'a> Lowering<'a> {
    pub(crate) fn nics(&mut self) {
        for doc in &self.docs(Kind::Nic) {
            // Its addresses are the endpoint's, and no machine sends or takes packets by it.
            if endpoint_of(doc.body).is_some() {
                continue;
            }
            let mut configs = self.children(doc, "ipConfigurations");
            // Stable: the primary one first, the others as written.
            configs.sort_by_key(|c| bool_at(c.body, "properties.primary") != Some(true));
            let ip_configs: Vec<IpConfig> = configs.iter().filter_map(|c| self.ip_config(c)).collect();
            if configs.is_empty() {
                self.problem(&doc.id, "properties.ipConfigurations", What::Missing);
            }
            if ip_configs.is_empty() {
                continue;
            }
            let at = self.net.nics.len();
            self.place(Kind::Nic, &doc.id, at);
            let nic = Nic {
                id: doc.id.clone(),
                ip_configs,
                nsg: self.refer(doc, "properties.networkSecurityGroup.id", Kind::Nsg).map(NsgIx),
                ip_forwarding: bool_at(doc.body, "properties.enableIPForwarding").unwrap_or(false),
            };
            self.net.nics.push(nic);
        }
    }

    /// An IP configuration; one without subnet or (not yet) address is left out.
    fn ip_config(&mut self, doc: &Doc<'_>) -> Option<IpConfig> {
        for needed in ["properties.subnet.id", "properties.privateIPAddress"] {
            if str_at(doc.body, needed).is_none_or(str::is_empty) {
                self.problem(&doc.id, needed, What::Missing);
            }
        }
        let subnet = self.refer(doc, "properties.subnet.id", Kind::Subnet)?;
        let address = self.address(doc, "properties.privateIPAddress")?;
        let asgs = self.refer_all(doc, "properties.applicationSecurityGroups", Kind::Asg);
        Some(IpConfig {
            id: doc.id.clone(),
            address,
            subnet: SubnetIx(subnet),
            public_ip: self.refer(doc, "properties.publicIPAddress.id", Kind::PublicIp).map(PublicIpIx),
            asgs: asgs.into_iter().map(AsgIx).collect(),
        })
    }

    pub(crate) fn private_endpoints(&mut self) {
        for doc in &self.docs(Kind::PrivateEndpoint) {
            let Some(subnet) = self.refer(doc, "properties.subnet.id", Kind::Subnet) else {
                self.problem(&doc.id, "properties.subnet.id", What::Missing);
                continue;
            };
            let configs = self.children(doc, "ipConfigurations");
            let mut addresses: Vec<_> =
                configs.iter().filter_map(|c| self.address(c, "properties.privateIPAddress")).collect();
            if addresses.is_empty() {
                let given = array_at(doc.body, ADDRESSES).iter().filter_map(|a| a.as_str());
                addresses = given.filter_map(|t| t.parse().ok()).collect();
            }
            if addresses.is_empty() {
                // Without static configurations the address is what the service allocated.
                let allocated = array_at(doc.body, "properties.customDnsConfigs").iter();
                let texts = allocated.flat_map(|c| array_at(c, "ipAddresses")).filter_map(|a| a.as_str());
                addresses = texts.filter_map(|t| t.parse().ok()).collect();
            }
            if addresses.is_empty() {
                self.problem(&doc.id, "properties.ipConfigurations", What::Missing);
                continue;
            }
            addresses.sort_unstable();
            addresses.dedup();
            let approved = approved(doc);
            self.net.private_endpoints.push(PrivateEndpoint {
                id: doc.id.clone(),
                subnet: SubnetIx(subnet),
                addresses,
                approved,
            });
        }
    }
}

/// Whether every connection is approved (8.2). One asked for by hand is pending until it says
/// otherwise; an automatic one without a state is approved.
fn approved(doc: &Doc<'_>) -> bool {
    let state = "properties.privateLinkServiceConnectionState.status";
    let all = |path: &str, absent: bool| {
        array_at(doc.body, path).iter().all(|c| str_at(c, state).map_or(absent, |s| s.eq_ignore_ascii_case("Approved")))
    };
    all("properties.privateLinkServiceConnections", true)
        && all("properties.manualPrivateLinkServiceConnections", false)
}
