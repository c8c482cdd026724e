//! Jobs on real nodes, end to end: a client uploads and submits, a node's own packets fetch and store, and a sandbox
//! runs what was asked. Needs user namespaces and a python3 with its standard library.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use common::azure::{Azure, ML, NET, until};
use common::{User, each_user, kill, lives};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const ACCOUNT: &str = "moatjobstore";
/// A container for code and data of the tests.
const STUFF: &str = "https://moatjobstore.blob.core.windows.net/stuff";
const REGION: &str = "https://westus2.api.azureml.ms";
/// An image is an identity: nothing has to be built for it.
const IMAGE: &str = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04";

/// An environment that jobs can run in.
struct Lab<'u> {
    azure: Azure<'u>,
}

impl<'u> Lab<'u> {
    /// With a workspace, its companions, an environment named `plain` and blobs of `content`; without a cluster.
    fn up(user: &'u User, up: &[&str], content: &[(&str, &str)]) -> Self {
        let azure = Azure::network(user, up, "10.0.0.0/24");
        let provider = |name: &str| format!("/resourceGroups/mlrg/providers/{name}");
        let storage = provider(&format!("Microsoft.Storage/storageAccounts/{ACCOUNT}"));
        let vault = provider("Microsoft.KeyVault/vaults/moatjobvault");
        let insights = provider("Microsoft.Insights/components/moatjobs");
        azure.all(&[
            ("PUT", &storage, json!({"location": "westus2", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}})),
            (
                "PUT",
                &vault,
                json!({"location": "westus2", "properties": {
                "tenantId": "{tenant}", "sku": {"family": "A", "name": "standard"}, "accessPolicies": []}}),
            ),
            (
                "PUT",
                &insights,
                json!({"location": "westus2", "kind": "web", "properties": {"Application_Type": "web"}}),
            ),
            (
                "PUT",
                ML,
                json!({"location": "westus2", "identity": {"type": "SystemAssigned"}, "properties": {
                "storageAccount": format!("{{sub}}{storage}"), "keyVault": format!("{{sub}}{vault}"),
                "applicationInsights": format!("{{sub}}{insights}")}}),
            ),
            ("PUT", &format!("{ML}/environments/plain/versions/1"), json!({"properties": {"image": IMAGE}})),
            ("PUT", &format!("{STUFF}?restype=container"), json!("")),
        ]);
        let lab = Lab { azure };
        lab.upload(content);
        lab.azure.all(&[(
            "PUT",
            &format!("{ML}/codes/code/versions/1"),
            json!({"properties": {"codeUri": format!("{STUFF}/code")}}),
        )]);
        lab
    }

    fn user(&self) -> &User {
        self.azure.user
    }

    fn upload(&self, blobs: &[(&str, &str)]) {
        let targets: Vec<String> = blobs.iter().map(|(name, _)| format!("{STUFF}/{name}")).collect();
        let requests: Vec<(&str, &str, Value)> =
            targets.iter().zip(blobs).map(|(target, (_, text))| ("PUT", target.as_str(), json!(text))).collect();
        self.azure.all(&requests);
    }

    /// A cluster of exactly so many nodes, all idle.
    fn standing(&self, name: &str, nodes: usize) {
        self.azure.cluster_named(name, json!({"scaleSettings": {"minNodeCount": nodes, "maxNodeCount": nodes}}));
        until(
            &format!("{nodes} idle nodes of {name}"),
            || self.nodes(name),
            |all| all.len() == nodes && all.iter().all(|n| n["state"] == "idle"),
        );
    }

    fn nodes(&self, cluster: &str) -> Vec<Value> {
        let all = self.azure.clusters();
        let found = all.as_array().unwrap().iter().find(|c| c["name"] == cluster).unwrap();
        found["nodes"].as_array().unwrap().clone()
    }

    /// Submits a job of one command to `cpucluster`, unless `extra` says otherwise.
    fn submit(&self, name: &str, command: &str, extra: Value) {
        let mut properties = json!({"jobType": "Command", "experimentName": "tests", "command": command,
            "computeId": format!("{{sub}}{ML}/computes/cpucluster"),
            "environmentId": format!("{{sub}}{ML}/environments/plain/versions/1")});
        properties.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        self.azure.all(&[("PUT", &format!("{ML}/jobs/{name}"), json!({"properties": properties}))]);
    }

    /// A job as `moat job show` tells it.
    fn job(&self, name: &str) -> Value {
        self.user().run(&["job", "show", name, "-o", "json"]).succeeded().json()
    }

    #[track_caller]
    fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("the job {name}: {what}"), || self.job(name), wanted)
    }

    /// Waits until a line is in the job's log.
    #[track_caller]
    fn until_logged(&self, name: &str, text: &str) {
        let look = || (self.user().run(&["job", "logs", name]).out, self.job(name));
        until(&format!("{text:?} in the log of {name}"), look, |(log, _)| log.contains(text));
    }

    /// Waits for the job's end, as a client that streams its log does; its status must be `status` then.
    #[track_caller]
    fn ended(&self, name: &str, status: &str) -> Value {
        self.until(name, "an end", |job| !job["ended"].is_null());
        self.azure.all(&[("GET", &format!("{REGION}/history/v1.0{{sub}}{ML}/runs/{name}/details"), Value::Null)]);
        let job = self.until(name, "a final status", |job| {
            ["Completed", "Failed", "Canceled"].iter().any(|status| job["status"] == *status)
        });
        assert_eq!(job["status"], status, "{job:#}\n{}", self.user().run(&["job", "logs", name]).out);
        job
    }

    /// A blob of the account; what the service says where there is none.
    fn blob(&self, path: &str) -> String {
        let target = format!("https://{ACCOUNT}.blob.core.windows.net/{path}");
        let answer = &self.azure.send(&[("GET", &target, Value::Null)])[0];
        match &answer["body"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// What a job printed, from the store.
    fn log(&self, name: &str) -> String {
        self.blob(&format!("azureml/ExperimentRun/dcid.{name}/user_logs/std_log.txt"))
    }

    /// Names of all that a job left, below its prefix.
    fn artifacts(&self, name: &str) -> Vec<String> {
        let prefix = format!("ExperimentRun/dcid.{name}/");
        let listing = self.blob(&format!("azureml?restype=container&comp=list&prefix={prefix}"));
        let names = listing.split("<Name>").skip(1).filter_map(|rest| rest.split("</Name>").next());
        names.filter_map(|found| found.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    fn cancel(&self, name: &str) {
        self.azure.all(&[("POST", &format!("{ML}/jobs/{name}/cancel"), Value::Null)]);
    }
}

/// Processes of the host whose command line has `text`.
fn processes_with(text: &str) -> Vec<i32> {
    let has = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
    });
    common::all_processes().into_iter().filter(has).collect()
}

/// The agents of an environment's nodes.
fn agents(user: &User) -> Vec<i32> {
    let status = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    let helper = user.processes("default")["helper"].to_string();
    let is_agent = |pid: &i32| {
        let status = status(*pid);
        field(&status, "PPid:") == helper && field(&status, "Name:") == "moat-agent"
    };
    common::all_processes().into_iter().filter(is_agent).collect()
}

/// Every way a job may end, while its cluster comes from nothing and goes back to it.
fn life(user: &User, edition: &str) {
    let lab = Lab::up(
        user,
        &["--edition", edition],
        &[
            ("code/life.sh", include_str!("jobs/life.sh")),
            ("data/words.txt", "some words\n"),
            ("data/folder/below/a.txt", "a of the folder\n"),
        ],
    );
    lab.azure.cluster(json!({}));
    let input = |kind: &str, mode: &str, path: &str| json!({"jobInputType": kind, "mode": mode, "uri": format!("{STUFF}/{path}")});
    lab.submit(
        "good",
        "bash life.sh ${{inputs.words}} ${{inputs.folder}} ${{outputs.result}}",
        json!({
            "codeId": format!("{{sub}}{ML}/codes/code/versions/1"),
            "inputs": {"words": input("uri_file", "Download", "data/words.txt"),
                "folder": input("uri_folder", "ReadOnlyMount", "data/folder")},
            "outputs": {"result": {"jobOutputType": "uri_folder", "uri": format!("{STUFF}/result")}},
        }),
    );
    lab.submit("bad", "exit 3", json!({}));
    lab.submit("late", "sleep 1000", json!({"limits": {"jobLimitsType": "Command", "timeout": "PT1S"}}));
    // An argument that nobody else's process has.
    let rest = format!("sleep 1{:09}", std::process::id());
    lab.submit("unwanted", &format!("echo begun; {rest} & {rest}; wait"), json!({}));

    let good = lab.ended("good", "Completed");
    assert_eq!((&good["exitCode"], &good["attempt"]), (&json!(0), &json!(1)), "{good:#}");
    let said = ["I am good", "some words", "a of the folder", "a download may be changed", "a mount may not"];
    assert_eq!(lab.log("good").lines().collect::<Vec<_>>(), said);
    assert_eq!(lab.blob("azureml/ExperimentRun/dcid.good/outputs/deep/kept.txt"), "kept\n");
    assert_eq!(lab.blob("stuff/result/named.txt"), "named\n");
    assert_eq!(lab.blob("stuff/data/words.txt"), "some words\n", "what a job downloads is its own");

    let bad = lab.ended("bad", "Failed");
    assert_eq!((&bad["exitCode"], &bad["error"]["code"]), (&json!(3), &json!("UserError")), "{bad:#}");
    assert!(bad["error"]["message"].as_str().unwrap().contains("status code 3"), "{bad:#}");

    // Azure cancels what is over its limit.
    let late = lab.ended("late", "Canceled");
    assert_eq!(late["error"]["code"], "JobTimedOut", "{late:#}");
    assert!(late["error"]["message"].as_str().unwrap().contains("limit of 1 seconds"), "{late:#}");

    lab.until_logged("unwanted", "begun");
    assert!(!processes_with(&rest).is_empty(), "the test can see the processes of a job");
    lab.cancel("unwanted");
    let unwanted = lab.ended("unwanted", "Canceled");
    assert_eq!(unwanted["error"], Value::Null, "{unwanted:#}");
    assert_eq!(processes_with(&rest), [] as [i32; 0], "a cancelled job leaves no process");

    lab.azure.until("no nodes", |c| c["nodes"].as_array().unwrap().is_empty());
    assert_eq!(lab.azure.automatic(), [] as [String; 0]);
}

#[test]
fn a_job_lives_and_ends_in_2021() {
    each_user(|user| life(user, "2021-09"));
}

#[test]
fn a_job_lives_and_ends_today() {
    life(&User::new(None), "current");
}
