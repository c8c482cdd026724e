//! The management protocol: how the Batch service and a node talk, whichever of them opens the connection.
//!
//! Classic communication is four lines of JSON on one TCP connection to the node. The service speaks first with a
//! nonce; the node answers with its own nonce and a code over both; the service proves itself the same way and asks,
//! perhaps with an order; the node answers. Simplified communication is a `POST` of the node's own
//! ([`WorkAsk`], [`WorkAnswer`]), which the service may hold for a while.
//!
//! Codes are HMAC-SHA256 with the node's key over the very text they vouch for, bound to what the text is, to the
//! node, the port and the nonces, so that none can be replayed at another port, by the other side, to another node or
//! in another conversation. Both sides use the functions here, so that they cannot differ.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::work::{Order, RunReport, Ticket};

/// Longest line or body either side accepts. A report of a run with all its warnings fits ([`crate::work`]).
pub const LINE_BYTES_MAX: u64 = 64 * 1024;
/// How long the service may hold a node's question for work (simplified communication).
pub const WORK_HOLD_MAX: Duration = Duration::from_secs(10);
/// What a run's token request says its proof is (RFC 7521, `client_assertion_type`).
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:moat-node";

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
    /// Code of the service; covers `order`.
    pub code: String,
    /// What it wants; only `status` so far.
    pub ask: String,
    /// JSON of an [`Order`]; the code covers this very text.
    #[serde(default)]
    pub order: Option<String>,
}

/// Fourth line, from the node.
#[derive(Debug, Serialize, Deserialize)]
pub struct Said {
    /// JSON of a [`Status`].
    pub status: String,
    /// Code of the node over it.
    pub code: String,
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

/// What a node says about itself.
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

/// The code of these parts. The first names what is vouched for, so that no code serves twice.
fn seal(key: &[u8], parts: &serde_json::Value) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    STANDARD.encode(hmac::sign(&key, parts.to_string().as_bytes()).as_ref())
}

/// The code of `role` for this connection.
pub fn code(key: &[u8], role: Role, node_id: &str, port: u16, service_nonce: &str, node_nonce: &str) -> String {
    let role = match role {
        Role::Service => "service",
        Role::Node => "node",
    };
    seal(key, &json!([role, node_id, port, service_nonce, node_nonce]))
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

/// The two nonces and the place of one connection: what every later code on it is bound to.
struct Talk<'a> {
    key: &'a [u8],
    node_id: &'a str,
    port: u16,
    service_nonce: String,
    node_nonce: String,
}

impl Talk<'_> {
    fn proof(&self) -> String {
        code(self.key, Role::Node, self.node_id, self.port, &self.service_nonce, &self.node_nonce)
    }

    fn asked(&self, ask: &str, order: Option<&str>) -> String {
        self.seal("ask", &json!([ask, order]))
    }

    fn said(&self, status: &str) -> String {
        self.seal("said", &json!(status))
    }

    fn seal(&self, what: &str, text: &serde_json::Value) -> String {
        seal(self.key, &json!([what, self.node_id, self.port, self.service_nonce, self.node_nonce, text]))
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// The node's side of a connection to `port`: once the peer has proved itself, `take` gets its order and says how the
/// node is. A peer without the key neither orders nor learns anything.
pub fn answer(
    stream: impl Read + Write,
    key: &[u8],
    node_id: &str,
    port: u16,
    take: impl FnOnce(Option<Order>) -> Status,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let hello: Hello = receive(&mut stream)?;
    let talk = Talk { key, node_id, port, service_nonce: hello.nonce, node_nonce: nonce()? };
    send(stream.get_mut(), &Proof { code: talk.proof(), nonce: talk.node_nonce.clone() })?;
    let ask: Ask = receive(&mut stream)?;
    if !same(&ask.code, &talk.asked(&ask.ask, ask.order.as_deref())) {
        return Err(refused("the peer does not hold this node's key"));
    }
    if ask.ask != "status" {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "unknown request"));
    }
    let order = ask.order.as_deref().map(serde_json::from_str).transpose()?;
    let status = serde_json::to_string(&take(order))?;
    send(stream.get_mut(), &Said { code: talk.said(&status), status })
}

