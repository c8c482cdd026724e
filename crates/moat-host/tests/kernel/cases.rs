//! The cases.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use moat_host::layout::Refusal;
use moat_host::testbed::alive;
use moat_host::verify;
use moat_net::ir::*;

use crate::bed::{Bed, INET, WAIT, chain};
use crate::net::Build;

/// Name and body of each.
pub const ALL: &[(&str, fn())] = &[
    ("nsg_allows_and_denies_by_port_at_both_levels", nsg_levels),
    ("nsg_default_rules_tags_and_icmp", nsg_defaults),
    ("platform_addresses_are_exempt_unless_a_rule_names_their_tag", platform),
    ("a_rule_change_spares_the_flow_that_is_there", flip_under_flow),
    ("a_second_pass_changes_nothing_and_the_kernel_is_as_planned", idempotent),
    ("a_route_to_none_drops_and_one_to_an_appliance_leads_there", routes),
    ("an_appliance_in_a_peered_vnet_gets_the_packet", peered_appliance),
    ("peering_carries_packets_while_both_halves_do", peering),
    ("public_ip_translates_both_ways_and_hairpins", public_ip),
    ("a_default_route_elsewhere_breaks_the_way_back", return_route),
    ("ways_out_in_order_of_precedence", egress),
    ("a_service_endpoint_beats_user_routes_and_needs_no_way_out", service_endpoint),
    ("every_accept_and_drop_is_told_with_its_rule", told),
    ("balancer_spreads_and_nat_rules_reach_one_nic", balancer),
    ("standard_addresses_are_closed_without_an_nsg", closed),
    ("nobody_sends_from_an_address_not_his", spoof),
    ("one_nic_does_not_fill_the_table_of_connections", connection_limit),
    ("unassigned_addresses_lead_nowhere", unassigned),
    ("overlapping_vnets_do_not_meet", overlap),
    ("a_dual_stack_vnet_is_refused_and_the_others_work", dual_stack),
    ("the_nft_program_lists_what_was_meant", listed),
    ("a_thousand_rules_flip_fast", thousand_rules),
    ("a_hundred_nodes_are_attached_within_a_second", hundred_nodes),
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

fn nsg_defaults() {
    let (mut b, [s1, s2], _) = small();
    b.tag("Storage", &["20.60.0.0/16", "20.62.1.0/24"]);
    let inner = b.nsg("inner", &["100 out allow tcp * Storage 443", "200 out deny * * Internet *"]);
    b.subnet_mut(s1).nsg = Some(inner);
    let icmp = b.nsg("icmp", &["100 in allow icmp * * *", "110 in allow * * * 80", "200 in deny * * * *"]);
    b.subnet_mut(s2).nsg = Some(icmp);
    let mut bed = Bed::new(&b.net);
    // To a tag, and to what the tag does not hold.
    let out = bed.send("a", Protocol::Tcp, "20.60.3.4", 443, "bb", 443);
    assert!(out.allowed(), "{out:?}");
    let out = bed.send("a", Protocol::Tcp, "20.62.1.9", 443, "bb", 443);
    assert!(out.allowed(), "{out:?}");
    let out = bed.send("a", Protocol::Tcp, "20.61.3.4", 443, "bb", 443);
    assert_eq!(bed.dropped_by(&out).as_deref(), Some("inner/r200out"));
    // AllowVnetInBound, and its log line.
    bed.passes("c", "a", 1234);
    let told: Vec<u32> = bed.bed.take_logged().iter().filter_map(|(_, l)| l.rule()).map(|(_, id)| id).collect();
    assert!(told.is_empty(), "probe() reads its own log lines: {told:?}");
    // ICMP meets only rules whose ports are `*` (A5); a rule for port 80 means TCP and UDP.
    let out = bed.send("a", Protocol::Icmp, "10.1.2.4", 0, "c", 0);
    assert!(out.allowed(), "{out:?}");
    bed.passes("a", "c", 80);
    let out = bed.send("a", Protocol::Udp, "10.1.2.4", 80, "c", 80);
    assert!(out.allowed(), "{out:?}");
    bed.stopped("a", "c", 81, "icmp/r200in");
    let out = bed.send("a", Protocol::Esp, "10.1.2.4", 0, "c", 0);
    assert_eq!(bed.dropped_by(&out).as_deref(), Some("icmp/r200in"), "{out:?}");
}

fn platform() {
    let (mut b, [s1, s2], _) = small();
    let shut = b.nsg("shut", &["100 out deny * * * *"]);
    let named = b.nsg("named", &["100 out deny * * AzurePlatformDNS *"]);
    b.subnet_mut(s1).nsg = Some(shut);
    b.subnet_mut(s2).nsg = Some(named);
    let mut bed = Bed::new(&b.net);
    let router = bed.bed.place("/vnets/v1").unwrap();
    let ask = |bed: &mut Bed, from: &str, to: &str| {
        let source = SocketAddrV4::new(bed.address(from), 30_000);
        let probe = moat_host::testbed::Probe {
            from: bed.place(from),
            source,
            destination: SocketAddrV4::new(to.parse().unwrap(), 53),
            protocol: Protocol::Tcp,
            listen: vec![(router.clone(), 53)],
        };
        let outcome = bed.bed.probe(&[probe], WAIT).unwrap().remove(0);
        let by = bed.dropped_by(&outcome);
        (outcome.allowed(), by)
    };
    assert_eq!(ask(&mut bed, "a", "168.63.129.16"), (true, None));
    assert_eq!(ask(&mut bed, "a", "169.254.169.254"), (true, None));
    assert_eq!(ask(&mut bed, "c", "168.63.129.16"), (false, Some("named/r100out".into())));
    assert_eq!(ask(&mut bed, "c", "169.254.169.254"), (true, None));
}

fn flip_under_flow() {
    let (mut b, [s1, _], _) = small();
    let open = b.nsg("n", &["100 in allow tcp * * 5000"]);
    b.subnet_mut(s1).nsg = Some(open);
    let mut bed = Bed::new(&b.net);
    let a = bed.place("a");
    let listener = bed.bed.listen(&a, 5000).unwrap();
    let source = SocketAddrV4::new(bed.address("c"), 41_000);
    let to = SocketAddrV4::new(bed.address("a"), 5000);
    let mut near = bed.bed.connect(&bed.place("c"), source, to, WAIT).unwrap().expect("allowed");
    let (mut far, _) = listener.accept().unwrap();
    drop(listener);
    assert!(alive(&mut near, &mut far, WAIT));
    b.net.nsgs[0].rules[0].access = Access::Deny;
    assert!(bed.change(&b.net) > 0);
    bed.stopped("c", "a", 5000, "n/r100in");
    assert!(alive(&mut near, &mut far, WAIT), "the old flow lives (2.8)");
    b.net.nsgs[0].rules[0].access = Access::Allow;
    bed.change(&b.net);
    bed.passes("c", "a", 5000);
    assert!(alive(&mut near, &mut far, WAIT));
}

fn assert_as_planned(bed: &Bed) {
    let seen = bed.bed.applier.observe().unwrap();
    let wrong = verify(&bed.bed.plan, &seen);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn idempotent() {
    let (mut b, [s1, s2], [a, ..]) = small();
    let v2 = b.vnet("v2", "10.2.0.0/16");
    let s3 = b.subnet(v2, "s3", "10.2.1.0/24");
    b.nic("d", s3, "10.2.1.4");
    b.peer(VnetIx(0), v2);
    let n = b.nsg("n", &["100 in deny tcp * * 1-5,7,9-20", "110 out allow * * Internet 443"]);
    b.subnet_mut(s1).nsg = Some(n);
    b.net.nics[a.at()].nsg = Some(n);
    let t = b.route_table("t", &[("0.0.0.0/0", NextHop::None), ("198.51.100.0/24", NextHop::Internet)]);
    b.subnet_mut(s2).route_table = Some(t);
    let ip = b.public_ip("p", "20.0.0.11", Sku::Standard);
    b.config(a).public_ip = Some(ip);
    let mut bed = Bed::new(&b.net);
    assert_eq!(bed.change(&b.net), 0);
    assert_as_planned(&bed);
    // Every way of changing leads to the same kernel as building anew.
    let before = b.net.clone();
    b.net.route_tables[0].routes[0].next_hop = NextHop::Internet;
    b.net.nsgs[0].rules.remove(0);
    b.net.vnets[1].peerings.clear();
    b.net.nics[0].ip_configs[0].public_ip = None;
    assert!(bed.change(&b.net) > 0);
    assert_as_planned(&bed);
    b.net.nics.truncate(1);
    bed.change(&b.net);
    assert_as_planned(&bed);
    bed.change(&before);
    assert_as_planned(&bed);
    bed.change(&Net::default());
    assert_as_planned(&bed);
    bed.bed.applier.destroy().unwrap();
    assert_eq!(bed.bed.applier.namespaces().count(), 0);
}

fn routes() {
    let (mut b, [s1, s2], [_, nva, _]) = small();
    b.tag("Storage", &["20.60.0.0/16"]);
    b.net.nics[nva.at()].ip_forwarding = true;
    let t = b.route_table(
        "t",
        &[
            ("198.51.100.0/24", NextHop::VirtualAppliance("10.1.1.5".parse().unwrap())),
            ("192.0.2.0/24", NextHop::VirtualAppliance("10.1.1.77".parse().unwrap())),
            ("0.0.0.0/0", NextHop::None),
            ("Storage", NextHop::Internet),
        ],
    );
    b.subnet_mut(s2).route_table = Some(t);
    let _ = s1;
    let mut bed = Bed::new(&b.net);
    let out = bed.send("c", Protocol::Tcp, INET, 80, "inet", 80);
    assert_eq!((out.allowed(), out.arrived), (false, None), "default route to None");
    let out = bed.send("c", Protocol::Tcp, "20.60.0.9", 80, "bb", 80);
    assert!(out.allowed(), "a tag route is longer: {out:?}");
    let out = bed.send("a", Protocol::Tcp, INET, 80, "inet", 80);
    assert!(out.allowed(), "another subnet has its own routes: {out:?}");
    bed.passes("c", "a", 80);
    // The appliance forwards without translating: the edge takes only a NIC's own address.
    let out = bed.send("c", Protocol::Tcp, "198.51.100.9", 80, "bb", 80);
    assert_eq!(bed.dropped_by(&out).as_deref(), Some("foreign-source"));
    let out = bed.send("c", Protocol::Tcp, "192.0.2.9", 80, "bb", 80);
    assert_eq!((out.allowed(), out.dropped), (false, None), "an appliance that does not exist");
    // A listener on the appliance itself, at an address it does not have, sees the packet.
    let out = bed.send("c", Protocol::Esp, "198.51.100.9", 0, "b", 0);
    assert!(!out.allowed(), "raw sockets get only what is for the host: {out:?}");
}

fn peered_appliance() {
    let mut b = Build::default();
    let (v1, v2) = (b.vnet("v1", "10.1.0.0/16"), b.vnet("hub", "10.2.0.0/16"));
    let (s1, s2) = (b.subnet(v1, "s1", "10.1.1.0/24"), b.subnet(v2, "s2", "10.2.1.0/24"));
    b.nic("a", s1, "10.1.1.4");
    let nva = b.nic("nva", s2, "10.2.1.10");
    b.nic("d", s2, "10.2.1.4");
    b.net.nics[nva.at()].ip_forwarding = true;
    b.peer(v1, v2);
    let hop = NextHop::VirtualAppliance("10.2.1.10".parse().unwrap());
    let t = b.route_table("t", &[("0.0.0.0/0", hop), ("10.2.1.4/32", hop)]);
    b.subnet_mut(s1).route_table = Some(t);
    let guard = b.nsg("guard", &["100 in deny tcp * * 81"]);
    b.net.nics[nva.at()].nsg = Some(guard);
    let mut bed = Bed::new(&b.net);
    bed.passes("a", "d", 80);
    // The appliance's own list sees the original packet (A21).
    bed.stopped("a", "d", 81, "guard/r100in");
    assert_as_planned(&bed);
}

fn peering() {
    let mut b = Build::default();
    let v: Vec<VnetIx> = (1..=3).map(|i| b.vnet(&format!("v{i}"), &format!("10.{i}.0.0/16"))).collect();
    for (i, v) in v.iter().enumerate() {
        let s = b.subnet(*v, "s", &format!("10.{}.1.0/24", i + 1));
        b.nic(&format!("n{}", i + 1), s, &format!("10.{}.1.4", i + 1));
    }
    b.peer(v[0], v[1]);
    b.peer(v[1], v[2]);
    let n = b.nsg("n", &["100 in deny tcp * * 81"]);
    b.subnet_mut(SubnetIx(1)).nsg = Some(n);
    let mut bed = Bed::new(&b.net);
    bed.passes("n1", "n2", 80);
    bed.passes("n2", "n1", 80);
    bed.passes("n2", "n3", 80);
    bed.stopped("n1", "n2", 81, "n/r100in");
    bed.stopped("n1", "n3", 80, "silence");
    let seen = bed.tcp("n1", "n2", 82);
    assert_eq!(seen.arrived.unwrap().1, Ipv4Addr::new(10, 1, 1, 4), "the source address is kept");
    b.net.vnets[0].peerings[0].allow_access = false;
    bed.change(&b.net);
    bed.stopped("n1", "n2", 80, "silence");
    bed.passes("n2", "n3", 80);
    assert_as_planned(&bed);
    b.net.vnets[0].peerings[0].allow_access = true;
    b.net.vnets[1].peerings[0].connected = false;
    bed.change(&b.net);
    bed.stopped("n1", "n2", 80, "silence");
    b.net.vnets[1].peerings[0].connected = true;
    bed.change(&b.net);
    bed.passes("n1", "n2", 80);
}

fn public_ip() {
    let (mut b, [s1, _], [a, _, _]) = small();
    let ip = b.public_ip("p", "20.0.0.11", Sku::Standard);
    b.config(a).public_ip = Some(ip);
    let n = b.nsg("n", &["100 in allow tcp Internet 10.1.1.4 22"]);
    b.subnet_mut(s1).nsg = Some(n);
    let v2 = b.vnet("v2", "10.1.0.0/16");
    let other = b.subnet(v2, "s", "10.1.1.0/24");
    b.nic("x", other, "10.1.1.4");
    let mut bed = Bed::new(&b.net);
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.11", 22, "a", 22);
    assert!(out.allowed(), "{out:?}");
    assert_eq!(out.arrived.unwrap().1, INET.parse::<Ipv4Addr>().unwrap(), "rules see the real client (2.9)");
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.11", 23, "a", 23);
    assert_eq!(bed.dropped_by(&out).as_deref(), Some("n/DenyAllInBound"));
    let out = bed.send("a", Protocol::Tcp, INET, 80, "inet", 80);
    assert_eq!(out.arrived.unwrap().1, Ipv4Addr::new(20, 0, 0, 11), "1:1 outbound too");
    let out = bed.send("a", Protocol::Icmp, INET, 0, "inet", 0);
    assert!(out.allowed(), "{out:?}");
    // Hairpin within the VNet, and from another VNet with the same space.
    let out = bed.send("c", Protocol::Tcp, "20.0.0.11", 22, "a", 22);
    assert!(out.allowed(), "{out:?}");
    let out = bed.send("x", Protocol::Tcp, "20.0.0.11", 22, "a", 22);
    assert!(out.allowed(), "{out:?}");
    assert_as_planned(&bed);
}

fn return_route() {
    let (mut b, [s1, _], [a, ..]) = small();
    let ip = b.public_ip("p", "20.0.0.11", Sku::Basic);
    b.config(a).public_ip = Some(ip);
    let none = b.route_table("t", &[("0.0.0.0/0", NextHop::None)]);
    b.subnet_mut(s1).route_table = Some(none);
    let mut bed = Bed::new(&b.net);
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.11", 22, "a", 22);
    assert!(!out.allowed(), "{out:?}");
    // By an appliance that forwards: its reply would leave with an address that is not its own.
    let nva = b.nic("nva", SubnetIx(1), "10.1.2.10");
    b.net.nics[nva.at()].ip_forwarding = true;
    b.net.route_tables[0].routes[0].next_hop = NextHop::VirtualAppliance("10.1.2.10".parse().unwrap());
    bed.change(&b.net);
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.11", 22, "a", 22);
    assert!(!out.allowed(), "{out:?}");
    // A route back for the client's prefix mends it (5.11).
    let back = Route {
        name: "back".into(),
        prefix: RoutePrefix::Prefix("203.0.113.0/24".parse().unwrap()),
        next_hop: NextHop::Internet,
    };
    b.net.route_tables[0].routes.push(back);
    bed.change(&b.net);
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.11", 22, "a", 22);
    assert!(out.allowed(), "{out:?}");
}

fn egress() {
    let (mut b, [s1, s2], [a, ..]) = small();
    let mut bed = Bed::new(&b.net);
    let source = |bed: &mut Bed, from: &str| {
        let out = bed.send(from, Protocol::Tcp, INET, 80, "inet", 80);
        out.arrived.map(|(_, a)| a.to_string())
    };
    assert_eq!(source(&mut bed, "a").as_deref(), Some("198.18.0.1"), "default outbound");
    b.subnet_mut(s2).default_outbound = false;
    bed.change(&b.net);
    let out = bed.send("c", Protocol::Tcp, INET, 80, "inet", 80);
    assert_eq!(bed.dropped_by(&out).as_deref(), Some("no-outbound"));
    let t = b.route_table("t", &[("10.9.0.0/16", NextHop::Internet)]);
    b.subnet_mut(s2).route_table = Some(t);
    let ip = b.public_ip("instance", "20.0.0.11", Sku::Standard);
    b.config(a).public_ip = Some(ip);
    bed.change(&b.net);
    // Of several reasons the log names the one that the model meets first.
    let out = bed.send("c", Protocol::Tcp, "10.9.0.1", 80, "bb", 80);
    assert_eq!(bed.dropped_by(&out).as_deref(), Some("not-public"));
    let out = bed.send("c", Protocol::Tcp, "20.0.0.11", 80, "a", 80);
    assert_eq!(bed.dropped_by(&out).as_deref(), Some("no-outbound"), "before closed-by-default");
    assert_eq!(source(&mut bed, "a").as_deref(), Some("20.0.0.11"));
    assert_eq!(source(&mut bed, "b").as_deref(), Some("198.18.0.1"));
    let gateway = b.public_ip("gateway", "20.0.0.20", Sku::Standard);
    b.net.nat_gateways.push(NatGateway { id: "/gw".into(), public_ips: vec![gateway] });
    b.subnet_mut(s1).nat_gateway = Some(NatGatewayIx(0));
    bed.change(&b.net);
    assert_eq!(source(&mut bed, "a").as_deref(), Some("20.0.0.20"), "the NAT gateway goes first");
    assert_eq!(source(&mut bed, "b").as_deref(), Some("20.0.0.20"));
    let out = bed.send("b", Protocol::Udp, INET, 53, "inet", 53);
    assert!(out.allowed(), "{out:?}");
    let out = bed.send("b", Protocol::Icmp, INET, 0, "inet", 0);
    assert!(!out.allowed(), "NAT gateways carry TCP and UDP only (9.2): {out:?}");
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.20", 80, "b", 80);
    assert!(!out.allowed(), "nothing comes in by it");
    assert_as_planned(&bed);
}

fn service_endpoint() {
    let (mut b, [s1, _], _) = small();
    b.tag("Storage", &["20.60.0.0/16"]);
    let t = b.route_table("t", &[("0.0.0.0/0", NextHop::None)]);
    b.subnet_mut(s1).route_table = Some(t);
    b.subnet_mut(s1).default_outbound = false;
    let mut bed = Bed::new(&b.net);
    let out = bed.send("a", Protocol::Tcp, "20.60.0.9", 443, "bb", 443);
    assert!(!out.allowed(), "{out:?}");
    b.subnet_mut(s1).service_endpoints = vec!["Microsoft.Storage".into()];
    bed.change(&b.net);
    let out = bed.send("a", Protocol::Tcp, "20.60.0.9", 443, "bb", 443);
    assert!(out.allowed(), "{out:?}");
    let (_, source) = out.arrived.unwrap();
    assert_eq!(bed.bed.plan.service_identities[&source], "/vnets/v1/subnets/s1");
    let out = bed.send("a", Protocol::Tcp, "20.61.0.9", 443, "bb", 443);
    assert!(!out.allowed(), "only that service: {out:?}");
    assert_as_planned(&bed);
}

fn told() {
    let (mut b, [s1, s2], [a, ..]) = small();
    let near = b.nsg("near", &["100 out allow udp * * 53"]);
    let far = b.nsg("far", &["100 in allow udp * * 53", "110 in deny * * * *"]);
    let nic = b.nsg("nic", &[]);
    b.subnet_mut(s1).nsg = Some(near);
    b.net.nics[a.at()].nsg = Some(nic);
    b.subnet_mut(s2).nsg = Some(far);
    let mut bed = Bed::new(&b.net);
    let (from, to) = (bed.place("a"), SocketAddrV4::new(bed.address("c"), 53));
    let source = SocketAddrV4::new(bed.address("a"), 40_001);
    let send = |bed: &Bed, to: SocketAddrV4| {
        let spec = moat_host::SocketSpec::Udp { address: source };
        let socket = std::net::UdpSocket::from(bed.bed.applier.socket_in(&from, &spec).unwrap());
        socket.send_to(b"x", to).unwrap();
    };
    // Waits for `count` lines about the packet, in the order the lists were asked.
    let lines = |bed: &mut Bed, count: usize| {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut all = Vec::new();
        while all.len() < count && Instant::now() < deadline {
            all.extend(bed.bed.take_logged());
            std::thread::sleep(Duration::from_millis(1));
        }
        let ids = &bed.bed.plan.rule_ids;
        all.iter()
            .map(|(_, l)| {
                assert_eq!((l.protocol, l.source), (17, source));
                let (accepted, id) = l.rule().unwrap();
                let r = &ids[&id];
                format!("{}/{} {:?} {}", r.nsg, r.rule, r.level, if accepted { "accept" } else { "drop" })
            })
            .collect::<Vec<_>>()
    };
    send(&bed, to);
    assert_eq!(
        lines(&mut bed, 3),
        [
            "/nsgs/nic/AllowVnetOutBound Nic accept",
            "/nsgs/near/r100out Subnet accept",
            "/nsgs/far/r100in Subnet accept"
        ]
    );
    send(&bed, SocketAddrV4::new(*to.ip(), 54));
    assert_eq!(
        lines(&mut bed, 3),
        [
            "/nsgs/nic/AllowVnetOutBound Nic accept",
            "/nsgs/near/AllowVnetOutBound Subnet accept",
            "/nsgs/far/r110in Subnet drop"
        ]
    );
    bed.fabric.log_accepts = false;
    bed.change(&b.net);
    send(&bed, SocketAddrV4::new(*to.ip(), 55));
    assert_eq!(lines(&mut bed, 1), ["/nsgs/far/r110in Subnet drop"]);
}

fn balancer() {
    let (mut b, [s1, _], [a, nb, c]) = small();
    let ip = b.public_ip("front", "20.0.0.30", Sku::Standard);
    let n = b.nsg("n", &["100 in allow tcp Internet * 8080,44224"]);
    b.subnet_mut(s1).nsg = Some(n);
    let nat = |name: &str, port, backend| InboundNatRule {
        name: name.into(),
        frontend: 0,
        protocol: Protocol::Tcp,
        frontend_port: port,
        backend_port: 44224,
        backend: Some((backend, 0)),
    };
    b.net.load_balancers.push(LoadBalancer {
        id: "/lb".into(),
        sku: Sku::Standard,
        frontends: vec![Frontend { id: "/lb/f".into(), public_ip: Some(ip), private: None }],
        rules: vec![BalancingRule {
            name: "web".into(),
            frontend: 0,
            protocol: Some(Protocol::Tcp),
            frontend_port: 80,
            backend_port: 8080,
            backends: vec![(a, 0), (nb, 0)],
            disable_outbound_snat: true,
        }],
        nat_rules: vec![nat("one", 50_000, a), nat("two", 50_001, nb), nat("three", 50_002, c)],
        outbound_rules: vec![OutboundRule { name: "out".into(), frontends: vec![0], backends: vec![(a, 0)] }],
    });
    let mut bed = Bed::new(&b.net);
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.30", 50_000, "a", 44224);
    assert!(out.allowed(), "{out:?}");
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.30", 50_001, "b", 44224);
    assert!(out.allowed(), "{out:?}");
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.30", 50_002, "c", 44224);
    assert_eq!(bed.dropped_by(&out).as_deref(), Some("closed-by-default"), "c has no NSG at all");
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.30", 50_003, "a", 44224);
    assert!(!out.allowed());
    // Some of many connections go to each member, none is lost.
    let mut reached = [0; 2];
    for _ in 0..24 {
        let probe_a = bed.send("inet", Protocol::Tcp, "20.0.0.30", 80, "a", 8080);
        assert!(probe_a.allowed(), "a listener or a refusal: {probe_a:?}");
        reached[usize::from(probe_a.arrived.is_none())] += 1;
    }
    assert!(reached[0] > 0 && reached[1] > 0, "{reached:?}");
    let out = bed.send("a", Protocol::Tcp, INET, 80, "inet", 80);
    assert_eq!(out.arrived.unwrap().1, Ipv4Addr::new(20, 0, 0, 30), "outbound rule");
    assert_as_planned(&bed);
}

fn closed() {
    let (mut b, [s1, _], [a, nb, _]) = small();
    let standard = b.public_ip("s", "20.0.0.11", Sku::Standard);
    let basic = b.public_ip("b", "20.0.0.12", Sku::Basic);
    b.config(a).public_ip = Some(standard);
    b.config(nb).public_ip = Some(basic);
    let mut bed = Bed::new(&b.net);
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.11", 22, "a", 22);
    assert_eq!(bed.dropped_by(&out).as_deref(), Some("closed-by-default"));
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.12", 22, "b", 22);
    assert!(out.allowed(), "{out:?}");
    let n = b.nsg("n", &["100 in allow tcp * * 22"]);
    b.subnet_mut(s1).nsg = Some(n);
    bed.change(&b.net);
    let out = bed.send("inet", Protocol::Tcp, "20.0.0.11", 22, "a", 22);
    assert!(out.allowed(), "{out:?}");
}

fn spoof() {
    let (b, _, _) = small();
    let mut bed = Bed::new(&b.net);
    let forged = SocketAddrV4::new(Ipv4Addr::new(10, 1, 1, 5), 33_000);
    let out = bed.send_as("a", forged, Protocol::Udp, "10.1.2.4", 99, "c", 99);
    assert_eq!((out.arrived.clone(), bed.dropped_by(&out).as_deref()), (None, Some("spoofed-source")));
    let forged = SocketAddrV4::new(Ipv4Addr::new(168, 63, 129, 16), 33_001);
    let out = bed.send_as("inet", forged, Protocol::Udp, "10.1.2.4", 99, "c", 99);
    assert_eq!(out.arrived, None);
    // The same packet with the sender's own address arrives: the test can fail.
    let out = bed.send("a", Protocol::Udp, "10.1.2.4", 99, "c", 99);
    assert!(out.allowed(), "{out:?}");
}

/// Sent from one socket to port after port: each is a connection to the kernel.
fn connection_limit() {
    let (b, _, _) = small();
    let mut bed = Bed::new(&b.net);
    let source = SocketAddrV4::new(bed.address("a"), 34_000);
    let socket = bed.bed.applier.socket_in(&bed.place("a"), &moat_host::SocketSpec::Udp { address: source }).unwrap();
    let socket = std::net::UdpSocket::from(socket);
    let to = bed.address("c");
    let mut told = Vec::new();
    let mut sent = 0u32;
    // The kernel clears up while it counts, so the number is not exact; that there is one, is.
    for port in 1_000..60_000 {
        // What answers that nobody listens makes the next call say so; the packet went.
        let _ = socket.send_to(b"x", SocketAddrV4::new(to, port));
        sent += 1;
        if port % 256 == 0 {
            told.extend(bed.bed.take_logged().iter().filter_map(|(_, log)| log.rule()));
            if !told.is_empty() {
                break;
            }
        }
    }
    let names: Vec<&str> = told.iter().map(|(_, id)| bed.bed.plan.rule_ids[id].rule.as_str()).collect();
    assert!(sent > 4_000 && names.iter().all(|name| *name == "connection-limit") && !names.is_empty(), "{sent}");
    // The neighbour still begins connections.
    bed.passes("b", "c", 7000);
}

fn unassigned() {
    let (mut b, _, _) = small();
    b.public_ip("idle", "20.0.0.77", Sku::Basic);
    let mut bed = Bed::new(&b.net);
    for to in ["10.1.1.200", "10.1.200.1", "10.9.9.9", "192.168.1.1", "172.20.0.1", "100.64.0.1", "20.0.0.77"] {
        let out = bed.send("a", Protocol::Tcp, to, 80, "bb", 80);
        assert_eq!((out.allowed(), out.arrived.clone()), (false, None), "{to}: {out:?}");
    }
    let out = bed.send("a", Protocol::Tcp, "20.0.0.78", 80, "bb", 80);
    assert!(out.allowed(), "{out:?}");
}

fn overlap() {
    let (mut b, _, _) = small();
    let v2 = b.vnet("v2", "10.1.0.0/16");
    let s = b.subnet(v2, "s", "10.1.1.0/24");
    b.nic("x", s, "10.1.1.4");
    b.nic("y", s, "10.1.1.9");
    let mut bed = Bed::new(&b.net);
    let out = bed.send("b", Protocol::Tcp, "10.1.1.4", 80, "x", 80);
    assert_eq!(out.arrived, None, "went to a, where nobody listens: {out:?}");
    let out = bed.send("y", Protocol::Tcp, "10.1.1.4", 80, "x", 80);
    assert!(out.arrived.is_some(), "{out:?}");
}

fn dual_stack() {
    let (mut b, _, _) = small();
    let v2 = b.vnet("v2", "10.2.0.0/16");
    let s = b.subnet(v2, "s", "10.2.1.0/24");
    b.nic("x", s, "10.2.1.4");
    b.peer(VnetIx(0), v2);
    b.net.vnets[v2.at()].prefixes.push("fd00::/48".parse().unwrap());
    let mut bed = Bed::new(&b.net);
    let refused = Refusal::DualStack { vnet: "/vnets/v2".into(), prefix: "fd00::/48".into() };
    assert_eq!(bed.bed.plan.refused, [refused]);
    assert_eq!(bed.bed.place("/nics/x"), None);
    bed.passes("a", "c", 80);
    assert_as_planned(&bed);
}

/// A network with every kind of expression in its firewalls.
fn everything() -> Build {
    let (mut b, [s1, s2], [a, nb, c]) = small();
    b.tag("Storage", &["20.60.0.0/16", "20.62.1.0/24"]);
    let n = b.nsg(
        "n",
        &[
            "100 in allow tcp Internet * 22",
            "110 in deny udp 10.1.2.0/24 10.1.1.4 1-5,9,20-30",
            "120 in allow icmp * * *",
            "130 in deny * * * 8000-9000",
            "140 out deny * * AzurePlatformIMDS *",
            "150 out allow tcp * Storage 443",
        ],
    );
    b.subnet_mut(s1).nsg = Some(n);
    b.net.nics[c.at()].nsg = Some(n);
    b.net.nics[nb.at()].ip_forwarding = true;
    let t = b.route_table("t", &[("0.0.0.0/0", NextHop::VirtualAppliance("10.1.1.5".parse().unwrap()))]);
    b.subnet_mut(s2).route_table = Some(t);
    let own = b.public_ip("own", "20.0.0.11", Sku::Standard);
    b.config(a).public_ip = Some(own);
    let front = b.public_ip("front", "20.0.0.30", Sku::Standard);
    b.net.load_balancers.push(LoadBalancer {
        id: "/lb".into(),
        sku: Sku::Standard,
        frontends: vec![Frontend { id: "/lb/f".into(), public_ip: Some(front), private: None }],
        rules: vec![BalancingRule {
            name: "web".into(),
            frontend: 0,
            protocol: Some(Protocol::Tcp),
            frontend_port: 80,
            backend_port: 8080,
            backends: vec![(a, 0), (nb, 0)],
            disable_outbound_snat: false,
        }],
        nat_rules: vec![],
        outbound_rules: vec![],
    });
    let v2 = b.vnet("v2", "10.2.0.0/16");
    let s3 = b.subnet(v2, "s3", "10.2.1.0/24");
    b.nic("d", s3, "10.2.1.4");
    b.peer(VnetIx(0), v2);
    b
}

fn listed() {
    const NFT: &str = "/usr/sbin/nft";
    if !std::path::Path::new(NFT).exists() {
        eprintln!("SKIPPED: there is no {NFT} here");
        return;
    }
    let bed = Bed::new(&everything().net);
    // What differs by nature: counters, and a limit on the log message that we do not set.
    let plain = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        while let Some(at) = words.iter().position(|w| *w == "packets") {
            words.drain(at..at + 4);
        }
        words.join(" ")
    };
    let chains = |text: &str| {
        let mut out = std::collections::BTreeMap::<String, Vec<String>>::new();
        let mut name = None;
        for line in text.lines().map(plain) {
            if let Some(n) = line.strip_prefix("chain ") {
                name = Some(n.trim_end_matches(" {").to_owned());
            } else if line == "}" {
                name = None;
            } else if let Some(n) = &name {
                out.entry(n.clone()).or_default().push(line);
            }
        }
        out
    };
    let mut compared = 0;
    for (ns, planned) in bed.bed.plan.namespaces.iter().filter_map(|(n, p)| Some((n, p.nft.as_ref()?))) {
        let run = || std::process::Command::new(NFT).args(["list", "ruleset"]).output();
        let output = bed.bed.applier.run_in(ns, run).unwrap();
        let seen = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (want, have) = (chains(&moat_host::nft_text::table(planned)), chains(&seen));
        for name in want.keys().chain(have.keys()) {
            assert_eq!(want.get(name), have.get(name), "chain {name} in {ns}");
        }
        compared += want.values().map(Vec::len).sum::<usize>();
    }
    assert!(compared > 80, "{compared} rules compared");
}

fn thousand_rules() {
    let (mut b, [s1, _], _) = small();
    let lines: Vec<String> =
        (0..1000).map(|i| format!("{} in deny tcp 10.1.2.{} * {}", 100 + i, 100 + i % 100, 2000 + i)).collect();
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    // Folded too: an allow, and a deny that it wins over since it comes first.
    lines.extend(["3000 in allow tcp 10.1.2.4 * 9000", "3001 in deny tcp * * 9000-9001"]);
    let n = b.nsg("n", &lines);
    b.subnet_mut(s1).nsg = Some(n);
    let mut bed = Bed::new(&b.net);
    bed.passes("c", "a", 80);
    bed.passes("c", "a", 9000);
    bed.stopped("c", "a", 9001, "n/r3001in");
    b.net.nsgs[0].rules[999].sources = vec![AddressMatch::Any];
    let start = Instant::now();
    bed.change(&b.net);
    println!("swap of 1,000 rules, plan and diff included: {:?}", start.elapsed());
    bed.stopped("c", "a", 2999, "n/r1099in");
    assert_as_planned(&bed);
}

fn hundred_nodes() {
    /// The goal is one second for an idle machine; this one is shared.
    const LIMIT: Duration = Duration::from_secs(5);
    let mut b = Build::default();
    let v = b.vnet("v1", "10.1.0.0/16");
    let s = b.subnet(v, "s1", "10.1.1.0/24");
    let n = b.nsg("n", &["100 in deny tcp * * 81"]);
    b.subnet_mut(s).nsg = Some(n);
    b.nic("first", s, "10.1.1.4");
    let mut bed = Bed::new(&b.net);
    for i in 0..100 {
        b.nic(&format!("n{i}"), s, &format!("10.1.1.{}", 10 + i));
    }
    let start = Instant::now();
    bed.change(&b.net);
    let took = start.elapsed();
    println!("100 nodes attached, plan and diff included: {took:?}");
    assert!(took < LIMIT, "{took:?}");
    bed.passes("first", "n99", 80);
    bed.stopped("n7", "n99", 81, "n/r100in");
    assert_as_planned(&bed);
    let start = Instant::now();
    bed.bed.applier.destroy().unwrap_or_else(|e| panic!("{}", chain(&e)));
    println!("102 namespaces removed: {:?}", start.elapsed());
}
