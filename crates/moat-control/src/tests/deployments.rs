//! Template deployments, among them the bodies that az sends.

use serde_json::{Value, json};

use super::{OTHER, World, check, said};

fn deploy(w: &mut World, name: &str, template: &Value) -> Value {
    let body = json!({"properties": {"mode": "Incremental", "template": template, "parameters": {}}}).to_string();
    let d = w.put(&format!("{{g}}/providers/Microsoft.Resources/deployments/{name}"), &body);
    assert!(d.status < 300, "{}", said(&d));
    w.get(&format!("{{g}}/providers/Microsoft.Resources/deployments/{name}")).body.unwrap()
}

const NSG: &str = r#"{"type": "Microsoft.Network/networkSecurityGroups", "apiVersion": "2022-01-01", "name": "a", "location": "westus2"}"#;

#[test]
fn az_network_lb_create() {
    let mut w = World::with_group();
    let body = r#"{"properties": {"template": {"$schema": "https://schema.management.azure.com/schemas/2015-01-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0", "parameters": {}, "variables": {}, "resources": [
          {"type": "Microsoft.Network/loadBalancers", "name": "lb1", "location": "westus2", "tags": {}, "apiVersion": "2023-04-01",
           "dependsOn": ["Microsoft.Network/publicIpAddresses/pip1"], "properties": {"backendAddressPools": [{"name": "lb1bepool"}],
           "frontendIPConfigurations": [{"name": "LoadBalancerFrontEnd", "properties": {"publicIPAddress":
              {"id": "{n}/publicIPAddresses/pip1"}, "privateIPAddressVersion": "IPv4"}}]}, "sku": {"name": "Standard"}},
          {"apiVersion": "2022-05-01", "type": "Microsoft.Network/publicIPAddresses", "name": "pip1", "location": "westus2",
           "tags": {}, "dependsOn": [], "properties": {"publicIPAllocationMethod": "Static"}, "sku": {"name": "Standard"}}],
        "outputs": {"loadBalancer": {"type": "object", "value": "[reference('lb1')]"}}}, "parameters": {}, "mode": "incremental"}}"#;
    let path = "{s}/resourcegroups/g/providers/Microsoft.Resources/deployments/lb_deploy_x";
    let created = w.put(path, body);
    assert_eq!(created.status, 201, "{}", said(&created));
    assert_eq!(created.body.as_ref().unwrap()["properties"]["provisioningState"], "Accepted");
    let url = &created.headers.iter().find(|(n, _)| *n == "Azure-AsyncOperation").unwrap().1;
    let poll = url.trim_start_matches("https://management.azure.com").to_owned();
    assert_eq!(w.get(&poll).body.unwrap()["status"], "Succeeded");
    let done = w.get(path).body.unwrap();
    assert_eq!(done["properties"]["provisioningState"], "Succeeded", "{done:#}");
    let lb = &done["properties"]["outputs"]["loadBalancer"]["value"];
    assert_eq!(lb["provisioningState"], "Succeeded");
    assert_eq!(lb["backendAddressPools"][0]["name"], "lb1bepool");
    let made: Vec<&str> =
        done["properties"]["outputResources"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(made.len(), 2);
    assert!(made[0].ends_with("publicIPAddresses/pip1"), "{made:?}");
    check(&mut w, "GET {n}/loadBalancers/lb1", None, "200");
}

#[test]
fn az_deployment_group_create_sends_what_is_not_json() {
    let mut w = World::with_group();
    let body = format!(
        "{{\"properties\": {{\"parameters\": {{\"name\": {{\"value\": \"a\"}}}}, \"mode\": \"Incremental\", template:{{
          // the file's own text
          \"parameters\": {{\"name\": {{\"type\": \"string\"}}}},
          \"resources\": [{}]
        }}}}}}",
        NSG.replace(r#""a""#, r#""[parameters('name')]""#)
    );
    let path = "{g}/providers/Microsoft.Resources/deployments/d";
    check(&mut w, &format!("POST {path}/validate"), Some(&body), "200");
    check(
        &mut w,
        "GET {n}/networkSecurityGroups/a",
        None,
        "404 ResourceNotFound: The Resource 'Microsoft.Network/networkSecurityGroups/a' under resource group 'g' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
    );
    check(&mut w, &format!("PUT {path}"), Some(&body), "201");
    check(&mut w, "GET {n}/networkSecurityGroups/a", None, "200");
    let parameters = w.get(path).body.unwrap()["properties"]["parameters"].clone();
    assert_eq!(parameters, json!({"name": {"type": "string", "value": "a"}}));
    // Both forms of the operations path.
    for path in [path, "{s}/resourcegroups/g/deployments/d"] {
        let list = w.get(&format!("{path}/operations")).body.unwrap();
        assert_eq!(list["value"][0]["properties"]["statusCode"], "OK");
        assert_eq!(list["value"][0]["properties"]["targetResource"]["resourceName"], "a");
        let one = list["value"][0]["operationId"].as_str().unwrap().to_owned();
        assert_eq!(w.get(&format!("{path}/operations/{one}")).body.unwrap(), list["value"][0]);
    }
    check(
        &mut w,
        &format!("PUT {path}"),
        Some("{properties: {template: {a b}}}"),
        "400 InvalidRequestContent: The request content was invalid and could not be deserialized: 'a `:` is missing after this name'. Path '', line 1, position 26.",
    );
    check(
        &mut w,
        &format!("POST {path}/whatIf"),
        Some("{}"),
        "400 WhatIfNotSupported: What-if is not built into Moat yet. `validate` runs every check of a deployment without writing anything.",
    );
}

