//! `Microsoft.Network/virtualNetworks/virtualNetworkPeerings`: one half of a peering.
//!
//! A peering is two halves, one in each VNet (network-semantics 6.1): `Initiated` after the first,
//! `Connected` after both, `Disconnected` on the survivor. Writing one half therefore also writes the
//! other VNet's document, in the same batch.

use ipnet::IpNet;
use moat_arm::{ApiError, Batch, Change, ResourceId, Snapshot, document};
use serde_json::{Value, json};

use super::{API_VERSIONS, prefix, virtual_networks};
use crate::refs;
use crate::resource_type::{Completion, ResourceType, Scope, TypeCtx, Write};
use crate::types::shape;

/// Peerings of one VNet (network-semantics 6.8).
const MOST_PEERINGS: usize = 500;

/// The array of a VNet document that holds its halves.
const ARRAY: &str = "properties.virtualNetworkPeerings";

/// The table entry.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/virtualNetworks/virtualNetworkPeerings",
    api_versions: API_VERSIONS,
    scope: Scope::Embedded(ARRAY),
    completion: Completion::Applied,
    location_required: false,
    on_delete: |ctx, id, half, batch| {
        if let Some(vnet) = id.parent() {
            disconnect(ctx.snapshot, &vnet, half, batch);
        }
        Ok(())
    },
    ..ResourceType::BLANK
};

/// The VNet on the other side of a half.
fn remote_id(half: &Value) -> Option<ResourceId> {
    ResourceId::parse(document::str_at(half, "properties.remoteVirtualNetwork.id")?).ok()
}

fn state(half: &Value) -> &str {
    document::str_at(half, "properties.peeringState").unwrap_or_default()
}

/// The half in `remote`'s document that points at `vnet`.
fn opposite<'a>(remote: &'a Value, vnet: &ResourceId) -> Option<&'a Value> {
    document::array_at(remote, ARRAY).iter().find(|h| remote_id(h).as_ref() == Some(vnet))
}

/// The half as it was before this write, if it pointed at the same VNet.
fn earlier<'a>(write: &Write<'a>, half: &Value) -> Option<&'a Value> {
    let old = refs::named(document::array_at(write.before?, ARRAY), document::str_at(half, "name")?)?;
    (remote_id(old) == remote_id(half)).then_some(old)
}

pub(super) fn names(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    shape::distinct_names(write, ARRAY)?;
    let count = document::array_at(&write.body, ARRAY).len();
    if count > MOST_PEERINGS {
        // AZURE: wording not observed.
        return Err(ApiError::bad_request(
            "VnetPeeringCountLimitReached",
            format!("Virtual network {} would have {count} peerings; {MOST_PEERINGS} are allowed.", write.id),
        ));
    }
    Ok(())
}

pub(super) fn remote(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let halves = document::array_at(&write.body, ARRAY);
    for (i, half) in halves.iter().enumerate() {
        let id = write.id.child("virtualNetworkPeerings", document::str_at(half, "name").unwrap_or_default());
        let text = document::str_at(half, "properties.remoteVirtualNetwork.id").unwrap_or_default();
        let remote = refs::parse(text, "properties.remoteVirtualNetwork.id")?;
        if remote == *write.id {
            // AZURE: wording not observed.
            return Err(ApiError::bad_request(
                "InvalidRequestFormat",
                format!("Cannot create or update peering {id}. A virtual network cannot be peered with itself."),
            ));
        }
        if let Some(twin) = halves[..i].iter().find(|h| remote_id(h).as_ref() == Some(&remote)) {
            let twin = write.id.child("virtualNetworkPeerings", document::str_at(twin, "name").unwrap_or_default());
            return Err(ApiError::bad_request(
                "AnotherPeeringAlreadyReferencesRemoteVnet",
                format!(
                    "Peering {twin} already references remote virtual network {remote}. Cannot add another peering {id} referencing the same remote virtual network."
                ),
            ));
        }
        // To answer as if, and to connect the whole VNets, would let through what was to be kept apart.
        if document::bool_at(half, "properties.peerCompleteVnets") == Some(false) {
            return Err(ApiError::bad_request(
                "SubnetPeeringNotSupported",
                format!(
                    "Peering {id} is to connect single subnets (peerCompleteVnets: false), which is not built: peer the complete virtual networks, or keep subnets apart by network security groups."
                ),
            )
            .with_target("properties.peerCompleteVnets"));
        }
        // A survivor stays as it is when its VNet is written for another reason.
        if earlier(write, half).is_some() {
            continue;
        }
        let Some(other) = ctx.snapshot.get(&remote) else {
            return Err(ApiError::invalid_reference(remote.as_str(), &id));
        };
        if let Some(back) = opposite(&other.body, write.id)
            && state(back) == "Disconnected"
        {
            let back = remote.child("virtualNetworkPeerings", document::str_at(back, "name").unwrap_or_default());
            return Err(ApiError::bad_request(
                "RemotePeeringIsDisconnected",
                format!(
                    "Cannot create or update peering {id} because remote peering {back} referencing parent virtual network {} is in Disconnected state. Update or re-create the remote peering to get it back to Initiated state. Peering gets Disconnected when remote vnet or remote peering is deleted and re-created.",
                    write.id
                ),
            ));
        }
    }
    Ok(())
}

