//! `Microsoft.Network/privateEndpoints` with their zone groups: stored and answered; no packet
//! passes one yet, so none is given an address.

use moat_arm::{ApiError, document};
use serde_json::json;

use super::{API_VERSIONS, subnets};
use crate::edition::Edition;
use crate::refs;
use crate::resource_type::{Completion, Refusal, ResourceType, Scope, TypeCtx, Write};
use crate::types::shape;

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/privateEndpoints",
    api_versions: API_VERSIONS,
    completion: Completion::Applied,
    stored_only: true,
    refusals: &[
        Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) },
        Refusal { id: "endpoint-subnet", requirements: &[], check: subnet },
        Refusal { id: "endpoint-policies", requirements: &["AML-WS-001"], check: policies },
    ],
    complete: |ctx, write| {
        let kept = write.before.and_then(|b| document::str_at(b, "properties.resourceGuid")).map(str::to_owned);
        let guid = kept.unwrap_or_else(|| ctx.uuid("resourceGuid").to_string());
        document::set(&mut write.body, "properties.resourceGuid", json!(guid));
        document::set_default(&mut write.body, "properties.customNetworkInterfaceName", json!(""));
        document::set_default(&mut write.body, "properties.ipConfigurations", json!([]));
        shape::each(&mut write.body, "properties.ipConfigurations", shape::strip_rendered);
        document::set(&mut write.body, "properties.networkInterfaces", json!([]));
        document::set_default(&mut write.body, "properties.customDnsConfigs", json!([]));
        for array in ["properties.privateLinkServiceConnections", "properties.manualPrivateLinkServiceConnections"] {
            document::set_default(&mut write.body, array, json!([]));
            // AZURE: an automatic connection is approved at once; here both wait for the service side.
            shape::each(&mut write.body, array, |connection| {
                shape::strip_rendered(connection);
                let state = json!({"status": "Pending", "description": "", "actionsRequired": "None"});
                document::set_default(connection, "properties.privateLinkServiceConnectionState", state);
            });
        }
        Ok(())
    },
    render: |_, id, body| {
        for segment in ["privateLinkServiceConnections", "manualPrivateLinkServiceConnections", "ipConfigurations"] {
            shape::render_parts(id, TYPE.name, body, segment);
        }
    },
    references: |d| refs::ids(d, &[SUBNET]),
    ..ResourceType::BLANK
};

/// `Microsoft.Network/privateEndpoints/privateDnsZoneGroups`.
pub static ZONE_GROUPS: ResourceType = ResourceType {
    name: "Microsoft.Network/privateEndpoints/privateDnsZoneGroups",
    api_versions: API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Applied,
    location_required: false,
    stored_only: true,
    references: |d| refs::ids(d, &["properties.privateDnsZoneConfigs[].properties.privateDnsZoneId"]),
    ..ResourceType::BLANK
};

const SUBNET: &str = "properties.subnet.id";

fn subnet(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    // A missing subnet is refused like a text that is no id.
    refs::parse(document::str_at(&write.body, SUBNET).unwrap_or_default(), SUBNET)?;
    refs::check(ctx, write, SUBNET, subnets::TYPE.name)
}

/// errors.md `pe-netpol`: in 2021 the subnet's flag had to be off (network-semantics 8.5).
fn policies(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let Some(text) = document::str_at(&write.body, SUBNET) else { return Ok(()) };
    let id = refs::parse(text, SUBNET)?;
    let policy = refs::find(ctx.snapshot, &id)
        .and_then(|s| document::str_at(s, "properties.privateEndpointNetworkPolicies"))
        .unwrap_or("Disabled");
    if ctx.edition == Edition::Seed2021 && policy.eq_ignore_ascii_case("Enabled") {
        return Err(ApiError::bad_request(
            "PrivateEndpointCannotBeCreatedInSubnetThatHasNetworkPoliciesEnabled",
            format!(
                "Private endpoint {} cannot be created in a subnet {id} since it has private endpoint network policies enabled.",
                write.id
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::types::testing::{World, net};

    #[test]
    fn in_2021_the_subnets_policies_must_be_off() {
        for (edition, refused) in [(Edition::Seed2021, true), (Edition::Current, false)] {
            let mut world = World::new(edition);
            let subnets = json!([{"name": "pe", "properties": {"addressPrefix": "10.0.0.0/24", "privateEndpointNetworkPolicies": "Enabled"}}]);
            let v = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets}});
            world.put(&net("virtualNetworks/v"), v).unwrap();
            let endpoint = json!({"properties": {"subnet": {"id": net("virtualNetworks/v/subnets/pe")}}});
            let result = world.put(&net("privateEndpoints/e"), endpoint);
            assert_eq!(result.is_err(), refused, "{edition}");
        }
    }
}
