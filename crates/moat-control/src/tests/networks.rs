//! Generic behaviour of resources and embedded children, on networks.

use super::{World, check, said};

const VNET: &str = r#"{"location": "westus2", "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
    "subnets": [{"name": "d", "properties": {"addressPrefix": "10.0.0.0/24"}}]}}"#;

#[test]
fn a_network_and_its_subnets() {
    let mut w = World::with_group();
    let v = w.have("{n}/virtualNetworks/v", VNET);
    assert_eq!(v["type"], "Microsoft.Network/virtualNetworks");
    let d = &v["properties"]["subnets"][0];
    assert_eq!(d["type"], "Microsoft.Network/virtualNetworks/subnets");
    assert_eq!(d["id"], super::expand("{n}/virtualNetworks/v/subnets/d"));
    assert_eq!(d["properties"]["addressPrefix"], "10.0.0.0/24");

    check(
        &mut w,
        "PUT {n}/virtualNetworks/V/subnets/e",
        Some(r#"{"properties": {"addressPrefix": "10.0.1.0/24"}}"#),
        "201",
    );
    check(
        &mut w,
        "PUT {n}/virtualNetworks/v/subnets/E",
        Some(r#"{"properties": {"addressPrefix": "10.0.2.0/24"}}"#),
        "200",
    );
    assert_eq!(w.names("{n}/virtualNetworks/v/subnets"), ["d", "e"]);
    let e = w.get("{n}/virtualnetworks/v/SUBNETS/e").body.unwrap();
    assert_eq!(e["properties"]["addressPrefix"], "10.0.2.0/24");
    assert_eq!(e["properties"]["provisioningState"], "Succeeded");
    check(&mut w, "DELETE {n}/virtualNetworks/v/subnets/e", None, "202");
    check(&mut w, "DELETE {n}/virtualNetworks/v/subnets/e", None, "204");
    check(
        &mut w,
        "GET {n}/virtualNetworks/v/subnets/e",
        None,
        "404 NotFound: Resource {n}/virtualNetworks/v/subnets/e not found.",
    );
    check(&mut w, "DELETE {n}/virtualNetworks/v", None, "202");
    check(&mut w, "DELETE {n}/virtualNetworks/v", None, "204");
}

#[test]
fn what_was_read_can_be_put_back() {
    let mut w = World::with_group();
    w.have("{n}/virtualNetworks/v", VNET);
    let before = w.get("{n}/virtualNetworks/v").body.unwrap();
    let after = w.have("{n}/virtualNetworks/v", &before.to_string());
    assert_ne!(before["etag"], after["etag"]);
    assert_eq!(w.get("{n}/virtualNetworks/v").body.unwrap()["properties"], {
        let mut p = before["properties"].clone();
        p["subnets"][0]["etag"] = after["etag"].clone();
        p
    });
}

#[test]
fn refusals_of_resources() {
    let mut w = World::with_group();
    w.have("{n}/virtualNetworks/v", VNET);
    let nic = r#"{"location": "westus2", "properties": {"ipConfigurations": [{"name": "i",
        "properties": {"subnet": {"id": "{n}/virtualNetworks/v/subnets/none"}}}]}}"#;
    for (line, body, expected) in [
        (
            "GET {n}/virtualNetworks/x",
            "",
            "404 ResourceNotFound: The Resource 'Microsoft.Network/virtualNetworks/x' under resource group 'g' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
        ),
        (
            "GET {s}/resourceGroups/no/providers/Microsoft.Network/virtualNetworks/x",
            "",
            "404 ResourceGroupNotFound: Resource group 'no' could not be found.",
        ),
        (
            "PUT {s}/resourceGroups/no/providers/Microsoft.Network/virtualNetworks/x",
            VNET,
            "404 ResourceGroupNotFound: Resource group 'no' could not be found.",
        ),
        (
            "PUT {n}/virtualNetworks/x/subnets/y",
            "{}",
            "404 ParentResourceNotFound: Failed to perform 'write' on resource(s) of type 'Microsoft.Network/virtualNetworks/subnets', because the parent resource '{n}/virtualNetworks/x' could not be found.",
        ),
        (
            "PUT {n}/virtualNetworks/v",
            r#"{"location": "eastus"}"#,
            "409 InvalidResourceLocation: The resource 'v' already exists in location 'westus2' in resource group 'g'. A resource with the same name cannot be created in location 'eastus'. Please select a new resource name.",
        ),
        (
            "PUT {n}/virtualNetworks/x",
            "{}",
            "400 LocationRequired: The location property is required for this definition.",
        ),
        (
            "PATCH {n}/virtualNetworks/v",
            r#"{"location": "eastus"}"#,
            "400 PropertyChangeNotAllowed: Changing property 'location' is not allowed; it is 'westus2' and the request says 'eastus'. [location]",
        ),
        (
            "PUT {n}/virtualNetworks/v/subnets/y",
            r#"{"name": "z"}"#,
            "400 InvalidRequestContent: The name 'z' in the request content does not match the resource '{n}/virtualNetworks/v/subnets/y' of the request path. [name]",
        ),
        (
            "PUT {n}/virtualNetworks/v",
            r#"{"location": "westus2", "properties": 7}"#,
            "400 InvalidRequestContent: The request content was invalid and could not be deserialized: 'an object is expected'. Path 'properties'. [properties]",
        ),
        (
            "PUT {n}/virtualNetworks/v",
            r#"{"location": "westus2", "properties": {"subnets": {}}}"#,
            "400 InvalidRequestFormat: Cannot parse the request: 'properties.subnets' is not an array. [properties.subnets]",
        ),
        (
            "PUT {n}/widgets/v",
            "{}",
            "404 InvalidResourceType: The resource type 'widgets' could not be found in the namespace 'Microsoft.Network' for api version '2024-11-01'.",
        ),
        (
            "GET {n}/widgets",
            "",
            "404 InvalidResourceType: The resource type 'widgets' could not be found in the namespace 'Microsoft.Network' for api version '2024-11-01'.",
        ),
        (
            "PUT {g}/providers/Microsoft.Nope/a/b",
            "{}",
            "404 InvalidResourceNamespace: The resource namespace 'Microsoft.Nope' is invalid.",
        ),
        (
            "PUT {n}/virtualNetworks/a<b",
            VNET,
            "400 InvalidResourceName: Resource name a<b is invalid. The name can be up to 260 characters long; it may not end with '.' or a space, and may not contain < > % & \\ ? # * : \" |.",
        ),
        (
            "POST {n}/virtualNetworks/v/fly",
            "{}",
            "404 InvalidRequestUri: 'fly' is neither a collection nor an action that is known at '{n}/virtualNetworks/v/fly'.",
        ),
        (
            "PUT {s}/providers/Microsoft.Network/virtualNetworks/v",
            VNET,
            "404 InvalidResourceScope: The resource type 'Microsoft.Network/virtualNetworks' lives in a resource group, and '/subscriptions/{s}/providers/Microsoft.Network/virtualNetworks/v' does not name one.",
        ),
        (
            "PUT {n}/networkInterfaces/nic",
            nic,
            "400 InvalidResourceReference: Resource {n}/virtualNetworks/v/subnets/none referenced by resource {n}/networkInterfaces/nic was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.",
        ),
    ] {
        check(&mut w, line, Some(body), expected);
    }
}

