//! Load balancers. Membership can be written on both sides: NICs name pools and NAT rules, pools
//! list addresses, NAT rules name an IP configuration. All of them count.

use std::collections::BTreeMap;

use moat_arm::document::{array_at, at, bool_at, str_at};
use moat_net::ir::{
    Backend, BalancingRule, Frontend, InboundNatRule, LoadBalancer, NicIx, OutboundRule, Protocol, PublicIpIx, SubnetIx,
};
use serde_json::Value;

use super::read::is_any;
use super::vnet::sku;
use super::{Doc, Kind, Lowering, What};

/// Where each IP configuration is, and what it says it is a member of; keys in lower case.
#[derive(Default)]
struct Members {
    by_config: BTreeMap<String, Backend>,
    by_claim: BTreeMap<String, Vec<Backend>>,
}
impl Members {
    fn config(&self, id: &str) -> Option<Backend> {
        self.by_config.get(&id.trim_end_matches('/').to_lowercase()).copied()
    }
    fn claims(&self, id: &str) -> &[Backend] {
        self.by_claim.get(&id.to_lowercase()).map(Vec::as_slice).unwrap_or_default()
    }
}

impl<'a> Lowering<'a> {
    fn members(&mut self) -> Members {
        let mut members = Members::default();
        for (nic, ix) in self.net.nics.iter().zip(0u32..) {
            for (config, position) in nic.ip_configs.iter().zip(0u32..) {
                members.by_config.insert(config.id.to_lowercase(), (NicIx(ix), position));
            }
        }
        for doc in &self.docs(Kind::Nic) {
            for config in self.children(doc, "ipConfigurations") {
                let Some(backend) = members.config(&config.id) else { continue };
                for path in ["loadBalancerBackendAddressPools", "loadBalancerInboundNatRules"] {
                    for item in array_at(config.body, &format!("properties.{path}")) {
                        if let Some(id) = str_at(item, "id") {
                            let key = id.trim_end_matches('/').to_lowercase();
                            members.by_claim.entry(key).or_default().push(backend);
                        }
                    }
                }
            }
        }
        members
    }

    pub(crate) fn balancers(&mut self) {
        let members = self.members();
        for (position, doc) in self.docs(Kind::LoadBalancer).iter().enumerate() {
            self.place(Kind::LoadBalancer, &doc.id, position);
            let fronts = self.children(doc, "frontendIPConfigurations");
            let front_ids: Vec<String> = fronts.iter().map(|f| f.id.to_lowercase()).collect();
            let frontends = fronts.iter().map(|f| self.frontend(f)).collect();
            let pools = self.pools(doc, &members);
            let balancer = LoadBalancer {
                id: doc.id.clone(),
                sku: sku(doc.body),
                frontends,
                rules: self.balancing_rules(doc, &front_ids, &pools),
                nat_rules: self.nat_rules(doc, &front_ids, &members),
                outbound_rules: self.outbound_rules(doc, &front_ids, &pools),
            };
            self.net.load_balancers.push(balancer);
        }
    }

    fn frontend(&mut self, doc: &Doc<'_>) -> Frontend {
        let names = |path: &str| str_at(doc.body, path).is_some();
        let member = if names("properties.publicIPPrefix.id") { "publicIPPrefix" } else { "publicIPAddress" };
        let public_ip = self.refer(doc, &format!("properties.{member}.id"), Kind::PublicIp).map(PublicIpIx);
        let subnet = self.refer(doc, "properties.subnet.id", Kind::Subnet).map(SubnetIx);
        let address = self.address(doc, "properties.privateIPAddress");
        Frontend { id: doc.id.clone(), public_ip, private: address.zip(subnet) }
    }

    /// Members of each pool, by lower-case pool id, ascending.
    fn pools(&mut self, doc: &Doc<'a>, members: &Members) -> BTreeMap<String, Vec<Backend>> {
        let mut pools = BTreeMap::new();
        for pool in self.children(doc, "backendAddressPools") {
            let mut backends = members.claims(&pool.id).to_vec();
            for item in array_at(pool.body, "properties.backendIPConfigurations") {
                backends.extend(str_at(item, "id").and_then(|id| members.config(id)));
            }
            for item in array_at(pool.body, "properties.loadBalancerBackendAddresses") {
                let config = str_at(item, "properties.networkInterfaceIPConfiguration.id");
                backends.extend(config.and_then(|id| members.config(id)));
                backends.extend(self.backend_by_address(item));
            }
            backends.sort_unstable();
            backends.dedup();
            pools.insert(pool.id.to_lowercase(), backends);
        }
        pools
    }

    /// A pool member given as an address in a VNet.
    fn backend_by_address(&self, item: &Value) -> Option<Backend> {
        let address: std::net::IpAddr = str_at(item, "properties.ipAddress")?.parse().ok()?;
        let by_subnet = str_at(item, "properties.subnet.id").and_then(|id| self.find(Kind::Subnet, id));
        let vnet = str_at(item, "properties.virtualNetwork.id")
            .and_then(|id| self.find(Kind::Vnet, id))
            .or_else(|| by_subnet.map(|s| self.net.subnets[s as usize].vnet.0))?;
        self.net.nics().find_map(|(ix, nic)| {
            let held = |c: &moat_net::ir::IpConfig| c.address == address && self.net.subnet(c.subnet).vnet.0 == vnet;
            let position = nic.ip_configs.iter().position(held)?;
            Some((ix, u32::try_from(position).ok()?))
        })
    }

