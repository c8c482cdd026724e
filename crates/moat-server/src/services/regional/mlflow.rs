//! `/mlflow/v1.0` and `/mlflow/v2.0`: MLflow's REST API, for azureml-mlflow (`azureml://` tracking URIs) and for plain
//! MLflow (`https://`, `MLFLOW_TRACKING_TOKEN`). Registries, traces, logged models: refused by name, 404.

use moat_arm::{ApiError, Batch, Stored, document};
use moat_control::Method;
use moat_control::history::mlflow::{self as shapes, Logged, parse_integer, parse_number};
use moat_control::history::search::{Filter, Order};
use moat_control::history::{Right, View, experiments, runs};
use moat_store::tracking::{self, Point};
use serde_json::{Map, Value, json};

use super::artifacts;
use super::ask::{Ask, Fail};
use crate::http::reply::Reply;

/// MLflow's own bounds for one call.
const METRICS_PER_BATCH_MAX: usize = 1_000;
const PARAMS_PER_BATCH_MAX: usize = 100;
const TAGS_PER_BATCH_MAX: usize = 100;
/// Runs or experiments answered at a time.
const PAGE_MAX: usize = 1_000;
/// Values of a metric answered at a time.
const HISTORY_PAGE_MAX: usize = 25_000;

type Answer = Result<Reply, Fail>;

/// An error in MLflow's shape: clients read `error_code`.
pub(super) fn error(error: &ApiError) -> Reply {
    let own = error.code.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let code = match error.status {
        _ if own => error.code.as_str(),
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "RESOURCE_DOES_NOT_EXIST",
        409 => "RESOURCE_ALREADY_EXISTS",
        _ => "INVALID_PARAMETER_VALUE",
    };
    Reply::json(error.status, &json!({"error_code": code, "message": error.message}))
}

pub(super) async fn answer(ask: &Ask<'_>, rest: &[&str]) -> Answer {
    use Method::{Get, Patch, Post};
    // Older clients say `preview` for `2.0`; newer ones ask 3.0 for what 2.0 lacks.
    let ["api", "2.0" | "preview", "mlflow", call @ ..] = rest else { return Err(not_found(ask)) };
    match (ask.call.method, call) {
        (Post, ["experiments", "create"]) => create_experiment(ask).await,
        (Get, ["experiments", "get"]) => get_experiment(ask, "experiment_id"),
        (Get, ["experiments", "get-by-name"]) => get_experiment(ask, "experiment_name"),
        (Get | Post, ["experiments", "search" | "list"]) => search_experiments(ask),
        (Post, ["experiments", "update"]) => change_experiment(ask, false).await,
        (Post, ["experiments", "delete"]) => archive_experiment(ask, true).await,
        (Post, ["experiments", "restore"]) => archive_experiment(ask, false).await,
        (Post, ["experiments", "set-experiment-tag"]) => change_experiment(ask, true).await,
        (Post, ["runs", "create"]) => create_run(ask).await,
        (Get, ["runs", "get"]) => get_run(ask).await,
        (Post | Patch, ["runs", "update"]) => update_run(ask).await,
        (Post, ["runs", "delete"]) => hide_run(ask, true).await,
        (Post, ["runs", "restore"]) => hide_run(ask, false).await,
        (Post, ["runs", "search"]) => search_runs(ask).await,
        (Post, ["runs", "log-metric"]) => log_metric(ask).await,
        (Post, ["runs", "log-parameter"]) => log_parameter(ask).await,
        (Post, ["runs", "log-batch"]) => log_batch(ask).await,
        (Post, ["runs", "log-batch-async"]) => {
            log_batch(ask).await?;
            // Nothing is left to wait for: an empty id says so to azureml-mlflow.
            Ok(Reply::json(200, &json!({"batch_tracking_id": ""})))
        }
        (Get | Post, ["runs", "get-run-data-status"]) => Ok(Reply::json(200, &json!({"is_complete": true}))),
        (Post | Patch, ["runs", "set-tag"]) => {
            let body = ask.body()?;
            tag(ask, &body, document::at(&body, "value").cloned().unwrap_or_else(|| json!(""))).await
        }
        (Post, ["runs", "delete-tag"]) => tag(ask, &ask.body()?, Value::Null).await,
        (Post, ["runs", "log-inputs"]) => log_inputs(ask).await,
        (Get, ["metrics", "get-history"]) => metric_history(ask).await,
        (Get, ["artifacts", "list"]) => list_artifacts(ask).await,
        _ => Err(not_found(ask)),
    }
}

