//! `Microsoft.Network/routeTables`: user-defined routes of the subnets that name the table
//! (network-semantics 5).

use std::collections::BTreeMap;

use moat_arm::{ApiError, Batch, ResourceId, Snapshot, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, prefix, tags};
use crate::refs;
use crate::resource_type::{Completion, Refusal, ResourceType, Scope, TypeCtx, Write};
use crate::types::shape;

/// The array of a table's document that holds its routes.
const ARRAY: &str = "properties.routes";
/// Routes of one table, and those of them that name a service tag (network-semantics 5.9, 5.13).
const MOST_ROUTES: (usize, usize) = (400, 25);

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/routeTables",
    api_versions: API_VERSIONS,
    completion: Completion::Applied,
    refusals: &[
        Refusal { id: "network-name", requirements: &[], check: |_, w| shape::network_name(w.id) },
        Refusal { id: "route-names", requirements: &[], check: |_, w| shape::distinct_names(w, ARRAY) },
        Refusal { id: "route-prefix", requirements: &[], check: prefixes },
        Refusal { id: "route-next-hop", requirements: &[], check: next_hops },
        Refusal { id: "route-conflict", requirements: &[], check: conflicts },
        Refusal { id: "route-limit", requirements: &[], check: limit },
    ],
    complete,
    on_delete,
    render,
    ..ResourceType::BLANK
};

/// `Microsoft.Network/routeTables/routes`.
pub static ROUTES: ResourceType = ResourceType {
    name: "Microsoft.Network/routeTables/routes",
    api_versions: API_VERSIONS,
    scope: Scope::Embedded(ARRAY),
    completion: Completion::Applied,
    location_required: false,
    ..ResourceType::BLANK
};

/// Id, prefix text and value of each route.
fn routes<'a>(write: &'a Write<'_>) -> impl Iterator<Item = (ResourceId, &'a str, &'a Value)> {
    document::array_at(&write.body, ARRAY).iter().map(|r| {
        let id = write.id.child("routes", document::str_at(r, "name").unwrap_or_default());
        (id, document::str_at(r, "properties.addressPrefix").unwrap_or_default(), r)
    })
}

/// Whether a route's prefix names a service tag and is no address.
fn is_tag(text: &str) -> bool {
    !text.contains('/') && text.starts_with(|c: char| c.is_ascii_alphabetic())
}

fn prefixes(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for (id, text, _) in routes(write) {
        if !is_tag(text) {
            prefix::parse(text, &id)?;
        } else if let Some(why) = tags::route_problem(ctx, text) {
            return Err(ApiError::bad_request(
                "InvalidAddressPrefixFormat",
                format!("Address prefix {text} of resource {id} is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24, or name a service tag.{why}"),
            )
            .with_target(id.as_str()));
        }
    }
    Ok(())
}

/// Next hop types a user may choose (network-semantics 5.7).
const NEXT_HOPS: [&str; 5] = ["VirtualNetworkGateway", "VnetLocal", "Internet", "VirtualAppliance", "None"];

fn next_hops(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for (id, _, route) in routes(write) {
        // AZURE: wording not observed.
        let refuse = |code: &str, message: String| Err(ApiError::bad_request(code, message).with_target(id.as_str()));
        let kind = document::str_at(route, "properties.nextHopType").unwrap_or_default();
        if !NEXT_HOPS.iter().any(|n| n.eq_ignore_ascii_case(kind)) {
            return refuse(
                "InvalidRequestFormat",
                format!("Route {id} has the next hop type '{kind}'. Use one of {}.", NEXT_HOPS.join(", ")),
            );
        }
        let address = document::str_at(route, "properties.nextHopIpAddress").filter(|a| !a.is_empty());
        let appliance = kind.eq_ignore_ascii_case("VirtualAppliance");
        match address {
            None if appliance => {
                return refuse(
                    "InvalidNextHopIpAddress",
                    format!("Route {id} leads to a virtual appliance and names no nextHopIpAddress."),
                );
            }
            Some(a) if appliance && a.parse::<std::net::IpAddr>().is_err() => {
                return refuse(
                    "InvalidNextHopIpAddress",
                    format!("Route {id} has the next hop address '{a}', which is not an IP address."),
                );
            }
            Some(a) if !appliance => {
                return refuse(
                    "InvalidNextHopIpAddress",
                    format!(
                        "Route {id} has the next hop address {a}, which only a next hop of type VirtualAppliance may have."
                    ),
                );
            }
            _ => {}
        }
    }
    Ok(())
}

