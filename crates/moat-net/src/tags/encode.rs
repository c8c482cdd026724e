//! Writing the compact form; used by `cargo xtask tags` and by tests.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::Deserialize;

use super::file::{FORMAT, STREAMS, Stream};
use super::pack;

/// Azure's public tag file, as downloaded.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Change number of the file.
    pub change_number: u64,
    /// Cloud.
    pub cloud: String,
    /// Tags.
    pub values: Vec<SourceTag>,
}

/// A tag in it.
#[derive(Debug, Clone, Deserialize)]
pub struct SourceTag {
    /// Name.
    pub name: String,
    /// Id; always the name.
    pub id: String,
    /// The rest.
    pub properties: SourceProperties,
}

/// Members of a tag.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceProperties {
    /// Change number.
    pub change_number: u64,
    /// Region, or empty.
    pub region: String,
    /// System service, or empty.
    pub system_service: String,
    /// Prefixes.
    pub address_prefixes: Vec<IpNet>,
    /// Where it may be used; Azure writes `null` for nowhere.
    pub network_features: Option<Vec<String>>,
}

/// What the compact form cannot hold. Azure's files have none of it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EncodeError {
    /// Id and name differ.
    #[error("tag `{0}` has another id")]
    Id(String),
    /// Prefixes not ascending, IPv4 first.
    #[error("prefixes of tag `{0}` are not in ascending order")]
    Unsorted(String),
    /// Host bits set.
    #[error("tag `{0}` has a prefix with host bits")]
    HostBits(String),
    /// A text has a line break or comma where the form needs them.
    #[error("`{0}` has a line break or a comma")]
    Text(String),
}

/// The order of the dictionaries.
fn order(prefix: &IpNet) -> (bool, u128, u8) {
    match prefix {
        IpNet::V4(p) => (false, u128::from(p.addr().to_bits()), p.prefix_len()),
        IpNet::V6(p) => (true, p.addr().to_bits(), p.prefix_len()),
    }
}

