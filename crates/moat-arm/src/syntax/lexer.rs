//! Text to tokens. Comments and white space are dropped; anything else becomes a token, also what
//! no JSON allows, so that the parser can say what is wrong and go on.

use super::{Problem, Span};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Open(char),
    Close(char),
    Comma,
    Colon,
    Text(String),
    /// Numbers, literals and unquoted names: the parser knows which it expects.
    Word(String),
}

pub(super) struct Lexed {
    pub(super) tokens: Vec<(Token, Span)>,
    pub(super) problems: Vec<Problem>,
    pub(super) end: Span,
}

pub(super) fn lex(text: &str) -> Lexed {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new(), problems: Vec::new() };
    lexer.run();
    let end = offset(text.len());
    Lexed { tokens: lexer.tokens, problems: lexer.problems, end: Span { start: end, end } }
}

/// Offsets are 32 bits wide: request bodies are megabytes at most, the server sees to that.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    tokens: Vec<(Token, Span)>,
    problems: Vec<Problem>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn span(&self, start: usize) -> Span {
        Span { start: offset(start), end: offset(self.at) }
    }

    fn problem(&mut self, start: usize, message: &str) {
        let span = self.span(start);
        self.problems.push(Problem { span, message: message.to_owned() });
    }

    fn push(&mut self, token: Token, start: usize) {
        let span = self.span(start);
        self.tokens.push((token, span));
    }

    fn run(&mut self) {
        while let Some(c) = self.rest().chars().next() {
            let start = self.at;
            match c {
                _ if c.is_whitespace() || c == '\u{feff}' => self.at += c.len_utf8(),
                '{' | '[' => {
                    self.at += 1;
                    self.push(Token::Open(c), start);
                }
                '}' | ']' => {
                    self.at += 1;
                    self.push(Token::Close(c), start);
                }
                ',' => {
                    self.at += 1;
                    self.push(Token::Comma, start);
                }
                ':' => {
                    self.at += 1;
                    self.push(Token::Colon, start);
                }
                '"' | '\'' => self.string(c),
                '/' if self.rest().starts_with("//") => {
                    self.at += self.rest().find('\n').unwrap_or(self.rest().len());
                }
                '/' if self.rest().starts_with("/*") => match self.rest().find("*/") {
                    Some(end) => self.at += end + 2,
                    None => {
                        self.at = self.text.len();
                        self.problem(start, "this comment is not closed");
                    }
                },
                _ => {
                    let stop = |c: char| c.is_whitespace() || "{}[],:\"'/".contains(c);
                    let length = self.rest().find(stop).unwrap_or(self.rest().len());
                    self.at += length.max(c.len_utf8());
                    let word = self.text[start..self.at].to_owned();
                    self.push(Token::Word(word), start);
                }
            }
        }
    }

    fn string(&mut self, quote: char) {
        let start = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.rest().chars().next() else {
                self.problem(start, "this text is not closed");
                break;
            };
            self.at += c.len_utf8();
            match c {
                c if c == quote => break,
                '\\' => self.escape(&mut out),
                c => out.push(c),
            }
        }
        self.push(Token::Text(out), start);
    }

    fn escape(&mut self, out: &mut String) {
        let start = self.at - 1;
        let Some(c) = self.rest().chars().next() else { return };
        self.at += c.len_utf8();
        match c {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            '"' | '\'' | '\\' | '/' => out.push(c),
            'u' => match self.unicode() {
                Some(c) => out.push(c),
                None => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    self.problem(start, "this escape is not a character");
                }
            },
            // A backslash before the end of a line joins the lines.
            '\n' => {}
            c => {
                out.push(c);
                self.problem(start, "this escape is not known");
            }
        }
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.rest().get(..4)?;
        let value = u32::from_str_radix(digits, 16).ok()?;
        self.at += 4;
        Some(value)
    }

    fn unicode(&mut self) -> Option<char> {
        let first = self.hex()?;
        if (0xd800..0xdc00).contains(&first) && self.rest().starts_with("\\u") {
            self.at += 2;
            let second = self.hex()?;
            let low = second.checked_sub(0xdc00).filter(|l| *l < 0x400)?;
            return char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + low);
        }
        char::from_u32(first)
    }
}