fn conflicts(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for (id, text, _) in routes(write) {
        if let Some(other) = seen.insert(text.to_lowercase(), id.name().to_owned()) {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "RouteConflict",
                format!(
                    "Route {} conflicts with Route {other}. Routes cannot have the same AddressPrefix {text}.",
                    id.name()
                ),
            )
            .with_target(id.as_str()));
        }
    }
    Ok(())
}

fn limit(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let tagged = routes(write).filter(|(_, t, _)| is_tag(t)).count();
    let all = routes(write).count();
    let over = |what: &str, count: usize, most: usize| {
        // AZURE: wording not observed.
        Err(ApiError::bad_request(
            "RouteCountLimitReached",
            format!("Route table {} would have {count} {what}; {most} are allowed.", write.id),
        ))
    };
    if all > MOST_ROUTES.0 {
        return over("routes", all, MOST_ROUTES.0);
    }
    if tagged > MOST_ROUTES.1 { over("routes with service tags", tagged, MOST_ROUTES.1) } else { Ok(()) }
}

fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) -> Result<(), ApiError> {
    document::remove(&mut write.body, "properties.subnets");
    document::set_default(&mut write.body, "properties.disableBgpRoutePropagation", json!(false));
    document::set_default(&mut write.body, "properties.routes", json!([]));
    shape::each(&mut write.body, ARRAY, |route| {
        shape::strip_rendered(route);
        document::set(route, "properties.hasBgpOverride", json!(false));
        let kind = document::str_at(route, "properties.nextHopType").unwrap_or_default();
        if let Some(spelled) = NEXT_HOPS.iter().find(|n| n.eq_ignore_ascii_case(kind)) {
            document::set(route, "properties.nextHopType", json!(spelled));
        }
    });
    let guid = write.before.and_then(|b| document::str_at(b, "properties.resourceGuid")).map(str::to_owned);
    let guid = guid.unwrap_or_else(|| ctx.uuid("resourceGuid").to_string());
    document::set(&mut write.body, "properties.resourceGuid", json!(guid));
    Ok(())
}

/// Subnets whose member (`routeTable`, `natGateway`) names `id`.
pub(super) fn subnets_naming(snapshot: &Snapshot, id: &ResourceId, member: &str) -> Vec<ResourceId> {
    let path = format!("properties.{member}.id");
    let mut found = Vec::new();
    for vnet in snapshot.in_groups("Microsoft.Network/virtualNetworks") {
        for subnet in document::array_at(&vnet.body, "properties.subnets") {
            if document::str_at(subnet, &path).is_some_and(|t| refs::same(t, id)) {
                found.push(vnet.id.child("subnets", document::str_at(subnet, "name").unwrap_or_default()));
            }
        }
    }
    found
}

/// errors.md `rt-inuse`; the wording is from memory of the service, not from the catalogue.
fn on_delete(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value, _: &mut Batch) -> Result<(), ApiError> {
    if subnets_naming(ctx.snapshot, id, "routeTable").is_empty() {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "InUseRouteTableCannotBeDeleted",
        format!("Route table {} is in use and cannot be deleted.", id.name()),
    ))
}

