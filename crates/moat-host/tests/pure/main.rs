//! Plans and steps without a kernel: stable names, bounded steps, and a strict interpreter that
//! refuses what the kernel would refuse (a rule to a chain that is not there, the removal of a
//! chain that something still points at).
#![allow(clippy::unwrap_used, unreachable_pub, dead_code, reason = "tests")]

mod evaluate;
mod interpreter;
#[path = "../kernel/net.rs"]
mod net;

use std::collections::BTreeMap;

use moat_host::diff::{ELEMENTS_PER_BATCH_MAX, NET_CHANGES_PER_STEP_MAX, NftOp, RULES_PER_BATCH_MAX, Step};
use moat_host::layout::{Fabric, HostPlan};
use moat_host::{diff, plan};
use moat_net::ir::*;
use proptest::prelude::*;

use crate::interpreter::Host;
use crate::net::Build;

fn fabric() -> Fabric {
    Fabric {
        services: vec!["20.60.0.0/16".parse().unwrap()],
        hosts: BTreeMap::from([("inet".into(), "203.0.113.10".parse().unwrap())]),
        log_accepts: true,
        ..Fabric::default()
    }
}

fn two_nics() -> Build {
    let mut b = Build::default();
    let v = b.vnet("v1", "10.1.0.0/16");
    let s = b.subnet(v, "s1", "10.1.1.0/24");
    b.nic("a", s, "10.1.1.4");
    b.nic("b", s, "10.1.1.5");
    let n = b.nsg("n", &["100 in allow tcp Internet * 22", "110 in deny udp 10.1.2.0/24 10.1.1.4 1-5,9"]);
    b.subnet_mut(s).nsg = Some(n);
    b
}

#[test]
fn a_router_reads_like_this() {
    let plan = plan(&two_nics().net, &fabric());
    let router = &plan.namespaces[&plan.places["/vnets/v1"]];
    insta::assert_snapshot!(moat_host::nft_text::table(router.nft.as_ref().unwrap()));
}

#[test]
fn an_edge_reads_like_this() {
    let mut b = two_nics();
    let ip = b.public_ip("p", "20.0.0.11", Sku::Standard);
    b.config(NicIx(0)).public_ip = Some(ip);
    let plan = plan(&b.net, &fabric());
    let (_, edge) = plan.namespaces.iter().find(|(n, _)| n.as_str().starts_with("e-")).unwrap();
    insta::assert_snapshot!(moat_host::nft_text::table(edge.nft.as_ref().unwrap()));
}

#[test]
fn names_last_while_other_vnets_come_and_go() {
    let alone = plan(&two_nics().net, &fabric());
    let mut b = Build::default();
    let other = b.vnet("v0", "10.9.0.0/16");
    let s = b.subnet(other, "s", "10.9.1.0/24");
    b.nic("z", s, "10.9.1.4");
    let v = b.vnet("v1", "10.1.0.0/16");
    let s = b.subnet(v, "s1", "10.1.1.0/24");
    b.nic("a", s, "10.1.1.4");
    b.nic("b", s, "10.1.1.5");
    let n = b.nsg("n", &["100 in allow tcp Internet * 22", "110 in deny udp 10.1.2.0/24 10.1.1.4 1-5,9"]);
    b.subnet_mut(s).nsg = Some(n);
    let both = plan(&b.net, &fabric());
    for (id, ns) in &alone.places {
        assert_eq!(both.places.get(id), Some(ns));
        if ns.as_str().starts_with("r-") || ns.as_str().starts_with("n-") {
            assert_eq!(alone.namespaces[ns], both.namespaces[ns], "{id}");
        }
    }
    assert!(alone.rule_ids.iter().all(|(id, r)| both.rule_ids.get(id) == Some(r)));
    let touched: Vec<Step> = diff(&alone, &both);
    let kept = &alone.places["/vnets/v1"];
    assert!(!touched.iter().any(|s| matches!(s, Step::Nft { ns, .. } | Step::Net { ns, .. } if ns == kept)));
}

#[test]
fn a_changed_rule_flips_by_one_small_transaction() {
    let mut b = two_nics();
    let old = plan(&b.net, &fabric());
    b.net.nsgs[0].rules[0].access = Access::Deny;
    let new = plan(&b.net, &fabric());
    let steps = diff(&old, &new);
    let flips: Vec<&Vec<NftOp>> = steps
        .iter()
        .filter_map(|s| match s {
            Step::Nft { ops, .. }
                if ops.iter().any(|o| matches!(o, NftOp::FlushChain(_)))
                    && ops.iter().any(|o| matches!(o, NftOp::AddRules { .. })) =>
            {
                Some(ops)
            }
            _ => None,
        })
        .collect();
    let [flip] = flips[..] else { panic!("one flip: {steps:#?}") };
    assert_eq!(flip.len(), 2, "flush the slot, jump to the new list: {flip:#?}");
    assert!(steps.iter().all(|s| matches!(s, Step::Nft { .. })));
}

