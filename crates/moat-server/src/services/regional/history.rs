//! `/history/v1.0`: experiments and runs (PROTOCOL 6.6, 6.7, 6.8).

use moat_arm::{ApiError, Batch, document};
use moat_control::Method;
use moat_control::history::{Right, View, events, experiments, filter::Filter, render, runs};
use moat_model::types::microsoft_machinelearningservices::runs::{Run, Status};
use serde_json::{Map, Value, json};

use super::ask::{Ask, Fail};
use super::{artifacts, list, metrics};
use crate::http::reply::Reply;

/// Runs answered by one query.
const PAGE_RUNS_MAX: usize = 500;
/// Runs or events of one batch.
const BATCH_MAX: usize = 500;
/// For whom a run's token is; the endpoint that runs talk to.
const RUN_AUDIENCE: &str = "https://ml.azure.com";

type Answer = Result<Reply, Fail>;

pub(super) async fn answer(ask: &Ask<'_>, rest: &[&str]) -> Answer {
    use Method::{Delete, Get, Patch, Post};
    match (ask.call.method, rest) {
        (Get, ["experiments" | "experimentids", name]) => ask
            .read(Right::ReadExperiments, |view| Ok(experiments::find(view, name)?.render()))
            .map(|body| Reply::json(200, &body)),
        (Post, ["experiments", name]) => create_experiment(ask, name).await,
        (Patch, ["experimentids" | "experiments", name]) => change_experiment(ask, name).await,
        (Post, ["experimentids", name, "tags:delete"]) => delete_experiment_tags(ask, name).await,
        (Get, ["experiments"]) | (Post, ["experiments:query"]) => list_experiments(ask),
        (Post, ["rundata"]) => run_data(ask).await,
        (Post, ["experiments" | "experimentids", _, "runs:query"] | ["runs:query"]) => query(ask, rest),
        (Get, ["experiments" | "experimentids", _, "runs"] | ["runs"]) => query(ask, rest),
        (Patch, ["experiments" | "experimentids", experiment, "batch", "runs"]) => batch(ask, experiment).await,
        (Post, ["experiments" | "experimentids", _, "batch", "events"]) => batch_events(ask).await,
        (Post, ["experiments" | "experimentids", _, "metrics:query"]) => metrics::old_query(ask).await,
        (_, ["experiments" | "experimentids", experiment, "runs", run, tail @ ..]) => {
            of_run(ask, Some(experiment), run, tail).await
        }
        (_, ["runs", run, tail @ ..]) => of_run(ask, None, run, tail).await,
        (Delete, ["experimentids", _]) => Err(Fail::Api(ApiError::new(
            405,
            "MethodNotAllowed",
            "Experiments are not deleted here; archive them (`archive: true`).",
        ))),
        _ => Err(Fail::Api(super::not_served(ask.call))),
    }
}

async fn of_run(ask: &Ask<'_>, experiment: Option<&str>, run: &str, tail: &[&str]) -> Answer {
    use Method::{Delete, Get, Patch, Post};
    match (ask.call.method, tail) {
        (Get, []) => show(ask, run).await,
        (Patch, []) => patch(ask, experiment, run).await,
        (Get, ["details"]) => details(ask, run).await,
        (Get, ["children"]) => children(ask, run),
        (Get, ["token"]) => token(ask, run).await,
        (Get, ["services"]) => {
            ask.run(Right::ReadRuns, run)?;
            Ok(Reply::json(200, &json!({})))
        }
        (Delete | Patch, ["tags"]) => delete_tags(ask, run).await,
        (Post, ["events"]) => {
            let event = ask.body()?;
            post_event(ask, run, event).await?;
            Ok(Reply::json(200, &json!({})))
        }
        (Post, ["cancel"]) => {
            let run = run.to_owned();
            ask.write(Right::WriteRuns, move |view| runs::cancel(view, view.run(&run)?).map(|(_, batch)| ((), batch)))
                .await?;
            Ok(Reply::json(200, &json!({})))
        }
        // Metrics are on disk before the call that logs them is answered.
        (Get, ["metricsingest", "wait"]) => {
            ask.run(Right::ReadRuns, run)?;
            Ok(Reply::json(200, &json!({})))
        }
        (_, ["artifacts", tail @ ..]) => artifacts::of_run(ask, run, tail).await,
        _ => Err(Fail::Api(super::not_served(ask.call))),
    }
}