/// Prefixes of `a` that meet one of `b`.
fn common(a: &[IpNet], b: &[IpNet]) -> Vec<IpNet> {
    a.iter().filter(|x| b.iter().any(|y| prefix::overlap(x, y))).copied().collect()
}

pub(super) fn overlap(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let here = virtual_networks::prefixes(&write.body);
    let with_remote = |half: &'_ Value| {
        let remote = remote_id(half)?;
        let body = &ctx.snapshot.get(&remote)?.body;
        Some((document::str_at(half, "name").unwrap_or_default().to_owned(), remote, body))
    };
    let mut asked: Vec<&Value> = document::array_at(&write.body, ARRAY).iter().collect();
    // The newcomer is the one at fault.
    asked.sort_by_key(|half| earlier(write, half).is_some());
    let halves: Vec<_> = asked.into_iter().filter_map(with_remote).collect();
    for (name, remote, body) in &halves {
        let id = write.id.child("virtualNetworkPeerings", name);
        let there = virtual_networks::prefixes(body);
        let direct = common(&here, &there);
        if !direct.is_empty() {
            return Err(ApiError::bad_request(
                "VnetAddressSpacesOverlap",
                format!(
                    "Cannot create or update peering {id}. Virtual networks {} and {remote} cannot be peered because their address spaces overlap. Overlapping address prefixes: {}.",
                    write.id,
                    prefix::list(&direct)
                ),
            ));
        }
        let already = |first: &ResourceId, second: &ResourceId, third: &ResourceId, common: &[IpNet]| {
            ApiError::bad_request(
                "VnetAddressSpaceOverlapsWithAlreadyPeeredVnet",
                format!(
                    "Cannot create or update peering {id}. Virtual networks {first} and {second} cannot be peered because address space of the first virtual network overlaps with address space of virtual network {third} already peered with the second virtual network. Overlapping address prefixes: {}.",
                    prefix::list(common)
                ),
            )
        };
        for third in document::array_at(body, ARRAY).iter().filter_map(remote_id).filter(|t| t != write.id) {
            let Some(stored) = ctx.snapshot.get(&third) else { continue };
            let shared = common(&here, &virtual_networks::prefixes(&stored.body));
            if !shared.is_empty() {
                return Err(already(write.id, remote, &third, &shared));
            }
        }
        for (_, third, third_body) in halves.iter().filter(|(_, t, _)| t != remote) {
            let shared = common(&there, &virtual_networks::prefixes(third_body));
            if !shared.is_empty() {
                return Err(already(remote, write.id, third, &shared));
            }
        }
    }
    Ok(())
}

