//! What people write for the ends of a path: an interface, a node, an address, a host name, a
//! service tag, `internet`; and how a walk is told in sentences.

use std::net::{IpAddr, Ipv4Addr};

use moat_arm::{ResourceId, Snapshot, document};
use moat_model::types::microsoft_machinelearningservices::auto_network as auto;
use moat_net::ir::{Net, NicIx};
use moat_net::trace::{From, Hop};

use crate::control::ControlError;
use crate::reconcile::network::INTERNET_HOST_ADDRESS;
use crate::server::Server;

/// Where names are looked up.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// Host names and service tags.
    pub server: &'a Server,
    /// Documents.
    pub snapshot: &'a Snapshot,
    /// The network.
    pub net: &'a Net,
}

/// One end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// An interface, by its first address.
    Nic(NicIx, IpAddr),
    /// An address outside.
    Address(IpAddr),
}

impl Look<'_> {
    /// Start of the walk, source, destination and destination port. The port changes where the target
    /// is an interface that the outside reaches through a balancer's NAT rule for it.
    pub fn both(&self, from: &str, to: &str, port: u16) -> Result<(From, IpAddr, IpAddr, u16), ControlError> {
        let start = self.end(from)?;
        let target = match to.eq_ignore_ascii_case("internet") {
            true => End::Address(IpAddr::V4(INTERNET_HOST_ADDRESS)),
            false => self.end(to)?,
        };
        Ok(match (start, target) {
            (End::Nic(nic, source), End::Nic(_, destination) | End::Address(destination)) => {
                (From::Nic(nic), source, destination, port)
            }
            (End::Address(source), End::Nic(nic, destination)) => match self.front_end(nic, port) {
                Some((address, front)) => (From::Internet, source, address, front),
                // Named by its own address: after translation, as it meets the rules.
                None => (From::InternetTo(nic), source, destination, port),
            },
            (End::Address(source), End::Address(destination)) => (From::Internet, source, destination, port),
        })
    }

    /// The public address and port that a NAT rule leads to `port` of an interface.
    fn front_end(&self, nic: NicIx, port: u16) -> Option<(IpAddr, u16)> {
        self.net.load_balancers.iter().find_map(|balancer| {
            let rule = balancer
                .nat_rules
                .iter()
                .find(|r| r.backend_port == port && r.backend.is_some_and(|(n, _)| n == nic))?;
            let frontend = balancer.frontends.get(usize::try_from(rule.frontend).ok()?)?;
            let address = self.net.public_ips.get(frontend.public_ip?.at())?.address?;
            Some((address, rule.frontend_port))
        })
    }

    fn end(&self, text: &str) -> Result<End, ControlError> {
        if text.eq_ignore_ascii_case("internet") {
            return Ok(End::Address(IpAddr::V4(INTERNET_HOST_ADDRESS)));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(self.nic_at(address).unwrap_or(End::Address(address)));
        }
        let candidates = self.nics(text);
        match candidates.as_slice() {
            [one] => return Ok(*one),
            [] => {}
            [first, ..] if self.is_cluster(text) => return Ok(*first),
            many => {
                let ids: Vec<&str> = many
                    .iter()
                    .filter_map(|e| match e {
                        End::Nic(nic, _) => Some(self.net.nic(*nic).id.as_str()),
                        End::Address(_) => None,
                    })
                    .collect();
                return Err(ControlError::new("ambiguous", format!("`{text}` could be {}", ids.join(" or "))));
            }
        }
        if let Some(address) =
            self.public_ip(text).or_else(|| self.tag(text)).or_else(|| self.server.address_of(&text.to_lowercase()))
        {
            return Ok(End::Address(IpAddr::V4(address)));
        }
        Err(ControlError::new(
            "unknown-end",
            format!(
                "`{text}` is no interface, node, cluster, public IP, service tag, emulated host name, address or `internet`"
            ),
        ))
    }

    fn nic_at(&self, address: IpAddr) -> Option<End> {
        let mut at = self.net.nics().filter(|(_, n)| n.ip_configs.iter().any(|c| c.address == address));
        match (at.next(), at.next()) {
            (Some((nic, _)), None) => Some(End::Nic(nic, address)),
            _ => None,
        }
    }

    /// Interfaces by name or id, of a node, or of a cluster.
    fn nics(&self, text: &str) -> Vec<End> {
        let mut ids: Vec<String> = vec![text.to_lowercase()];
        for node in self.snapshot.of_type(auto::NODE_TYPE) {
            let of_cluster = node.id.parent().is_some_and(|c| c.name().eq_ignore_ascii_case(text));
            if (of_cluster || node.id.name().eq_ignore_ascii_case(text))
                && let Some(nic) = document::str_at(&node.body, "properties.nicId")
            {
                ids.push(nic.to_lowercase());
            }
        }
        self.net
            .nics()
            .filter(|(_, n)| {
                let id = n.id.to_lowercase();
                ids.iter().any(|wanted| *wanted == id || id.rsplit('/').next() == Some(wanted))
            })
            .filter_map(|(nic, n)| n.ip_configs.first().map(|c| End::Nic(nic, c.address)))
            .collect()
    }

    fn is_cluster(&self, text: &str) -> bool {
        self.snapshot
            .of_type(auto::NODE_TYPE)
            .any(|n| n.id.parent().is_some_and(|c| c.name().eq_ignore_ascii_case(text)))
    }

    fn public_ip(&self, text: &str) -> Option<Ipv4Addr> {
        let mut found = self.net.public_ips.iter().filter(|p| {
            p.id.eq_ignore_ascii_case(text) || p.id.rsplit('/').next().is_some_and(|n| n.eq_ignore_ascii_case(text))
        });
        match (found.next()?.address?, found.next()) {
            (IpAddr::V4(address), None) => Some(address),
            _ => None,
        }
    }

    /// The address at which Moat serves a tag.
    fn tag(&self, text: &str) -> Option<Ipv4Addr> {
        self.server.tag_address(text)
    }
}

