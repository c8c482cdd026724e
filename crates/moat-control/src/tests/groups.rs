//! Resource groups, subscriptions, providers.

use super::{OTHER, World, check, said};

#[test]
fn a_group_lives_and_dies() {
    let mut w = World::empty();
    check(&mut w, "GET {g}", None, "404 ResourceGroupNotFound: Resource group 'g' could not be found.");
    check(&mut w, "HEAD {g}", None, "404 ResourceGroupNotFound: Resource group 'g' could not be found.");
    check(&mut w, "PUT {g}", Some(r#"{"location": "West US 2", "tags": {"a": "b"}}"#), "201");
    check(&mut w, "PUT {g}", Some(r#"{"location": "westus2"}"#), "200");
    check(&mut w, "HEAD {g}", None, "204");
    let body = w.get("{s}/resourcegroups/G").body.unwrap();
    assert_eq!(body["name"], "g");
    assert_eq!(body["location"], "westus2");
    assert_eq!(body["properties"]["provisioningState"], "Succeeded");
    let deleted = w.delete("{g}");
    assert_eq!(deleted.status, 202);
    let location = &deleted.headers.iter().find(|(n, _)| *n == "Location").unwrap().1;
    assert!(location.contains("/operationResults/"), "{location}");
    let path = location.trim_start_matches("https://management.azure.com").to_owned();
    check(&mut w, &format!("GET {path}"), None, "200");
    check(&mut w, "GET {g}", None, "404 ResourceGroupNotFound: Resource group 'g' could not be found.");
}

#[test]
fn refusals_of_groups() {
    let mut w = World::with_group();
    for (line, body, expected) in [
        ("PUT {g}", "{}", "400 LocationRequired: The location property is required for this definition."),
        (
            "PUT {g}",
            r#"{"location": "eastus"}"#,
            "409 InvalidResourceGroupLocation: Invalid resource group location 'eastus'. The Resource group already exists in location 'westus2'.",
        ),
        ("POST {g}", "{}", "405 HttpMethodNotAllowed: The method POST is not supported for the resource at '{g}'."),
        (
            "PUT {g}?x=1",
            "{}",
            "400 MissingApiVersionParameter: The api-version query parameter (?api-version=) is required for all requests.",
        ),
        ("PUT {g}?api-version=latest", "{}", "400 InvalidApiVersionParameter: The api-version 'latest' is invalid."),
        (
            "PUT {g}",
            "{",
            "400 InvalidRequestContent: The request content was invalid and could not be deserialized: 'EOF while parsing an object'. Path '', line 1, position 1.",
        ),
        (
            "PUT {g}",
            "[]",
            "400 InvalidRequestContent: The request content was invalid and could not be deserialized: 'a JSON object is expected'. Path '', line 1, position 1.",
        ),
        ("PUT {g}", "", "400 InvalidRequestContent: The request content was invalid: the request has no body."),
        (
            "PUT {g}",
            r#"{"location": "westus2", "tags": {"a": 1}}"#,
            "400 InvalidTags: The value of tag 'a' is not a string. [tags]",
        ),
        (
            "PUT {g}",
            r#"{"location": "westus2", "name": "h"}"#,
            "400 InvalidRequestContent: The name 'h' in the request content does not match the resource '{g}' of the request path. [name]",
        ),
        (
            "PUT {s}/resourceGroups/a;b",
            r#"{"location": "westus2"}"#,
            "400 InvalidResourceGroup: The provided resource group name 'a;b' is invalid. The name can only be a letter, digit, '-', '.', '(', ')' or '_', it cannot end with '.', and it has at most 90 characters.",
        ),
        (
            "PUT /subscriptions/other/resourceGroups/x",
            r#"{"location": "westus2"}"#,
            "404 SubscriptionNotFound: The subscription 'other' could not be found.",
        ),
    ] {
        check(&mut w, line, Some(body), expected);
    }
}

#[test]
fn a_group_takes_its_contents_with_it() {
    let mut w = World::with_group();
    w.have("{n}/networkSecurityGroups/nsg", r#"{"location": "westus2"}"#);
    w.have(
        "{n}/virtualNetworks/v",
        r#"{"location": "westus2", "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
            "subnets": [{"name": "d", "properties": {"addressPrefix": "10.0.0.0/24",
                "networkSecurityGroup": {"id": "{n}/networkSecurityGroups/nsg"}}}]}}"#,
    );
    w.have(
        "{n}/networkInterfaces/nic",
        r#"{"location": "westus2", "properties": {"ipConfigurations": [{"name": "i",
            "properties": {"subnet": {"id": "{n}/virtualNetworks/v/subnets/d"}}}]}}"#,
    );
    // Alone, the group's security group and network are in use.
    assert_eq!(w.delete("{n}/networkSecurityGroups/nsg").status, 400);
    assert_eq!(w.delete("{n}/virtualNetworks/v").status, 400);
    check(&mut w, "DELETE {g}", None, "202");
    assert_eq!(w.snapshot.all().filter(|d| d.id.resource_group().is_some()).count(), 0);
}

