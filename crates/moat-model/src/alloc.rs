//! Addresses handed out by the service: private ones from a subnet, public ones from the pool.
//!
//! Pure: what is taken is read from the snapshot each time, so two writers cannot be given the same
//! address (all writes are decided one after the other).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use moat_arm::{ResourceId, Snapshot, document};
use serde_json::Value;

use crate::refs;

/// First usable host offset: network, gateway and two DNS addresses come before
/// (network-semantics 1.3).
const RESERVED_AT_START: u32 = 4;
/// Broadcast.
const RESERVED_AT_END: u32 = 1;

/// The addresses of `prefix` that may belong to a resource.
pub fn usable(prefix: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    let first = u32::from(prefix.network()).saturating_add(RESERVED_AT_START);
    let last = u32::from(prefix.broadcast()).saturating_sub(RESERVED_AT_END);
    (first..=last).map(Ipv4Addr::from)
}

/// Whether `address` is one of the five that Azure keeps in `prefix`.
pub fn is_reserved(prefix: Ipv4Net, address: Ipv4Addr) -> bool {
    prefix.contains(&address) && {
        let offset = u32::from(address) - u32::from(prefix.network());
        offset < RESERVED_AT_START || address == prefix.broadcast()
    }
}

/// How many addresses of `prefix` resources can have: 2^(32-p) - 5, and 0 where that is negative.
pub fn capacity(prefix: Ipv4Net) -> u64 {
    (1u64 << (32 - u32::from(prefix.prefix_len()))).saturating_sub(u64::from(RESERVED_AT_START + RESERVED_AT_END))
}

/// One private address in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Id of the IP configuration, front end or endpoint that holds it.
    pub part: ResourceId,
    /// Id of the subnet it comes from.
    pub subnet: ResourceId,
    /// The address; `None` while it has none.
    pub address: Option<Ipv4Addr>,
}

/// Where documents keep private addresses: type, array of parts, type segment of a part.
const PARTS: [(&str, &str, &str); 2] = [
    ("Microsoft.Network/networkInterfaces", "properties.ipConfigurations", "ipConfigurations"),
    ("Microsoft.Network/loadBalancers", "properties.frontendIPConfigurations", "frontendIPConfigurations"),
];

/// Everything that lies in a subnet below `scope` (a VNet or a subnet).
pub fn holders(snapshot: &Snapshot, scope: &ResourceId) -> Vec<Holder> {
    let mut found = Vec::new();
    for (kind, array, segment) in PARTS {
        for stored in snapshot.in_groups(kind) {
            found.extend(holders_in(&stored.id, &stored.body, array, segment, scope));
        }
    }
    for stored in snapshot.in_groups("Microsoft.Network/privateEndpoints") {
        let subnet = document::str_at(&stored.body, "properties.subnet.id").and_then(|s| ResourceId::parse(s).ok());
        found.extend(subnet.map(|subnet| Holder { part: stored.id.clone(), subnet, address: None }));
    }
    found.retain(|h| h.subnet.is_within(scope));
    found
}

/// The holders within one document that may lie in `scope`. Compares texts before it parses: with
/// many nodes nearly all of this function's work is on parts that lie elsewhere.
fn holders_in(id: &ResourceId, body: &Value, array: &str, segment: &str, scope: &ResourceId) -> Vec<Holder> {
    let near = |text: &&str| text.get(..scope.as_str().len()).is_some_and(|t| t.eq_ignore_ascii_case(scope.as_str()));
    let hold = |part: &Value| {
        let text = document::str_at(part, "properties.subnet.id").filter(near)?;
        let subnet = ResourceId::parse(text).ok()?;
        let address = document::str_at(part, "properties.privateIPAddress").and_then(|a| a.parse().ok());
        let part = id.child(segment, document::str_at(part, "name").unwrap_or("default"));
        Some(Holder { part, subnet, address })
    };
    document::array_at(body, array).iter().filter_map(hold).collect()
}

/// The prefixes of a subnet value; IPv6 ones and broken ones are left out.
pub fn subnet_prefixes(subnet: &Value) -> Vec<Ipv4Net> {
    let one = document::str_at(subnet, "properties.addressPrefix");
    let many = refs::texts(subnet, "properties.addressPrefixes[]");
    let mut seen = BTreeSet::new();
    one.into_iter().chain(many).filter_map(|t| t.parse().ok()).filter(|p| seen.insert(*p)).collect()
}

/// Private addresses in use in one subnet. Reads texts only: asked for every new interface, over
/// every interface there is.
fn taken_private(snapshot: &Snapshot, subnet_id: &ResourceId) -> BTreeSet<Ipv4Addr> {
    let mut taken = BTreeSet::new();
    for (kind, array, _) in PARTS {
        for stored in snapshot.in_groups(kind) {
            let here = document::array_at(&stored.body, array).iter().filter(|part| {
                document::str_at(part, "properties.subnet.id").is_some_and(|text| refs::same(text, subnet_id))
            });
            taken.extend(
                here.filter_map(|part| document::str_at(part, "properties.privateIPAddress")?.parse::<Ipv4Addr>().ok()),
            );
        }
    }
    taken
}

