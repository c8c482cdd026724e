//! Methods of the control socket about jobs: `job_list`, `job_show`, `job_cancel`; `job_logs` is
//! [`super::job_log`].
//!
//! A job's time is told by its steps: from submit to the queue, a node, each phase on the node, the first line of its
//! log and the end. So "how long does a job take until its first line" has an answer that adds up.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use moat_arm::{ResourceId, Snapshot, Stored, document};
use moat_control::{ArmRequest, Method, Origin};
use moat_model::types::microsoft_machinelearningservices::runs::{JOB_TYPE, Run, Status};
use serde_json::{Value, json};

use crate::control::ControlError;
use crate::random;
use crate::server::Server;

/// API version of the server's own requests.
const API_VERSION: &str = "2023-04-01";

/// Adds the methods.
pub fn add(server: &Server) {
    server.control.add_simple("job_list", |server, _| async move { Ok(list(&server)) });
    server.control.add_simple("job_show", |server, params| async move {
        let snapshot = server.store.snapshot();
        Ok(row(find(&snapshot, &params)?))
    });
    server.control.add("job_logs", |server, params, caller| {
        Box::pin(async move { super::job_log::answer(&server, &params, caller).await })
    });
    server.control.add_simple("job_cancel", |server, params| async move { cancel(&server, &params).await });
}

/// The job that `name` means: its name, or `WORKSPACE/NAME` where two workspaces have one of that name.
pub fn find<'a>(snapshot: &'a Snapshot, params: &Value) -> Result<&'a Stored, ControlError> {
    let name = params["name"].as_str().ok_or_else(|| ControlError::new("bad-request", "`name` is missing"))?;
    let is_wanted = |id: &ResourceId| match name.split_once('/') {
        Some((workspace, job)) if !workspace.is_empty() => {
            id.name() == job && id.parent().is_some_and(|w| w.name().eq_ignore_ascii_case(workspace))
        }
        Some(_) => id.as_str().eq_ignore_ascii_case(name),
        None => id.name() == name,
    };
    let found: Vec<&Stored> = snapshot.of_type(JOB_TYPE).map(|d| &**d).filter(|d| is_wanted(&d.id)).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(ControlError::new("no-such-job", format!("there is no job `{name}`"))),
        _ => {
            let all: Vec<&str> = found.iter().map(|d| d.id.as_str()).collect();
            Err(ControlError::new("ambiguous", format!("`{name}` could be {}; say WORKSPACE/NAME", all.join(" or "))))
        }
    }
}

fn list(server: &Server) -> Value {
    let snapshot = server.store.snapshot();
    let mut rows: Vec<(Option<Timestamp>, u64, Value)> = snapshot
        .of_type(JOB_TYPE)
        .map(|d| {
            let run = Run::of(&d.body);
            (run.created, run.number, row(d))
        })
        .collect();
    rows.sort_by_key(|(created, number, _)| (*created, *number));
    Value::Array(rows.into_iter().map(|(_, _, row)| row).collect())
}

/// A job as `moat job` shows it.
fn row(job: &Stored) -> Value {
    let run = Run::of(&job.body);
    let text = |path: &str| document::str_at(&job.body, path);
    let name_of = |id: Option<&str>| id.and_then(|id| id.rsplit('/').next()).map(str::to_owned);
    json!({
        "name": job.id.name(),
        "id": job.id.as_str(),
        "workspace": job.id.parent().map(|w| w.name().to_owned()),
        "kind": run.kind,
        "status": Status::of(&job.body),
        "experiment": text("properties.experimentName"),
        "cluster": name_of(run.cluster.as_deref().or(text("properties.computeId"))),
        "node": name_of(run.node.as_deref()),
        "attempt": run.attempt,
        "exitCode": run.exit_code,
        "error": run.error,
        "warnings": run.warnings,
        "limits": run.limits,
        "created": run.created,
        "started": run.started,
        "ended": run.ended,
        "steps": steps(&run),
    })
}

/// What happened when, in order: each with its time, and milliseconds since the one before.
fn steps(run: &Run) -> Vec<Value> {
    let fixed = [
        ("submitted", run.created),
        ("queued", run.queued),
        ("node assigned", run.assigned),
        ("log begun", run.log_begun),
        ("ended", run.ended),
    ];
    let mut all: Vec<(&str, Timestamp)> = fixed.into_iter().filter_map(|(name, time)| Some((name, time?))).collect();
    all.extend(run.phases.iter().filter(|(name, _)| *name != "ended").map(|(name, time)| (name.as_str(), *time)));
    all.sort_by_key(|(_, time)| *time);
    let mut before: Option<Timestamp> = None;
    let steps = all.into_iter().map(|(name, time)| {
        let took = before.map_or(0, |before| time.duration_since(before).as_millis());
        before = Some(time);
        json!({ "step": name, "time": time, "milliseconds": u64::try_from(took).unwrap_or(0) })
    });
    steps.collect()
}

async fn cancel(server: &Arc<Server>, params: &Value) -> Result<Value, ControlError> {
    let id = find(&server.store.snapshot(), params)?.id.clone();
    let ctx = server.context(random::uuid());
    let request = ArmRequest {
        method: Method::Post,
        path: format!("{id}/cancel"),
        query: BTreeMap::from([("api-version".to_owned(), API_VERSION.to_owned())]),
        body: None,
        principal: server.environment.principal(),
        origin: Origin::Public,
        if_match: None,
        if_none_match: None,
    };
    let (status, body) = server
        .store
        .submit(move |snapshot| {
            let decision = moat_control::decide::decide(snapshot, &request, &ctx);
            (decision.batch, (decision.status, decision.body))
        })
        .await
        .map_err(|e| ControlError::new("not-stored", e.to_string()))?;
    if status >= 400 {
        let text = |path: &str| body.as_ref().and_then(|b| document::str_at(b, path)).unwrap_or_default().to_owned();
        return Err(ControlError::new(&text("error.code"), text("error.message")));
    }
    Ok(json!({ "job": id.name(), "status": "CancelRequested" }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn steps_are_in_the_order_of_time_and_add_up() {
        let at = |ms| Some(Timestamp::from_millisecond(ms).unwrap());
        let mut run = Run { created: at(0), queued: at(20), assigned: at(300), ended: at(2000), ..Run::default() };
        run.log_begun = at(900);
        for (phase, ms) in [("accepted", 310), ("running", 800), ("outputs", 1500), ("ended", 2000)] {
            run.phases.insert(phase.to_owned(), at(ms).unwrap());
        }
        let steps = steps(&run);
        let names: Vec<&str> = steps.iter().map(|s| s["step"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            ["submitted", "queued", "node assigned", "accepted", "running", "log begun", "outputs", "ended"]
        );
        assert_eq!(steps.iter().map(|s| s["milliseconds"].as_u64().unwrap()).sum::<u64>(), 2000);
    }
}