fn render(ctx: &TypeCtx<'_>, id: &ResourceId, body: &mut Value) {
    let subnets = subnets_naming(ctx.snapshot, id, "routeTable");
    if !subnets.is_empty() {
        document::set(body, "properties.subnets", shape::id_list(&subnets));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net};

    fn check(properties: Value) -> String {
        let mut world = World::new(Edition::Current);
        world.put(&net("routeTables/t"), json!({"properties": {}})).unwrap();
        match world.put(&net("routeTables/t/routes/r"), json!({ "properties": properties })) {
            Ok(_) => "accepted".to_owned(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn addresses_and_tags_may_be_routed() {
        for good in [
            json!({"addressPrefix": "AzureMachineLearning", "nextHopType": "Internet"}),
            json!({"addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.0.9.4"}),
            json!({"addressPrefix": "10.9.0.0/16", "nextHopType": "none"}),
        ] {
            assert_eq!(check(good.clone()), "accepted", "{good}");
        }
    }

    #[test]
    fn broken_routes_are_refused() {
        insta::assert_snapshot!(check(json!({"addressPrefix": "10.0.0.1/24", "nextHopType": "None"})), @"(InvalidCIDRNotation) The address prefix 10.0.0.1/24 in resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/routeTables/t/routes/r has an invalid CIDR notation. For the given prefix length, the address prefix should be 10.0.0.0/24.");
        insta::assert_snapshot!(check(json!({"addressPrefix": "10.0.0.0", "nextHopType": "None"})), @"(InvalidAddressPrefixFormat) Address prefix 10.0.0.0 of resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/routeTables/t/routes/r is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24.");
        insta::assert_snapshot!(check(json!({"addressPrefix": "AzureStorage", "nextHopType": "Internet"})), @"(InvalidAddressPrefixFormat) Address prefix AzureStorage of resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/routeTables/t/routes/r is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24, or name a service tag. There is no such service tag; did you mean Storage?");
        insta::assert_snapshot!(check(json!({"addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance"})), @"(InvalidNextHopIpAddress) Route /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/routeTables/t/routes/r leads to a virtual appliance and names no nextHopIpAddress.");
        insta::assert_snapshot!(check(json!({"addressPrefix": "0.0.0.0/0", "nextHopType": "Internet", "nextHopIpAddress": "10.0.0.4"})), @"(InvalidNextHopIpAddress) Route /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/routeTables/t/routes/r has the next hop address 10.0.0.4, which only a next hop of type VirtualAppliance may have.");
        insta::assert_snapshot!(check(json!({"addressPrefix": "0.0.0.0/0", "nextHopType": "VNetPeering"})), @"(InvalidRequestFormat) Route /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/routeTables/t/routes/r has the next hop type 'VNetPeering'. Use one of VirtualNetworkGateway, VnetLocal, Internet, VirtualAppliance, None.");
    }

    #[test]
    fn prefixes_are_unique_and_counted() {
        let route = |i: usize, prefix: String| json!({"name": format!("r{i}"), "properties": {"addressPrefix": prefix, "nextHopType": "None"}});
        let put = |routes: Vec<Value>| {
            World::new(Edition::Current).put(&net("routeTables/t"), json!({"properties": {"routes": routes}}))
        };
        let twice = vec![route(0, "10.0.0.0/8".into()), route(1, "10.0.0.0/8".into())];
        insta::assert_snapshot!(put(twice).unwrap_err(), @"(RouteConflict) Route r1 conflicts with Route r0. Routes cannot have the same AddressPrefix 10.0.0.0/8.");
        let plain = |n: usize| (0..n).map(|i| route(i, format!("10.{}.{}.0/24", i / 256, i % 256))).collect::<Vec<_>>();
        put(plain(400)).unwrap();
        assert_eq!(put(plain(401)).unwrap_err().code, "RouteCountLimitReached");
    }

    #[test]
    fn a_table_in_use_cannot_go() {
        let mut world = World::new(Edition::Current);
        let t = net("routeTables/t");
        world.put(&t, json!({"properties": {}})).unwrap();
        let subnets = json!([{"name": "a", "properties": {"addressPrefix": "10.0.0.0/24", "routeTable": {"id": t}}}]);
        let v = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets}});
        world.put(&net("virtualNetworks/v"), v).unwrap();
        insta::assert_snapshot!(world.delete(&t).unwrap_err(), @"(InUseRouteTableCannotBeDeleted) Route table t is in use and cannot be deleted.");
        assert_eq!(world.get(&t)["properties"]["subnets"][0]["id"], net("virtualNetworks/v/subnets/a"));
    }
}
