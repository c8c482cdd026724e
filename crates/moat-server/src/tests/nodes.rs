//! Nodes and their runs as the services see them: who may say what, and what a run's token opens.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use moat_agent::handshake::{
    ASSERTION_TYPE, Finding, Reach, RunAssertion, Status as NodeStatus, WorkAnswer, WorkAsk, report_code,
};
use moat_agent::spec::{RunSpec, Source};
use moat_agent::work::{Order, Outcome, Phase, RunReport, Ticket};
use moat_arm::{Batch, ResourceId, document};
use moat_control::schedule;
use moat_control::schedule::observed::NodeVerdict;
use moat_model::storage::sas;
use moat_model::types::microsoft_machinelearningservices::runs::{Run, Status};
use moat_model::types::microsoft_storage::storage_accounts;
use serde_json::{Value, json};

use super::Harness;
use super::client::Response;
use crate::random;
use crate::reconcile::desk::Agent;

/// A server with a workspace, a cluster of one idle node, and the agent of that node.
struct World {
    server: Harness,
    agent: Agent,
    workspace: ResourceId,
}

impl World {
    fn new() -> Self {
        let server = Harness::start();
        let group = format!("/subscriptions/{}/resourceGroups/ml", server.ready.environment.subscription);
        let workspace =
            ResourceId::parse(&format!("{group}/providers/Microsoft.MachineLearningServices/workspaces/ws1")).unwrap();
        let cluster = workspace.child("computes", "cpu");
        let node = cluster.child("nodes", "tvm1");
        let mut batch = Batch::default();
        batch.put(ResourceId::parse(&group).unwrap(), json!({"location": "westus2"}));
        batch.put(workspace.clone(), json!({"location": "westus2", "properties": {"workspaceId": "w-1"}}));
        batch.put(
            cluster,
            json!({"location": "westus2", "properties": {"computeType": "AmlCompute", "provisioningState": "Succeeded",
                "properties": {"vmSize": "STANDARD_D2_V2", "scaleSettings": {"minNodeCount": 1, "maxNodeCount": 1}}}}),
        );
        batch.put(node.clone(), json!({"properties": {"index": 0, "state": "idle", "privateIpAddress": "10.0.0.4"}}));
        server.ready.server.store.submit_blocking(move |_| (batch, ())).unwrap();
        let desk = &server.ready.server.desk;
        let agent = desk.enroll(&node, "10.0.0.4".parse().unwrap()).unwrap();
        desk.observed.send_modify(|o| drop(o.nodes.insert(node.key().to_owned(), NodeVerdict::Reachable)));
        let world = Self { server, agent, workspace };
        world.says(None);
        world
    }

    /// What the loop of clusters does, once.
    fn step(&self) {
        let server = &self.server.ready.server;
        let (observed, ctx) = (server.desk.observed.borrow().clone(), server.context(random::uuid()));
        server.store.submit_blocking(move |s| (schedule::step(s, &observed, &ctx), ())).unwrap();
    }

    fn job(&self, name: &str) -> ResourceId {
        self.workspace.child("jobs", name)
    }

    /// A job that waits for a node.
    fn submit(&self, name: &str) {
        let cluster = self.workspace.child("computes", "cpu").to_string();
        let mut body = json!({"properties": {"jobType": "Command", "computeId": cluster}});
        Run { cluster: Some(cluster), created: Some(Timestamp::now()), ..Run::default() }.put(&mut body);
        Status::Queued.put(&mut body);
        self.write(name, body);
        self.step();
    }

    fn put(&self, id: &str, version: &str, body: &Value) {
        let answer = self.server.arm("PUT", &format!("{id}?api-version={version}"), Some(body));
        assert!(answer.status < 300, "{id}: {}", answer.text());
    }