/// The subnet that `VNET/SUBNET`, or a whole id, names.
pub fn subnet(snapshot: &Snapshot, at: &str) -> Result<ResourceId, ControlError> {
    if at.starts_with('/') {
        return ResourceId::parse(at).map_err(|e| ControlError::new("bad-place", e.to_string()));
    }
    let Some((vnet, subnet)) = at.split_once('/') else {
        return Err(ControlError::new("bad-place", format!("`{at}` is neither `internet` nor `VNET/SUBNET`")));
    };
    let found: Vec<ResourceId> = snapshot
        .of_type("Microsoft.Network/virtualNetworks")
        .filter(|d| d.id.name().eq_ignore_ascii_case(vnet))
        .map(|d| d.id.clone())
        .collect();
    match found.as_slice() {
        [one] => Ok(one.child("subnets", subnet)),
        [] => Err(ControlError::new("no-such-vnet", format!("there is no virtual network `{vnet}`"))),
        _ => {
            let all: Vec<&str> = found.iter().map(ResourceId::as_str).collect();
            Err(ControlError::new(
                "ambiguous",
                format!("`{vnet}` could be {}; give the subnet's whole id", all.join(" or ")),
            ))
        }
    }
}

/// A hop as a sentence.
pub fn sentence(hop: &Hop) -> String {
    match hop {
        Hop::Nic { id } => format!("leaves {id}"),
        Hop::Internet => "comes from the internet".to_owned(),
        Hop::Platform => "is the platform's".to_owned(),
        Hop::List(l) => format!("{}: {}/{} says {:?}", l.stage.as_str(), l.list, l.rule, l.access),
        Hop::Route { subnet, route, next_hop, next_hop_ip, back } => {
            let ip = next_hop_ip.map(|a| format!(" {a}")).unwrap_or_default();
            let way = if *back { "way back: route" } else { "route" };
            format!("{way} at {}: {route} -> {next_hop}{ip}", subnet.rsplit('/').next().unwrap_or(subnet))
        }
        Hop::Translate { by, name, from, to, port } => {
            let name = name.as_deref().map(|n| format!(" {n}")).unwrap_or_default();
            let port = port.map(|p| format!(" port {p}")).unwrap_or_default();
            format!("{from} becomes {to}{port} ({by:?}{name})")
        }
        Hop::Arrive { id } => format!("arrives at {id}"),
    }
}
