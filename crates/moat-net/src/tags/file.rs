//! The compact form of a tag file, decoded.
//!
//! All prefixes of the file stand once, sorted, in two dictionaries; a tag is a list of positions
//! in them, and a tag with regional parts is the difference to the union of its parts. Azure's
//! files list each tag's prefixes in dictionary order, so the file's order is kept.
//! `encode` writes what this reads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::pack;

/// Version of the form.
pub(super) const FORMAT: u64 = 1;

/// The streams, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// Format, file change number.
    Head,
    /// Lines: date, cloud, then the string table.
    Strings,
    /// One varint a tag: name before the dot, as a string.
    Bases,
    /// One varint a tag: name after the dot, as a string plus one; 0 for none.
    Suffixes,
    /// One varint a tag: its change number.
    Changes,
    /// One varint a tag: 0 if the region is the suffix in lower case, else a string plus one.
    Regions,
    /// One varint a tag: system service, as a string.
    Services,
    /// One varint a tag: network features joined by commas, as a string.
    Features,
    /// One varint a tag: twice the number of positions, plus one if they are a difference.
    Counts,
    /// Positions of each tag, ascending, as gaps.
    Members,
    /// Lengths of IPv4 prefixes.
    Lengths4,
    /// Distances of IPv4 prefixes from the one before, in units of their own size.
    Gaps4,
    /// Lengths of IPv6 prefixes.
    Lengths6,
    /// Distances of IPv6 prefixes.
    Gaps6,
}
pub(super) const STREAMS: usize = 14;

/// Why tag data cannot be decoded.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum TagDataError {
    /// The bytes end too early or contradict themselves.
    #[error("the tag data is damaged")]
    Damaged,
    /// It was written by another version.
    #[error("the tag data has format {0}, this program reads {FORMAT}")]
    Format(u64),
}

/// A decoded tag file.
#[derive(Debug, Clone)]
pub struct TagFile {
    date: String,
    cloud: String,
    change_number: u64,
    tags: Vec<Meta>,
    /// Position in `tags` by lower-case name.
    by_name: BTreeMap<String, usize>,
    /// Positions of each tag, still coded.
    members: Vec<u8>,
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
}

#[derive(Debug, Clone)]
struct Meta {
    name: String,
    change_number: u64,
    region: String,
    system_service: String,
    network_features: Vec<String>,
    /// Where its positions begin in `members`.
    at: usize,
    count: usize,
    /// Its positions are the difference to the union of its regional parts.
    difference: bool,
}

/// Reads varints and strings, noting only once that something was wrong.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}
impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
    fn wide(&mut self) -> Option<u128> {
        let mut value = 0u128;
        for shift in (0..128).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            value |= u128::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
    fn number(&mut self) -> Option<u64> {
        self.wide()?.try_into().ok()
    }
    fn size(&mut self) -> Option<usize> {
        self.wide()?.try_into().ok()
    }
}