fn not_found(ask: &Ask<'_>) -> Fail {
    Fail::Api(ApiError::new(
        404,
        "ENDPOINT_NOT_FOUND",
        format!("This environment does not serve `{}` of MLflow.", ask.call.path.escape_debug()),
    ))
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::bad_request("INVALID_PARAMETER_VALUE", message)
}

/// A text that a call cannot do without.
fn needed<'a>(body: &'a Value, member: &str) -> Result<&'a str, ApiError> {
    document::str_at(body, member)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| invalid(format!("Missing value for required parameter '{member}'.")))
}

/// `run_id`, or what it was called first.
fn run_id(body: &Value) -> Result<&str, ApiError> {
    needed(body, "run_id").or_else(|missing| needed(body, "run_uuid").map_err(|_| missing))
}

/// The parameters of a GET as if they were a body.
fn asked(ask: &Ask<'_>) -> Result<Value, ApiError> {
    let mut body = ask.body()?;
    for (name, value) in &ask.call.query {
        if body.get(name).is_none() {
            body[name] = json!(value);
        }
    }
    Ok(body)
}

fn tags_of(body: &Value) -> Map<String, Value> {
    let pair = |tag: &Value| {
        Some((document::str_at(tag, "key")?.to_owned(), tag.get("value").cloned().unwrap_or_else(|| json!(""))))
    };
    document::array_at(body, "tags").iter().filter_map(pair).collect()
}

fn page(body: &Value, member: &str, max: usize) -> usize {
    let asked = document::at(body, member).and_then(parse_integer).and_then(|n| usize::try_from(n).ok());
    asked.filter(|n| *n > 0).unwrap_or(max).min(max)
}

fn offset(body: &Value) -> usize {
    document::str_at(body, "page_token").and_then(|t| t.parse().ok()).unwrap_or(0)
}

fn next_page(from: usize, taken: usize, total: usize) -> Option<String> {
    (from + taken < total).then(|| (from + taken).to_string())
}

// Experiments.

fn artifact_root(ask: &Ask<'_>, id: &str) -> String {
    format!("azureml://{}/mlflow/v2.0{}/experiments/{id}", ask.call.host, ask.workspace)
}

async fn create_experiment(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let (name, tags) = (needed(&body, "name")?.to_owned(), tags_of(&body));
    let id = ask
        .write(Right::WriteExperiments, move |view| match experiments::find(view, &name) {
            Ok(_) => Err(ApiError::new(400, "RESOURCE_ALREADY_EXISTS", format!("Experiment '{name}' exists already."))),
            Err(_) => experiments::create(view, &name, &tags).map(|(made, batch)| (made.id, batch)),
        })
        .await?;
    Ok(Reply::json(200, &json!({"experiment_id": id})))
}

fn get_experiment(ask: &Ask<'_>, member: &str) -> Answer {
    let asked = asked(ask)?;
    let name = needed(&asked, member)?;
    let found = ask.read(Right::ReadExperiments, |view| experiments::find(view, name))?;
    let shown = shapes::experiment(&found, &artifact_root(ask, &found.id));
    Ok(Reply::json(200, &json!({"experiment": shown})))
}

fn search_experiments(ask: &Ask<'_>) -> Answer {
    let body = asked(ask)?;
    if let Some(filter) = document::str_at(&body, "filter").filter(|f| !f.trim().is_empty()) {
        return Err(Fail::Api(invalid(format!(
            "Experiments cannot be searched by a filter here (`{}`); list them, or get one by name.",
            filter.escape_debug()
        ))));
    }
    let view_type = document::str_at(&body, "view_type").unwrap_or("ACTIVE_ONLY").to_owned();
    let all = ask.read(Right::ReadExperiments, |view| Ok(experiments::all(view)))?;
    let found: Vec<_> = all.into_iter().filter(|e| wanted(&view_type, e.is_archived())).collect();
    let (from, max) = (offset(&body), page(&body, "max_results", PAGE_MAX));
    let shown: Vec<Value> =
        found.iter().skip(from).take(max).map(|e| shapes::experiment(e, &artifact_root(ask, &e.id))).collect();
    let next = next_page(from, shown.len(), found.len());
    Ok(Reply::json(200, &json!({"experiments": shown, "next_page_token": next})))
}

