//! `/metric/v2.0`: metrics as azureml-core logs and reads them.

use moat_arm::{ApiError, document};
use moat_control::Method;
use moat_control::history::Right;
use moat_control::history::mlflow::{parse_integer, parse_number};
use moat_control::history::time;
use moat_store::tracking::{Batch, PAGE_POINTS_MAX, Point, SCALAR};
use serde_json::{Map, Value, json};

use super::ask::{Ask, Fail};
use crate::http::reply::Reply;

pub(super) async fn answer(ask: &Ask<'_>, rest: &[&str]) -> Result<Reply, Fail> {
    match (ask.call.method, rest) {
        (Method::Post, ["runs", run, "batch"]) => post(ask, run).await,
        (Method::Post, ["runs", run, "list"]) => names(ask, run).await,
        (Method::Post, ["runs", run, "full"]) => full(ask, run).await,
        _ => Err(Fail::Api(super::not_served(ask.call))),
    }
}

/// Logs values; what is wrong with one metric is told beside it and stops no other.
async fn post(ask: &Ask<'_>, run: &str) -> Result<Reply, Fail> {
    let stored = ask.run(Right::WriteRuns, run)?;
    let body = ask.body()?;
    let now = ask.server.clock.now().as_millisecond();
    let mut errors = Vec::new();
    for metric in document::array_at(&body, "values") {
        let logged = match points(metric, now) {
            Ok(points) => ask.log(&stored, Batch { points, ..Batch::default() }).await,
            Err(refusal) => Err(Fail::Api(refusal)),
        };
        match logged {
            Ok(()) => {}
            Err(Fail::Api(refusal)) => errors.push(json!({"metric": metric, "errorResponse": refusal.to_body()})),
            Err(fail) => return Err(fail),
        }
    }
    Ok(Reply::json(if errors.is_empty() { 200 } else { 207 }, &json!({"errors": errors})))
}

/// The values of one `MetricV2Dto`.
fn points(metric: &Value, now: i64) -> Result<Vec<Point>, ApiError> {
    let key = document::str_at(metric, "name").unwrap_or_default();
    let kind = document::str_at(metric, "properties.uxMetricType").unwrap_or(SCALAR);
    let columns = document::at(metric, "columns").cloned().unwrap_or_else(|| json!({key: "double"}));
    let values = document::array_at(metric, "value");
    if key.is_empty() || values.is_empty() {
        return Err(ApiError::bad_request("BadArgument", "A metric has a `name` and at least one `value`."));
    }
    let point = |value: &Value| {
        let data = document::at(value, "data").and_then(Value::as_object);
        // A number under the metric's own name is what MLflow knows too; anything else is kept as it is.
        let number = data.filter(|d| d.len() == 1).and_then(|d| d.get(key)).filter(|v| !v.is_boolean()).and_then(|v| {
            let texts = document::str_at(&columns, key).is_some_and(|t| t.eq_ignore_ascii_case("string"));
            if texts { None } else { parse_number(v) }
        });
        let when = document::str_at(value, "createdUtc").and_then(|t| t.parse::<jiff::Timestamp>().ok());
        Point {
            key: key.to_owned(),
            kind: kind.to_owned(),
            columns: columns.clone(),
            metric_id: document::str_at(value, "metricId").map(str::to_owned),
            step: document::at(value, "step").and_then(parse_integer).unwrap_or(0),
            time: when.map_or(now, jiff::Timestamp::as_millisecond),
            value: number,
            data: if number.is_some() { None } else { data.map(|d| Value::Object(d.clone())) },
        }
    };
    Ok(values.iter().map(point).collect())
}

async fn names(ask: &Ask<'_>, run: &str) -> Result<Reply, Fail> {
    let key = moat_control::history::runs::series_key(&*ask.run(Right::ReadRuns, run)?);
    let series = ask.tracked(move |tracking| tracking.series(&key)).await?;
    let shown =
        series.into_iter().map(|s| json!({"metricKey": {"namespace": null, "name": s.key}, "columns": s.columns}));
    Ok(Reply::json(200, &super::list(shown.collect())))
}

