//! A client of a Moat server: HTTPS on its loopback port, by the names of Azure's services, trusting
//! the environment's own CA only.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, rustls};

/// A server that takes longer than this for one answer is stuck.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// An open connection.
pub(crate) type Sender = SendRequest<Full<Bytes>>;

/// Where a server is.
#[derive(Clone)]
pub(crate) struct Https {
    port: u16,
    tls: TlsConnector,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as JSON; `Null` for none.
    pub(crate) fn json(&self) -> Result<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).context("reading JSON")
    }
}

impl Https {
    /// `ca` is the certificate of the environment's CA, as PEM.
    pub(crate) fn new(port: u16, ca: &[u8]) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca).context("reading the CA")?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { port, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// A connection to the service `host`.
    pub(crate) async fn open(&self, host: &str) -> Result<Sender> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::try_from(host.to_owned())?, stream).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; whoever sends next sees why.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// One request on an open connection.
pub(crate) async fn send(sender: &mut Sender, request: Request<Full<Bytes>>) -> Result<Answer> {
    let exchange = async {
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        anyhow::Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    };
    tokio::time::timeout(ANSWER_MAX, exchange).await.context("no answer in time")?
}
