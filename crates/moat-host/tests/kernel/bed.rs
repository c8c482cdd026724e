//! One `check` for everything: who sends what to whom, and what becomes of it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use moat_host::layout::{Fabric, NsName, RuleRef};
use moat_host::plan;
use moat_host::testbed::{Outcome, Probe, Testbed};
use moat_net::ir::{Net, Protocol};

/// How long a packet of which nothing is heard is waited for. Only drops that nobody logs take it.
pub const WAIT: Duration = Duration::from_millis(400);
/// The host on the internet.
pub const INET: &str = "203.0.113.10";

pub struct Bed {
    pub bed: Testbed,
    pub fabric: Fabric,
    port: u16,
}

impl Bed {
    pub fn new(net: &Net) -> Self {
        let fabric = Fabric {
            services: vec!["20.60.0.0/16".parse().unwrap()],
            any_public: true,
            hosts: BTreeMap::from([("inet".to_owned(), INET.parse().unwrap())]),
            default_outbound: BTreeMap::new(),
            log_accepts: true,
        };
        let mut this = Self { bed: Testbed::new().unwrap(), fabric, port: 20_000 };
        this.change(net);
        this
    }

    /// Realises another network; returns how many steps it took.
    pub fn change(&mut self, net: &Net) -> usize {
        let plan = plan(net, &self.fabric);
        self.bed.realise(plan).unwrap_or_else(|e| panic!("{}", chain(&e)))
    }

    pub fn place(&self, name: &str) -> NsName {
        match name {
            "inet" | "bb" => name.into(),
            nic => self.bed.place(&format!("/nics/{nic}")).unwrap_or_else(|| panic!("no place {nic}")),
        }
    }

    /// An address of a place.
    pub fn address(&self, name: &str) -> Ipv4Addr {
        let ns = &self.bed.plan.namespaces[&self.place(name)];
        ns.addresses.iter().find(|(l, _)| l == "eth0").unwrap().1.addr()
    }

    /// Sends `from` -> `to address:port`, where somebody waits at place `at` on port `at_port`.
    pub fn send(&mut self, from: &str, protocol: Protocol, to: &str, port: u16, at: &str, at_port: u16) -> Outcome {
        self.port += 1;
        let source = SocketAddrV4::new(self.address(from), self.port);
        self.send_as(from, source, protocol, to, port, at, at_port)
    }

    #[allow(clippy::too_many_arguments, reason = "a packet has that many fields")]
    pub fn send_as(
        &mut self,
        from: &str,
        source: SocketAddrV4,
        protocol: Protocol,
        to: &str,
        port: u16,
        at: &str,
        at_port: u16,
    ) -> Outcome {
        let probe = Probe {
            from: self.place(from),
            source,
            destination: SocketAddrV4::new(to.parse().unwrap(), port),
            protocol,
            listen: vec![(self.place(at), at_port)],
        };
        self.bed.probe(&[probe], WAIT).unwrap().remove(0)
    }

    /// TCP from NIC to NIC: does it get there and back?
    pub fn tcp(&mut self, from: &str, to: &str, port: u16) -> Outcome {
        let address = self.address(to).to_string();
        self.send(from, Protocol::Tcp, &address, port, to, port)
    }

    /// The rule that dropped it, as `nsg/rule` or the fabric's reason.
    pub fn dropped_by(&self, outcome: &Outcome) -> Option<String> {
        let (_, id) = outcome.dropped.as_ref()?;
        let RuleRef { nsg, rule, .. } = &self.bed.plan.rule_ids[id];
        let list = nsg.rsplit('/').next().unwrap();
        Some(if list.is_empty() { rule.clone() } else { format!("{list}/{rule}") })
    }

    #[track_caller]
    pub fn passes(&mut self, from: &str, to: &str, port: u16) {
        let outcome = self.tcp(from, to, port);
        assert!(outcome.allowed(), "{from} -> {to}:{port}: {outcome:?} {:?}", self.dropped_by(&outcome));
    }

    #[track_caller]
    pub fn stopped(&mut self, from: &str, to: &str, port: u16, by: &str) {
        let outcome = self.tcp(from, to, port);
        assert!(!outcome.allowed(), "{from} -> {to}:{port} came through: {outcome:?}");
        assert_eq!(self.dropped_by(&outcome).as_deref().unwrap_or("silence"), by, "{from} -> {to}:{port}");
    }
}

/// An error with its causes.
pub fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        out += &format!(": {cause}");
        next = cause.source();
    }
    out
}
