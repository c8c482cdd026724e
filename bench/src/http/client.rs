//! A client: TLS with the certificate checked, one HTTP/1.1 connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::environment::Access;

/// The name that requests are for.
pub(crate) const ARM: &str = "management.azure.com";
const LOGIN: &str = "login.microsoftonline.com";
/// How long a server may take to come up.
const START_TIME_MAX: Duration = Duration::from_secs(60);
const CONNECT_PAUSE: Duration = Duration::from_micros(500);

/// Whom to believe.
#[derive(Clone)]
pub(crate) struct Trust(TlsConnector);

impl Trust {
    /// Certificates in PEM.
    pub(crate) fn new(pem: &str) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            // A system's bundle may hold some that are of no use; ours is.
            let _ = roots.add(certificate.context("reading the certificates to trust")?);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

/// Opens a connection to loopback.
pub(crate) async fn connect(port: u16, trust: &Trust, name: &'static str) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let stream = trust.0.connect(ServerName::try_from(name)?, stream).await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends; the whole body of an answer that is a success.
pub(crate) async fn send(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Result<Bytes> {
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    anyhow::ensure!(status.is_success(), "the server answered {status}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}

/// A token for Resource Manager, by client credentials.
pub(crate) async fn token(port: u16, trust: &Trust, access: &Access) -> Result<String> {
    token_for("management.azure.com", port, trust, access).await
}

/// A token for the service of that name, by client credentials.
pub(crate) async fn token_for(audience: &str, port: u16, trust: &Trust, access: &Access) -> Result<String> {
    let mut sender = connect(port, trust, LOGIN).await?;
    let form = format!(
        "grant_type=client_credentials&client_id={}&client_secret={}&scope=https%3A%2F%2F{audience}%2F.default",
        access.client_id, access.client_secret
    );
    let request = Request::post(format!("/{}/oauth2/v2.0/token", access.tenant))
        .header("Host", LOGIN)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(form)))?;
    let answer: serde_json::Value = serde_json::from_slice(&send(&mut sender, request).await?)?;
    Ok(answer["access_token"].as_str().context("there is no token in the answer")?.to_owned())
}

/// GETs the subscription as soon as anyone answers.
pub(crate) async fn get_once(port: u16, trust: &Trust, token: &str, subscription: &str) -> Result<()> {
    let started = Instant::now();
    loop {
        let request = Request::get(format!("/subscriptions/{subscription}?api-version=2022-12-01"))
            .header("Host", ARM)
            .header("Authorization", format!("Bearer {token}"))
            .body(Full::default())?;
        let tried = async {
            let mut sender = connect(port, trust, ARM).await?;
            sender.ready().await?;
            anyhow::Ok(sender.send_request(request).await?.status())
        };
        match tried.await {
            Ok(StatusCode::OK) => return Ok(()),
            Ok(status) => anyhow::bail!("the first answer is {status}"),
            Err(error) if started.elapsed() > START_TIME_MAX => return Err(error),
            Err(_) => tokio::time::sleep(CONNECT_PAUSE).await,
        }
    }
}
