//! A small adaptive range coder: bytes to fewer bytes and back.
//!
//! Each stream is coded with its own model, each byte in the context of the one before it. It is
//! here, rather than a compression crate, because it is short and the data is fixed at build time.

/// Bits of a probability.
const SCALE: u32 = 12;
/// How fast a model follows the data; larger is slower. 4 was the smallest of 3, 4, 5 on both files.
const RATE: u32 = 4;
const TOP: u32 = 1 << 24;

/// A binary tree of probabilities for a byte, one for each preceding byte.
struct Model {
    ones: Vec<u16>,
}
impl Model {
    fn new() -> Self {
        Self { ones: vec![1 << (SCALE - 1); 256 * 256] }
    }
    /// The probability (of a 0 bit) at `node` of the tree after byte `before`.
    fn slot(&mut self, before: u8, node: usize) -> &mut u16 {
        // `node` is a tree position below 256 by construction: it has at most 8 bits with its leading 1.
        &mut self.ones[usize::from(before) << 8 | node & 0xff]
    }
}
fn learn(slot: &mut u16, bit: bool) {
    if bit {
        *slot -= *slot >> RATE;
    } else {
        *slot += ((1 << SCALE) - *slot) >> RATE;
    }
}

/// Codes all streams, each preceded by its length.
pub(super) fn pack(streams: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Encoder { low: 0, range: u32::MAX, cache: 0, pending: 0, started: false, bytes: Vec::new() };
    for stream in streams {
        let mut lengths = Model::new();
        let length = u32::try_from(stream.len()).unwrap_or(u32::MAX);
        for byte in length.to_be_bytes() {
            out.byte(&mut lengths, 0, byte);
        }
        let mut model = Model::new();
        let mut before = 0;
        for &byte in stream {
            out.byte(&mut model, before, byte);
            before = byte;
        }
    }
    out.finish()
}

/// Decodes `count` streams; `None` if the bytes end too early or a length makes no sense.
pub(super) fn unpack(bytes: &[u8], count: usize) -> Option<Vec<Vec<u8>>> {
    /// No stream of a tag file comes near this.
    const LONGEST: u32 = 1 << 24;
    let mut input = Decoder { code: 0, range: u32::MAX, bytes, at: 0 };
    for _ in 0..4 {
        input.code = input.code << 8 | u32::from(input.next());
    }
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut lengths = Model::new();
        let mut length = [0; 4];
        for byte in &mut length {
            *byte = input.byte(&mut lengths, 0);
        }
        let length = u32::from_be_bytes(length);
        if length > LONGEST {
            return None;
        }
        let mut model = Model::new();
        let mut stream: Vec<u8> = Vec::with_capacity(length as usize);
        let mut before = 0;
        for _ in 0..length {
            // The coder reads a few bytes past what it needs, never more.
            if input.at > bytes.len() + 4 {
                return None;
            }
            before = input.byte(&mut model, before);
            stream.push(before);
        }
        streams.push(stream);
    }
    Some(streams)
}

struct Encoder {
    low: u64,
    range: u32,
    cache: u8,
    /// Bytes of 0xff that a carry could still change.
    pending: usize,
    started: bool,
    bytes: Vec<u8>,
}
impl Encoder {
    fn byte(&mut self, model: &mut Model, before: u8, byte: u8) {
        let mut node = 1usize;
        for shift in (0..8).rev() {
            let bit = byte >> shift & 1 == 1;
            self.bit(model.slot(before, node), bit);
            node = node << 1 | usize::from(bit);
        }
    }

    fn bit(&mut self, slot: &mut u16, bit: bool) {
        let bound = (self.range >> SCALE) * u32::from(*slot);
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        learn(slot, bit);
        while self.range < TOP {
            self.shift();
            self.range <<= 8;
        }
    }

    /// Moves the top byte of `low` out, resolving carries.
    fn shift(&mut self) {
        let [_, _, _, carry, top, ..] = self.low.to_be_bytes();
        if top != 0xff || carry != 0 {
            if self.started {
                self.bytes.push(self.cache.wrapping_add(carry));
            }
            self.bytes.extend(std::iter::repeat_n(0xffu8.wrapping_add(carry), self.pending));
            self.pending = 0;
            self.started = true;
            self.cache = top;
        } else {
            self.pending += 1;
        }
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift();
        }
        self.bytes
    }
}

struct Decoder<'a> {
    code: u32,
    range: u32,
    bytes: &'a [u8],
    at: usize,
}
impl Decoder<'_> {
    fn next(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    fn byte(&mut self, model: &mut Model, before: u8) -> u8 {
        let mut node = 1usize;
        for _ in 0..8 {
            let bit = self.bit(model.slot(before, node));
            node = node << 1 | usize::from(bit);
        }
        // The leading 1 has moved to bit 8; what is left are the eight bits read.
        (node & 0xff) as u8
    }

    fn bit(&mut self, slot: &mut u16) -> bool {
        let bound = (self.range >> SCALE) * u32::from(*slot);
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        learn(slot, bit);
        while self.range < TOP {
            self.range <<= 8;
            let next = u32::from(self.next());
            self.code = self.code << 8 | next;
        }
        bit
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(streams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5)) {
            prop_assert_eq!(unpack(&pack(&streams), streams.len()), Some(streams));
        }

        #[test]
        fn skewed_streams_survive_carries(bytes in prop::collection::vec(prop::sample::select(vec![0u8, 0xff, 1]), 0..4000)) {
            let streams = vec![bytes];
            prop_assert_eq!(unpack(&pack(&streams), 1), Some(streams));
        }

        #[test]
        fn garbage_is_refused_or_read_but_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&bytes, 3);
        }
    }
}
