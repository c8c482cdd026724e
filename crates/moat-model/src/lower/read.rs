//! Small readings shared by all kinds: addresses, prefixes, ports, and Azure's habit of one field
//! in the singular and one in the plural.

use std::net::IpAddr;

use ipnet::IpNet;
use moat_arm::document;
use moat_net::address::DynamicTag;
use moat_net::ir::{AddressMatch, PortRange};
use serde_json::Value;

use super::{Doc, Lowering, What};

/// A prefix or a lone address, host bits kept as written. A bare number is an address too, as it always was for
/// `inet_aton` and for the service: `111` is 0.0.0.111.
pub(crate) fn prefix(text: &str) -> Option<IpNet> {
    let text = text.trim();
    let number = || text.parse::<u32>().ok().map(|n| IpAddr::V4(n.into()));
    text.parse().ok().or_else(|| text.parse().ok().or_else(number).map(IpNet::from))
}

/// `*`, `443` or `8000-9000`.
pub(crate) fn ports(text: &str) -> Option<PortRange> {
    let text = text.trim();
    if is_any(text) {
        return Some(PortRange::ALL);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(PortRange { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
}

/// `*` or `Any`.
pub(crate) fn is_any(text: &str) -> bool {
    text == "*" || text.eq_ignore_ascii_case("any")
}

/// Whether a text is meant as an address rather than a name.
fn looks_like_address(text: &str) -> bool {
    text.contains(':') || text.starts_with(|c: char| c.is_ascii_digit())
}

/// All texts of a plural field, then the one of the singular field; a bare string in the plural
/// counts too, and empty strings are absent.
pub(crate) fn both<'v>(body: &'v Value, singular: &str, plural: &str) -> Vec<&'v str> {
    let many = match document::at(body, plural) {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(one)) => vec![one.as_str()],
        _ => Vec::new(),
    };
    many.into_iter().chain(document::str_at(body, singular)).filter(|t| !t.is_empty()).collect()
}

impl<'a> Lowering<'a> {
    /// Prefixes at a path of texts.
    pub(crate) fn prefixes(&mut self, doc: &Doc<'_>, singular: &str, plural: &str) -> Vec<IpNet> {
        let mut found = Vec::new();
        for text in both(doc.body, singular, plural) {
            match prefix(text) {
                Some(p) => found.push(p),
                None => self.problem(&doc.id, plural, What::BadAddress(text.to_owned())),
            }
        }
        found
    }

    /// An address at a path.
    pub(crate) fn address(&mut self, doc: &Doc<'_>, path: &str) -> Option<IpAddr> {
        let text = document::str_at(doc.body, path).filter(|t| !t.is_empty())?;
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.problem(&doc.id, path, What::BadAddress(text.to_owned()));
        }
        parsed
    }

    /// One address expression: `*`, prefix, address or tag.
    pub(crate) fn address_match(&mut self, document: &str, at: &str, text: &str) -> Option<AddressMatch> {
        if is_any(text) {
            return Some(AddressMatch::Any);
        }
        if looks_like_address(text) {
            let parsed = prefix(text).map(AddressMatch::Prefix);
            if parsed.is_none() {
                self.problem(document, at, What::BadAddress(text.to_owned()));
            }
            return parsed;
        }
        Some(AddressMatch::Tag(match DynamicTag::parse(text, self.net.semantics.tag_names_case_sensitive) {
            Some(dynamic) => dynamic.as_str().to_owned(),
            None => self.tag(document, at, text),
        }))
    }

    /// Port ranges at a pair of paths.
    pub(crate) fn port_ranges(&mut self, doc: &Doc<'_>, singular: &str, plural: &str) -> Vec<PortRange> {
        let mut found = Vec::new();
        for text in both(doc.body, singular, plural) {
            match ports(text) {
                Some(range) => found.push(range),
                None => self.problem(&doc.id, plural, What::BadPort(text.to_owned())),
            }
        }
        found
    }

    /// A port number at a path; absent is 0.
    pub(crate) fn port(&mut self, doc: &Doc<'_>, path: &str) -> u16 {
        match document::u64_at(doc.body, path) {
            None => 0,
            Some(n) => u16::try_from(n).unwrap_or_else(|_| {
                self.problem(&doc.id, path, What::BadPort(n.to_string()));
                0
            }),
        }
    }
}
