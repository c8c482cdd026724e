//! Clusters over time: an hour costs nothing, since now is an argument.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use moat_arm::{ResourceId, Snapshot, document};
use moat_model::Edition;
use moat_model::types::microsoft_machinelearningservices::auto_network as auto;
use serde_json::{Value, json};

use super::cluster::{RESIZE_TIMEOUT, set_demand};
use super::observed::{NodeVerdict, Observed};
use crate::request::{ArmRequest, Ctx, Method, Origin, Principal};

pub(super) const SUB: &str = "/subscriptions/00000000-0000-0000-0000-000000000001";
const OWNER: &str = "00000000-0000-0000-0000-00000000000a";

pub(super) struct World {
    pub(super) snapshot: Snapshot,
    pub(super) now: Timestamp,
    steps: u32,
    pub(super) observed: Observed,
    /// How jobs are read.
    pub(super) plan: super::job::Planner,
}

impl World {
    /// A network in `netrg`, a workspace in `mlrg`, and a cluster of up to `maximum` nodes.
    pub(super) fn new(subnet: &str, maximum: u32) -> Self {
        let mut world = World {
            snapshot: Snapshot::default(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            steps: 0,
            observed: Observed::default(),
            plan: super::job_tests::read,
        };
        let sub = "00000000-0000-0000-0000-000000000001";
        world.snapshot.apply(&crate::bootstrap(sub, OWNER, "00000000-0000-0000-0000-0000000000aa"));
        world.put("/resourceGroups/netrg", json!({"location": "westus2"}));
        world.put("/resourceGroups/mlrg", json!({"location": "westus2"}));
        world.put(
            "/resourceGroups/netrg/providers/Microsoft.Network/virtualNetworks/mynetwork",
            json!({"location": "westus2", "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
                "subnets": [{"name": "default", "properties": {"addressPrefix": subnet}}]}}),
        );
        world.put(WORKSPACE, json!({"location": "westus2", "properties": {}}));
        world.put(
            &format!("{WORKSPACE}/computes/cpucluster"),
            json!({"location": "westus2", "properties": {"computeType": "AmlCompute", "properties": {
                "vmSize": "STANDARD_D2_V2",
                "scaleSettings": {"minNodeCount": 0, "maxNodeCount": maximum, "nodeIdleTimeBeforeScaleDown": "PT1800S"},
                "subnet": {"id": format!("{SUB}/resourceGroups/netrg/providers/Microsoft.Network/virtualNetworks/mynetwork/subnets/default")},
            }}}),
        );
        world.settle();
        world
    }