#[test]
fn plans_and_steps_survive_json() {
    let p = plan(&two_nics().net, &fabric());
    let text = serde_json::to_string(&p).unwrap();
    assert_eq!(serde_json::from_str::<HostPlan>(&text).unwrap(), p);
    let steps = diff(&HostPlan::default(), &p);
    let text = serde_json::to_string(&steps).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Step>>(&text).unwrap(), steps);
}

fn weight(step: &Step) -> (usize, usize) {
    let Step::Nft { ops, .. } = step else { return (0, 0) };
    ops.iter().fold((0, 0), |(rules, elements), op| match op {
        NftOp::AddRules { rules: r, .. } => (rules + r.len(), elements),
        NftOp::AddElements { elements: e, .. } | NftOp::DelElements { elements: e, .. } => (rules, elements + e.len()),
        _ => (rules, elements),
    })
}

/// A network of up to three VNets with everything optional.
fn networks() -> impl Strategy<Value = Net> {
    let vnet = (
        1usize..4,
        prop::collection::vec((0u8..4, any::<bool>(), any::<bool>(), any::<bool>()), 0..5),
        prop::option::of(prop::collection::vec((100u32..200, any::<bool>(), 1u16..9), 0..4)),
        prop::option::of(0u8..4),
        any::<bool>(),
    );
    (prop::collection::vec(vnet, 0..4), any::<[bool; 3]>()).prop_map(|(vnets, peered)| {
        let mut b = Build::default();
        b.tag("Storage", &["20.60.0.0/16", "20.62.0.0/24"]);
        for (i, (n_subnets, nics, rules, route, private)) in vnets.iter().enumerate() {
            let v = b.vnet(&format!("v{i}"), &format!("10.{i}.0.0/16"));
            let subnets: Vec<SubnetIx> =
                (0..*n_subnets).map(|s| b.subnet(v, &format!("s{s}"), &format!("10.{i}.{s}.0/24"))).collect();
            let nsg = rules.as_ref().map(|rules| {
                let lines: Vec<String> = rules
                    .iter()
                    .map(|(p, deny, port)| {
                        format!("{p} in {} tcp Storage * {port}", if *deny { "deny" } else { "allow" })
                    })
                    .collect();
                b.nsg(&format!("n{i}"), &lines.iter().map(String::as_str).collect::<Vec<_>>())
            });
            for (j, (s, public, forwards, guarded)) in nics.iter().enumerate() {
                let subnet = subnets[usize::from(*s) % subnets.len()];
                let address = format!("10.{i}.{}.{}", usize::from(*s) % subnets.len(), 4 + j);
                let nic = b.nic(&format!("n{i}-{j}"), subnet, &address);
                b.net.nics[nic.at()].ip_forwarding = *forwards;
                if *public {
                    let ip = b.public_ip(&format!("p{i}-{j}"), &format!("20.0.{i}.{}", 4 + j), Sku::Standard);
                    b.config(nic).public_ip = Some(ip);
                }
                if *guarded {
                    b.net.nics[nic.at()].nsg = nsg;
                }
            }
            let first = subnets[0];
            b.subnet_mut(first).nsg = nsg;
            b.subnet_mut(first).default_outbound = !private;
            if let Some(route) = route {
                let hop = match route {
                    0 => NextHop::None,
                    1 => NextHop::Internet,
                    2 => NextHop::VirtualAppliance(format!("10.{i}.0.4").parse().unwrap()),
                    _ => NextHop::VirtualAppliance(format!("10.{}.0.4", (i + 1) % 3).parse().unwrap()),
                };
                let t = b.route_table(&format!("t{i}"), &[("0.0.0.0/0", hop), ("Storage", NextHop::Internet)]);
                b.subnet_mut(first).route_table = Some(t);
            }
        }
        for (i, yes) in peered.iter().enumerate() {
            let (from, to) = (VnetIx(i as u32), VnetIx((i as u32 + 1) % 3));
            if *yes && from.at() < b.net.vnets.len() && to.at() < b.net.vnets.len() && from != to {
                b.peer(from, to);
            }
        }
        b.net
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn steps_lead_from_any_plan_to_any_other(a in networks(), b in networks()) {
        let (a, b) = (plan(&a, &fabric()), plan(&b, &fabric()));
        prop_assert_eq!(diff(&a, &a), vec![]);
        let mut host = Host::default();
        host.apply(&diff(&HostPlan::default(), &a)).map_err(TestCaseError::fail)?;
        prop_assert!(host.is(&a), "built\n{:#?}", host.difference(&a));
        let steps = diff(&a, &b);
        for step in &steps {
            let (rules, elements) = weight(step);
            prop_assert!(rules <= RULES_PER_BATCH_MAX && elements <= ELEMENTS_PER_BATCH_MAX);
            if let Step::Net { changes, .. } = step {
                prop_assert!(changes.len() <= NET_CHANGES_PER_STEP_MAX);
            }
        }
        host.apply(&steps).map_err(TestCaseError::fail)?;
        prop_assert!(host.is(&b), "changed\n{:#?}", host.difference(&b));
        host.apply(&diff(&b, &HostPlan::default())).map_err(TestCaseError::fail)?;
        prop_assert!(host.is(&HostPlan::default()));
    }
}

/// Rules over few addresses and ports, so that many meet.
fn rules() -> impl Strategy<Value = Vec<String>> {
    let side = prop::sample::select(vec![
        "*",
        "10.1.1.4",
        "10.1.1.0/24",
        "10.1.0.0/16",
        "10.1.2.4",
        "VirtualNetwork",
        "Internet",
        "Storage",
        "20.60.1.0/24",
        "20.60.0.0/15",
    ]);
    let port = prop::sample::select(vec!["*", "80", "80-90", "85", "22,80", "1-65535", "443", "0-65535"]);
    let protocol = prop::sample::select(vec!["*", "tcp", "udp", "icmp"]);
    let one = (prop::bool::ANY, prop::bool::ANY, protocol, side.clone(), side, port);
    // Few: one kernel rule each. Many: folded.
    prop_oneof![prop::collection::vec(one.clone(), 0..12), prop::collection::vec(one, 70..110)].prop_map(|list| {
        list.iter()
            .enumerate()
            .map(|(i, (inward, deny, protocol, from, to, port))| {
                let direction = if *inward { "in" } else { "out" };
                let access = if *deny { "deny" } else { "allow" };
                format!("{} {direction} {access} {protocol} {from} {to} {port}", 100 + i)
            })
            .collect()
    })
}

fn packets() -> impl Strategy<Value = (usize, usize, usize, u16, bool)> {
    (
        0usize..8,
        0usize..8,
        0usize..4,
        prop::sample::select(vec![0u16, 22, 79, 80, 85, 90, 91, 443, 65535]),
        any::<bool>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Chains decide as the model does, and name the same rule.
    #[test]
    fn chains_say_what_the_model_says(lines in rules(), packets in prop::collection::vec(packets(), 60)) {
        const ADDRESSES: [[u8; 4]; 8] = [
            [10, 1, 1, 4], [10, 1, 1, 5], [10, 1, 2, 4], [20, 60, 1, 9], [20, 61, 0, 1], [203, 0, 113, 10],
            [168, 63, 129, 16], [10, 200, 0, 1],
        ];
        const PROTOCOLS: [(Protocol, u8); 4] =
            [(Protocol::Tcp, 6), (Protocol::Udp, 17), (Protocol::Icmp, 1), (Protocol::Esp, 50)];
        let mut b = Build::default();
        b.tag("Storage", &["20.60.0.0/16", "20.62.0.0/24"]);
        let v = b.vnet("v1", "10.1.0.0/16");
        let s = b.subnet(v, "s1", "10.1.1.0/24");
        b.nic("a", s, "10.1.1.4");
        let n = b.nsg("n", &lines.iter().map(String::as_str).collect::<Vec<_>>());
        b.subnet_mut(s).nsg = Some(n);
        let plan = plan(&b.net, &fabric());
        let table = plan.namespaces[&plan.places["/vnets/v1"]].nft.as_ref().unwrap();
        for set in table.sets.values().filter(|s| s.header.interval && s.header.key.len() > 1) {
            let all: Vec<_> = set.elements.iter().collect();
            for (i, x) in all.iter().enumerate() {
                prop_assert!(all[..i].iter().all(|y| !evaluate::overlaps(x, y)));
            }
        }
        let stub = |map: &str| {
            let only = table.sets[map].elements.iter().next().unwrap();
            let Some(moat_host::ruleset::DataValue::Verdict(moat_host::ruleset::Verdict::Jump(c))) = &only.value
            else { panic!("a jump") };
            c.clone()
        };
        for (from, to, protocol, port, inward) in packets {
            let (protocol, number) = PROTOCOLS[protocol];
            let flow = moat_net::packet::Flow {
                source: ADDRESSES[from].into(),
                destination: ADDRESSES[to].into(),
                protocol,
                source_port: if protocol.has_ports() { 40_000 } else { 0 },
                destination_port: if protocol.has_ports() { port } else { 0 },
            };
            let direction = if inward { Direction::Inbound } else { Direction::Outbound };
            if !inward && ADDRESSES[to] == [168, 63, 129, 16] {
                continue; // platform destinations meet another chain
            }
            let (access, rule) = moat_net::nsg::decide(&b.net, &b.net.nsgs[0], direction, s, &flow);
            let packet = evaluate::Packet {
                source: ADDRESSES[from].into(),
                destination: ADDRESSES[to].into(),
                protocol: number,
                source_port: flow.source_port,
                destination_port: flow.destination_port,
            };
            let mut log = Vec::new();
            let end = evaluate::run(table, &stub(if inward { "nic_in" } else { "nic_out" }), &packet, &mut log);
            prop_assert_eq!(end == evaluate::End::Returned, access == Access::Allow, "{:?} {}", packet, rule);
            let id: u32 = log.last().unwrap()[1..].parse().unwrap();
            prop_assert_eq!(&plan.rule_ids[&id].rule, rule, "{:?}", packet);
        }
    }
}
