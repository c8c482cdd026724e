//! The regional Machine Learning endpoint as azureml-core, azure-ai-ml and MLflow call it, and as a job with its own
//! token must not be able to.

use std::sync::Arc;

use moat_arm::{Batch, ResourceId};
use moat_model::types::microsoft_machinelearningservices::runs::{Kind, Run, Status};
use serde_json::{Value, json};

use super::Harness;
use super::client::Response;

const HOST: &str = "westus2.api.azureml.ms";

/// A server with a workspace and its storage account.
struct Lab {
    server: Harness,
    workspace: String,
    token: String,
}

impl Lab {
    fn new() -> Self {
        Self::with(Harness::start())
    }

    fn with(server: Harness) -> Self {
        let subscription = server.ready.environment.subscription.clone();
        let group = format!("/subscriptions/{subscription}/resourceGroups/g");
        let have = |path: &str, body: Value| {
            let made = server.arm("PUT", &format!("{path}?api-version=2024-10-01"), Some(&body));
            assert!(made.status < 300, "{path}: {}", made.text());
        };
        have(&group, json!({"location": "westus2"}));
        let account = format!("{group}/providers/Microsoft.Storage/storageAccounts/moatstor1");
        have(
            &account,
            json!({"location": "westus2", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}, "properties": {}}),
        );
        let ml = format!("{group}/providers/Microsoft.MachineLearningServices/workspaces");
        for name in ["wsp", "other"] {
            have(&format!("{ml}/{name}"), json!({"location": "westus2", "properties": {"storageAccount": account}}));
        }
        let token = server.token("https://management.azure.com");
        Self { server, workspace: format!("{ml}/wsp"), token }
    }

    /// `METHOD service path` below the workspace, as the environment's principal.
    fn ask(&self, line: &str, body: &Value) -> Response {
        self.ask_as(&self.token, line, body)
    }

    fn ask_as(&self, token: &str, line: &str, body: &Value) -> Response {
        let mut words = line.splitn(3, ' ');
        let (method, service, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let url = format!("{HOST}/{service}{}/{rest}", self.workspace);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.server.call(method, &url, &[("Authorization", &format!("Bearer {token}"))], &body)
    }

    fn get(&self, line: &str) -> Value {
        let answer = self.ask(&format!("GET {line}"), &Value::Null);
        assert_eq!(answer.status, 200, "{line}: {}", answer.text());
        answer.json()
    }

    fn post(&self, line: &str, body: Value) -> Value {
        let answer = self.ask(&format!("POST {line}"), &body);
        assert!(matches!(answer.status, 200 | 207), "{line}: {}", answer.text());
        answer.json()
    }

    /// What the scheduler would write.
    fn have_run(&self, name: &str, edit: impl FnOnce(&mut Run, &mut Value)) {
        let id = ResourceId::parse(&self.workspace).unwrap().child("jobs", name);
        let before = self.server.ready.server.store.snapshot().get(&id).map(|d| d.body.clone());
        let mut body = before.unwrap_or_else(|| {
            let mut body = json!({"properties": {"experimentName": "exp", "command": "python x.py"}});
            Run { kind: Kind::Command, uuid: format!("uuid-{name}"), number: 1, attempt: 1, ..Run::default() }
                .put(&mut body);
            Status::Running.put(&mut body);
            body
        });
        let mut run = Run::of(&body);
        edit(&mut run, &mut body);
        run.put(&mut body);
        let mut batch = Batch::default();
        batch.put(id, body);
        self.server.ready.server.store.submit_blocking(move |_| (batch, ())).unwrap();
    }

    fn run_token(&self, run: &str, workspace: &str) -> String {
        self.server.minted(|claims| {
            claims.aud = "https://ml.azure.com".to_owned();
            claims.oid = "11111111-0000-0000-0000-000000000000".to_owned();
            claims.moat_run = Some(run.to_owned());
            claims.moat_workspace = Some(workspace.to_owned());
            claims.moat_attempt = Some(1);
        })
    }
}