/// The service's side of a connection to `port` of a node: asks for its status.
pub fn ask(stream: impl Read + Write, key: &[u8], node_id: &str, port: u16) -> io::Result<Status> {
    ask_with_order(stream, key, node_id, port, None)
}

/// [`ask`], with an order. The status is how the node is after it took the order.
pub fn ask_with_order(
    stream: impl Read + Write,
    key: &[u8],
    node_id: &str,
    port: u16,
    order: Option<&Order>,
) -> io::Result<Status> {
    let mut stream = BufReader::new(stream);
    let hello = Hello { nonce: nonce()? };
    send(stream.get_mut(), &hello)?;
    let proof: Proof = receive(&mut stream)?;
    let talk = Talk { key, node_id, port, service_nonce: hello.nonce, node_nonce: proof.nonce };
    if !same(&proof.code, &talk.proof()) {
        return Err(refused("what answered does not hold this node's key"));
    }
    let order = order.map(serde_json::to_string).transpose()?;
    let code = talk.asked("status", order.as_deref());
    send(stream.get_mut(), &Ask { code, ask: "status".to_owned(), order })?;
    let said: Said = receive(&mut stream)?;
    if !same(&said.code, &talk.said(&said.status)) {
        return Err(refused("the status was not made by this node"));
    }
    Ok(serde_json::from_str(&said.status)?)
}

/// Body of `POST /nodes/{node}/work` (simplified communication): the node's status, and a question for an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkAsk {
    /// JSON of a [`Status`].
    pub status: String,
    /// Fresh random text; the answer is bound to it.
    pub nonce: String,
    /// Code of the node over both.
    pub code: String,
}

impl WorkAsk {
    /// The node's side.
    pub fn new(key: &[u8], status: &Status) -> io::Result<Self> {
        let (text, nonce) = (serde_json::to_string(status)?, nonce()?);
        let code = Self::code(key, &status.node_id, &nonce, &text);
        Ok(Self { status: text, nonce, code })
    }

    /// The service's side: the status, if `node_id` and nobody else can have made it.
    pub fn open(&self, key: &[u8], node_id: &str) -> io::Result<Status> {
        if !same(&self.code, &Self::code(key, node_id, &self.nonce, &self.status)) {
            return Err(refused("the question was not made by this node"));
        }
        let status: Status = serde_json::from_str(&self.status)?;
        if status.node_id != node_id {
            return Err(refused("the question speaks of another node"));
        }
        Ok(status)
    }

    fn code(key: &[u8], node_id: &str, nonce: &str, status: &str) -> String {
        seal(key, &json!(["work", node_id, nonce, status]))
    }
}

/// The service's answer to a [`WorkAsk`], at once or after at most [`WORK_HOLD_MAX`]: an order, or nothing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkAnswer {
    /// JSON of an [`Order`].
    #[serde(default)]
    pub order: Option<String>,
    /// Code of the service over it and the nonce of the question.
    pub code: String,
}

impl WorkAnswer {
    /// The service's side.
    pub fn new(key: &[u8], node_id: &str, asked: &WorkAsk, order: Option<&Order>) -> io::Result<Self> {
        let order = order.map(serde_json::to_string).transpose()?;
        let code = Self::code(key, node_id, &asked.nonce, order.as_deref());
        Ok(Self { order, code })
    }

    /// The node's side: what to do, if the holder of the key says so in answer to `asked`.
    pub fn open(&self, key: &[u8], node_id: &str, asked: &WorkAsk) -> io::Result<Option<Order>> {
        if !same(&self.code, &Self::code(key, node_id, &asked.nonce, self.order.as_deref())) {
            return Err(refused("the answer was not made by the service"));
        }
        Ok(self.order.as_deref().map(serde_json::from_str).transpose()?)
    }

