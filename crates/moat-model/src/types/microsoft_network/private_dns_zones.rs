//! `Microsoft.Network/privateDnsZones` with record sets and links to VNets: stored and checked; the
//! resolver does not read them yet.

use std::net::Ipv4Addr;

use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Value, json};

use crate::refs;
use crate::resource_type::{Completion, Refusal, ResourceType, Scope, TypeCtx, Write};

/// Versions that clients were seen to use, newest first.
const API_VERSIONS: &[&str] = &["2024-06-01", "2020-06-01", "2018-09-01"];
/// Record sets of a zone, and links to it (network-semantics 11.2).
const MOST: (u64, u64, u64) = (25_000, 1_000, 100);
/// Labels of a zone's name (network-semantics 11.4).
const LABELS: std::ops::RangeInclusive<usize> = 2..=34;
/// Records of one set (network-semantics 11.2).
const MOST_RECORDS: usize = 20;

/// The zone.
pub static TYPE: ResourceType = ResourceType {
    name: "Microsoft.Network/privateDnsZones",
    api_versions: API_VERSIONS,
    completion: Completion::Accepted,
    stored_only: true,
    refusals: &[Refusal { id: "zone-name", requirements: &[], check: zone_name }],
    on_delete,
    render,
    ..ResourceType::BLANK
};

/// A link of a zone to a VNet.
pub static LINKS: ResourceType = ResourceType {
    name: "Microsoft.Network/privateDnsZones/virtualNetworkLinks",
    api_versions: API_VERSIONS,
    scope: Scope::Child,
    completion: Completion::Accepted,
    stored_only: true,
    refusals: &[
        Refusal { id: "link-vnet", requirements: &[], check: link_vnet },
        Refusal { id: "link-overlap", requirements: &["AML-DNS-006"], check: link_overlap },
    ],
    complete: |_, write| {
        document::set_default(&mut write.body, "properties.registrationEnabled", json!(false));
        document::set(&mut write.body, "properties.virtualNetworkLinkState", json!("Completed"));
        Ok(())
    },
    references: |d| refs::ids(d, &["properties.virtualNetwork.id"]),
    ..ResourceType::BLANK
};

/// A record set; one entry a record type.
const fn records(name: &'static str) -> ResourceType {
    ResourceType {
        name,
        api_versions: API_VERSIONS,
        scope: Scope::Child,
        completion: Completion::Sync,
        location_required: false,
        stored_only: true,
        refusals: &[Refusal { id: "records", requirements: &[], check: record_set }],
        render: |_, id, body| {
            let zone = id.parent().map(|z| z.name().to_owned()).unwrap_or_default();
            let fqdn = if id.name() == "@" { format!("{zone}.") } else { format!("{}.{zone}.", id.name()) };
            document::set(body, "properties.fqdn", json!(fqdn));
            document::set(body, "properties.isAutoRegistered", json!(false));
        },
        ..ResourceType::BLANK
    }
}

/// Record sets of type A.
pub static A: ResourceType = records("Microsoft.Network/privateDnsZones/A");
/// Record sets of type AAAA.
pub static AAAA: ResourceType = records("Microsoft.Network/privateDnsZones/AAAA");
/// Record sets of type CNAME.
pub static CNAME: ResourceType = records("Microsoft.Network/privateDnsZones/CNAME");
/// Record sets of type TXT.
pub static TXT: ResourceType = records("Microsoft.Network/privateDnsZones/TXT");

fn zone_name(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let name = write.id.name();
    let labels: Vec<&str> = name.split('.').collect();
    let good = |l: &&str| {
        (1..=63).contains(&l.len())
            && l.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if LABELS.contains(&labels.len()) && labels.iter().all(good) {
        return Ok(());
    }
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "BadRequest",
        format!(
            "The zone name '{name}' is not valid. It needs {} to {} labels of letters, digits, '-' and '_'.",
            LABELS.start(),
            LABELS.end()
        ),
    ))
}

fn record_set(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    // AZURE: wording not observed.
    let refuse = |message: String| Err(ApiError::bad_request("BadRequest", message));
    let addresses = refs::texts(&write.body, "properties.aRecords[].ipv4Address");
    if let Some(bad) = addresses.iter().find(|a| a.parse::<Ipv4Addr>().is_err()) {
        return refuse(format!("The record set {} has the address '{bad}', which is not an IPv4 address.", write.id));
    }
    if addresses.len() > MOST_RECORDS {
        return refuse(format!(
            "The record set {} has {} records; {MOST_RECORDS} are allowed.",
            write.id,
            addresses.len()
        ));
    }
    match document::at(&write.body, "properties.ttl") {
        Some(_) if document::u64_at(&write.body, "properties.ttl").is_none_or(|t| t > u64::from(u32::MAX >> 1)) => {
            refuse(format!("The record set {} has a ttl that is not a number of seconds.", write.id))
        }
        _ => Ok(()),
    }
}

fn link_vnet(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    const PATH: &str = "properties.virtualNetwork.id";
    let text = document::str_at(&write.body, PATH).unwrap_or_default();
    let id = refs::parse(text, PATH)?;
    if ctx.snapshot.get(&id).is_none() {
        return Err(ApiError::invalid_reference(text, write.id));
    }
    Ok(())
}

