//! Whatever is sent: an answer that is no 5xx, the same one each time, and no write with a refusal.

use proptest::prelude::*;

use super::World;
use crate::request::Method;

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "subscriptions",
            super::SUB,
            "resourceGroups",
            "g",
            "providers",
            "Microsoft.Network",
            "virtualNetworks",
            "v",
            "subnets",
            "d",
            "networkSecurityGroups",
            "nsg",
            "securityRules",
            "r",
            "locations",
            "westus2",
            "operations",
            "operationResults",
            "Microsoft.Authorization",
            "roleAssignments",
            "roleDefinitions",
            "Microsoft.Resources",
            "deployments",
            "validate",
            "resources",
            "tenants",
            "register",
            "loadBalancers",
            "lb",
            "Microsoft.MachineLearningServices",
            "workspaces",
            "wks",
            "computes",
            "cpu1",
            "checkNameAvailability",
            "publicIPAddresses",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z0-9._ %\u{e9}-]{0,6}",
    ]
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i32>().prop_map(|n| n.to_string()),
        any::<bool>().prop_map(|b| b.to_string()),
        prop::sample::select(vec![
            "westus2", "10.0.0.0/16", "10.0.0.0/99", "10.0.0.5", "Tcp", "Allow", "Inbound", "*", "x", "", "[reference('a')]", "[concat(1)]",
            "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/d",
            "/", "VirtualNetwork", "80-90", "65536",
        ])
        .prop_map(|s| format!("{s:?}")),
    ];
    let name = prop::sample::select(vec![
        "location",
        "properties",
        "name",
        "id",
        "tags",
        "subnets",
        "addressSpace",
        "addressPrefixes",
        "addressPrefix",
        "securityRules",
        "priority",
        "direction",
        "protocol",
        "access",
        "networkSecurityGroup",
        "subnet",
        "ipConfigurations",
        "template",
        "resources",
        "type",
        "outputs",
        "value",
        "dependsOn",
        "copy",
        "count",
        "computeType",
        "scaleSettings",
        "sourceAddressPrefix",
        "destinationPortRange",
        "provisioningState",
        "sku",
        "principalId",
        "moat",
    ]);
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(","))),
            prop::collection::vec((name.clone(), inner), 0..6).prop_map(|m| format!(
                "{{{}}}",
                m.iter().map(|(k, v)| format!("{k:?}:{v}")).collect::<Vec<_>>().join(",")
            )),
        ]
    })
}

/// Built once: a thousand cases start from it.
static START: std::sync::LazyLock<moat_arm::Snapshot> = std::sync::LazyLock::new(|| build().snapshot);

fn world() -> World {
    let mut w = World::empty();
    w.snapshot = START.clone();
    w.ctx.applied = w.snapshot.seq();
    w
}

fn build() -> World {
    let mut w = World::with_group();
    w.have("{n}/networkSecurityGroups/nsg", r#"{"location": "westus2"}"#);
    w.have(
        "{n}/virtualNetworks/v",
        r#"{"location": "westus2", "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "subnets": [{"name": "d", "properties": {"addressPrefix": "10.0.0.0/24"}}]}}"#,
    );
    w.have("{g}/providers/Microsoft.MachineLearningServices/workspaces/wks", r#"{"location": "westus2"}"#);
    w
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn every_request_has_an_answer(
        segments in prop::collection::vec(segment(), 0..14),
        below_known in 0..4_usize,
        method in prop::sample::select(vec!["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"]),
        body in prop_oneof![json(), "[ -~]{0,20}"],
        filter in prop::option::of("[a-z'() ]{0,12}"),
    ) {
        let w = world();
        let base = ["", "{g}/", "{n}/", "{g}/providers/"][below_known];
        let mut request = w.request(&format!("{method} {}/{}", base.trim_end_matches('/'), segments.join("/").replace('?', "")), Some(&body));
        request.query.insert("api-version".to_owned(), "2024-11-01".to_owned());
        if let Some(filter) = filter {
            request.query.insert("$filter".to_owned(), filter);
        }
        let first = crate::decide(&w.snapshot, &request, &w.ctx);
        prop_assert!((200..500).contains(&first.status), "{:?}", first);
        prop_assert!(first.status < 300 || first.batch.is_empty());
        if first.status >= 400 && method != "HEAD" {
            prop_assert!(first.body.as_ref().is_some_and(|b| b["error"]["code"].is_string()));
        }
        if matches!(request.method, Method::Get | Method::Head) {
            prop_assert!(first.batch.is_empty());
        }
        prop_assert_eq!(&first, &crate::decide(&w.snapshot, &request, &w.ctx));
        // The world after it can still be read.
        let mut after = w.snapshot.clone();
        after.apply(&first.batch);
        let list = crate::decide(&after, &w.request("GET {g}/resources", None), &w.ctx);
        prop_assert!(list.status == 200 || list.status == 404);
    }

    #[test]
    fn every_network_body_has_an_answer(body in json(), kind in prop::sample::select(vec![
        "{n}/virtualNetworks/v", "{n}/virtualNetworks/v/subnets/d", "{n}/networkSecurityGroups/nsg",
        "{n}/networkSecurityGroups/nsg/securityRules/r", "{n}/networkInterfaces/nic", "{n}/loadBalancers/lb",
        "{n}/publicIPAddresses/p", "{n}/routeTables/t", "{n}/natGateways/nat",
        "{g}/providers/Microsoft.MachineLearningServices/workspaces/wks/computes/cpu1",
        "{g}/providers/Microsoft.Resources/deployments/d",
    ])) {
        let w = world();
        let body = format!(r#"{{"location": "westus2", "properties": {body}}}"#);
        let request = w.request(&format!("PUT {kind}"), Some(&body));
        let decision = crate::decide(&w.snapshot, &request, &w.ctx);
        prop_assert!((200..500).contains(&decision.status), "{:?}", decision);
        let mut after = w.snapshot.clone();
        after.apply(&decision.batch);
        let got = crate::decide(&after, &w.request(&format!("GET {kind}"), None), &w.ctx);
        prop_assert!(got.status == 200 || got.status == 404);
    }
}
