//! Exact sets of ports and addresses as sorted, disjoint, non-adjacent inclusive ranges.
//!
//! Equal sets have equal representations, so `==` is set equality. Nothing here knows Azure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

/// A bounded unsigned number line.
pub trait Point: Copy + Ord {
    /// First point.
    const MIN: Self;
    /// Last point.
    const MAX: Self;
    /// The point after, unless it is the last.
    fn next(self) -> Option<Self>;
    /// The point before, unless it is the first.
    fn previous(self) -> Option<Self>;
}
macro_rules! point {
    ($($t:ty),*) => {$(impl Point for $t {
        const MIN: Self = <$t>::MIN;
        const MAX: Self = <$t>::MAX;
        fn next(self) -> Option<Self> { self.checked_add(1) }
        fn previous(self) -> Option<Self> { self.checked_sub(1) }
    })*};
}
point!(u8, u16, u32, u128);

/// A set of points.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RangeSet<T> {
    ranges: Vec<(T, T)>,
}
impl<T> Default for RangeSet<T> {
    fn default() -> Self {
        Self { ranges: Vec::new() }
    }
}

/// A set of ports.
pub type PortSet = RangeSet<u16>;

impl<T: Point> FromIterator<(T, T)> for RangeSet<T> {
    /// Ranges in any order, overlapping or not; one whose first exceeds its last is empty.
    fn from_iter<I: IntoIterator<Item = (T, T)>>(ranges: I) -> Self {
        let mut raw: Vec<(T, T)> = ranges.into_iter().filter(|(a, b)| a <= b).collect();
        raw.sort_unstable();
        let mut ranges: Vec<(T, T)> = Vec::with_capacity(raw.len());
        for (first, last) in raw {
            match ranges.last_mut() {
                // Touching or overlapping: the point after the previous range is not before `first`.
                Some(before) if before.1.next().is_none_or(|after| first <= after) => before.1 = before.1.max(last),
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }
}

impl<T: Point> RangeSet<T> {
    /// Every point.
    pub fn full() -> Self {
        Self { ranges: vec![(T::MIN, T::MAX)] }
    }

    /// The ranges, ascending, disjoint, never adjacent.
    pub fn ranges(&self) -> &[(T, T)] {
        &self.ranges
    }

    /// Whether there is no point in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `point` is in it.
    pub fn contains(&self, point: T) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= point);
        after.checked_sub(1).is_some_and(|i| point <= self.ranges[i].1)
    }

    /// Points in either.
    pub fn union(&self, other: &Self) -> Self {
        self.ranges.iter().chain(&other.ranges).copied().collect()
    }

    /// Every other point of the line.
    pub fn complement(&self) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len() + 1);
        let mut from = Some(T::MIN);
        for &(first, last) in &self.ranges {
            if let (Some(start), Some(end)) = (from, first.previous())
                && start <= end
            {
                ranges.push((start, end));
            }
            from = last.next();
        }
        if let Some(start) = from {
            ranges.push((start, T::MAX));
        }
        Self { ranges }
    }

    /// Points in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut i, mut j) = (0, 0);
        let mut ranges = Vec::new();
        while let (Some(a), Some(b)) = (self.ranges.get(i), other.ranges.get(j)) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                ranges.push((first, last));
            }
            if a.1 < b.1 {
                i += 1;
            } else {
                j += 1;
            }
        }
        Self { ranges }
    }

    /// Points in `self` and not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    /// Whether every point of `self` is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.difference(other).is_empty()
    }
}

/// A set of addresses of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct IpSet {
    /// IPv4 part.
    pub v4: RangeSet<u32>,
    /// IPv6 part.
    pub v6: RangeSet<u128>,
}

impl IpSet {
    /// Every address of both families.
    pub fn full() -> Self {
        Self { v4: RangeSet::full(), v6: RangeSet::full() }
    }

    /// Whether there is no address in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.v4.contains(a.to_bits()),
            IpAddr::V6(a) => self.v6.contains(a.to_bits()),
        }
    }

    /// Addresses in either.
    pub fn union(&self, other: &Self) -> Self {
        Self { v4: self.v4.union(&other.v4), v6: self.v6.union(&other.v6) }
    }

    /// Addresses in both.
    pub fn intersection(&self, other: &Self) -> Self {
        Self { v4: self.v4.intersection(&other.v4), v6: self.v6.intersection(&other.v6) }
    }

    /// Addresses in `self` and not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        Self { v4: self.v4.difference(&other.v4), v6: self.v6.difference(&other.v6) }
    }

    /// Every other address.
    pub fn complement(&self) -> Self {
        Self { v4: self.v4.complement(), v6: self.v6.complement() }
    }

    /// The fewest prefixes that cover exactly this set, ascending, IPv4 first.
    pub fn prefixes(&self) -> Vec<IpNet> {
        let v4 = self
            .v4
            .ranges()
            .iter()
            .flat_map(|&(a, b)| Ipv4Subnets::new(Ipv4Addr::from_bits(a), Ipv4Addr::from_bits(b), 0).map(IpNet::V4));
        let v6 = self
            .v6
            .ranges()
            .iter()
            .flat_map(|&(a, b)| Ipv6Subnets::new(Ipv6Addr::from_bits(a), Ipv6Addr::from_bits(b), 0).map(IpNet::V6));
        v4.chain(v6).collect()
    }

    /// The IPv4 ranges, inclusive: what a kernel interval set wants.
    pub fn v4_ranges(&self) -> impl Iterator<Item = (Ipv4Addr, Ipv4Addr)> + '_ {
        self.v4.ranges().iter().map(|&(a, b)| (Ipv4Addr::from_bits(a), Ipv4Addr::from_bits(b)))
    }
}

impl FromIterator<IpNet> for IpSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(p) => v4.push((p.network().to_bits(), p.broadcast().to_bits())),
                IpNet::V6(p) => v6.push((p.network().to_bits(), p.broadcast().to_bits())),
            }
        }
        Self { v4: v4.into_iter().collect(), v6: v6.into_iter().collect() }
    }
}
impl<'a> FromIterator<&'a IpNet> for IpSet {
    fn from_iter<I: IntoIterator<Item = &'a IpNet>>(prefixes: I) -> Self {
        prefixes.into_iter().copied().collect()
    }
}
impl From<Ipv4Net> for IpSet {
    fn from(prefix: Ipv4Net) -> Self {
        [IpNet::V4(prefix)].into_iter().collect()
    }
}
impl From<Ipv6Net> for IpSet {
    fn from(prefix: Ipv6Net) -> Self {
        [IpNet::V6(prefix)].into_iter().collect()
    }
}