fn wanted(view_type: &str, archived: bool) -> bool {
    match view_type {
        "ALL" => true,
        "DELETED_ONLY" => archived,
        _ => !archived,
    }
}

async fn change_experiment(ask: &Ask<'_>, tag: bool) -> Answer {
    let body = ask.body()?;
    let id = needed(&body, "experiment_id")?.to_owned();
    if !tag {
        return Err(Fail::Api(invalid("Experiments are not renamed here: runs name them.")));
    }
    let value = document::at(&body, "value").cloned().unwrap_or_else(|| json!(""));
    let tags = [(needed(&body, "key")?.to_owned(), value)].into_iter().collect();
    edit_experiment(ask, id, experiments::Change { tags, ..Default::default() }).await
}

async fn archive_experiment(ask: &Ask<'_>, archived: bool) -> Answer {
    let body = ask.body()?;
    let id = needed(&body, "experiment_id")?.to_owned();
    edit_experiment(ask, id, experiments::Change { archived: Some(archived), ..Default::default() }).await
}

async fn edit_experiment(ask: &Ask<'_>, id: String, change: experiments::Change) -> Answer {
    ask.write(Right::WriteExperiments, move |view| {
        experiments::change(view, &id, &change).map(|(_, batch)| ((), batch))
    })
    .await?;
    Ok(Reply::json(200, &json!({})))
}

// Runs.

async fn create_run(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let host = ask.call.host.clone();
    let shown = ask
        .write(Right::SubmitRuns, move |view| {
            // Without an experiment it is the default one, as with any tracking server.
            let experiment = match document::str_at(&body, "experiment_id").filter(|id| !matches!(*id, "" | "0")) {
                Some(id) => experiments::find(view, id)?.name,
                None => moat_model::types::microsoft_machinelearningservices::experiments::DEFAULT.to_owned(),
            };
            let mut tags = tags_of(&body);
            let named = tags.shift_remove(shapes::RUN_NAME);
            let parent = tags.get(shapes::PARENT_RUN).and_then(Value::as_str).map(str::to_owned);
            let name = document::str_at(&body, "run_name").filter(|n| !n.is_empty());
            let new = runs::NewRun {
                name: String::new(),
                display_name: name.or(named.as_ref().and_then(Value::as_str)).map(str::to_owned),
                experiment,
                tags,
                started: document::at(&body, "start_time").and_then(instant),
                parent,
            };
            let (id, _, batch) = runs::create(view, &new)?;
            let mut work = view.snapshot.clone();
            work.amend(&batch);
            let after = View { snapshot: &work, ..*view };
            Ok((shapes::run(&after, &host, after.run(id.name())?, &Logged::default()), batch))
        })
        .await?;
    Ok(Reply::json(200, &json!({"run": shown})))
}

fn instant(value: &Value) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_millisecond(parse_integer(value)?).ok()
}

async fn get_run(ask: &Ask<'_>) -> Answer {
    let body = asked(ask)?;
    let id = run_id(&body)?;
    let logged = ask.logged(&*ask.run(Right::ReadRuns, id)?).await?;
    let shown = ask.read(Right::ReadRuns, |view| Ok(shapes::run(view, &ask.call.host, view.run(id)?, &logged)))?;
    Ok(Reply::json(200, &json!({"run": shown})))
}

