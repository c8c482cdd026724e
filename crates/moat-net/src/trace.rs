//! The walk of one packet: where it goes, which rules it meets, how it ends and why.
//!
//! Verdicts and stages carry the names of the truth vectors. Three stages are ours, for things
//! the vectors do not model: `closed-by-default`, `no-outbound` and `spoofed-source`.
//! INVARIANT: a walk always ends; appliances are the only way on, and they are counted (A22).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ir::{Access, Direction, Net, NicIx, Protocol, SubnetIx};
use crate::layers;
use crate::nsg;
use crate::packet::Flow;

/// Where a packet sets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum From {
    /// It leaves this NIC; its source should be one of the NIC's addresses.
    Nic(NicIx),
    /// It comes from the internet, to a public address.
    Internet,
    /// It comes from the internet to this NIC; the public address is already translated to the
    /// NIC's private one (the truth vectors' `from-internet`).
    InternetTo(NicIx),
    /// It is a health probe of the platform to this NIC, from 168.63.129.16 (3.9).
    Probe(NicIx),
}

/// How a walk ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It arrives.
    Allow,
    /// A rule said no.
    Deny,
    /// Routing or topology said no.
    Drop,
}

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Where a walk ends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Stage {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }
        impl Stage {
            /// All stages.
            pub const ALL: &[Stage] = &[$(Stage::$name,)*];
            /// The name the truth vectors use.
            pub fn as_str(self) -> &'static str {
                match self { $(Stage::$name => $text,)* }
            }
        }
    };
}
stages! {
    /// Allow: reached a NIC or private endpoint.
    Delivered = "delivered",
    /// Allow: left for a public address.
    Internet = "internet",
    /// Allow: left through a gateway.
    OnPremises = "on-premises",
    /// Allow: reached DNS or IMDS of the platform.
    Platform = "platform",
    /// Allow: left through a service endpoint.
    ServiceEndpoint = "service-endpoint",
    /// Allow: handed to a NIC that forwards; what it does then is its own business.
    ToAppliance = "to-appliance",
    /// Deny: NSG of the sending NIC.
    OutNic = "out-nic",
    /// Deny: NSG of the sending subnet.
    OutSubnet = "out-subnet",
    /// Deny: NSG of the receiving subnet.
    InSubnet = "in-subnet",
    /// Deny: NSG of the receiving NIC.
    InNic = "in-nic",
    /// Deny: network rules of an Azure Firewall.
    Firewall = "firewall",
    /// Drop: next hop type None.
    RouteNone = "route-none",
    /// Drop: nobody has the address.
    NoSuchHost = "no-such-host",
    /// Drop: the appliance does not exist, cannot be reached or does not forward.
    DeadNextHop = "dead-next-hop",
    /// Drop: the gateway does not know the address.
    GatewayUnknown = "gateway-unknown",
    /// Drop: an address that is not public was routed to the internet.
    NotPublic = "not-public",
    /// Drop: replies would not leave by the internet (A20).
    ReturnRoute = "return-route",
    /// Drop: no public address or front end rule leads to a NIC.
    NoPublicIp = "no-public-ip",
    /// Drop: the peering does not take forwarded traffic (A23).
    ForwardedTraffic = "forwarded-traffic",
    /// Drop: more than four appliances.
    Loop = "loop",
    /// Drop: Standard SKU and no NSG at subnet or NIC (2.10).
    ClosedByDefault = "closed-by-default",
    /// Drop: the NIC has no way out to the internet (9.3, 9.4).
    NoOutbound = "no-outbound",
    /// Drop: the source is not an address of the NIC.
    SpoofedSource = "spoofed-source",
}

/// One rule list that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListStep {
    /// At which layer.
    pub stage: Stage,
    /// Name of the NSG or firewall.
    pub list: String,
    /// Document id of the NSG or firewall.
    pub id: String,
    /// First matching rule.
    pub rule: String,
    /// What it said.
    pub access: Access,
}

