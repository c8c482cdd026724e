//! The `filter` and `order_by` of MLflow's `runs/search`: a subset of its grammar, the rest refused by name.
//!
//! `metrics.acc > 0.9 and params.lr = '0.1' and tags.model LIKE 'res%' and attributes.status = 'FINISHED'`. MLflow
//! joins by `and` only.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use moat_arm::ApiError;

/// Longest filter.
const FILTER_BYTES_MAX: usize = 8_192;
/// Conditions of one filter, and keys of one order.
const CONDITIONS_MAX: usize = 64;

/// What a run is compared by.
#[derive(Debug, Clone, Default)]
pub struct Searched {
    /// `run_id`, `run_name`, `status`, `start_time`, ...: text.
    pub attributes: BTreeMap<&'static str, String>,
    /// Times, as numbers.
    pub times: BTreeMap<&'static str, i64>,
    /// Latest value of each metric.
    pub metrics: BTreeMap<String, f64>,
    /// Parameters.
    pub params: BTreeMap<String, String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
}

/// Attributes that are text.
const TEXTS: [&str; 6] = ["run_id", "run_name", "status", "artifact_uri", "user_id", "lifecycle_stage"];
/// Attributes that are numbers.
const TIMES: [&str; 2] = ["start_time", "end_time"];

#[derive(Debug, Clone, PartialEq)]
enum Field {
    Text(&'static str),
    Time(&'static str),
    Metric(String),
    Param(String),
    Tag(String),
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Number(Op, f64),
    Text(Op, String),
    Like { pattern: String, case: bool },
    In { values: Vec<String>, negated: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
}

impl Op {
    fn holds(self, order: Option<Ordering>) -> bool {
        // NaN is in no order with anything, itself included.
        let Some(order) = order else { return self == Self::Ne };
        match self {
            Self::Eq => order == Ordering::Equal,
            Self::Ne => order != Ordering::Equal,
            Self::Gt => order == Ordering::Greater,
            Self::Ge => order != Ordering::Less,
            Self::Lt => order == Ordering::Less,
            Self::Le => order != Ordering::Greater,
        }
    }
}

/// A parsed filter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter(Vec<(Field, Test)>);

impl Filter {
    /// Parses; the empty text takes everything.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let tokens = tokens(text)?;
        let mut rest = tokens.as_slice();
        let mut conditions = Vec::new();
        while !rest.is_empty() {
            if conditions.len() == CONDITIONS_MAX {
                return Err(refusal(&format!("it has more than {CONDITIONS_MAX} conditions")));
            }
            conditions.push(condition(&mut rest)?);
            match rest.split_first() {
                None => break,
                Some((Token::Word(word), tail)) if word.eq_ignore_ascii_case("and") && !tail.is_empty() => rest = tail,
                Some((token, _)) => {
                    return Err(refusal(&format!("`{}` cannot follow a condition; only `and` can", token.shown())));
                }
            }
        }
        Ok(Self(conditions))
    }

    /// Whether a run fits.
    pub fn fits(&self, run: &Searched) -> bool {
        self.0.iter().all(|(field, test)| match (field, test) {
            (Field::Metric(key), Test::Number(op, asked)) => {
                run.metrics.get(key).is_some_and(|found| op.holds(found.partial_cmp(asked)))
            }
            (Field::Time(name), Test::Number(op, asked)) => {
                run.times.get(name).is_some_and(|found| op.holds((*found as f64).partial_cmp(asked)))
            }
            (field, test) => text_of(field, run).is_some_and(|found| text_fits(found, test)),
        })
    }
}

fn text_of<'a>(field: &Field, run: &'a Searched) -> Option<&'a str> {
    match field {
        Field::Text(name) => run.attributes.get(name),
        Field::Param(key) => run.params.get(key),
        Field::Tag(key) => run.tags.get(key),
        Field::Metric(_) | Field::Time(_) => None,
    }
    .map(String::as_str)
}

fn text_fits(found: &str, test: &Test) -> bool {
    match test {
        Test::Text(op, asked) => op.holds(Some(found.cmp(asked))),
        Test::Like { pattern, case: true } => like(pattern, found),
        Test::Like { pattern, case: false } => like(&pattern.to_lowercase(), &found.to_lowercase()),
        Test::In { values, negated } => values.iter().any(|v| v == found) != *negated,
        Test::Number(..) => false,
    }
}