/// The lowest address of the subnet that nobody holds and `also_taken` does not name.
pub fn next_private(
    snapshot: &Snapshot,
    subnet_id: &ResourceId,
    subnet: &Value,
    also_taken: &BTreeSet<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let taken = taken_private(snapshot, subnet_id);
    subnet_prefixes(subnet).into_iter().flat_map(usable).find(|a| !taken.contains(a) && !also_taken.contains(a))
}

/// How many more resources the subnet can hold.
pub fn free_private(snapshot: &Snapshot, subnet_id: &ResourceId, subnet: &Value) -> u64 {
    let total: u64 = subnet_prefixes(subnet).into_iter().map(capacity).sum();
    total.saturating_sub(taken_private(snapshot, subnet_id).len() as u64)
}

/// Addresses that public IP documents have.
pub(crate) fn taken_public(snapshot: &Snapshot) -> BTreeSet<Ipv4Addr> {
    let documents = snapshot.in_groups("Microsoft.Network/publicIPAddresses");
    documents.iter().filter_map(|d| document::str_at(&d.body, "properties.ipAddress")?.parse().ok()).collect()
}

/// What public IP prefixes have set aside.
fn blocks(snapshot: &Snapshot) -> Vec<Ipv4Net> {
    let documents = snapshot.in_groups("Microsoft.Network/publicIPPrefixes");
    documents.iter().filter_map(|d| document::str_at(&d.body, "properties.ipPrefix")?.parse().ok()).collect()
}

/// The first address of the pool that no public IP document and no prefix has. Network and broadcast
/// addresses of the pool's ranges are not handed out.
pub fn next_public(snapshot: &Snapshot, pool: &[Ipv4Net]) -> Option<Ipv4Addr> {
    let (taken, blocks) = (taken_public(snapshot), blocks(snapshot));
    let free = |a: &Ipv4Addr| !taken.contains(a) && !blocks.iter().any(|b| b.contains(a));
    pool.iter().flat_map(|range| range.hosts()).find(free)
}

/// The last block of this length in the pool in which nobody has an address: single addresses are
/// given from the other end.
pub fn next_public_block(snapshot: &Snapshot, pool: &[Ipv4Net], length: u8) -> Option<Ipv4Net> {
    let (taken, blocks) = (taken_public(snapshot), blocks(snapshot));
    let free = |b: &Ipv4Net| {
        !taken.iter().any(|a| b.contains(a)) && !blocks.iter().any(|other| other.contains(b) || b.contains(other))
    };
    let ranges = pool.iter().rev().filter_map(|range| range.subnets(length).ok());
    ranges.flat_map(|subnets| subnets.collect::<Vec<_>>().into_iter().rev()).find(free)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn five_addresses_of_each_subnet_are_kept_back() {
        let net: Ipv4Net = "192.168.1.0/24".parse().unwrap();
        let all: Vec<_> = usable(net).collect();
        assert_eq!(all.first().unwrap().to_string(), "192.168.1.4");
        assert_eq!(all.last().unwrap().to_string(), "192.168.1.254");
        for (text, hosts) in [("10.0.0.0/29", 3), ("10.0.0.0/28", 11), ("10.0.0.0/23", 507), ("10.0.0.0/31", 0)] {
            let net: Ipv4Net = text.parse().unwrap();
            assert_eq!(capacity(net), hosts, "{text}");
            assert_eq!(usable(net).count() as u64, hosts, "{text}");
        }
        assert!(is_reserved(net, "192.168.1.3".parse().unwrap()));
        assert!(is_reserved(net, "192.168.1.255".parse().unwrap()));
        assert!(!is_reserved(net, "192.168.1.4".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn the_lowest_free_address_is_given(length in 24u8..=30, held in proptest::collection::btree_set(0u8..40, 0..40)) {
            let subnet_id = ResourceId::parse("/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/a").unwrap();
            let net = Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), length).unwrap();
            let subnet = json!({"properties": {"addressPrefix": net.to_string()}});
            let held: BTreeSet<Ipv4Addr> = held.into_iter().map(|last| Ipv4Addr::new(10, 0, 0, last)).collect();
            // Half of them are held by interfaces, half by the document being written.
            let (mut also, mut documents) = (BTreeSet::new(), Vec::new());
            for (i, address) in held.iter().enumerate() {
                if i % 2 == 0 {
                    also.insert(*address);
                    continue;
                }
                let id = subnet_id.parent().unwrap().parent().unwrap().provider("Microsoft.Network", "networkInterfaces", &format!("n{i}"));
                let config = json!({"name": "c", "properties": {"subnet": {"id": subnet_id.as_str().to_uppercase()}, "privateIPAddress": address}});
                let body = json!({"properties": {"ipConfigurations": [config]}});
                documents.push(moat_arm::Stored { id, body, seq: 1, created_seq: 1 });
            }
            let snapshot = Snapshot::from_documents(1, documents);
            let given = next_private(&snapshot, &subnet_id, &subnet, &also);
            let expected = usable(net).find(|a| !held.contains(a));
            prop_assert_eq!(given, expected);
            if let Some(given) = given {
                prop_assert!(!is_reserved(net, given) && net.contains(&given));
            }
        }
    }
}