#[test]
fn subscriptions_are_shown_to_those_who_may_read() {
    let mut w = World::empty();
    assert_eq!(w.get("/subscriptions").body.unwrap()["value"][0]["state"], "Enabled");
    assert_eq!(w.get("{s}").body.unwrap()["displayName"], "Moat");
    assert!(w.get("{s}/locations").body.unwrap()["value"].as_array().unwrap().len() > 20);
    assert_eq!(w.get("/tenants").status, 200);
    w.principal = OTHER.to_owned();
    assert_eq!(w.get("/subscriptions").body.unwrap()["value"].as_array().unwrap().len(), 0);
    assert_eq!(
        said(&w.get("{s}")),
        format!(
            "403 AuthorizationFailed: The client '{OTHER}' with object id '{OTHER}' does not have authorization to perform action 'Microsoft.Resources/subscriptions/read' over scope '/subscriptions/{{s}}' or the scope is invalid. If access was recently granted, please refresh your credentials."
        )
    );
}

#[test]
fn providers_list_what_is_built() {
    let mut w = World::empty();
    let network = w.get("{s}/providers/microsoft.network").body.unwrap();
    assert_eq!(network["registrationState"], "Registered");
    let kinds: Vec<&str> =
        network["resourceTypes"].as_array().unwrap().iter().map(|t| t["resourceType"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"virtualNetworks/subnets"), "{kinds:?}");
    let address = &network["resourceTypes"][kinds.iter().position(|k| *k == "publicIPAddresses").unwrap()];
    assert_eq!(address["apiProfiles"][0]["apiVersion"], "2015-06-15");
    assert_eq!(address["zoneMappings"][0]["zones"].as_array().unwrap().len(), 3);
    assert_eq!(network["authorizations"][0]["applicationId"], "b4ca0290-4e73-4e31-ade0-c82ecfaabf6a");
    assert_eq!(w.get("{s}/providers/Microsoft.KeyVault").body.unwrap().get("authorizations"), None);
    check(&mut w, "POST {s}/providers/Microsoft.Network/register", Some("{}"), "200");
    check(
        &mut w,
        "GET {s}/providers/Microsoft.Nope",
        None,
        "404 InvalidResourceNamespace: The resource namespace 'Microsoft.Nope' is invalid.",
    );
    check(&mut w, "GET {s}/providers", None, "200");
}

#[test]
fn tags_are_a_resource_of_their_own() {
    let mut w = World::with_group();
    let tags = "{g}/providers/Microsoft.Resources/tags/default";
    let shown = |w: &mut World| w.get(tags).body.unwrap()["properties"]["tags"].to_string();
    assert_eq!(shown(&mut w), "{}");
    check(&mut w, &format!("PUT {tags}"), Some(r#"{"properties": {"tags": {"a": "1", "b": "2"}}}"#), "200");
    check(
        &mut w,
        &format!("PATCH {tags}"),
        Some(r#"{"operation": "Merge", "properties": {"tags": {"B": "3"}}}"#),
        "200",
    );
    assert_eq!(shown(&mut w), r#"{"a":"1","B":"3"}"#);
    check(
        &mut w,
        &format!("PATCH {tags}"),
        Some(r#"{"operation": "Delete", "properties": {"tags": {"a": "1", "B": "x"}}}"#),
        "200",
    );
    assert_eq!(shown(&mut w), r#"{"B":"3"}"#);
    assert_eq!(w.get("{g}").body.unwrap()["tags"]["B"], "3");
    check(
        &mut w,
        &format!("PATCH {tags}"),
        Some(r#"{"operation": "Fly"}"#),
        "400 InvalidRequestContent: The operation 'Fly' is not one of 'Merge', 'Replace', 'Delete'. [operation]",
    );
    check(
        &mut w,
        &format!("PUT {tags}"),
        Some(r#"{"properties": {"tags": {"a": 1}}}"#),
        "400 InvalidTags: The value of tag 'a' is not a string. [tags]",
    );
    check(&mut w, &format!("DELETE {tags}"), None, "200");
    assert_eq!(shown(&mut w), "{}");
    check(
        &mut w,
        "GET {s}/resourceGroups/no/providers/Microsoft.Resources/tags/default",
        None,
        "404 ResourceGroupNotFound: Resource group 'no' could not be found.",
    );
}

#[test]
fn a_subscription_has_tags_of_its_own() {
    let mut w = World::empty();
    let tags = "{s}/providers/Microsoft.Resources/tags/default";
    assert_eq!(w.get(tags).body.unwrap()["properties"]["tags"], serde_json::json!({}));
    check(&mut w, &format!("PUT {tags}"), Some(r#"{"properties": {"tags": {"a": "b"}}}"#), "200");
    let merge = r#"{"operation": "Merge", "properties": {"tags": {"c": "d"}}}"#;
    check(&mut w, &format!("PATCH {tags}"), Some(merge), "200");
    let both = serde_json::json!({"a": "b", "c": "d"});
    assert_eq!(w.get(tags).body.unwrap()["properties"]["tags"], both);
    assert_eq!(w.get("{s}").body.unwrap()["tags"], both);
    // They are no resource.
    assert_eq!(w.get("{s}/resources").body.unwrap()["value"], serde_json::json!([]));
    check(&mut w, &format!("DELETE {tags}"), None, "200");
    assert_eq!(w.get("{s}").body.unwrap()["tags"], serde_json::json!({}));
}
