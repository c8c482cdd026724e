//! Netlink messages as bytes: a builder with nested attributes, and a reader. Pure.

/// Length of `nlmsghdr`.
pub const HEADER_BYTES: usize = 16;
const NESTED: u16 = 0x8000;
const KIND_MASK: u16 = 0x3fff;

/// Rounds up to the next multiple of four.
pub fn align(n: usize) -> usize {
    (n + 3) & !3
}

/// A message under construction.
#[derive(Debug, Clone)]
pub struct Builder {
    kind: u16,
    flags: u16,
    bytes: Vec<u8>,
}

impl Builder {
    /// A message of `kind` with extra `flags`, starting with the family's fixed header.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(fixed);
        bytes.resize(align(bytes.len()), 0);
        Self { kind, flags, bytes }
    }
    /// Adds raw bytes (a fixed header within an attribute).
    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(value);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }
    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // A value that does not fit 16 bits would corrupt the message: the callers bound theirs.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        debug_assert_eq!(usize::from(length), 4 + value.len(), "attribute too long");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value)
    }
    /// Adds a number in host order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }
    /// Adds a number in network order, as netfilter wants.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }
    /// Adds a text with its closing zero.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }
    /// Adds an attribute that holds attributes.
    pub fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        inside(self);
        let length = self.bytes.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "nested attribute too long");
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }
    /// The finished message.
    pub fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[4..6].copy_from_slice(&self.kind.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&(flags | self.flags).to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// Attributes of a message that came back. Reading stops at what is cut short.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Over these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    /// The first attribute of this kind.
    pub fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(k, _)| *k == kind).map(|(_, v)| v)
    }
    /// A number in host order.
    pub fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.get(kind)?.get(..4)?.try_into().ok()?))
    }
    /// A number in network order.
    pub fn be32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.get(..4)?.try_into().ok()?))
    }
    /// A text without its closing zero.
    pub fn text(self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
    /// The attributes inside one.
    pub fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or_default())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & KIND_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_come_back_as_they_went_in() {
        let mut m = Builder::new(7, 0, &[1, 2, 3]);
        m.u32(1, 42).nested(2, |b| {
            b.text(3, "eth0").be32(4, 0x0a01_0104);
        });
        let bytes = m.finish(5, 9);
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes(bytes[0..4].try_into().unwrap_or_default()) as usize, bytes.len());
        let attributes = Attributes::new(&bytes[HEADER_BYTES + 4..]);
        assert_eq!(attributes.u32(1), Some(42));
        assert_eq!(attributes.nested(2).text(3).as_deref(), Some("eth0"));
        assert_eq!(attributes.nested(2).be32(4), Some(0x0a01_0104));
        assert_eq!(attributes.get(9), None);
    }

    #[test]
    fn what_is_cut_short_ends_the_reading() {
        let mut m = Builder::new(7, 0, &[]);
        m.u32(1, 42).u32(2, 43);
        let bytes = m.finish(0, 0);
        for end in HEADER_BYTES..bytes.len() {
            let n = Attributes::new(&bytes[HEADER_BYTES..end]).count();
            assert!(n <= 1, "{n} attributes of {end} bytes");
        }
    }
}