    fn code(key: &[u8], node_id: &str, nonce: &str, order: Option<&str>) -> String {
        seal(key, &json!(["order", node_id, nonce, order]))
    }
}

/// A node's proof that it has a run: the `client_assertion` of its token request. It is base64url of this JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAssertion {
    /// Name of the node.
    pub node: String,
    /// The run.
    pub ticket: Ticket,
    /// Fresh random text.
    pub nonce: String,
    /// Code of the node over [`Ticket::purpose`] and the nonce.
    pub code: String,
}

impl RunAssertion {
    /// The node's side.
    pub fn new(key: &[u8], node_id: &str, ticket: &Ticket) -> io::Result<Self> {
        let nonce = nonce()?;
        let code = Self::code(key, node_id, &ticket.purpose(), &nonce);
        Ok(Self { node: node_id.to_owned(), ticket: ticket.clone(), nonce, code })
    }

    /// As the form field has it.
    pub fn encode(&self) -> io::Result<String> {
        Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(self)?))
    }

    /// From the form field; proves nothing yet.
    pub fn decode(text: &str) -> io::Result<Self> {
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, "the assertion is not base64url");
        Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).map_err(invalid)?)?)
    }

    /// The service's side: whether the holder of `key` made this. Whether that node *has* the run is another question.
    pub fn proves(&self, key: &[u8]) -> bool {
        same(&self.code, &Self::code(key, &self.node, &self.ticket.purpose(), &self.nonce))
    }

    fn code(key: &[u8], node_id: &str, purpose: &str, nonce: &str) -> String {
        seal(key, &json!(["token", node_id, purpose, nonce]))
    }
}

