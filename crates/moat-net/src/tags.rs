//! Service tags: where their prefixes come from.

use std::collections::BTreeMap;

use ipnet::IpNet;

/// Where tag data comes from.
#[derive(Debug, Clone, Default)]
pub enum TagSource {
    /// There is none: every tag of a file is unknown.
    #[default]
    None,
    /// Given with the world, by name.
    Given(BTreeMap<String, Vec<IpNet>>),
}

impl TagSource {
    /// The file's own spelling of `name`, if the tag exists.
    pub fn canonical(&self, name: &str, case_sensitive: bool) -> Option<String> {
        match self {
            TagSource::None => None,
            TagSource::Given(tags) => {
                let loose = || tags.keys().find(|k| !case_sensitive && k.eq_ignore_ascii_case(name));
                tags.get_key_value(name).map(|(k, _)| k).or_else(loose).cloned()
            }
        }
    }

    /// Prefixes of a tag by its canonical spelling; empty if it does not exist.
    pub fn prefixes(&self, canonical: &str) -> Vec<IpNet> {
        match self {
            TagSource::None => Vec::new(),
            TagSource::Given(tags) => tags.get(canonical).cloned().unwrap_or_default(),
        }
    }
}

/// The spelling that was probably meant.
pub fn spelling_hint(name: &str) -> Option<String> {
    let _ = name;
    None
}
