//! One network in a throw-away world: packets out, and everything that is heard of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use moat_host::layout::{BACKBONE, Fabric, NsName};
use moat_host::plan;
use moat_host::testbed::{Probe, Testbed};
use moat_net::generate::Case;
use moat_net::ir::{Net, NicIx, Protocol};
use moat_net::trace::{From, Stage, trace};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use super::Findings;
use super::judge::{self, Heard, Place};

/// How long to wait for what should not come; the log usually speaks sooner.
const SILENCE: Duration = Duration::from_millis(150);
/// Bound for what should come: only a broken or a very busy machine takes it.
const PATIENCE: Duration = Duration::from_secs(3);
const ICMP: u8 = 1;
const ICMP_ECHO_REQUEST: u8 = 8;

/// An address of its own for each VNet's default outbound access, outside the generator's pool.
pub(super) fn default_outbound(net: &Net) -> BTreeMap<String, Ipv4Addr> {
    let addresses = (1u8..).map(|n| Ipv4Addr::new(20, 0, 114, n));
    net.vnets.iter().map(|v| v.id.to_ascii_lowercase()).zip(addresses).collect()
}

/// Makes `real` in the world of this process, sends `cases`, and compares with what they say.
pub(super) fn findings(net: &Net, real: &Net, cases: &[Case]) -> Result<Findings> {
    let fabric = Fabric { any_public: true, default_outbound: net.default_outbound.clone(), ..Fabric::default() };
    let mut testbed = Testbed::new().context("making a world")?;
    testbed.realise(plan(real, &fabric)).context("making the network")?;
    let mut bed = Bed::new(net, testbed)?;
    let mut heard = vec![Heard::default(); cases.len()];
    // Apart, since answers come at once and silence has to be waited for. This decides how long
    // to wait, never what is right.
    let is_answered = |c: &Case| c.replies;
    for (wait, answered) in [(PATIENCE, true), (SILENCE, false)] {
        let chosen = (0..cases.len()).filter(|i| cases.get(*i).is_some_and(|c| is_answered(c) == answered));
        for batch in batches(cases, chosen) {
            bed.send(cases, &batch, wait, &mut heard)?;
        }
    }
    let mut open = net.clone();
    open.subnets.iter_mut().for_each(|s| s.nsg = None);
    open.nics.iter_mut().for_each(|n| n.nsg = None);
    open.semantics.closed_by_default = false;
    let unguarded: Vec<Stage> = cases.iter().map(|c| trace(&open, c.from, c.flow).stage).collect();
    let mut twice = 0;
    for (i, case) in cases.iter().enumerate() {
        if judge::disagreement(case, unguarded[i], &heard[i]).is_some() && judge::may_be_late(case, &heard[i]) {
            twice += 1;
            bed.send(cases, &[i], PATIENCE, &mut heard)?;
        }
    }
    let judged = cases.iter().zip(&unguarded).zip(&heard);
    let disagreements = judged.map(|((c, u), h)| judge::disagreement(c, *u, h)).collect();
    Ok(Findings { disagreements, twice })
}

/// Groups of flows that cannot be mistaken for each other: what is heard is told apart by protocol
/// and source port, and ICMP has none.
fn batches(cases: &[Case], chosen: impl Iterator<Item = usize>) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = Vec::new();
    for i in chosen {
        let clash = |j: &usize| {
            let (a, b) = (&cases[i].flow, &cases[*j].flow);
            let same = a.protocol == b.protocol && a.source_port == b.source_port;
            // An answer's source port is a destination port.
            same || a.source_port == b.destination_port || b.source_port == a.destination_port
        };
        match all.iter_mut().find(|batch| !batch.iter().any(clash)) {
            Some(batch) => batch.push(i),
            None => all.push(vec![i]),
        }
    }
    all
}

struct Bed<'n> {
    net: &'n Net,
    testbed: Testbed,
    nics: Vec<(NicIx, NsName)>,
    /// Everything that comes in to a NIC, also what it only passes on.
    links: Vec<(NicIx, OwnedFd)>,
}

