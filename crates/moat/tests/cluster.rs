//! Clusters with real nodes: packets decide what a node's state is, and the message names the rule.
//! Needs user namespaces and a python3 with its standard library; the requests are made inside
//! the environment, by real names and certificates.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::process::{Command, Stdio};

use common::User;
use common::azure::{Azure, NET, rule};
use serde_json::{Value, json};

fn messages(cluster: &Value) -> String {
    cluster["errors"].to_string()
}

/// Tests of nodes run once: as root where this is root, else as the user.
fn user() -> User {
    User::new(None)
}

#[test]
fn packets_decide_about_nodes_and_the_message_names_the_rule() {
    common::each_user(|user| {
        let azure = Azure::up(user, "2021-09", "10.0.0.0/24");
        azure.cluster(json!({}));
        azure.scale(2);
        azure.until_states("idle", 2);
        // One set, in the group of the VNet and not of the workspace (AML-RES-001, 002, 005, 007).
        assert_eq!(azure.automatic().len(), 3);

        // The service's things stay while it needs them (AML-LIF-005, 006).
        let balancer = azure.automatic().into_iter().find(|id| id.contains("loadBalancers")).unwrap();
        let path = balancer.split_once("/resourceGroups/").map(|(_, p)| format!("/resourceGroups/{p}")).unwrap();
        let refused = azure.send(&[
            ("DELETE", &path, Value::Null),
            ("DELETE", &format!("{NET}/virtualNetworks/mynetwork/subnets/default"), Value::Null),
        ]);
        assert_eq!(refused[0]["body"]["error"]["code"], "LoadBalancerInUseByVirtualMachineScaleSet", "{}", refused[0]);
        assert_eq!(refused[1]["body"]["error"]["code"], "InUseSubnetCannotBeDeleted", "{}", refused[1]);

        // 44224 denied above the allow: unusable, and the text names the rule (AML-NET-002, AML-LIF-014).
        let deny = format!("{NET}/networkSecurityGroups/trainnsg/securityRules/Deny44224");
        azure.all(&[("PUT", &deny, rule("Deny44224", 105, "Inbound", "Deny", "*", "*", "44224"))]);
        let broken = azure.until_states("unusable", 2);
        assert!(messages(&broken).contains("AllocationFailed"), "{broken:#}");
        assert!(messages(&broken).contains("'Deny44224' (priority 105)"), "{broken:#}");
        assert_eq!(broken["provisioningState"], "Succeeded", "packets decide about nodes, not about the cluster");
        azure.all(&[("DELETE", &deny, Value::Null)]);
        azure.until_states("idle", 2);

        // The allow for 29876-29877 gone (AML-NET-001): the default rule is named.
        let allow = format!("{NET}/networkSecurityGroups/trainnsg/securityRules/AllowBatch");
        azure.all(&[("DELETE", &allow, Value::Null)]);
        let broken = azure.until_states("unusable", 2);
        assert!(messages(&broken).contains("'DenyAllInBound' (priority 65500)"), "{broken:#}");

        // At zero nodes the network resources go (AML-LIF-001).
        azure.scale(0);
        azure.until("no nodes", |c| c["nodes"].as_array().unwrap().is_empty());
        assert!(azure.automatic().is_empty(), "{:?}", azure.automatic());
    });
}

#[test]
fn a_short_subnet_gives_a_partial_cluster() {
    let user = user();
    // Eight nodes in a /29: three usable addresses (AML-PRE-006).
    let azure = Azure::up(&user, "2021-09", "10.0.0.0/29");
    azure.cluster(json!({}));
    azure.scale(8);
    let partial = azure.until("three nodes and steady", |c| {
        c["nodes"].as_array().unwrap().iter().filter(|n| n["state"] == "idle").count() == 3
            && c["allocationState"] == "Steady"
    });
    assert!(messages(&partial).contains("SubnetIsFull"), "{partial:#}");
}

#[test]
fn a_node_tells_what_it_cannot_reach() {
    let user = user();
    let azure = Azure::up(&user, "2021-09", "10.0.0.0/24");
    let deny = format!("{NET}/networkSecurityGroups/trainnsg/securityRules/DenyStorage");
    azure.all(&[("PUT", &deny, rule("DenyStorage", 200, "Outbound", "Deny", "*", "Storage.WestUS2", "443"))]);
    azure.cluster(json!({}));
    azure.scale(1);
    let broken = azure.until_states("unusable", 1);
    assert!(messages(&broken).contains("outbound TCP 443 to Storage.westus2"), "{broken:#}");
    assert!(messages(&broken).contains("'DenyStorage' (priority 200)"), "{broken:#}");
}

