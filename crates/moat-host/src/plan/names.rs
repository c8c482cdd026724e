//! Names that stay the same from plan to plan: hashes of ids, short enough for a link.

use std::net::Ipv4Addr;

use crate::layout::NsName;

/// FNV-1a, 128 bits, then mixed. Not against forgers: names are made of one user's own documents, and who
/// makes two of them collide harms only that environment.
pub(super) fn hash(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const MIX: u128 = 0xda94_2042_e4dd_58b5_9e37_79b9_7f4a_7c15;
    let mut h = bytes.iter().fold(OFFSET, |h, b| (h ^ u128::from(*b)).wrapping_mul(PRIME));
    // FNV hardly carries the last bytes into the middle bits, which the short names use.
    for _ in 0..2 {
        h ^= h >> 61;
        h = h.wrapping_mul(MIX);
    }
    h ^ (h >> 64)
}

/// Sixty bits of the hash of a document id, which is compared without case.
fn short(id: &str) -> String {
    const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    const LENGTH: usize = 12;
    let h = hash(id.to_ascii_lowercase().as_bytes());
    (0..LENGTH).map(|i| char::from(LETTERS[((h >> (5 * i)) & 31) as usize])).collect()
}

/// The namespace of a NIC.
pub(super) fn nic_ns(nic: &str) -> NsName {
    NsName(format!("n-{}", short(nic)))
}
/// The router of a VNet.
pub(super) fn router_ns(vnet: &str) -> NsName {
    NsName(format!("r-{}", short(vnet)))
}
/// The edge of a VNet.
pub(super) fn edge_ns(vnet: &str) -> NsName {
    NsName(format!("e-{}", short(vnet)))
}
/// The router's link to a NIC.
pub(super) fn nic_link(nic: &str) -> String {
    format!("v-{}", short(nic))
}
/// A router's link to a peer's router.
pub(super) fn peer_link(peer: &str) -> String {
    format!("p-{}", short(peer))
}
/// The backbone's link to a VNet's edge.
pub(super) fn edge_link(vnet: &str) -> String {
    format!("e-{}", short(vnet))
}
/// A link by which a VNet hands packets to an appliance in a peered VNet. `side` tells its ends apart.
pub(super) fn detour_link(side: char, vnet: &str, appliance: Ipv4Addr) -> String {
    format!("{side}-{}", short(&format!("{vnet}>{appliance}")))
}

/// A locally administered Ethernet address for a link of a namespace.
pub(super) fn mac(ns: &NsName, link: &str) -> [u8; 6] {
    let h = (hash(format!("{ns}/{link}").as_bytes()) >> 32).to_be_bytes();
    [2, h[11], h[12], h[13], h[14], h[15]]
}

/// A name made of content: `kind` and 96 bits of its hash.
pub(super) fn content(kind: char, value: &impl serde::Serialize) -> String {
    // Plain data with text keys always serialises; an empty text would only merge names of
    // values that cannot exist.
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    format!("{kind}{:024x}", hash(&bytes) & ((1 << 96) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_a_link_and_ignore_case() {
        for name in [nic_link("/a/B"), peer_link("x"), edge_link("y"), detour_link('d', "x", Ipv4Addr::LOCALHOST)] {
            assert!(name.len() <= 15, "{name}");
        }
        assert_eq!(nic_ns("/a/B"), nic_ns("/A/b"));
        assert_ne!(nic_ns("/a/b1"), nic_ns("/a/b2"));
    }
}