/// Why an address was translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Translation {
    /// Source became a NAT gateway's address.
    NatGateway,
    /// Source or destination by an instance-level public IP.
    PublicIp,
    /// Source became a balancer front end by an outbound rule or a balancing rule.
    LoadBalancerOutbound,
    /// Source became the platform's default outbound address.
    DefaultOutbound,
    /// Destination by an inbound NAT rule.
    InboundNatRule,
    /// Destination by a load-balancing rule.
    BalancingRule,
}

/// A step of the walk, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hop", rename_all = "kebab-case")]
pub enum Hop {
    /// Set out from a NIC.
    Nic {
        /// Document id.
        id: String,
    },
    /// Came from the internet.
    Internet,
    /// Came from the platform.
    Platform,
    /// A rule list was asked.
    List(ListStep),
    /// A route was chosen.
    Route {
        /// Subnet that decided.
        subnet: String,
        /// The route as in [`Trace::route`].
        route: String,
        /// Next hop type.
        next_hop: String,
        /// Next hop address.
        next_hop_ip: Option<IpAddr>,
        /// It is the way back of a packet from the internet.
        back: bool,
    },
    /// An address (and port) was translated.
    Translate {
        /// By what.
        by: Translation,
        /// Name of the rule or id of the resource, if there is one.
        name: Option<String>,
        /// Address before.
        from: IpAddr,
        /// Address after.
        to: IpAddr,
        /// Destination port after, if it changed.
        port: Option<u16>,
    },
    /// Reached a NIC or private endpoint.
    Arrive {
        /// Document id.
        id: String,
    },
}

/// What happened to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// How it ended.
    pub verdict: Verdict,
    /// Where it ended.
    pub stage: Stage,
    /// `list/rule` that denied it.
    pub rule: Option<String>,
    /// Next hop type at the packet's own subnet; from the internet: of the way back.
    pub next_hop: Option<String>,
    /// Next hop address.
    pub next_hop_ip: Option<IpAddr>,
    /// The route, for example `User:u0 0.0.0.0/0`.
    pub route: Option<String>,
    /// Every rule list asked, in order.
    pub lists: Vec<ListStep>,
    /// The walk, for people.
    pub hops: Vec<Hop>,
    /// The packet as the last place saw it, after all translation.
    pub seen: Flow,
    /// The NIC it reached, if any.
    pub arrived: Option<NicIx>,
    /// With load balancing: the same packet, had another backend been chosen. The trace itself is
    /// for the first backend.
    pub alternatives: Vec<Trace>,
}

/// A walk under way. Layers read the network, add what they saw, and may end it.
#[derive(Debug)]
pub struct Walk<'n> {
    /// The network.
    pub net: &'n Net,
    /// The packet as it is now.
    pub flow: Flow,
    pub(crate) lists: Vec<ListStep>,
    pub(crate) hops: Vec<Hop>,
    pub(crate) next_hop: Option<(String, Option<IpAddr>, String)>,
    pub(crate) arrived: Option<NicIx>,
    pub(crate) alternatives: Vec<Trace>,
}

/// How a layer ends a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End(pub Verdict, pub Stage);

impl<'n> Walk<'n> {
    fn new(net: &'n Net, flow: Flow) -> Self {
        Self { net, flow, lists: vec![], hops: vec![], next_hop: None, arrived: None, alternatives: vec![] }
    }

    /// Copies the state so far, to follow another backend.
    pub(crate) fn fork(&self) -> Self {
        Self {
            net: self.net,
            flow: self.flow,
            lists: self.lists.clone(),
            hops: self.hops.clone(),
            next_hop: self.next_hop.clone(),
            arrived: self.arrived,
            alternatives: vec![],
        }
    }

    pub(crate) fn list(&mut self, stage: Stage, id: &str, rule: &str, access: Access) {
        let step = ListStep { stage, list: last_name(id).to_owned(), id: id.to_owned(), rule: rule.to_owned(), access };
        self.hops.push(Hop::List(step.clone()));
        self.lists.push(step);
    }

