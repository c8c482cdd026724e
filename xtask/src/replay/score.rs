//! Whether an answer is the recorded one, by rules that hold for every recording:
//!
//! * the **status** is the recorded one, or one of those that an example lists;
//! * a recorded **error code** is the same;
//! * the **shape** is a superset: each recorded member is there with the same JSON type. A recorded
//!   `null` asks nothing. Of an array each element is compared with the one of the same name or id,
//!   else one element has to fit; an empty array does not stand for a filled one;
//! * a **value** counts where the request determined it: what it sent and Azure gave back the same,
//!   and a document's own `id`, `name` and `type`.
//!
//! `tags` is a map of the user's, so which members it has is a value, not shape; `nextLink` says how
//! much there was.
//!
//! A list of many resources is compared by those that the recording itself made or named: what else
//! lay in somebody's subscription that day is not known.

use std::collections::BTreeSet;

use serde_json::Value;

use super::moat::Said;
use super::recording::{Answer, Body, Expected};

/// One way in which an answer differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    Status {
        recorded: Vec<u16>,
        here: u16,
        said: String,
    },
    Code {
        recorded: String,
        here: String,
    },
    Missing(String),
    Type {
        at: String,
        recorded: &'static str,
        here: &'static str,
    },
    Value {
        at: String,
        recorded: String,
        here: String,
    },
    /// No answer at all: the service does not exist here, or the operation has no name here.
    NoAnswer(String),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Difference::Status { recorded, here, said } => {
                let recorded: Vec<_> = recorded.iter().map(u16::to_string).collect();
                write!(f, "status {here}, recorded {}{said}", recorded.join("|"))
            }
            Difference::Code { recorded, here } => write!(f, "error code {here}, recorded {recorded}"),
            Difference::Missing(at) => write!(f, "without {at}"),
            Difference::Type { at, recorded, here } => write!(f, "{at} is {here}, recorded {recorded}"),
            Difference::Value { at, recorded, here } => write!(f, "{at} is {here}, recorded {recorded}"),
            Difference::NoAnswer(why) => write!(f, "no answer: {why}"),
        }
    }
}

impl Difference {
    /// What kind of difference it is, for counting.
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Difference::Status { .. } => "status",
            Difference::Code { .. } => "error code",
            Difference::Missing(_) => "member missing",
            Difference::Type { .. } => "JSON type",
            Difference::Value { .. } => "value",
            Difference::NoAnswer(_) => "no answer",
        }
    }
}

/// What a comparison may know about the recording it is in.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// Ids, in lower case, of what the recording's requests address, in the server's words.
    pub(crate) own: &'a BTreeSet<String>,
    /// An example is alone: what its lists hold is shape only.
    pub(crate) example: bool,
    /// The path that was asked, in lower case.
    pub(crate) path: &'a str,
    /// The request's body.
    pub(crate) sent: &'a Value,
}

/// What a stub says, whatever it is asked.
pub(crate) fn stub() -> Said {
    let body = Body::Json(Value::Object(serde_json::Map::new()));
    Said { status: 200, answer: Answer { headers: Default::default(), body } }
}

/// All differences between what was recorded and what was said.
pub(crate) fn compare(expected: &Expected, said: &Said, context: &Context<'_>) -> Vec<Difference> {
    let Some(answer) = expected.answers.get(&said.status) else {
        let error = said.answer.body.json().and_then(|b| b.get("error"));
        let text = |name: &str| error.and_then(|e| e[name].as_str()).unwrap_or_default().to_owned();
        let said_more = error.map(|_| format!(" ({}: {})", text("code"), text("message")));
        return vec![Difference::Status {
            recorded: expected.answers.keys().copied().collect(),
            here: said.status,
            said: said_more.unwrap_or_default(),
        }];
    };
    let recorded = match &answer.body {
        Body::Empty => return Vec::new(),
        Body::Other if said.answer.body == Body::Empty => return vec![Difference::Missing("its body".to_owned())],
        Body::Other => return Vec::new(),
        Body::Json(recorded) => recorded,
    };
    let Some(here) = said.answer.body.json() else {
        return vec![Difference::Missing("its body".to_owned())];
    };
    let mut differences = Vec::new();
    if said.status >= 400 {
        let (then, now) = (code(recorded), code(here));
        if let Some(then) = then.filter(|t| now != Some(t)) {
            let here = now.unwrap_or("none").to_owned();
            differences.push(Difference::Code { recorded: then.to_owned(), here });
        }
    }
    let list = recorded.get("value").and_then(Value::as_array);
    if let (Some(items), Some(here_items)) = (list, here.get("value").and_then(Value::as_array)) {
        members(items, here_items, context, &mut differences);
        let mut rest = recorded.clone();
        if let Some(object) = rest.as_object_mut() {
            object.remove("value");
        }
        shape(&rest, here, "", &mut differences);
        return differences;
    }
    shape(recorded, here, "", &mut differences);
    if said.status < 400 {
        echo(context.sent, recorded, here, "", &mut differences);
        identity(context.path, recorded, here, &mut differences);
    }
    differences
}

