//! What the real clients sent to a recording stub, sent to `decide` in the same order.
//!
//! Needs the recordings, which are no part of the project; without them the test says that it was
//! skipped.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::{SUB, World, said};

/// Why an answer may differ from the recording: not built yet, or the recording keeps one sample
/// of each distinct call (long bodies cut), so that what came in between is lost.
const EXPLAINED: [&str; 13] = [
    "InvalidResourceType",
    "InvalidResourceNamespace",
    "ComputeTypeNotSupported",
    "WhatIfNotSupported",
    "InvalidTemplateDeployment",
    "PropertyNotAllowed",
    // Our `cpu2` has a public address, since this edition knows no other clusters.
    "PropertyChangeNotAllowed",
    "ResourceNotFound",
    "ResourceGroupNotFound",
    "InvalidResourceReference",
    "InUseSubnetCannotBeDeleted",
    "OperationNotFound",
    "Conflict",
];

/// As many calls must have their recorded status; more is better.
const SAME_MIN: usize = 205;

#[allow(clippy::disallowed_methods, reason = "a test reads its recordings")]
fn recordings() -> Option<String> {
    let shared = std::env::var_os("MOAT_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
    std::fs::read_to_string(shared.join("protocol/calls.jsonl")).ok()
}

fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let hex: Vec<u8> = bytes.by_ref().take(2).collect();
                out.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
            }
            b'+' => out.push(b' '),
            b => out.push(b),
        }
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn recorded_calls_are_answered_as_the_clients_expect() {
    let Some(text) = recordings() else {
        eprintln!("SKIPPED: no recordings found; set MOAT_SHARED");
        return;
    };
    let mut w = World::empty();
    w.have("{s}/resourceGroups/mygroup", r#"{"location": "westus2"}"#);
    w.have(
        "{s}/resourceGroups/mygroup/providers/Microsoft.Network/virtualNetworks/other",
        r#"{"location": "westus2", "properties": {"addressSpace": {"addressPrefixes": ["10.77.0.0/16"]}}}"#,
    );
    for account in ["moatstub", "moatwsstoraged6b9e4b3a85", "moatwsstorage806631a0261"] {
        let id = format!("{{s}}/resourceGroups/mygroup/providers/Microsoft.Storage/storageAccounts/{account}");
        w.have(&id, r#"{"location": "westus2"}"#);
    }
    w.have(
        "{s}/resourceGroups/mygroup/providers/Microsoft.MachineLearningServices/workspaces/moatws",
        r#"{"location": "westus2", "identity": {"type": "SystemAssigned"}, "properties": {"storageAccount":
            "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/mygroup/providers/Microsoft.Storage/storageAccounts/moatstub"}}"#,
    );
    w.have(
        "{s}/resourceGroups/mygroup/providers/Microsoft.MachineLearningServices/workspaces/moatws/computes/cpu2",
        r#"{"location": "westus2", "properties": {"computeType": "AmlCompute", "properties": {"vmSize": "STANDARD_DS3_V2",
            "scaleSettings": {"maxNodeCount": 1}}}}"#,
    );
    let mut different: BTreeMap<String, String> = BTreeMap::new();
    let mut same = 0;
    for line in text.lines() {
        let call: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| call[name].as_str().unwrap_or_default();
        if field("host") != "management.azure.com" || field("path").starts_with("/metadata") {
            continue;
        }
        let path = unescape(field("path")).replace("{sub}", SUB);
        let method = field("method");
        let lower = path.to_lowercase();
        // Only one sample of each call is kept: what a deletion was followed by is lost.
        if method == "DELETE" && (lower.ends_with("/mygroup") || lower.ends_with("/workspaces/moatws")) {
            continue;
        }
        // Their ids were the stub's.
        if ["/operations/", "/operationresults/", "/operationstatuses/", "operationsstatus/"]
            .iter()
            .any(|o| lower.contains(o))
        {
            continue;
        }
        let mut request = w.request(&format!("{method} {path}"), None);
        request.body = Some(field("req_body").replace("{sub}", SUB)).filter(|b| !b.is_empty());
        request.query = field("query")
            .split('&')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (unescape(k).to_lowercase(), unescape(v)))
            .collect();
        let decision = w.commit(&request);
        let expected = call["status"].as_u64().unwrap();
        if u64::from(decision.status) == expected {
            same += 1;
        } else {
            different.entry(format!("{method} {path} {expected}")).or_insert_with(|| said(&decision));
        }
    }
    let strange: Vec<_> = different
        .iter()
        .filter(|(call, got)| {
            let success = got.len() == 3 && got.starts_with('2');
            let cut = call.contains("/deployments/moatws-") && got.contains("InvalidRequestContent");
            // Between two sessions the workspace was deleted.
            let again = call.contains("/data/") && got.contains("Asset paths cannot be updated.");
            // What `ResourceNotFound` is elsewhere, in the words of Machine Learning.
            let missing = got.starts_with("404 UserError: ");
            !success && !cut && !again && !missing && !EXPLAINED.iter().any(|e| got.contains(&format!(" {e}: ")))
        })
        .collect();
    assert!(strange.is_empty(), "{strange:#?}");
    assert!(same >= SAME_MIN, "only {same} as recorded; different: {different:#?}");
}