async fn update_run(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let (id, host) = (run_id(&body)?.to_owned(), ask.call.host.clone());
    let status = match document::str_at(&body, "status") {
        Some(text) => Some(
            shapes::parse_status(text)
                .ok_or_else(|| invalid(format!("'{}' is no status of a run.", text.escape_debug())))?,
        ),
        None => None,
    };
    let info = ask
        .write(Right::WriteRuns, move |view| {
            let run = view.run(&id)?;
            let end = document::at(&body, "end_time").and_then(instant);
            let (_, batch) = shapes::update(view, run, status, end, document::str_at(&body, "run_name"))?;
            let mut work = view.snapshot.clone();
            work.amend(&batch);
            let after = View { snapshot: &work, ..*view };
            Ok((shapes::info(&after, &host, after.run(&id)?), batch))
        })
        .await?;
    Ok(Reply::json(200, &json!({"run_info": info})))
}

async fn hide_run(ask: &Ask<'_>, hidden: bool) -> Answer {
    let id = run_id(&ask.body()?)?.to_owned();
    ask.write(Right::WriteRuns, move |view| {
        runs::patch(view, view.run(&id)?, &json!({"hidden": hidden})).map(|(_, batch)| ((), batch))
    })
    .await?;
    Ok(Reply::json(200, &json!({})))
}

async fn search_runs(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let ids: Vec<String> = document::array_at(&body, "experiment_ids").iter().filter_map(text).collect();
    let filter = Filter::parse(document::str_at(&body, "filter").unwrap_or_default())?;
    let order: Vec<String> = document::array_at(&body, "order_by").iter().filter_map(text).collect();
    let order = Order::parse(&order)?;
    let view_type = document::str_at(&body, "run_view_type").unwrap_or("ACTIVE_ONLY");
    let candidates: Vec<std::sync::Arc<Stored>> = ask.read(Right::ReadRuns, |view| {
        let names: Vec<String> = ids.iter().filter_map(|id| experiments::find(view, id).ok()).map(|e| e.id).collect();
        let within = |d: &Stored| names.contains(&experiments::of_run(view, &d.body).id);
        Ok(view.runs().filter(|d| wanted(view_type, shapes::is_archived(d)) && within(d)).cloned().collect())
    })?;
    let keys: Vec<String> = candidates.iter().map(|run| runs::series_key(run)).collect();
    let logged: Vec<Logged> = ask
        .tracked(move |tracking| keys.iter().map(|key| tracking.summary(key)).collect::<Result<Vec<_>, _>>())
        .await?
        .into_iter()
        .map(Ask::from_summary)
        .collect();
    let found = ask.read(Right::ReadRuns, |view| {
        let mut found: Vec<_> = candidates
            .iter()
            .zip(&logged)
            .map(|(run, logged)| (shapes::searched(view, &ask.call.host, run, logged), run, logged))
            .filter(|(searched, _, _)| filter.fits(searched))
            .collect();
        found.sort_by(|a, b| order.compare(&a.0, &b.0));
        Ok(found.into_iter().map(|(_, run, logged)| shapes::run(view, &ask.call.host, run, logged)).collect::<Vec<_>>())
    })?;
    let (from, max) = (offset(&body), page(&body, "max_results", PAGE_MAX));
    let shown: Vec<&Value> = found.iter().skip(from).take(max).collect();
    let next = next_page(from, shown.len(), found.len());
    Ok(Reply::json(200, &json!({"runs": shown, "next_page_token": next})))
}

// What runs log.

fn metric(body: &Value, now: i64) -> Result<Point, ApiError> {
    let key = needed(body, "key")?;
    let value = document::at(body, "value")
        .and_then(parse_number)
        .ok_or_else(|| invalid(format!("The value of metric '{}' is no number.", key.escape_debug())))?;
    let integer = |member: &str| document::at(body, member).and_then(parse_integer);
    Ok(Point::number(key, value, integer("step").unwrap_or(0), integer("timestamp").unwrap_or(now)))
}

fn parameter(body: &Value) -> Result<(String, String), ApiError> {
    let value = document::at(body, "value").and_then(Value::as_str).unwrap_or_default();
    Ok((needed(body, "key")?.to_owned(), value.to_owned()))
}

fn now(ask: &Ask<'_>) -> i64 {
    ask.server.clock.now().as_millisecond()
}

async fn log(ask: &Ask<'_>, run: &str, batch: tracking::Batch) -> Answer {
    let run = ask.run(Right::WriteRuns, run)?;
    ask.log(&run, batch).await?;
    Ok(Reply::json(200, &json!({})))
}

