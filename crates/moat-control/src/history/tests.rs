//! The run history in small worlds.
#![allow(clippy::unwrap_used, reason = "tests")]

use moat_arm::Batch;
use moat_model::types::microsoft_machinelearningservices::runs::{Kind, Run, RunError, Status};
use serde_json::{Map, Value, json};

use super::*;
use crate::request::RunScope;
use crate::tests::{OTHER, OWNER, World};

const WS: &str = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/wsp";

/// A world with a workspace, and with one run that waits to be seen.
struct Lab {
    world: World,
    principal: Principal,
}

impl Lab {
    fn new() -> Self {
        let mut world = World::with_group();
        let _ = world.have(
            "{g}/providers/Microsoft.MachineLearningServices/workspaces/wsp",
            r#"{"location": "westus2", "properties": {}}"#,
        );
        let principal = Principal { object_id: OWNER.to_owned(), ..Principal::default() };
        let mut lab = Self { world, principal };
        lab.have_run("r1", Kind::Command, Status::Running);
        lab.have_run("r2", Kind::Tracked, Status::Running);
        lab
    }

    fn have_run(&mut self, name: &str, kind: Kind, status: Status) {
        let mut body = json!({"properties": {"command": "python x.py", "experimentName": "exp", "computeId": "/a/b/cpu", "tags": {"k": "v"}}});
        status.put(&mut body);
        Run { kind, uuid: format!("uuid-{name}"), number: 1, created: Some(self.world.ctx.now), ..Run::default() }
            .put(&mut body);
        let mut batch = Batch::default();
        batch.put(workspace().child("jobs", name), body);
        self.world.snapshot.apply(&batch);
    }

    fn edit_run(&mut self, name: &str, edit: impl FnOnce(&mut Run)) {
        let id = workspace().child("jobs", name);
        let mut body = self.world.snapshot.get(&id).unwrap().body.clone();
        let mut run = Run::of(&body);
        edit(&mut run);
        run.put(&mut body);
        let mut batch = Batch::default();
        batch.put(id, body);
        self.world.snapshot.apply(&batch);
    }

    fn by_run(mut self, run: &str, workspace: &str) -> Self {
        self.principal = Principal {
            object_id: "run-oid".to_owned(),
            run: Some(RunScope { workspace: workspace.to_owned(), run: run.to_owned(), attempt: 1 }),
            ..Principal::default()
        };
        self
    }

    fn open(&self, right: Right) -> Result<View<'_>, ApiError> {
        View::open(&self.world.snapshot, &workspace(), &self.principal, &self.world.ctx, right)
    }

    fn view(&self) -> View<'_> {
        self.open(Right::ReadRuns).unwrap()
    }

    fn commit(&mut self, batch: &Batch) {
        self.world.snapshot.apply(batch);
    }

    fn body(&self, run: &str) -> Value {
        self.view().run(run).unwrap().body.clone()
    }
}

