//! Groups as templates.

use serde_json::{Value, json};

use super::{World, check};

/// A group with a VNet whose subnet has a security group, and what its export says.
fn exported(options: &str) -> (World, Value) {
    let mut w = World::with_group();
    w.have("{n}/networkSecurityGroups/nsg", r#"{"location": "westus2", "tags": {"a": "[b]"}}"#);
    w.have(
        "{n}/virtualNetworks/v-1",
        r#"{"location": "westus2", "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [
            {"name": "s", "properties": {"addressPrefix": "10.0.0.0/24", "networkSecurityGroup": {"id": "{n}/networkSecurityGroups/nsg"}}}]}}"#,
    );
    let answer = export(&mut w, &json!({"resources": ["*"], "options": options}));
    (w, answer)
}

fn export(w: &mut World, asked: &Value) -> Value {
    let started = w.send("POST {g}/exportTemplate", Some(&asked.to_string()));
    assert_eq!(started.status, 202);
    let location = &started.headers.iter().find(|(n, _)| *n == "Location").unwrap().1;
    w.get(location.trim_start_matches("https://management.azure.com")).body.unwrap()
}

#[test]
fn an_exported_group_can_be_made_again_elsewhere() {
    let (mut w, answer) = exported("IncludeParameterDefaultValue");
    let template = &answer["template"];
    let vnet = &template["resources"][1];
    assert_eq!(vnet["name"], "[parameters('virtualNetworks_v_1_name')]");
    let nsg = "resourceId('Microsoft.Network/networkSecurityGroups', parameters('networkSecurityGroups_nsg_name'))";
    assert_eq!(vnet["dependsOn"], json!([format!("[{nsg}]")]));
    assert_eq!(template["resources"][0]["tags"]["a"], "[[b]");
    assert!(!template.to_string().contains("provisioningState"));
    check(&mut w, "PUT {s}/resourceGroups/h", Some(r#"{"location": "westus2"}"#), "201");
    let deployment = json!({"properties": {"mode": "Incremental", "template": template}}).to_string();
    check(&mut w, "PUT {s}/resourceGroups/h/providers/Microsoft.Resources/deployments/d", Some(&deployment), "201");
    let made = w.get("{s}/resourceGroups/h/providers/Microsoft.Network/virtualNetworks/v-1").body.unwrap();
    let nsg = made["properties"]["subnets"][0]["properties"]["networkSecurityGroup"]["id"].as_str().unwrap();
    assert!(nsg.contains("/resourceGroups/h/"), "{nsg}");
    let tags = w.get("{s}/resourceGroups/h/providers/Microsoft.Network/networkSecurityGroups/nsg").body.unwrap();
    assert_eq!(tags["tags"]["a"], "[b]");
}

#[test]
fn names_stay_if_the_client_wants_and_what_is_missing_is_told() {
    let (mut w, answer) = exported("SkipAllParameterization");
    assert_eq!(answer["template"]["parameters"], json!({}));
    assert_eq!(answer["template"]["resources"][0]["name"], "nsg");
    assert!(answer.get("error").is_none());
    let gone = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/g/providers/A.B/c/d";
    let answer = export(&mut w, &json!({"resources": [gone]}));
    assert_eq!(answer["template"]["resources"], json!([]));
    assert_eq!(answer["error"]["details"][0]["target"], gone);
    check(
        &mut w,
        "POST {s}/resourceGroups/none/exportTemplate",
        Some("{}"),
        "404 ResourceGroupNotFound: Resource group 'none' could not be found.",
    );
}
