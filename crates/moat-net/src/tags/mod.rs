//! Service tags: where their prefixes come from, and how they are spelled.
//!
//! Two public tag files are embedded, one an edition, in a compact binary form that
//! `cargo xtask tags` makes: [`september_2021`] and [`october_2025`]. They are decoded at first
//! use, and a tag's prefixes only when asked for. Tags that Azure computes (`VirtualNetwork`,
//! `Internet`, ...) are not here but in [`crate::address::DynamicTag`].

pub mod encode;
mod file;
mod pack;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use ipnet::IpNet;

pub use file::{Tag, TagDataError, TagFile};

/// The public tag file of 2021-09-27, for edition `2021-09`.
pub fn september_2021() -> &'static TagFile {
    static FILE: LazyLock<TagFile> = LazyLock::new(|| embedded(include_bytes!("../../data/tags-2021-09-27.bin")));
    &FILE
}

/// The public tag file of 2025-10-28, for edition `current`.
pub fn october_2025() -> &'static TagFile {
    static FILE: LazyLock<TagFile> = LazyLock::new(|| embedded(include_bytes!("../../data/tags-2025-10-28.bin")));
    &FILE
}

fn embedded(bytes: &[u8]) -> TagFile {
    // The bytes are part of the program, and a test decodes both files whole.
    TagFile::decode(bytes).expect("embedded tag data is well formed")
}

/// Where tag data comes from.
#[derive(Debug, Clone, Default)]
pub enum TagSource {
    /// There is none: every tag of a file is unknown.
    #[default]
    None,
    /// Given with the world, by name.
    Given(BTreeMap<String, Vec<IpNet>>),
    /// An embedded file.
    File(&'static TagFile),
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
            TagSource::File(file) => {
                file.get(name).map(|t| t.name().to_owned()).filter(|n| !case_sensitive || n == name)
            }
        }
    }

    /// Prefixes of a tag by its canonical spelling; empty if it does not exist.
    pub fn prefixes(&self, canonical: &str) -> Vec<IpNet> {
        match self {
            TagSource::None => Vec::new(),
            TagSource::Given(tags) => tags.get(canonical).cloned().unwrap_or_default(),
            TagSource::File(file) => file.get(canonical).map(|t| t.prefixes()).unwrap_or_default(),
        }
    }
}

/// Names that documents and people write for other tags (network-semantics 3.11).
const MISSPELLED: [(&str, &str); 4] = [
    ("ContainerRegistry", "AzureContainerRegistry"),
    ("KeyVault", "AzureKeyVault"),
    ("FrontDoor", "AzureFrontDoor"),
    ("AzureStorage", "Storage"),
];
const MISSPELLED_REGIONS: [(&str, &str); 4] =
    [("uswest", "westus"), ("useast", "eastus"), ("uswest2", "westus2"), ("useast2", "eastus2")];

/// The spelling that was probably meant by a name Azure does not have. Azure refuses such names, so
/// this is for the message, not an alias.
pub fn spelling_hint(name: &str) -> Option<String> {
    let lookup = |table: &[(&str, &'static str)], text: &str| {
        table.iter().find(|(wrong, _)| wrong.eq_ignore_ascii_case(text)).map(|(_, right)| *right)
    };
    let (base, region) = name.split_once('.').map_or((name, None), |(b, r)| (b, Some(r)));
    let better_base = lookup(&MISSPELLED, base);
    let better_region = region.and_then(|r| lookup(&MISSPELLED_REGIONS, r));
    if better_base.is_none() && better_region.is_none() {
        return None;
    }
    let base = better_base.unwrap_or(base);
    Some(match better_region.or(region) {
        Some(region) => format!("{base}.{region}"),
        None => base.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn both_files_are_whole_small_and_dated() {
        for (file, date, change, tags, prefixes) in
            [(september_2021(), "2021-09-27", 168, 2281, 48_945), (october_2025(), "2025-10-28", 375, 3039, 93_362)]
        {
            assert_eq!((file.date(), file.change_number(), file.cloud()), (date, change, "Public"));
            assert_eq!(file.all().count(), tags);
            assert_eq!(file.all().map(|t| t.prefixes().len()).sum::<usize>(), prefixes);
        }
        assert!(include_bytes!("../../data/tags-2021-09-27.bin").len() < 150_000);
        assert!(include_bytes!("../../data/tags-2025-10-28.bin").len() < 150_000);
    }

    #[test]
    fn names_are_found_without_case() {
        let tag = september_2021().get("storage.WESTUS2").unwrap();
        assert_eq!((tag.name(), tag.region(), tag.system_service()), ("Storage.WestUS2", "westus2", "AzureStorage"));
        assert!(tag.prefixes().iter().all(|p| p.network() == p.addr()));
        assert!(september_2021().get("Storage.Atlantis").is_none());
    }

    #[test]
    fn batch_became_regional_after_the_seed() {
        assert!(october_2025().get("BatchNodeManagement.EastUS").is_some());
        let source = TagSource::File(october_2025());
        assert_eq!(source.canonical("batchnodemanagement.eastus", true), None);
        assert_eq!(
            source.canonical("batchnodemanagement.eastus", false).as_deref(),
            Some("BatchNodeManagement.EastUS")
        );
    }

    #[test]
    fn known_misspellings_are_explained() {
        for (wrong, right) in [
            ("ContainerRegistry.eastus", "AzureContainerRegistry.eastus"),
            ("Keyvault", "AzureKeyVault"),
            ("Frontdoor.FirstParty", "AzureFrontDoor.FirstParty"),
            ("AzureStorage", "Storage"),
            ("BatchNodeManagement.uswest", "BatchNodeManagement.westus"),
        ] {
            assert_eq!(spelling_hint(wrong).as_deref(), Some(right));
        }
        assert_eq!(spelling_hint("Storage.WestUS"), None);
    }
}