/// Status and MLflow's error code.
fn mlflow_refusal(answer: &Response) -> (u16, String) {
    (answer.status, answer.json()["error_code"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn mlflow_makes_a_run_logs_and_finds_it_again_after_a_restart() {
    let lab = Lab::new();
    let m = "mlflow/v2.0";
    let p = "api/2.0/mlflow";
    let mut made = lab.post(&format!("{m} {p}/experiments/create"), json!({"name": "exp one"}));
    let experiment = made["experiment_id"].take();
    let again = lab.ask(&format!("POST {m} {p}/experiments/create"), &json!({"name": "Exp One"}));
    assert_eq!(mlflow_refusal(&again), (400, "RESOURCE_ALREADY_EXISTS".to_owned()));
    let found = lab.get(&format!("{m} {p}/experiments/get-by-name?experiment_name=exp%20one"));
    assert_eq!(found["experiment"]["experiment_id"], experiment);

    let run = lab.post(
        &format!("{m} {p}/runs/create"),
        json!({"experiment_id": experiment, "start_time": "1700000000000", "run_name": "first", "tags": [{"key": "a", "value": "b"}]}),
    );
    let id = run["run"]["info"]["run_id"].as_str().unwrap().to_owned();
    assert_eq!(run["run"]["info"]["status"], "RUNNING");
    assert_eq!(run["run"]["info"]["start_time"], 1_700_000_000_000_i64);
    for (step, value) in [(0, json!(0.5)), (1, json!(0.25)), (2, json!("NaN"))] {
        lab.post(
            &format!("{m} {p}/runs/log-metric"),
            json!({"run_id": id, "key": "loss", "value": value, "step": step, "timestamp": 10}),
        );
    }
    lab.post(
        &format!("{m} {p}/runs/log-batch"),
        json!({"run_id": id, "metrics": [{"key": "acc", "value": 0.9, "timestamp": "20", "step": "3"}],
            "params": [{"key": "lr", "value": "0.1"}], "tags": [{"key": "mlflow.runName", "value": "renamed"}]}),
    );
    let changed =
        lab.ask(&format!("POST {m} {p}/runs/log-parameter"), &json!({"run_id": id, "key": "lr", "value": "0.2"}));
    assert_eq!(mlflow_refusal(&changed), (400, "INVALID_PARAMETER_VALUE".to_owned()));
    let dataset = json!({"run_id": id, "datasets": [{"dataset": {"name": "iris", "digest": "d1", "source": "s", "source_type": "local"}}]});
    lab.post(&format!("{m} {p}/runs/log-inputs"), dataset);
    lab.post(&format!("{m} {p}/runs/set-tag"), json!({"run_id": id, "key": "t", "value": "v"}));
    lab.post(&format!("{m} {p}/runs/delete-tag"), json!({"run_id": id, "key": "a"}));
    let info = lab.post(
        &format!("{m} {p}/runs/update"),
        json!({"run_id": id, "status": "FINISHED", "end_time": 1_700_000_001_000_i64}),
    );
    assert_eq!(info["run_info"]["end_time"], 1_700_000_001_000_i64);

    // The same directory, another process's life.
    let (dir, workspace) = (lab.server.dir.clone(), lab.workspace.clone());
    drop(lab);
    let server = Harness::start_in(Arc::clone(&dir));
    let token = server.token("https://management.azure.com");
    let lab = Lab { server, workspace, token };
    let run = lab.get(&format!("{m} {p}/runs/get?run_id={id}"));
    let data = &run["run"]["data"];
    assert_eq!(run["run"]["info"]["status"], "FINISHED");
    assert_eq!(run["run"]["info"]["run_name"], "renamed");
    assert_eq!(data["params"], json!([{"key": "lr", "value": "0.1"}]));
    assert_eq!(data["metrics"][0], json!({"key": "acc", "value": 0.9, "timestamp": 20, "step": 3}));
    assert_eq!(data["metrics"][1]["value"], "NaN");
    let tags: Vec<&str> = data["tags"].as_array().unwrap().iter().map(|t| t["key"].as_str().unwrap()).collect();
    assert_eq!(tags, ["mlflow.runName", "t"]);
    assert_eq!(run["run"]["inputs"]["dataset_inputs"][0]["dataset"]["name"], "iris");
    let history = lab.get(&format!("{m} {p}/metrics/get-history?run_id={id}&metric_key=loss&max_results=2"));
    assert_eq!(history["metrics"].as_array().unwrap().len(), 2);
    let token = history["next_page_token"].as_str().unwrap();
    let rest = lab.get(&format!("{m} {p}/metrics/get-history?run_id={id}&metric_key=loss&page_token={token}"));
    assert_eq!((rest["metrics"].as_array().unwrap().len(), &rest["next_page_token"]), (1, &Value::Null));
    let search = |filter: &str| {
        let body = json!({"experiment_ids": [experiment], "filter": filter, "order_by": ["metrics.acc DESC"]});
        lab.post(&format!("{m} {p}/runs/search"), body)["runs"].as_array().unwrap().len()
    };
    assert_eq!((search("metrics.acc > 0.8 and params.lr = '0.1'"), search("metrics.acc > 0.95")), (1, 0));
    // One truth: the run history and ARM show the same run.
    assert_eq!(lab.get(&format!("history/v1.0 runs/{id}"))["status"], "Completed");
    assert_eq!(lab.get(&format!("history/v1.0 runs/{id}"))["parameters"]["lr"], "0.1");
}

#[test]
fn what_mlflow_may_not_or_cannot_do_is_said_in_its_words() {
    let lab = Lab::new();
    let ask = |line: &str, body: Value| mlflow_refusal(&lab.ask(line, &body));
    let p = "mlflow/v2.0 api/2.0/mlflow";
    assert_eq!(
        ask(&format!("GET {p}/runs/get?run_id=absent"), Value::Null),
        (404, "RESOURCE_DOES_NOT_EXIST".to_owned())
    );
    assert_eq!(ask(&format!("GET {p}/runs/get"), Value::Null), (400, "INVALID_PARAMETER_VALUE".to_owned()));
    assert_eq!(ask(&format!("POST {p}/logged-models"), json!({})), (404, "ENDPOINT_NOT_FOUND".to_owned()));
    let search = json!({"experiment_ids": [], "filter": "metrics.a > 1 or metrics.a < 0"});
    assert_eq!(ask(&format!("POST {p}/runs/search"), search), (400, "INVALID_PARAMETER_VALUE".to_owned()));
    let many: Vec<Value> = (0..1_001).map(|n| json!({"key": n.to_string(), "value": 1})).collect();
    let batch = json!({"run_id": "absent", "metrics": many});
    assert_eq!(ask(&format!("POST {p}/runs/log-batch"), batch), (400, "INVALID_PARAMETER_VALUE".to_owned()));
}

#[test]
fn azureml_core_logs_and_reads_metrics_of_every_kind_it_has() {
    let lab = Lab::new();
    lab.have_run("r1", |_, _| {});
    let metric = |name: &str, kind: &str, columns: Value, rows: Vec<Value>| {
        let value: Vec<Value> = rows
            .into_iter()
            .enumerate()
            .map(|(n, data)| json!({"metricId": format!("{name}{n}"), "createdUtc": "2026-11-25T03:00:00Z", "step": n, "data": data}))
            .collect();
        json!({"name": name, "columns": columns, "value": value, "properties": {"uxMetricType": format!("azureml.v1.{kind}")}})
    };
    let values = json!({"values": [
        metric("acc", "scalar", json!({"acc": "double"}), vec![json!({"acc": 0.9})]),
        metric("n", "scalar", json!({"n": "int"}), vec![json!({"n": 3})]),
        metric("word", "scalar", json!({"word": "string"}), vec![json!({"word": "1"})]),
        metric("table", "table", json!({"a": "int", "b": "string"}), vec![json!({"a": 1, "b": "x"}), json!({"a": 2, "b": "y"})]),
    ], "reportErrors": true});
    assert_eq!(lab.post("metric/v2.0 runs/r1/batch", values.clone())["errors"], json!([]));
    // Sent again because the answer was lost: nothing counts twice.
    lab.post("metric/v2.0 runs/r1/batch", values);
    let names = lab.post("metric/v2.0 runs/r1/list", json!({}));
    let names: Vec<&str> =
        names["value"].as_array().unwrap().iter().map(|m| m["metricKey"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["acc", "n", "word", "table"]);
    let rows = |name: &str| {
        let full = lab.post("metric/v2.0 runs/r1/full", json!({"metricName": name}));
        full["value"].as_array().unwrap().iter().map(|v| v["data"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(rows("acc"), [json!({"acc": 0.9})]);
    assert_eq!(rows("n"), [json!({"n": 3})], "a whole number stays one");
    assert_eq!(rows("word"), [json!({"word": "1"})], "a text stays one");
    assert_eq!(rows("table"), [json!({"a": 1, "b": "x"}), json!({"a": 2, "b": "y"})]);
    assert_eq!(lab.ask("POST metric/v2.0 runs/r1/full", &json!({"metricName": "absent"})).status, 404);
    let bad = lab.ask("POST metric/v2.0 runs/r1/batch", &json!({"values": [{"name": "x", "value": []}]}));
    assert_eq!(
        (bad.status, bad.json()["errors"][0]["errorResponse"]["error"]["code"].as_str()),
        (207, Some("BadArgument"))
    );
    // MLflow sees the numbers.
    let run = lab.get("mlflow/v2.0 api/2.0/mlflow/runs/get?run_id=r1");
    assert_eq!(run["run"]["data"]["metrics"].as_array().unwrap().len(), 2);
}

#[test]
fn a_run_made_by_hand_lives_by_its_events_and_is_found_by_queries() {
    let lab = Lab::new();
    let missing = lab.ask("GET history/v1.0 experiments/manual", &Value::Null);
    assert_eq!(missing.refusal(), (404, "ExperimentNotFound".to_owned()));
    assert!(missing.json()["correlation"].is_object(), "azureml-core reads a RootError: {}", missing.text());
    let experiment = lab.post("history/v1.0 experiments/manual", Value::Null);
    let id = experiment["experimentId"].as_str().unwrap();
    let change = json!({"runId": "byhand", "displayName": "shown", "tags": {"a": "b"}, "status": "NotStarted"});
    let made = lab.ask(&format!("PATCH history/v1.0 experimentids/{id}/runs/byhand"), &change);
    assert_eq!((made.status, made.json()["status"].as_str()), (200, Some("NotStarted")), "{}", made.text());
    let event = |name: &str| json!({"name": format!("Microsoft.MachineLearning.Run.{name}"), "timestamp": "2026-11-25T03:00:00Z", "data": {"RunId": "byhand"}});
    lab.post("history/v1.0 experiments/manual/runs/byhand/events", event("Start"));
    lab.post("history/v1.0 experiments/manual/runs/byhand/events", event("Completed"));
    assert_eq!(lab.get("history/v1.0 runs/byhand/details")["status"], "Completed");
    let query = |filter: &str| {
        let found = lab.post("history/v1.0 experiments/manual/runs:query", json!({"filter": filter}));
        found["value"].as_array().unwrap().len()
    };
    assert_eq!((query("(Status eq Completed) and (Tags/a eq b)"), query("Status eq Failed")), (1, 0));
    assert_eq!(lab.ask("POST history/v1.0 experiments/manual/runs:query", &json!({"filter": "x y z"})).status, 400);
    let archived = lab.ask("PATCH history/v1.0 experiments/manual/runs/byhand", &json!({"hidden": true}));
    assert_eq!(archived.json()["hidden"], true);
    assert_eq!(query(""), 0, "put away");
    let data = lab.post("history/v1.0 rundata", json!({"runId": "byhand", "selectRunMetadata": true}));
    assert_eq!(data["runMetadata"]["displayName"], "shown");
    assert_eq!(lab.ask("PATCH history/v1.0 experiments/manual/runs/typo", &json!({"hidden": true})).status, 404);
}

#[test]
fn named_outputs_of_a_completed_run_are_assets_that_say_where_they_lie() {
    let lab = Lab::new();
    let have = |name: &str, status: Status| {
        lab.have_run(name, |_, body| {
            status.put(body);
            body["properties"]["outputs"] = json!({
                "model": {"jobOutputType": "custom_model"},
                "table_output_data_1": {"jobOutputType": "uri_folder", "uri": "azureml://datastores/other/paths/a/b"},
            });
        });
        lab.post("history/v1.0 rundata", json!({"runId": name}))["runMetadata"]["outputs"].clone()
    };
    let outputs = have("r1_output_data_2", Status::Completed);
    assert_eq!((&outputs["model"]["type"], outputs.as_object().unwrap().len()), (&json!("CustomModel"), 2));
    let id = |name: &str| outputs[name]["assetId"].as_str().unwrap().to_owned();
    let datastores = format!("azureml:/{}/datastores", lab.workspace)
        .replace("/providers/Microsoft.MachineLearningServices", "")
        .replace("resourceGroups", "resourcegroups");
    let models = lab.post("modelregistry/v1.0 models/batchGetResolvedUris", json!({"values": [id("model"), "none"]}));
    let path = format!("{datastores}/workspaceblobstore/paths/azureml/r1_output_data_2/model/");
    assert_eq!(models["values"], json!({(id("model")): {"path": path, "type": "CustomModel"}}));
    let table = id("table_output_data_1");
    let data = lab.post("data/v1.0 dataversion/batchGetResolvedUris", json!({ "values": [table] }));
    assert_eq!(
        data["values"],
        json!({(table): {"uri": format!("{datastores}/other/paths/a/b"), "type": "uri_folder"}})
    );
    assert_eq!(have("r2", Status::Failed), json!({}), "nothing is registered for a run that failed");
}

#[test]
fn a_run_that_waits_to_be_seen_is_seen_by_whoever_streams() {
    let lab = Lab::new();
    lab.have_run("r1", |run, body| {
        Status::Finalizing.put(body);
        run.verdict = Some(Status::Completed);
    });
    let seen = || {
        let id = ResourceId::parse(&lab.workspace).unwrap().child("jobs", "r1");
        Run::of(&lab.server.ready.server.store.snapshot().get(&id).unwrap().body).log_seen
    };
    lab.get("history/v1.0 runs/r1");
    assert!(!seen(), "looking at the run is not streaming its log");
    assert_eq!(lab.get("history/v1.0 runs/r1/details?api-version=v1.0")["status"], "Finalizing");
    assert!(seen());
}

#[test]
fn code_goes_to_addresses_for_one_file_each_and_unchanged_files_stay() {
    let lab = Lab::new();
    let latest = lab.get("content/v1.0 snapshots/latest/metadata");
    assert_eq!(latest["id"], "00000000-0000-0000-0000-000000000000");
    let nodes = lab.post("content/v2.0 snapshots/getblob", json!({"FileNames": ["t.py", "lib/a b.py"]}));
    let uri = |n: usize| nodes["fileNodes"][n]["blobUri"].as_str().unwrap().to_owned();
    assert!(
        uri(0).starts_with("https://moatstor1.blob.core.windows.net/snapshots/") && uri(0).contains("sr=b"),
        "{}",
        uri(0)
    );
    let file = |name: &str| json!({"name": name, "type": "File", "hash": "h", "children": {}});
    let tree = json!({"name": "", "type": "Directory", "children": {
        "t.py": file("t.py"), "lib": {"name": "lib", "type": "Directory", "children": {"a b.py": file("a b.py")}},
    }});
    let send = |id: &str, parent: &str, nodes: Value| {
        lab.ask(
            &format!("POST content/v2.0 snapshots/{id}"),
            &json!({"ParentSnapshotId": parent, "Tags": null, "Properties": {}, "DirTreeNode": tree, "FileRevisionList": {"FileNodes": nodes}}),
        )
    };
    let (none, one, two) = (
        "00000000-0000-0000-0000-000000000000",
        "aaaaaaaa-0000-0000-0000-000000000001",
        "aaaaaaaa-0000-0000-0000-000000000002",
    );
    let node = |name: &str, uri: String| json!({"FullName": name, "BlobUri": uri, "FileSize": 1});
    let both = json!([node("t.py", uri(0)), node("lib/a b.py", uri(1))]);
    assert_eq!(send(one, none, both.clone()).status, 200);
    assert_eq!(send(one, none, both).status, 200, "sent again");
    assert_eq!(send(two, one, json!([node("t.py", uri(0))])).status, 200, "the other file is the parent's");
    assert_eq!(send("aaaaaaaa-0000-0000-0000-000000000003", none, json!([node("t.py", uri(0))])).status, 400);
    let foreign = uri(0).replace("moatstor1", "elsewhere");
    for bad in [foreign, uri(1), uri(0).replace("/snapshots/", "/azureml/")] {
        let answer = send("aaaaaaaa-0000-0000-0000-000000000004", one, json!([node("t.py", bad)]));
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    let files = lab.get(&format!("content/v1.0 snapshots/{two}/sas"));
    assert_eq!(files["children"].as_object().unwrap().len(), 2);
    for name in ["../x", "/etc/passwd", "a\\..\\..\\b"] {
        assert_eq!(lab.ask("POST content/v2.0 snapshots/getblob", &json!({"FileNames": [name]})).status, 400, "{name}");
    }
}

#[test]
fn places_for_artifacts_are_for_one_file_each() {
    let lab = Lab::new();
    lab.have_run("r1", |_, _| {});
    let body = json!({"paths": [{"path": "outputs/m.txt"}, {"path": "../../other"}]});
    for line in [
        "artifact/v2.0 artifacts/batch/metadata/ExperimentRun/dcid.r1",
        "history/v1.0 experiments/exp/runs/r1/artifacts/batch/metadata",
    ] {
        let made = lab.post(line, body.clone());
        let url = made["artifactContentInformation"]["outputs/m.txt"]["contentUri"].as_str().unwrap().to_owned();
        assert!(
            url.starts_with("https://moatstor1.blob.core.windows.net/azureml/ExperimentRun/dcid.r1/outputs/m.txt?"),
            "{url}"
        );
        assert!(url.contains("sp=rcw") && url.contains("sr=b"), "{url}");
        assert_eq!(made["errors"].as_object().unwrap().len(), 1, "{made}");
    }
    let list = lab.get("artifact/v2.0 artifacts/prefix/contentinfo/ExperimentRun/dcid.r1/user_logs");
    assert_eq!(list["value"], json!([]));
    // Uploaded, they are there: for the run history, by their addresses, and for MLflow.
    let paths = ["outputs/deep/m.txt", "outputs/m.txt", "user_logs/std_log.txt"];
    let body = json!({"paths": paths.map(|path| json!({"path": path}))});
    let made = lab.post("artifact/v2.0 artifacts/batch/metadata/ExperimentRun/dcid.r1", body);
    let move_blob = |method: &str, url: &str, body: &str| {
        let url = url.strip_prefix("https://").unwrap();
        lab.server.call(method, url, &[("x-ms-blob-type", "BlockBlob")], body)
    };
    for path in paths {
        let url = made["artifactContentInformation"][path]["contentUri"].as_str().unwrap();
        let stored = move_blob("PUT", url, path);
        assert_eq!(stored.status, 201, "{}", stored.text());
    }
    let details = lab.get("history/v1.0 experiments/exp/runs/r1/details");
    let logs: Vec<_> = details["logFiles"].as_object().unwrap().keys().collect();
    assert_eq!(logs, ["user_logs/std_log.txt"], "outputs are no logs");
    let list = lab.get("artifact/v2.0 artifacts/prefix/contentinfo/ExperimentRun/dcid.r1/user_logs");
    for url in [&details["logFiles"]["user_logs/std_log.txt"], &list["value"][0]["contentUri"]] {
        let read = move_blob("GET", url.as_str().unwrap(), "");
        assert_eq!((read.status, read.text()), (200, "user_logs/std_log.txt".into()));
    }
    let one = lab.get("artifact/v2.0 artifacts/contentinfo/ExperimentRun/dcid.r1/outputs/m.txt");
    assert_eq!(move_blob("GET", one["contentUri"].as_str().unwrap(), "").text(), "outputs/m.txt");
    assert_eq!(move_blob("PUT", one["contentUri"].as_str().unwrap(), "forged").status, 403, "it is for reading");
    let listed = |path: &str| {
        let listed = lab.get(&format!("mlflow/v2.0 api/2.0/mlflow/artifacts/list?run_id=r1&path={path}"));
        listed["files"].clone()
    };
    assert_eq!(
        listed("outputs"),
        json!([
            {"path": "outputs/deep", "is_dir": true},
            {"path": "outputs/m.txt", "is_dir": false, "file_size": 13},
        ])
    );
    assert_eq!(listed("").as_array().unwrap().len(), 2);
    assert_eq!(listed("output"), json!([]), "the beginning of a name is no folder");
    let absent =
        lab.ask("GET artifact/v2.0 artifacts/contentinfo/ExperimentRun/dcid.r1/outputs/none.txt", &Value::Null);
    assert_eq!(absent.refusal(), (404, "ArtifactNotFound".to_owned()));
    assert_eq!(lab.ask("GET artifact/v2.0 artifacts/LocalUpload/x", &Value::Null).status, 404);
}

#[test]
fn a_log_is_printed_as_far_as_it_is_and_followed_to_the_end_of_its_run() {
    use std::io::{BufRead as _, BufReader, Write as _};

    let lab = Lab::new();
    crate::reconcile::jobs::add(&lab.server.ready.server);
    lab.have_run("r1", |_, _| {});
    let logs = |follow: bool| json!({"method": "job_logs", "params": {"name": "wsp/r1", "follow": follow}}).to_string();
    assert_eq!(lab.server.control(&logs(false))[0]["error"]["code"], "no-log");
    let absent = json!({"method": "job_logs", "params": {"name": "none"}}).to_string();
    assert_eq!(lab.server.control(&absent)[0]["error"]["code"], "no-such-job");

    let body = json!({"paths": [{"path": "user_logs/std_log.txt"}]});
    let made = lab.post("artifact/v2.0 artifacts/batch/metadata/ExperimentRun/dcid.r1", body);
    let url = made["artifactContentInformation"]["user_logs/std_log.txt"]["contentUri"].as_str().unwrap();
    let url = url.strip_prefix("https://").unwrap();
    assert_eq!(lab.server.call("PUT", url, &[("x-ms-blob-type", "AppendBlob")], "").status, 201);
    let append = |text: &str| {
        let appended = lab.server.call("PUT", &format!("{url}&comp=appendblock"), &[], text);
        assert_eq!(appended.status, 201, "{}", appended.text());
    };
    append("one\n");
    assert_eq!(lab.server.control(&logs(false)), [json!({"ok": {"text": "one\n"}}), json!({"ok": {"end": "Running"}})]);

    let socket = lab.server.dir.path().join("control.sock");
    let mut follower = std::os::unix::net::UnixStream::connect(socket).unwrap();
    follower.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    follower.write_all(format!("{}\n", logs(true)).as_bytes()).unwrap();
    let mut lines = BufReader::new(follower).lines();
    let mut next = || lines.next().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["ok"].take());
    assert_eq!(next().unwrap()["text"], "one\n");
    // Longer than a piece, and no piece ends where a character does.
    let rest = format!("x{}\n", "é".repeat(100_000));
    append(&rest);
    let mut told = String::new();
    while told.len() < rest.len() {
        let piece = next().unwrap();
        let text = piece["text"].as_str().unwrap();
        assert!(text.len() <= 64 * 1024 + 3, "{}", text.len());
        told.push_str(text);
    }
    assert!(told == rest);
    append("last\n");
    lab.have_run("r1", |run, body| {
        Status::Finalizing.put(body);
        run.ended = Some(jiff::Timestamp::now());
    });
    assert_eq!(next().unwrap()["text"], "last\n");
    assert_eq!(next().unwrap()["end"], "Finalizing");
    assert_eq!(next(), None);
}

#[test]
fn datastores_show_their_key_to_who_may_see_it() {
    let lab = Lab::new();
    let default = lab.get("datastore/v1.0 default");
    assert_eq!(default["name"], "workspaceblobstore");
    assert!(default["azureStorageSection"]["containerName"].as_str().unwrap().starts_with("azureml-blobstore-"));
    assert!(default["azureStorageSection"]["accountKey"].as_str().unwrap().len() > 40);
    assert_eq!(
        lab.get("datastore/v1.0 datastores/workspaceartifactstore")["azureStorageSection"]["containerName"],
        "azureml"
    );
    assert_eq!(lab.ask("GET datastore/v1.0 datastores/none", &Value::Null).status, 404);
    assert_eq!(lab.ask("POST datastore/v1.0 datastores", &json!({})).status, 405);
}

#[test]
fn a_run_with_its_own_token_reaches_its_own_records_and_nothing_else() {
    let lab = Lab::new();
    lab.have_run("r1", |_, _| {});
    lab.have_run("r2", |_, _| {});
    let token = lab.run_token("r1", &lab.workspace);
    let m = "mlflow/v2.0 api/2.0/mlflow";
    for (line, body) in [
        (format!("GET {m}/runs/get?run_id=r1"), Value::Null),
        (format!("POST {m}/runs/log-metric"), json!({"run_id": "r1", "key": "k", "value": 1})),
        (format!("POST {m}/runs/set-tag"), json!({"run_id": "r1", "key": "k", "value": "v"})),
        (format!("GET {m}/experiments/get-by-name?experiment_name=exp"), Value::Null),
        ("GET history/v1.0 experiments/exp/runs/r1".to_owned(), Value::Null),
        ("PATCH history/v1.0 experiments/exp/runs/r1".to_owned(), json!({"runId": "r1", "properties": {"a": "b"}})),
        (
            "POST artifact/v2.0 artifacts/batch/metadata/ExperimentRun/dcid.r1".to_owned(),
            json!({"paths": [{"path": "o.txt"}]}),
        ),
        ("POST metric/v2.0 runs/r1/list".to_owned(), json!({})),
        ("GET history/v1.0 experiments/exp/runs/r1/token".to_owned(), Value::Null),
    ] {
        let answer = lab.ask_as(&token, &line, &body);
        assert_eq!(answer.status, 200, "{line}: {}", answer.text());
    }
    let other = lab.workspace.replace("/wsp", "/other");
    let widening = [
        (format!("GET {m}/runs/get?run_id=r2"), Value::Null),
        (format!("GET {m}/metrics/get-history?run_id=r2&metric_key=k"), Value::Null),
        (format!("POST {m}/runs/log-metric"), json!({"run_id": "r2", "key": "k", "value": 1})),
        (format!("POST {m}/runs/create"), json!({"experiment_id": "0"})),
        (format!("POST {m}/experiments/create"), json!({"name": "mine"})),
        ("GET history/v1.0 runs/r2/details".to_owned(), Value::Null),
        ("GET history/v1.0 runs/absent".to_owned(), Value::Null),
        ("PATCH history/v1.0 experiments/exp/runs/r2".to_owned(), json!({"hidden": true})),
        ("PATCH history/v1.0 experiments/exp/runs/r3".to_owned(), json!({"runId": "r3"})),
        (
            "POST history/v1.0 experiments/exp/runs/r2/events".to_owned(),
            json!({"name": "Microsoft.MachineLearning.Run.Canceled"}),
        ),
        ("POST history/v1.0 rundata".to_owned(), json!({"runId": "r2"})),
        ("GET history/v1.0 runs/r2/token".to_owned(), Value::Null),
        (
            "POST artifact/v2.0 artifacts/batch/metadata/ExperimentRun/dcid.r2".to_owned(),
            json!({"paths": [{"path": "o.txt"}]}),
        ),
        ("GET artifact/v2.0 artifacts/ExperimentRun/dcid.r2".to_owned(), Value::Null),
        ("POST content/v2.0 snapshots/getblob".to_owned(), json!({"FileNames": ["x"]})),
        ("GET datastore/v1.0 default".to_owned(), Value::Null),
        (
            format!("GET rp/workspaces{} computes", lab.workspace).replace(&format!("{} ", lab.workspace), " "),
            Value::Null,
        ),
    ];
    for (line, body) in &widening {
        let answer = lab.ask_as(&token, line, body);
        assert_eq!(answer.status, 403, "{line}: {}", answer.text());
    }
    let found = lab.ask_as(
        &token,
        &format!("POST {m}/runs/search"),
        &json!({"experiment_ids": [lab.get("history/v1.0 experiments/exp")["experimentId"]]}),
    );
    assert_eq!(found.json()["runs"].as_array().map(Vec::len), Some(1), "a search finds the run itself only");
    // Its own name in another workspace, and everything that is not this endpoint.
    let elsewhere = Lab { server: lab.server, workspace: other.clone(), token: lab.token };
    assert_eq!(elsewhere.ask_as(&token, "GET history/v1.0 runs/r1", &Value::Null).status, 403);
    let bearer = format!("Bearer {token}");
    for url in [
        format!("management.azure.com{other}?api-version=2024-10-01"),
        "graph.microsoft.com/v1.0/servicePrincipals".to_owned(),
        "management.azure.com/subscriptions?api-version=2024-11-01".to_owned(),
    ] {
        let answer = elsewhere.server.call("GET", &url, &[("Authorization", &bearer)], "");
        assert!(matches!(answer.status, 401 | 403), "{url}: {}", answer.text());
    }
}

#[test]
fn an_endpoint_knows_the_workspaces_of_its_region() {
    let lab = Lab::new();
    let url = format!("eastus.api.azureml.ms/history/v1.0{}/experiments", lab.workspace);
    let answer = lab.server.call("GET", &url, &[("Authorization", &format!("Bearer {}", lab.token))], "");
    assert_eq!(answer.refusal(), (404, "WorkspaceNotFound".to_owned()));
    assert!(answer.text().contains("https://westus2.api.azureml.ms"), "{}", answer.text());
    let unknown = lab.ask("GET nothing/v1.0 here", &Value::Null);
    assert_eq!(unknown.refusal(), (404, "ServiceNotFound".to_owned()));
}
