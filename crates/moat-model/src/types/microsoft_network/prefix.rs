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
