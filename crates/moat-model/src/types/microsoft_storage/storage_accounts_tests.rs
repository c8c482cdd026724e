//! Accounts as their owners meet them.
#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use std::collections::BTreeMap;

use super::*;
use crate::storage::sas::{self, Keys, Level, Place};
use crate::types::testing::{GROUP, World, net};

fn id(group: &str, name: &str) -> String {
    format!("{GROUP}{group}/providers/Microsoft.Storage/storageAccounts/{name}")
}

fn world() -> World {
    let mut world = World::new(Edition::Current);
    world.now = "2026-11-25T03:00:00Z".parse().unwrap();
    world.put(&id("", "moatstore1"), json!({})).unwrap();
    world
}

#[test]
fn accounts_have_endpoints_and_names_of_their_own() {
    let mut world = World::new(Edition::Current);
    let stored = world.put(&id("", "moatstore1"), json!({"sku": {"name": "Premium_LRS"}})).unwrap();
    assert_eq!(stored["properties"]["primaryEndpoints"]["blob"], "https://moatstore1.blob.core.windows.net/");
    assert_eq!(stored["sku"]["tier"], "Premium");
    insta::assert_snapshot!(world.put(&id("", "Moat-Store"), json!({})).unwrap_err(), @"(AccountNameInvalid) Moat-Store is not a valid storage account name. Storage account name must be between 3 and 24 characters in length and use numbers and lower-case letters only.");
    insta::assert_snapshot!(world.put(&id("2", "moatstore1"), json!({})).unwrap_err(), @"(StorageAccountAlreadyTaken) The storage account named moatstore1 is already taken.");
    let service = ResourceId::parse(&format!("{}/blobServices/default", id("", "moatstore1"))).unwrap();
    assert!(world.snapshot.get(&service).is_some(), "the blob service comes with the account");
}

#[test]
fn keys_are_two_and_one_can_be_changed() {
    let mut world = world();
    let keys = |world: &mut World, action: &str, body: Value| {
        let answer = world.post(&id("", "moatstore1"), action, body).unwrap();
        let list = answer["keys"].as_array().unwrap();
        list.iter().map(|k| (k["keyName"].clone(), k["value"].as_str().unwrap().to_owned())).collect::<Vec<_>>()
    };
    let first = keys(&mut world, "listKeys", Value::Null);
    assert_eq!(first.len(), 2);
    assert_ne!(first[0].1, first[1].1);
    // A write of the account keeps them; the private member comes from what was before.
    let before = world.snapshot.get(&ResourceId::parse(&id("", "moatstore1")).unwrap()).unwrap().body.clone();
    world.put(&id("", "moatstore1"), json!({"moat": before["moat"], "tags": {"a": "b"}})).unwrap();
    assert_eq!(keys(&mut world, "listKeys", Value::Null), first);
    let second = keys(&mut world, "regenerateKey", json!({"keyName": "key2"}));
    assert_eq!(second[0], first[0]);
    assert_ne!(second[1], first[1]);
    assert_eq!(keys(&mut world, "listKeys", Value::Null), second);
    let wrong = world.post(&id("", "moatstore1"), "regenerateKey", json!({"keyName": "key3"}));
    assert_eq!(wrong.unwrap_err().code, "InvalidValuesForRequestParameters");
}

#[test]
fn what_is_left_out_of_a_write_stays() {
    let mut world = world();
    let body = json!({"kind": "StorageV2", "properties": {"allowSharedKeyAccess": false, "networkAcls": {"defaultAction": "Deny"}}});
    world.put(&id("", "moatstore1"), body).unwrap();
    let kept = world.put(&id("", "moatstore1"), json!({"properties": {"accessTier": "Cool"}})).unwrap();
    assert!(!allows_shared_key(&kept));
    assert_eq!(kept["properties"]["networkAcls"]["defaultAction"], "Deny");
    assert_eq!(kept["properties"]["accessTier"], "Cool");
}

