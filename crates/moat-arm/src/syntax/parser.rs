//! Tokens to a tree, going on after every mistake.

use super::lexer::{Token, lex};
use super::{Kind, Member, Node, Problem, Span};

/// Deeper values are not read: nobody writes them, and the stack is finite.
const DEPTH_MAX: usize = 128;

/// Parses `text`. What could not be read is [`Kind::Unknown`], and a problem says why.
pub fn parse(text: &str) -> (Node, Vec<Problem>) {
    let lexed = lex(text);
    let mut parser = Parser { tokens: &lexed.tokens, at: 0, problems: lexed.problems, end: lexed.end };
    let node = parser.value(0);
    if let Some((_, span)) = parser.peek() {
        parser.problem(span, "this stands after the end of the document");
    }
    parser.problems.sort_by_key(|p| p.span.start);
    (node, parser.problems)
}

struct Parser<'a> {
    tokens: &'a [(Token, Span)],
    at: usize,
    problems: Vec<Problem>,
    end: Span,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<(&'a Token, Span)> {
        self.tokens.get(self.at).map(|(t, s)| (t, *s))
    }

    fn here(&self) -> Span {
        self.peek().map_or(self.end, |(_, s)| s)
    }

    fn problem(&mut self, span: Span, message: &str) {
        self.problems.push(Problem { span, message: message.to_owned() });
    }

    fn eat(&mut self, token: &Token) -> bool {
        let found = self.peek().is_some_and(|(t, _)| t == token);
        if found {
            self.at += 1;
        }
        found
    }

    fn value(&mut self, depth: usize) -> Node {
        let Some((token, span)) = self.peek() else {
            self.problem(self.end, "a value is missing");
            return Node::new(Kind::Unknown("it is missing".to_owned()), self.end);
        };
        match token {
            Token::Open(bracket) => {
                self.at += 1;
                if depth >= DEPTH_MAX {
                    self.problem(span, "this is nested too deeply");
                    self.skip();
                    return Node::new(Kind::Unknown("it is nested too deeply".to_owned()), span);
                }
                if *bracket == '{' { self.object(span, depth + 1) } else { self.array(span, depth + 1) }
            }
            Token::Text(text) => {
                self.at += 1;
                Node::text(text.clone(), span)
            }
            Token::Word(word) => {
                self.at += 1;
                let kind = match word.as_str() {
                    "true" => Kind::Bool(true),
                    "false" => Kind::Bool(false),
                    "null" => Kind::Null,
                    word => match serde_json::from_str::<serde_json::Number>(word) {
                        Ok(number) => Kind::Number(number),
                        Err(_) => {
                            self.problem(span, "this is neither a value nor quoted");
                            Kind::Unknown(format!("`{word}` is not a value"))
                        }
                    },
                };
                Node::new(kind, span)
            }
            Token::Close(_) | Token::Comma | Token::Colon => {
                // Left for the caller, who expects one of them after a value.
                self.problem(span, "a value is missing here");
                Node::new(Kind::Unknown("it is missing".to_owned()), span)
            }
        }
    }

    /// Skips to the bracket that closes the one just opened.
    fn skip(&mut self) {
        let mut open = 1_usize;
        while let Some((token, _)) = self.peek() {
            self.at += 1;
            match token {
                Token::Open(_) => open += 1,
                Token::Close(_) => open -= 1,
                _ => {}
            }
            if open == 0 {
                return;
            }
        }
    }

    /// After an element: a comma, or the end.
    fn separator(&mut self) {
        if self.eat(&Token::Comma) {
            return;
        }
        match self.peek() {
            Some((Token::Close(_), _)) | None => {}
            Some((Token::Colon, span)) => {
                self.problem(span, "this `:` does not belong here");
                self.at += 1;
            }
            Some((_, span)) => self.problem(span, "a `,` is missing before this"),
        }
    }

    /// Whether the bracket closes here; a wrong or missing one is told.
    fn closed(&mut self, close: char, start: Span) -> Option<Span> {
        match self.peek() {
            None => {
                self.problem(start, if close == '}' { "this `{` is not closed" } else { "this `[` is not closed" });
                Some(self.end)
            }
            Some((Token::Close(c), span)) => {
                if *c == close {
                    self.at += 1;
                } else {
                    // Probably the outer one's: close both there.
                    self.problem(
                        span,
                        if close == '}' { "a `}` is missing before this" } else { "a `]` is missing before this" },
                    );
                }
                Some(span)
            }
            _ => None,
        }
    }

    fn array(&mut self, start: Span, depth: usize) -> Node {
        let mut elements = Vec::new();
        loop {
            if let Some(end) = self.closed(']', start) {
                return Node::new(Kind::Array(elements), start.to(end));
            }
            if self.eat(&Token::Comma) {
                continue;
            }
            let before = self.at;
            elements.push(self.value(depth));
            self.separator();
            if self.at == before {
                self.at += 1;
            }
        }
    }

    fn object(&mut self, start: Span, depth: usize) -> Node {
        let mut members = Vec::new();
        loop {
            if let Some(end) = self.closed('}', start) {
                return Node::new(Kind::Object(members), start.to(end));
            }
            if self.eat(&Token::Comma) {
                continue;
            }
            let before = self.at;
            match self.peek() {
                Some((Token::Text(name) | Token::Word(name), name_span)) => {
                    self.at += 1;
                    if !self.eat(&Token::Colon) {
                        self.problem(name_span, "a `:` is missing after this name");
                    }
                    let value = self.value(depth);
                    members.push(Member { name: name.clone(), name_span, value });
                }
                _ => {
                    let span = self.here();
                    self.problem(span, "a name is expected here");
                    self.value(depth);
                }
            }
            self.separator();
            if self.at == before {
                self.at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: &str, problems: &[(usize, usize, &str)]) {
        let (node, found) = parse(text);
        assert_eq!(node.to_json().to_string(), expected, "{text}");
        let found: Vec<(usize, usize, &str)> = found
            .iter()
            .map(|p| {
                let (line, column) = p.span.line_column(text);
                (line, column, p.message.as_str())
            })
            .collect();
        assert_eq!(found, problems, "{text}");
    }

    #[test]
    fn json_is_read() {
        check(
            r#"{"a": [1, -2.5, true, null, "x\u00e9\n"], "b": {}}"#,
            r#"{"a":[1,-2.5,true,null,"xé\n"],"b":{}}"#,
            &[],
        );
        check(r#""\ud83d\ude00""#, r#""😀""#, &[]);
    }

    #[test]
    fn what_people_write_is_read_too() {
        check(
            "{a: 1, // one\n /* two */ 'b': 'it''s', }",
            r#"{"a":1,"b":"it","s":null}"#,
            &[
                (2, 21, "a `,` is missing before this"),
                (2, 21, "a `:` is missing after this name"),
                (2, 24, "a value is missing here"),
            ],
        );
        check(
            "{\"properties\": {\"mode\": \"Incremental\", template:{ \"a\": \"two\nlines\", } }}",
            r#"{"properties":{"mode":"Incremental","template":{"a":"two\nlines"}}}"#,
            &[],
        );
        check("[1, 2,]", "[1,2]", &[]);
        check("\u{feff}{$schema: 'x'}", r#"{"$schema":"x"}"#, &[]);
    }

    #[test]
    fn mistakes_are_told_and_reading_goes_on() {
        check(r#"{"a" 1, "b": 2}"#, r#"{"a":1,"b":2}"#, &[(1, 2, "a `:` is missing after this name")]);
        check(r#"{"a": 1 "b": 2}"#, r#"{"a":1,"b":2}"#, &[(1, 9, "a `,` is missing before this")]);
        check(r#"{"a": , "b": 2}"#, r#"{"a":null,"b":2}"#, &[(1, 7, "a value is missing here")]);
        check(
            r#"{"a": [1, "b": 2}"#,
            r#"{"a":[1,"b",2]}"#,
            &[(1, 14, "this `:` does not belong here"), (1, 17, "a `]` is missing before this")],
        );
        check(r#"{"a": wat}"#, r#"{"a":null}"#, &[(1, 7, "this is neither a value nor quoted")]);
        check(r#"{"a": "x"#, r#"{"a":"x"}"#, &[(1, 1, "this `{` is not closed"), (1, 7, "this text is not closed")]);
        check("", "null", &[(1, 1, "a value is missing")]);
        check("{} {}", "{}", &[(1, 4, "this stands after the end of the document")]);
        check("/*", "null", &[(1, 1, "this comment is not closed"), (1, 3, "a value is missing")]);
    }

    #[test]
    fn depth_is_bounded() {
        let (_, problems) = parse(&"[".repeat(100_000));
        assert_eq!(problems[0].message, "this `[` is not closed");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[\\[\\]{}:,'\"/*\\\\a-c0-9 \n\u{e9}]{0,60}") {
            let (_, problems) = parse(&text);
            for p in problems {
                prop_assert!(p.span.start <= p.span.end && p.span.end as usize <= text.len());
            }
        }

        #[test]
        fn strict_json_is_read_as_serde_reads_it(text in "[\\[\\]{}:,\"a-c0-9 ]{0,24}") {
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                let (node, problems) = parse(&text);
                prop_assert_eq!(node.to_json(), value);
                prop_assert!(problems.is_empty());
            }
        }
    }
}
