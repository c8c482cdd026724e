//! A server in a thread and a small HTTP client: what every test below is written with.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use moat_model::Edition;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::services::table::{Addresses, TagPart};
use crate::{NoHost, Parts, Ready, ServeConfig, serve_with};

/// A server that ends when dropped.
pub(crate) struct Harness {
    pub(crate) ready: Ready,
    pub(crate) dir: Arc<tempfile::TempDir>,
    thread: Option<JoinHandle<()>>,
}

fn addresses(_: Edition) -> Addresses {
    Addresses::new([TagPart {
        name: "AzureResourceManager",
        region: "",
        prefixes: vec!["20.1.0.0/24".parse().unwrap()],
    }])
}

impl Harness {
    pub(crate) fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()))
    }

    pub(crate) fn start_in(dir: Arc<tempfile::TempDir>) -> Self {
        let socket = dir.path().join("control.sock");
        let _ = std::fs::remove_file(&socket);
        let config = ServeConfig {
            env_name: "test".to_owned(),
            edition: Edition::Seed2021,
            state_dir: dir.path().join("state"),
            listen: TcpListener::bind("127.0.0.1:0").unwrap(),
            control: UnixListener::bind(&socket).unwrap(),
            package_index: None,
        };
        let parts = Parts { clock: Clock::system(), decide: moat_control::decide::decide, find_addresses: addresses };
        let (tell, hear) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            serve_with(config, Arc::new(NoHost), &parts, |ready| tell.send(ready).unwrap()).unwrap();
        });
        let ready = hear.recv_timeout(Duration::from_secs(30)).unwrap();
        Self { ready, dir, thread: Some(thread) }
    }

    pub(crate) fn connect(&self, name: &str) -> Connection {
        Connection::open(&self.ready, name).unwrap()
    }

    /// One request on a fresh connection.
    pub(crate) fn call(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let (host, path) = url.split_once('/').unwrap();
        self.connect(host).call(method, host, &format!("/{path}"), headers, body)
    }

    /// One ARM request with the environment's own token.
    pub(crate) fn arm(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let token = format!("Bearer {}", self.token("https://management.azure.com"));
        let body = body.map(Value::to_string).unwrap_or_default();
        self.call(method, &format!("management.azure.com{path}"), &[("Authorization", &token)], &body)
    }

    /// A token from the token endpoint.
    pub(crate) fn token(&self, resource: &str) -> String {
        let answer = self.ask_token(&[("scope", &format!("{resource}/.default"))]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// A client-credentials request; `changes` override fields of a correct one.
    pub(crate) fn ask_token(&self, changes: &[(&str, &str)]) -> Response {
        let environment = &self.ready.environment;
        let mut form = std::collections::BTreeMap::from([
            ("client_id", environment.client_id.as_str()),
            ("client_secret", environment.client_secret.reveal()),
            ("grant_type", "client_credentials"),
            ("scope", "https://management.azure.com/.default"),
        ]);
        form.extend(changes.iter().copied());
        let body = form.iter().map(|(k, v)| format!("{k}={}", v.replace(':', "%3A").replace('/', "%2F")));
        let body = body.collect::<Vec<_>>().join("&");
        let url = format!("login.microsoftonline.com/{}/oauth2/v2.0/token", environment.tenant);
        self.call("POST", &url, &[("Content-Type", "application/x-www-form-urlencoded")], &body)
    }

    /// A token with claims of the test's choice, signed by the real key.
    pub(crate) fn minted(&self, change: impl FnOnce(&mut crate::token::jwt::Claims)) -> String {
        let server = &self.ready.server;
        let principal = self.ready.environment.principal();
        let mut claims = server.authority.claims(&principal, "https://management.azure.com", Timestamp::now());
        change(&mut claims);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(server.authority.key()).unwrap().sign(&claims).unwrap()
    }

    /// One request on the control socket: every line of the answer.
    pub(crate) fn control(&self, line: &str) -> Vec<Value> {
        let mut stream = UnixStream::connect(self.dir.path().join("control.sock")).unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.ready.server.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// A TLS connection that is kept alive.
pub(crate) struct Connection(rustls::StreamOwned<rustls::ClientConnection, TcpStream>);

impl Connection {
    pub(crate) fn open(ready: &Ready, name: &str) -> std::io::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        let pem = std::fs::read(&ready.ca_file).unwrap();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(ready.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut stream = rustls::StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self(stream))
    }

    pub(crate) fn call(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        self.try_call(method, host, path, headers, body).unwrap()
    }

    /// [`Connection::call`], where the server may cut the connection.
    pub(crate) fn try_call(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        // A server that refuses early may close while we still send.
        let _ = self.0.write_all(format!("{head}\r\n{body}").as_bytes()).and_then(|()| self.0.flush());
        self.read(method == "HEAD")
    }

    /// Announces a longer body than `part` and sends that, as far as the server takes it within a moment.
    pub(crate) fn send_in_part(&mut self, method: &str, host: &str, path: &str, part: &str) {
        let length = part.len() + 1;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
        self.0.sock.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        // The server may leave the rest unread: that is the point.
        let _ = self.0.write_all(head.as_bytes());
        for chunk in part.as_bytes().chunks(16 * 1024) {
            if self.0.write_all(chunk).and_then(|()| self.0.flush()).is_err() {
                return;
            }
        }
    }

    fn read(&mut self, only_head: bool) -> std::io::Result<Response> {
        let mut bytes = Vec::new();
        let mut one = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut one)?;
            bytes.push(one[0]);
        }
        let head = String::from_utf8(bytes).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = head
            .lines()
            .skip(1)
            .filter_map(|l| l.split_once(": ").map(|(n, v)| (n.to_lowercase(), v.to_owned())))
            .collect();
        let length = headers.iter().find(|(n, _)| n == "content-length").map_or(0, |(_, v)| v.parse().unwrap());
        let mut body = vec![0; if only_head { 0 } else { length }];
        self.0.read_exact(&mut body)?;
        Ok(Response { status, headers, body })
    }
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| json!(self.text()))
    }
    /// Status and code of an error in ARM's envelope.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    }
}
