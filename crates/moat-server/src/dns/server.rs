//! The sockets of DNS: one question, one answer; TCP with length prefixes (RFC 1035 4.2.2).

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::Meaning;
use crate::listeners::DnsView;
use crate::server::Server;

/// Largest question read; a real one is under 300 bytes.
const QUESTION_BYTES_MAX: usize = 4_096;
/// TCP connections at a time, on each listener.
const TCP_CONNECTIONS_MAX: usize = 64;
/// Time for one question over TCP.
const TCP_READ_SECONDS_MAX: Duration = Duration::from_secs(10);
/// After a failed accept, so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(50);

fn answer(server: &Server, view: &DnsView, question: &[u8], over_udp: bool) -> Option<Vec<u8>> {
    super::answer(question, over_udp, |name| server.meaning(name, view))
}

pub(crate) async fn udp(server: Arc<Server>, socket: UdpSocket, view: DnsView) {
    let mut question = vec![0; QUESTION_BYTES_MAX];
    loop {
        match socket.recv_from(&mut question).await {
            Ok((length, peer)) => {
                if let Some(reply) = answer(&server, &view, &question[..length], true) {
                    // A client that is gone is its own affair.
                    let _ = socket.send_to(&reply, peer).await;
                }
            }
            Err(error) => {
                // Linux reports earlier undeliverable answers here.
                tracing::debug!(error = &error as &dyn std::error::Error, "receiving a DNS question failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

pub(crate) async fn tcp(server: Arc<Server>, listener: TcpListener, view: DnsView) {
    let places = Arc::new(Semaphore::new(TCP_CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (server, view) = (server.clone(), view.clone());
        tokio::spawn(async move {
            let _ = questions(&server, &view, stream).await;
            drop(place);
        });
    }
}

async fn questions(server: &Server, view: &DnsView, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let one = async {
            let length = usize::from(stream.read_u16().await?);
            let mut question = vec![0; length.min(QUESTION_BYTES_MAX)];
            stream.read_exact(&mut question).await?;
            Ok::<_, std::io::Error>(question)
        };
        let question = tokio::time::timeout(TCP_READ_SECONDS_MAX, one).await??;
        let Some(reply) = answer(server, view, &question, false) else { return Ok(()) };
        let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
        stream.write_u16(length).await?;
        stream.write_all(&reply).await?;
    }
}

impl Server {
    /// What `name` means to who asks through `view`. The views differ once private zones exist.
    pub(crate) fn meaning(&self, name: &str, _view: &DnsView) -> Meaning {
        match self.address_of(name) {
            Some(address) => Meaning::Address(address),
            None if crate::services::table::find(name).is_some() || crate::services::table::is_domain(name) => {
                Meaning::Nothing
            }
            None => Meaning::Unknown,
        }
    }
}