    /// The workspace gets a storage account; its id.
    fn have_storage(&self) -> String {
        let account = format!("{}/providers/Microsoft.Storage/storageAccounts/specacct", self.workspace.parent_group());
        let body = json!({"location": "westus2", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}});
        self.put(&account, "2023-05-01", &body);
        let body = json!({"location": "westus2", "properties": {"storageAccount": account}});
        self.put(self.workspace.as_str(), "2023-04-01", &body);
        account
    }

    /// A command job `j` with these properties that the node has taken; its token and where its specification is.
    fn begin(&self, more: Value) -> (String, String) {
        let environment = format!("{}/environments/e/versions/1", self.workspace);
        let image = json!({"properties": {"image": "mcr.microsoft.com/azureml/base:1"}});
        self.put(&environment, "2023-04-01", &image);
        let mut job = json!({"jobType": "Command", "command": "echo hi", "experimentName": "x",
            "computeId": self.workspace.child("computes", "cpu").as_str(), "environmentId": environment});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.put(self.job("j").as_str(), "2023-04-01", &json!({"properties": job}));
        assert_eq!(self.status("j"), Status::Starting, "{}", self.body("j"));
        (self.token("j"), self.events(self.workspace.as_str(), "j", 1).replace("/events", ""))
    }

    fn write(&self, name: &str, body: Value) {
        let mut batch = Batch::default();
        batch.put(self.job(name), body);
        self.server.ready.server.store.submit_blocking(move |_| (batch, ())).unwrap();
    }

    fn body(&self, name: &str) -> Value {
        self.server.ready.server.store.snapshot().get(&self.job(name)).unwrap().body.clone()
    }

    fn status(&self, name: &str) -> Status {
        self.step();
        Status::of(&self.body(name)).unwrap()
    }

    fn ticket(&self, name: &str, attempt: u32) -> Ticket {
        Ticket {
            run: name.to_owned(),
            workspace: self.workspace.to_string(),
            attempt,
            tenant: self.server.ready.environment.tenant.clone(),
            region: "westus2".to_owned(),
        }
    }

    fn report(&self, name: &str, phase: Phase, outcome: Option<Outcome>) -> RunReport {
        RunReport { ticket: self.ticket(name, 1), phase, outcome, warnings: Vec::new(), limits: None, log_begun: false }
    }

    fn node_status(run: Option<RunReport>) -> NodeStatus {
        NodeStatus { node_id: "tvm1".to_owned(), findings: Vec::new(), run }
    }

    /// In the management conversation.
    fn says(&self, run: Option<RunReport>) {
        self.server.ready.server.desk.heard(&self.agent, &Self::node_status(run));
    }

    fn asks(&self, run: Option<RunReport>) -> Option<Order> {
        let ask = WorkAsk::new(&self.agent.key, &Self::node_status(run)).unwrap();
        let answer = self.post_work("tvm1", &json!(ask));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer: WorkAnswer = serde_json::from_value(answer.json()).unwrap();
        answer.open(&self.agent.key, "tvm1", &ask).unwrap()
    }

    fn post_work(&self, node: &str, body: &Value) -> Response {
        let url = format!("westus2.service.batch.azure.com/nodes/{node}/work");
        self.server.call("POST", &url, &[], &body.to_string())
    }

    /// Asks for a token with a proof.
    fn prove(&self, proof: &RunAssertion) -> Response {
        let tenant = &self.server.ready.environment.tenant;
        let body = format!(
            "grant_type=client_credentials&client_id=tvm1&scope=https%3A%2F%2Fml.azure.com%2F.default\
             &client_assertion_type={}&client_assertion={}",
            ASSERTION_TYPE.replace(':', "%3A"),
            proof.encode().unwrap()
        );
        self.server.call("POST", &format!("login.microsoftonline.com/{tenant}/oauth2/v2.0/token"), &[], &body)
    }

    fn token(&self, name: &str) -> String {
        let answer = self.prove(&RunAssertion::new(&self.agent.key, "tvm1", &self.ticket(name, 1)).unwrap());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    fn with(&self, token: &str, method: &str, url: &str, body: &str) -> Response {
        self.server.call(method, url, &[("Authorization", &format!("Bearer {token}"))], body)
    }

    fn events(&self, workspace: &str, run: &str, attempt: u32) -> String {
        format!("westus2.api.azureml.ms/node/v1.0{workspace}/runs/{run}/attempts/{attempt}/events")
    }
}

#[test]
fn a_report_is_of_the_node_that_has_the_key() {
    let world = World::new();
    let url = "westus2.service.batch.azure.com/nodes/tvm1/status";
    let text = serde_json::to_string(&World::node_status(None)).unwrap();
    let post = |url: &str, text: &str, code: &str| {
        world.server.call("POST", url, &[], &json!({"status": text, "code": code}).to_string()).status
    };
    let code = report_code(&world.agent.key, "tvm1", &text);
    assert_eq!(post(url, &text, &code), 204);
    assert_eq!(post(url, &text, &report_code(b"other", "tvm1", &text)), 403);
    assert_eq!(post(url, &text.replace("[]", "[ ]"), &code), 403);
    assert_eq!(post(&url.replace("tvm1", "tvm2"), &text, &code), 403, "nobody knows that node");
    assert_eq!(world.server.call("POST", url, &[], "{}").status, 400);
    assert_eq!(world.server.call("GET", url, &[], "").status, 404);
    // A new start of the agent has a new key: what the one before says late is said by nobody.
    world.server.ready.server.desk.enroll(&world.agent.node, world.agent.address).unwrap();
    assert_eq!(post(url, &text, &code), 403);
}