fn code(body: &Value) -> Option<&str> {
    ["/error/code", "/code", "/odata.error/code"].iter().find_map(|at| body.pointer(at)?.as_str())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn at(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Every recorded member is there with its type.
fn shape(recorded: &Value, here: &Value, path: &str, out: &mut Vec<Difference>) {
    match (recorded, here) {
        (Value::Null, _) => {}
        (Value::Object(recorded), Value::Object(here)) => {
            for (name, value) in recorded.iter().filter(|(_, v)| !v.is_null()) {
                match here.get(name) {
                    _ if name == "nextLink" => {}
                    Some(same) if name == "tags" && same.is_object() => {}
                    None | Some(Value::Null) => out.push(Difference::Missing(at(path, name))),
                    Some(same) => shape(value, same, &at(path, name), out),
                }
            }
        }
        (Value::Array(recorded), Value::Array(here)) => {
            for (index, element) in recorded.iter().enumerate() {
                let path = format!("{path}[]");
                let twin = twin(element, here).or_else(|| here.get(index));
                let mut best = match twin {
                    None => vec![Difference::Missing(path.clone())],
                    Some(twin) => differences(element, twin, &path),
                };
                if !best.is_empty() && here.iter().any(|other| differences(element, other, &path).is_empty()) {
                    best.clear();
                }
                out.extend(best.into_iter().filter(|d| !out.contains(d)).collect::<Vec<_>>());
            }
        }
        (recorded, here) if kind(recorded) != kind(here) => {
            out.push(Difference::Type { at: path.to_owned(), recorded: kind(recorded), here: kind(here) });
        }
        _ => {}
    }
}

fn differences(recorded: &Value, here: &Value, path: &str) -> Vec<Difference> {
    let mut out = Vec::new();
    shape(recorded, here, path, &mut out);
    out
}

/// The element that stands for the same thing.
fn twin<'a>(element: &Value, here: &'a [Value]) -> Option<&'a Value> {
    ["id", "name"].iter().find_map(|member| {
        let wanted = element.get(member)?.as_str()?;
        here.iter().find(|v| v.get(member).and_then(Value::as_str).is_some_and(|n| n.eq_ignore_ascii_case(wanted)))
    })
}

/// The members of a list of resources.
fn members(recorded: &[Value], here: &[Value], context: &Context<'_>, out: &mut Vec<Difference>) {
    let id = |v: &Value| v.get("id").and_then(Value::as_str).map(str::to_lowercase);
    let own =
        |v: &&Value| id(v).is_none_or(|id| context.own.iter().any(|o| id == *o || id.starts_with(&format!("{o}/"))));
    let (mine, foreign): (Vec<_>, Vec<_>) = recorded.iter().partition(|v| own(v));
    for element in mine {
        shape(&Value::Array(vec![element.clone()]), &Value::Array(here.to_vec()), "value", out);
    }
    if context.example && !foreign.is_empty() {
        // The names are the example's own invention: one element has to look like one of them.
        let all: Vec<_> = foreign.iter().flat_map(|f| here.iter().map(|h| differences(f, h, "value[]"))).collect();
        match all.into_iter().min_by_key(Vec::len) {
            None => out.push(Difference::Missing("value[]".to_owned())),
            Some(least) => out.extend(least),
        }
    }
}

/// What was sent and came back the same then, comes back the same now.
fn echo(sent: &Value, recorded: &Value, here: &Value, path: &str, out: &mut Vec<Difference>) {
    match (sent, recorded, here) {
        (Value::Object(sent), Value::Object(recorded), Value::Object(here)) => {
            for (name, value) in sent {
                match (recorded.get(name), here.get(name)) {
                    (Some(then), Some(now)) => echo(value, then, now, &at(path, name), out),
                    (Some(then), None) if value == then && path.ends_with("tags") => {
                        out.push(Difference::Missing(at(path, name)));
                    }
                    _ => {}
                }
            }
        }
        (Value::Array(sent), Value::Array(recorded), Value::Array(here))
            if sent.len() == recorded.len() && sent.len() == here.len() =>
        {
            for (index, value) in sent.iter().enumerate() {
                echo(value, &recorded[index], &here[index], &format!("{path}[]"), out);
            }
        }
        (Value::Object(_) | Value::Array(_), _, _) => {}
        (sent, recorded, here) if sent == recorded && !same(recorded, here) => {
            out.push(Difference::Value { at: path.to_owned(), recorded: recorded.to_string(), here: here.to_string() });
        }
        _ => {}
    }
}

/// A document that was asked for by its id says which one it is. Where the recorded id is not the
/// one in the path, names were blanked out, and nothing is known about them.
fn identity(path: &str, recorded: &Value, here: &Value, out: &mut Vec<Difference>) {
    if recorded["id"].as_str().is_none_or(|id| id.to_lowercase() != path) {
        return;
    }
    for name in ["id", "name", "type"] {
        let (Some(then), Some(now)) = (recorded[name].as_str(), here[name].as_str()) else { continue };
        if !then.eq_ignore_ascii_case(now) {
            out.push(Difference::Value { at: name.to_owned(), recorded: then.to_owned(), here: now.to_owned() });
        }
    }
}

/// Ids are compared without regard to case.
fn same(recorded: &Value, here: &Value) -> bool {
    match (recorded.as_str(), here.as_str()) {
        (Some(a), Some(b)) if a.starts_with('/') => a.eq_ignore_ascii_case(b),
        _ => recorded == here,
    }
}
