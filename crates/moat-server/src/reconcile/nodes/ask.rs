//! Talking with one node: over every path it needs, and about its run.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use moat_agent::connect;
use moat_agent::handshake::{self, Finding, Reach, Status};
use moat_agent::work::Order;
use moat_arm::Snapshot;
use moat_host::{NsName, SocketSpec};
use moat_model::Edition;
use moat_model::types::microsoft_machinelearningservices::auto_network as auto;
use moat_net::ir::Direction;

use super::Landscape;
use super::targets::Target;
use crate::reconcile::desk::{Agent, Desk};
use crate::reconcile::hands::Hands;
use crate::reconcile::words::{self, Path};

/// What asking a node came to.
#[derive(Debug)]
pub(super) enum Outcome {
    Good,
    /// The kernel logged the drop of exactly this packet.
    Dropped(String),
    /// It did not get through, and nothing says why.
    Silent(String),
    /// The agent has not finished its first round.
    TooEarly,
}

/// Talks with one node at a time.
pub(super) struct Asker {
    pub(super) host: Arc<dyn Hands>,
    pub(super) landscape: Landscape,
    pub(super) desk: Arc<Desk>,
}

impl Asker {
    /// Asks about the run that the node has or should have, with the order for it; whether it answered.
    pub(super) fn work(&self, target: &Target, agent: &Agent) -> bool {
        let Some((public, port)) = target.public else { return false };
        let order = self.desk.order(agent);
        let to = SocketAddrV4::new(public, port);
        match self.converse(self.landscape.batch, to, agent, auto::BATCH_PORTS[0], order.as_ref()) {
            Ok(status) => self.desk.heard(agent, &status),
            Err(e) => {
                tracing::debug!(error = %e, node = target.id.name(), "a node did not answer about its run");
                return false;
            }
        }
        true
    }

    /// Tries every path between the services and the node. One that has `started` is not judged by what only its start
    /// needs (docs/adr/0005): whatever needs that later is a job, which fails and says why.
    pub(super) fn ask(&self, target: &Target, agent: &Agent, started: bool, mark: u64, snapshot: &Snapshot) -> Outcome {
        let mut status = None;
        let mut silent = None;
        for (offset, port) in (0u16..).zip(&target.ports) {
            let Some((public, first)) = target.public else { return Outcome::TooEarly };
            let (source, tag) = if *port == auto::ML_PORT {
                (self.landscape.ml, "AzureMachineLearning".to_owned())
            } else {
                (self.landscape.batch, self.landscape.batch_tag.clone())
            };
            let path = Path { direction: Direction::Inbound, tag, address: Some(source.to_string()), port: *port };
            match self.converse(source, SocketAddrV4::new(public, first + offset), agent, *port, None) {
                Ok(s) => {
                    self.desk.heard(agent, &s);
                    status = Some(s);
                }
                Err(e) => {
                    let dropped = self.desk.flows.drop_since(mark, |f| {
                        f.source == source && f.destination == target.private && f.destination_port == *port
                    });
                    match dropped {
                        Some(flow) => return Outcome::Dropped(words::dropped(&path, &flow.rule, snapshot)),
                        None => silent = silent.or(Some(words::unexplained(&path, &e.to_string()))),
                    }
                }
            }
        }
        let reported = self.desk.fresh(&target.id);
        // In simplified communication the node's own report is a path of its own: without it the
        // Batch service knows nothing of the node.
        let simplified = self.landscape.edition == Edition::Current;
        let status = if simplified { reported.or(status) } else { status };
        let findings = status.map(|s| s.findings).unwrap_or_default();
        let is_needed = |f: &&Finding| !started || f.label != target.storage();
        for finding in findings.iter().filter(is_needed) {
            if let Reach::Failed(why) = &finding.reach {
                return self.explain(target, finding, why, mark, snapshot);
            }
        }
        if let Some(why) = silent {
            return Outcome::Silent(why);
        }
        if findings.is_empty() && simplified {
            return self.explain_silence(target, mark, snapshot);
        }
        if findings.iter().filter(is_needed).all(|f| f.reach == Reach::Reached) && !findings.is_empty() {
            return Outcome::Good;
        }
        Outcome::TooEarly
    }

    /// A destination that the node did not reach.
    fn explain(&self, target: &Target, finding: &Finding, why: &str, mark: u64, snapshot: &Snapshot) -> Outcome {
        let path = Path {
            direction: Direction::Outbound,
            tag: finding.label.clone(),
            address: finding.address.clone(),
            port: finding.port,
        };
        let to: Option<Ipv4Addr> = finding.address.as_deref().and_then(|a| a.parse().ok());
        let dropped = self.desk.flows.drop_since(mark, |f| {
            f.source == target.private && Some(f.destination) == to && f.destination_port == finding.port
        });
        match dropped {
            Some(flow) => Outcome::Dropped(words::dropped(&path, &flow.rule, snapshot)),
            None => Outcome::Silent(words::unexplained(&path, why)),
        }
    }

    /// Nothing was heard of a node that has to report by itself.
    fn explain_silence(&self, target: &Target, mark: u64, snapshot: &Snapshot) -> Outcome {
        let path = Path {
            direction: Direction::Outbound,
            tag: format!("BatchNodeManagement.{}", target.region),
            address: None,
            port: 443,
        };
        let dropped = self.desk.flows.drop_since(mark, |f| f.source == target.private && f.destination_port == 443);
        match dropped {
            Some(flow) => {
                let path = Path { address: Some(flow.destination.to_string()), ..path };
                Outcome::Dropped(words::dropped(&path, &flow.rule, snapshot))
            }
            None => Outcome::Silent(words::unexplained(&path, "the node sent no report")),
        }
    }

    fn converse(
        &self,
        from: Ipv4Addr,
        to: SocketAddrV4,
        agent: &Agent,
        port: u16,
        order: Option<&Order>,
    ) -> io::Result<Status> {
        let backbone = NsName::from(moat_host::layout::BACKBONE);
        let spec = SocketSpec::Tcp { bind: Some(SocketAddrV4::new(from, 0)) };
        let socket = self.host.socket(&backbone, &spec).map_err(io::Error::other)?;
        connect::begin(&socket, to)?;
        handshake::ask_with_order(connect::finish(socket)?, &agent.key, agent.node.name(), port, order)
    }
}
