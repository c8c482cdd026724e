//! What the node can reach: it tries its destinations over and over and remembers the last finding.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType};
use rustls::pki_types::ServerName;

use crate::config::{AgentConfig, Destination, Mode};
use crate::connect;
use crate::dns;
use crate::handshake::{self, Finding, Reach, Status};
use crate::job::Jobs;
use crate::tls;

/// Pause between rounds while something is not reached.
const ROUND_PAUSE_FAILING: Duration = Duration::from_secs(1);
/// Pause between rounds once everything is reached; also the heartbeat of simplified mode.
const ROUND_PAUSE_HEALTHY: Duration = Duration::from_secs(5);

/// Findings shared between the threads of an agent.
#[derive(Debug)]
pub struct Egress {
    findings: Mutex<Vec<Finding>>,
}

impl Egress {
    /// Nothing tried yet.
    pub fn new(config: &AgentConfig) -> Self {
        let findings = config
            .destinations
            .iter()
            .map(|d| Finding {
                label: d.label.clone(),
                address: None,
                port: d.port,
                source_port: None,
                reach: Reach::Untried,
            })
            .collect();
        Self { findings: Mutex::new(findings) }
    }

    /// The newest findings.
    pub fn findings(&self) -> Vec<Finding> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tries for ever. In simplified mode each round ends with a report to the Batch service, with the run there is.
    pub fn run(&self, config: &AgentConfig, jobs: &Jobs) {
        let tls = tls::client_config(&config.ca_pem);
        loop {
            let mut healthy = true;
            for (index, destination) in config.destinations.iter().enumerate() {
                let (finding, connection) = attempt(destination, config, &tls);
                healthy &= finding.reach == Reach::Reached;
                {
                    let mut all = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(slot) = all.get_mut(index) {
                        *slot = finding;
                    }
                }
                // Batch is the last destination, so its report carries the findings of this round.
                if config.mode == Mode::Simplified
                    && index + 1 == config.destinations.len()
                    && let Some(connection) = connection
                {
                    let node_id = config.node_id.clone();
                    let status = Status { node_id, findings: self.findings(), run: jobs.report() };
                    let _ = report(connection, config, &status);
                }
            }
            std::thread::sleep(if healthy { ROUND_PAUSE_HEALTHY } else { ROUND_PAUSE_FAILING });
        }
    }
}

type Tls = rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>;

fn attempt(
    destination: &Destination,
    config: &AgentConfig,
    tls: &Result<Arc<rustls::ClientConfig>, String>,
) -> (Finding, Option<Tls>) {
    let mut finding = Finding {
        label: destination.label.clone(),
        address: None,
        port: destination.port,
        source_port: None,
        reach: Reach::Untried,
    };
    let tls = match tls {
        Ok(t) => t.clone(),
        Err(why) => {
            finding.reach = Reach::Failed(why.clone());
            return (finding, None);
        }
    };
    let address = match dns::resolve(&destination.host, &config.resolvers) {
        Ok(a) => IpAddr::V4(a),
        Err(e) => {
            finding.reach = Reach::Failed(e.to_string());
            return (finding, None);
        }
    };
    finding.address = Some(address.to_string());
    let connected = connect(SocketAddr::new(address, destination.port), &mut finding.source_port)
        .and_then(|stream| hand_shake(stream, &destination.host, tls));
    match connected {
        Ok(stream) => {
            finding.reach = Reach::Reached;
            (finding, Some(stream))
        }
        Err(e) => {
            finding.reach = Reach::Failed(e.to_string());
            (finding, None)
        }
    }
}

/// Connects; the local port is told even if nothing answers.
fn connect(to: SocketAddr, source_port: &mut Option<u16>) -> io::Result<std::net::TcpStream> {
    let SocketAddr::V4(to) = to else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "IPv6 is not carried by this data plane"));
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    *source_port = Some(connect::begin(&socket, to)?);
    connect::finish(socket)
}

fn hand_shake(stream: std::net::TcpStream, host: &str, tls: Arc<rustls::ClientConfig>) -> io::Result<Tls> {
    let name = ServerName::try_from(host.to_owned()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let session = rustls::ClientConnection::new(tls, name).map_err(io::Error::other)?;
    let mut stream = rustls::StreamOwned::new(session, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// Simplified communication: the node connects out and then lets itself be asked on that connection.
fn report(mut stream: Tls, config: &AgentConfig, status: &Status) -> io::Result<()> {
    use base64::Engine;
    let key = base64::engine::general_purpose::STANDARD
        .decode(&config.key)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    // The code covers the very text sent, so that nothing in it can be changed or said for another node.
    let text = serde_json::to_string(status)?;
    let code = handshake::report_code(&key, &config.node_id, &text);
    let body = serde_json::to_vec(&serde_json::json!({ "status": text, "code": code }))?;
    let host = &config.destinations.last().map(|d| d.host.as_str()).unwrap_or_default();
    let head = format!(
        "POST /nodes/{}/status HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        config.node_id,
        body.len()
    );
    io::Write::write_all(&mut stream, head.as_bytes())?;
    io::Write::write_all(&mut stream, &body)?;
    io::Write::flush(&mut stream)?;
    let mut answer = [0u8; 64];
    let _ = io::Read::read(&mut stream, &mut answer)?;
    Ok(())
}
