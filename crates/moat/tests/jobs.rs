//! Jobs on real nodes, end to end: a client uploads and submits, a node's own packets fetch and store, and a sandbox
//! runs what was asked. Needs user namespaces and a python3 with its standard library.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use common::azure::{Azure, ML, NET, until};
use common::{User, each_user, eventually, kill, lives};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const ACCOUNT: &str = "moatjobstore";
/// A container for code and data of the tests.
const STUFF: &str = "https://moatjobstore.blob.core.windows.net/stuff";
/// Another account: who stores something there has no connection to it from before.
const OTHER_ACCOUNT: &str = "moatjobresults";
/// A program that goes on until nothing of the node's gets through to storage any more.
const UNTIL_NO_STORAGE: &str = "echo begun; while timeout 5 bash -c '< /dev/tcp/moatjobstore.blob.core.windows.net/443' \
    2> /dev/null; do sleep 0.1; done; echo done > ${{outputs.result}}/done.txt";
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

    /// Members of a job that needs storage first in `phase`; in most, it does not matter what it needs.
    fn needing(&self, phase: &str) -> Value {
        match phase {
            "inputs" => {
                let one = json!({"jobInputType": "uri_file", "uri": format!("{STUFF}/data/one.txt")});
                json!({"inputs": {"one": one}})
            }
            "outputs" => {
                let account =
                    format!("/resourceGroups/mlrg/providers/Microsoft.Storage/storageAccounts/{OTHER_ACCOUNT}");
                let container = format!("https://{OTHER_ACCOUNT}.blob.core.windows.net/results");
                let body = json!({"location": "westus2", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}});
                self.azure
                    .all(&[("PUT", &account, body), ("PUT", &format!("{container}?restype=container"), json!(""))]);
                json!({"outputs": {"result": {"jobOutputType": "uri_folder", "uri": format!("{container}/of-job")}}})
            }
            _ => json!({"codeId": format!("{{sub}}{ML}/codes/code/versions/1")}),
        }
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

/// A command that does not end, with an argument that no other process has: of no other test either.
fn endless() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("sleep 1{:07}{:03}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Processes of the host whose command line has `text`.
fn processes_with(text: &str) -> Vec<i32> {
    let has = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).replace('\0', " ").contains(text))
    };
    common::all_processes().into_iter().filter(has).collect()
}