#[test]
fn expressions_loops_conditions_and_references() {
    let mut w = World::with_group();
    let done = deploy(
        &mut w,
        "d",
        &json!({
            "parameters": {"count": {"type": "int", "defaultValue": 2}, "with": {"type": "bool", "defaultValue": false}},
            "variables": {"prefix": "[toLower(format('NSG-{0}', resourceGroup().name))]"},
            "resources": [
                {"type": "Microsoft.Network/virtualNetworks", "apiVersion": "2022-01-01", "name": "v",
                 "location": "[resourceGroup().location]",
                 "dependsOn": ["groups", "[resourceId('Microsoft.Network/publicIPAddresses', 'no')]"],
                 "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [{"name": "d", "properties": {
                    "addressPrefix": "10.0.0.0/24",
                    "networkSecurityGroup": {"id": "[reference(concat(variables('prefix'), '1'), '2022-01-01', 'Full').id]"}}}]}},
                {"type": "Microsoft.Network/networkSecurityGroups", "apiVersion": "2022-01-01",
                 "name": "[concat(variables('prefix'), copyIndex())]", "location": "westus2",
                 "copy": {"name": "groups", "count": "[parameters('count')]"}},
                {"type": "Microsoft.Network/publicIPAddresses", "apiVersion": "2022-01-01", "name": "no", "location": "westus2",
                 "condition": "[parameters('with')]"}
            ],
            "outputs": {
                "lazy": {"type": "string", "value": "[if(parameters('with'), reference('no').ipAddress, 'none')]"},
                "id": {"type": "string", "value": "[resourceId('Microsoft.Network/virtualNetworks/subnets', 'v', 'd')]"},
                "state": {"type": "string", "value": "[reference('v').provisioningState]"}
            }
        }),
    );
    assert_eq!(done["properties"]["provisioningState"], "Succeeded", "{done:#}");
    assert_eq!(w.names("{n}/networkSecurityGroups"), ["nsg-g0", "nsg-g1"]);
    assert_eq!(w.names("{n}/publicIPAddresses").len(), 0);
    let outputs = &done["properties"]["outputs"];
    assert_eq!(outputs["lazy"]["value"], "none");
    assert_eq!(outputs["id"]["value"], super::expand("{n}/virtualNetworks/v/subnets/d"));
    assert_eq!(outputs["state"]["value"], "Succeeded");
}

#[test]
fn a_failure_keeps_what_succeeded_and_wraps_the_reason() {
    let mut w = World::with_group();
    let done = deploy(
        &mut w,
        "d",
        &json!({"resources": [
            serde_json::from_str::<Value>(NSG).unwrap(),
            {"type": "Microsoft.Network/virtualNetworks/subnets", "apiVersion": "2022-01-01", "name": "nope/s",
             "dependsOn": ["a"], "properties": {"addressPrefix": "10.0.0.0/24"}}
        ]}),
    );
    assert_eq!(done["properties"]["provisioningState"], "Failed");
    let error = &done["properties"]["error"];
    assert_eq!(error["code"], "DeploymentFailed");
    let inner: Value = serde_json::from_str(error["details"][0]["message"].as_str().unwrap()).unwrap();
    assert_eq!(error["details"][0]["code"], "NotFound");
    assert_eq!(inner["error"]["code"], "ParentResourceNotFound");
    check(&mut w, "GET {n}/networkSecurityGroups/a", None, "200");
    let steps = w.get("{s}/resourcegroups/g/deployments/d/operations").body.unwrap();
    assert_eq!(steps["value"][1]["properties"]["statusMessage"]["error"]["code"], "ParentResourceNotFound");
    // Whoever polls learns it too.
    let ops: Vec<String> = w.snapshot.of_type("Microsoft.Moat/operations").map(|d| d.id.name().to_owned()).collect();
    let status =
        w.get(&format!("{{g}}/providers/Microsoft.Resources/deployments/d/operationStatuses/{}", ops[0])).body.unwrap();
    assert_eq!(status["status"], "Failed");
    assert_eq!(status["error"]["code"], "DeploymentFailed");
}

