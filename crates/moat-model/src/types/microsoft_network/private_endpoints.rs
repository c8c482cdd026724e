//! `Microsoft.Network/privateEndpoints` with their zone groups.
//!
//! An endpoint takes addresses of its subnet as Azure's does: they are held by a network interface of its own, which
//! nobody else may delete. No packet passes an endpoint yet; its connections wait for the service side.

use std::net::Ipv4Addr;

use moat_arm::{ApiError, ResourceId, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, network_interfaces, subnets};
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
        Refusal { id: "endpoint-static-address", requirements: &[], check: static_addresses },
        Refusal { id: "subnet-full", requirements: &[], check: |ctx, w| assign(ctx, w).map(|_| ()) },
    ],
    complete,
    on_write: |ctx, write, batch| {
        let (id, body) = interface(ctx, write)?;
        batch.put(id, body);
        Ok(())
    },
    on_delete: |ctx, _, body, batch| {
        let ids = refs::texts(body, "properties.networkInterfaces[].id");
        let there = ids.iter().filter_map(|t| ctx.snapshot.get(&ResourceId::parse(t).ok()?));
        there.for_each(|nic| batch.delete(nic.id.clone()));
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

/// Where an endpoint keeps the addresses that it was given.
pub(crate) const ADDRESSES: &str = "moat.addresses";
const CONNECTIONS: [&str; 2] =
    ["properties.privateLinkServiceConnections", "properties.manualPrivateLinkServiceConnections"];

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    let addresses = assign(ctx, write)?;
    let kept = write.before.and_then(|b| document::str_at(b, "properties.resourceGuid")).map(str::to_owned);
    let guid = kept.unwrap_or_else(|| ctx.uuid("resourceGuid").to_string());
    let names = names(ctx, write);
    let nic = interface_id(ctx, write);
    let body = &mut write.body;
    document::set(body, "properties.resourceGuid", json!(guid));
    document::set_default(body, "properties.customNetworkInterfaceName", json!(""));
    document::set_default(body, "properties.ipConfigurations", json!([]));
    shape::each(body, "properties.ipConfigurations", shape::strip_rendered);
    document::set(body, "properties.networkInterfaces", json!([{ "id": nic.as_str() }]));
    // A service with several names has as many addresses, or one for all of them.
    let configs: Vec<Value> = names
        .into_iter()
        .zip(addresses.iter().chain(std::iter::repeat_n(addresses.last(), NAMES_MAX).flatten()))
        .map(|(fqdn, address)| json!({"fqdn": fqdn, "ipAddresses": [address]}))
        .collect();
    document::set(body, "properties.customDnsConfigs", configs.into());
    document::set(body, ADDRESSES, json!(addresses));
    for array in CONNECTIONS {
        document::set_default(body, array, json!([]));
        // AZURE: an automatic connection is approved at once; here both wait for the service side.
        shape::each(body, array, |connection| {
            shape::strip_rendered(connection);
            let state = json!({"status": "Pending", "description": "", "actionsRequired": "None"});
            document::set_default(connection, "properties.privateLinkServiceConnectionState", state);
        });
    }
    Ok(())
}

/// `privateEndpointConnections` of the resource that endpoints lead to: what each of them asks for.
pub(crate) fn render_connections(ctx: &TypeCtx<'_>, target: &ResourceId, body: &mut Value) {
    let mut found = Vec::new();
    for endpoint in ctx.snapshot.in_groups(TYPE.name) {
        for connection in CONNECTIONS.iter().flat_map(|array| document::array_at(&endpoint.body, array)) {
            let text = |path: &str| document::str_at(connection, path);
            if !text("properties.privateLinkServiceId").is_some_and(|t| refs::same(t, target)) {
                continue;
            }
            let name = format!("{}.{}", endpoint.id.name(), connection_guid(&endpoint.id));
            let state = document::at(connection, "properties.privateLinkServiceConnectionState").cloned();
            found.push(json!({
                "id": format!("{target}/privateEndpointConnections/{name}"),
                "name": name,
                "type": format!("{}/privateEndpointConnections", target.resource_type()),
                "properties": {
                    "provisioningState": "Succeeded",
                    "privateEndpoint": {"id": endpoint.id.as_str()},
                    "groupIds": document::at(connection, "properties.groupIds"),
                    "privateLinkServiceConnectionState": state,
                },
            }));
        }
    }
    document::set(body, "properties.privateEndpointConnections", found.into());
}

/// A connection is named after its endpoint and an id that stays with it.
fn connection_guid(endpoint: &ResourceId) -> uuid::Uuid {
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, endpoint.key().as_bytes())
}