impl fmt::Debug for RunAssertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunAssertion").field("node", &self.node).field("ticket", &self.ticket).finish_non_exhaustive()
    }
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

    fn ticket(run: &str) -> Ticket {
        Ticket {
            run: run.to_owned(),
            workspace: "/subscriptions/s/resourceGroups/g/providers/X/workspaces/w".to_owned(),
            attempt: 1,
            tenant: "t".to_owned(),
            region: "westus2".to_owned(),
        }
    }

    fn talk(
        node_key: &'static [u8],
        service_key: &[u8],
        ask_port: u16,
        order: Option<&Order>,
    ) -> (io::Result<()>, io::Result<Status>, Option<Order>) {
        let (a, b) = UnixStream::pair().unwrap();
        let node = std::thread::spawn(move || {
            let mut taken = None;
            let answered = answer(a, node_key, "n", 29876, |order| {
                taken = order;
                status()
            });
            (answered, taken)
        });
        let got = ask_with_order(b, service_key, "n", ask_port, order);
        let (answered, taken) = node.join().unwrap();
        (answered, got, taken)
    }

    #[test]
    fn both_sides_with_the_key_understand_each_other() {
        let order = Order::Start(ticket("r"));
        let (node, service, taken) = talk(b"key", b"key", 29876, Some(&order));
        node.unwrap();
        assert_eq!(service.unwrap(), status());
        assert_eq!(taken, Some(order));
        assert_eq!(talk(b"key", b"key", 29876, None).2, None);
    }

    #[test]
    fn a_peer_without_the_key_learns_nothing_and_orders_nothing() {
        let (node, service, taken) = talk(b"key", b"other", 29876, Some(&Order::Start(ticket("r"))));
        assert!(node.is_err());
        assert_eq!(service.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(taken, None);
    }

    #[test]
    fn a_code_for_another_port_is_refused() {
        let (node, service, _) = talk(b"key", b"key", 44224, None);
        assert!(node.is_err() && service.is_err());
    }

    /// Carries lines between a service and a node that both hold the key, changing what the service asks.
    fn through_a_meddler(change: impl Fn(Ask) -> Ask + Send + 'static) -> (io::Result<()>, Option<Order>) {
        let (to_node, node_end) = UnixStream::pair().unwrap();
        let (to_service, service_end) = UnixStream::pair().unwrap();
        let meddler = std::thread::spawn(move || {
            let (mut node, mut service) = (BufReader::new(to_node), BufReader::new(to_service));
            send(node.get_mut(), &receive::<Hello>(&mut service).unwrap()).unwrap();
            send(service.get_mut(), &receive::<Proof>(&mut node).unwrap()).unwrap();
            send(node.get_mut(), &change(receive(&mut service).unwrap())).unwrap();
        });
        let service = std::thread::spawn(move || {
            let _ = ask_with_order(service_end, b"key", "n", 29876, Some(&Order::Start(ticket("honest"))));
        });
        let mut taken = None;
        let answered = answer(node_end, b"key", "n", 29876, |order| {
            taken = order;
            status()
        });
        meddler.join().unwrap();
        service.join().unwrap();
        (answered, taken)
    }

    #[test]
    fn an_order_that_was_changed_on_the_way_is_refused() {
        let same = through_a_meddler(|ask| ask);
        assert_eq!(same.1, Some(Order::Start(ticket("honest"))));
        let other = serde_json::to_string(&Order::Start(ticket("evil"))).unwrap();
        for order in [Some(other), None, Some(String::new())] {
            let (answered, taken) = through_a_meddler(move |ask| Ask { order: order.clone(), ..ask });
            assert_eq!(answered.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(taken, None);
        }
    }

    #[test]
    fn a_question_for_work_is_answered_by_who_has_the_key() {
        let order = Order::Forget(ticket("r"));
        let asked = WorkAsk::new(b"key", &status()).unwrap();
        assert_eq!(asked.open(b"key", "n").unwrap(), status());
        assert!(asked.open(b"other", "n").is_err() && asked.open(b"key", "m").is_err());
        let lie = WorkAsk { status: asked.status.replace("why", "not"), ..asked.clone() };
        assert!(lie.open(b"key", "n").is_err());

        let answer = WorkAnswer::new(b"key", "n", &asked, Some(&order)).unwrap();
        assert_eq!(answer.open(b"key", "n", &asked).unwrap(), Some(order));
        let nothing = WorkAnswer::new(b"key", "n", &asked, None).unwrap();
        assert_eq!(nothing.open(b"key", "n", &asked).unwrap(), None);
        // Neither an answer of before, nor another order under the same code.
        let again = WorkAsk::new(b"key", &status()).unwrap();
        assert!(answer.open(b"key", "n", &again).is_err());
        let changed = WorkAnswer { order: answer.order.map(|o| o.replace("\"r\"", "\"s\"")), code: answer.code };
        assert!(changed.open(b"key", "n", &asked).is_err());
        assert!(WorkAnswer { order: changed.order, code: nothing.code }.open(b"key", "n", &asked).is_err());
    }

    #[test]
    fn a_proof_is_for_one_run_and_attempt() {
        let proof = RunAssertion::new(b"key", "n", &ticket("r")).unwrap();
        let read = RunAssertion::decode(&proof.encode().unwrap()).unwrap();
        assert_eq!(read, proof);
        assert!(read.proves(b"key") && !read.proves(b"other"));
        let next = RunAssertion { ticket: Ticket { attempt: 2, ..ticket("r") }, ..read.clone() };
        let other = RunAssertion { ticket: ticket("s"), ..read.clone() };
        let neighbour = RunAssertion { node: "m".to_owned(), ..read };
        assert!(!next.proves(b"key") && !other.proves(b"key") && !neighbour.proves(b"key"));
        assert!(RunAssertion::decode("***").is_err() && RunAssertion::decode("e30").is_err());
        assert!(!format!("{proof:?}").contains(&proof.code));
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut input = BufReader::new(io::repeat(b'x'));
        assert!(receive::<Hello>(&mut input).is_err());
    }
}