impl TagFile {
    /// Decodes what [`super::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, TagDataError> {
        let streams = pack::unpack(bytes, STREAMS).ok_or(TagDataError::Damaged)?;
        let reader = |s: Stream| Reader::new(streams.get(s as usize).map(Vec::as_slice).unwrap_or_default());
        let mut head = reader(Stream::Head);
        match head.number() {
            Some(FORMAT) => {}
            Some(other) => return Err(TagDataError::Format(other)),
            None => return Err(TagDataError::Damaged),
        }
        let change_number = head.number().ok_or(TagDataError::Damaged)?;
        let text = std::str::from_utf8(reader(Stream::Strings).bytes).map_err(|_| TagDataError::Damaged)?;
        let mut lines = text.split('\n');
        let date = lines.next().unwrap_or_default().to_owned();
        let cloud = lines.next().unwrap_or_default().to_owned();
        let strings: Vec<&str> = lines.collect();
        let mut file = Self {
            date,
            cloud,
            change_number,
            tags: Vec::new(),
            by_name: BTreeMap::new(),
            members: reader(Stream::Members).bytes.to_vec(),
            v4: Vec::new(),
            v6: Vec::new(),
        };
        file.read_prefixes(&streams).ok_or(TagDataError::Damaged)?;
        file.read_tags(&streams, &strings).ok_or(TagDataError::Damaged)?;
        Ok(file)
    }

    fn read_prefixes(&mut self, streams: &[Vec<u8>]) -> Option<()> {
        let mut gaps = Reader::new(&streams[Stream::Gaps4 as usize]);
        let mut before = 0u32;
        for &length in &streams[Stream::Lengths4 as usize] {
            let unit = 32u32.checked_sub(u32::from(length))?;
            let block = before.checked_shr(unit).unwrap_or(0).checked_add(u32::try_from(gaps.wide()?).ok()?)?;
            before = block.checked_shl(unit).unwrap_or(0);
            self.v4.push(Ipv4Net::new(Ipv4Addr::from_bits(before), length).ok()?);
        }
        let mut gaps = Reader::new(&streams[Stream::Gaps6 as usize]);
        let mut before = 0u128;
        for &length in &streams[Stream::Lengths6 as usize] {
            let unit = 128u32.checked_sub(u32::from(length))?;
            let block = before.checked_shr(unit).unwrap_or(0).checked_add(gaps.wide()?)?;
            before = block.checked_shl(unit).unwrap_or(0);
            self.v6.push(Ipv6Net::new(Ipv6Addr::from_bits(before), length).ok()?);
        }
        Some(())
    }

    fn read_tags(&mut self, streams: &[Vec<u8>], strings: &[&str]) -> Option<()> {
        let column = |s: Stream| Reader::new(&streams[s as usize]);
        let mut bases = column(Stream::Bases);
        let mut suffixes = column(Stream::Suffixes);
        let mut changes = column(Stream::Changes);
        let mut regions = column(Stream::Regions);
        let mut services = column(Stream::Services);
        let mut features = column(Stream::Features);
        let mut counts = column(Stream::Counts);
        let members = std::mem::take(&mut self.members);
        let mut positions = Reader::new(&members);
        let string = |at: usize| strings.get(at).copied();
        while bases.at < bases.bytes.len() {
            let base = string(bases.size()?)?;
            let suffix = match suffixes.size()?.checked_sub(1) {
                Some(at) => Some(string(at)?),
                None => None,
            };
            let region = match regions.size()?.checked_sub(1) {
                Some(at) => string(at)?.to_owned(),
                None => suffix.unwrap_or_default().to_lowercase(),
            };
            let network_features = string(features.size()?)?.split(',').filter(|f| !f.is_empty());
            let name = suffix.map_or_else(|| base.to_owned(), |s| format!("{base}.{s}"));
            let coded = counts.size()?;
            let meta = Meta {
                change_number: changes.number()?,
                region,
                system_service: string(services.size()?)?.to_owned(),
                network_features: network_features.map(str::to_owned).collect(),
                at: positions.at,
                count: coded >> 1,
                difference: coded & 1 == 1,
                name,
            };
            let mut position = 0usize;
            for _ in 0..meta.count {
                position = position.checked_add(positions.size()?)?;
            }
            if position > self.v4.len() + self.v6.len() {
                return None;
            }
            self.by_name.insert(meta.name.to_lowercase(), self.tags.len());
            self.tags.push(meta);
        }
        self.members = members;
        Some(())
    }

    /// Day the file was published, `2021-09-27`.
    pub fn date(&self) -> &str {
        &self.date
    }
    /// Change number of the file.
    pub fn change_number(&self) -> u64 {
        self.change_number
    }
    /// Cloud, `Public`.
    pub fn cloud(&self) -> &str {
        &self.cloud
    }

    /// The tag of this name, compared without case (3.2).
    pub fn get(&self, name: &str) -> Option<Tag<'_>> {
        let at = *self.by_name.get(&name.to_lowercase())?;
        Some(Tag { file: self, meta: &self.tags[at] })
    }

    /// All tags in file order.
    pub fn all(&self) -> impl Iterator<Item = Tag<'_>> {
        self.tags.iter().map(|meta| Tag { file: self, meta })
    }

    /// Positions of a tag as written: its own, or its difference.
    fn written(&self, meta: &Meta) -> BTreeSet<usize> {
        let mut reader = Reader { bytes: &self.members, at: meta.at };
        let mut position = 0;
        // Decoding has read every gap once, so the reader cannot run dry here. Gaps begin at 1.
        (0..meta.count)
            .map_while(|_| {
                position += reader.size()?;
                position.checked_sub(1)
            })
            .collect()
    }

    fn positions(&self, meta: &Meta) -> BTreeSet<usize> {
        let written = self.written(meta);
        if !meta.difference {
            return written;
        }
        let prefix = format!("{}.", meta.name.to_lowercase());
        let parts = self.by_name.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        let mut union = BTreeSet::new();
        for (_, at) in parts {
            union.extend(self.written(&self.tags[*at]));
        }
        union.symmetric_difference(&written).copied().collect()
    }
}

/// One tag of a file.
#[derive(Debug, Clone, Copy)]
pub struct Tag<'a> {
    file: &'a TagFile,
    meta: &'a Meta,
}
impl<'a> Tag<'a> {
    /// Name, `Storage.WestUS2`; its `id` in the file is the same.
    pub fn name(self) -> &'a str {
        &self.meta.name
    }
    /// Change number.
    pub fn change_number(self) -> u64 {
        self.meta.change_number
    }
    /// Region, `westus2`; empty for the whole cloud.
    pub fn region(self) -> &'a str {
        &self.meta.region
    }
    /// System service, `AzureStorage`.
    pub fn system_service(self) -> &'a str {
        &self.meta.system_service
    }
    /// Where it may be used, for example `NSG` and `UDR`.
    pub fn network_features(self) -> &'a [String] {
        &self.meta.network_features
    }
    /// Its prefixes in file order, decoded now.
    pub fn prefixes(self) -> Vec<IpNet> {
        let positions = self.file.positions(self.meta);
        let prefix = |at: usize| match self.file.v4.get(at) {
            Some(p) => Some(IpNet::V4(*p)),
            None => self.file.v6.get(at - self.file.v4.len()).map(|p| IpNet::V6(*p)),
        };
        positions.into_iter().filter_map(prefix).collect()
    }
}