/// The agents of an environment's nodes.
fn agents(user: &User) -> Vec<i32> {
    let status = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field =
        |text: &str, name: &str| text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned();
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
    let rest = endless();
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

/// A service that is denied once a node is idle and has run a job: the jobs after that fail in the phases that need
/// it, and their errors and the flow log name the rule.
fn denied(edition: &str, tag: &str, service: &str, phases: &[&str]) {
    let user = User::new(None);
    let lab =
        Lab::up(&user, &["--edition", edition], &[("code/main.sh", "echo code ran\n"), ("data/one.txt", "data\n")]);
    lab.standing("cpucluster", 1);
    // Connections that an earlier job opened must not carry a later one past a rule.
    lab.submit("before", "bash main.sh", lab.needing("code"));
    let before = lab.ended("before", "Completed");
    // What is to fail at its end is under way when the rule comes.
    if phases.contains(&"outputs") {
        lab.submit("outputs", UNTIL_NO_STORAGE, lab.needing("outputs"));
        lab.until_logged("outputs", "begun");
    }
    lab.azure.deny("DenyService", 200, "Outbound", "*", tag, "443");
    for phase in phases {
        if *phase != "outputs" {
            lab.submit(phase, "true", lab.needing(phase));
        }
        let job = lab.ended(phase, "Failed");
        assert_eq!(job["node"], before["node"], "the node that was idle takes it: {job:#}");
        assert_eq!(job["error"]["code"], "ServiceUnreachable", "{job:#}");
        assert_eq!(job["error"]["phase"], *phase, "{job:#}");
        let message = job["error"]["message"].as_str().unwrap();
        assert!(message.contains(&format!("outbound TCP 443 to {service}")), "{message}");
        assert!(message.contains("'DenyService' (priority 200)") && message.contains("'trainnsg'"), "{message}");
    }
    let address = lab.nodes("cpucluster")[0]["privateIpAddress"].clone();
    let flows = user.run(&["flows", "-o", "json"]).succeeded().out;
    let mut flows = flows.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let dropped = flows.find(|f| f["rule"] == "trainnsg/DenyService" && f["source"] == address);
    assert_eq!(dropped.unwrap()["destinationPort"], 443);
}

#[test]
fn without_active_directory_a_job_fails_at_its_identity() {
    denied("2021-09", "AzureActiveDirectory", "AzureActiveDirectory", &["identity"]);
}

#[test]
fn without_machine_learning_a_job_fails_at_its_specification() {
    denied("current", "AzureMachineLearning", "AzureMachineLearning", &["specification"]);
}

#[test]
fn without_the_registry_a_job_fails_at_its_image() {
    denied("2021-09", "MicrosoftContainerRegistry", "MicrosoftContainerRegistry", &["image"]);
}

#[test]
fn without_storage_a_job_fails_wherever_it_is() {
    denied("current", "Storage.WestUS2", "Storage.westus2", &["outputs", "code", "inputs"]);
}

#[test]
fn a_job_waits_while_no_node_can_start() {
    let user = User::new(None);
    let lab = Lab::up(&user, &["--edition", "2021-09"], &[]);
    // Before there is a node: what a node needs to start is denied.
    lab.azure.deny("DenyStorage", 200, "Outbound", "*", "Storage.WestUS2", "443");
    lab.azure.cluster(json!({}));
    lab.submit("patient", "echo fine", json!({}));
    let broken = lab.azure.until_states("unusable", 1);
    assert!(broken["errors"].to_string().contains("'DenyStorage' (priority 200)"), "{broken:#}");
    let waiting = lab.job("patient");
    assert_eq!((&waiting["status"], &waiting["attempt"]), (&json!("Queued"), &json!(0)), "{waiting:#}");
    lab.azure.all(&[(
        "DELETE",
        &format!("{NET}/networkSecurityGroups/trainnsg/securityRules/DenyStorage"),
        Value::Null,
    )]);
    let patient = lab.ended("patient", "Completed");
    assert_eq!(patient["attempt"], 1, "the wait was no attempt: {patient:#}");
}

/// What a script printed as JSON lines: what it tried, and what came of it.
fn attempts(log: &str) -> BTreeMap<String, String> {
    let said = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        Some((line["what"].as_str()?.to_owned(), line["said"].as_str()?.to_owned()))
    };
    log.lines().filter_map(said).collect()
}

