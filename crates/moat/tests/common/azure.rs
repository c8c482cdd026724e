//! An environment with a network in one group and a workspace in another, and a client of it: its requests are made
//! inside the environment, by real names and certificates. Needs a python3 with its standard library.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{SOON, User};

const CLIENT: &str = include_str!("client.py");
/// Between two looks at something that is on its way.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub const NET: &str = "/resourceGroups/netrg/providers/Microsoft.Network";
pub const ML: &str = "/resourceGroups/mlrg/providers/Microsoft.MachineLearningServices/workspaces/moatws";

/// An environment, gone with this.
pub struct Azure<'u> {
    pub user: &'u User,
}

impl<'u> Azure<'u> {
    /// With a workspace that no job can run in.
    pub fn up(user: &'u User, edition: &str, subnet: &str) -> Self {
        let azure = Self::network(user, &["--edition", edition], subnet);
        azure.all(&[("PUT", ML, json!({"location": "westus2", "properties": {}}))]);
        azure
    }

    /// With everything but a workspace.
    pub fn network(user: &'u User, up: &[&str], subnet: &str) -> Self {
        user.up(up);
        let azure = Azure { user };
        azure.all(&[
            ("PUT", "/resourcegroups/netrg", json!({"location": "westus2"})),
            ("PUT", "/resourcegroups/mlrg", json!({"location": "westus2"})),
            (
                "PUT",
                &format!("{NET}/networkSecurityGroups/trainnsg"),
                json!({"location": "westus2", "properties": {"securityRules": [
                    rule("AllowBatch", 100, "Inbound", "Allow", "BatchNodeManagement", "*", "29876-29877"),
                    rule("AllowAml", 110, "Inbound", "Allow", "AzureMachineLearning", "*", "44224"),
                ]}}),
            ),
            (
                "PUT",
                &format!("{NET}/virtualNetworks/mynetwork"),
                json!({"location": "westus2", "properties": {
                "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
                "subnets": [{"name": "default", "properties": {"addressPrefix": subnet,
                    "networkSecurityGroup": {"id": format!("{{sub}}{NET}/networkSecurityGroups/trainnsg")}}}]}}),
            ),
        ]);
        azure
    }

    /// Sends requests in order; every one must succeed.
    #[track_caller]
    pub fn all(&self, requests: &[(&str, &str, Value)]) -> Vec<Value> {
        let answers = self.send(requests);
        for ((method, target, _), answer) in requests.iter().zip(&answers) {
            assert!(answer["status"].as_u64().unwrap() < 300, "{method} {target}: {answer}");
        }
        answers
    }

    /// Sends requests in order: paths below the subscription, or addresses of other services.
    #[track_caller]
    pub fn send(&self, requests: &[(&str, &str, Value)]) -> Vec<Value> {
        let text = json!(requests).to_string();
        let out = self.user.moat(&["exec", "--", "/usr/bin/python3", "-c", CLIENT, &text]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    pub fn cluster(&self, extra: Value) {
        self.cluster_named("cpucluster", extra);
    }

    /// A cluster of 0 to 8 nodes, unless `extra` says otherwise.
    pub fn cluster_named(&self, name: &str, extra: Value) {
        let mut inner = json!({"vmSize": "STANDARD_D2_V2",
            "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 8, "nodeIdleTimeBeforeScaleDown": "PT1S"},
            "subnet": {"id": format!("{{sub}}{NET}/virtualNetworks/mynetwork/subnets/default")}});
        inner.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        self.all(&[(
            "PUT",
            &format!("{ML}/computes/{name}"),
            json!({"location": "westus2", "properties": {"computeType": "AmlCompute", "properties": inner}}),
        )]);
    }

    pub fn scale(&self, nodes: u32) {
        self.user.run(&["cluster", "scale", "cpucluster", &nodes.to_string()]).succeeded();
    }

    /// The clusters as `moat cluster list` tells them.
    pub fn clusters(&self) -> Value {
        self.user.run(&["cluster", "list", "-o", "json"]).succeeded().json()
    }

    /// Waits until the first cluster is as wanted; says how it was when it never became so.
    #[track_caller]
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("the cluster: {what}"), || self.clusters()[0].clone(), wanted)
    }

    #[track_caller]
    pub fn until_states(&self, state: &str, nodes: usize) -> Value {
        self.until(&format!("{nodes} nodes {state}"), |c| {
            let all = c["nodes"].as_array().unwrap();
            all.len() == nodes && all.iter().all(|n| n["state"] == state)
        })
    }

    /// Ids of the network resources that the service made.
    pub fn automatic(&self) -> Vec<String> {
        let answer = self.all(&[(
            "GET",
            "/resources?$filter=resourceGroup eq 'netrg'".replace(' ', "%20").as_str(),
            Value::Null,
        )]);
        let all = answer[0]["body"]["value"].as_array().unwrap().clone();
        all.iter().filter_map(|r| r["id"].as_str()).filter(|id| id.contains("azurebatch")).map(str::to_owned).collect()
    }

    /// Adds a rule to the group of the subnet, and waits until packets meet it.
    #[track_caller]
    pub fn deny(&self, name: &str, priority: u32, direction: &str, from: &str, to: &str, ports: &str) {
        let path = format!("{NET}/networkSecurityGroups/trainnsg/securityRules/{name}");
        self.all(&[("PUT", &path, rule(name, priority, direction, "Deny", from, to, ports))]);
        let state = || self.all(&[("GET", &path, Value::Null)])[0]["body"]["properties"]["provisioningState"].clone();
        until(&format!("the rule {name}"), state, |state| state == "Succeeded");
    }
}

impl Drop for Azure<'_> {
    fn drop(&mut self) {
        let _ = self.user.moat(&["down", "--purge"]).output();
    }
}

/// Looks until what is seen is as wanted, with a bound; says how it was when it never became so.
#[track_caller]
pub fn until<T: std::fmt::Debug>(what: &str, look: impl Fn() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let start = Instant::now();
    loop {
        let seen = look();
        if wanted(&seen) {
            return seen;
        }
        assert!(start.elapsed() < SOON * 3, "it never became so: {what}\n{seen:#?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

pub fn rule(name: &str, priority: u32, direction: &str, access: &str, from: &str, to: &str, ports: &str) -> Value {
    json!({"name": name, "properties": {"priority": priority, "direction": direction, "access": access, "protocol": "Tcp",
        "sourceAddressPrefix": from, "sourcePortRange": "*", "destinationAddressPrefix": to, "destinationPortRange": ports}})
}
