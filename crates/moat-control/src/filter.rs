//! The `$filter` expressions ARM clients send: comparisons joined by `and` / `or`, and a few
//! functions. What is not understood is refused: a filter that lets everything through would make
//! az believe that a resource exists (PROTOCOL 0.12).

use moat_arm::ApiError;

/// Deepest nesting of parentheses.
const DEPTH_MAX: usize = 32;

/// A parsed filter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Filter {
    Equal(String, String),
    NotEqual(String, String),
    StartsWith(String, String),
    /// `substringof('x', member)`.
    Contains(String, String),
    /// `atScope()`: not a condition on items; see [`Filter::at_scope`].
    AtScope,
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
}

impl Filter {
    /// Whether the item whose members `get` tells passes; values compare without case.
    pub(crate) fn matches(&self, get: &dyn Fn(&str) -> Option<String>) -> bool {
        let value = |name: &str| get(name).unwrap_or_default().to_lowercase();
        match self {
            Filter::Equal(name, want) => get(name).is_some_and(|v| v.eq_ignore_ascii_case(want)),
            Filter::NotEqual(name, want) => !get(name).is_some_and(|v| v.eq_ignore_ascii_case(want)),
            Filter::StartsWith(name, want) => value(name).starts_with(&want.to_lowercase()),
            Filter::Contains(name, want) => value(name).contains(&want.to_lowercase()),
            Filter::AtScope => true,
            Filter::And(a, b) => {
                if let Some((name, value)) = tag_pair(a, b) {
                    return get(&format!("tags/{name}")).is_some_and(|v| v.eq_ignore_ascii_case(value));
                }
                a.matches(get) && b.matches(get)
            }
            Filter::Or(a, b) => a.matches(get) || b.matches(get),
        }
    }

    /// Whether `atScope()` stands in a conjunction of it.
    pub(crate) fn at_scope(&self) -> bool {
        match self {
            Filter::AtScope => true,
            Filter::And(a, b) => a.at_scope() || b.at_scope(),
            _ => false,
        }
    }
}

/// `tagName eq 'a' and tagValue eq 'b'` speaks of one tag.
fn tag_pair<'a>(a: &'a Filter, b: &'a Filter) -> Option<(&'a str, &'a str)> {
    let (Filter::Equal(an, av), Filter::Equal(bn, bv)) = (a, b) else { return None };
    if an.eq_ignore_ascii_case("tagName") && bn.eq_ignore_ascii_case("tagValue") {
        Some((av, bv))
    } else if bn.eq_ignore_ascii_case("tagName") && an.eq_ignore_ascii_case("tagValue") {
        Some((bv, av))
    } else {
        None
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Open,
    Close,
    Comma,
}