async fn log_metric(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let points = vec![metric(&body, now(ask))?];
    log(ask, run_id(&body)?, tracking::Batch { points, ..Default::default() }).await
}

async fn log_parameter(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let params = vec![parameter(&body)?];
    log(ask, run_id(&body)?, tracking::Batch { params, ..Default::default() }).await
}

async fn log_batch(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let run = run_id(&body)?.to_owned();
    for (member, max) in
        [("metrics", METRICS_PER_BATCH_MAX), ("params", PARAMS_PER_BATCH_MAX), ("tags", TAGS_PER_BATCH_MAX)]
    {
        let count = document::array_at(&body, member).len();
        if count > max {
            return Err(Fail::Api(invalid(format!("A batch can contain at most {max} {member}, got {count}."))));
        }
    }
    let each = |member: &str| document::array_at(&body, member).iter();
    let batch = tracking::Batch {
        points: each("metrics").map(|m| metric(m, now(ask))).collect::<Result<_, _>>()?,
        params: each("params").map(parameter).collect::<Result<_, _>>()?,
        inputs: Vec::new(),
    };
    let stored = ask.run(Right::WriteRuns, &run)?;
    if !batch.points.is_empty() || !batch.params.is_empty() {
        ask.log(&stored, batch).await?;
    }
    let tags = tags_of(&body);
    if !tags.is_empty() {
        set_tags(ask, run, tags).await?;
    }
    Ok(Reply::json(200, &json!({})))
}

async fn tag(ask: &Ask<'_>, body: &Value, value: Value) -> Answer {
    let tags = [(needed(body, "key")?.to_owned(), value)].into_iter().collect();
    set_tags(ask, run_id(body)?.to_owned(), tags).await?;
    Ok(Reply::json(200, &json!({})))
}

async fn set_tags(ask: &Ask<'_>, run: String, tags: Map<String, Value>) -> Result<(), Fail> {
    ask.write(Right::WriteRuns, move |view| {
        let batch: Batch = shapes::tag(view, view.run(&run)?, &tags)?;
        Ok(((), batch))
    })
    .await
}

async fn log_inputs(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let inputs = document::array_at(&body, "datasets")
        .iter()
        .map(|input| {
            let digest = needed(input, "dataset.digest")?;
            let name = needed(input, "dataset.name")?;
            Ok((format!("{name}@{digest}"), input.clone()))
        })
        .collect::<Result<_, ApiError>>()?;
    log(ask, run_id(&body)?, tracking::Batch { inputs, ..Default::default() }).await
}

async fn metric_history(ask: &Ask<'_>) -> Answer {
    let asked = asked(ask)?;
    let metric = needed(&asked, "metric_key")?.to_owned();
    let key = runs::series_key(&*ask.run(Right::ReadRuns, run_id(&asked)?)?);
    let after = document::str_at(&asked, "page_token").and_then(|t| t.parse().ok()).unwrap_or(0);
    let max = page(&asked, "max_results", HISTORY_PAGE_MAX);
    let page = ask.tracked(move |tracking| tracking.history(&key, &metric, after, max)).await?;
    let shown = page
        .points
        .into_iter()
        .filter_map(|p| Some(shapes::Metric { key: p.key, value: p.value?, timestamp: p.time, step: p.step }.render()));
    let metrics: Vec<Value> = shown.collect();
    Ok(Reply::json(200, &json!({"metrics": metrics, "next_page_token": page.next.map(|n| n.to_string())})))
}

async fn list_artifacts(ask: &Ask<'_>) -> Answer {
    let asked = asked(ask)?;
    let run = ask.run(Right::ReadRuns, run_id(&asked)?)?;
    let path = document::str_at(&asked, "path").unwrap_or_default().trim_matches('/').to_owned();
    let files = artifacts::folder(ask, run.id.name(), &path).await?;
    let root = ask.read(Right::ReadRuns, |view| Ok(shapes::artifact_uri(view, &ask.call.host, &run)))?;
    Ok(Reply::json(200, &json!({"root_uri": root, "files": files, "next_page_token": null})))
}
