//! VCR cassettes: YAML (or JSON) with `interactions`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use saphyr::{LoadableYamlNode as _, Scalar, Yaml};
use serde::Deserialize;
use serde_json::Value;

use crate::replay::recording::{Answer, Body, Exchange, Expected, LEADING, Request, split_url};

#[derive(Deserialize)]
struct Cassette {
    interactions: Vec<Interaction>,
}

#[derive(Deserialize)]
struct Interaction {
    request: Sent,
    response: Said,
}

#[derive(Deserialize)]
struct Sent {
    method: String,
    uri: String,
    #[serde(default)]
    headers: Value,
    #[serde(default)]
    body: Value,
}

#[derive(Deserialize)]
struct Said {
    status: Status,
    #[serde(default)]
    headers: Value,
    #[serde(default)]
    body: Value,
}

#[derive(Deserialize)]
struct Status {
    code: u16,
}

/// The exchanges of a YAML file, or `None` if it is no cassette.
pub(super) fn read_yaml(text: &str) -> Result<Option<Vec<Exchange>>> {
    if !text.lines().any(|l| l.starts_with("interactions:")) {
        return Ok(None);
    }
    let documents = Yaml::load_from_str(text).context("reading YAML")?;
    let cassette = documents.first().map(json).unwrap_or_default();
    read(cassette).map(Some)
}

fn json(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::Boolean(value)) => (*value).into(),
        Yaml::Value(Scalar::Integer(value)) => (*value).into(),
        Yaml::Value(Scalar::FloatingPoint(value)) => value.into_inner().into(),
        Yaml::Value(Scalar::String(value)) => value.as_ref().into(),
        Yaml::Sequence(items) => items.iter().map(json).collect(),
        Yaml::Mapping(members) => {
            members.iter().filter_map(|(name, value)| Some((name.as_str()?.to_owned(), json(value)))).collect()
        }
        // What is tagged is a body of bytes.
        Yaml::Tagged(_, value) => json(value),
        _ => Value::Null,
    }
}

/// The exchanges of a cassette in JSON.
pub(super) fn read(json: Value) -> Result<Vec<Exchange>> {
    exchanges(serde_json::from_value(json).context("reading a cassette")?)
}

fn exchanges(cassette: Cassette) -> Result<Vec<Exchange>> {
    cassette.interactions.into_iter().map(exchange).collect()
}

fn exchange(interaction: Interaction) -> Result<Exchange> {
    let Interaction { request, response } = interaction;
    let (host, target) = split_url(&request.uri).with_context(|| format!("'{}' is no URL", request.uri))?;
    let mut headers = strings(&response.headers);
    headers.retain(|name, _| LEADING.contains(&name.as_str()));
    let answer = Answer { headers, body: Body::of_text(&body(&response.body)) };
    Ok(Exchange {
        request: Request {
            method: request.method.to_uppercase(),
            host,
            target,
            headers: strings(&request.headers),
            body: body(&request.body),
        },
        expected: Expected { answers: BTreeMap::from([(response.status.code, answer)]) },
    })
}

/// Older cassettes keep a body as text, newer ones below `string`.
fn body(value: &Value) -> String {
    match value.get("string").unwrap_or(value) {
        Value::Null => String::new(),
        Value::String(text) => {
            // Some were printed, and what was printed was printed again.
            let mut text = text.clone();
            while let Some(inside) = python_bytes(&text) {
                text = inside;
            }
            text
        }
        other => other.to_string(),
    }
}

/// What is between the quotes of bytes as Python prints them: `b'{"a": "\\"1\\""}'`.
fn python_bytes(text: &str) -> Option<String> {
    let quoted = text.strip_prefix('b')?;
    let quote = quoted.chars().next().filter(|q| matches!(q, '\'' | '"'))?;
    let inside = quoted.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut bytes = Vec::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        let escaped = rest.chars().next().filter(|_| c == '\\');
        let Some(escaped) = escaped else {
            bytes.extend(c.to_string().bytes());
            continue;
        };
        rest = &rest[escaped.len_utf8()..];
        match escaped {
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'x' => {
                let digits = rest.get(..2)?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            other => bytes.extend(other.to_string().bytes()),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Headers are kept as lists; the first value counts.
pub(super) fn strings(headers: &Value) -> BTreeMap<String, String> {
    let pairs = headers.as_object().into_iter().flatten();
    pairs
        .filter_map(|(name, value)| {
            let value = value.get(0).unwrap_or(value);
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (!value.is_null()).then(|| (name.to_lowercase(), text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_python_printed_are_read_back() {
        let check = |text: &str| python_bytes(text).unwrap_or_else(|| "no bytes".to_owned());
        assert_eq!(check(r#"b'{"etag": "W/\\"1\\""}'"#), r#"{"etag": "W/\"1\""}"#);
        assert_eq!(check(r#"b"it's""#), "it's");
        assert_eq!(check(r"b'a\x41\xc3\xa9\n'"), "aA\u{e9}\n");
        assert_eq!(check("plain"), "no bytes");
    }
}
