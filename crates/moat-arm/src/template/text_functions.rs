//! Template functions on texts, and the parts of lists that work on texts too.

use std::borrow::Cow;

use uuid::Uuid;

use super::Failure;
use super::functions::{Call, Outcome};
use crate::syntax::{Kind, Node};

/// Namespace of `uniqueString`. AZURE: Azure's own hash is not published; the results here have
/// its form (13 lower-case letters and digits) and its stability, not its letters.
const UNIQUE: Uuid = Uuid::from_u128(0x6d6f_6174_756e_4971_8000_0000_0000_0001);
/// Length of what `uniqueString` makes.
const UNIQUE_CHARS: usize = 13;

pub(super) fn call(c: &Call<'_, '_>, lower: &str) -> Outcome {
    match lower {
        "concat" => c.string(c.arguments.iter().map(plain).collect::<String>()),
        "string" => c.string(plain(c.arguments.first().ok_or_else(|| c.fail("needs an argument"))?)),
        "tolower" => c.string(c.text(0)?.to_lowercase()),
        "toupper" => c.string(c.text(0)?.to_uppercase()),
        "trim" => c.string(c.text(0)?.trim()),
        "startswith" => c.truth(c.text(0)?.to_lowercase().starts_with(&c.text(1)?.to_lowercase())),
        "endswith" => c.truth(c.text(0)?.to_lowercase().ends_with(&c.text(1)?.to_lowercase())),
        "indexof" | "lastindexof" => {
            let (text, wanted) = (c.text(0)?.to_lowercase(), c.text(1)?.to_lowercase());
            let at = if lower == "indexof" { text.find(&wanted) } else { text.rfind(&wanted) };
            let chars = at.map(|at| text[..at].chars().count()).and_then(|n| i64::try_from(n).ok());
            c.number(chars.unwrap_or(-1))
        }
        "replace" => {
            let (text, old, new) = (c.text(0)?, c.text(1)?, c.text(2)?);
            // Counted first: each place grows by what is put there.
            c.makes(text.matches(old).count().saturating_mul(new.len()).saturating_add(text.len()))?;
            c.string(text.replace(old, new))
        }
        "split" => split(c),
        "join" => {
            let separator = c.text(1)?;
            let parts: Vec<Cow<'_, str>> = c.arguments[0].elements().iter().map(plain).collect();
            c.makes(parts.len().saturating_mul(separator.len()))?;
            c.string(parts.join(separator))
        }
        "substring" => substring(c),
        "padleft" => {
            let width = usize::try_from(c.int(1)?).unwrap_or(0).min(10_000);
            let text = plain(&c.arguments[0]);
            let fill = match c.arguments.get(2) {
                Some(_) => c.text(2)?.chars().next().unwrap_or(' '),
                None => ' ',
            };
            let missing = width.saturating_sub(text.chars().count());
            c.string(std::iter::repeat_n(fill, missing).collect::<String>() + &text)
        }
        "format" => format(c),
        "json" => {
            let value: serde_json::Value = serde_json::from_str(c.text(0)?).map_err(|_| {
                c.fail(format_args!("cannot read `{}` as JSON", c.arguments[0].as_str().unwrap_or_default()))
            })?;
            Ok(Node::from_json(&value, c.span))
        }
        "uniquestring" => c.string(unique(&c.texts()?)),
        "uri" => {
            let (base, rest) = (c.text(0)?, c.text(1)?);
            c.string(match base.rsplit_once('/') {
                _ if base.ends_with('/') => format!("{base}{}", rest.trim_start_matches('/')),
                Some((before, _)) => format!("{before}/{}", rest.trim_start_matches('/')),
                None => rest.to_owned(),
            })
        }
        _ => Err(c.fail("is not known")),
    }
}

/// A value as text, the way `concat` and `string` write it.
pub(super) fn plain(node: &Node) -> Cow<'_, str> {
    match &node.kind {
        Kind::String(s) => Cow::Borrowed(s),
        Kind::Null => Cow::Borrowed(""),
        Kind::Bool(b) => Cow::Borrowed(if *b { "True" } else { "False" }),
        _ => Cow::Owned(node.to_json().to_string()),
    }
}

fn unique(seeds: &[&str]) -> String {
    let hash = Uuid::new_v5(&UNIQUE, seeds.join("\u{0}").to_lowercase().as_bytes()).as_u128();
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    (0..UNIQUE_CHARS).map(|i| char::from(LETTERS[(hash >> (5 * i) & 31) as usize])).collect()
}

fn split(c: &Call<'_, '_>) -> Outcome {
    let text = c.text(0)?;
    let separators: Vec<&str> = match &c.arguments.get(1).map(|n| &n.kind) {
        Some(Kind::Array(many)) => many.iter().filter_map(Node::as_str).collect(),
        _ => vec![c.text(1)?],
    };
    let mut parts = vec![text];
    for separator in separators.into_iter().filter(|s| !s.is_empty()) {
        let places: usize = parts.iter().map(|p| p.matches(separator).count()).sum();
        c.makes(places.saturating_mul(size_of::<Node>()))?;
        parts = parts.into_iter().flat_map(|p| p.split(separator)).collect();
    }
    Ok(c.make(Kind::Array(parts.into_iter().map(|p| Node::text(p, c.span)).collect())))
}