/// errors.md `dns-overlap`: equal or nested names for one VNet.
fn link_overlap(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let vnet = |body: &Value| ResourceId::parse(document::str_at(body, "properties.virtualNetwork.id")?).ok();
    let (Some(mine), Some(zone)) = (vnet(&write.body), write.id.parent()) else { return Ok(()) };
    for other_zone in ctx.snapshot.in_groups(TYPE.name) {
        for link in ctx.snapshot.below(&other_zone.id) {
            let is_link = link.id.resource_type().eq_ignore_ascii_case(LINKS.name);
            if !is_link || link.id == *write.id || vnet(&link.body).as_ref() != Some(&mine) {
                continue;
            }
            let (a, b) = (zone.name().to_lowercase(), other_zone.id.name().to_lowercase());
            if a == b || a.ends_with(&format!(".{b}")) || b.ends_with(&format!(".{a}")) {
                return Err(ApiError::bad_request(
                    "BadRequest",
                    format!(
                        "A virtual network cannot be linked to multiple zones with overlapping namespaces. You tried to link virtual network with '{}' and '{}' zones.",
                        zone.name(),
                        other_zone.id.name()
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn links(ctx: &TypeCtx<'_>, zone: &ResourceId) -> Vec<ResourceId> {
    ctx.snapshot
        .below(zone)
        .filter(|d| d.id.resource_type().eq_ignore_ascii_case(LINKS.name))
        .map(|d| d.id.clone())
        .collect()
}

fn on_delete(ctx: &TypeCtx<'_>, id: &ResourceId, _: &Value, _: &mut Batch) -> Result<(), ApiError> {
    match links(ctx, id).first() {
        None => Ok(()),
        Some(link) => Err(ApiError::new(
            409,
            "CannotDeleteResource",
            format!(
                "Cannot delete resource while nested resources exist. Some existing nested resource IDs include: '{link}'. Please delete all nested resources before deleting this resource."
            ),
        )),
    }
}

fn render(ctx: &TypeCtx<'_>, id: &ResourceId, body: &mut Value) {
    let links_count = links(ctx, id).len();
    // The zone's own SOA record set counts.
    let sets = 1 + ctx.snapshot.below(id).filter(|d| !d.id.resource_type().eq_ignore_ascii_case(LINKS.name)).count();
    for (member, value) in [
        ("numberOfRecordSets", json!(sets)),
        ("maxNumberOfRecordSets", json!(MOST.0)),
        ("numberOfVirtualNetworkLinks", json!(links_count)),
        ("maxNumberOfVirtualNetworkLinks", json!(MOST.1)),
        ("maxNumberOfVirtualNetworkLinksWithRegistration", json!(MOST.2)),
        ("numberOfVirtualNetworkLinksWithRegistration", json!(0)),
    ] {
        document::set(body, &format!("properties.{member}"), value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::edition::Edition;
    use crate::types::testing::{World, net};

    #[test]
    fn one_vnet_is_not_linked_to_two_zones_of_one_name() {
        let mut world = World::new(Edition::Current);
        let v = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}});
        world.put(&net("virtualNetworks/v"), v).unwrap();
        let zone = net("privateDnsZones/privatelink.api.azureml.ms");
        let nested = net("privateDnsZones/westus2.privatelink.api.azureml.ms");
        for z in [&zone, &nested] {
            world.put(z, json!({"location": "global"})).unwrap();
        }
        let link = json!({"location": "global", "properties": {"virtualNetwork": {"id": net("virtualNetworks/v")}}});
        world.put(&format!("{zone}/virtualNetworkLinks/l1"), link.clone()).unwrap();
        insta::assert_snapshot!(world.put(&format!("{nested}/virtualNetworkLinks/l2"), link).unwrap_err(), @"(BadRequest) A virtual network cannot be linked to multiple zones with overlapping namespaces. You tried to link virtual network with 'westus2.privatelink.api.azureml.ms' and 'privatelink.api.azureml.ms' zones.");
        insta::assert_snapshot!(world.delete(&zone).unwrap_err().code, @"CannotDeleteResource");
        world
            .put(
                &format!("{zone}/A/rec"),
                json!({"properties": {"ttl": 3600, "aRecords": [{"ipv4Address": "10.0.1.5"}]}}),
            )
            .unwrap();
        assert_eq!(world.get(&format!("{zone}/A/rec"))["properties"]["fqdn"], "rec.privatelink.api.azureml.ms.");
        assert_eq!(world.get(&zone)["properties"]["numberOfRecordSets"], 2);
        let bad = json!({"properties": {"aRecords": [{"ipv4Address": "10.0.1"}]}});
        insta::assert_snapshot!(world.put(&format!("{zone}/A/bad"), bad).unwrap_err(), @"(BadRequest) The record set /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/privateDnsZones/privatelink.api.azureml.ms/A/bad has the address '10.0.1', which is not an IPv4 address.");
        insta::assert_snapshot!(world.put(&net("privateDnsZones/single"), json!({"location": "global"})).unwrap_err(), @"(BadRequest) The zone name 'single' is not valid. It needs 2 to 34 labels of letters, digits, '-' and '_'.");
    }
}
