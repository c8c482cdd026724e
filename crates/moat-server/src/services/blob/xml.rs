//! The little XML that the blob service speaks: written with care for what a name may hold, read as a flat list of
//! elements.

/// How every answer begins. Clients of the .NET family expect the mark.
pub(super) const HEAD: &str = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>";

/// Text as it may stand between tags or in an attribute.
pub(super) fn text(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // No XML document may hold these, also not as references.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// `<name>value</name>`.
pub(super) fn element(name: &str, value: &str) -> String {
    format!("<{name}>{}</{name}>", text(value))
}

/// The elements of `document` that hold text and no elements, in order. `None` for what is no XML at all.
pub(super) fn leaves(document: &str) -> Option<Vec<(&str, String)>> {
    let mut leaves = Vec::new();
    let mut rest = document.trim_start_matches('\u{feff}').trim();
    let mut open: Option<&str> = None;
    while let Some(at) = rest.find('<') {
        let before = &rest[..at];
        let (tag, after) = rest[at + 1..].split_once('>')?;
        rest = after;
        if tag.starts_with(['?', '!']) {
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            if open == Some(name.trim()) {
                leaves.push((name.trim(), plain(before)));
            }
            open = None;
        } else if !tag.ends_with('/') {
            open = tag.split_whitespace().next();
        }
    }
    rest.trim().is_empty().then_some(leaves)
}

fn plain(escaped: &str) -> String {
    let text = escaped.trim().replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    text.replace("&apos;", "'").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let odd = "a<b>&\"c\" \u{1}\u{ffff}";
        assert_eq!(text(odd), "a&lt;b&gt;&amp;&quot;c&quot; \u{fffd}\u{fffd}");
        let list = format!("{HEAD}<BlockList>\n <Latest>YQ==</Latest><Committed>Yg==</Committed><Empty/></BlockList>");
        assert_eq!(leaves(&list).unwrap(), [("Latest", "YQ==".to_owned()), ("Committed", "Yg==".to_owned())]);
        assert_eq!(leaves(&element("A", "x&<y")).unwrap(), [("A", "x&<y".to_owned())]);
        assert!(leaves("{\"no\": \"xml\"}").is_none() && leaves("<a").is_none());
        assert!(leaves("<a></b>").unwrap().is_empty());
    }
}
