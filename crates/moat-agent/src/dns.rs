//! Asking the resolver, by the node's own packets: one A question over UDP.
//!
//! The C library's resolver would read the host's /etc/resolv.conf; the agent has no files of its
//! own, so it asks the address it was told.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

/// How long one resolver may take.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);
/// Largest answer accepted.
const ANSWER_BYTES_MAX: usize = 4096;

/// The first IPv4 address of `host`, from the first resolver that answers.
pub fn resolve(host: &str, resolvers: &[IpAddr]) -> io::Result<Ipv4Addr> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no resolver is configured");
    for resolver in resolvers {
        match ask(host, *resolver) {
            Ok(a) => return Ok(a),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn ask(host: &str, resolver: IpAddr) -> io::Result<Ipv4Addr> {
    let bad = |e: hickory_proto::ProtoError| io::Error::new(io::ErrorKind::InvalidData, e);
    let mut id = [0u8; 2];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| io::Error::other("no randomness"))?;
    let id = u16::from_be_bytes(id);
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(host).map_err(bad)?, RecordType::A));
    let socket = UdpSocket::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))?;
    socket.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
    socket.connect(SocketAddr::new(resolver, 53))?;
    socket.send(&question.to_vec().map_err(bad)?)?;
    let mut buffer = vec![0u8; ANSWER_BYTES_MAX];
    let n = socket
        .recv(&mut buffer)
        .map_err(|e| io::Error::new(e.kind(), format!("{resolver} did not answer for `{host}`")))?;
    let answer =
        Message::from_vec(&buffer[..n]).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
    if answer.metadata.id != id {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{resolver} answered another question")));
    }
    if answer.metadata.response_code != ResponseCode::NoError {
        let code = answer.metadata.response_code;
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("`{host}` does not resolve: {code}")));
    }
    answer
        .answers
        .iter()
        .find_map(|r| match &r.data {
            RData::A(a) => Some(a.0),
            _ => None,
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no IPv4 address")))
}
