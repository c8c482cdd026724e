//! Role assignments, default deny, linked scopes.

use serde_json::json;

use super::{OTHER, OWNER, World, check, said};

const READER: &str = "{s}/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7";
const CONTRIBUTOR: &str = "{s}/providers/Microsoft.Authorization/roleDefinitions/b24988ac-6180-42a0-ab88-20f7382dd24c";
const NETWORK: &str = "{s}/providers/Microsoft.Authorization/roleDefinitions/4d97b98b-1d4f-4787-a291-c67834d212e7";
const NSG: &str = r#"{"location": "westus2"}"#;

fn grant(w: &mut World, scope: &str, role: &str, guid: &str) {
    let body = json!({"properties": {"roleDefinitionId": super::expand(role), "principalId": OTHER, "principalType": "ServicePrincipal"}});
    let made = w.have(&format!("{scope}/providers/Microsoft.Authorization/roleAssignments/{guid}"), &body.to_string());
    assert_eq!(made["properties"]["scope"], super::expand(scope));
    assert_eq!(made["properties"]["createdBy"], OWNER);
    assert!(made.get("etag").is_none());
}

fn denied(action: &str, scope: &str) -> String {
    format!(
        "403 AuthorizationFailed: The client '{OTHER}' with object id '{OTHER}' does not have authorization to perform action '{action}' over scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials."
    )
}

const A1: &str = "00000000-0000-0000-0000-0000000000a1";
const A2: &str = "00000000-0000-0000-0000-0000000000a2";

#[test]
fn nobody_may_anything_before_a_grant() {
    let mut w = World::with_group();
    w.have("{n}/networkSecurityGroups/a", NSG);
    w.principal = OTHER.to_owned();
    for (line, action, scope) in [
        ("GET {g}", "Microsoft.Resources/subscriptions/resourceGroups/read", "{g}"),
        ("DELETE {g}", "Microsoft.Resources/subscriptions/resourceGroups/delete", "{g}"),
        ("PUT {g}", "Microsoft.Resources/subscriptions/resourceGroups/write", "{g}"),
        (
            "GET {n}/networkSecurityGroups/a",
            "Microsoft.Network/networkSecurityGroups/read",
            "{n}/networkSecurityGroups/a",
        ),
        (
            "GET {n}/networkSecurityGroups/none",
            "Microsoft.Network/networkSecurityGroups/read",
            "{n}/networkSecurityGroups/none",
        ),
        (
            "PUT {n}/networkSecurityGroups/a/securityRules/r",
            "Microsoft.Network/networkSecurityGroups/securityRules/write",
            "{n}/networkSecurityGroups/a/securityRules/r",
        ),
        (
            "DELETE {n}/networkSecurityGroups/a",
            "Microsoft.Network/networkSecurityGroups/delete",
            "{n}/networkSecurityGroups/a",
        ),
        ("GET {n}/networkSecurityGroups", "Microsoft.Network/networkSecurityGroups/read", "{g}"),
        ("GET {g}/resources", "Microsoft.Resources/subscriptions/resourceGroups/resources/read", "{g}"),
        (
            "PUT {g}/providers/Microsoft.Authorization/roleAssignments/x",
            "Microsoft.Authorization/roleAssignments/write",
            "{g}/providers/Microsoft.Authorization/roleAssignments/x",
        ),
        (
            "PUT {g}/providers/Microsoft.Resources/deployments/d",
            "Microsoft.Resources/deployments/write",
            "{g}/providers/Microsoft.Resources/deployments/d",
        ),
    ] {
        check(&mut w, line, Some("{}"), &denied(action, scope));
    }
}

#[test]
fn a_reader_reads_a_contributor_writes_and_neither_grants() {
    let mut w = World::with_group();
    w.have("{n}/networkSecurityGroups/a", NSG);
    grant(&mut w, "{g}", READER, A1);
    w.principal = OTHER.to_owned();
    check(&mut w, "GET {n}/networkSecurityGroups/a", None, "200");
    assert_eq!(w.put("{n}/networkSecurityGroups/a", NSG).status, 403);
    assert_eq!(w.get("{s}/resourcegroups").status, 403);
    w.principal = OWNER.to_owned();
    grant(&mut w, "{g}", CONTRIBUTOR, A2);
    w.principal = OTHER.to_owned();
    check(&mut w, "PUT {n}/networkSecurityGroups/a", Some(NSG), "200");
    let id = "{g}/providers/Microsoft.Authorization/roleAssignments/00000000-0000-0000-0000-0000000000a3";
    check(&mut w, &format!("PUT {id}"), Some("{}"), &denied("Microsoft.Authorization/roleAssignments/write", id));
    // Taken away again: what is gone grants nothing.
    w.principal = OWNER.to_owned();
    check(&mut w, &format!("DELETE {{g}}/providers/Microsoft.Authorization/roleAssignments/{A2}"), None, "200");
    check(&mut w, &format!("DELETE {{g}}/providers/Microsoft.Authorization/roleAssignments/{A2}"), None, "204");
    w.principal = OTHER.to_owned();
    assert_eq!(w.put("{n}/networkSecurityGroups/a", NSG).status, 403);
}