#[test]
fn another_deployment_runs_again_when_one_fails() {
    const PATH: &str = "{g}/providers/Microsoft.Resources/deployments";
    let mut w = World::with_group();
    deploy(&mut w, "good", &json!({"resources": [serde_json::from_str::<Value>(NSG).unwrap()]}));
    w.delete("{n}/networkSecurityGroups/a");
    let bad = json!({"resources": [{"type": "Microsoft.Network/virtualNetworks/subnets", "apiVersion": "2022-01-01",
        "name": "nope/s", "properties": {"addressPrefix": "10.0.0.0/24"}}]});
    let body = |on_error: Value| {
        json!({"properties": {"mode": "Incremental", "template": bad, "onErrorDeployment": on_error}}).to_string()
    };
    let unknown = body(json!({"type": "SpecificDeployment", "deploymentName": "nope"}));
    assert_eq!(
        said(&w.put(&format!("{PATH}/d"), &unknown)),
        "400 InvalidOnErrorDeployment: There is no deployment 'nope' that succeeded and could run again on an error. [properties.onErrorDeployment]"
    );
    assert_eq!(w.put(&format!("{PATH}/d"), &body(json!({"type": "LastSuccessful"}))).status, 201);
    let done = w.get(&format!("{PATH}/d")).body.unwrap();
    assert_eq!(done["properties"]["provisioningState"], "Failed");
    assert_eq!(
        done["properties"]["onErrorDeployment"],
        json!({"type": "LastSuccessful", "deploymentName": "good", "provisioningState": "Succeeded"})
    );
    check(&mut w, "GET {n}/networkSecurityGroups/a", None, "200");
}

#[test]
fn a_refused_template_says_where() {
    let mut w = World::with_group();
    let body =
        "{properties: {template: {resources: [{type: 'a/b', name: 'c', apiVersion: '1'}, {\n  type: '[wat()]'}]}}}";
    let d = w.put("{g}/providers/Microsoft.Resources/deployments/d", body);
    let info = json!({"lineNumber": 2, "linePosition": 9, "path": "properties.template.resources[1].type"});
    assert_eq!(d.body.unwrap()["error"]["additionalInfo"], json!([{"type": "TemplateViolation", "info": info}]));
}

#[test]
fn templates_are_refused_before_anything_is_created() {
    let mut w = World::with_group();
    let mut refuse = |template: Value, expected: &str| {
        let body = json!({"properties": {"mode": "Incremental", "template": template}}).to_string();
        let before = w.snapshot.seq();
        let d = w.put("{g}/providers/Microsoft.Resources/deployments/d", &body);
        assert_eq!(said(&d).split(" (line").next().unwrap().split(" [").next().unwrap(), expected);
        assert_eq!(w.snapshot.seq(), before);
    };
    let nsg = serde_json::from_str::<Value>(NSG).unwrap();
    let named = |name: &str, depends: &[&str]| {
        let mut n = nsg.clone();
        n["name"] = json!(name);
        n["dependsOn"] = json!(depends);
        n
    };
    refuse(
        json!({"resources": [nsg, {"type": "Microsoft.Web/sites", "apiVersion": "2022-01-01", "name": "x"}]}),
        "400 InvalidTemplateDeployment: The template resource 'x' of type 'Microsoft.Web/sites' cannot be deployed: Moat does not know this type.",
    );
    refuse(json!({"resources": [named("a", &["b"]), named("b", &["a"])]}),
        "400 InvalidTemplate: Deployment template validation failed: 'a circular dependency was detected on the resource `/subscriptions/{s}/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/a`".replace("/subscriptions/{s}/resourceGroups/g/providers/Microsoft.Network", "{n}").as_str());
    refuse(
        json!({"resources": [named("a", &["zzz"])]}),
        "400 InvalidTemplate: Deployment template validation failed: 'the resource `zzz` is not defined in the template",
    );
    refuse(
        json!({"resources": [nsg, nsg]}),
        "400 InvalidTemplate: Deployment template validation failed: 'the resource `{n}/networkSecurityGroups/a` at this place is defined multiple times in the template",
    );
    refuse(
        json!({"resources": [named("[parameters('x')]", &[])]}),
        "400 InvalidTemplate: Deployment template validation failed: 'the template has no parameter `x`",
    );
    refuse(
        json!({"resources": [named("[variables('x')]", &[])], "variables": {"x": "[variables('x')]"}}),
        "400 InvalidTemplate: Deployment template validation failed: 'the variable `x` needs its own value",
    );
    refuse(
        json!({"resources": [named("[wat()]", &[])]}),
        "400 InvalidTemplate: Deployment template validation failed: 'the template function `wat` is not known",
    );
    refuse(
        json!({"resources": [named("[concat('a') b]", &[])]}),
        "400 InvalidTemplate: Deployment template validation failed: 'the expression `concat('a') b` has `b` at position 13 where the end of the expression is expected",
    );
}

