//! Examples of REST specifications: one exchange, as parameters and possible answers.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::cassette::strings;
use super::operations::Operations;
use crate::replay::recording::{Answer, Body, Exchange, Expected, LEADING, Request};

const HOST: &str = "management.azure.com";

pub(super) fn read(file: &Path, json: &Value, operations: &Operations) -> Result<Exchange> {
    let parameters = &json["parameters"];
    let operation = operations.of(file, parameters)?;
    let given = parameters.as_object().context("its parameters are no object")?;
    let mut path = operation.path.clone();
    let mut query = Vec::new();
    let mut headers = BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]);
    let mut body = None;
    for (name, value) in given {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let slot = format!("{{{name}}}");
        if let Some(at) = path.to_lowercase().find(&slot.to_lowercase()) {
            // A scope is a path of its own.
            path.replace_range(at..at + slot.len(), &encode(text.trim_matches('/'), true));
            continue;
        }
        match operation.places.get(name).map(String::as_str) {
            Some("body") => body = Some(value),
            Some("header") => {
                headers.insert(name.to_lowercase(), text);
            }
            _ if value.is_object() => body = body.or(Some(value)),
            _ if value.is_array() => {}
            _ => query.push(format!("{}={}", encode(name, false), encode(&text, false))),
        }
    }
    if path.contains('{') {
        bail!("it gives no value for a parameter of its path {path}");
    }
    let path = format!("/{}", path.trim_matches('/'));
    let mut answers = BTreeMap::new();
    for (status, answer) in json["responses"].as_object().into_iter().flatten() {
        let Ok(status) = status.parse() else { continue };
        let mut headers = strings(&answer["headers"]);
        headers.retain(|name, _| LEADING.contains(&name.as_str()));
        let body = match answer.get("body") {
            None | Some(Value::Null) => Body::Empty,
            Some(json) => Body::Json(json.clone()),
        };
        answers.insert(status, Answer { headers, body });
    }
    if answers.is_empty() {
        bail!("it lists no answer");
    }
    Ok(Exchange {
        request: Request {
            method: operation.method,
            host: HOST.to_owned(),
            target: format!("{path}?{}", query.join("&")),
            headers,
            body: body.map(Value::to_string).unwrap_or_default(),
        },
        expected: Expected { answers },
    })
}

/// Percent-encodes what a path or query cannot hold.
fn encode(text: &str, path: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte) || (path && byte == b'/');
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