/// Names of one service, at most.
const NAMES_MAX: usize = 4;

/// The names that clients of the service ask DNS for, as far as its type has any here.
fn names(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Vec<String> {
    let connection = CONNECTIONS.iter().find_map(|array| document::array_at(&write.body, array).first());
    let text = |path: &str| connection.and_then(|c| document::str_at(c, path));
    let Some(target) = text("properties.privateLinkServiceId").and_then(|t| ResourceId::parse(t).ok()) else {
        return Vec::new();
    };
    let group = connection.and_then(|c| refs::texts(c, "properties.groupIds[]").first().copied()).unwrap_or_default();
    let (name, group) = (target.name().to_lowercase(), group.to_lowercase());
    let stored = ctx.snapshot.get(&target);
    let region = stored.and_then(|s| document::str_at(&s.body, "location")).map(refs::location_key);
    match (target.resource_type().to_lowercase().as_str(), region) {
        ("microsoft.storage/storageaccounts", _) => vec![format!("{name}.{group}.core.windows.net")],
        ("microsoft.keyvault/vaults", _) => vec![format!("{name}.vault.azure.net")],
        ("microsoft.containerregistry/registries", Some(region)) => {
            vec![format!("{name}.{region}.data.azurecr.io"), format!("{name}.azurecr.io")]
        }
        ("microsoft.machinelearningservices/workspaces", Some(region)) => {
            let id = stored.and_then(|s| document::str_at(&s.body, "properties.workspaceId")).unwrap_or_default();
            vec![
                format!("{id}.workspace.{region}.api.azureml.ms"),
                format!("ml-{name}-{region}-{id}.{region}.notebooks.azure.net"),
                format!("*.{id}.inference.{region}.api.azureml.ms"),
            ]
        }
        _ => Vec::new(),
    }
}

/// The parts that get an address each: those that the client describes, else one for each name of the service.
fn parts(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Vec<(ResourceId, Value)> {
    let subnet = document::at(&write.body, "properties.subnet").cloned().unwrap_or_default();
    let part = |name: &str, address: Option<&str>| {
        let mut part = json!({"name": name, "properties": {"subnet": subnet}});
        if let Some(address) = address {
            document::set(&mut part, "properties.privateIPAddress", json!(address));
            document::set(&mut part, "properties.privateIPAllocationMethod", json!("Static"));
        }
        (write.id.child("ipConfigurations", name), part)
    };
    let asked = document::array_at(&write.body, "properties.ipConfigurations");
    if !asked.is_empty() {
        let one = |c: &Value| {
            let name = document::str_at(c, "name").unwrap_or_default();
            part(name, document::str_at(c, "properties.privateIPAddress"))
        };
        return asked.iter().map(one).collect();
    }
    (0..names(ctx, write).len().max(1)).map(|at| part(&format!("privateEndpointIpConfig.{at}"), None)).collect()
}

fn static_addresses(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let own = write.before.map(|b| refs::texts(b, "moat.addresses[]")).unwrap_or_default();
    for (id, part) in parts(ctx, write) {
        if let Some(address) = document::str_at(&part, "properties.privateIPAddress").filter(|a| !own.contains(a)) {
            network_interfaces::check_static(ctx, &id, &part, address)?;
        }
    }
    Ok(())
}

/// The addresses of the endpoint, in the order of its parts. It keeps those it has in this subnet.
fn assign(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<Vec<Ipv4Addr>, ApiError> {
    let parts = parts(ctx, write);
    let borrowed: Vec<(ResourceId, &Value)> = parts.iter().map(|(id, part)| (id.clone(), part)).collect();
    let before: Vec<Value> = write
        .before
        .into_iter()
        .flat_map(|b| {
            let subnet = document::at(b, "properties.subnet").cloned().unwrap_or_default();
            refs::texts(b, "moat.addresses[]")
                .into_iter()
                .zip(&parts)
                .map(|(address, (_, part))| {
                    json!({"name": part["name"], "properties": {"subnet": subnet, "privateIPAddress": address}})
                })
                .collect::<Vec<_>>()
        })
        .collect();
    let given = network_interfaces::assign_addresses(ctx, &borrowed, &before)?;
    Ok(given.into_iter().flatten().collect())
}

/// The interface that it has, or the one it gets: named by the client, else after the endpoint.
fn interface_id(ctx: &TypeCtx<'_>, write: &Write<'_>) -> ResourceId {
    let kept = write.before.map(|b| refs::texts(b, "properties.networkInterfaces[].id")).unwrap_or_default();
    if let Some(id) = kept.first().and_then(|t| ResourceId::parse(t).ok()) {
        return id;
    }
    let asked = document::str_at(&write.body, "properties.customNetworkInterfaceName").filter(|n| !n.is_empty());
    let name = asked.map_or_else(|| format!("{}.nic.{}", write.id.name(), ctx.uuid("nic")), str::to_owned);
    let group = write.id.parent().unwrap_or_else(|| write.id.clone());
    group.provider("Microsoft.Network", "networkInterfaces", &name)
}

/// The interface's document. Its addresses count as given by hand while it is completed, and as chosen by the service
/// when it is shown, as in Azure.
fn interface(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(ResourceId, Value), ApiError> {
    let id = interface_id(ctx, write);
    let addresses = refs::texts(&write.body, "moat.addresses[]");
    let mut configs = Vec::new();
    for ((_, mut config), address) in parts(ctx, write).into_iter().zip(addresses) {
        document::set(&mut config, "properties.privateIPAddress", json!(address));
        document::set(&mut config, "properties.privateIPAllocationMethod", json!("Static"));
        configs.push(config);
    }
    let body = json!({
        "location": document::at(&write.body, "location"),
        "properties": {"ipConfigurations": configs},
    });
    let before = ctx.snapshot.get(&id).map(|n| &n.body);
    let mut nic = Write { id: &id, before, body };
    (network_interfaces::TYPE.complete)(ctx, &mut nic)?;
    document::set(&mut nic.body, "properties.privateEndpoint", json!({ "id": write.id.as_str() }));
    if document::array_at(&write.body, "properties.ipConfigurations").is_empty() {
        shape::each(&mut nic.body, "properties.ipConfigurations", |config| {
            document::set(config, "properties.privateIPAllocationMethod", json!("Dynamic"));
        });
    }
    let body = nic.body;
    Ok((id, body))
}

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
    use crate::types::testing::{GROUP, World, net};

    #[test]
    fn an_endpoint_holds_addresses_by_an_interface_of_its_own() {
        let mut world = World::new(Edition::Current);
        let subnets = json!([{"name": "pe", "properties": {"addressPrefix": "10.0.0.0/29"}}]);
        let v = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets}});
        world.put(&net("virtualNetworks/v"), v).unwrap();
        let target = format!("{GROUP}/providers/Microsoft.Storage/storageAccounts/store");
        let endpoint = |more: Value| {
            let mut properties = json!({
                "subnet": {"id": net("virtualNetworks/v/subnets/pe")},
                "privateLinkServiceConnections": [{"name": "c", "properties": {
                    "privateLinkServiceId": target, "groupIds": ["blob"],
                }}],
            });
            document::merge(&mut properties, &more);
            json!({ "properties": properties })
        };
        let (one, two) = (net("privateEndpoints/one"), net("privateEndpoints/two"));
        let stored = world.put(&one, endpoint(json!({}))).unwrap();
        assert_eq!(
            stored["properties"]["customDnsConfigs"],
            json!([{"fqdn": "store.blob.core.windows.net", "ipAddresses": ["10.0.0.4"]}])
        );
        let nic = stored["properties"]["networkInterfaces"][0]["id"].as_str().unwrap().to_owned();
        let shown = world.get(&nic);
        assert_eq!(shown["properties"]["privateEndpoint"]["id"], one);
        assert_eq!(shown["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"], "10.0.0.4");
        insta::assert_snapshot!(world.delete(&nic).unwrap_err().code, @"NicInUseWithPrivateEndpoint");
        // Written again it stays what it is.
        let again = world.put(&one, endpoint(json!({}))).unwrap();
        assert_eq!(again["properties"]["networkInterfaces"], stored["properties"]["networkInterfaces"]);
        assert_eq!(again["properties"]["customDnsConfigs"], stored["properties"]["customDnsConfigs"]);
        let fixed = json!({"customNetworkInterfaceName": "mine", "ipConfigurations": [
            {"name": "a", "properties": {"groupId": "blob", "memberName": "blob", "privateIPAddress": "10.0.0.4"}},
        ]});
        insta::assert_snapshot!(world.put(&two, endpoint(fixed.clone())).unwrap_err().code, @"PrivateIPAddressIsAllocated");
        world.delete(&one).unwrap();
        world.put(&two, endpoint(fixed)).unwrap();
        let shown = world.get(&net("networkInterfaces/mine"));
        assert_eq!(shown["properties"]["ipConfigurations"][0]["name"], "a");
    }

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
