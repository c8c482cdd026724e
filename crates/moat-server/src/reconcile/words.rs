//! Sentences for people about packets: which rule of whom stopped what.

use moat_arm::{ResourceId, Snapshot, document};
use moat_host::RuleRef;
use moat_host::layout::Level;
use moat_net::ir::Direction;

/// A path a node needs, in Azure's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Direction as seen from the node.
    pub direction: Direction,
    /// Service tag at the other end.
    pub tag: String,
    /// Address at the other end, if it was resolved.
    pub address: Option<String>,
    /// Destination port.
    pub port: u16,
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = self.address.as_deref().map(|a| format!(" ({a})")).unwrap_or_default();
        match self.direction {
            Direction::Inbound => write!(f, "inbound TCP {} from {}{address}", self.port, self.tag),
            Direction::Outbound => write!(f, "outbound TCP {} to {}{address}", self.port, self.tag),
        }
    }
}

/// `path` was dropped by `rule`.
pub fn dropped(path: &Path, rule: &RuleRef, snapshot: &Snapshot) -> String {
    if rule.level == Level::Fabric {
        return format!("{path} was dropped by the network: {}", rule.rule);
    }
    let nsg = ResourceId::parse(&rule.nsg).ok();
    let priority = nsg
        .as_ref()
        .and_then(|id| snapshot.get(id))
        .and_then(|d| {
            document::array_at(&d.body, "properties.securityRules")
                .iter()
                .find(|r| document::str_at(r, "name").is_some_and(|n| n.eq_ignore_ascii_case(&rule.rule)))
                .and_then(|r| document::u64_at(r, "properties.priority"))
        })
        .or_else(|| default_priority(&rule.rule))
        .map(|p| format!(" (priority {p})"))
        .unwrap_or_default();
    let level = match rule.level {
        Level::Subnet => "bound to the subnet",
        Level::Nic => "bound to the network interface",
        Level::Fabric => "",
    };
    let name = nsg.as_ref().map_or(rule.nsg.as_str(), |id| id.name());
    format!(
        "{path} was dropped by security rule '{}'{priority} of network security group '{name}' {level} ({})",
        rule.rule, rule.nsg
    )
}

/// `path` failed and the drop log is silent about it.
pub fn unexplained(path: &Path, why: &str) -> String {
    format!("{path} did not get through ({why}); no rule of Moat's explains it")
}

fn default_priority(name: &str) -> Option<u64> {
    match name {
        "AllowVnetInBound" | "AllowVnetOutBound" => Some(65000),
        "AllowAzureLoadBalancerInBound" | "AllowInternetOutBound" => Some(65001),
        "DenyAllInBound" | "DenyAllOutBound" => Some(65500),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use moat_arm::Stored;
    use moat_net::ir::Access;

    #[test]
    fn a_drop_names_rule_priority_group_and_level() {
        let id = ResourceId::parse(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/trainnsg",
        )
        .unwrap();
        let body = serde_json::json!({"properties": {"securityRules": [{"name": "Deny44224", "properties": {"priority": 90}}]}});
        let world = Snapshot::from_documents(1, [Stored { id: id.clone(), body, seq: 1, created_seq: 1 }]);
        let rule = RuleRef {
            nsg: id.key().to_owned(),
            rule: "Deny44224".to_owned(),
            direction: Direction::Inbound,
            access: Access::Deny,
            level: Level::Subnet,
        };
        let path = Path {
            direction: Direction::Inbound,
            tag: "AzureMachineLearning".to_owned(),
            address: Some("20.1.2.3".to_owned()),
            port: 44224,
        };
        insta::assert_snapshot!(dropped(&path, &rule, &world), @"inbound TCP 44224 from AzureMachineLearning (20.1.2.3) was dropped by security rule 'Deny44224' (priority 90) of network security group 'trainnsg' bound to the subnet (/subscriptions/s/resourcegroups/g/providers/microsoft.network/networksecuritygroups/trainnsg)");
        insta::assert_snapshot!(unexplained(&path, "no answer"), @"inbound TCP 44224 from AzureMachineLearning (20.1.2.3) did not get through (no answer); no rule of Moat's explains it");
    }
}