#[test]
fn a_job_reaches_nothing_that_is_not_its_own() {
    // Where there are no control groups for it, limits are what is hardest.
    let user = User::ordinary();
    let lab = Lab::up(
        &user,
        &["--edition", "2021-09", "--job-disk", "64M"],
        &[("code/attempts.py", include_str!("jobs/attempts.py")), ("code/bomb.py", include_str!("jobs/bomb.py"))],
    );
    lab.standing("cpucluster", 1);
    lab.standing("other", 1);
    let code = json!({"codeId": format!("{{sub}}{ML}/codes/code/versions/1")});
    let address = |cluster: &str| lab.nodes(cluster)[0]["privateIpAddress"].as_str().unwrap().to_owned();
    // Neighbours meet the rules too: one management port of the other node is closed to them, one is open.
    lab.azure.deny("DenyNeighbours", 150, "Inbound", "10.0.0.0/24", "*", "44224");

    // A run of another node, under way while its neighbour tries.
    let mut victim = code.clone();
    victim["computeId"] = json!(format!("{{sub}}{ML}/computes/other"));
    lab.submit("victim", "python3 attempts.py '{}'; echo here; sleep 1000", victim);
    lab.until_logged("victim", "here");
    let other_who = attempts(&lab.log("victim"))["who"].clone();

    // One that leaves things, and links that lead out of where its outputs are taken from.
    let leaving = "touch left-behind /tmp/left-behind /dev/shm/left-behind outputs/fine; ln -s /etc/passwd outputs/users; \
                   ln -s ../../../../.. outputs/up; rmdir logs; ln -s /etc logs; rm -rf $OUT; ln -s /etc $OUT; true";
    let leaving = leaving.replace("$OUT", "${{outputs.result}}");
    let output = json!({"jobOutputType": "uri_folder", "uri": format!("{STUFF}/result")});
    lab.submit("leaver", &leaving, json!({"outputs": {"result": output}}));
    let leaver = lab.ended("leaver", "Completed");
    let kept = lab.artifacts("leaver");
    assert!(kept.contains(&"outputs/fine".to_owned()), "{kept:?}");
    assert!(kept.iter().all(|name| name == "outputs/fine" || name.contains("_logs/")), "{kept:?}");
    let warned = leaver["warnings"].to_string();
    assert!(warned.contains("`users` in the folder `outputs` was left out: it is a link"), "{warned}");
    assert!(!lab.blob("stuff?restype=container&comp=list&prefix=result").contains("<Name>"));

    let world: Value =
        serde_json::from_slice(&std::fs::read(user.state().join("default/world.json")).unwrap()).unwrap();
    let port: u16 = world["url"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), "the server listens where the job looks for it");
    let control = user.state().join("default/control.sock");
    assert!(control.exists(), "the socket is where the job looks for it");
    let variables = lab.azure.send(&[("GET", "", Value::Null)]);
    let subscription = variables[0]["body"]["id"].as_str().unwrap().to_owned();
    let given = json!({
        "victim": "victim", "other": address("other"), "other who": other_who, "left": "left-behind", "port": port,
        "control": control, "files": [user.state(), user.home(), user.moat, "/root", "/home", "/var/lib", "/run/moat"],
        "tenant": variables[0]["body"]["tenantId"], "group": format!("{subscription}/resourcegroups/stolen?api-version=2021-04-01"),
        "workspace": format!("{subscription}{ML}"), "region": REGION, "blobs": STUFF,
    });
    lab.submit("thief", &format!("python3 attempts.py '{given}'"), code.clone());
    let thief = lab.ended("thief", "Completed");
    assert_eq!(thief["node"], leaver["node"], "the test can fail: {thief:#}");
    let mut came = attempts(&lab.log("thief"));
    let who = came.remove("who").unwrap();
    assert!(who.len() == 36 && who != other_who, "each node has an identity of its own: {who} {other_who}");
    let freely = came.remove("the other's address, freely").unwrap();
    assert!(["ENETUNREACH", "EINVAL", "no answer"].contains(&freely.as_str()), "{freely}");
    let expected = [
        ("host files", "[]"),
        ("host names", "[]"),
        ("control socket", "ENOENT"),
        ("abstract sockets", "[]"),
        ("host's loopback", "ECONNREFUSED"),
        ("processes", "['python3']"),
        ("what the last job left", "[]"),
        ("fill .", "ENOSPC"),
        ("fill /tmp", "ENOSPC"),
        ("who, asking for the other", "400"),
        ("who, forwarded", "400"),
        ("the other's address", "EADDRNOTAVAIL"),
        ("raw socket", "EPERM"),
        ("packet socket", "EAFNOSUPPORT"),
        ("the other's open port", "connected"),
        ("the other's closed port", "no answer"),
        ("ARM as the node", "403"),
        ("ARM as the run", "401"),
        ("storage as the run", "401"),
        ("wider by client assertion", "400"),
        ("wider as the node", "400"),
        ("wider on behalf of", "400"),
        ("own run", "True"),
        ("own tags", "True"),
        ("own token", "True"),
        ("own metrics", "[]"),
        ("own artifact", "True"),
        ("own specification", "True"),
        ("other's run", "403"),
        ("other's tags", "403"),
        ("other's token", "403"),
        ("other's metrics", "403"),
        ("other's artifact", "403"),
        ("other's specification", "403"),
        ("other's end", "403"),
    ];
    let expected = expected.map(|(what, said)| (what.to_owned(), said.to_owned()));
    assert_eq!(came, BTreeMap::from(expected));
    assert_eq!(lab.job("victim")["status"], "Running", "nobody ended it");

    // A fork bomb is bounded, ends when it is told to, and its node goes on.
    let mark = format!("bomb.py {}", lab.user().state().display());
    lab.submit("bomb", &format!("python3 {mark}"), code);
    lab.until_logged("bomb", "refused after");
    lab.cancel("bomb");
    let bomb = lab.ended("bomb", "Canceled");
    assert_eq!((&bomb["attempt"], &bomb["node"]), (&json!(1), &thief["node"]), "{bomb:#}");
    assert_eq!(processes_with(&mark), [] as [i32; 0]);
    lab.submit("after", "echo fine", json!({}));
    let after = lab.ended("after", "Completed");
    assert_eq!((&after["attempt"], &after["node"]), (&json!(1), &thief["node"]), "{after:#}");
}