#[test]
fn a_question_for_work_is_held_until_there_is_an_order() {
    let world = World::new();
    let other = WorkAsk::new(b"other", &World::node_status(None)).unwrap();
    assert_eq!(world.post_work("tvm1", &json!(other)).status, 403);
    assert_eq!(world.post_work("tvm1", &json!({})).status, 400);
    let order = std::thread::scope(|scope| {
        let asked = scope.spawn(|| world.asks(None));
        // Whether the job comes before or while the question waits, the answer is the same; so is a bound.
        let began = Instant::now();
        world.submit("j");
        let order = asked.join().unwrap();
        assert!(began.elapsed() < Duration::from_secs(8), "held although there was an order");
        order
    });
    assert_eq!(order, Some(Order::Start(world.ticket("j", 1))));
    world.says(Some(world.report("j", Phase::Running, None)));
    assert_eq!(world.status("j"), Status::Running);
    let ended = world.report("j", Phase::Ended, Some(Outcome::Exited { code: 0 }));
    world.says(Some(ended.clone()));
    assert_eq!(world.status("j"), Status::Finalizing);
    assert_eq!(world.asks(Some(ended)), Some(Order::Forget(world.ticket("j", 1))));
}

#[test]
fn events_tell_at_once_and_bring_back_orders() {
    let world = World::new();
    world.submit("j");
    world.says(Some(world.report("j", Phase::Accepted, None)));
    let token = world.token("j");
    let url = world.events(world.workspace.as_str(), "j", 1);
    let post = |report: &RunReport| world.with(&token, "POST", &url, &serde_json::to_string(report).unwrap());
    assert_eq!(post(&world.report("j", Phase::Running, None)).status, 204);
    assert_eq!(world.status("j"), Status::Running);
    assert_eq!(Run::of(&world.body("j")).log_begun, None);
    assert_eq!(post(&RunReport { log_begun: true, ..world.report("j", Phase::Running, None) }).status, 204);
    assert_eq!(world.status("j"), Status::Running);
    let begun = Run::of(&world.body("j")).log_begun;
    assert!(begun.is_some());
    // The slower way says something older.
    world.says(Some(world.report("j", Phase::Inputs, None)));
    assert_eq!(world.status("j"), Status::Running);
    assert_eq!(Run::of(&world.body("j")).log_begun, begun, "the first line comes once");
    let mut body = world.body("j");
    Status::CancelRequested.put(&mut body);
    world.write("j", body);
    let answer = post(&world.report("j", Phase::Running, None));
    let order: Order = serde_json::from_value(answer.json()["order"].clone()).unwrap();
    assert!(matches!(order, Order::Cancel { .. }), "{order:?}");
    assert_eq!(post(&world.report("j", Phase::Running, Some(Outcome::Canceled))).status, 204);
    assert_eq!(world.status("j"), Status::Canceled);
}

#[test]
fn an_unreached_service_is_explained_by_the_log_or_by_nothing() {
    let world = World::new();
    world.submit("j");
    let finding = Finding {
        label: "AzureActiveDirectory".to_owned(),
        address: Some("20.190.0.10".to_owned()),
        port: 443,
        source_port: Some(40_000),
        reach: Reach::Failed("no answer".to_owned()),
    };
    world.says(Some(world.report("j", Phase::Identity, Some(Outcome::Unreachable(finding)))));
    assert_eq!(world.status("j"), Status::Finalizing);
    let error = Run::of(&world.body("j")).error.unwrap();
    assert_eq!((error.code.as_str(), error.phase.as_str()), ("ServiceUnreachable", "identity"));
    insta::assert_snapshot!(error.message, @"In its phase 'identity': outbound TCP 443 to AzureActiveDirectory (20.190.0.10) did not get through (no answer); no rule of Moat's explains it");
}

