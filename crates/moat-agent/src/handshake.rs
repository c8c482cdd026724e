//! The management protocol: four lines of JSON on one TCP connection.
//!
//! The service speaks first with a nonce; the node answers with its own nonce and a code over both;
//! the service proves itself the same way and asks; the node answers. Codes are HMAC-SHA256 with
//! the node's key, bound to the role, the node and the port, so that none can be replayed at
//! another port, by the other side, or to another node.

use std::io::{self, BufRead, BufReader, Read, Write};

use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::work::RunReport;

/// Longest line either side accepts.
pub const LINE_BYTES_MAX: u64 = 16 * 1024;

/// Who made a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The Batch or Machine Learning service.
    Service,
    /// The node.
    Node,
}

/// First line, from the service.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Fresh random text.
    pub nonce: String,
}

/// Second line, from the node.
#[derive(Debug, Serialize, Deserialize)]
pub struct Proof {
    /// Fresh random text.
    pub nonce: String,
    /// Code of the node.
    pub code: String,
}

/// Third line, from the service.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ask {
    /// Code of the service.
    pub code: String,
    /// What it wants; only `status` so far.
    pub ask: String,
}

/// One destination as the node found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// [`crate::config::Destination::label`].
    pub label: String,
    /// Address the name resolved to, if it did.
    pub address: Option<String>,
    /// Port tried.
    pub port: u16,
    /// Local port of the last attempt, to find its drop in the flow log.
    pub source_port: Option<u16>,
    /// What came of it.
    pub reach: Reach,
}

/// What came of the last attempt at a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// No attempt has ended yet.
    Untried,
    /// TCP and TLS stand, and the certificate is the service's.
    Reached,
    /// Why not.
    Failed(String),
}

/// Fourth line, from the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the node.
    pub node_id: String,
    /// What it could reach.
    pub findings: Vec<Finding>,
    /// The run it has, if any.
    #[serde(default)]
    pub run: Option<RunReport>,
}

/// The code of `role` for this connection.
pub fn code(key: &[u8], role: Role, node_id: &str, port: u16, service_nonce: &str, node_nonce: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let role = match role {
        Role::Service => "service",
        Role::Node => "node",
    };
    let text = serde_json::json!([role, node_id, port, service_nonce, node_nonce]).to_string();
    STANDARD.encode(hmac::sign(&key, text.as_bytes()).as_ref())
}

/// The code of a report that the node sends by itself (simplified communication).
pub fn report_code(key: &[u8], node_id: &str, text: &str) -> String {
    code(key, Role::Node, node_id, 443, "report", text)
}

/// Compares codes in constant time.
pub fn same(a: &str, b: &str) -> bool {
    constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

/// Fresh random text of 128 bits.
pub fn nonce() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    Ok(STANDARD.encode(bytes))
}

/// Writes one line.
pub fn send(out: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// Reads one line of at most [`LINE_BYTES_MAX`].
pub fn receive<T: DeserializeOwned>(input: &mut BufReader<impl Read>) -> io::Result<T> {
    let mut line = Vec::new();
    input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the line ended early"));
    }
    Ok(serde_json::from_slice(&line)?)
}

/// The node's side of a connection to `port`: answers `status` once the peer has proved itself.
pub fn answer(stream: impl Read + Write, key: &[u8], node_id: &str, port: u16, status: &Status) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let hello: Hello = receive(&mut stream)?;
    let mine = nonce()?;
    let proof = Proof { code: code(key, Role::Node, node_id, port, &hello.nonce, &mine), nonce: mine };
    send(stream.get_mut(), &proof)?;
    let ask: Ask = receive(&mut stream)?;
    if !same(&ask.code, &code(key, Role::Service, node_id, port, &hello.nonce, &proof.nonce)) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the peer does not hold this node's key"));
    }
    match ask.ask.as_str() {
        "status" => send(stream.get_mut(), status),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "unknown request")),
    }
}

/// The service's side of a connection to `port` of a node: asks for its status.
pub fn ask(stream: impl Read + Write, key: &[u8], node_id: &str, port: u16) -> io::Result<Status> {
    let mut stream = BufReader::new(stream);
    let hello = Hello { nonce: nonce()? };
    send(stream.get_mut(), &hello)?;
    let proof: Proof = receive(&mut stream)?;
    if !same(&proof.code, &code(key, Role::Node, node_id, port, &hello.nonce, &proof.nonce)) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "what answered does not hold this node's key"));
    }
    let code = code(key, Role::Service, node_id, port, &hello.nonce, &proof.nonce);
    send(stream.get_mut(), &Ask { code, ask: "status".to_owned() })?;
    receive(&mut stream)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::net::UnixStream;

    fn status() -> Status {
        let finding = |reach| Finding { label: "l".to_owned(), address: None, port: 443, source_port: None, reach };
        let findings = [Reach::Untried, Reach::Reached, Reach::Failed("why".to_owned())].map(finding).to_vec();
        Status { node_id: "n".to_owned(), findings, run: None }
    }

    fn talk(node_key: &'static [u8], service_key: &[u8], ask_port: u16) -> (io::Result<()>, io::Result<Status>) {
        let (a, b) = UnixStream::pair().unwrap();
        let node = std::thread::spawn(move || answer(a, node_key, "n", 29876, &status()));
        let got = ask(b, service_key, "n", ask_port);
        (node.join().unwrap(), got)
    }

    #[test]
    fn both_sides_with_the_key_understand_each_other() {
        let (node, service) = talk(b"key", b"key", 29876);
        node.unwrap();
        assert_eq!(service.unwrap(), status());
    }

    #[test]
    fn a_peer_without_the_key_learns_nothing() {
        let (node, service) = talk(b"key", b"other", 29876);
        assert!(node.is_err());
        assert_eq!(service.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_code_for_another_port_is_refused() {
        let (node, service) = talk(b"key", b"key", 44224);
        assert!(node.is_err() && service.is_err());
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut input = BufReader::new(io::repeat(b'x'));
        assert!(receive::<Hello>(&mut input).is_err());
    }
}
