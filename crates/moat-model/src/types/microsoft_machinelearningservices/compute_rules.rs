//! What the service refuses about a compute, one function a rule.
//!
//! Texts that nobody observed keep the style of `UserError` (errors.md section 6) and say so.

use ipnet::{IpNet, Ipv4Net};
use moat_arm::{ApiError, ResourceId, Snapshot, document};
use serde_json::Value;
use std::net::Ipv4Addr;

use super::{auto_network, computes, vm_sizes};
use crate::edition::Edition;
use crate::refs;
use crate::resource_type::{Refusal, TypeCtx, Write};
use crate::types::microsoft_network::{subnets, virtual_networks};

/// All of them, in the order they are asked.
pub const ALL: &[Refusal] = &[
    Refusal { id: "compute-kind", requirements: &["AML-PRE-020"], check: kind },
    Refusal { id: "compute-name", requirements: &["AML-PRE-018"], check: name },
    Refusal { id: "compute-name-unique", requirements: &["AML-PRE-018"], check: name_unique },
    Refusal { id: "compute-being-deleted", requirements: &[], check: being_deleted },
    Refusal { id: "compute-vm-size", requirements: &[], check: vm_size },
    Refusal { id: "compute-scale-settings", requirements: &["AML-LIF-009"], check: scale },
    Refusal { id: "compute-values", requirements: &["AML-LIF-012", "AML-RES-016"], check: values },
    Refusal { id: "compute-immutable", requirements: &["AML-LIF-010"], check: immutable },
    Refusal { id: "compute-no-public-ip-era", requirements: &["AML-NPIP-006"], check: no_public_ip_era },
    Refusal { id: "compute-subnet-id", requirements: &["AML-PRE-016"], check: subnet_id },
    Refusal { id: "compute-vnet-subscription", requirements: &["AML-PRE-002"], check: vnet_subscription },
    Refusal { id: "compute-subnet-exists", requirements: &["AML-PRE-001"], check: subnet_exists },
    Refusal { id: "compute-vnet-region", requirements: &["AML-PRE-017"], check: vnet_region },
    Refusal { id: "compute-subnet-delegated", requirements: &["AML-PRE-007"], check: subnet_delegated },
    Refusal { id: "compute-docker-range", requirements: &["AML-PRE-013"], check: docker_range },
];

/// Docker's default bridge on every node (AML-PRE-013).
const DOCKER_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(172, 17, 0, 0), 16);

/// A refusal in the style of the service; the wording is ours.
fn user_error(message: String) -> ApiError {
    // AZURE: wording not observed.
    ApiError::bad_request("UserError", message)
}

fn text<'a>(body: &'a Value, member: &str) -> Option<&'a str> {
    document::str_at(body, &format!("properties.properties.{member}")).filter(|t| !t.is_empty())
}

fn kind(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    const KNOWN: [&str; 9] = [
        "ComputeInstance",
        "VirtualMachine",
        "HDInsight",
        "Databricks",
        "AKS",
        "Kubernetes",
        "DataFactory",
        "DataLakeAnalytics",
        "SynapseSpark",
    ];
    match document::str_at(&write.body, "properties.computeType") {
        Some(t) if t.eq_ignore_ascii_case("AmlCompute") => Ok(()),
        Some(t) if KNOWN.iter().any(|k| k.eq_ignore_ascii_case(t)) => Err(ApiError::bad_request(
            "ComputeTypeNotSupported",
            format!("Compute type '{t}' is not available in Moat yet. Create a cluster with computeType 'AmlCompute' instead."),
        )
        .with_target("properties.computeType")),
        other => Err(ApiError::bad_request(
            "InvalidComputeType",
            format!("'{}' is not a compute type. Use 'AmlCompute'.", other.unwrap_or_default()),
        )
        .with_target("properties.computeType")),
    }
}

/// Why a compute may not be called `name`, if it may not.
pub(super) fn name_problem(name: &str) -> Option<String> {
    let length = name.chars().count();
    let letters = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let after_hyphen = name.rsplit_once('-').is_none_or(|(_, tail)| tail.contains(|c: char| c.is_ascii_alphabetic()));
    if (3..=24).contains(&length) && letters && after_hyphen {
        return None;
    }
    Some(format!(
        "The compute name '{name}' is not allowed. It must be 3 to 24 characters long, begin with a letter, hold only letters, digits and hyphens, and a hyphen must be followed by a letter somewhere after it."
    ))
}

fn name(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    match name_problem(write.id.name()) {
        // AZURE: wording not observed.
        Some(why) => Err(ApiError::bad_request("InvalidComputeName", why)),
        None => Ok(()),
    }
}

