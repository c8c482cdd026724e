//! DNS: which names exist and where. Pure; the sockets are in `server.rs`.
//!
//! INVARIANTS: no packet makes this panic; nothing is ever asked of a real resolver; a name that
//! is not emulated does not exist. IPv4 only: AAAA is an empty NOERROR.

pub(crate) mod server;

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

/// How long clients may keep an address; short, since account names come and go.
pub const TTL_SECONDS: u32 = 60;

/// Largest UDP answer without EDNS (RFC 1035), and with it (RFC 9715).
const UDP_BYTES_PLAIN: u16 = 512;
const UDP_BYTES_MAX: u16 = 1_232;

/// What a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It has this address.
    Address(Ipv4Addr),
    /// It exists without an address.
    Nothing,
    /// It does not exist.
    Unknown,
}

/// Answers one message. `None` sends nothing: what is no question gets no answer.
pub fn answer(question: &[u8], over_udp: bool, meaning: impl Fn(&str) -> Meaning) -> Option<Vec<u8>> {
    let Ok(request) = Message::from_vec(question) else {
        // A header alone is enough to say FORMERR; a response must never be answered.
        let id = u16::from_be_bytes([*question.first()?, *question.get(1)?]);
        let is_response = question.get(2)? & 0x80 != 0;
        let error = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
        return if is_response || question.len() < 12 { None } else { error.to_vec().ok() };
    };
    if request.metadata.message_type == MessageType::Response {
        return None;
    }
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = match request.queries.as_slice() {
        _ if request.metadata.op_code != OpCode::Query => ResponseCode::NotImp,
        [query] if query.query_class() == DNSClass::IN => {
            reply.add_query(query.clone());
            let name = query.name().to_ascii();
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            match meaning(&name) {
                Meaning::Address(address) => {
                    if matches!(query.query_type(), RecordType::A | RecordType::ANY) {
                        let data = RData::A(A(address));
                        reply.add_answer(Record::from_rdata(query.name().clone(), TTL_SECONDS, data));
                    }
                    ResponseCode::NoError
                }
                Meaning::Nothing => ResponseCode::NoError,
                Meaning::Unknown => ResponseCode::NXDomain,
            }
        }
        [_] => ResponseCode::Refused,
        _ => ResponseCode::FormErr,
    };
    let limit = if request.edns.is_some() {
        reply.set_edns({
            let mut edns = hickory_proto::op::Edns::new();
            edns.set_max_payload(UDP_BYTES_MAX);
            edns
        });
        request.max_payload().clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX)
    } else {
        UDP_BYTES_PLAIN
    };
    let bytes = reply.to_vec().ok()?;
    if over_udp && bytes.len() > usize::from(limit) { reply.truncate().to_vec().ok() } else { Some(bytes) }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::op::Query;
    use hickory_proto::rr::Name;
    use proptest::prelude::*;

    use super::*;

    fn world(name: &str) -> Meaning {
        match name {
            "management.azure.com" => Meaning::Address(Ipv4Addr::new(20, 1, 0, 10)),
            "empty.azure.com" => Meaning::Nothing,
            _ => Meaning::Unknown,
        }
    }

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        Message::from_vec(&answer(&message.to_vec().unwrap(), true, world).unwrap()).unwrap()
    }

    #[test]
    fn emulated_names_have_one_address_and_no_ipv6() {
        let reply = ask("Management.Azure.com.", RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert_eq!(reply.answers.len(), 1);
        assert_eq!(reply.answers[0].data, RData::A(A(Ipv4Addr::new(20, 1, 0, 10))));
        assert_eq!(reply.answers[0].ttl, TTL_SECONDS);
        let v6 = ask("management.azure.com.", RecordType::AAAA);
        assert_eq!((v6.metadata.response_code, v6.answers.len()), (ResponseCode::NoError, 0));
        assert_eq!(ask("empty.azure.com.", RecordType::A).metadata.response_code, ResponseCode::NoError);
    }

    #[test]
    fn other_names_do_not_exist() {
        for name in ["example.com.", "pypi.org.", "."] {
            assert_eq!(ask(name, RecordType::A).metadata.response_code, ResponseCode::NXDomain, "{name}");
        }
    }

    #[test]
    fn what_is_no_query_is_refused_or_ignored() {
        let mut response = Message::query();
        response.metadata.message_type = MessageType::Response;
        assert_eq!(answer(&response.to_vec().unwrap(), true, world), None);
        let empty = answer(&Message::query().to_vec().unwrap(), true, world).unwrap();
        assert_eq!(Message::from_vec(&empty).unwrap().metadata.response_code, ResponseCode::FormErr);
        assert_eq!(answer(b"abc", true, world), None);
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = answer(&bytes, true, world);
        }

        #[test]
        fn no_damaged_query_makes_it_panic(at in 0..40_usize, with in any::<u8>(), cut in 0..40_usize) {
            let mut message = Message::query();
            message.add_query(Query::query(Name::from_str("management.azure.com.").unwrap(), RecordType::A));
            let mut bytes = message.to_vec().unwrap();
            let at = at % bytes.len();
            bytes[at] ^= with;
            bytes.truncate(bytes.len().saturating_sub(cut).max(1));
            let _ = answer(&bytes, true, world);
        }
    }
}
