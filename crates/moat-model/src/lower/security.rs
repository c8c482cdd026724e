//! Security groups, their rules, and the network rules of Azure Firewalls.

use moat_arm::document::{array_at, str_at, u64_at};
use moat_net::ir::{
    Access, AddressMatch, Asg, AsgIx, Direction, Firewall, FirewallCollection, FirewallRule, Nsg, Protocol, Rule,
    SubnetIx,
};
use serde_json::Value;

use super::read::is_any;
use super::{Doc, Kind, Lowering, What};

/// The keyword at `path`, if it is one of `values`.
fn keyword<T: Copy>(body: &Value, path: &str, values: &[(&str, T)]) -> Result<T, What> {
    let text = str_at(body, path).ok_or(What::Missing)?;
    let found = values.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(_, v)| *v).ok_or_else(|| What::BadValue(text.to_owned()))
}

const ACCESS: [(&str, Access); 2] = [("Allow", Access::Allow), ("Deny", Access::Deny)];
const DIRECTION: [(&str, Direction); 2] = [("Inbound", Direction::Inbound), ("Outbound", Direction::Outbound)];

/// One side of a rule: names of its members.
struct Side {
    prefix: &'static str,
    prefixes: &'static str,
    groups: &'static str,
}
const SOURCE: Side = Side {
    prefix: "properties.sourceAddressPrefix",
    prefixes: "properties.sourceAddressPrefixes",
    groups: "properties.sourceApplicationSecurityGroups",
};
const DESTINATION: Side = Side {
    prefix: "properties.destinationAddressPrefix",
    prefixes: "properties.destinationAddressPrefixes",
    groups: "properties.destinationApplicationSecurityGroups",
};

impl<'a> Lowering<'a> {
    pub(crate) fn security_groups(&mut self) {
        for (at, doc) in self.docs(Kind::Asg).iter().enumerate() {
            self.place(Kind::Asg, &doc.id, at);
            self.net.asgs.push(Asg { id: doc.id.clone() });
        }
        for (at, doc) in self.docs(Kind::Nsg).iter().enumerate() {
            self.place(Kind::Nsg, &doc.id, at);
            let rules = self.children(doc, "securityRules");
            let rules = rules.iter().filter_map(|r| self.rule(r)).collect();
            self.net.nsgs.push(Nsg { id: doc.id.clone(), rules });
        }
    }

    /// A rule; one without priority, direction, access or protocol is left out.
    fn rule(&mut self, doc: &Doc<'_>) -> Option<Rule> {
        let mut noted = |at: &str, what| self.problem(&doc.id, at, what);
        let priority = match u64_at(doc.body, "properties.priority").map(u32::try_from) {
            Some(Ok(n)) => n,
            _ => {
                noted("properties.priority", What::Missing);
                return None;
            }
        };
        let direction = keyword(doc.body, "properties.direction", &DIRECTION);
        let direction = direction.map_err(|w| noted("properties.direction", w)).ok()?;
        let access = keyword(doc.body, "properties.access", &ACCESS);
        let access = access.map_err(|w| noted("properties.access", w)).ok()?;
        let protocol = match str_at(doc.body, "properties.protocol") {
            Some(text) if is_any(text) => None,
            Some(text) => match Protocol::parse(text) {
                Some(p) => Some(p),
                None => {
                    noted("properties.protocol", What::BadValue(text.to_owned()));
                    return None;
                }
            },
            None => {
                noted("properties.protocol", What::Missing);
                return None;
            }
        };
        Some(Rule {
            name: doc.name.clone(),
            priority,
            direction,
            access,
            protocol,
            sources: self.side(doc, &SOURCE),
            destinations: self.side(doc, &DESTINATION),
            source_ports: self.port_ranges(doc, "properties.sourcePortRange", "properties.sourcePortRanges"),
            destination_ports: self.port_ranges(
                doc,
                "properties.destinationPortRange",
                "properties.destinationPortRanges",
            ),
        })
    }