#[test]
fn linking_to_a_subnet_needs_a_right_there() {
    let mut w = World::with_group();
    w.have("{s}/resourceGroups/h", r#"{"location": "westus2"}"#);
    w.have(
        "{n}/virtualNetworks/v",
        r#"{"location": "westus2", "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "subnets": [{"name": "d", "properties": {"addressPrefix": "10.0.0.0/24"}}]}}"#,
    );
    grant(&mut w, "{s}/resourceGroups/h", CONTRIBUTOR, A1);
    w.principal = OTHER.to_owned();
    let path = "{s}/resourceGroups/h/providers/Microsoft.Network/networkInterfaces/nic";
    let nic = r#"{"location": "westus2", "properties": {"ipConfigurations": [{"name": "i",
        "properties": {"subnet": {"id": "{n}/virtualNetworks/v/subnets/d"}}}]}}"#;
    assert_eq!(
        said(&w.put(path, nic)),
        format!(
            "403 LinkedAuthorizationFailed: The client '{OTHER}' with object id '{OTHER}' has permission to perform action 'Microsoft.Network/networkInterfaces/write' on scope '/subscriptions/{{s}}/resourceGroups/h/providers/Microsoft.Network/networkInterfaces/nic'; however, it does not have permission to perform action 'Microsoft.Network/virtualNetworks/subnets/join/action' on the linked scope(s) '{{n}}/virtualNetworks/v/subnets/d' or the linked scope(s) are invalid."
        )
    );
    w.principal = OWNER.to_owned();
    grant(&mut w, "{n}/virtualNetworks/v/subnets/d", NETWORK, A2);
    w.principal = OTHER.to_owned();
    check(&mut w, &format!("PUT {path}"), Some(nic), "201");
}

#[test]
fn assignments_are_checked() {
    let mut w = World::with_group();
    let put = |w: &mut World, guid: &str, body: &str, expected: &str| {
        check(w, &format!("PUT {{g}}/providers/Microsoft.Authorization/roleAssignments/{guid}"), Some(body), expected);
    };
    let body = |role: &str, who: &str| {
        json!({"properties": {"roleDefinitionId": super::expand(role), "principalId": who}}).to_string()
    };
    put(
        &mut w,
        A1,
        &body(READER, "me"),
        "400 InvalidPrincipalId: The principal ID of the role assignment is missing or is not a GUID.",
    );
    put(
        &mut w,
        "x",
        &body(READER, OTHER),
        "400 InvalidRoleAssignmentId: The role assignment ID 'x' is not valid. The role assignment ID must be a GUID.",
    );
    put(
        &mut w,
        A1,
        &body("/nope/1", OTHER),
        "400 RoleDefinitionDoesNotExist: The specified role definition with ID '1' does not exist.",
    );
    put(&mut w, A1, &body(READER, OTHER), "201");
    put(&mut w, A2, &body(READER, OTHER), "409 RoleAssignmentExists: The role assignment already exists.");
    put(&mut w, A2, &body(CONTRIBUTOR, OTHER), "201");
    // On resources, and only on those that exist.
    check(
        &mut w,
        &format!("PUT {{n}}/virtualNetworks/no/providers/Microsoft.Authorization/roleAssignments/{A1}"),
        Some(&body(READER, OTHER)),
        "404 ParentResourceNotFound: Failed to perform 'write' on resource(s) of type 'Microsoft.Authorization/roleAssignments', because the parent resource '{n}/virtualNetworks/no' could not be found.",
    );
}

#[test]
fn definitions_and_assignments_are_found() {
    let mut w = World::with_group();
    grant(&mut w, "{g}", READER, A1);
    let list = "Microsoft.Authorization/roleDefinitions?api-version=2022-04-01&$filter=roleName eq";
    assert_eq!(
        w.names(&format!("{{g}}/providers/{list} 'Network Contributor'")),
        ["4d97b98b-1d4f-4787-a291-c67834d212e7"]
    );
    assert_eq!(w.names(&format!("{{g}}/providers/{list} 'No Such'")).len(), 0);
    assert_eq!(w.get(READER).body.unwrap()["properties"]["roleName"], "Reader");
    check(
        &mut w,
        &format!("PUT {READER}"),
        Some(r#"{"properties": {"roleName": "x"}}"#),
        "400 RoleDefinitionIsBuiltIn: The role definition 'acdd72a7-3385-48ef-bd42-f606fba81ae7' is built in and cannot be changed.",
    );
    let assignments = "providers/Microsoft.Authorization/roleAssignments?api-version=2022-04-01";
    // The owner's two are on the subscription, above; the reader's is on the group.
    assert_eq!(w.names(&format!("{{g}}/{assignments}&$filter=atScope()")).len(), 3);
    assert_eq!(w.names(&format!("{{s}}/{assignments}&$filter=atScope()")).len(), 2);
    assert_eq!(w.names(&format!("{{s}}/{assignments}")).len(), 3);
    assert_eq!(w.names(&format!("{{s}}/{assignments}&$filter=principalId eq '{OTHER}'")), [A1]);
    // Deleting the group takes its assignments with it.
    w.delete("{g}");
    assert_eq!(w.names(&format!("{{s}}/{assignments}")).len(), 2);
}

#[test]
fn an_operation_is_followed_by_whom_it_concerns() {
    let mut w = World::with_group();
    let made = w.put("{n}/networkSecurityGroups/a", NSG);
    let url = made.headers.iter().find(|(n, _)| *n == "Azure-AsyncOperation").unwrap().1.clone();
    let poll = url.trim_start_matches("https://management.azure.com").to_owned();
    assert_eq!(w.get(&poll).status, 200);
    w.principal = OTHER.to_owned();
    assert_eq!(w.get(&poll).status, 403);
    assert_eq!(w.get("{s}/providers/Microsoft.Network/locations/westus2/operations/none").status, 404);
}