    /// Position of the front end that the member at `path` names.
    fn front(&mut self, doc: &Doc<'_>, id: Option<&str>, fronts: &[String]) -> Option<u32> {
        let path = "properties.frontendIPConfiguration.id";
        let Some(id) = id else {
            self.problem(&doc.id, path, What::Missing);
            return None;
        };
        let key = id.trim_end_matches('/').to_lowercase();
        let found = fronts.iter().zip(0u32..).find(|(f, _)| **f == key).map(|(_, i)| i);
        if found.is_none() {
            self.problem(&doc.id, path, What::UnknownReference(id.to_owned()));
        }
        found
    }

    /// Members of every pool a rule names, in the singular or the plural.
    fn rule_members(&mut self, doc: &Doc<'_>, pools: &BTreeMap<String, Vec<Backend>>) -> Vec<Backend> {
        let one = str_at(doc.body, "properties.backendAddressPool.id");
        let many = array_at(doc.body, "properties.backendAddressPools").iter().filter_map(|p| str_at(p, "id"));
        let mut backends = Vec::new();
        for id in one.into_iter().chain(many) {
            match pools.get(&id.trim_end_matches('/').to_lowercase()) {
                Some(members) => backends.extend(members),
                None => {
                    self.problem(&doc.id, "properties.backendAddressPool", What::UnknownReference(id.to_owned()));
                }
            }
        }
        backends.sort_unstable();
        backends.dedup();
        backends
    }

    fn balancing_rules(
        &mut self,
        doc: &Doc<'a>,
        fronts: &[String],
        pools: &BTreeMap<String, Vec<Backend>>,
    ) -> Vec<BalancingRule> {
        let mut rules = Vec::new();
        for rule in self.children(doc, "loadBalancingRules") {
            let front = str_at(rule.body, "properties.frontendIPConfiguration.id");
            let Some(frontend) = self.front(&rule, front, fronts) else { continue };
            let Some(protocol) = self.transport(&rule) else { continue };
            rules.push(BalancingRule {
                name: rule.name.clone(),
                frontend,
                protocol,
                frontend_port: self.port(&rule, "properties.frontendPort"),
                backend_port: self.port(&rule, "properties.backendPort"),
                backends: self.rule_members(&rule, pools),
                disable_outbound_snat: bool_at(rule.body, "properties.disableOutboundSnat").unwrap_or(false),
            });
        }
        rules
    }

    /// `Tcp`, `Udp` or `All` (`Some(None)`).
    fn transport(&mut self, doc: &Doc<'_>) -> Option<Option<Protocol>> {
        let text = str_at(doc.body, "properties.protocol").unwrap_or("Tcp");
        if is_any(text) || text.eq_ignore_ascii_case("all") {
            return Some(None);
        }
        match Protocol::parse(text).filter(|p| p.has_ports()) {
            Some(p) => Some(Some(p)),
            None => {
                self.problem(&doc.id, "properties.protocol", What::BadValue(text.to_owned()));
                None
            }
        }
    }

    fn nat_rules(&mut self, doc: &Doc<'a>, fronts: &[String], members: &Members) -> Vec<InboundNatRule> {
        let mut rules = Vec::new();
        for rule in self.children(doc, "inboundNatRules") {
            let front = str_at(rule.body, "properties.frontendIPConfiguration.id");
            let Some(frontend) = self.front(&rule, front, fronts) else { continue };
            let Some(Some(protocol)) = self.transport(&rule) else { continue };
            if at(rule.body, "properties.backendAddressPool.id").is_some() {
                self.problem(&rule.id, "properties.backendAddressPool", What::NotModelled);
            }
            let named = str_at(rule.body, "properties.backendIPConfiguration.id").and_then(|id| members.config(id));
            rules.push(InboundNatRule {
                name: rule.name.clone(),
                frontend,
                protocol,
                frontend_port: self.port(&rule, "properties.frontendPort"),
                backend_port: self.port(&rule, "properties.backendPort"),
                backend: named.or_else(|| members.claims(&rule.id).first().copied()),
            });
        }
        rules
    }

    fn outbound_rules(
        &mut self,
        doc: &Doc<'a>,
        fronts: &[String],
        pools: &BTreeMap<String, Vec<Backend>>,
    ) -> Vec<OutboundRule> {
        let mut rules = Vec::new();
        for rule in self.children(doc, "outboundRules") {
            let named = array_at(rule.body, "properties.frontendIPConfigurations").iter();
            let named: Vec<&str> = named.filter_map(|f| str_at(f, "id")).collect();
            let frontends = named.into_iter().filter_map(|id| self.front(&rule, Some(id), fronts)).collect();
            rules.push(OutboundRule { name: rule.name.clone(), frontends, backends: self.rule_members(&rule, pools) });
        }
        rules
    }
}