#[test]
fn children_have_names_of_their_own() {
    let mut w = World::with_group();
    let twins = VNET.replace("}}]}}", r#"}}, {"name": "D", "properties": {"addressPrefix": "10.0.1.0/24"}}]}}"#);
    check(
        &mut w,
        "PUT {n}/virtualNetworks/v",
        Some(&twins),
        "400 DuplicateResourceName: Resource {n}/virtualNetworks/v has two child resources with the same name (D).",
    );
    let nameless = VNET.replace(r#""name": "d", "#, "");
    check(
        &mut w,
        "PUT {n}/virtualNetworks/v",
        Some(&nameless),
        "400 InvalidRequestFormat: Cannot parse the request: an element of 'properties.subnets' has no name. [properties.subnets]",
    );
}

#[test]
fn tags_are_patched() {
    let mut w = World::with_group();
    w.have("{n}/virtualNetworks/v", VNET);
    check(&mut w, "PATCH {n}/virtualNetworks/v", Some(r#"{"tags": {"a": "1", "b": "2"}}"#), "200");
    check(&mut w, "PATCH {n}/virtualNetworks/v", Some(r#"{"tags": {"a": null}}"#), "200");
    let v = w.get("{n}/virtualNetworks/v").body.unwrap();
    assert_eq!(v["tags"], serde_json::json!({"b": "2"}));
    assert_eq!(v["properties"]["subnets"][0]["name"], "d");
}

#[test]
fn etags_guard_against_lost_updates() {
    let mut w = World::with_group();
    let old = w.have("{n}/virtualNetworks/v", VNET)["etag"].as_str().unwrap().to_owned();
    assert!(old.starts_with("W/\""));
    let new = w.have("{n}/virtualNetworks/v", VNET)["etag"].as_str().unwrap().to_owned();
    let mut send = |if_match: Option<&str>, if_none_match: Option<&str>| {
        let mut request = w.request("PUT {n}/virtualNetworks/v", Some(VNET));
        request.if_match = if_match.map(str::to_owned);
        request.if_none_match = if_none_match.map(str::to_owned);
        w.commit(&request).status
    };
    assert_eq!(send(Some(&old), None), 412);
    assert_eq!(send(None, Some("*")), 412);
    assert_eq!(send(Some(&new), None), 200);
    assert_eq!(send(Some("*"), None), 200);
}

#[test]
fn states_follow_the_data_plane() {
    let mut w = World::with_group();
    w.prompt = false;
    let created = w.put("{n}/virtualNetworks/v", VNET);
    assert_eq!(created.body.as_ref().unwrap()["properties"]["provisioningState"], "Updating");
    let url = &created.headers.iter().find(|(n, _)| *n == "Azure-AsyncOperation").unwrap().1;
    let poll = url.trim_start_matches("https://management.azure.com").to_owned();
    assert!(poll.contains("/providers/Microsoft.Network/locations/westus2/operations/"), "{poll}");
    let running = w.get(&poll);
    assert_eq!(running.body.unwrap()["status"], "InProgress");
    assert_eq!(running.headers, [("Retry-After", "1".to_owned())]);
    w.ctx.applied = w.snapshot.seq();
    assert_eq!(w.get(&poll).body.unwrap()["status"], "Succeeded");
    let v = w.get("{n}/virtualNetworks/v").body.unwrap();
    assert_eq!(v["properties"]["provisioningState"], "Succeeded");
    assert_eq!(v["properties"]["subnets"][0]["properties"]["provisioningState"], "Succeeded");
}

#[test]
fn lists_page_and_stay_in_order() {
    let mut w = World::with_group();
    for name in ["c", "a", "b"] {
        w.have(&format!("{{n}}/networkSecurityGroups/{name}"), r#"{"location": "westus2"}"#);
    }
    assert_eq!(w.names("{n}/networkSecurityGroups"), ["a", "b", "c"]);
    assert_eq!(w.names("{s}/providers/Microsoft.Network/networkSecurityGroups"), ["a", "b", "c"]);
    let first = w.get("{n}/networkSecurityGroups?api-version=2024-11-01&$top=2").body.unwrap();
    assert_eq!(first["value"].as_array().unwrap().len(), 2);
    let next = first["nextLink"].as_str().unwrap().trim_start_matches("https://management.azure.com").to_owned();
    let next = next.replace("%2F", "/");
    let second = w.get(&next).body.unwrap();
    assert_eq!(second["value"][0]["name"], "c");
    assert!(second.get("nextLink").is_none());
    assert_eq!(
        said(&w.get("{n}/networkSecurityGroups?api-version=2024-11-01&$top=0")),
        "400 InvalidQueryParameter: The query parameter '$top' is '0'; a number above 0 is expected."
    );
}

#[test]
fn the_generic_list_really_filters() {
    let mut w = World::with_group();
    w.have("{n}/networkSecurityGroups/a", r#"{"location": "westus2", "tags": {"t": "1"}}"#);
    w.have("{n}/virtualNetworks/a", VNET);
    let list = |w: &mut World, filter: &str| {
        w.names(&format!("{{s}}/resources?api-version=2024-11-01&$filter={filter}")).len()
    };
    assert_eq!(list(&mut w, "resourceGroup eq 'G'"), 2);
    assert_eq!(list(&mut w, "resourceGroup eq 'h'"), 0);
    assert_eq!(
        list(&mut w, "resourceGroup eq 'g' and name eq 'a' and resourceType eq 'Microsoft.Network/virtualNetworks'"),
        1
    );
    assert_eq!(list(&mut w, "resourceType eq 'Microsoft.Network/loadBalancers'"), 0);
    assert_eq!(list(&mut w, "tagName eq 't' and tagValue eq '1'"), 1);
    assert_eq!(w.names("{g}/resources").len(), 2);
}

#[test]
fn old_operations_are_forgotten() {
    let mut w = World::with_group();
    let count = |w: &World| w.snapshot.of_type("Microsoft.Moat/operations").count();
    w.have("{n}/networkSecurityGroups/a", r#"{"location": "westus2"}"#);
    w.have("{n}/networkSecurityGroups/a", r#"{"location": "westus2"}"#);
    assert_eq!(count(&w), 2);
    // A long time later.
    w.snapshot = moat_arm::Snapshot::from_documents(
        w.snapshot.seq() + 5000,
        w.snapshot.all().map(|d| d.as_ref().clone()).collect::<Vec<_>>(),
    );
    w.have("{n}/networkSecurityGroups/a", r#"{"location": "westus2"}"#);
    assert_eq!(count(&w), 1);
}

#[test]
fn a_child_that_goes_away_with_its_parents_put_is_checked_like_a_delete() {
    let mut w = World::with_group();
    w.have("{n}/virtualNetworks/v", VNET);
    w.have(
        "{n}/networkInterfaces/nic",
        r#"{"location": "westus2", "properties": {"ipConfigurations": [{"name": "i",
            "properties": {"subnet": {"id": "{n}/virtualNetworks/v/subnets/d"}}}]}}"#,
    );
    let without = VNET.replace(r#"{"name": "d", "properties": {"addressPrefix": "10.0.0.0/24"}}"#, "");
    let refused = said(&w.put("{n}/virtualNetworks/v", &without));
    assert!(refused.starts_with("400 InUseSubnetCannotBeDeleted: Subnet d is in use by"), "{refused}");
    assert_eq!(w.names("{n}/virtualNetworks/v/subnets"), ["d"]);
}

#[test]
fn security_rules_come_and_go_in_their_group() {
    let mut w = World::with_group();
    let nsg = w.have("{n}/networkSecurityGroups/nsg", r#"{"location": "westus2"}"#);
    let defaults = nsg["properties"]["defaultSecurityRules"].as_array().unwrap();
    assert_eq!(defaults.len(), 6);
    assert_eq!(defaults[0]["type"], "Microsoft.Network/networkSecurityGroups/defaultSecurityRules");
    let rule = |priority: u32| {
        format!(
            r#"{{"name": "allow", "properties": {{"access": "Allow", "direction": "Inbound", "priority": {priority},
            "protocol": "Tcp", "sourceAddressPrefix": "BatchNodeManagement", "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": "29876-29877"}}}}"#
        )
    };
    check(&mut w, "PUT {n}/networkSecurityGroups/nsg/securityRules/allow", Some(&rule(100)), "201");
    check(&mut w, "PUT {n}/networkSecurityGroups/nsg/securityRules/allow", Some(&rule(110)), "200");
    let twin = said(&w.put("{n}/networkSecurityGroups/nsg/securityRules/b", &rule(110).replace("allow", "b")));
    assert!(twin.contains("SecurityRuleConflict"), "{twin}");
    let got = w.get("{n}/networkSecurityGroups/nsg/securityRules/allow").body.unwrap();
    assert_eq!(got["properties"]["priority"], 110);
    assert_eq!(got["properties"]["destinationPortRange"], "29876-29877");
    check(&mut w, "DELETE {n}/networkSecurityGroups/nsg/securityRules/allow", None, "202");
    assert_eq!(w.names("{n}/networkSecurityGroups/nsg/securityRules").len(), 0);
}

#[test]
fn long_actions_answer_by_their_location() {
    let mut w = World::with_group();
    w.have("{n}/virtualNetworks/v", VNET);
    w.have(
        "{n}/networkInterfaces/nic",
        r#"{"location": "westus2", "properties": {"ipConfigurations": [{"name": "i",
            "properties": {"subnet": {"id": "{n}/virtualNetworks/v/subnets/d"}}}]}}"#,
    );
    let asked = w.send("POST {n}/networkInterfaces/nic/effectiveRouteTable", None);
    assert_eq!(asked.status, 202, "{}", said(&asked));
    assert!(asked.body.is_none());
    let url = |name: &str| {
        let found = &asked.headers.iter().find(|(n, _)| *n == name).unwrap().1;
        found.trim_start_matches("https://management.azure.com").to_owned()
    };
    assert_eq!(w.get(&url("Azure-AsyncOperation")).body.unwrap()["status"], "Succeeded");
    let result = w.get(&url("Location"));
    assert_eq!(result.status, 200);
    let routes = result.body.unwrap()["value"].as_array().unwrap().len();
    assert!(routes > 1, "{routes}");
    check(
        &mut w,
        "GET {n}/networkInterfaces/nic/effectiveRouteTable",
        None,
        "405 HttpMethodNotAllowed: The method GET is not supported for the resource at '{n}/networkInterfaces/nic/effectiveRouteTable'.",
    );
    assert_eq!(w.send("POST {n}/networkInterfaces/none/effectiveRouteTable", None).status, 404);
}

#[test]
fn no_spelling_of_the_platforms_own_member_is_taken_from_a_client() {
    let mut w = World::with_group();
    let body = r#"{"location": "westus2", "MOAT": {"owner": "x"}, "Moat": {"owner": "y", "ephemeral": true},
        "properties": {"provisioningState": "A", "ProvisioningState": "B"}}"#;
    w.have("{n}/networkSecurityGroups/a", body);
    for method in ["PUT", "PATCH"] {
        w.send(&format!("{method} {{n}}/networkSecurityGroups/a"), Some(body));
        let id = moat_arm::ResourceId::parse(&super::expand("{n}/networkSecurityGroups/a")).unwrap();
        let stored = &w.snapshot.get(&id).unwrap().body;
        assert!(moat_arm::document::at(stored, "moat").is_none(), "{method}: {stored}");
        assert!(moat_arm::document::at(stored, "properties.provisioningState").is_none(), "{method}: {stored}");
    }
}

#[test]
fn a_thousand_rules_are_written_in_one_go() {
    let mut w = World::with_group();
    let rules = |port: usize| -> Vec<serde_json::Value> {
        let one = |i: usize| {
            serde_json::json!({"name": format!("r{i}"), "properties": {"priority": 100 + i,
            "direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourceAddressPrefix": "*", "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": (port + i).to_string()}})
        };
        (0..1000).map(one).collect()
    };
    for port in [1, 2_000] {
        let body = serde_json::json!({"location": "westus2", "properties": {"securityRules": rules(port)}}).to_string();
        let made = w.have("{n}/networkSecurityGroups/many", &body);
        let made = made["properties"]["securityRules"].as_array().unwrap();
        for (i, rule) in made.iter().enumerate() {
            assert_eq!(rule["name"], format!("r{i}"), "in the order they were sent");
            assert_eq!(rule["properties"]["destinationPortRange"], (port + i).to_string());
        }
        assert_eq!(made.len(), 1000);
    }
}
