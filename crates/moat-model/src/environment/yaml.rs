//! YAML as far as a conda file needs it, with bounds.
//!
//! Events of `saphyr-parser` become a plain value in which every scalar is a text: `python=3.10` and `1.10` must not
//! turn into numbers. Anchors and aliases are refused, so that no small text can become a large value; tags are
//! ignored. Nothing here recurses, so depth is only a count.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

use super::Refusal;

/// Longest conda file; the largest in public examples have 4 kB.
const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Values in one file.
const VALUES_MAX: usize = 20_000;
/// Lists and maps within each other; a conda file needs three.
const DEPTH_MAX: usize = 16;

/// Something that is open while its parts are read.
enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// The one document in `text`.
pub(super) fn parse(text: &str) -> Result<Value, Refusal> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(wrong(format!("it has {} bytes, more than {TEXT_BYTES_MAX}", text.len())));
    }
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut values = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| wrong(e.to_string()))?;
        let line = span.start.line();
        let done = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
            Event::DocumentStart(_) if root.is_some() => return Err(wrong(format!("line {line}: a second document"))),
            Event::DocumentStart(_) => continue,
            Event::Alias(_) => {
                return Err(wrong(format!("line {line}: an alias, which conda files here may not have")));
            }
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                return Err(wrong(format!("line {line}: an anchor, which conda files here may not have")));
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                None
            }
            Event::Scalar(text, style, _, _) => Some(scalar(&text, style)),
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Some(Value::Array(items)),
                Some(Open::Map(members, _)) => Some(Value::Object(members)),
                None => return Err(wrong(format!("line {line}: an end without a beginning"))),
            },
        };
        values += 1;
        if values > VALUES_MAX {
            return Err(wrong(format!("it has more than {VALUES_MAX} values")));
        }
        if open.len() > DEPTH_MAX {
            return Err(wrong(format!("line {line}: nested deeper than {DEPTH_MAX}")));
        }
        let Some(done) = done else { continue };
        match open.last_mut() {
            None => root = Some(done),
            Some(Open::List(items)) => items.push(done),
            Some(Open::Map(members, key)) => match (key.take(), done) {
                (Some(name), value) => {
                    if members.insert(name.clone(), value).is_some() {
                        return Err(wrong(format!("line {line}: `{name}` stands there twice")));
                    }
                }
                (None, Value::String(name)) => *key = Some(name),
                (None, Value::Null) => *key = Some(String::new()),
                (None, _) => return Err(wrong(format!("line {line}: a key that is no text"))),
            },
        }
    }
    Ok(root.unwrap_or(Value::Null))
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let nothing = matches!(text, "" | "~" | "null" | "Null" | "NULL");
    if style == ScalarStyle::Plain && nothing { Value::Null } else { Value::String(text.to_owned()) }
}

fn wrong(why: String) -> Refusal {
    Refusal::Syntax { why }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars_stay_texts() {
        assert_eq!(
            parse("name: e\ndependencies:\n- python=3.10\n- 1.10\n- pip:\n  - 'numpy'\nprefix:\n").unwrap(),
            json!({"name": "e", "dependencies": ["python=3.10", "1.10", {"pip": ["numpy"]}], "prefix": null})
        );
        assert_eq!(parse("").unwrap(), Value::Null);
    }

    #[test]
    fn bombs_are_refused() {
        let bomb = "a: &a [x, x]\nb: &b [*a, *a]\n";
        assert!(parse(bomb).unwrap_err().to_string().contains("anchor"));
        assert!(parse(&"[".repeat(20)).unwrap_err().to_string().contains("nested deeper"));
        assert!(parse(&"[".repeat(100_000)).is_err(), "and no stack is used up");
        assert!(parse(&"- x\n".repeat(VALUES_MAX + 1)).unwrap_err().to_string().contains("more than"));
        assert!(parse(&" ".repeat(TEXT_BYTES_MAX + 1)).is_err());
        assert!(parse("a: 1\na: 2\n").unwrap_err().to_string().contains("twice"));
        assert!(parse("a: 1\n---\nb: 1\n").is_err());
    }
}