/// Who has the name in the region already, as a sentence. `also_itself` counts a compute with the
/// very id.
pub(super) fn name_taken(
    snapshot: &Snapshot,
    compute: &ResourceId,
    region: Option<&str>,
    also_itself: bool,
) -> Option<String> {
    let other = computes::all(snapshot).find(|d| {
        d.id.name().eq_ignore_ascii_case(compute.name())
            && (also_itself || d.id != *compute)
            && d.id.subscription().map(str::to_lowercase) == compute.subscription().map(str::to_lowercase)
            && computes::region(&d.body).as_deref() == region
    })?;
    Some(format!(
        "The compute name '{}' is already used in region '{}' by {}. Choose another name.",
        compute.name(),
        region.unwrap_or_default(),
        other.id
    ))
}

fn name_unique(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let region = computes::region(&write.body);
    match name_taken(ctx.snapshot, write.id, region.as_deref(), false) {
        // AZURE: wording not observed.
        Some(why) => Err(ApiError::bad_request("ComputeNameNotUnique", why)),
        None => Ok(()),
    }
}

fn being_deleted(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let state = write.before.and_then(|b| document::str_at(b, "properties.provisioningState"));
    if state.is_some_and(|s| s.eq_ignore_ascii_case("Deleting")) {
        // AZURE: wording not observed.
        return Err(ApiError::new(
            409,
            "Conflict",
            format!("Compute '{}' is being deleted. Wait until it is gone before creating it again.", write.id.name()),
        ));
    }
    Ok(())
}

fn vm_size(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let asked = text(&write.body, "vmSize").unwrap_or_default();
    if vm_sizes::find(asked).is_some() {
        return Ok(());
    }
    // AZURE: wording not observed.
    Err(ApiError::bad_request(
        "InvalidVmSize",
        format!("The VM size '{asked}' is not available for compute clusters in this region. GET .../locations/{{location}}/vmSizes lists those that are."),
    )
    .with_target("properties.properties.vmSize"))
}

fn scale(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let path = |m: &str| format!("properties.properties.scaleSettings.{m}");
    let (minimum, maximum) = (path("minNodeCount"), path("maxNodeCount"));
    // AZURE: wording not observed.
    let refuse =
        |why: String, target: &str| Err(ApiError::bad_request("InvalidScaleSettings", why).with_target(target));
    let Some(most) = document::u64_at(&write.body, &maximum) else {
        return refuse("scaleSettings needs maxNodeCount, a whole number of at least 0.".to_owned(), &maximum);
    };
    let least = match document::at(&write.body, &minimum) {
        None => 0,
        Some(_) => match document::u64_at(&write.body, &minimum) {
            Some(n) => n,
            None => return refuse("minNodeCount must be a whole number of at least 0.".to_owned(), &minimum),
        },
    };
    if least > most {
        return refuse(format!("minNodeCount {least} is greater than maxNodeCount {most}."), &minimum);
    }
    let idle = path("nodeIdleTimeBeforeScaleDown");
    if let Some(said) = document::at(&write.body, &idle) {
        let span = said.as_str().and_then(|t| t.parse::<jiff::SignedDuration>().ok()).filter(|d| !d.is_negative());
        if span.is_none() {
            return refuse(
                format!("nodeIdleTimeBeforeScaleDown {said} is not an ISO 8601 duration such as PT120S."),
                &idle,
            );
        }
    }
    Ok(())
}

fn values(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    for (member, allowed) in [
        ("vmPriority", &["Dedicated", "LowPriority"][..]),
        ("remoteLoginPortPublicAccess", &["Enabled", "Disabled", "NotSpecified"][..]),
        ("osType", &["Linux"][..]),
    ] {
        if let Some(value) = text(&write.body, member)
            && !allowed.iter().any(|a| a.eq_ignore_ascii_case(value))
        {
            return Err(user_error(format!("{member} is '{value}'. Use {}.", allowed.join(" or ")))
                .with_target(format!("properties.properties.{member}")));
        }
    }
    Ok(())
}

