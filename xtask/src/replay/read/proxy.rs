//! Recordings of the SDKs' test proxy: JSON with `Entries`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::cassette::strings;
use crate::replay::recording::{Answer, Body, Exchange, Expected, LEADING, Request, split_url};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    request_uri: String,
    request_method: String,
    #[serde(default)]
    request_headers: Value,
    #[serde(default)]
    request_body: Value,
    status_code: u16,
    #[serde(default)]
    response_headers: Value,
    #[serde(default)]
    response_body: Value,
}

pub(super) fn read(json: &Value) -> Result<Vec<Exchange>> {
    let entries: Vec<Entry> = serde_json::from_value(json["Entries"].clone()).context("reading entries")?;
    entries.into_iter().map(exchange).collect()
}

fn exchange(entry: Entry) -> Result<Exchange> {
    let (host, target) = split_url(&entry.request_uri).with_context(|| format!("'{}' is no URL", entry.request_uri))?;
    let mut headers = strings(&entry.response_headers);
    headers.retain(|name, _| LEADING.contains(&name.as_str()));
    let body = match entry.response_body {
        Value::Null => Body::Empty,
        Value::String(text) => Body::of_text(&text),
        // The proxy writes text that is not JSON as a list of its lines.
        Value::Array(lines) if !lines.is_empty() && lines.iter().all(Value::is_string) => Body::Other,
        json => Body::Json(json),
    };
    Ok(Exchange {
        request: Request {
            method: entry.request_method.to_uppercase(),
            host,
            target,
            headers: strings(&entry.request_headers),
            body: match entry.request_body {
                Value::Null => String::new(),
                Value::String(text) => text,
                json => json.to_string(),
            },
        },
        expected: Expected { answers: BTreeMap::from([(entry.status_code, Answer { headers, body })]) },
    })
}