    /// Notes the route at a subnet; the first one noted is the answer's.
    pub(crate) fn route(&mut self, subnet: SubnetIx, route: &crate::routes::Candidate<'_>, back: bool) {
        self.hops.push(Hop::Route {
            subnet: self.net.subnet(subnet).id.clone(),
            route: route.to_string(),
            next_hop: route.kind.as_str().to_owned(),
            next_hop_ip: route.address,
            back,
        });
        self.next_hop.get_or_insert_with(|| (route.kind.as_str().to_owned(), route.address, route.to_string()));
    }

    pub(crate) fn finish(self, End(verdict, stage): End) -> Trace {
        let denied_by = self.lists.last().filter(|_| verdict == Verdict::Deny);
        let rule = denied_by.map(|l| format!("{}/{}", l.list, l.rule));
        let (next_hop, next_hop_ip, route) = match self.next_hop {
            Some((kind, ip, route)) => (Some(kind), ip, Some(route)),
            None => (None, None, None),
        };
        Trace {
            verdict,
            stage,
            rule,
            next_hop,
            next_hop_ip,
            route,
            lists: self.lists,
            hops: self.hops,
            seen: self.flow,
            arrived: self.arrived,
            alternatives: self.alternatives,
        }
    }
}

/// The last segment of an id.
pub fn last_name(id: &str) -> &str {
    id.trim_end_matches('/').rsplit('/').next().unwrap_or(id)
}

/// Follows the first packet of `flow`.
pub fn trace(net: &Net, from: From, flow: Flow) -> Trace {
    let mut walk = Walk::new(net, flow);
    let end = match from {
        From::Nic(nic) => layers::from_nic(&mut walk, nic),
        From::Internet => layers::ingress::from_internet(&mut walk),
        From::InternetTo(nic) => layers::ingress::to_nic(&mut walk, nic),
        From::Probe(nic) => layers::platform::probe(&mut walk, nic),
    };
    walk.finish(end)
}

/// The answer of Network Watcher's IP flow verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowVerification {
    /// Verdict of the rule lists alone; routes are not asked.
    pub access: Access,
    /// `securityRules/x` or `defaultSecurityRules/DenyAllInBound`; `None` if no NSG acts on the NIC.
    pub rule_name: Option<String>,
}

/// IP flow verify (2.13): both lists of `nic` in the order of `direction`; the rule named is the
/// one that denied, else the last that allowed.
pub fn verify_flow(net: &Net, nic: NicIx, direction: Direction, flow: Flow) -> FlowVerification {
    let mut walk = Walk::new(net, flow);
    let local = if direction == Direction::Inbound { flow.destination } else { flow.source };
    let Some(config) = layers::config_of(net, nic, local) else {
        return FlowVerification { access: Access::Allow, rule_name: None };
    };
    let subnet = net.nic(nic).ip_configs[config].subnet;
    let denied = match direction {
        Direction::Inbound => layers::security::inbound(&mut walk, nic, subnet),
        Direction::Outbound => layers::security::outbound(&mut walk, nic, subnet),
    };
    let rule_name = walk.lists.last().map(|l| {
        let default = nsg::default_rules().iter().any(|r| r.name == l.rule && r.direction == direction);
        let custom = net.nsgs.iter().any(|n| n.id == l.id && n.rules.iter().any(|r| r.name == l.rule));
        if default && !custom {
            format!("defaultSecurityRules/{}", l.rule)
        } else {
            format!("securityRules/{}", l.rule)
        }
    });
    FlowVerification { access: if denied.is_some() { Access::Deny } else { Access::Allow }, rule_name }
}

/// A probe of the platform to `nic` on TCP `port`.
pub fn probe_flow(net: &Net, nic: NicIx, port: u16) -> Option<Flow> {
    let to = net.nic(nic).ip_configs.first()?;
    Some(Flow {
        source: IpAddr::V4(crate::address::HOST_ADDRESS),
        destination: to.address,
        protocol: Protocol::Tcp,
        source_port: 50_000,
        destination_port: port,
    })
}
