//! What this host should look like for a network: pure, deterministic, stable in its names.
//!
//! Layout (see `ARCHITECTURE.md`): per VNet a *router* namespace (`r-`: rule lists, routes,
//! peerings, platform addresses) and an *edge* namespace (`e-`: all translation); one namespace
//! per NIC (`n-`) on a routed /32 link; one *backbone* (`bb`) where emulated services have their
//! real public addresses; one namespace per host on the internet. Nothing is joined to the machine.
//!
//! The meaning of tags, routes and ways out is asked of `moat-net`, so that model and kernel differ
//! only where one of them is wrong about Linux. Not here: IPv6, gateways to on-premises (their
//! routes lead nowhere), Azure Firewalls and internal balancers (likewise).

mod edge;
mod names;
mod router;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use moat_net::address::NON_PUBLIC_V4;
use moat_net::ir::{Net, VnetIx};
use moat_net::set::IpSet;

use crate::layout::{
    BACKBONE, Fabric, Hop, HostPlan, Neighbour, NsName, NsPlan, Refusal, Route, TABLE_LOCAL, TABLE_MAIN, Veth,
};
use crate::ruleset::Table;
use rules::RuleIds;

/// Where hosts on the internet find the backbone.
const VIA_BACKBONE: Ipv4Addr = Ipv4Addr::new(169, 254, 3, 1);

/// The plan of `net` within `fabric`. VNets that cannot be realised are in `refused`; the rest of
/// the network is planned as if they did not exist.
pub fn plan(net: &Net, fabric: &Fabric) -> HostPlan {
    let refused: BTreeMap<VnetIx, Refusal> = vnets(net)
        .filter_map(|ix| {
            let vnet = net.vnet(ix);
            let prefix = vnet.prefixes.iter().find(|p| matches!(p, IpNet::V6(_)))?;
            Some((ix, Refusal::DualStack { vnet: vnet.id.clone(), prefix: prefix.to_string() }))
        })
        .collect();
    let mut planner = Planner {
        net,
        fabric,
        plan: HostPlan { refused: refused.values().cloned().collect(), ..HostPlan::default() },
        ids: RuleIds::new(),
        refused: refused.into_keys().collect(),
    };
    let mut backbone = planner.backbone();
    for vnet in vnets(net).filter(|v| !planner.is_refused(*v)).collect::<Vec<_>>() {
        planner.router(vnet);
        planner.edge(vnet, &mut backbone);
    }
    planner.dead_addresses(&mut backbone);
    planner.plan.namespaces.insert(BACKBONE.into(), backbone);
    planner.plan.rule_ids = planner.ids.into_map();
    planner.plan
}

fn vnets(net: &Net) -> impl Iterator<Item = VnetIx> + '_ {
    (0u32..).map(VnetIx).take(net.vnets.len())
}

/// A plan under construction.
struct Planner<'a> {
    net: &'a Net,
    fabric: &'a Fabric,
    plan: HostPlan,
    ids: RuleIds,
    refused: BTreeSet<VnetIx>,
}

impl Planner<'_> {
    fn is_refused(&self, vnet: VnetIx) -> bool {
        self.refused.contains(&vnet)
    }

    /// The backbone and the hosts on the internet.
    fn backbone(&mut self) -> NsPlan {
        // An empty table filters nothing, but a kernel without nftables refuses it: the first pass of an
        // environment says so, not the first VNet.
        let nft = Some(Table::default());
        let mut plan = NsPlan { sysctls: router_sysctls(), nft, ..NsPlan::default() };
        let mut local: BTreeSet<Ipv4Net> = self.fabric.services.iter().map(Ipv4Net::trunc).collect();
        if self.fabric.any_public {
            let private: IpSet = NON_PUBLIC_V4.iter().map(|p| IpNet::V4(*p)).collect();
            local.extend(private.complement().prefixes().into_iter().filter_map(|p| match p {
                IpNet::V4(p) => Some(p),
                IpNet::V6(_) => None,
            }));
        }
        for prefix in local {
            plan.routes.insert(Route { table: TABLE_LOCAL, prefix, metric: 0, hop: Hop::Local });
        }
        for (name, address) in &self.fabric.hosts {
            let ns = NsName(name.clone());
            let link = names::nic_link(name);
            let near = self.veth_end(&BACKBONE.into(), &link);
            let far = self.veth_end(&ns, "eth0");
            let eth0 = || "eth0".to_owned();
            let mut host = NsPlan { sysctls: node_sysctls(false), ..NsPlan::default() };
            host.addresses.insert((eth0(), Ipv4Net::from(*address)));
            host.neighbours.insert(Neighbour { link: eth0(), address: VIA_BACKBONE, mac: near.mac });
            let hop = Hop::Via(VIA_BACKBONE, eth0());
            host.routes.insert(Route { table: TABLE_MAIN, prefix: Ipv4Net::default(), metric: 0, hop });
            plan.neighbours.insert(Neighbour { link: link.clone(), address: *address, mac: far.mac });
            let prefix = Ipv4Net::from(*address);
            plan.routes.insert(Route { table: TABLE_LOCAL, prefix, metric: 0, hop: Hop::Link(link) });
            self.plan.veths.insert(Veth { a: near, b: far });
            self.plan.places.insert(name.to_ascii_lowercase(), ns.clone());
            self.plan.places.entry("internet".to_owned()).or_insert_with(|| ns.clone());
            self.plan.namespaces.insert(ns, host);
        }
        plan
    }

    /// Public addresses that lead nowhere must not be answered by the backbone itself.
    fn dead_addresses(&self, backbone: &mut NsPlan) {
        let alive: BTreeSet<Ipv4Net> = backbone.routes.iter().map(|r| r.prefix).collect();
        for ip in &self.net.public_ips {
            if let Some(std::net::IpAddr::V4(a)) = ip.address
                && !alive.contains(&Ipv4Net::from(a))
            {
                let prefix = Ipv4Net::from(a);
                backbone.routes.insert(Route { table: TABLE_LOCAL, prefix, metric: 0, hop: Hop::Blackhole });
            }
        }
    }
}

/// Values of a namespace that passes packets on. No reverse-path filter: user routes make paths
/// lopsided, and the guard knows better who may send what.
fn router_sysctls() -> BTreeMap<String, String> {
    let mut all = node_sysctls(true);
    for which in ["all", "default"] {
        all.insert(format!("ipv4/conf/{which}/rp_filter"), "0".to_owned());
        all.insert(format!("ipv4/conf/{which}/arp_ignore"), "1".to_owned());
    }
    all
}

/// Values of a NIC's or host's namespace. Low ports need no privilege there: nothing that runs on
/// a node has any.
fn node_sysctls(forwards: bool) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([("ipv4/ip_unprivileged_port_start".to_owned(), "0".to_owned())]);
    for which in ["all", "default"] {
        all.insert(format!("ipv6/conf/{which}/disable_ipv6"), "1".to_owned());
        all.insert(format!("ipv4/conf/{which}/accept_redirects"), "0".to_owned());
        if forwards {
            all.insert(format!("ipv4/conf/{which}/rp_filter"), "0".to_owned());
            all.insert(format!("ipv4/conf/{which}/send_redirects"), "0".to_owned());
        }
    }
    if forwards {
        all.insert("ipv4/ip_forward".to_owned(), "1".to_owned());
    }
    all
}