fn substring(c: &Call<'_, '_>) -> Outcome {
    let chars: Vec<char> = c.text(0)?.chars().collect();
    let start = usize::try_from(c.int(1)?).ok().filter(|s| *s <= chars.len());
    let length = match c.arguments.get(2) {
        Some(_) => usize::try_from(c.int(2)?).ok(),
        None => start.map(|s| chars.len() - s),
    };
    let found = start.zip(length).and_then(|(s, l)| chars.get(s..s.checked_add(l)?));
    match found {
        Some(part) => c.string(part.iter().collect::<String>()),
        None => Err(c.fail(format_args!("asks for a part outside of the {} characters of its text", chars.len()))),
    }
}

/// `first`, `last`, `take`, `skip`: of lists and of texts.
pub(super) fn part(c: &Call<'_, '_>, lower: &str) -> Outcome {
    let of = c.arguments.first().ok_or_else(|| c.fail("needs an argument"))?;
    let many = match lower {
        "take" | "skip" => usize::try_from(c.int(1)?.max(0)).unwrap_or(usize::MAX),
        _ => 1,
    };
    match &of.kind {
        Kind::Array(elements) => Ok(match lower {
            "first" => elements.first().cloned().unwrap_or_else(|| c.make(Kind::Null)),
            "last" => elements.last().cloned().unwrap_or_else(|| c.make(Kind::Null)),
            "take" => c.make(Kind::Array(elements.iter().take(many).cloned().collect())),
            _ => c.make(Kind::Array(elements.iter().skip(many).cloned().collect())),
        }),
        Kind::String(text) => c.string(match lower {
            "first" => text.chars().take(1).collect::<String>(),
            "last" => text.chars().last().map(String::from).unwrap_or_default(),
            "take" => text.chars().take(many).collect(),
            _ => text.chars().skip(many).collect(),
        }),
        _ => Err(c.fail(format_args!("expects a string or an array, it got {}", of.type_name()))),
    }
}

/// `format('{0}-{1:D3}', ...)`: numbered places, doubled braces, and the padding of whole numbers.
fn format(c: &Call<'_, '_>) -> Outcome {
    let pattern = c.text(0)?;
    let mut out = String::new();
    let mut chars = pattern.chars().peekable();
    while let Some(ch) = chars.next() {
        match ch {
            '{' if chars.peek() == Some(&'{') => {
                chars.next();
                out.push('{');
            }
            '}' if chars.peek() == Some(&'}') => {
                chars.next();
                out.push('}');
            }
            '{' => {
                let place: String = chars.by_ref().take_while(|c| *c != '}').collect();
                let placed = placed(c, &place)?;
                c.makes(placed.len())?;
                out.push_str(&placed);
            }
            ch => out.push(ch),
        }
    }
    c.string(out)
}

fn placed(c: &Call<'_, '_>, place: &str) -> Result<String, Failure> {
    let (number, style) = place.split_once(':').unwrap_or((place, ""));
    let value = number.trim().parse::<usize>().ok().and_then(|n| c.arguments.get(n.checked_add(1)?));
    let value = value.ok_or_else(|| c.fail(format_args!("has no argument for the place `{{{place}}}`")))?;
    let text = plain(value).into_owned();
    let digits = style
        .strip_prefix(['D', 'd'])
        .map(|d| d.parse::<usize>().unwrap_or(0))
        .or_else(|| (!style.is_empty() && style.chars().all(|s| s == '0')).then_some(style.len()));
    Ok(match digits {
        Some(width) => format!("{text:0>width$}", width = width.min(64)),
        None => text,
    })
}

/// `utcNow([format])`: the ISO forms and the usual letters of .NET dates.
pub(super) fn utc_now(c: &Call<'_, '_>) -> Outcome {
    let now = c.evaluator.around.utc_now();
    let Some(format) = c.arguments.first() else { return c.string(now) };
    let format = format.as_str().ok_or_else(|| c.fail("expects a string as argument 1"))?;
    let digits: String = now.chars().filter(char::is_ascii_digit).collect();
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    let mut out = match format {
        "" => return c.string(now),
        "u" => "yyyy-MM-dd HH:mm:ssZ".to_owned(),
        "d" => "MM/dd/yyyy".to_owned(),
        other => other.to_owned(),
    };
    for (letters, value) in [
        ("yyyy", part(0, 4)),
        ("yy", part(2, 4)),
        ("MM", part(4, 6)),
        ("dd", part(6, 8)),
        ("HH", part(8, 10)),
        ("mm", part(10, 12)),
        ("ss", part(12, 14)),
    ] {
        out = out.replace(letters, value);
    }
    c.string(out)
}
