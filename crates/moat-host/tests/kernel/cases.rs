//! The cases.

use moat_net::ir::*;

use crate::bed::Bed;
use crate::net::Build;

/// Name and body of each.
pub const ALL: &[(&str, fn())] = &[
    ("nsg_allows_and_denies_by_port_at_both_levels", nsg_levels),
];

/// One VNet 10.1.0.0/16 with NICs a, b in s1 and c in s2.
fn small() -> (Build, [SubnetIx; 2], [NicIx; 3]) {
    let mut b = Build::default();
    let v = b.vnet("v1", "10.1.0.0/16");
    let s1 = b.subnet(v, "s1", "10.1.1.0/24");
    let s2 = b.subnet(v, "s2", "10.1.2.0/24");
    let nics = [b.nic("a", s1, "10.1.1.4"), b.nic("b", s1, "10.1.1.5"), b.nic("c", s2, "10.1.2.4")];
    (b, [s1, s2], nics)
}

fn nsg_levels() {
    let (mut b, [s1, _], [a, ..]) = small();
    let subnet = b.nsg("sub", &["100 in deny tcp * * 7000", "110 in deny tcp * * 7100-7200"]);
    let nic = b.nsg("nic", &["100 in deny tcp 10.1.2.0/24 * 8000", "200 out deny tcp * * 9000,9100"]);
    b.subnet_mut(s1).nsg = Some(subnet);
    b.net.nics[a.at()].nsg = Some(nic);
    let mut bed = Bed::new(&b.net);
    bed.passes("c", "a", 6999);
    bed.stopped("c", "a", 7000, "sub/r100in");
    bed.stopped("c", "a", 7150, "sub/r110in");
    bed.stopped("c", "a", 8000, "nic/r100in");
    // Inside one subnet both levels apply too (2.7), and only to whom they guard.
    bed.stopped("b", "a", 7000, "sub/r100in");
    bed.stopped("a", "b", 7000, "sub/r100in");
    bed.passes("b", "a", 8000);
    bed.stopped("a", "c", 9100, "nic/r200out");
    bed.stopped("a", "b", 9000, "nic/r200out");
    bed.passes("a", "c", 7000);
}