impl<'n> Bed<'n> {
    fn new(net: &'n Net, testbed: Testbed) -> Result<Self> {
        let mut nics = Vec::new();
        let mut links = Vec::new();
        for (ix, nic) in net.nics() {
            let ns = testbed.place(&nic.id).with_context(|| format!("no place for {}", nic.id))?;
            // This protocol number gives incoming packets only.
            let open = || {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                Ok(socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthIp)?)
            };
            links.push((ix, testbed.applier.run_in(&ns, open).context("listening on a link")?));
            nics.push((ix, ns));
        }
        Ok(Self { net, testbed, nics, links })
    }

    /// Sends some flows at once and notes what is heard of each.
    fn send(&mut self, cases: &[Case], batch: &[usize], wait: Duration, heard: &mut [Heard]) -> Result<()> {
        self.links_saw();
        let probes = batch.iter().map(|i| self.probe(&cases[*i])).collect::<Result<Vec<_>>>()?;
        let outcomes = self.testbed.probe(&probes, wait).context("sending")?;
        let saw = self.links_saw();
        for (i, outcome) in batch.iter().zip(outcomes) {
            let flow = &cases[*i].flow;
            let ours = |p: &Header| {
                let number = match flow.protocol {
                    Protocol::Tcp => 6,
                    Protocol::Udp => 17,
                    _ => ICMP,
                };
                p.protocol == number
                    && if number == ICMP { p.kind == ICMP_ECHO_REQUEST } else { p.source_port == flow.source_port }
            };
            let arrived = outcome.arrived.and_then(|(ns, source)| Some((self.place(&ns)?, source)));
            let dropped = outcome.dropped.and_then(|(_, id)| self.testbed.plan.rule_ids.get(&id).cloned());
            heard[*i] = Heard {
                arrived,
                answered: outcome.answered,
                seen: saw.iter().filter(|(_, p)| ours(p)).map(|(n, p)| (*n, p.source, p.destination)).collect(),
                dropped,
            };
        }
        Ok(())
    }

    fn place(&self, ns: &NsName) -> Option<Place> {
        if ns.as_str() == BACKBONE {
            return Some(Place::Internet);
        }
        self.nics.iter().find(|(_, n)| n == ns).map(|(ix, _)| Place::Nic(*ix))
    }

    /// The packet, with somebody listening wherever it could come out.
    fn probe(&self, case: &Case) -> Result<Probe> {
        let flow = &case.flow;
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (flow.source, flow.destination) else {
            bail!("only IPv4 is sent");
        };
        let from = match case.from {
            From::Nic(nic) => self.ns(nic)?,
            From::Internet => BACKBONE.into(),
            From::InternetTo(_) | From::Probe(_) => bail!("a packet that cannot be sent from any place"),
        };
        let mut ports = vec![flow.destination_port];
        for balancer in &self.net.load_balancers {
            let nat = balancer.nat_rules.iter().map(|r| (r.frontend_port, r.backend_port));
            let rules = balancer.rules.iter().map(|r| (r.frontend_port, r.backend_port));
            ports.extend(nat.chain(rules).filter(|(f, _)| *f == flow.destination_port).map(|(_, b)| b));
        }
        let places = self.nics.iter().map(|(_, ns)| ns.clone()).chain([BACKBONE.into()]);
        let listen = places.flat_map(|ns| ports.iter().map(move |p| (ns.clone(), *p))).collect();
        Ok(Probe {
            from,
            source: SocketAddrV4::new(source, if flow.protocol.has_ports() { flow.source_port } else { 1 }),
            destination: SocketAddrV4::new(destination, flow.destination_port),
            protocol: flow.protocol,
            listen,
        })
    }

    fn ns(&self, nic: NicIx) -> Result<NsName> {
        let found = self.nics.iter().find(|(ix, _)| *ix == nic);
        Ok(found.context("a flow from a NIC that is not there")?.1.clone())
    }

    /// What came in to the NICs since the last call.
    fn links_saw(&self) -> Vec<(NicIx, Header)> {
        let mut buffer = [0; 256];
        let mut all = Vec::new();
        for (nic, fd) in &self.links {
            while let Ok(n) = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                all.extend(buffer.get(..n).and_then(Header::parse).map(|h| (*nic, h)));
            }
        }
        all
    }
}

/// What tells packets apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    protocol: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    source_port: u16,
    /// First byte after the IPv4 header: the type of an ICMP message.
    kind: u8,
}

impl Header {
    fn parse(packet: &[u8]) -> Option<Self> {
        let body = packet.get(usize::from(packet.first()? & 0xf) * 4..)?;
        let source_port = u16::from_be_bytes([*body.first()?, *body.get(1)?]);
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        let (source, destination) = (address(12)?, address(16)?);
        Some(Self { protocol: *packet.get(9)?, source, destination, source_port, kind: *body.first()? })
    }
}
