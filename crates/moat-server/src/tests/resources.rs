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
