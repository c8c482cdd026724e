//! The expression language inside `[...]` strings: text to a tree.

use super::Failure;
use crate::syntax::Span;

/// Deeper calls are refused: nobody writes them, and the stack is finite.
const DEPTH_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Text(String),
    Number(i64),
    Call {
        name: String,
        arguments: Vec<Expression>,
    },
    /// `x.name`
    Member {
        of: Box<Expression>,
        name: String,
    },
    /// `x[index]`
    Index {
        of: Box<Expression>,
        index: Box<Expression>,
    },
}

/// How a text in a template is meant.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Meaning<'a> {
    /// As it stands.
    Literal(&'a str),
    /// An expression: what is between the brackets.
    Expression(&'a str),
}

/// `[x]` is an expression, `[[x]` is the text `[x]`, anything else is itself.
pub(super) fn meaning(text: &str) -> Meaning<'_> {
    match text.strip_prefix('[') {
        Some(rest) if rest.starts_with('[') => Meaning::Literal(if text.ends_with(']') { rest } else { text }),
        Some(rest) => rest.strip_suffix(']').map_or(Meaning::Literal(text), Meaning::Expression),
        None => Meaning::Literal(text),
    }
}

/// Parses what stands between the brackets of a text at `span`.
pub(super) fn parse(text: &str, span: Span) -> Result<Expression, Failure> {
    let mut parser = Parser { text, at: 0, span };
    let expression = parser.expression(0)?;
    parser.spaces();
    if parser.at < text.len() {
        return Err(parser.wrong("the end of the expression"));
    }
    Ok(expression)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    span: Span,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn wrong(&self, expected: &str) -> Failure {
        let found = self.rest().chars().next().map_or("its end".to_owned(), |c| format!("`{c}`"));
        Failure::new(
            self.span,
            format!(
                "the expression `{}` has {found} at position {} where {expected} is expected",
                self.text,
                self.at + 1
            ),
        )
    }

    fn eat(&mut self, c: char) -> bool {
        self.spaces();
        let found = self.rest().starts_with(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn expression(&mut self, depth: usize) -> Result<Expression, Failure> {
        if depth > DEPTH_MAX {
            return Err(Failure::new(self.span, "the expression is nested too deeply"));
        }
        let mut left = self.primary(depth)?;
        loop {
            if self.eat('.') {
                self.spaces();
                let name = self.name();
                if name.is_empty() {
                    return Err(self.wrong("a member name"));
                }
                left = Expression::Member { of: Box::new(left), name };
            } else if self.eat('[') {
                let index = self.expression(depth + 1)?;
                if !self.eat(']') {
                    return Err(self.wrong("`]`"));
                }
                left = Expression::Index { of: Box::new(left), index: Box::new(index) };
            } else {
                return Ok(left);
            }
        }
    }

    fn name(&mut self) -> String {
        let stop = |c: char| !(c.is_alphanumeric() || c == '_' || c == '$');
        let length = self.rest().find(stop).unwrap_or(self.rest().len());
        let name = self.rest()[..length].to_owned();
        self.at += length;
        name
    }

    fn primary(&mut self, depth: usize) -> Result<Expression, Failure> {
        self.spaces();
        let rest = self.rest();
        if rest.starts_with('\'') {
            return self.text_literal();
        }
        if rest.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            let length = rest[1..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |at| at + 1);
            let number = rest[..length].parse().map_err(|_| self.wrong("a number"))?;
            self.at += length;
            return Ok(Expression::Number(number));
        }
        let mut name = self.name();
        if name.is_empty() {
            return Err(self.wrong("a function call, a text or a number"));
        }
        // `namespace.function(...)` of user-defined functions.
        if self.rest().starts_with('.') {
            self.at += 1;
            name = format!("{name}.{}", self.name());
        }
        if !self.eat('(') {
            return Err(self.wrong("`(`"));
        }
        let mut arguments = Vec::new();
        if !self.eat(')') {
            loop {
                arguments.push(self.expression(depth + 1)?);
                if self.eat(')') {
                    break;
                }
                if !self.eat(',') {
                    return Err(self.wrong("`,` or `)`"));
                }
            }
        }
        Ok(Expression::Call { name, arguments })
    }

    /// `'...'`, a doubled quote is one.
    fn text_literal(&mut self) -> Result<Expression, Failure> {
        let mut out = String::new();
        self.at += 1;
        loop {
            let Some(end) = self.rest().find('\'') else {
                self.at = self.text.len();
                return Err(self.wrong("`'`"));
            };
            out.push_str(&self.rest()[..end]);
            self.at += end + 1;
            if !self.rest().starts_with('\'') {
                return Ok(Expression::Text(out));
            }
            out.push('\'');
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn brackets_mean_expressions_unless_doubled() {
        assert_eq!(meaning("[a()]"), Meaning::Expression("a()"));
        assert_eq!(meaning("[[a()]"), Meaning::Literal("[a()]"));
        assert_eq!(meaning("[a"), Meaning::Literal("[a"));
        assert_eq!(meaning("a"), Meaning::Literal("a"));
    }

    #[test]
    fn mistakes_say_where() {
        let message = |text| parse(text, Span::default()).map_err(|e| e.message);
        assert_eq!(
            message("concat('a' 'b')").unwrap_err(),
            "the expression `concat('a' 'b')` has `'` at position 12 where `,` or `)` is expected"
        );
        assert!(message("a").unwrap_err().ends_with("`(` is expected"));
        assert!(message("'it''s'").is_ok());
        assert!(message(&"a(".repeat(10_000)).unwrap_err().contains("too deeply"));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[a-c0-9()\\[\\].,' \u{e9}-]{0,40}") {
            let _ = parse(&text, Span::default());
        }
    }
}