async fn create_experiment(ask: &Ask<'_>, name: &str) -> Answer {
    let name = name.to_owned();
    let made = ask
        .write(Right::ReadExperiments, move |view| {
            experiments::get_or_create(view, &name).map(|(made, batch)| (made.render(), batch))
        })
        .await?;
    Ok(Reply::json(200, &made))
}

async fn change_experiment(ask: &Ask<'_>, name: &str) -> Answer {
    let body = ask.body()?;
    let change = experiments::Change {
        description: document::str_at(&body, "description").map(str::to_owned),
        tags: document::at(&body, "tags").and_then(Value::as_object).cloned().unwrap_or_default(),
        archived: document::bool_at(&body, "archive"),
    };
    let name = name.to_owned();
    let changed = ask
        .write(Right::WriteExperiments, move |view| {
            experiments::change(view, &name, &change).map(|(changed, batch)| (changed.render(), batch))
        })
        .await?;
    Ok(Reply::json(200, &changed))
}

async fn delete_experiment_tags(ask: &Ask<'_>, name: &str) -> Answer {
    let change = experiments::Change { tags: removal(&names_of(ask)?), ..Default::default() };
    let name = name.to_owned();
    ask.write(Right::WriteExperiments, move |view| {
        experiments::change(view, &name, &change).map(|(_, batch)| ((), batch))
    })
    .await?;
    Ok(Reply::json(200, &json!({"errors": {}})))
}