    fn ctx(&self) -> Ctx {
        Ctx {
            now: self.now,
            seed: uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, &self.steps.to_be_bytes()),
            edition: Edition::Seed2021,
            tenant: "00000000-0000-0000-0000-0000000000bb".to_owned(),
            subscription: "00000000-0000-0000-0000-000000000001".to_owned(),
            applied: u64::MAX,
            base_url: "https://management.azure.com".to_owned(),
            public_pool: vec!["20.51.0.0/24".parse().unwrap()],
        }
    }

    pub(super) fn put(&mut self, path: &str, body: Value) {
        self.steps += 1;
        let request = ArmRequest {
            method: Method::Put,
            path: format!("{SUB}{path}"),
            query: BTreeMap::from([("api-version".to_owned(), "2022-05-01".to_owned())]),
            body: Some(body.to_string()),
            principal: Principal { object_id: OWNER.to_owned(), ..Principal::default() },
            origin: Origin::Public,
            if_match: None,
            if_none_match: None,
        };
        let decision = crate::decide(&self.snapshot, &request, &self.ctx());
        assert!(decision.status < 300, "{path}: {:?}", decision.body);
        self.snapshot.apply(&decision.batch);
    }

    /// Steps until nothing is left to do; a scheduler that never rests fails here.
    pub(super) fn settle(&mut self) {
        for _ in 0..8 {
            self.steps += 1;
            let batch = super::step_with(&self.snapshot, &self.observed, &self.ctx(), self.plan);
            if batch.is_empty() {
                return;
            }
            self.snapshot.apply(&batch);
        }
        panic!("the scheduler does not come to rest");
    }

    pub(super) fn demand(&mut self, nodes: u32) {
        self.steps += 1;
        let batch = set_demand(&self.snapshot, &cluster(), nodes, &self.ctx()).unwrap();
        self.snapshot.apply(&batch);
        self.settle();
    }

    pub(super) fn pass(&mut self, time: SignedDuration) {
        self.now = self.now.checked_add(time).unwrap();
        self.settle();
    }

    /// Packets say the same about every node.
    pub(super) fn observe(&mut self, verdict: &NodeVerdict) {
        let keys = self.nodes().into_iter().map(|(key, _)| (key, verdict.clone()));
        self.observed.nodes = keys.collect();
        self.settle();
    }

    pub(super) fn nodes(&self) -> Vec<(String, Value)> {
        let nodes = self.snapshot.of_type(auto::NODE_TYPE);
        nodes.map(|d| (d.id.key().to_owned(), d.body["properties"].clone())).collect()
    }

    pub(super) fn count(&self, state: &str) -> usize {
        self.nodes().iter().filter(|(_, n)| n["state"] == state).count()
    }

    pub(super) fn inner(&self, name: &str) -> Value {
        let stored = self.snapshot.get(&cluster()).unwrap();
        document::at(&stored.body, &format!("properties.properties.{name}")).cloned().unwrap_or(Value::Null)
    }

    /// Resources of a type that the service made, all of them in the group of the VNet.
    pub(super) fn made(&self, kind: &str) -> Vec<ResourceId> {
        let all = self.snapshot.of_type(kind).filter(|d| document::at(&d.body, auto::OWNER).is_some());
        let ids: Vec<ResourceId> = all.map(|d| d.id.clone()).collect();
        assert!(ids.iter().all(|id| id.resource_group() == Some("netrg")), "{ids:?}");
        ids
    }
}

pub(super) const WORKSPACE: &str = "/resourceGroups/mlrg/providers/Microsoft.MachineLearningServices/workspaces/moatws";

pub(super) fn cluster() -> ResourceId {
    ResourceId::parse(&format!("{SUB}{WORKSPACE}/computes/cpucluster")).unwrap()
}

#[test]
fn a_cluster_without_demand_makes_nothing() {
    // AML-LIF-017: Succeeded, and nothing of the network was tried.
    let world = World::new("10.0.0.0/24", 4);
    assert!(world.nodes().is_empty() && world.made("Microsoft.Network/loadBalancers").is_empty());
    assert_eq!(world.inner("allocationState"), "Steady");
    let body = &world.snapshot.get(&cluster()).unwrap().body;
    assert_eq!(document::str_at(body, "properties.provisioningState"), Some("Succeeded"));
}

#[test]
fn nodes_prepare_until_packets_say_that_they_can_be_reached() {
    // AML-LIF-014, AML-LIF-015: no timer makes a node idle.
    let mut world = World::new("10.0.0.0/24", 4);
    world.demand(2);
    assert_eq!((world.count("preparing"), world.inner("allocationState")), (2, json!("Resizing")));
    world.pass(SignedDuration::from_mins(5));
    assert_eq!(world.count("preparing"), 2);
    world.observe(&NodeVerdict::Reachable);
    assert_eq!((world.count("idle"), world.inner("allocationState")), (2, json!("Steady")));
    world.observe(&NodeVerdict::Blocked("because of a rule".to_owned()));
    assert_eq!(world.count("unusable"), 2);
    let errors = world.inner("errors").to_string();
    assert!(errors.contains("AllocationFailed") && errors.contains("because of a rule"), "{errors}");
    world.observe(&NodeVerdict::Reachable);
    assert_eq!((world.count("idle"), world.inner("errors")), (2, json!([])));
}