/// What is killed while a job runs: the agent of its node, then everything.
fn lost(edition: &str) {
    let user = User::new(None);
    let lab = Lab::up(&user, &["--edition", edition], &[("data/order.txt", "wait\n")]);
    lab.standing("cpucluster", 1);
    let rest = endless();
    let input = json!({"order": {"jobInputType": "uri_file", "uri": format!("{STUFF}/data/order.txt")}});
    let command =
        format!("echo begun by $(cat ${{{{inputs.order}}}}); grep -q wait ${{{{inputs.order}}}} && {rest}; echo over");
    lab.submit("steady", &command, json!({"inputs": input}));
    lab.until_logged("steady", "begun by wait\n");

    // The agent: its job ends with it, and is given to the next one.
    lab.upload(&[("data/order.txt", "wait again\n")]);
    let first = processes_with(&rest);
    assert!(!first.is_empty(), "the test can see the processes of a job");
    let agents = agents(&user);
    assert_eq!(agents.len(), 1, "{agents:?}");
    kill(agents[0], Signal::SIGKILL);
    eventually("the processes of the lost attempt end", || !first.iter().any(|pid| lives(*pid)));
    lab.until_logged("steady", "begun by wait again\n");
    let steady = lab.job("steady");
    assert_eq!((&steady["attempt"], &steady["status"]), (&json!(2), &json!("Running")), "{steady:#}");
    let warnings = steady["warnings"].to_string();
    assert!(warnings.contains("Attempt 1 was cut off: the agent of the node"), "{warnings}");

    // The world: a job that ran is queued again and ends; one that was asked to end has ended.
    lab.upload(&[("data/order.txt", "go\n")]);
    user.killed_and_up("init", &["--edition", edition]);
    let steady = lab.ended("steady", "Completed");
    assert_eq!((&steady["attempt"], &steady["exitCode"]), (&json!(3), &json!(0)), "{steady:#}");
    let warnings = steady["warnings"].to_string();
    assert!(warnings.contains("Attempt 2 was cut off: the environment was started again"), "{warnings}");
    let said = ["begun by wait", "begun by wait again", "begun by go", "over"];
    assert_eq!(lab.log("steady").lines().collect::<Vec<_>>(), said, "one log, attempt after attempt");

    lab.submit("unwanted", &format!("trap '' TERM; echo begun; {rest}"), json!({}));
    lab.until_logged("unwanted", "begun");
    lab.cancel("unwanted");
    user.killed_and_up("server", &["--edition", edition]);
    let unwanted = lab.ended("unwanted", "Canceled");
    assert_eq!((&unwanted["attempt"], &unwanted["error"]), (&json!(1), &Value::Null), "{unwanted:#}");
    eventually("no process of any attempt", || processes_with(&rest).is_empty());
}

#[test]
fn a_job_survives_its_node_and_its_world_in_2021() {
    lost("2021-09");
}

#[test]
fn a_job_survives_its_node_and_its_world_today() {
    lost("current");
}
