//! The filters of `runs:query`: `(Status eq Completed) and (Tags/k eq v)`, values bare, in single quotes, or
//! as JSON texts.
//!
//! A field or an operator that is not known is refused by name: an ignored condition would give too many runs.

use moat_arm::{ApiError, document};
use serde_json::Value;

/// Longest filter.
const FILTER_BYTES_MAX: usize = 8_192;
/// Parentheses within parentheses.
const DEPTH_MAX: usize = 32;
/// Fields of a Run object that can be compared, lower case.
const FIELDS: [&str; 9] =
    ["status", "runid", "runtype", "target", "createdutc", "starttimeutc", "endtimeutc", "parentrunid", "displayname"];

/// A parsed filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// All of them; none is true.
    And(Vec<Filter>),
    /// One of them.
    Or(Vec<Filter>),
    /// A comparison; `None` is null.
    Compare {
        /// `status`, `tags/k`, `properties/k`.
        field: String,
        /// How.
        op: Op,
        /// With what.
        value: Option<String>,
    },
}

/// How two values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
}

impl Filter {
    /// Parses; the empty text takes everything.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(refusal(&format!("it is longer than {FILTER_BYTES_MAX} bytes")));
        }
        let words = words(text);
        if words.is_empty() {
            return Ok(Self::And(Vec::new()));
        }
        let mut parser = Parser { words: &words, depth: 0 };
        let filter = parser.any()?;
        match parser.words.first() {
            None => Ok(filter),
            Some(word) => Err(refusal(&format!("`{}` was not expected", word.text.escape_debug()))),
        }
    }

    /// Whether a rendered Run object fits.
    pub fn fits(&self, run: &Value) -> bool {
        match self {
            Self::And(all) => all.iter().all(|f| f.fits(run)),
            Self::Or(any) => any.iter().any(|f| f.fits(run)),
            Self::Compare { field, op, value } => {
                let found = match field.split_once('/') {
                    // Names of tags hold dots and count with their case.
                    Some((map, key)) => document::get(run, map).and_then(|m| m.get(key)),
                    None => document::get(run, field),
                };
                compare(found.and_then(Value::as_str), *op, value.as_deref())
            }
        }
    }
}

fn compare(found: Option<&str>, op: Op, asked: Option<&str>) -> bool {
    use std::cmp::Ordering;
    let (Some(found), Some(asked)) = (found, asked) else {
        return match op {
            Op::Eq => found == asked,
            Op::Ne => found != asked,
            _ => false,
        };
    };
    let order = match (found.parse::<jiff::Timestamp>(), asked.parse::<jiff::Timestamp>()) {
        (Ok(found), Ok(asked)) => found.cmp(&asked),
        _ => found.cmp(asked),
    };
    match op {
        Op::Eq => order == Ordering::Equal,
        Op::Ne => order != Ordering::Equal,
        Op::Gt => order == Ordering::Greater,
        Op::Ge => order != Ordering::Less,
        Op::Lt => order == Ordering::Less,
        Op::Le => order != Ordering::Greater,
    }
}

struct Word {
    text: String,
    quoted: bool,
}

fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if matches!(first, '(' | ')') {
            words.push(Word { text: first.to_string(), quoted: false });
            rest = &rest[1..];
        } else if first == '\'' {
            // A quote within is written twice.
            let mut value = String::new();
            let mut chars = rest[1..].char_indices().peekable();
            let mut end = rest.len();
            while let Some((at, c)) = chars.next() {
                if c != '\'' {
                    value.push(c);
                } else if chars.peek().is_some_and(|(_, next)| *next == '\'') {
                    value.push('\'');
                    let _ = chars.next();
                } else {
                    end = at + 2;
                    break;
                }
            }
            words.push(Word { text: value, quoted: true });
            rest = &rest[end..];
        } else if let Some((value, end)) = json_text(rest) {
            // azureml-core writes values of tags and properties as JSON texts.
            words.push(Word { text: value, quoted: true });
            rest = &rest[end..];
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '(' | ')')).unwrap_or(rest.len());
            words.push(Word { text: rest[..end].to_owned(), quoted: false });
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    words
}

/// The JSON text that `rest` begins with, and its length.
fn json_text(rest: &str) -> Option<(String, usize)> {
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
    let value = values.next()?.ok()?;
    Some((value, values.byte_offset()))
}

