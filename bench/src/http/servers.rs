//! The servers that are compared: the hidden subcommands and the processes that run them.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use moat_model::Edition;
use moat_server::{NoHost, ServeConfig};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;

use super::Target;
use super::client::{ARM, Trust, token};
use crate::environment::Access;

/// As many as the server has.
const WORKERS: usize = 2;

/// The first line of a server.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    port: u16,
    access: Access,
}

/// A server in a process of its own; killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    hello: Hello,
}

impl Child {
    pub(crate) fn without_network(directory: &Path) -> Result<Self> {
        Self::start(Command::new(std::env::current_exe()?).arg("serve").arg(directory))
    }

    pub(crate) fn constant(bytes: usize) -> Result<Self> {
        Self::start(Command::new(std::env::current_exe()?).args(["constant", &bytes.to_string()]))
    }

    fn start(command: &mut Command) -> Result<Self> {
        let mut process = command.stdout(Stdio::piped()).spawn().context("starting a server")?;
        let out = process.stdout.take().context("a server without output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let hello = serde_json::from_str(&line).context("reading what a server says first");
        match hello {
            Ok(hello) => Ok(Self { process, hello }),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    pub(crate) async fn target(&self, name: &'static str) -> Result<Target> {
        let access = &self.hello.access;
        let trust = Trust::new(&access.ca)?;
        let token = match access.tenant.is_empty() {
            true => "x".repeat(1_000),
            false => token(self.hello.port, &trust, access).await?,
        };
        Ok(Target {
            name,
            port: self.hello.port,
            trust,
            token,
            subscription: access.subscription.clone(),
            root: i32::try_from(self.process.id())?,
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn say(hello: &Hello) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(hello)?)?;
    Ok(out.flush()?)
}

/// Moat's server as it is, with nothing below it. Runs until it is killed.
pub(crate) fn without_network(directory: &Path) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let listen = TcpListener::bind(("127.0.0.1", 0))?;
    let control = UnixListener::bind(directory.join("control.sock"))?;
    let config = ServeConfig {
        env_name: "bench".to_owned(),
        edition: Edition::Seed2021,
        state_dir: directory.to_owned(),
        listen,
        control,
        package_index: None,
    };
    moat_server::serve(config, Arc::new(NoHost), |ready| {
        let environment = ready.environment;
        let access = Access {
            tenant: environment.tenant,
            client_id: environment.client_id,
            client_secret: environment.client_secret.reveal().to_owned(),
            subscription: environment.subscription,
            ca: ready.server.certificates.pem().to_owned(),
        };
        // Who cannot be told is not there; the parent's death ends us.
        let _ = say(&Hello { port: ready.address.port(), access });
    })?;
    Ok(())
}

/// The least an HTTPS server can do: read the request, answer `bytes` bytes.
pub(crate) fn constant(bytes: usize) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let made = rcgen::generate_simple_self_signed(vec![ARM.to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let tls = TlsAcceptor::from(Arc::new(config));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let access = Access {
            tenant: String::new(),
            client_id: String::new(),
            client_secret: String::new(),
            subscription: "00000000-0000-0000-0000-000000000000".to_owned(),
            ca: made.cert.pem(),
        };
        say(&Hello { port: listener.local_addr()?.port(), access })?;
        let body = Bytes::from(vec![b'x'; bytes]);
        loop {
            let (stream, _) = listener.accept().await?;
            let (tls, body) = (tls.clone(), body.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(move |request: Request<Incoming>| {
                    let body = body.clone();
                    async move {
                        // The request is read whole, as Moat does.
                        let _ = request.into_body().collect().await;
                        Ok::<_, Infallible>(Response::new(Full::new(body)))
                    }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}