/// Parses a filter.
pub(crate) fn parse(text: &str) -> Result<Filter, ApiError> {
    let refuse = |why: &str| {
        ApiError::bad_request(
            "InvalidFilterInQueryString",
            format!("Invalid $filter '{text}' specified in the query string: {why}."),
        )
    };
    let tokens = tokens(text).map_err(|why| refuse(&why))?;
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let filter = parser.or(0).map_err(|why| refuse(&why))?;
    if parser.at != tokens.len() {
        return Err(refuse("there is more after its end"));
    }
    Ok(filter)
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        match c {
            c if c.is_whitespace() => {
                chars.next();
            }
            '(' | ')' | ',' => {
                chars.next();
                out.push(match c {
                    '(' => Token::Open,
                    ')' => Token::Close,
                    _ => Token::Comma,
                });
            }
            '\'' => {
                chars.next();
                let mut value = String::new();
                loop {
                    match chars.next() {
                        None => return Err("a quote is not closed".to_owned()),
                        // A doubled quote is one quote.
                        Some('\'') if chars.peek() == Some(&'\'') => {
                            chars.next();
                            value.push('\'');
                        }
                        Some('\'') => break,
                        Some(c) => value.push(c),
                    }
                }
                out.push(Token::Text(value));
            }
            _ => {
                let mut word = String::new();
                while let Some(&c) = chars.peek() {
                    if c.is_whitespace() || "(),'".contains(c) {
                        break;
                    }
                    word.push(c);
                    chars.next();
                }
                out.push(Token::Word(word));
            }
        }
    }
    Ok(out)
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = matches!(self.tokens.get(self.at), Some(Token::Word(w)) if w.eq_ignore_ascii_case(word));
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, token: &Token) -> Result<(), String> {
        if self.next().as_ref() == Some(token) { Ok(()) } else { Err("a bracket or a comma is missing".to_owned()) }
    }

    fn or(&mut self, depth: usize) -> Result<Filter, String> {
        let mut left = self.and(depth)?;
        while self.eat_word("or") {
            left = Filter::Or(Box::new(left), Box::new(self.and(depth)?));
        }
        Ok(left)
    }

    fn and(&mut self, depth: usize) -> Result<Filter, String> {
        let mut left = self.one(depth)?;
        while self.eat_word("and") {
            left = Filter::And(Box::new(left), Box::new(self.one(depth)?));
        }
        Ok(left)
    }

    fn one(&mut self, depth: usize) -> Result<Filter, String> {
        if depth > DEPTH_MAX {
            return Err("it is nested too deeply".to_owned());
        }
        let name = match self.next() {
            Some(Token::Open) => {
                let inner = self.or(depth + 1)?;
                self.expect(&Token::Close)?;
                return Ok(inner);
            }
            Some(Token::Word(name)) => name,
            _ => return Err("a member name is expected".to_owned()),
        };
        if self.tokens.get(self.at) == Some(&Token::Open) {
            return self.function(&name);
        }
        let operator = match self.next() {
            Some(Token::Word(o)) => o.to_ascii_lowercase(),
            _ => return Err(format!("an operator is expected after '{name}'")),
        };
        let value = match self.next() {
            Some(Token::Text(v) | Token::Word(v)) => v,
            _ => return Err(format!("a value is expected after '{name} {operator}'")),
        };
        match operator.as_str() {
            "eq" => Ok(Filter::Equal(name, value)),
            "ne" => Ok(Filter::NotEqual(name, value)),
            _ => Err(format!("the operator '{operator}' is not supported")),
        }
    }

    fn function(&mut self, name: &str) -> Result<Filter, String> {
        self.expect(&Token::Open)?;
        let mut arguments = Vec::new();
        loop {
            match self.next() {
                Some(Token::Close) => break,
                Some(Token::Comma) => {}
                Some(Token::Text(t) | Token::Word(t)) => arguments.push(t),
                _ => return Err(format!("the call of '{name}' is not closed")),
            }
        }
        match (name.to_ascii_lowercase().as_str(), &arguments[..]) {
            ("atscope", []) => Ok(Filter::AtScope),
            ("assignedto", [who]) => Ok(Filter::Equal("assignedTo".to_owned(), who.clone())),
            ("startswith", [member, text]) => Ok(Filter::StartsWith(member.clone(), text.clone())),
            ("substringof", [text, member]) => Ok(Filter::Contains(member.clone(), text.clone())),
            _ => Err(format!("the function '{name}' is not supported with {} arguments", arguments.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &str, expected: Result<bool, &str>) {
        let get = |name: &str| match name.to_ascii_lowercase().as_str() {
            "name" => Some("pip1".to_owned()),
            "resourcegroup" => Some("MyGroup".to_owned()),
            "resourcetype" => Some("Microsoft.Network/publicIPAddresses".to_owned()),
            "tags/team" => Some("a'b".to_owned()),
            _ => None,
        };
        let got = parse(filter).map(|f| f.matches(&get)).map_err(|e| e.code);
        assert_eq!(got, expected.map_err(str::to_owned), "{filter}");
    }

    #[test]
    fn filters_filter() {
        check("resourceGroup eq 'mygroup'", Ok(true));
        check("resourceGroup eq 'other'", Ok(false));
        check(
            "resourceGroup eq 'mygroup' and name eq 'pip1' and resourceType eq 'microsoft.network/PublicIpAddresses'",
            Ok(true),
        );
        check("resourceGroup eq 'mygroup' and name eq 'pip2'", Ok(false));
        check("name eq 'x' or name eq 'pip1'", Ok(true));
        check("name eq 'x' or name eq 'y' and name eq 'pip1'", Ok(false));
        check("(name eq 'pip1' or name eq 'y') and resourceGroup ne 'mygroup'", Ok(false));
        check("tagName eq 'team' and tagValue eq 'a''b'", Ok(true));
        check("tagName eq 'team' and tagValue eq 'c'", Ok(false));
        check("startswith(name, 'pi')", Ok(true));
        check("substringof('ip', name)", Ok(true));
        check("name gt 'x'", Err("InvalidFilterInQueryString"));
        check("name eq 'x", Err("InvalidFilterInQueryString"));
        check("", Err("InvalidFilterInQueryString"));
        check(&"(".repeat(100_000), Err("InvalidFilterInQueryString"));
    }
}