fn immutable(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let Some(before) = write.before else { return Ok(()) };
    let changed = |member: &str| {
        // AZURE: code known by name (errors.md section 5), wording not observed.
        Err(ApiError::bad_request(
            "PropertyChangeNotAllowed",
            format!(
                "Changing property '{member}' of compute '{}' is not allowed. Delete the compute and create it again.",
                write.id.name()
            ),
        )
        .with_target(format!("properties.properties.{member}")))
    };
    for member in ["vmSize", "vmPriority", "osType"] {
        if let (Some(old), Some(new)) = (text(before, member), text(&write.body, member))
            && !old.eq_ignore_ascii_case(new)
        {
            return changed(member);
        }
    }
    let public = auto_network::has_public_ip;
    if public(before) != public(&write.body) {
        return changed("enableNodePublicIp");
    }
    if computes::remote_login(before, None) != computes::remote_login(&write.body, Some(before)) {
        return changed("remoteLoginPortPublicAccess");
    }
    if auto_network::subnet(before) != auto_network::subnet(&write.body) {
        return changed("subnet");
    }
    if computes::region(before) != computes::region(&write.body) {
        return changed("computeLocation");
    }
    Ok(())
}

/// errors.md `aml-npip-region`: the document of 2021-09 has no public IP for instances only.
fn no_public_ip_era(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if ctx.edition == Edition::Seed2021 && !auto_network::has_public_ip(&write.body) {
        return Err(ApiError::bad_request(
            "PropertyNotAllowed",
            "Cluster without public IP is not supported in the compute region. Please refer to this documentation for the regions support No Public IP cluster https://docs.microsoft.com/azure/batch/batch-pool-no-public-ip-address",
        )
        .with_target("properties.properties.enableNodePublicIp"));
    }
    Ok(())
}

/// The subnet that is asked for, parsed.
fn asked_subnet(write: &Write<'_>) -> Result<Option<ResourceId>, ApiError> {
    document::str_at(&write.body, computes::SUBNET)
        .filter(|t| !t.is_empty())
        .map(|t| refs::parse(t, computes::SUBNET))
        .transpose()
}

fn subnet_id(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    match asked_subnet(write)? {
        Some(id) if !id.resource_type().eq_ignore_ascii_case(subnets::TYPE.name) => Err(user_error(format!(
            "The subnet of compute '{}' must be a subnet of a Microsoft.Network/virtualNetworks resource, got {id}. Classic virtual networks are not supported.",
            write.id.name()
        ))
        .with_target(computes::SUBNET)),
        _ => Ok(()),
    }
}

fn vnet_subscription(_: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let Some(id) = asked_subnet(write)? else { return Ok(()) };
    let same = |a: Option<&str>, b: Option<&str>| a.map(str::to_lowercase) == b.map(str::to_lowercase);
    if same(id.subscription(), write.id.subscription()) {
        return Ok(());
    }
    Err(user_error(format!(
        "The virtual network of compute '{}' is in subscription {}. It must be in subscription {}, the one of the workspace.",
        write.id.name(),
        id.subscription().unwrap_or_default(),
        write.id.subscription().unwrap_or_default()
    ))
    .with_target(computes::SUBNET))
}

fn subnet_exists(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    match asked_subnet(write)? {
        Some(id) if refs::find(ctx.snapshot, &id).is_none() => Err(ApiError::invalid_reference(id.as_str(), write.id)),
        _ => Ok(()),
    }
}

/// errors.md `invalid-ref`: the same answer as for a missing subnet names the region, too.
fn vnet_region(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let Some(id) = asked_subnet(write)? else { return Ok(()) };
    if refs::location_of(ctx.snapshot, &id) == computes::region(&write.body) {
        return Ok(());
    }
    Err(ApiError::invalid_reference(id.as_str(), write.id))
}

fn subnet_delegated(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    let Some(id) = asked_subnet(write)? else { return Ok(()) };
    let Some(subnet) = refs::find(ctx.snapshot, &id) else { return Ok(()) };
    match subnets::delegations(subnet).first() {
        None => Ok(()),
        Some(service) => Err(user_error(format!(
            "Subnet {id} is delegated to {service}. A compute cluster needs a subnet without delegation."
        ))
        .with_target(computes::SUBNET)),
    }
}

