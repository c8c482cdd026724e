//! Simplified communication: the node asks the Batch service for work, over and over, by its own connections.
//!
//! The service holds a question until it has an order, so that orders arrive at once; a change of the report ends the
//! question, so that reports arrive at once too. This is apart from the heartbeat of [`crate::egress`], which finds
//! out what can be reached.

use std::sync::Arc;

use hyper::Method;
use tokio::time::sleep;

use super::blob::encode;
use super::http::{Ask, Trouble};
use super::{Jobs, Node};
use crate::egress::Egress;
use crate::handshake::{LINE_BYTES_MAX, Status, WorkAnswer, WorkAsk};
use crate::work::Order;

pub(super) async fn ask_for_ever(node: Arc<Node>, jobs: Arc<Jobs>, egress: Arc<Egress>) {
    let mut changes = jobs.changes();
    loop {
        changes.borrow_and_update();
        let answer = tokio::select! {
            answer = ask(&node, &jobs, &egress) => answer,
            // Dropping the question closes its connection.
            _ = changes.changed() => continue,
        };
        let fruitful = match answer {
            Ok(Some(order)) => jobs.take(order),
            Ok(None) => true,
            Err(_) => false,
        };
        if !fruitful {
            // No service, or an order that says nothing new: it would be answered so again at once.
            sleep(node.client.patience().work_pause).await;
        }
    }
}

async fn ask(node: &Node, jobs: &Jobs, egress: &Egress) -> Result<Option<Order>, Trouble> {
    let Some(batch) = node.config.destinations.last() else {
        return std::future::pending().await;
    };
    let node_id = &node.config.node_id;
    let status = Status { node_id: node_id.clone(), findings: egress.findings(), run: jobs.report() };
    let garbled = |e: std::io::Error| Trouble::garbled(&batch.host, e);
    let asked = WorkAsk::new(&node.key, &status).map_err(garbled)?;
    let body = serde_json::to_vec(&asked).map_err(|e| Trouble::garbled(&batch.host, e))?;
    let ask = Ask::new(&batch.label, Method::POST, &batch.host, format!("/nodes/{}/work", encode(node_id)))
        .body("application/json", body);
    let answer: WorkAnswer = node.client.expect(&ask).await?.json(LINE_BYTES_MAX as usize).await?;
    answer.open(&node.key, node_id, &asked).map_err(garbled)
}