async fn full(ask: &Ask<'_>, run: &str) -> Result<Reply, Fail> {
    let body = ask.body()?;
    let name = document::str_at(&body, "metricName").unwrap_or_default().to_owned();
    let after = document::str_at(&body, "continuationToken").and_then(|t| t.parse().ok()).unwrap_or(0);
    let when = |member: &str| {
        document::str_at(&body, member)
            .and_then(|t| t.parse::<jiff::Timestamp>().ok())
            .map(jiff::Timestamp::as_millisecond)
    };
    let (from, to) = (when("startTime").unwrap_or(i64::MIN), when("endTime").unwrap_or(i64::MAX));
    let stored = ask.run(Right::ReadRuns, run)?;
    let (key, metric) = (moat_control::history::runs::series_key(&stored), name.clone());
    let page = ask.tracked(move |tracking| tracking.history(&key, &metric, after, PAGE_POINTS_MAX)).await?;
    let Some(first) = page.points.first() else {
        return Err(Fail::Api(ApiError::new(
            404,
            "MetricNotFound",
            format!("Run '{run}' has logged no metric '{}'.", name.escape_debug()),
        )));
    };
    let (columns, kind) = (first.columns.clone(), first.kind.clone());
    let value: Vec<Value> = page.points.iter().filter(|p| (from..=to).contains(&p.time)).map(value).collect();
    Ok(Reply::json(
        200,
        &json!({
            "dataContainerId": moat_control::history::render::data_container(stored.id.name()),
            "name": name,
            "columns": columns,
            "properties": {"uxMetricType": kind},
            "namespace": null,
            "standardSchemaId": null,
            "value": value,
            "continuationToken": page.next.map(|n| n.to_string()),
            "nextLink": null,
        }),
    ))
}

fn value(point: &Point) -> Value {
    let data = point.data.clone().unwrap_or_else(|| json!({ &point.key: shown(point) }));
    json!({
        "metricId": point.metric_id,
        "createdUtc": jiff::Timestamp::from_millisecond(point.time).ok().map(time),
        "step": point.step,
        "data": data,
    })
}

/// The number as the column's type has it.
fn shown(point: &Point) -> Value {
    let whole = document::str_at(&point.columns, &point.key).is_some_and(|t| t.eq_ignore_ascii_case("int"));
    match point.value {
        Some(v) if whole && v.fract() == 0.0 && v.abs() < 9e15 => json!(v as i64),
        Some(v) if v.is_nan() => json!("NaN"),
        Some(v) if v.is_infinite() => json!(if v > 0.0 { "Infinity" } else { "-Infinity" }),
        Some(v) => json!(v),
        None => Value::Null,
    }
}

/// The first protocol's query: what azureml-core asks where it was told not to use the second.
pub(super) async fn old_query(ask: &Ask<'_>) -> Result<Reply, Fail> {
    let filter = ask.query("$filter").unwrap_or_default();
    let runs: Vec<String> =
        filter.split("RunId eq ").skip(1).filter_map(|t| t.split_whitespace().next()).map(str::to_owned).collect();
    let mut found = Vec::new();
    for run in runs {
        let logged = ask.logged(&*ask.run(Right::ReadRuns, &run)?).await?;
        for metric in logged.metrics {
            let mut cell = Map::new();
            cell.insert(metric.key.clone(), json!(metric.value));
            found.push(json!({
                "runId": run, "metricId": format!("{run}/{}", metric.key), "dataContainerId": null,
                "metricType": SCALAR, "name": metric.key, "description": "", "label": null, "numCells": 1,
                "dataLocation": null, "cells": [cell],
                "createdUtc": jiff::Timestamp::from_millisecond(metric.timestamp).ok().map(time),
                "schema": {"numProperties": 1, "properties": [{"propertyId": metric.key, "name": metric.key, "type": "float"}]},
            }));
        }
    }
    Ok(Reply::json(200, &super::list(found)))
}