fn workspace() -> ResourceId {
    ResourceId::parse(WS).unwrap()
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn a_run_is_shown_as_its_job_document_says() {
    let mut lab = Lab::new();
    lab.edit_run("r1", |run| {
        run.error = Some(RunError {
            code: "UserScriptFailed".to_owned(),
            message: "exit 1".to_owned(),
            phase: "running".to_owned(),
        });
        run.warnings.push("slow".to_owned());
        run.code_snapshot = Some("snap".to_owned());
    });
    let view = lab.view();
    let shown = render::run(&view, view.run("R1").unwrap(), &render::Beside::default());
    assert_eq!(shown["status"], "Running");
    assert_eq!(shown["dataContainerId"], "dcid.r1");
    assert_eq!(shown["target"], "cpu");
    assert_eq!(shown["properties"]["ContentSnapshotId"], "snap");
    assert_eq!(shown["startTimeUtc"], Value::Null, "not started");
    let details = render::details(&view, view.run("r1").unwrap(), &render::Beside::default());
    assert_eq!(details["error"]["error"]["code"], "UserError");
    assert_eq!(details["error"]["error"]["innerError"]["code"], "UserScriptFailed");
    assert_eq!(details["warnings"][0]["message"], "slow");
    assert_eq!(details["runDefinition"]["command"], "python x.py");
}

#[test]
fn tags_properties_names_and_the_archive_mark_are_changed_and_null_removes() {
    let mut lab = Lab::new();
    let change = json!({"tags": {"k": null, "n": 7}, "properties": {"p": "q"}, "displayName": "shown", "hidden": true, "status": "Failed"});
    let (_, batch) = runs::patch(&lab.view(), lab.view().run("r1").unwrap(), &change).unwrap();
    lab.commit(&batch);
    let body = lab.body("r1");
    assert_eq!(body["properties"]["tags"], json!({"n": "7"}));
    assert_eq!(body["properties"]["displayName"], "shown");
    assert_eq!(body["properties"]["isArchived"], true);
    assert_eq!(Run::of(&body).properties["p"], "q");
    assert_eq!(Status::of(&body), Some(Status::Running), "the scheduler alone says how a scheduled run is");
    let huge: Map<String, Value> = (0..=runs::TAGS_MAX).map(|n| (n.to_string(), json!("x"))).collect();
    assert!(runs::patch(&lab.view(), lab.view().run("r1").unwrap(), &json!({"tags": huge})).is_err());
}

#[test]
fn a_tracked_run_is_as_its_client_says() {
    let mut lab = Lab::new();
    let (_, batch) = runs::patch(&lab.view(), lab.view().run("r2").unwrap(), &json!({"status": "Completed"})).unwrap();
    lab.commit(&batch);
    assert_eq!(Status::of(&lab.body("r2")), Some(Status::Completed));
    let new = runs::NewRun { experiment: "exp".to_owned(), ..runs::NewRun::default() };
    let (id, _, batch) = runs::create(&lab.view(), &new).unwrap();
    lab.commit(&batch);
    assert_eq!(Run::of(&lab.body(id.name())).number, 2);
    assert_eq!(Run::of(&lab.body(id.name())).kind, Kind::Tracked);
    for bad in ["a/b", "..", "a b"] {
        let new = runs::NewRun { name: bad.to_owned(), experiment: "exp".to_owned(), ..runs::NewRun::default() };
        assert_eq!(runs::create(&lab.view(), &new).unwrap_err().code, "InvalidRunId", "{bad}");
    }
}

#[test]
fn events_end_tracked_runs_and_ask_for_the_end_of_scheduled_ones() {
    let mut lab = Lab::new();
    let event =
        |name: &str, data: Value| json!({"name": format!("Microsoft.MachineLearning.Run.{name}"), "data": data});
    for (run, name) in [("r1", "Completed"), ("r2", "Failed"), ("r1", "Canceled")] {
        let batch = events::apply(&lab.view(), lab.view().run(run).unwrap(), &event(name, json!({}))).unwrap();
        lab.commit(&batch);
    }
    assert_eq!(Status::of(&lab.body("r1")), Some(Status::CancelRequested));
    assert!(Run::of(&lab.body("r1")).cancel_requested.is_some());
    assert_eq!(Status::of(&lab.body("r2")), Some(Status::Failed));
    let error = event("Error", json!({"ErrorResponse": {"error": {"code": "UserError", "message": "no"}}}));
    let batch = events::apply(&lab.view(), lab.view().run("r2").unwrap(), &error).unwrap();
    lab.commit(&batch);
    assert_eq!(Run::of(&lab.body("r2")).error.unwrap().message, "no");
    let unknown = events::apply(&lab.view(), lab.view().run("r2").unwrap(), &event("Explode", json!({})));
    insta::assert_snapshot!(unknown.unwrap_err(), @"(UserError) The run event 'Microsoft.MachineLearning.Run.Explode' is not known here.");
}

#[test]
fn a_log_is_seen_once_the_run_only_waits_for_that() {
    let mut lab = Lab::new();
    assert!(runs::log_seen(&lab.view(), lab.view().run("r1").unwrap()).is_empty(), "still running");
    lab.have_run("r1", Kind::Command, Status::Finalizing);
    assert!(runs::log_seen(&lab.view(), lab.view().run("r1").unwrap()).is_empty(), "its log is still on the way");
    lab.edit_run("r1", |run| run.verdict = Some(Status::Completed));
    let batch = runs::log_seen(&lab.view(), lab.view().run("r1").unwrap());
    lab.commit(&batch);
    assert!(Run::of(&lab.body("r1")).log_seen);
    assert!(runs::log_seen(&lab.view(), lab.view().run("r1").unwrap()).is_empty(), "once");
}

#[test]
fn experiments_are_those_with_a_document_and_those_that_runs_name() {
    let mut lab = Lab::new();
    let names = |lab: &Lab| experiments::all(&lab.view()).into_iter().map(|e| e.name).collect::<Vec<_>>();
    assert_eq!(names(&lab), ["exp"]);
    let (made, batch) = experiments::get_or_create(&lab.view(), "Fresh one").unwrap();
    lab.commit(&batch);
    assert_eq!(names(&lab), ["exp", "Fresh one"]);
    let (again, batch) = experiments::get_or_create(&lab.view(), "fresh ONE").unwrap();
    assert!(batch.is_empty());
    assert_eq!(again.id, made.id);
    assert_eq!(experiments::find(&lab.view(), &made.id).unwrap().name, "Fresh one");
    let change = experiments::Change { archived: Some(true), tags: map(json!({"a": "b"})), ..Default::default() };
    let (changed, batch) = experiments::change(&lab.view(), "exp", &change).unwrap();
    lab.commit(&batch);
    assert!(changed.is_archived() && experiments::find(&lab.view(), "EXP").unwrap().is_archived());
    assert_eq!(experiments::get_or_create(&lab.view(), "a/b").unwrap_err().code, "InvalidExperimentName");
}

#[test]
fn strangers_see_nothing_and_readers_change_nothing() {
    let mut lab = Lab::new();
    lab.principal.object_id = OTHER.to_owned();
    assert_eq!(lab.open(Right::ReadRuns).unwrap_err().status, 403);
    let role = "acdd72a7-3385-48ef-bd42-f606fba81ae7";
    let _ = lab.world.have(
        "{g}/providers/Microsoft.Authorization/roleAssignments/aaaaaaaa-1111-2222-3333-444444444444",
        &json!({"properties": {"principalId": OTHER, "roleDefinitionId": format!("{{s}}/providers/Microsoft.Authorization/roleDefinitions/{role}")}}).to_string(),
    );
    let view = lab.view();
    assert_eq!(runs::patch(&view, view.run("r1").unwrap(), &json!({"hidden": true})).unwrap_err().status, 403);
    assert_eq!(runs::cancel(&view, view.run("r1").unwrap()).unwrap_err().status, 403);
    assert_eq!(runs::create(&view, &runs::NewRun::default()).unwrap_err().status, 403);
    assert_eq!(experiments::create(&view, "x", &Map::new()).unwrap_err().status, 403);
    assert!(!view.allows(Right::ReadSecrets));
}

#[test]
fn a_run_reaches_its_own_records_and_nothing_else() {
    let lab = Lab::new().by_run("r1", WS);
    for right in [
        Right::SubmitRuns,
        Right::WriteExperiments,
        Right::WriteSnapshots,
        Right::ReadSnapshots,
        Right::ReadDatastores,
        Right::ReadSecrets,
    ] {
        assert_eq!(lab.open(right).unwrap_err().status, 403, "{right:?}");
    }
    let view = lab.view();
    assert!(runs::patch(&view, view.run("r1").unwrap(), &json!({"tags": {"a": "b"}})).is_ok());
    assert_eq!(view.run("r2").unwrap_err().status, 403);
    assert_eq!(view.run("absent").unwrap_err().status, 403, "not even whether there is one");
    assert_eq!(view.runs().map(|d| d.id.name().to_owned()).collect::<Vec<_>>(), ["r1"]);
    assert_eq!(experiments::all(&view).len(), 1);
    assert_eq!(experiments::get_or_create(&view, "exp").unwrap().0.name, "exp");
    assert_eq!(experiments::get_or_create(&view, "other").unwrap_err().status, 403);
    let elsewhere = Lab::new().by_run("r1", &WS.replace("wsp", "other"));
    assert_eq!(elsewhere.open(Right::ReadRuns).unwrap_err().status, 403);
    // A name that another one begins with is another one.
    let longer = Lab::new().by_run("r", WS);
    assert_eq!(longer.view().run("r1").unwrap_err().status, 403);
}

#[test]
fn a_workspace_that_is_none_is_not_found() {
    let lab = Lab::new();
    let group = ResourceId::parse(&WS.replace("wsp", "absent")).unwrap();
    let found = View::open(&lab.world.snapshot, &group, &lab.principal, &lab.world.ctx, Right::ReadRuns);
    assert_eq!(found.unwrap_err().code, "ResourceNotFound");
}

#[test]
fn a_script_run_becomes_a_job_that_waits_for_its_cluster() {
    use moat_model::types::microsoft_machinelearningservices::snapshots::{self, Contents};
    let mut lab = Lab::new();
    let mut batch = Batch::default();
    batch.put(snapshots::document_id(&workspace(), "snap"), Contents::default().to_body());
    let cluster = json!({"properties": {"computeType": "AmlCompute"}});
    batch.put(workspace().child("computes", "cpucluster"), cluster);
    batch.put(workspace().child("computes", "vm"), json!({"properties": {"computeType": "VirtualMachine"}}));
    lab.commit(&batch);
    let submitted = |change: Value| {
        let mut definition = json!({"script": "t.py", "arguments": ["--a", 1], "target": "cpucluster", "framework": "Python", "communicator": "None",
            "nodeCount": 1, "maxRunDurationSeconds": 60, "environment": {"name": "v1env"}});
        definition.as_object_mut().unwrap().extend(map(change));
        script::Submitted {
            run: "v1exp_1_a".to_owned(),
            experiment: "v1exp".to_owned(),
            definition,
            snapshot: Some("snap".to_owned()),
            parent: None,
        }
    };
    let (name, batch) = script::submit(&lab.view(), &submitted(json!({}))).unwrap();
    lab.commit(&batch);
    let body = lab.body(&name);
    let run = Run::of(&body);
    assert_eq!((run.kind, run.timeout_seconds, run.code_snapshot.as_deref()), (Kind::Script, Some(60), Some("snap")));
    assert!(run.cluster.unwrap().ends_with("/computes/cpucluster"));
    assert_eq!(
        (&body["properties"]["command"], Status::of(&body)),
        (&json!("python t.py --a 1"), Some(Status::NotStarted))
    );
    assert_eq!(experiments::find(&lab.view(), "v1exp").unwrap().name, "v1exp");
    let said = |submitted: script::Submitted| script::submit(&lab.view(), &submitted).unwrap_err().to_string();
    insta::assert_snapshot!(said(submitted(json!({}))), @"(RunAlreadyExists) There is a run 'v1exp_1_a' already.");
    let other = |change: Value| script::Submitted { run: "other".to_owned(), ..submitted(change) };
    insta::assert_snapshot!(said(other(json!({"target": "none"}))), @"(UserError) The compute target 'none' does not exist in workspace 'wsp'; name a cluster of it.");
    insta::assert_snapshot!(said(other(json!({"target": "vm"}))), @"(UserError) The compute target 'vm' is of type VirtualMachine; runs need a cluster (AmlCompute).");
    insta::assert_snapshot!(said(script::Submitted { snapshot: Some("no".to_owned()), ..other(json!({})) }), @"(UserError) There is no code snapshot 'no'.");
    assert_eq!(Lab::new().by_run("r1", WS).open(Right::SubmitRuns).unwrap_err().status, 403);
}