/// Names of tags in a body: a list, or one under `tags`.
fn names_of(ask: &Ask<'_>) -> Result<Vec<String>, ApiError> {
    let body = ask.body()?;
    let names = body.as_array().map(Vec::as_slice).unwrap_or_else(|| document::array_at(&body, "tags"));
    Ok(names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

fn removal(names: &[String]) -> Map<String, Value> {
    names.iter().map(|name| (name.clone(), Value::Null)).collect()
}

fn list_experiments(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let view_type = document::str_at(&body, "viewType").or(ask.query("viewtype")).unwrap_or("ActiveOnly").to_owned();
    let all = ask.read(Right::ReadExperiments, |view| Ok(experiments::all(view)))?;
    let wanted = |archived: bool| match view_type.to_ascii_lowercase().as_str() {
        "all" => true,
        "archivedonly" => archived,
        _ => !archived,
    };
    Ok(Reply::json(
        200,
        &list(all.iter().filter(|e| wanted(e.is_archived())).map(experiments::Experiment::render).collect()),
    ))
}

/// What a document alone does not say about a run.
async fn beside(ask: &Ask<'_>, run: &moat_arm::Stored) -> Result<render::Beside, Fail> {
    Ok(render::Beside { parameters: ask.logged(run).await?.params, ..Default::default() })
}

async fn show(ask: &Ask<'_>, name: &str) -> Answer {
    let beside = beside(ask, &*ask.run(Right::ReadRuns, name)?).await?;
    let body = ask.read(Right::ReadRuns, |view| Ok(render::run(view, view.run(name)?, &beside)))?;
    Ok(Reply::json(200, &body))
}

async fn details(ask: &Ask<'_>, name: &str) -> Answer {
    let run = ask.run(Right::ReadRuns, name)?;
    let mut beside = beside(ask, &run).await?;
    beside.log_files = artifacts::log_files(ask, run.id.name()).await?;
    let body = ask.read(Right::ReadRuns, |view| Ok(render::details(view, view.run(name)?, &beside)))?;
    see_log(ask, name).await?;
    Ok(Reply::json(200, &body))
}

/// Whoever streams asks for the details first and for the log next: a run that only waits to be seen is seen.
pub(super) async fn see_log(ask: &Ask<'_>, name: &str) -> Result<(), Fail> {
    let waits = ask.read(Right::ReadRuns, |view| Ok(!runs::log_seen(view, view.run(name)?).is_empty()))?;
    if waits {
        let name = name.to_owned();
        ask.write(Right::ReadRuns, move |view| Ok(((), runs::log_seen(view, view.run(&name)?)))).await?;
    }
    Ok(())
}

async fn run_data(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let name = document::str_at(&body, "runId")
        .ok_or_else(|| ApiError::bad_request("BadArgument", "`rundata` needs a `runId`.").with_target("runId"))?;
    let beside = beside(ask, &*ask.run(Right::ReadRuns, name)?).await?;
    let body = ask.read(Right::ReadRuns, |view| Ok(render::data(view, view.run(name)?, &beside)))?;
    Ok(Reply::json(200, &body))
}

/// PATCH of a run; one that names itself is made where it is not there (`Experiment.start_logging`).
async fn patch(ask: &Ask<'_>, experiment: Option<&str>, name: &str) -> Answer {
    let change = ask.body()?;
    let (name, experiment) = (name.to_owned(), experiment.map(str::to_owned));
    let shown = ask
        .write(Right::WriteRuns, move |view| {
            let mut work = view.snapshot.clone();
            let batch = upsert(view, experiment.as_deref(), &name, &change)?;
            work.amend(&batch);
            let after = View { snapshot: &work, ..*view };
            Ok((render::run(&after, after.run(&name)?, &render::Beside::default()), batch))
        })
        .await?;
    Ok(Reply::json(200, &shown))
}

/// Changes a run, or makes one. `experiment` is a name or an id.
fn upsert(view: &View<'_>, experiment: Option<&str>, name: &str, change: &Value) -> Result<Batch, ApiError> {
    let missing = match view.run(name) {
        Ok(run) => return runs::patch(view, run, change).map(|(_, batch)| batch),
        Err(missing) => missing,
    };
    let names_itself = document::str_at(change, "runId").is_some_and(|id| id.eq_ignore_ascii_case(name));
    let (404, true, Some(experiment)) = (missing.status, names_itself, experiment) else { return Err(missing) };
    let (experiment, mut batch) = experiments::get_or_create(view, experiment)?;
    let text = |member: &str| document::str_at(change, member).map(str::to_owned);
    let new = runs::NewRun {
        name: name.to_owned(),
        display_name: text("displayName").or_else(|| text("name")),
        experiment: experiment.name,
        tags: document::at(change, "tags").and_then(Value::as_object).cloned().unwrap_or_default(),
        started: None,
        parent: text("parentRunId"),
    };
    let (_, _, made) = runs::create(view, &new)?;
    let mut work = view.snapshot.clone();
    work.amend(&made);
    let after = View { snapshot: &work, ..*view };
    let (_, patched) = runs::patch(&after, after.run(name)?, change)?;
    batch.audit = made.audit;
    batch.changes.extend(made.changes);
    batch.changes.extend(patched.changes);
    Ok(batch)
}

async fn batch(ask: &Ask<'_>, experiment: &str) -> Answer {
    let body = ask.body()?;
    let experiment = experiment.to_owned();
    if document::array_at(&body, "runs").len() > BATCH_MAX {
        return Err(Fail::Api(ApiError::bad_request("BadArgument", format!("A batch has at most {BATCH_MAX} runs."))));
    }
    let made = ask
        .write(Right::WriteRuns, move |view| {
            let mut work = view.snapshot.clone();
            let mut all = Batch::default();
            let (mut shown, mut errors) = (Map::new(), Map::new());
            for change in document::array_at(&body, "runs") {
                let name = document::str_at(change, "runId").unwrap_or_default().to_owned();
                let before = work.clone();
                let here = View { snapshot: &before, ..*view };
                match upsert(&here, Some(&experiment), &name, change) {
                    Ok(batch) => {
                        work.amend(&batch);
                        all.audit = batch.audit;
                        all.changes.extend(batch.changes);
                        let after = View { snapshot: &work, ..*view };
                        shown.insert(name.clone(), render::run(&after, after.run(&name)?, &render::Beside::default()));
                    }
                    Err(refusal) => {
                        errors.insert(name, refusal.to_body());
                    }
                }
            }
            Ok((json!({"runs": shown, "errors": errors}), all))
        })
        .await?;
    Ok(Reply::json(200, &made))
}

async fn batch_events(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let events = document::array_at(&body, "events");
    if events.len() > BATCH_MAX {
        return Err(Fail::Api(ApiError::bad_request(
            "BadArgument",
            format!("A batch has at most {BATCH_MAX} events."),
        )));
    }
    let mut errors = Vec::new();
    for event in events {
        let run = document::str_at(event, "data.RunId").unwrap_or_default().to_owned();
        match post_event(ask, &run, event.clone()).await {
            Ok(()) => {}
            Err(Fail::Api(refusal)) => errors.push(json!({"key": event, "value": refusal.to_body()})),
            Err(fail) => return Err(fail),
        }
    }
    Ok(Reply::json(200, &json!({"errors": errors})))
}

async fn post_event(ask: &Ask<'_>, run: &str, event: Value) -> Result<(), Fail> {
    let run = run.to_owned();
    ask.write(Right::WriteRuns, move |view| Ok(((), events::apply(view, view.run(&run)?, &event)?))).await
}

async fn delete_tags(ask: &Ask<'_>, run: &str) -> Answer {
    let tags = removal(&names_of(ask)?);
    let run = run.to_owned();
    ask.write(Right::WriteRuns, move |view| {
        runs::patch(view, view.run(&run)?, &json!({"tags": tags})).map(|(_, batch)| ((), batch))
    })
    .await?;
    Ok(Reply::json(200, &json!({"errors": {}})))
}

fn children(ask: &Ask<'_>, parent: &str) -> Answer {
    let found = ask.read(Right::ReadRuns, |view| {
        view.run(parent)?;
        let own = |run: &Run| run.parent() == Some(parent);
        let children = view.runs().filter(|d| own(&Run::of(&d.body)));
        Ok(children.map(|d| render::run(view, d, &render::Beside::default())).collect())
    })?;
    Ok(Reply::json(200, &list(found)))
}

fn query(ask: &Ask<'_>, rest: &[&str]) -> Answer {
    let body = ask.body()?;
    let text =
        |name: &str| document::str_at(&body, name).or_else(|| ask.query(&name.to_lowercase())).map(str::to_owned);
    let asked = text("filter").or_else(|| ask.query("$filter").map(str::to_owned)).unwrap_or_default();
    let filter = Filter::parse(&asked)?;
    let top = document::u64_at(&body, "top")
        .or_else(|| ask.query("top").or_else(|| ask.query("$top"))?.parse().ok())
        .map_or(PAGE_RUNS_MAX, |n| usize::try_from(n).unwrap_or(PAGE_RUNS_MAX).clamp(1, PAGE_RUNS_MAX));
    let skip: usize = text("continuationToken").and_then(|t| t.parse().ok()).unwrap_or(0);
    let view_type = text("viewType").unwrap_or_else(|| "Default".to_owned()).to_lowercase();
    let experiment = match rest {
        [_, name, _] => Some((*name).to_owned()),
        _ => None,
    };
    let found = ask.read(Right::ReadRuns, |view| {
        let experiment = experiment.map(|name| experiments::find(view, &name)).transpose()?;
        let mut found: Vec<Value> = view
            .runs()
            .map(|d| render::run(view, d, &render::Beside::default()))
            .filter(|run| experiment.as_ref().is_none_or(|e| run["experimentId"] == e.id))
            .filter(|run| match view_type.as_str() {
                "all" => true,
                "archivedonly" => run["hidden"] == true,
                _ => run["hidden"] != true,
            })
            .filter(|run| filter.fits(run))
            .collect();
        // The newest first, as the run history's pages have them.
        found.sort_by(|a, b| b["runNumber"].as_u64().cmp(&a["runNumber"].as_u64()));
        Ok(found)
    })?;
    let total = found.len();
    let page: Vec<Value> = found.into_iter().skip(skip).take(top).collect();
    let next = (skip + page.len() < total).then(|| (skip + page.len()).to_string());
    Ok(Reply::json(200, &json!({"value": page, "continuationToken": next, "nextLink": null})))
}

/// A fresh token for a run, asked for with the one it has; nobody else gets a run's token here.
async fn token(ask: &Ask<'_>, run: &str) -> Answer {
    let stored = ask.run(Right::WriteRuns, run)?;
    if ask.principal.run.is_none() {
        return Err(Fail::Api(ApiError::new(
            403,
            "AuthorizationFailed",
            format!("Only run '{}' itself can renew its token.", stored.id.name()),
        )));
    }
    if Status::of(&stored.body).is_some_and(Status::is_terminal) {
        return Err(Fail::Api(ApiError::new(403, "AuthorizationFailed", "The run has ended, and so has its token.")));
    }
    let now = ask.server.clock.now();
    let life = jiff::SignedDuration::from_secs(crate::token::authority::TOKEN_LIFE_SECONDS);
    match ask.server.authority.issue(&ask.principal, RUN_AUDIENCE, now).await {
        Ok(token) => Ok(Reply::json(
            200,
            &json!({"token": token, "expiryTimeUtc": moat_control::history::time(now.saturating_add(life).unwrap_or(now))}),
        )
        .with("Cache-Control", "no-store")),
        Err(error) => Ok(ask.server.internal_error("renewing a run's token", &error)),
    }
}
