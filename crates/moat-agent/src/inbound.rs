//! The management ports: 29876 and 29877 for Batch, 44224 for Machine Learning.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::config::AgentConfig;
use crate::egress::Egress;
use crate::handshake::{self, Status};
use crate::job::Jobs;

/// A peer that says nothing for this long is cut off.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(3);
/// Connections served at once; more are closed at once, so that a flood costs nothing lasting.
const CONNECTIONS_MAX: usize = 16;

/// Listens on every configured address; returns only if a port could not be opened.
pub fn serve(config: &AgentConfig, egress: &Arc<Egress>, jobs: &Arc<Jobs>) -> io::Result<Infallible> {
    let key: Arc<[u8]> =
        STANDARD.decode(&config.key).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?.into();
    let open = Arc::new(AtomicUsize::new(0));
    let listeners: Vec<(SocketAddr, TcpListener)> =
        config.listen.iter().map(|a| TcpListener::bind(a).map(|l| (*a, l))).collect::<io::Result<_>>()?;
    let mut threads = Vec::new();
    for (address, listener) in listeners {
        let (key, open, node_id) = (key.clone(), open.clone(), config.node_id.clone());
        let (egress, jobs) = (egress.clone(), jobs.clone());
        threads.push(std::thread::Builder::new().name(format!("port-{}", address.port())).spawn(move || {
            loop {
                let Ok((stream, _)) = listener.accept() else { continue };
                if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
                    open.fetch_sub(1, Ordering::SeqCst);
                    continue;
                }
                let (key, open_here, node_id) = (key.clone(), open.clone(), node_id.clone());
                let (egress, jobs) = (egress.clone(), jobs.clone());
                let served = std::thread::Builder::new().spawn(move || {
                    let _ = stream.set_read_timeout(Some(PEER_SILENCE_MAX));
                    let _ = stream.set_write_timeout(Some(PEER_SILENCE_MAX));
                    // A failed handshake is the peer's problem; the node tells nobody anything.
                    let _ = handshake::answer(stream, &key, &node_id, address.port(), |order| {
                        if let Some(order) = order {
                            jobs.take(order);
                        }
                        Status { node_id: node_id.clone(), findings: egress.findings(), run: jobs.report() }
                    });
                    open_here.fetch_sub(1, Ordering::SeqCst);
                });
                if served.is_err() {
                    open.fetch_sub(1, Ordering::SeqCst);
                }
            }
        })?);
    }
    loop {
        std::thread::park();
    }
}
