//! The embedded tag data against the files it was made from: every tag, every member, in order.
//!
//! The files are not part of this repository: they are read from `$MOAT_SHARED/corpus/service-tags`
//! or from `../shared/...` beside it, and the test says so when it has to skip.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods, reason = "a test reads files")]

use std::path::PathBuf;

use moat_net::tags::encode::Source;
use moat_net::tags::{october_2025, september_2021};

#[test]
fn embedded_tags_are_those_of_the_files() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("MOAT_SHARED").map(PathBuf::from).unwrap_or_else(|| root.join("../shared"));
    for (file, name) in [(september_2021(), "20210927"), (october_2025(), "20251028")] {
        let path = shared.join(format!("corpus/service-tags/ServiceTags_Public_{name}.json"));
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("SKIPPED: no tag file of {name}; set MOAT_SHARED to the folder that holds corpus/");
            continue;
        };
        let source: Source = serde_json::from_str(&text).unwrap();
        assert_eq!(file.all().count(), source.values.len());
        for (tag, want) in file.all().zip(&source.values) {
            let properties = &want.properties;
            assert_eq!(tag.name(), want.name);
            assert_eq!(tag.change_number(), properties.change_number, "{}", want.name);
            assert_eq!(tag.region(), properties.region, "{}", want.name);
            assert_eq!(tag.system_service(), properties.system_service, "{}", want.name);
            assert_eq!(tag.network_features(), properties.network_features.as_deref().unwrap_or_default());
            assert_eq!(tag.prefixes(), properties.address_prefixes, "{}", want.name);
        }
    }
}