struct Parser<'a> {
    words: &'a [Word],
    depth: usize,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Filter, ApiError> {
        let mut parts = vec![self.all()?];
        while self.keyword("or") {
            parts.push(self.all()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::Or(parts) })
    }

    fn all(&mut self) -> Result<Filter, ApiError> {
        let mut parts = vec![self.one()?];
        while self.keyword("and") {
            parts.push(self.one()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::And(parts) })
    }

    fn one(&mut self) -> Result<Filter, ApiError> {
        if !self.keyword("(") {
            return self.comparison();
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(refusal("its parentheses are too deep"));
        }
        let inner = self.any()?;
        self.depth -= 1;
        if self.keyword(")") { Ok(inner) } else { Err(refusal("a parenthesis is not closed")) }
    }

    fn comparison(&mut self) -> Result<Filter, ApiError> {
        let field = self.next("a field")?.text.clone();
        let field = match field.split_once('/') {
            Some((map, key)) if map.eq_ignore_ascii_case("tags") => format!("tags/{key}"),
            Some((map, key)) if map.eq_ignore_ascii_case("properties") => format!("properties/{key}"),
            None if FIELDS.contains(&field.to_ascii_lowercase().as_str()) => field.to_ascii_lowercase(),
            _ => return Err(refusal(&format!("the field `{}` cannot be compared here", field.escape_debug()))),
        };
        let op = self.next("an operator")?;
        let op = match op.text.to_ascii_lowercase().as_str() {
            "eq" => Op::Eq,
            "ne" => Op::Ne,
            "gt" => Op::Gt,
            "ge" => Op::Ge,
            "lt" => Op::Lt,
            "le" => Op::Le,
            _ => return Err(refusal(&format!("the operator `{}` is not known", op.text.escape_debug()))),
        };
        let first = self.next("a value")?;
        if first.quoted || first.text.eq_ignore_ascii_case("null") {
            let value = first.quoted.then(|| first.text.clone());
            return Ok(Filter::Compare { field, op, value });
        }
        // Times of azureml-core have a space in them: a bare value goes on until the next word of the grammar.
        let mut value = first.text.clone();
        while let Some(word) = self.words.first() {
            let grammar = ["and", "or", "(", ")"].iter().any(|k| word.text.eq_ignore_ascii_case(k));
            if grammar || word.quoted {
                break;
            }
            value.push(' ');
            value.push_str(&word.text);
            self.words = &self.words[1..];
        }
        Ok(Filter::Compare { field, op, value: Some(value) })
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let here = self.words.first().is_some_and(|w| !w.quoted && w.text.eq_ignore_ascii_case(keyword));
        if here {
            self.words = &self.words[1..];
        }
        here
    }

    fn next(&mut self, what: &str) -> Result<&Word, ApiError> {
        let (first, rest) =
            self.words.split_first().ok_or_else(|| refusal(&format!("{what} is missing at its end")))?;
        self.words = rest;
        Ok(first)
    }
}

fn refusal(why: &str) -> ApiError {
    ApiError::bad_request("InvalidFilter", format!("The filter cannot be used: {why}.")).with_target("filter")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use serde_json::json;

    fn fits(filter: &str) -> bool {
        let run = json!({
            "runId": "r1", "status": "Completed", "createdUtc": "2026-11-23T10:00:00.0000000Z", "parentRunId": null,
            "tags": {"a.b": "it's", "n": "1"}, "properties": {"azureml.runsource": "experiment"}, "runType": "x",
        });
        Filter::parse(filter).unwrap().fits(&run)
    }

    #[test]
    fn what_azureml_core_sends_is_understood() {
        assert!(fits(""));
        assert!(fits("(Status eq Completed)") && !fits("(Status eq Failed)"));
        assert!(fits("(Tags/a.b eq 'it''s') and (Tags/n ne null or Tags/n eq null)"));
        assert!(fits(r#"((Tags/n eq "1") and (ParentRunId eq null))"#) && !fits(r#"Tags/n eq "2\\""#));
        assert!(fits("(RunType eq experiment or Properties/azureml.runsource eq experiment)"));
        assert!(fits("(ParentRunId eq null) and RunId eq r1 or RunId eq r2"));
        assert!(fits("(CreatedUtc ge 2026-11-23T09:00:00Z)") && !fits("CreatedUtc gt 2026-11-23 11:00:00+00:00"));
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let said = |filter: &str| Filter::parse(filter).unwrap_err().message;
        insta::assert_snapshot!(said("Secret eq 1"), @"The filter cannot be used: the field `Secret` cannot be compared here.");
        insta::assert_snapshot!(said("Status like x"), @"The filter cannot be used: the operator `like` is not known.");
        insta::assert_snapshot!(said("(Status eq x"), @"The filter cannot be used: a parenthesis is not closed.");
        insta::assert_snapshot!(said("Status eq"), @"The filter cannot be used: a value is missing at its end.");
        assert!(Filter::parse(&"(".repeat(8_000)).is_err());
    }
}