#[test]
fn a_resize_that_does_not_finish_times_out() {
    // AML-LIF-018: fifteen minutes, then AllocationTimedOut.
    let mut world = World::new("10.0.0.0/24", 4);
    world.demand(1);
    assert_eq!(RESIZE_TIMEOUT, SignedDuration::from_mins(15));
    world.pass(RESIZE_TIMEOUT - SignedDuration::from_secs(1));
    assert_eq!(world.inner("allocationState"), "Resizing");
    world.pass(SignedDuration::from_secs(1));
    assert!(world.inner("errors").to_string().contains("AllocationTimedOut"), "{}", world.inner("errors"));
}

#[test]
fn idle_nodes_go_after_their_time_and_the_network_with_the_last() {
    // AML-LIF-001, AML-LIF-009.
    let mut world = World::new("10.0.0.0/24", 4);
    world.demand(2);
    world.observe(&NodeVerdict::Reachable);
    world.demand(0);
    world.pass(SignedDuration::from_secs(1799));
    assert_eq!(world.count("idle"), 2);
    world.pass(SignedDuration::from_secs(1));
    assert!(world.nodes().is_empty());
    for kind in ["networkSecurityGroups", "publicIPAddresses", "loadBalancers", "networkInterfaces"] {
        let left = world.made(&format!("Microsoft.Network/{kind}"));
        assert!(left.is_empty(), "{left:?}");
    }
    // AML-LIF-002: and come again with the next node.
    world.demand(1);
    for kind in ["networkSecurityGroups", "publicIPAddresses", "loadBalancers", "networkInterfaces"] {
        assert_eq!(world.made(&format!("Microsoft.Network/{kind}")).len(), 1, "{kind}");
    }
}

#[test]
fn one_set_of_network_resources_serves_a_hundred_nodes() {
    // AML-RES-002, 005, 007, 009.
    let mut world = World::new("10.0.0.0/22", 150);
    world.demand(100);
    assert_eq!((world.nodes().len(), world.made("Microsoft.Network/loadBalancers").len()), (100, 1));
    world.demand(101);
    for kind in ["networkSecurityGroups", "publicIPAddresses", "loadBalancers"] {
        assert_eq!(world.made(&format!("Microsoft.Network/{kind}")).len(), 2, "{kind}");
    }
}

#[test]
fn the_automatic_group_opens_what_the_service_needs_and_no_more() {
    // AML-RES-002, 003, 004, 010, 011.
    let mut world = World::new("10.0.0.0/24", 4);
    world.demand(1);
    let group = world.made("Microsoft.Network/networkSecurityGroups").remove(0);
    let rules = &world.snapshot.get(&group).unwrap().body["properties"]["securityRules"];
    let text = |rule: &Value, name: &str| rule["properties"][name].as_str().unwrap_or_default().to_owned();
    let rows: Vec<String> = rules
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| {
            [
                "direction",
                "access",
                "protocol",
                "sourceAddressPrefix",
                "destinationAddressPrefix",
                "destinationPortRange",
            ]
            .map(|name| text(rule, name))
            .join(" ")
        })
        .collect();
    assert_eq!(
        rows,
        [
            "Inbound Allow Tcp BatchNodeManagement * 29876-29877",
            "Inbound Allow Tcp AzureMachineLearning * 44224",
            "Outbound Allow * * VirtualNetwork *",
            "Outbound Allow * * Internet *",
        ]
    );
    let nic = world.snapshot.get(&world.made("Microsoft.Network/networkInterfaces")[0]).unwrap();
    let bound = document::str_at(&nic.body, "properties.networkSecurityGroup.id").unwrap();
    assert!(bound.eq_ignore_ascii_case(group.as_str()), "{bound}");
}

#[test]
fn a_short_subnet_gives_what_fits_and_says_so() {
    // AML-PRE-003, AML-PRE-006.
    let mut world = World::new("10.0.0.0/29", 8);
    world.demand(8);
    assert_eq!((world.nodes().len(), world.inner("targetNodeCount")), (3, json!(8)));
    assert!(world.inner("errors").to_string().contains("SubnetIsFull"), "{}", world.inner("errors"));
}

#[test]
fn more_than_the_maximum_is_refused() {
    let world = World::new("10.0.0.0/24", 4);
    let refused = set_demand(&world.snapshot, &cluster(), 5, &world.ctx()).unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (400, "InvalidNodeCount"));
}
