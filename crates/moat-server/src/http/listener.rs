//! Connections: accept, TLS, limits, and the checks that come before any service sees a call.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use moat_arm::ApiError;
use moat_control::Origin;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::reply::{HttpBody, Reply};
use super::request::{Arriving, Call};
use crate::random;
use crate::server::Server;
use crate::services::{self, Handler, table};
use crate::{imds, listeners::OriginInfo};

/// Connections open at a time, on each listener.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Request line and headers together.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Number of headers.
pub const HEADERS_MAX: usize = 100;
/// Time for the TLS handshake.
pub const HANDSHAKE_SECONDS_MAX: Duration = Duration::from_secs(10);
/// Time for a request's headers to arrive; also how long an idle connection is kept.
pub const HEADER_READ_SECONDS_MAX: Duration = Duration::from_secs(60);
/// After a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a listener speaks.
#[derive(Debug, Clone)]
pub(crate) enum Front {
    /// TLS with any emulated name.
    Https(OriginInfo),
    /// Plain, only to say that TLS is wanted.
    Http,
    /// Instance metadata of one VNet, plain.
    Imds {
        /// VNet document id.
        vnet: String,
    },
}

/// Accepts until the task is dropped.
pub(crate) async fn run(server: Arc<Server>, listener: TcpListener, front: Front) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (server, front) = (server.clone(), front.clone());
        tokio::spawn(async move {
            connection(&server, stream, peer, front).await;
            drop(place);
        });
    }
}

async fn connection(server: &Arc<Server>, stream: TcpStream, peer: SocketAddr, front: Front) {
    let _ = stream.set_nodelay(true);
    match front {
        Front::Https(_) => {
            let Ok(local) = stream.local_addr() else { return };
            let mut first = [0];
            match tokio::time::timeout(HANDSHAKE_SECONDS_MAX, stream.peek(&mut first)).await {
                Ok(Ok(1)) if first[0] == TLS_HANDSHAKE => {}
                Ok(Ok(1)) => return refuse_plain(stream).await,
                _ => return,
            }
            let handshake = server.tls.clone().accept(stream);
            // Handshakes of clients that do not trust our CA are no news to anyone else.
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_SECONDS_MAX, handshake).await {
                let sni = stream.get_ref().1.server_name().map(str::to_ascii_lowercase);
                http(server, stream, Connection { front, peer, local, sni }).await;
            }
        }
        Front::Http | Front::Imds { .. } => {
            let Ok(local) = stream.local_addr() else { return };
            http(server, stream, Connection { front, peer, local, sni: None }).await;
        }
    }
}

/// Says in plain HTTP what is wrong, to whoever forgot the `s`.
async fn refuse_plain(mut stream: TcpStream) {
    const TEXT: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 27\r\nConnection: close\r\n\r\nthis port speaks HTTPS only";
    let tell = async {
        stream.write_all(TEXT).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would reset the connection and lose the text.
        let mut unread = [0; 4096];
        let mut left = HEADER_BYTES_MAX;
        loop {
            match stream.read(&mut unread).await? {
                0 => return Ok::<_, std::io::Error>(()),
                n if n >= left => return Ok(()),
                n => left -= n,
            }
        }
    };
    let _ = tokio::time::timeout(HANDSHAKE_SECONDS_MAX, tell).await;
}

struct Connection {
    front: Front,
    peer: SocketAddr,
    local: SocketAddr,
    sni: Option<String>,
}

async fn http(server: &Arc<Server>, stream: impl AsyncRead + AsyncWrite + Unpin, connection: Connection) {
    let connection = &connection;
    let serve = service_fn(move |request: hyper::Request<Incoming>| async move {
        Ok::<_, Infallible>(request_answer(server, connection, request).await)
    });
    let ended = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_SECONDS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), serve)
        .await;
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
    }
}