#[test]
fn nested_deployments() {
    let mut w = World::with_group();
    let inner = |scope: &str| {
        json!({
        "type": "Microsoft.Resources/deployments", "apiVersion": "2020-06-01", "name": format!("inner-{scope}"),
        "properties": {"mode": "Incremental", "expressionEvaluationOptions": {"scope": scope},
            "parameters": {"name": {"value": format!("nsg-{scope}")}},
            "template": {"parameters": {"name": {"type": "string"}}, "variables": {"x": "inside"},
                "resources": [{"type": "Microsoft.Network/networkSecurityGroups", "apiVersion": "2022-01-01",
                    "name": "[parameters('name')]", "location": "westus2"}],
                "outputs": {"o": {"type": "string", "value": "[variables('x')]"}}}}})
    };
    let done = deploy(
        &mut w,
        "d",
        &json!({
            "parameters": {"name": {"type": "string", "defaultValue": "outside"}}, "variables": {"x": "outer"},
            "resources": [inner("inner"), {
                "type": "Microsoft.Resources/deployments", "apiVersion": "2020-06-01", "name": "second",
                "properties": {"mode": "Incremental", "template": {"resources": [{
                    "type": "Microsoft.Network/networkSecurityGroups", "apiVersion": "2022-01-01",
                    "name": "[parameters('name')]", "location": "westus2"}]}}}],
            "outputs": {"got": {"type": "string", "value": "[reference('inner-inner').outputs.o.value]"}}
        }),
    );
    assert_eq!(done["properties"]["provisioningState"], "Succeeded", "{done:#}");
    assert_eq!(done["properties"]["outputs"]["got"]["value"], "inside");
    assert_eq!(w.names("{n}/networkSecurityGroups"), ["nsg-inner", "outside"]);
}

#[test]
fn rights_are_checked_before_anything_is_created() {
    let mut w = World::with_group();
    // Someone who may deploy but not make networks.
    let definition =
        super::expand("{s}/providers/Microsoft.Authorization/roleDefinitions/12121212-0000-0000-0000-000000000000");
    w.have(
        &definition,
        r#"{"properties": {"roleName": "deployer", "permissions": [{"actions": ["Microsoft.Resources/*"]}]}}"#,
    );
    w.have(
        "{g}/providers/Microsoft.Authorization/roleAssignments/13131313-0000-0000-0000-000000000000",
        &json!({"properties": {"roleDefinitionId": definition, "principalId": OTHER}}).to_string(),
    );
    w.principal = OTHER.to_owned();
    let body = format!(r#"{{"properties": {{"mode": "Incremental", "template": {{"resources": [{NSG}]}}}}}}"#);
    let refused = w.put("{g}/providers/Microsoft.Resources/deployments/d", &body);
    assert_eq!(refused.status, 403);
    assert_eq!(refused.body.unwrap()["error"]["details"][0]["code"], "AuthorizationFailed");
}

#[test]
fn a_template_that_would_fill_memory_is_refused() {
    let mut w = World::with_group();
    let mut variables = json!({"v0": "0123456789abcdef"});
    for i in 1..40 {
        variables[format!("v{i}")] = json!(format!("[concat(variables('v{0}'), variables('v{0}'))]", i - 1));
    }
    let template = json!({"resources": [], "variables": variables, "outputs": {"o": {"type": "string", "value": "[variables('v39')]"}}});
    let done = deploy(&mut w, "laughs", &template);
    assert_eq!(done["properties"]["provisioningState"], "Failed", "{done}");
    assert!(done["properties"]["error"].to_string().contains("larger than"), "{done}");
}
