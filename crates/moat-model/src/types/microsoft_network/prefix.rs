//! Address prefixes as `Microsoft.Network` accepts them.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use moat_arm::{ApiError, ResourceId};

/// Ranges a VNet may not contain (network-semantics 1.2).
const REFUSED: [(Ipv4Addr, u8); 5] = [
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(255, 255, 255, 255), 32),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
];

/// Parses a prefix of `owner`: CIDR notation, no host bits.
pub(super) fn parse(text: &str, owner: &ResourceId) -> Result<IpNet, ApiError> {
    let net: IpNet = text.parse().map_err(|_| {
        ApiError::bad_request(
            "InvalidAddressPrefixFormat",
            format!(
                "Address prefix {text} of resource {owner} is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24."
            ),
        )
        .with_target(owner.as_str())
    })?;
    if net.trunc() != net {
        return Err(ApiError::bad_request(
            "InvalidCIDRNotation",
            format!(
                "The address prefix {text} in resource {owner} has an invalid CIDR notation. For the given prefix length, the address prefix should be {}.",
                net.trunc()
            ),
        )
        .with_target(owner.as_str()));
    }
    Ok(net)
}

/// Whether two prefixes share an address.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Two prefixes that share an address, if there are any. Prefixes either nest or are apart, so after
/// sorting a clash shows between neighbours; thousands stay cheap.
pub(super) fn clash<T: Copy>(mut all: Vec<(IpNet, T)>) -> Option<((IpNet, T), (IpNet, T))> {
    all.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
    all.windows(2).find_map(|pair| match pair {
        [first, second] if overlap(&first.0, &second.0) => Some((*first, *second)),
        _ => None,
    })
}

/// The refused range that `net` meets, if any.
pub(super) fn refused(net: &IpNet) -> Option<IpNet> {
    REFUSED
        .iter()
        .filter_map(|(address, length)| Ipv4Net::new(*address, *length).ok())
        .map(IpNet::V4)
        .find(|r| overlap(r, net))
}

/// Prefixes joined as Azure writes them.
pub(super) fn list(prefixes: &[IpNet]) -> String {
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets() -> impl Strategy<Value = Vec<IpNet>> {
        // A small space, so that clashes are common.
        let one = (0u8..4, any::<u8>(), 22u8..=30).prop_map(|(b, c, length)| {
            let net = Ipv4Net::new(Ipv4Addr::new(10, 0, b, c), length).map_or(Ipv4Net::default(), |n| n.trunc());
            IpNet::V4(net)
        });
        proptest::collection::vec(one, 0..6)
    }

    proptest! {
        #[test]
        fn a_clash_is_found_exactly_when_there_is_one(nets in nets()) {
            let naive = nets.iter().enumerate().any(|(i, a)| nets[..i].iter().any(|b| overlap(a, b)));
            let found = clash(nets.iter().map(|n| (*n, ())).collect());
            prop_assert_eq!(found.is_some(), naive);
            if let Some(((a, ()), (b, ()))) = found {
                prop_assert!(overlap(&a, &b));
            }
        }
    }
}