#[test]
fn a_proof_is_good_once_for_the_run_that_the_node_has() {
    let world = World::new();
    let proof = |key: &[u8], ticket: &Ticket| RunAssertion::new(key, "tvm1", ticket).unwrap();
    let refused = |proof: &RunAssertion, why: &str| {
        let answer = world.prove(proof);
        assert_eq!((answer.status, answer.json()["error"].as_str()), (401, Some("invalid_client")), "{why}");
    };
    refused(&proof(&world.agent.key, &world.ticket("j", 1)), "before there is a run");
    world.submit("j");
    world.submit("other");
    let good = proof(&world.agent.key, &world.ticket("j", 1));
    refused(&proof(b"guessed", &world.ticket("j", 1)), "another key");
    refused(&proof(&world.agent.key, &world.ticket("j", 2)), "another attempt");
    refused(&proof(&world.agent.key, &world.ticket("other", 1)), "a run that waits");
    let elsewhere = Ticket { workspace: world.workspace.to_string().replace("ws1", "ws2"), ..world.ticket("j", 1) };
    refused(&proof(&world.agent.key, &elsewhere), "another workspace");
    assert_eq!(world.prove(&good).status, 200);
    refused(&good, "a second time");
    // Another start of the agent has another key, and does not have the run.
    let again = world.server.ready.server.desk.enroll(&world.agent.node, world.agent.address).unwrap();
    refused(&proof(&world.agent.key, &world.ticket("j", 1)), "the agent of before");
    refused(&proof(&again.key, &world.ticket("j", 1)), "an agent that was started anew");
}

#[test]
fn a_runs_token_opens_its_own_attempt_and_nothing_else() {
    let world = World::new();
    world.have_storage();
    world.submit("j");
    let (token, workspace) = (world.token("j"), world.workspace.to_string());
    let event = serde_json::to_string(&world.report("j", Phase::Running, None)).unwrap();
    let event_at = |url: &str| world.with(&token, "POST", url, &event).status;
    assert_eq!(event_at(&world.events(&workspace, "j", 1)), 204);
    assert_eq!(event_at(&world.events(&workspace, "j", 2)), 403, "another attempt");
    assert_eq!(event_at(&world.events(&workspace, "k", 1)), 403, "another run");
    assert_eq!(event_at(&world.events(&workspace.replace("ws1", "ws2"), "j", 1)), 403, "another workspace");
    let lie = event.replace("\"j\"", "\"k\"");
    assert_eq!(world.with(&token, "POST", &world.events(&workspace, "j", 1), &lie).status, 400);

    // Rights at ARM, storage and the vault: none, by the token's scope and its audience.
    let group = format!("management.azure.com{}?api-version=2024-11-01", world.workspace.parent_group());
    for (method, url) in [("PUT", group.as_str()), ("GET", group.as_str()), ("DELETE", group.as_str())] {
        assert!(matches!(world.with(&token, method, url, "{\"location\":\"westus2\"}").status, 401 | 403), "{url}");
    }
    let blob = world.with(&token, "GET", "specacct.blob.core.windows.net/azureml/ExperimentRun/dcid.j/b", "");
    assert!(matches!(blob.status, 401 | 403), "{}", blob.text());
    let computes = format!("westus2.api.azureml.ms/rp/workspaces{workspace}/computes?api-version=2020-02-02");
    assert_eq!(world.with(&token, "GET", &computes, "").status, 403);

    // Nobody else's token opens it, not even the environment's own: the answer holds signatures.
    let own = world.server.token("https://management.azure.com");
    assert_eq!(world.with(&own, "POST", &world.events(&workspace, "j", 1), &event).status, 403);

    // After the end it opens nothing.
    world.says(Some(world.report("j", Phase::Ended, Some(Outcome::Exited { code: 0 }))));
    world.step();
    assert_eq!(event_at(&world.events(&workspace, "j", 1)), 403, "after the end");
    let mut body = world.body("j");
    document::remove(&mut body, "moat.run.ended");
    document::set(&mut body, "moat.run.attempt", json!(2));
    Status::Running.put(&mut body);
    world.write("j", body);
    assert_eq!(event_at(&world.events(&workspace, "j", 1)), 403, "while the next attempt runs");
}