    fn side(&mut self, doc: &Doc<'_>, side: &Side) -> Vec<AddressMatch> {
        let mut list = Vec::new();
        let texts = super::read::both(doc.body, side.prefix, side.prefixes);
        if texts.is_empty() && array_at(doc.body, side.groups).is_empty() {
            self.problem(&doc.id, side.prefix, What::Missing);
        }
        for text in texts {
            list.extend(self.address_match(&doc.id, side.prefixes, text));
        }
        for asg in self.refer_all(doc, side.groups, Kind::Asg) {
            list.push(AddressMatch::Asg(AsgIx(asg)));
        }
        list
    }

    pub(crate) fn firewalls(&mut self) {
        for doc in &self.docs(Kind::Firewall) {
            let configs = self.children(doc, "ipConfigurations");
            // A firewall has one private address, whatever the number of its public ones.
            let Some(config) = configs.iter().find(|c| str_at(c.body, "properties.subnet.id").is_some()) else {
                self.problem(&doc.id, "properties.ipConfigurations", What::Missing);
                continue;
            };
            let subnet = self.refer(config, "properties.subnet.id", Kind::Subnet);
            let address = self.address(config, "properties.privateIPAddress");
            let (Some(subnet), Some(address)) = (subnet, address) else {
                self.problem(&doc.id, "properties.ipConfigurations", What::Missing);
                continue;
            };
            for unmodelled in ["natRuleCollections", "applicationRuleCollections"] {
                if !array_at(doc.body, &format!("properties.{unmodelled}")).is_empty() {
                    self.problem(&doc.id, &format!("properties.{unmodelled}"), What::NotModelled);
                }
            }
            let collections = self.children(doc, "networkRuleCollections");
            let collections = collections.iter().filter_map(|c| self.collection(c)).collect();
            let (id, subnet) = (doc.id.clone(), SubnetIx(subnet));
            self.net.firewalls.push(Firewall { id, subnet, address, collections });
        }
    }

    fn collection(&mut self, doc: &Doc<'a>) -> Option<FirewallCollection> {
        let priority = u64_at(doc.body, "properties.priority").and_then(|n| u32::try_from(n).ok());
        let Some(priority) = priority else {
            self.problem(&doc.id, "properties.priority", What::Missing);
            return None;
        };
        let access = keyword(doc.body, "properties.action.type", &ACCESS);
        let access = access.map_err(|w| self.problem(&doc.id, "properties.action.type", w)).ok()?;
        let mut rules = Vec::new();
        for body in array_at(doc.body, "properties.rules") {
            let name = str_at(body, "name").unwrap_or_default().to_owned();
            let rule = Doc { id: format!("{}/rules/{name}", doc.id), name, body };
            rules.extend(self.firewall_rule(&rule));
        }
        Some(FirewallCollection { name: doc.name.clone(), priority, access, rules })
    }

    fn firewall_rule(&mut self, doc: &Doc<'_>) -> Option<FirewallRule> {
        let mut protocols = Vec::new();
        let mut any = false;
        for text in array_at(doc.body, "protocols").iter().filter_map(Value::as_str) {
            any |= is_any(text);
            match Protocol::parse(text) {
                Some(p) => protocols.push(p),
                None if is_any(text) => {}
                None => self.problem(&doc.id, "protocols", What::BadValue(text.to_owned())),
            }
        }
        if any {
            protocols.clear();
        } else if protocols.is_empty() {
            // An empty list would mean any protocol: a rule that names none is left out.
            self.problem(&doc.id, "protocols", What::Missing);
            return None;
        }
        let mut list = |path: &str| {
            let texts: Vec<_> = array_at(doc.body, path).iter().filter_map(Value::as_str).collect();
            texts.into_iter().filter_map(|t| self.address_match(&doc.id, path, t)).collect::<Vec<_>>()
        };
        let sources = list("sourceAddresses");
        let destinations = list("destinationAddresses");
        let destination_ports = self.port_ranges(doc, "destinationPort", "destinationPorts");
        Some(FirewallRule { name: doc.name.clone(), protocols, sources, destinations, destination_ports })
    }
}