async fn request_answer(
    server: &Arc<Server>,
    connection: &Connection,
    request: hyper::Request<Incoming>,
) -> hyper::Response<HttpBody> {
    let (parts, body) = request.into_parts();
    let client_id = parts.headers.get("x-ms-client-request-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let method = parts.method.clone();
    let id = random::uuid().to_string();
    let reply = match admit(connection, &parts) {
        Err(refusal) => refusal,
        Ok((host, handler)) => {
            let path = parts.uri.path().to_owned();
            let arriving =
                Arriving { parts, body, host: host.clone(), origin: origin(connection), peer: connection.peer };
            let reply = match &connection.front {
                // Blobs are longer than anything else and are not read whole.
                Front::Https(_) if handler == Handler::Blob => services::blob::answer(server, arriving).await,
                front => match Call::read(arriving).await {
                    Err(error) => {
                        // The rest of the body may still come; what follows it could not be told apart.
                        Reply::error(error).with("Connection", "close")
                    }
                    Ok(call) => match (front, handler) {
                        (Front::Imds { vnet }, _) => imds::answer(server, vnet, &call).await,
                        (_, handler) => services::answer(server, handler, call).await,
                    },
                },
            };
            // Neither query nor headers: both can carry secrets.
            tracing::debug!(%method, host, path, status = reply.status, request = id, "answered");
            reply
        }
    };
    let mut reply = reply.with("x-ms-request-id", id.as_str()).with_default("x-ms-correlation-request-id", &id);
    if let Some(client_id) = client_id {
        reply = reply.with("x-ms-client-request-id", client_id);
    }
    reply.into_response()
}

fn origin(connection: &Connection) -> Origin {
    match &connection.front {
        Front::Https(OriginInfo::Vnet { vnet }) | Front::Imds { vnet } => {
            Origin::Nic { vnet: vnet.clone(), address: connection.peer.ip().to_string() }
        }
        _ => Origin::Public,
    }
}

/// Host and Origin rules. The host name decides who answers.
fn admit(connection: &Connection, parts: &http::request::Parts) -> Result<(String, Handler), Reply> {
    let refuse = |status, code, text: String| Err(Reply::error(ApiError::new(status, code, text)));
    // Whoever looks at the other one would see another request (RFC 9112 3.2).
    if parts.headers.get_all(http::header::HOST).iter().count() > 1 {
        return refuse(400, "InvalidHostName", "A request names one host.".to_owned());
    }
    // An absolute-form target overrides Host (RFC 9112 3.2.2).
    let authority = match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => parts.headers.get(http::header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default(),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    match &connection.front {
        Front::Imds { .. } => return Ok((host, Handler::Absent)),
        Front::Http => {
            return refuse(403, "HttpsRequired", "Plain HTTP is not served here; use HTTPS.".to_owned());
        }
        Front::Https(_) => {}
    }
    let own_port = connection.local.port().to_string();
    let handler = if matches!(host.as_str(), "127.0.0.1" | table::LOCALHOST)
        && matches!(&connection.front, Front::Https(OriginInfo::Loopback))
        && port == Some(own_port.as_str())
    {
        Handler::Arm
    } else if let Some(service) = table::find(&host)
        && port.is_none_or(|port| port == "443" || port == own_port)
    {
        if connection.sni.as_ref().is_some_and(|sni| *sni != host) {
            return refuse(421, "MisdirectedRequest", format!("This connection was not opened for `{host}`."));
        }
        service.handler
    } else {
        return refuse(404, "InvalidHostName", format!("`{host}` is not served here."));
    };
    // A web page elsewhere must not be able to use a browser on this machine (DNS rebinding, CSRF).
    if let Some(origin) = parts.headers.get(http::header::ORIGIN) {
        let same = |name: &str| origin.as_bytes() == format!("https://{name}").as_bytes();
        if !same(authority) && !same(&host) {
            return refuse(403, "OriginNotAllowed", "Requests from web pages of other origins are refused.".to_owned());
        }
    }
    Ok((host, handler))
}
