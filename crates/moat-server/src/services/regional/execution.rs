//! `/execution/v1.0`: azureml-core submits a ScriptRun (PROTOCOL 6.7).

use moat_arm::{ApiError, document};
use moat_control::Method;
use moat_control::history::{Right, runs, script};
use serde_json::{Value, json};

use super::ask::{Ask, Fail};
use crate::http::reply::Reply;

pub(super) async fn answer(ask: &Ask<'_>, rest: &[&str]) -> Result<Reply, Fail> {
    match (ask.call.method, rest) {
        (Method::Post, ["experiments", experiment, "snapshotrun"]) => submit(ask, experiment).await,
        (
            Method::Post,
            ["experiments", _, "run" | "localrun" | "localprepare" | "checkprepare" | "prepare" | "snapshotprepare"],
        ) => Err(Fail::Api(ApiError::bad_request(
            "UserError",
            "Runs come with a snapshot of their code to a cluster here (`ScriptRunConfig` with a `compute_target`); local runs and preparations are not served.",
        ))),
        (Method::Post, ["experiments", _, "runs" | "runId", run, "cancel"]) => {
            let run = (*run).to_owned();
            ask.write(Right::WriteRuns, move |view| runs::cancel(view, view.run(&run)?).map(|(_, batch)| ((), batch)))
                .await?;
            Ok(Reply::json(200, &json!({})))
        }
        _ => Err(Fail::Api(super::not_served(ask.call))),
    }
}

async fn submit(ask: &Ask<'_>, experiment: &str) -> Result<Reply, Fail> {
    let body = ask.body()?;
    let submitted = script::Submitted {
        run: ask.query("runid").unwrap_or_default().to_owned(),
        experiment: experiment.to_owned(),
        definition: document::at(&body, "Configuration").cloned().unwrap_or(Value::Null),
        snapshot: document::str_at(&body, "SnapshotId").map(str::to_owned),
        parent: document::str_at(&body, "ParentRunId").map(str::to_owned),
    };
    let run = ask.write(Right::SubmitRuns, move |view| script::submit(view, &submitted)).await?;
    Ok(Reply::json(200, &json!({"runId": run})))
}