fn varint(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A table of strings, each stored once.
#[derive(Default)]
struct Strings {
    positions: BTreeMap<String, usize>,
    lines: Vec<String>,
}
impl Strings {
    fn at(&mut self, text: &str) -> Result<usize, EncodeError> {
        if text.contains('\n') {
            return Err(EncodeError::Text(text.to_owned()));
        }
        let next = self.lines.len();
        let at = *self.positions.entry(text.to_owned()).or_insert(next);
        if at == next {
            self.lines.push(text.to_owned());
        }
        Ok(at)
    }
}

/// Encodes a tag file published on `date` (`2021-09-27`).
pub fn encode(source: &Source, date: &str) -> Result<Vec<u8>, EncodeError> {
    let mut streams: Vec<Vec<u8>> = vec![Vec::new(); STREAMS];
    let mut put = |stream: Stream, value: u128| varint(&mut streams[stream as usize], value);
    put(Stream::Head, u128::from(FORMAT));
    put(Stream::Head, u128::from(source.change_number));

    let mut dictionary: Vec<IpNet> =
        source.values.iter().flat_map(|t| &t.properties.address_prefixes).copied().collect();
    dictionary.sort_unstable_by_key(order);
    dictionary.dedup();
    let position: BTreeMap<_, usize> = dictionary.iter().enumerate().map(|(i, p)| (order(p), i)).collect();
    let sets = sets(source, &position)?;

    let mut strings = Strings::default();
    for (tag, set) in source.values.iter().zip(&sets) {
        let properties = &tag.properties;
        let (base, suffix) = tag.name.split_once('.').map_or((tag.name.as_str(), None), |(b, s)| (b, Some(s)));
        put(Stream::Bases, strings.at(base)? as u128);
        put(Stream::Suffixes, suffix.map(|s| strings.at(s)).transpose()?.map_or(0, |at| at as u128 + 1));
        put(Stream::Changes, u128::from(properties.change_number));
        let implied = suffix.unwrap_or_default().to_lowercase() == properties.region;
        put(Stream::Regions, if implied { 0 } else { strings.at(&properties.region)? as u128 + 1 });
        put(Stream::Services, strings.at(&properties.system_service)? as u128);
        let features = properties.network_features.as_deref().unwrap_or_default();
        if let Some(bad) = features.iter().find(|f| f.contains(',')) {
            return Err(EncodeError::Text(bad.clone()));
        }
        put(Stream::Features, strings.at(&features.join(","))? as u128);

        let part = format!("{}.", tag.name.to_lowercase());
        let parts = source.values.iter().zip(&sets).filter(|(t, _)| t.name.to_lowercase().starts_with(&part));
        let union: BTreeSet<usize> = parts.flat_map(|(_, s)| s).copied().collect();
        let difference: BTreeSet<usize> = set.symmetric_difference(&union).copied().collect();
        // Parts of a part do not exist in Azure's files; a difference to one would need recursion.
        let differs = suffix.is_none() && !union.is_empty() && difference.len() < set.len();
        let written = if differs { &difference } else { set };
        put(Stream::Counts, (written.len() as u128) << 1 | u128::from(differs));
        let mut before = 0;
        for at in written.iter().map(|at| at + 1) {
            put(Stream::Members, (at - before) as u128);
            before = at;
        }
    }
    let (mut before4, mut before6) = (0u32, 0u128);
    for prefix in &dictionary {
        match prefix {
            IpNet::V4(p) => {
                let unit = 32 - u32::from(p.prefix_len());
                let block = |a: u32| a.checked_shr(unit).unwrap_or(0);
                put(Stream::Gaps4, u128::from(block(p.addr().to_bits()) - block(before4)));
                before4 = p.addr().to_bits();
            }
            IpNet::V6(p) => {
                let unit = 128 - u32::from(p.prefix_len());
                let block = |a: u128| a.checked_shr(unit).unwrap_or(0);
                put(Stream::Gaps6, block(p.addr().to_bits()) - block(before6));
                before6 = p.addr().to_bits();
            }
        }
    }
    for prefix in &dictionary {
        let lengths = if prefix.addr().is_ipv4() { Stream::Lengths4 } else { Stream::Lengths6 };
        streams[lengths as usize].push(prefix.prefix_len());
    }
    let lines: Vec<&str> = [date, &source.cloud].into_iter().chain(strings.lines.iter().map(String::as_str)).collect();
    streams[Stream::Strings as usize] = lines.join("\n").into_bytes();
    Ok(pack::pack(&streams))
}

/// Positions of each tag's prefixes.
fn sets(source: &Source, position: &BTreeMap<(bool, u128, u8), usize>) -> Result<Vec<BTreeSet<usize>>, EncodeError> {
    let mut sets = Vec::with_capacity(source.values.len());
    for tag in &source.values {
        let prefixes = &tag.properties.address_prefixes;
        if tag.id != tag.name {
            return Err(EncodeError::Id(tag.name.clone()));
        }
        if prefixes.iter().any(|p| p.addr() != p.network()) {
            return Err(EncodeError::HostBits(tag.name.clone()));
        }
        if !prefixes.is_sorted_by(|a, b| order(a) < order(b)) {
            return Err(EncodeError::Unsorted(tag.name.clone()));
        }
        sets.push(prefixes.iter().filter_map(|p| position.get(&order(p)).copied()).collect());
    }
    Ok(sets)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::super::file::{TagDataError, TagFile};
    use super::*;

    fn prefixes() -> impl Strategy<Value = Vec<IpNet>> {
        let one = prop_oneof![
            (any::<u32>(), 0u8..=32).prop_map(|(a, l)| ipnet::Ipv4Net::new(a.into(), l).unwrap().trunc().into()),
            (any::<u128>(), 0u8..=128).prop_map(|(a, l)| ipnet::Ipv6Net::new(a.into(), l).unwrap().trunc().into()),
        ];
        prop::collection::vec(one, 0..20).prop_map(|mut all: Vec<IpNet>| {
            all.sort_unstable_by_key(order);
            all.dedup();
            all
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn tags_survive(sets in prop::collection::vec(prefixes(), 1..5), share in any::<bool>()) {
            let names = ["Top", "Top.EastUS", "Top.westus", "Other"];
            let union: BTreeSet<_> = sets.iter().skip(1).take(2).flatten().map(order).collect();
            let values: Vec<SourceTag> = names.iter().zip(&sets).map(|(name, set)| {
                let mut set = set.clone();
                if share && *name == "Top" {
                    // Mostly the union of its parts, as in Azure's files.
                    set.extend(sets.iter().skip(1).take(2).flatten());
                    set.sort_unstable_by_key(order);
                    set.dedup();
                }
                SourceTag { name: (*name).into(), id: (*name).into(), properties: SourceProperties {
                    change_number: union.len() as u64, region: "eastus".into(), system_service: String::new(),
                    address_prefixes: set, network_features: Some(vec!["NSG".into(), "UDR".into()]) } }
            }).collect();
            let source = Source { change_number: 7, cloud: "Public".into(), values };
            let file = TagFile::decode(&encode(&source, "2020-01-01").unwrap()).unwrap();
            prop_assert_eq!(file.all().count(), source.values.len());
            for tag in &source.values {
                let read = file.get(&tag.name.to_uppercase()).unwrap();
                prop_assert_eq!(read.prefixes(), tag.properties.address_prefixes.clone());
                prop_assert_eq!(read.region(), "eastus");
                prop_assert_eq!(read.network_features().len(), 2);
            }
        }

        #[test]
        fn damage_is_an_error_or_harmless(cut in 0usize..200) {
            let source = Source { change_number: 1, cloud: "Public".into(), values: vec![] };
            let mut bytes = encode(&source, "2020-01-01").unwrap();
            bytes.truncate(cut.min(bytes.len() / 2));
            prop_assert!(matches!(TagFile::decode(&bytes), Err(TagDataError::Damaged | TagDataError::Format(_)) | Ok(_)));
        }
    }
}