#[test]
fn a_rule_that_moat_did_not_make_is_not_explained() {
    let user = user();
    if !nix::unistd::geteuid().is_root() || Command::new("nft").arg("--version").output().is_err() {
        eprintln!("SKIPPED: a foreign rule (needs root and the nft program)");
        return;
    }
    let azure = Azure::up(&user, "2021-09", "10.0.0.0/24");
    azure.cluster(json!({}));
    azure.scale(1);
    azure.until_states("idle", 1);
    let init = user.processes("default")["init"].to_string();
    let folder = format!("/proc/{init}/root/run/moat/netns");
    let router = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let router = router.into_iter().find(|n| n.starts_with("r-")).unwrap();
    let rules = "table inet foreign { chain c { type filter hook prerouting priority -500; tcp dport 44224 drop; }; }";
    let done = Command::new("nsenter")
        .args(["-t", &init, "-U", "-m", "--preserve-credentials", "--", "nsenter"])
        .arg(format!("--net=/run/moat/netns/{router}"))
        .args(["--", "nft", rules])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let broken = azure.until_states("unusable", 1);
    assert!(messages(&broken).contains("inbound TCP 44224"), "{broken:#}");
    assert!(messages(&broken).contains("no rule of Moat's explains it"), "{broken:#}");
}

#[test]
fn today_nodes_report_by_themselves() {
    let user = user();
    let azure = Azure::up(&user, "current", "10.0.0.0/24");
    azure.cluster(json!({}));
    azure.scale(1);
    azure.until_states("idle", 1);
    // 29876 has no part in this edition (AML-NET-007): the rule may go.
    azure.all(&[("DELETE", &format!("{NET}/networkSecurityGroups/trainnsg/securityRules/AllowBatch"), Value::Null)]);
    let deny = format!("{NET}/networkSecurityGroups/trainnsg/securityRules/DenyBatch");
    azure.until_states("idle", 1);
    azure.all(&[("PUT", &deny, rule("DenyBatch", 200, "Outbound", "Deny", "*", "BatchNodeManagement", "443"))]);
    let broken = azure.until_states("unusable", 1);
    assert!(messages(&broken).contains("'DenyBatch' (priority 200)"), "{broken:#}");
}

#[test]
fn without_public_ip_a_node_needs_a_way_out() {
    let user = user();
    let azure = Azure::up(&user, "current", "10.0.0.0/24");
    azure.all(&[
        (
            "PUT",
            &format!("{NET}/publicIPAddresses/pip"),
            json!({"location": "westus2", "sku": {"name": "Standard"},
            "properties": {"publicIPAllocationMethod": "Static"}}),
        ),
        (
            "PUT",
            &format!("{NET}/natGateways/nat"),
            json!({"location": "westus2", "sku": {"name": "Standard"},
            "properties": {"publicIpAddresses": [{"id": format!("{{sub}}{NET}/publicIPAddresses/pip")}]}}),
        ),
        (
            "PUT",
            &format!("{NET}/virtualNetworks/mynetwork/subnets/default"),
            json!({"properties": {"addressPrefix": "10.0.0.0/24",
            "natGateway": {"id": format!("{{sub}}{NET}/natGateways/nat")},
            "networkSecurityGroup": {"id": format!("{{sub}}{NET}/networkSecurityGroups/trainnsg")}}}),
        ),
    ]);
    azure.cluster(json!({"enableNodePublicIp": false}));
    azure.scale(1);
    azure.until_states("idle", 1);
    assert!(
        azure.automatic().is_empty(),
        "a cluster without public IP gets no network resources: {:?}",
        azure.automatic()
    );
}

#[test]
fn killed_in_the_middle_of_a_scale_up_it_goes_on() {
    let user = user();
    let azure = Azure::up(&user, "2021-09", "10.0.0.0/24");
    azure.cluster(json!({}));
    azure.scale(4);
    user.killed_and_up("server", &["--edition", "2021-09"]);
    azure.until_states("idle", 4);
}