#[test]
fn a_specification_is_the_plan_with_signatures_of_its_own_prefixes() {
    let world = World::new();
    let account = world.have_storage();
    let (token, url) = world.begin(json!({
        "limits": {"jobLimitsType": "Command", "timeout": "PT1H"},
        "outputs": {"model": {"jobOutputType": "uri_folder"}},
    }));
    let answer = world.with(&token, "GET", &url, "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let spec: RunSpec = serde_json::from_value(answer.json()).unwrap();
    assert_eq!(spec.program, ["/bin/bash", "-c", "echo hi"]);
    assert_eq!(spec.environment.image.as_ref().unwrap().host, "mcr.microsoft.com");
    assert_eq!((spec.environment.folder.as_deref(), spec.limits.timeout_seconds), (None, Some(3600)));
    assert_eq!(
        (spec.artifacts.host.as_str(), spec.artifacts.prefix.as_str()),
        ("specacct.blob.core.windows.net", "ExperimentRun/dcid.j")
    );
    for part in ["sr=d", "sdd=2", "sp=racwl", "spr=https"] {
        assert!(spec.artifacts.sas.split('&').any(|p| p == part), "{part} is not in {}", spec.artifacts.sas);
    }
    let output = &spec.outputs[0];
    assert!(output.destination.sas.contains("sr=d") && output.path.ends_with("/model"), "{output:?}");
    // The account's keys stay where they are, and no log gets the signatures.
    let snapshot = world.server.ready.server.store.snapshot();
    let stored = snapshot.get(&ResourceId::parse(&account).unwrap()).unwrap();
    for key in storage_accounts::keys(&stored.body) {
        assert!(!answer.text().contains(&key.reveal()));
    }
    assert!(!format!("{spec:?}").contains("sig=") && !format!("{:?}", spec.artifacts).contains("sig="));
    // Only that attempt's token.
    assert_eq!(world.with(&token, "GET", &url.replace("attempts/1", "attempts/2"), "").status, 403);
    let own = world.server.token("https://management.azure.com");
    assert_eq!(world.with(&own, "GET", &url, "").status, 403);
}

#[test]
fn code_is_one_file_where_a_blob_has_that_very_name_and_a_folder_where_none_has() {
    let world = World::new();
    let account = ResourceId::parse(&world.have_storage()).unwrap();
    world.put(&format!("{account}/blobServices/default/containers/code"), "2023-05-01", &json!({"properties": {}}));
    let code = format!("{}/codes/c/versions/1", world.workspace);
    let uri = "https://specacct.blob.core.windows.net/code/one/train.py";
    world.put(&code, "2023-04-01", &json!({"properties": {"codeUri": uri}}));
    let (token, url) = world.begin(json!({"codeId": code}));
    let code = || {
        let answer = world.with(&token, "GET", &url, "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_value::<RunSpec>(answer.json()).unwrap().code.unwrap()
    };
    let key =
        storage_accounts::keys(&world.server.ready.server.store.snapshot().get(&account).unwrap().body)[0].clone();
    let upload = |name: &str| {
        let grant = sas::Grant {
            account: "specacct",
            container: "code",
            target: sas::Target::Blob(name),
            permissions: "cw",
            start: None,
            expiry: Timestamp::now() + jiff::SignedDuration::from_mins(5),
        };
        let url = format!("specacct.blob.core.windows.net/code/{name}?{}", sas::sign(&grant, &key));
        assert_eq!(world.server.call("PUT", &url, &[("x-ms-blob-type", "BlockBlob")], "pass").status, 201);
    };
    // What only begins with the name is no blob of the name.
    upload("one/train.py.bak");
    let Source::Folder(folder) = code() else { panic!("no such blob") };
    assert_eq!(folder.prefix, "one/train.py");
    upload("one/train.py");
    let Source::Files(files) = code() else { panic!("it is a blob") };
    assert_eq!((files.len(), files[0].path.as_str()), (1, "train.py"));
    let read = world.server.call("GET", &format!("{}{}", files[0].host, files[0].target), &[], "");
    assert_eq!((read.status, read.text()), (200, "pass".into()));
}

#[test]
fn registries_know_every_image_as_an_identity() {
    let world = World::new();
    let get = |url: &str| world.server.call("GET", url, &[], "");
    let manifest = get("mcr.microsoft.com/v2/azureml/openmpi4.1.0-ubuntu20.04/manifests/latest");
    assert_eq!((manifest.status, manifest.json()["layers"].clone()), (200, json!([])));
    let digest = manifest.header("docker-content-digest").unwrap().to_owned();
    let by_digest =
        |digest: &str| get(&format!("mcr.microsoft.com/v2/azureml/openmpi4.1.0-ubuntu20.04/manifests/{digest}"));
    assert_eq!(by_digest(&digest).status, 200);
    assert_eq!(by_digest(&digest.replace("sha256:", "sha256:0")).status, 404);
    assert_eq!(get("nobody.azurecr.io/v2/a/manifests/1").status, 404, "there is no such registry");
    assert_eq!(get("mcr.microsoft.com/v2/a/../b/manifests/1").status, 404);
    assert_eq!(world.server.call("PUT", "mcr.microsoft.com/v2/a/manifests/1", &[], "").status, 405);
}

trait Group {
    fn parent_group(&self) -> String;
}

impl Group for ResourceId {
    fn parent_group(&self) -> String {
        format!("/subscriptions/{}/resourceGroups/{}", self.subscription().unwrap(), self.resource_group().unwrap())
    }
}
