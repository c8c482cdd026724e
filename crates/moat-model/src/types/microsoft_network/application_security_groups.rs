//! `Microsoft.Network/applicationSecurityGroups`: a name that NICs join and rules use
//! (network-semantics 4).

use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, network_interfaces, network_security_groups};
use crate::refs;
use crate::resource_type::{Completion, Refusal, ResourceType, TypeCtx};
use crate::types::shape;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/applicationSecurityGroups",
    api_versions: API_VERSIONS,
    completion: Completion::Applied,
    refusals: &[Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) }],
    complete: |ctx, write| {
        let guid = write.before.and_then(|b| document::str_at(b, "properties.resourceGuid")).map(str::to_owned);
        let guid = guid.unwrap_or_else(|| ctx.uuid("resourceGuid").to_string());
        document::set(&mut write.body, "properties.resourceGuid", json!(guid));
        Ok(())
    },
    on_delete,
    ..ResourceType::BLANK
};

fn on_delete(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value, _: &mut Batch) -> Result<(), ApiError> {
    for kind in [&network_interfaces::TYPE, &network_security_groups::TYPE] {
        for user in ctx.snapshot.in_groups(kind.name) {
            let uses = (kind.references)(&user.body);
            if uses.iter().any(|t| refs::same(t, id)) {
                // AZURE: wording not observed.
                return Err(ApiError::bad_request(
                    "InUseApplicationSecurityGroupCannotBeDeleted",
                    format!("Application security group {id} cannot be deleted because it is in use by {}.", user.id),
                ));
            }
        }
    }
    Ok(())
}

/// The groups an IP configuration is a member of.
pub fn of_configuration(config: &Value) -> Vec<ResourceId> {
    refs::texts(config, "properties.applicationSecurityGroups[].id")
        .iter()
        .filter_map(|t| ResourceId::parse(t).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net};

    #[test]
    fn a_group_that_a_rule_names_cannot_go() {
        let mut world = World::new(Edition::Current);
        let asg = net("applicationSecurityGroups/web");
        world.put(&asg, json!({"properties": {}})).unwrap();
        let rule = json!({"name": "r", "properties": {"access": "Allow", "direction": "Inbound", "priority": 100,
            "protocol": "Tcp", "sourceApplicationSecurityGroups": [{"id": asg}], "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": "80"}});
        world.put(&net("networkSecurityGroups/n"), json!({"properties": {"securityRules": [rule]}})).unwrap();
        insta::assert_snapshot!(world.delete(&asg).unwrap_err().code, @"InUseApplicationSecurityGroupCannotBeDeleted");
        world.delete(&net("networkSecurityGroups/n")).unwrap();
        world.delete(&asg).unwrap();
    }
}
