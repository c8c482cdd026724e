//! JSON as people and Azure's clients write it: comments, trailing commas, unquoted names, single
//! quotes, line breaks in strings. Never fails: [`parse`] returns a tree and a list of problems.
//!
//! `az deployment group create` pastes a template file into its request body behind an unquoted
//! name, so the parser of request bodies and of template files is one and the same
//! (PROTOCOL 0.1).

mod lexer;
mod parser;

use serde_json::{Map, Value};

pub use parser::parse;

/// Byte range in the text that was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// From `self` to the end of `other`.
    pub fn to(self, other: Span) -> Span {
        Span { start: self.start, end: other.end }
    }

    /// Line and column of its start in `text`, both from 1, columns in characters.
    pub fn line_column(self, text: &str) -> (usize, usize) {
        let before = text.get(..self.start as usize).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub span: Span,
    /// What is wrong, as a clause: "a `:` is missing after this name".
    pub message: String,
}

/// A value and where it was written. Values computed from others carry the span of the text they
/// were computed from.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub kind: Kind,
    /// Where it stands.
    pub span: Span,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(serde_json::Number),
    /// A text.
    String(String),
    /// A list.
    Array(Vec<Node>),
    /// Members in the order written. A repeated name is kept; the last one counts.
    Object(Vec<Member>),
    /// Nobody can know the value here, and why.
    Unknown(String),
}

/// A member of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where the name stands.
    pub name_span: Span,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// A node of `kind` at `span`.
    pub fn new(kind: Kind, span: Span) -> Self {
        Self { kind, span }
    }

    /// A text at `span`.
    pub fn text(text: impl Into<String>, span: Span) -> Self {
        Self::new(Kind::String(text.into()), span)
    }

    /// The member called `name`, compared without case; the last of several. A `null` counts as absent.
    pub fn get(&self, name: &str) -> Option<&Node> {
        let Kind::Object(members) = &self.kind else { return None };
        let found = members.iter().rev().find(|m| m.name.eq_ignore_ascii_case(name))?;
        (found.value.kind != Kind::Null).then_some(&found.value)
    }

    /// Its text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::String(s) => Some(s),
            _ => None,
        }
    }

    /// Its elements; of anything that is no array none.
    pub fn elements(&self) -> &[Node] {
        match &self.kind {
            Kind::Array(elements) => elements,
            _ => &[],
        }
    }

    /// Its members; of anything that is no object none.
    pub fn members(&self) -> &[Member] {
        match &self.kind {
            Kind::Object(members) => members,
            _ => &[],
        }
    }

    /// Why it is unknown, if it or anything in it is.
    pub fn unknown(&self) -> Option<&str> {
        match &self.kind {
            Kind::Unknown(why) => Some(why),
            Kind::Array(elements) => elements.iter().find_map(Node::unknown),
            Kind::Object(members) => members.iter().find_map(|m| m.value.unknown()),
            _ => None,
        }
    }

    /// As plain JSON; what is unknown becomes `null`.
    pub fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Null | Kind::Unknown(_) => Value::Null,
            Kind::Bool(b) => Value::Bool(*b),
            Kind::Number(n) => Value::Number(n.clone()),
            Kind::String(s) => Value::String(s.clone()),
            Kind::Array(elements) => Value::Array(elements.iter().map(Node::to_json).collect()),
            Kind::Object(members) => {
                let mut map = Map::new();
                for m in members {
                    map.insert(m.name.clone(), m.value.to_json());
                }
                Value::Object(map)
            }
        }
    }

    /// Plain JSON as a node, all of it at `span`.
    pub fn from_json(value: &Value, span: Span) -> Self {
        let kind = match value {
            Value::Null => Kind::Null,
            Value::Bool(b) => Kind::Bool(*b),
            Value::Number(n) => Kind::Number(n.clone()),
            Value::String(s) => Kind::String(s.clone()),
            Value::Array(elements) => Kind::Array(elements.iter().map(|e| Self::from_json(e, span)).collect()),
            Value::Object(map) => Kind::Object(
                map.iter()
                    .map(|(name, v)| Member { name: name.clone(), name_span: span, value: Self::from_json(v, span) })
                    .collect(),
            ),
        };
        Self::new(kind, span)
    }

    /// How messages call its type.
    pub fn type_name(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "bool",
            Kind::Number(_) => "int",
            Kind::String(_) => "string",
            Kind::Array(_) => "array",
            Kind::Object(_) => "object",
            Kind::Unknown(_) => "unknown",
        }
    }
}