/// SQL's LIKE: `%` any text, `_` any character.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('%') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '_' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '%')
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Symbol(&'static str),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Word(text) | Self::Quoted(text) => text.escape_debug().to_string(),
            Self::Symbol(text) => (*text).to_owned(),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, ApiError> {
    if text.len() > FILTER_BYTES_MAX {
        return Err(refusal(&format!("it is longer than {FILTER_BYTES_MAX} bytes")));
    }
    const SYMBOLS: [&str; 9] = ["!=", ">=", "<=", "=", ">", "<", "(", ")", ","];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(symbol) = SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else if matches!(first, '\'' | '"') {
            let (inside, tail) = rest[1..].split_once(first).ok_or_else(|| refusal("a quote is not closed"))?;
            tokens.push(Token::Quoted(inside.to_owned()));
            rest = tail;
        } else {
            // A key may be quoted in part: `metrics."a b"`, `` tags.`a b` ``.
            let mut word = String::new();
            while let Some(c) = rest.chars().next() {
                if c.is_whitespace() || SYMBOLS.iter().any(|s| rest.starts_with(*s)) {
                    break;
                }
                rest = &rest[c.len_utf8()..];
                if matches!(c, '"' | '`') {
                    let (inside, tail) = rest.split_once(c).ok_or_else(|| refusal("a quote is not closed"))?;
                    word.push_str(inside);
                    rest = tail;
                } else {
                    word.push(c);
                }
            }
            tokens.push(Token::Word(word));
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

fn field(text: &str) -> Result<Field, ApiError> {
    let (family, key) = text.split_once('.').unwrap_or(("attributes", text));
    let named = |names: &'static [&'static str]| names.iter().find(|n| n.eq_ignore_ascii_case(key)).copied();
    match family.to_ascii_lowercase().as_str() {
        "metric" | "metrics" => Ok(Field::Metric(key.to_owned())),
        "param" | "params" | "parameter" | "parameters" => Ok(Field::Param(key.to_owned())),
        "tag" | "tags" => Ok(Field::Tag(key.to_owned())),
        "attribute" | "attributes" | "attr" | "run" => {
            // Names that newer clients use for the same things.
            let key = if key.eq_ignore_ascii_case("created") { "start_time" } else { key };
            named(&TEXTS)
                .map(Field::Text)
                .or_else(|| TIMES.iter().find(|n| n.eq_ignore_ascii_case(key)).copied().map(Field::Time))
                .ok_or_else(|| {
                    refusal(&format!("runs cannot be compared by the attribute `{}` here", key.escape_debug()))
                })
        }
        _ => Err(refusal(&format!("runs cannot be compared by `{}` here", text.escape_debug()))),
    }
}

fn condition(rest: &mut &[Token]) -> Result<(Field, Test), ApiError> {
    let mut next = || {
        let (first, tail) = rest.split_first().ok_or_else(|| refusal("it ends in the middle of a condition"))?;
        *rest = tail;
        Ok::<_, ApiError>(first.clone())
    };
    let Token::Word(name) = next()? else { return Err(refusal("a condition begins with what it compares")) };
    let field = field(&name)?;
    let mut op = next()?;
    let negated = matches!(&op, Token::Word(w) if w.eq_ignore_ascii_case("not"));
    if negated {
        op = next()?;
    }
    let number = matches!(field, Field::Metric(_) | Field::Time(_));
    match op {
        Token::Symbol(symbol @ ("=" | "!=" | ">" | ">=" | "<" | "<=")) if !negated => {
            let op = match symbol {
                "=" => Op::Eq,
                "!=" => Op::Ne,
                ">" => Op::Gt,
                ">=" => Op::Ge,
                "<" => Op::Lt,
                _ => Op::Le,
            };
            match (number, next()?) {
                (true, Token::Word(text)) => {
                    let value =
                        text.parse().map_err(|_| refusal(&format!("`{}` is no number", text.escape_debug())))?;
                    Ok((field, Test::Number(op, value)))
                }
                (false, Token::Quoted(text)) if matches!(op, Op::Eq | Op::Ne) => Ok((field, Test::Text(op, text))),
                (false, Token::Quoted(_)) => Err(refusal(&format!("texts cannot be compared by `{symbol}`"))),
                (true, token) => Err(refusal(&format!("`{}` is no number", token.shown()))),
                (false, token) => Err(refusal(&format!("the text `{}` must stand in quotes", token.shown()))),
            }
        }
        Token::Word(word)
            if !number && !negated && (word.eq_ignore_ascii_case("like") || word.eq_ignore_ascii_case("ilike")) =>
        {
            let Token::Quoted(pattern) = next()? else { return Err(refusal("a pattern must stand in quotes")) };
            Ok((field, Test::Like { pattern, case: word.eq_ignore_ascii_case("like") }))
        }
        Token::Word(word) if !number && word.eq_ignore_ascii_case("in") => {
            if next()? != Token::Symbol("(") {
                return Err(refusal("`IN` is followed by texts in parentheses"));
            }
            let mut values = Vec::new();
            loop {
                match next()? {
                    Token::Quoted(value) => values.push(value),
                    Token::Symbol(",") => {}
                    Token::Symbol(")") => return Ok((field, Test::In { values, negated })),
                    token => return Err(refusal(&format!("`{}` must stand in quotes", token.shown()))),
                }
            }
        }
        token => Err(refusal(&format!("the operator `{}` is not known for `{}`", token.shown(), name.escape_debug()))),
    }
}

/// In which order runs are answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Order(Vec<(Field, bool)>);

impl Order {
    /// Parses `metrics.acc DESC`, `start_time`, ...
    pub fn parse(keys: &[String]) -> Result<Self, ApiError> {
        if keys.len() > CONDITIONS_MAX {
            return Err(refusal(&format!("it orders by more than {CONDITIONS_MAX} keys")));
        }
        let key = |text: &String| match tokens(text)?.as_slice() {
            [Token::Word(name)] => Ok((field(name)?, false)),
            [Token::Word(name), Token::Word(way)] if way.eq_ignore_ascii_case("asc") => Ok((field(name)?, false)),
            [Token::Word(name), Token::Word(way)] if way.eq_ignore_ascii_case("desc") => Ok((field(name)?, true)),
            _ => Err(refusal(&format!("`{}` is no key to order by", text.escape_debug()))),
        };
        keys.iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// Compares two runs. What lacks a value comes last; then the newest comes first.
    pub fn compare(&self, a: &Searched, b: &Searched) -> Ordering {
        for (field, descending) in &self.0 {
            let order = match field {
                Field::Metric(key) => last_if_absent(a.metrics.get(key), b.metrics.get(key), *descending, |x, y| {
                    x.partial_cmp(y).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()))
                }),
                Field::Time(name) => last_if_absent(a.times.get(name), b.times.get(name), *descending, Ord::cmp),
                text => last_if_absent(text_of(text, a), text_of(text, b), *descending, Ord::cmp),
            };
            if order != Ordering::Equal {
                return order;
            }
        }
        let (start, id) = ("start_time", "run_id");
        b.times.get(start).cmp(&a.times.get(start)).then_with(|| a.attributes.get(id).cmp(&b.attributes.get(id)))
    }
}

fn last_if_absent<T>(a: Option<T>, b: Option<T>, descending: bool, compare: impl Fn(&T, &T) -> Ordering) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) if descending => compare(&b, &a),
        (Some(a), Some(b)) => compare(&a, &b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

fn refusal(why: &str) -> ApiError {
    ApiError::bad_request("INVALID_PARAMETER_VALUE", format!("The search cannot be used: {why}."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    fn run(id: &str, acc: Option<f64>, start: i64) -> Searched {
        Searched {
            attributes: [("run_id", id.to_owned()), ("status", "FINISHED".to_owned())].into(),
            times: [("start_time", start)].into(),
            metrics: acc.map(|v| ("acc".to_owned(), v)).into_iter().collect(),
            params: [("lr".to_owned(), "0.1".to_owned())].into(),
            tags: [("mlflow.note".to_owned(), "Résumé_v2".to_owned())].into(),
        }
    }

    fn fits(filter: &str) -> bool {
        Filter::parse(filter).unwrap().fits(&run("r1", Some(0.9), 10))
    }

    #[test]
    fn conditions_are_held_against_a_run() {
        assert!(fits("") && fits("metrics.acc >= 0.9 and params.lr = '0.1'"));
        assert!(!fits("metrics.acc > 0.9") && !fits("metrics.absent > 0"));
        assert!(fits("tags.`mlflow.note` LIKE 'R_sum%'") && !fits("tags.mlflow.note LIKE 'r%'"));
        assert!(fits("tags.\"mlflow.note\" ILIKE 'r%V2'"));
        assert!(fits("attributes.run_id IN ('r0', 'r1')") && !fits("run_id NOT IN ('r1')"));
        assert!(fits("attribute.status != 'RUNNING' and start_time < 11"));
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let said = |filter: &str| Filter::parse(filter).unwrap_err().message;
        insta::assert_snapshot!(said("metrics.a > 1 or metrics.b > 1"), @"The search cannot be used: `or` cannot follow a condition; only `and` can.");
        insta::assert_snapshot!(said("datasets.name = 'x'"), @"The search cannot be used: runs cannot be compared by `datasets.name` here.");
        insta::assert_snapshot!(said("params.lr = 0.1"), @"The search cannot be used: the text `0.1` must stand in quotes.");
        insta::assert_snapshot!(said("metrics.a > 'x'"), @"The search cannot be used: `x` is no number.");
        insta::assert_snapshot!(said("attributes.colour = 'x'"), @"The search cannot be used: runs cannot be compared by the attribute `colour` here.");
        insta::assert_snapshot!(said("params.lr"), @"The search cannot be used: it ends in the middle of a condition.");
    }

    #[test]
    fn runs_without_a_value_come_last_and_the_newest_first() {
        let order = |keys: &[&str]| {
            let order = Order::parse(&keys.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>()).unwrap();
            let mut runs = [run("a", Some(0.5), 1), run("b", None, 3), run("c", Some(0.7), 2)];
            runs.sort_by(|x, y| order.compare(x, y));
            runs.map(|r| r.attributes["run_id"].clone()).join("")
        };
        assert_eq!(order(&[]), "bca");
        assert_eq!(order(&["metrics.acc DESC"]), "cab");
        assert_eq!(order(&["metrics.acc asc"]), "acb");
        assert!(Order::parse(&["metrics.acc SIDEWAYS".to_owned()]).is_err());
    }

    #[test]
    fn like_is_linear_in_the_text() {
        assert!(!like(&"%a".repeat(200), &"b".repeat(4_000)));
    }
}
