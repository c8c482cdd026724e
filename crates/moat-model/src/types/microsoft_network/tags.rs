//! Service tag names as rules and routes may write them (network-semantics 3), and the list of
//! tags that a region answers.

use moat_arm::{ApiError, Batch, ResourceId, document};
use moat_net::address::DynamicTag;
use moat_net::tags::{TagFile, TagSource, spelling_hint};
use serde_json::{Value, json};

use crate::edition::Edition;
use crate::lower::tags_of;
use crate::resource_type::{Action, ActionResult, ResourceType, Scope, TypeCtx};

/// `Microsoft.Network/locations`: what a region offers. Never stored.
pub static LOCATIONS: ResourceType = ResourceType {
    name: "Microsoft.Network/locations",
    api_versions: super::API_VERSIONS,
    scope: Scope::Subscription,
    location_required: false,
    readings: &[Action {
        name: "serviceTags",
        run: |ctx, id, _| {
            Ok(ActionResult { body: service_tags(ctx.edition, id), long_running: false, batch: Batch::default() })
        },
    }],
    actions: &[Action { name: "checkPrivateLinkServiceVisibility", run: link_service_visibility }],
    ..ResourceType::BLANK
};

/// Whether the caller may connect to a private link service, by its alias. There are none here, and of a service that
/// does not exist Azure says the same as of one that hides.
fn link_service_visibility(_: &TypeCtx<'_>, _: &ResourceId, asked: &Value) -> Result<ActionResult, ApiError> {
    if document::str_at(asked, "privateLinkServiceAlias").is_none_or(str::is_empty) {
        // AZURE: wording not observed.
        return Err(ApiError::bad_request("InvalidRequestFormat", "No alias of a private link service is given.")
            .with_target("privateLinkServiceAlias"));
    }
    Ok(ActionResult { body: json!({"visible": false}), long_running: false, batch: Batch::default() })
}

/// A tag that stands in no file and may be named in rules only.
const LICENSING: &str = "AzurePlatformLKM";

/// Why a rule may not name `name`, as the rest of a sentence; `None` if it may.
pub(super) fn problem(ctx: &TypeCtx<'_>, name: &str) -> Option<String> {
    if DynamicTag::parse(name, false).is_some() || name.eq_ignore_ascii_case(LICENSING) {
        return None;
    }
    in_file(ctx, name)
}

/// Why a route may not name `name`: only tags with prefixes of their own can be routed
/// (network-semantics 5.9).
pub(super) fn route_problem(ctx: &TypeCtx<'_>, name: &str) -> Option<String> {
    if DynamicTag::parse(name, false).is_some() || name.eq_ignore_ascii_case(LICENSING) {
        return Some(format!(" The service tag {name} cannot be used in a route."));
    }
    in_file(ctx, name)
}

fn in_file(ctx: &TypeCtx<'_>, name: &str) -> Option<String> {
    let source = tags_of(ctx.edition);
    if source.canonical(name, false).is_some() {
        return None;
    }
    let hint = spelling_hint(name).filter(|h| source.canonical(h, false).is_some());
    let date = match &source {
        TagSource::File(file) => file.date(),
        TagSource::None | TagSource::Given(_) => "this world",
    };
    Some(match hint {
        Some(hint) => format!(" There is no such service tag; did you mean {hint}?"),
        None => format!(" There is no such service tag in the list of {date}."),
    })
}

/// The answer to `GET .../locations/{location}/serviceTags`: every tag of the edition's file.
pub fn service_tags(edition: Edition, location: &ResourceId) -> Value {
    let file: &TagFile = match edition {
        Edition::Seed2021 => moat_net::tags::september_2021(),
        Edition::Current => moat_net::tags::october_2025(),
    };
    let values: Vec<Value> = file
        .all()
        .map(|tag| {
            let prefixes: Vec<String> = tag.prefixes().iter().map(ToString::to_string).collect();
            json!({
                "name": tag.name(),
                "id": tag.name(),
                "serviceTagChangeNumber": file.change_number().to_string(),
                "properties": {
                    "changeNumber": tag.change_number().to_string(),
                    "region": tag.region(),
                    "state": "GA",
                    "networkFeatures": tag.network_features(),
                    "systemService": tag.system_service(),
                    "addressPrefixes": prefixes,
                },
            })
        })
        .collect();
    json!({
        "name": file.cloud(),
        "id": format!("{location}/serviceTags"),
        "type": "Microsoft.Network/serviceTags",
        "changeNumber": file.change_number().to_string(),
        "cloud": file.cloud(),
        "values": values,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::types::testing::World;

    fn check(edition: Edition, name: &str) -> String {
        World::new(edition).with_ctx(|ctx| problem(ctx, name)).unwrap_or_default()
    }

    #[test]
    fn tags_are_those_of_the_editions_file() {
        for good in [
            "VirtualNetwork",
            "internet",
            "AzureLoadBalancer",
            "AzurePlatformLKM",
            "Storage.westus2",
            "batchnodemanagement",
        ] {
            assert_eq!(check(Edition::Seed2021, good), "", "{good}");
        }
        assert_eq!(check(Edition::Current, "BatchNodeManagement.westus2"), "");
        insta::assert_snapshot!(check(Edition::Seed2021, "AzureStorage.westus2"), @" There is no such service tag; did you mean Storage.westus2?");
        insta::assert_snapshot!(check(Edition::Seed2021, "Keyvault"), @" There is no such service tag; did you mean AzureKeyVault?");
        insta::assert_snapshot!(check(Edition::Seed2021, "Nonsense"), @" There is no such service tag in the list of 2021-09-27.");
        let routed = World::new(Edition::Current).with_ctx(|ctx| route_problem(ctx, "VirtualNetwork"));
        insta::assert_snapshot!(routed.unwrap(), @" The service tag VirtualNetwork cannot be used in a route.");
    }

    #[test]
    fn no_private_link_service_is_visible() {
        let mut world = World::new(Edition::Current);
        let location = "/subscriptions/s/providers/Microsoft.Network/locations/westus2";
        let mut ask = |body| world.post(location, "checkPrivateLinkServiceVisibility", body);
        assert_eq!(ask(json!({"privateLinkServiceAlias": "a.b"})).unwrap(), json!({"visible": false}));
        assert_eq!(ask(json!({})).unwrap_err().code, "InvalidRequestFormat");
    }

    #[test]
    fn the_list_has_every_tag_with_its_prefixes() {
        let id = ResourceId::parse("/subscriptions/s/providers/Microsoft.Network/locations/westus2").unwrap();
        let list = service_tags(Edition::Seed2021, &id);
        assert_eq!(list["id"], "/subscriptions/s/providers/Microsoft.Network/locations/westus2/serviceTags");
        let values = list["values"].as_array().unwrap();
        assert_eq!(values.len(), 2281);
        let batch = values.iter().find(|v| v["name"] == "BatchNodeManagement").unwrap();
        assert!(!batch["properties"]["addressPrefixes"].as_array().unwrap().is_empty());
    }
}