/// AML-PRE-013 is not in the document of 2021-09.
fn docker_range(ctx: &TypeCtx<'_>, write: &Write<'_>) -> Result<(), ApiError> {
    if ctx.edition == Edition::Seed2021 {
        return Ok(());
    }
    let Some(vnet_id) = asked_subnet(write)?.and_then(|s| s.parent()) else { return Ok(()) };
    let Some(vnet) = ctx.snapshot.get(&vnet_id) else { return Ok(()) };
    let Ok(docker) = Ipv4Net::new(DOCKER_RANGE.0, DOCKER_RANGE.1).map(IpNet::V4) else { return Ok(()) };
    match virtual_networks::prefixes(&vnet.body).iter().find(|p| p.contains(&docker) || docker.contains(*p)) {
        None => Ok(()),
        Some(prefix) => Err(user_error(format!(
            "Virtual network {vnet_id} has the address prefix {prefix}, which meets {docker}, the range of the Docker bridge on every node. Use another range."
        ))
        .with_target(computes::SUBNET)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::types::testing::{World, cluster, cluster_id, ml_world, net};
    use serde_json::json;

    fn outcome(result: Result<Value, ApiError>) -> String {
        match result {
            Ok(_) => "accepted".to_owned(),
            Err(e) => e.to_string(),
        }
    }

    /// A new cluster with `inner` merged into its inner properties.
    fn check(edition: Edition, inner: Value) -> String {
        outcome(ml_world(edition).put(&cluster_id("cpucluster"), cluster(inner)))
    }

    #[test]
    fn names_follow_the_rules() {
        let allowed = |name: &str| name_problem(name).is_none();
        for good in ["cpucluster", "cpu-cluster", "a1b", "cpu-2a", "ci-moat-1x", "abcdefghijklmnopqrstuvwx"] {
            assert!(allowed(good), "{good}");
        }
        for bad in ["ab", "1cpu", "-cpu", "cpu_2", "cpu-2", "cpu-", "abcdefghijklmnopqrstuvwxy", "cpü"] {
            assert!(!allowed(bad), "{bad}");
        }
        let named = ml_world(Edition::Current).put(&cluster_id("1cpu"), cluster(json!({})));
        insta::assert_snapshot!(outcome(named), @"(InvalidComputeName) The compute name '1cpu' is not allowed. It must be 3 to 24 characters long, begin with a letter, hold only letters, digits and hyphens, and a hyphen must be followed by a letter somewhere after it.");
    }

    #[test]
    fn a_name_is_used_once_a_region() {
        let mut world = ml_world(Edition::Current);
        world.put(&cluster_id("cpucluster"), cluster(json!({}))).unwrap();
        let other = cluster_id("cpucluster").replace("workspaces/moatws/", "workspaces/other/");
        world.put(&other.replace("/computes/cpucluster", ""), json!({"properties": {}})).unwrap();
        insta::assert_snapshot!(outcome(world.put(&other, cluster(json!({})))), @"(ComputeNameNotUnique) The compute name 'cpucluster' is already used in region 'westus2' by /subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/moatws/computes/cpucluster. Choose another name.");
    }

    #[test]
    fn other_kinds_of_compute_say_that_they_are_not_here() {
        let mut body = cluster(json!({}));
        body["properties"]["computeType"] = json!("ComputeInstance");
        insta::assert_snapshot!(outcome(ml_world(Edition::Current).put(&cluster_id("inst1"), body)), @"(ComputeTypeNotSupported) Compute type 'ComputeInstance' is not available in Moat yet. Create a cluster with computeType 'AmlCompute' instead.");
    }

    #[test]
    fn what_a_cluster_needs_is_asked_for() {
        let e = Edition::Current;
        insta::assert_snapshot!(check(e, json!({"vmSize": "Standard_Nonsense"})), @"(InvalidVmSize) The VM size 'Standard_Nonsense' is not available for compute clusters in this region. GET .../locations/{location}/vmSizes lists those that are.");
        insta::assert_snapshot!(check(e, json!({"scaleSettings": {"maxNodeCount": null}})), @"(InvalidScaleSettings) scaleSettings needs maxNodeCount, a whole number of at least 0.");
        insta::assert_snapshot!(check(e, json!({"scaleSettings": {"minNodeCount": 5}})), @"(InvalidScaleSettings) minNodeCount 5 is greater than maxNodeCount 4.");
        insta::assert_snapshot!(check(e, json!({"scaleSettings": {"nodeIdleTimeBeforeScaleDown": "two minutes"}})), @r#"(InvalidScaleSettings) nodeIdleTimeBeforeScaleDown "two minutes" is not an ISO 8601 duration such as PT120S."#);
        insta::assert_snapshot!(check(e, json!({"vmPriority": "Urgent"})), @"(UserError) vmPriority is 'Urgent'. Use Dedicated or LowPriority.");
    }

    #[test]
    fn no_public_ip_is_for_the_current_edition() {
        insta::assert_snapshot!(check(Edition::Current, json!({"enableNodePublicIp": false})), @"accepted");
        insta::assert_snapshot!(check(Edition::Seed2021, json!({"enableNodePublicIp": false})), @"(PropertyNotAllowed) Cluster without public IP is not supported in the compute region. Please refer to this documentation for the regions support No Public IP cluster https://docs.microsoft.com/azure/batch/batch-pool-no-public-ip-address");
    }

    #[test]
    fn the_subnet_must_be_one_the_nodes_can_live_in() {
        let e = Edition::Current;
        let at = |id: String| json!({"subnet": {"id": id}});
        insta::assert_snapshot!(check(e, at(net("virtualNetworks/mynetwork/subnets/missing"))), @"(InvalidResourceReference) Resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/mynetwork/subnets/missing referenced by resource /subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/moatws/computes/cpucluster was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.");
        insta::assert_snapshot!(check(e, at(net("virtualNetworks/mynetwork/subnets/default").replace("/s/", "/other/"))), @"(UserError) The virtual network of compute 'cpucluster' is in subscription other. It must be in subscription s, the one of the workspace.");
        insta::assert_snapshot!(check(e, at(net("virtualNetworks/mynetwork"))), @"(UserError) The subnet of compute 'cpucluster' must be a subnet of a Microsoft.Network/virtualNetworks resource, got /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/mynetwork. Classic virtual networks are not supported.");
        insta::assert_snapshot!(check(e, at("default".to_owned())), @"(LinkedInvalidPropertyId) Property id 'default' at path 'properties.properties.subnet.id' is invalid. Expect fully qualified resource Id that start with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'.");
        insta::assert_snapshot!(check(e, at(net("virtualNetworks/mynetwork/subnets/aci"))), @"(UserError) Subnet /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/mynetwork/subnets/aci is delegated to Microsoft.ContainerInstance/containerGroups. A compute cluster needs a subnet without delegation.");
        insta::assert_snapshot!(check(e, at(net("virtualNetworks/far/subnets/default"))), @"(InvalidResourceReference) Resource /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/far/subnets/default referenced by resource /subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/moatws/computes/cpucluster was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.");
        insta::assert_snapshot!(check(e, at(net("virtualNetworks/docker/subnets/default"))), @"(UserError) Virtual network /subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/docker has the address prefix 172.16.0.0/12, which meets 172.17.0.0/16, the range of the Docker bridge on every node. Use another range.");
        insta::assert_snapshot!(check(Edition::Seed2021, at(net("virtualNetworks/docker/subnets/default"))), @"accepted");
    }

    /// An update of a cluster with `inner` merged into its inner properties.
    fn update(inner: Value) -> String {
        let mut world: World = ml_world(Edition::Current);
        world.put(&cluster_id("cpucluster"), cluster(json!({}))).unwrap();
        outcome(world.put(&cluster_id("cpucluster"), cluster(inner)))
    }

    #[test]
    fn what_was_chosen_at_creation_stays() {
        insta::assert_snapshot!(update(json!({"vmSize": "standard_d2_v2", "scaleSettings": {"maxNodeCount": 9}})), @"accepted");
        insta::assert_snapshot!(update(json!({"remoteLoginPortPublicAccess": "Disabled"})), @"accepted");
        insta::assert_snapshot!(update(json!({"vmSize": "Standard_DS3_v2"})), @"(PropertyChangeNotAllowed) Changing property 'vmSize' of compute 'cpucluster' is not allowed. Delete the compute and create it again.");
        insta::assert_snapshot!(update(json!({"remoteLoginPortPublicAccess": "Enabled"})), @"(PropertyChangeNotAllowed) Changing property 'remoteLoginPortPublicAccess' of compute 'cpucluster' is not allowed. Delete the compute and create it again.");
        insta::assert_snapshot!(update(json!({"enableNodePublicIp": false})), @"(PropertyChangeNotAllowed) Changing property 'enableNodePublicIp' of compute 'cpucluster' is not allowed. Delete the compute and create it again.");
        insta::assert_snapshot!(update(json!({"subnet": {"id": net("virtualNetworks/mynetwork/subnets/second")}})), @"(PropertyChangeNotAllowed) Changing property 'subnet' of compute 'cpucluster' is not allowed. Delete the compute and create it again.");
    }

    #[test]
    fn a_compute_that_is_going_is_left_alone() {
        let mut world = ml_world(Edition::Current);
        let id = cluster_id("cpucluster");
        let mut stored = world.put(&id, cluster(json!({}))).unwrap();
        stored["properties"]["provisioningState"] = json!("Deleting");
        world.store(&id, stored);
        insta::assert_snapshot!(outcome(world.put(&id, cluster(json!({})))), @"(Conflict) Compute 'cpucluster' is being deleted. Wait until it is gone before creating it again.");
    }
}