#[test]
fn impossible_accounts_are_refused() {
    let mut world = world();
    let mut code = |body: Value| world.put(&id("", "moatstore1"), body).unwrap_err().code;
    assert_eq!(code(json!({"sku": {"name": "Gold"}})), "InvalidRequestPropertyValue");
    assert_eq!(code(json!({"kind": "Bucket"})), "InvalidRequestPropertyValue");
    assert_eq!(code(json!({"kind": "BlockBlobStorage"})), "InvalidSkuForAccountKind");
    assert_eq!(code(json!({"kind": "BlobStorage"})), "AccountPropertyCannotBeUpdated");
    assert_eq!(code(json!({"properties": {"isHnsEnabled": true}})), "AccountPropertyCannotBeUpdated");
    assert_eq!(code(json!({"properties": {"minimumTlsVersion": "SSL3"}})), "InvalidRequestPropertyValue");
    assert_eq!(code(json!({"properties": {"allowSharedKeyAccess": "maybe"}})), "InvalidRequestPropertyValue");
    for address in ["10.0.0.1", "20.0.0.0/31", "x"] {
        let rules = json!({"properties": {"networkAcls": {"ipRules": [{"value": address}]}}});
        assert_eq!(code(rules), "InvalidValuesForRequestParameters", "{address}");
    }
}

#[test]
fn a_subnet_needs_a_service_endpoint_before_it_is_allowed() {
    let mut world = world();
    let network = net("virtualNetworks/v");
    let put_network = |world: &mut World, endpoints: Value| {
        let subnet =
            json!({"name": "s", "properties": {"addressPrefix": "10.0.0.0/24", "serviceEndpoints": endpoints}});
        let body = json!({"properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [subnet]}});
        world.put(&network, body).unwrap();
    };
    put_network(&mut world, json!([]));
    let rules =
        json!({"properties": {"networkAcls": {"virtualNetworkRules": [{"id": net("virtualNetworks/v/subnets/s")}]}}});
    let refused = world.put(&id("", "moatstore1"), rules.clone()).unwrap_err();
    assert_eq!(refused.code, "NetworkAclsValidationFailure");
    put_network(&mut world, json!([{"service": "Microsoft.Storage"}]));
    world.put(&id("", "moatstore1"), rules).unwrap();
}

#[test]
fn signatures_made_by_the_service_open_what_they_say() {
    let mut world = world();
    let expiry = "2026-11-25T04:00:00Z";
    let service = world
        .post(
            &id("", "moatstore1"),
            "ListServiceSas",
            json!({"canonicalizedResource": "/blob/moatstore1/data", "signedResource": "c", "signedPermission": "l", "signedExpiry": expiry}),
        )
        .unwrap();
    let whole = json!({"signedServices": "b", "signedResourceTypes": "c", "signedPermission": "l", "signedExpiry": expiry, "keyToSign": "key2"});
    let whole = world.post(&id("", "moatstore1"), "ListAccountSas", whole).unwrap();
    let body = world.snapshot.get(&ResourceId::parse(&id("", "moatstore1")).unwrap()).unwrap().body.clone();
    let keys = keys(&body);
    for token in [&service["serviceSasToken"], &whole["accountSasToken"]] {
        let query: BTreeMap<String, String> = token
            .as_str()
            .unwrap()
            .split('&')
            .filter_map(|part| part.split_once('='))
            .map(|(n, v)| {
                (n.to_owned(), v.replace("%3A", ":").replace("%2F", "/").replace("%2B", "+").replace("%3D", "="))
            })
            .collect();
        let place = Place { account: "moatstore1", container: Some("data"), blob: None, listing: Some("") };
        let keys = Keys { account: &keys, delegation: &delegation_secret(&body).unwrap() };
        let granted = sas::verify(&query, &place, &keys, "10.0.0.4".parse().unwrap(), world.now).unwrap();
        granted.allows("l", Level::Listing).unwrap();
    }
    let foreign = json!({"canonicalizedResource": "/blob/other/data", "signedResource": "c", "signedPermission": "l", "signedExpiry": expiry});
    assert!(world.post(&id("", "moatstore1"), "ListServiceSas", foreign).is_err());
}
