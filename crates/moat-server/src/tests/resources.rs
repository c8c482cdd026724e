//! ARM through the whole stack: HTTP, token, decide, disk.

use serde_json::json;

use super::Harness;

#[test]
fn a_resource_group_is_made_read_listed_and_kept() {
    let server = Harness::start();
    let subscription = server.ready.environment.subscription.clone();
    let group = format!("/subscriptions/{subscription}/resourcegroups/MyGroup?api-version=2024-11-01");
    assert_eq!(server.arm("GET", &group, None).status, 404);
    assert_eq!(server.arm("HEAD", &group, None).status, 404);
    let made = server.arm("PUT", &group, Some(&json!({"location": "westus2", "tags": {"a": "b"}})));
    assert_eq!(made.status, 201, "{}", made.text());
    let found = server.arm("GET", &group.replace("MyGroup", "mygroup"), None);
    assert_eq!(found.status, 200, "{}", found.text());
    assert_eq!(found.json()["id"], format!("/subscriptions/{subscription}/resourceGroups/MyGroup"));
    assert_eq!(server.arm("HEAD", &group, None).status, 204);
    let dir = server.dir.clone();
    drop(server);
    let server = Harness::start_in(dir);
    assert_eq!(server.arm("GET", &group, None).json(), found.json());
}

#[test]
fn a_network_security_group_comes_with_its_operation() {
    let server = Harness::start();
    let subscription = server.ready.environment.subscription.clone();
    let group = format!("/subscriptions/{subscription}/resourceGroups/g");
    server.arm("PUT", &format!("{group}?api-version=2024-11-01"), Some(&json!({"location": "westus2"})));
    let nsg = format!("{group}/providers/Microsoft.Network/networkSecurityGroups/n?api-version=2022-01-01");
    let made = server.arm("PUT", &nsg, Some(&json!({"location": "westus2", "properties": {}})));
    assert_eq!(made.status, 201, "{}", made.text());
    let poll = made.header("azure-asyncoperation").unwrap();
    let poll = poll.strip_prefix("https://management.azure.com").unwrap();
    assert_eq!(server.arm("GET", poll, None).json()["status"], "Succeeded", "nothing to wait for without a data plane");
    let found = server.arm("GET", &nsg, None).json();
    assert_eq!(found["properties"]["defaultSecurityRules"].as_array().map(Vec::len), Some(6));
}

#[test]
fn what_is_unknown_is_refused_clearly() {
    let server = Harness::start();
    for (method, path, body) in [
        ("GET", "/", None),
        ("GET", "/nowhere?api-version=2020-01-01", None),
        ("POST", "/subscriptions", None),
        ("PUT", "/subscriptions/other/resourcegroups/g?api-version=2024-11-01", Some("{\"location\":\"westus2\"}")),
        ("PUT", "/subscriptions//resourcegroups/g?api-version=2024-11-01", Some("{}")),
        ("GET", "/subscriptions/%zz", None),
        ("GET", "/subscriptions/a%2Fb", None),
    ] {
        let token = format!("Bearer {}", server.token("https://management.azure.com"));
        let url = format!("management.azure.com{path}");
        let answer = server.call(method, &url, &[("Authorization", &token)], body.unwrap_or_default());
        assert!((400..500).contains(&answer.status) || answer.status == 501, "{path}: {}", answer.status);
        assert!(!answer.refusal().1.is_empty(), "{method} {path}: {}", answer.text());
    }
    let subscription = &server.ready.environment.subscription;
    let group = format!("/subscriptions/{subscription}/resourcegroups/g?api-version=2024-11-01");
    let token = format!("Bearer {}", server.token("https://management.azure.com"));
    let bad = server.call("PUT", &format!("management.azure.com{group}"), &[("Authorization", &token)], "{not json");
    assert_eq!(bad.status, 400, "{}", bad.text());
}

#[test]
fn a_change_row_carries_the_correlation_id_that_the_client_got() {
    let server = Harness::start();
    let subscription = &server.ready.environment.subscription;
    let group = format!("/subscriptions/{subscription}/resourcegroups/g?api-version=2024-11-01");
    let made = server.arm("PUT", &group, Some(&json!({"location": "westus2"})));
    let store = &server.ready.server.store;
    let change = store.changes(store.snapshot().seq() - 1, 1).unwrap().remove(0);
    assert_eq!(Some(change.audit.correlation.as_str()), made.header("x-ms-correlation-request-id"));
    assert_eq!(change.audit.principal, server.ready.environment.object_id);
}

/// What azureml-core does around a cluster (PROTOCOL 0.3, 0.4, 6.3).
#[test]
fn a_compute_is_visible_at_the_regional_host_as_soon_as_it_is_put() {
    let server = Harness::start();
    let subscription = server.ready.environment.subscription.clone();
    let group = format!("/subscriptions/{subscription}/resourceGroups/g");
    server.arm("PUT", &format!("{group}?api-version=2024-11-01"), Some(&json!({"location": "westus2"})));
    let workspace = format!("{group}/providers/Microsoft.MachineLearningServices/workspaces/wsp");
    let made = server.arm(
        "PUT",
        &format!("{workspace}?api-version=2022-05-01"),
        Some(&json!({"location": "westus2", "properties": {}})),
    );
    assert!(matches!(made.status, 200 | 201), "{}", made.text());
    let cluster = json!({"location": "westus2", "properties": {"computeType": "AmlCompute", "properties": {
        "vmSize": "STANDARD_D2_V2", "vmPriority": "dedicated",
        "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 4, "nodeIdleTimeBeforeScaleDown": "PT1800S"},
    }}});
    let compute = format!("{workspace}/computes/cpucluster");
    let made = server.arm("PUT", &format!("{compute}?api-version=2020-02-02"), Some(&cluster));
    assert!(matches!(made.status, 200 | 201), "{}", made.text());
    assert!(made.header("azure-asyncoperation").is_some());

    let token = format!("Bearer {}", server.token("https://management.azure.com"));
    let region = |method: &str, path: &str| {
        let url = format!("westus2.api.azureml.ms/rp/workspaces{path}?api-version=2020-02-02");
        server.call(method, &url, &[("Authorization", &token)], "")
    };
    let one = region("GET", &compute);
    assert_eq!(one.status, 200, "{}", one.text());
    assert_eq!(one.json()["id"], compute);
    assert!(one.json()["properties"]["provisioningState"].is_string());
    let list = region("GET", &format!("{workspace}/computes"));
    assert_eq!(list.json()["value"].as_array().map(Vec::len), Some(1));
    assert_eq!(list.json().get("nextLink"), None, "azureml-core would GET it, null or not");
    assert_eq!(region("GET", &format!("{workspace}/computes/absent")).refusal(), (404, "ResourceNotFound".to_owned()));
    assert_eq!(region("DELETE", &compute).refusal().0, 405);
}