/// Fills in defaults and the state of each half.
pub(super) fn complete(ctx: &TypeCtx<'_>, write: &mut Write<'_>) {
    let states: Vec<(&'static str, Seen, String)> = document::array_at(&write.body, ARRAY)
        .iter()
        .map(|half| {
            let other = remote_id(half).and_then(|r| ctx.snapshot.get(&r));
            let seen = Seen::of(other.map_or(&Value::Null, |o| &o.body));
            let back = other.and_then(|o| opposite(&o.body, write.id));
            let name = document::str_at(half, "name").unwrap_or_default();
            let kept = earlier(write, half).and_then(|e| document::str_at(e, "properties.resourceGuid"));
            let guid = kept.map_or_else(|| ctx.uuid(&format!("peering:{name}")).to_string(), str::to_owned);
            let state = match (earlier(write, half).map(state), back.map(state)) {
                (Some("Disconnected"), _) => "Disconnected",
                (_, Some("Initiated" | "Connected")) => "Connected",
                _ => "Initiated",
            };
            (state, seen, guid)
        })
        .collect();
    let mut states = states.into_iter();
    shape::each(&mut write.body, ARRAY, |half| {
        let Some((state, seen, guid)) = states.next() else { return };
        shape::strip_rendered(half);
        document::set_default(half, "properties.allowVirtualNetworkAccess", json!(true));
        for flag in ["allowForwardedTraffic", "allowGatewayTransit", "useRemoteGateways", "doNotVerifyRemoteGateways"] {
            document::set_default(half, &format!("properties.{flag}"), json!(false));
        }
        document::set_default(half, "properties.peerCompleteVnets", json!(true));
        document::set_default(half, "properties.routeServiceVips", json!({}));
        document::set(half, "properties.resourceGuid", json!(guid));
        set_state(half, state);
        seen.show(half);
    });
}

/// What a half shows of the VNet on the other side; what that one lacks is not shown.
struct Seen {
    space: Option<Value>,
    communities: Option<Value>,
    encryption: Option<Value>,
}

impl Seen {
    fn of(vnet: &Value) -> Self {
        let member = |name: &str| document::at(vnet, &format!("properties.{name}")).filter(|v| v.is_object()).cloned();
        Self { space: member("addressSpace"), communities: member("bgpCommunities"), encryption: member("encryption") }
    }

    fn show(self, half: &mut Value) {
        if let Some(mut space) = self.space {
            document::set_default(&mut space, "ipamPoolPrefixAllocations", json!([]));
            document::set(half, "properties.remoteAddressSpace", space.clone());
            document::set(half, "properties.remoteVirtualNetworkAddressSpace", space);
        }
        for (name, value) in
            [("remoteBgpCommunities", self.communities), ("remoteVirtualNetworkEncryption", self.encryption)]
        {
            let path = format!("properties.{name}");
            match value {
                Some(value) => document::set(half, &path, value),
                None => document::remove(half, &path),
            }
        }
    }
}

fn set_state(half: &mut Value, state: &str) {
    let level = if state == "Connected" { "FullyInSync" } else { "RemoteNotInSync" };
    document::set(half, "properties.peeringState", json!(state));
    document::set(half, "properties.peeringSyncLevel", json!(level));
}

/// Brings the other VNets' halves along: both Connected, or the survivor Disconnected.
pub(super) fn other_halves(ctx: &TypeCtx<'_>, write: &Write<'_>, batch: &mut Batch) -> Result<(), ApiError> {
    let now = document::array_at(&write.body, ARRAY);
    for half in now.iter().filter(|h| state(h) == "Connected") {
        set_opposite(ctx.snapshot, write.id, half, "Connected", batch);
    }
    for old in write.before.map(|b| document::array_at(b, ARRAY)).unwrap_or_default() {
        let remote = remote_id(old);
        if !now.iter().any(|h| remote_id(h) == remote) {
            disconnect(ctx.snapshot, write.id, old, batch);
        }
    }
    Ok(())
}

/// Marks the survivor when `half` of `vnet` goes.
pub(super) fn disconnect(snapshot: &Snapshot, vnet: &ResourceId, half: &Value, batch: &mut Batch) {
    set_opposite(snapshot, vnet, half, "Disconnected", batch);
}

fn set_opposite(snapshot: &Snapshot, vnet: &ResourceId, half: &Value, state: &str, batch: &mut Batch) {
    let Some(remote) = remote_id(half) else { return };
    // An earlier change of this batch to the same VNet must not be lost.
    let in_batch = batch.changes.iter().rev().find_map(|c| match c {
        Change::Put { id, body } if *id == remote => Some(body.clone()),
        _ => None,
    });
    let Some(mut body) = in_batch.or_else(|| snapshot.get(&remote).map(|s| s.body.clone())) else { return };
    let mut changed = false;
    shape::each(&mut body, ARRAY, |back| {
        if remote_id(back).as_ref() == Some(vnet) && self::state(back) != state {
            set_state(back, state);
            changed = true;
        }
    });
    if changed {
        batch.put(remote, body);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net};

    /// VNets by name and prefix.
    fn world(vnets: &[(&str, &str)]) -> World {
        let mut world = World::new(Edition::Current);
        for (name, space) in vnets {
            let body = json!({"properties": {"addressSpace": {"addressPrefixes": [space]}}});
            world.put(&net(&format!("virtualNetworks/{name}")), body).unwrap();
        }
        world
    }

    fn peer(world: &mut World, from: &str, to: &str) -> Result<Value, ApiError> {
        let remote = net(&format!("virtualNetworks/{to}"));
        world.put(
            &net(&format!("virtualNetworks/{from}/virtualNetworkPeerings/to-{to}")),
            json!({"properties": {"remoteVirtualNetwork": {"id": remote}}}),
        )
    }

    fn state_of(world: &World, from: &str, to: &str) -> String {
        let half = world.get(&net(&format!("virtualNetworks/{from}/virtualNetworkPeerings/to-{to}")));
        state(&half).to_owned()
    }

    #[test]
    fn two_halves_connect_and_the_survivor_disconnects() {
        let mut world = world(&[("a", "10.0.0.0/16"), ("b", "10.1.0.0/16")]);
        peer(&mut world, "a", "b").unwrap();
        assert_eq!(state_of(&world, "a", "b"), "Initiated");
        peer(&mut world, "b", "a").unwrap();
        assert_eq!((state_of(&world, "a", "b"), state_of(&world, "b", "a")), ("Connected".into(), "Connected".into()));
        world.delete(&net("virtualNetworks/b/virtualNetworkPeerings/to-a")).unwrap();
        assert_eq!(state_of(&world, "a", "b"), "Disconnected");
        insta::assert_snapshot!(peer(&mut world, "b", "a").unwrap_err().code, @"RemotePeeringIsDisconnected");
        world.delete(&net("virtualNetworks/a/virtualNetworkPeerings/to-b")).unwrap();
        peer(&mut world, "b", "a").unwrap();
        peer(&mut world, "a", "b").unwrap();
        assert_eq!(state_of(&world, "b", "a"), "Connected");
        world.delete(&net("virtualNetworks/b")).unwrap();
        assert_eq!(state_of(&world, "a", "b"), "Disconnected");
        // The survivor does not stand in the way of other writes to its VNet.
        world
            .put(&net("virtualNetworks/a/subnets/s"), json!({"properties": {"addressPrefix": "10.0.0.0/24"}}))
            .unwrap();
        assert_eq!(state_of(&world, "a", "b"), "Disconnected");
    }

    #[test]
    fn a_half_shows_what_the_other_vnet_has() {
        let mut world = world(&[("a", "10.0.0.0/16")]);
        let far = json!({"location": "eastus", "properties": {
            "addressSpace": {"addressPrefixes": ["10.1.0.0/16"]},
            "bgpCommunities": {"virtualNetworkCommunity": "12076:20002"},
            "encryption": {"enabled": true, "enforcement": "AllowUnencrypted"},
        }});
        world.put(&net("virtualNetworks/b"), far).unwrap();
        let half = peer(&mut world, "a", "b").unwrap();
        assert_eq!(
            half["properties"]["remoteBgpCommunities"],
            json!({"virtualNetworkCommunity": "12076:20002", "regionalCommunity": "12076:50004"})
        );
        assert_eq!(half["properties"]["remoteVirtualNetworkEncryption"]["enabled"], true);
        assert!(half["properties"].get("localAddressSpace").is_none());
        // `b` sees nothing of the kind in `a`.
        let back = peer(&mut world, "b", "a").unwrap();
        assert!(back["properties"].get("remoteBgpCommunities").is_none());
    }

    #[test]
    fn single_subnets_do_not_peer_rather_than_whole_vnets() {
        let mut world = world(&[("a", "10.0.0.0/16"), ("b", "10.1.0.0/16")]);
        let half = json!({"properties": {
            "remoteVirtualNetwork": {"id": net("virtualNetworks/b")}, "peerCompleteVnets": false,
        }});
        let refused = world.put(&net("virtualNetworks/a/virtualNetworkPeerings/p"), half).unwrap_err();
        insta::assert_snapshot!(refused.code, @"SubnetPeeringNotSupported");
    }

    #[test]
    fn clashing_address_spaces_do_not_peer() {
        let mut world = world(&[("a", "10.0.0.0/16"), ("b", "10.0.128.0/17"), ("hub", "10.9.0.0/16")]);
        insta::assert_snapshot!(peer(&mut world, "a", "b").unwrap_err(), @"(VnetAddressSpacesOverlap) Cannot create or update peering /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/a/virtualNetworkPeerings/to-b. Virtual networks /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/a and /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/b cannot be peered because their address spaces overlap. Overlapping address prefixes: 10.0.0.0/16.");
        peer(&mut world, "hub", "a").unwrap();
        insta::assert_snapshot!(peer(&mut world, "hub", "b").unwrap_err(), @"(VnetAddressSpaceOverlapsWithAlreadyPeeredVnet) Cannot create or update peering /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/hub/virtualNetworkPeerings/to-b. Virtual networks /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/b and /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/hub cannot be peered because address space of the first virtual network overlaps with address space of virtual network /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/a already peered with the second virtual network. Overlapping address prefixes: 10.0.128.0/17.");
        insta::assert_snapshot!(peer(&mut world, "b", "hub").unwrap_err().code, @"VnetAddressSpaceOverlapsWithAlreadyPeeredVnet");
        insta::assert_snapshot!(peer(&mut world, "a", "a").unwrap_err(), @"(InvalidRequestFormat) Cannot create or update peering /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/a/virtualNetworkPeerings/to-a. A virtual network cannot be peered with itself.");
        insta::assert_snapshot!(peer(&mut world, "a", "missing").unwrap_err().code, @"InvalidResourceReference");
    }
}
