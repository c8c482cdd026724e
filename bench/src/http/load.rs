//! The load generator: so many connections, each with one request on its way at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request};
use tokio::task::JoinSet;

use super::Target;
use super::client::{ARM, connect, send};

/// A request to be made.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    method: Method,
    path: String,
    body: Bytes,
}

impl Ask {
    pub(crate) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: Bytes::new() }
    }
    pub(crate) fn put(path: String, body: &serde_json::Value) -> Self {
        Self { method: Method::PUT, path, body: Bytes::from(body.to_string()) }
    }
}

/// Makes the request of a connection and its turn.
pub(crate) type Asker = Arc<dyn Fn(usize, usize) -> Ask + Send + Sync>;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) seconds: f64,
    /// Milliseconds each.
    pub(crate) latencies: Vec<f64>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authorization: String,
}

impl Connection {
    async fn open(target: &Target) -> Result<Self> {
        let sender = connect(target.port, &target.trust, ARM).await?;
        Ok(Self { sender, authorization: format!("Bearer {}", target.token) })
    }

    async fn send(&mut self, ask: Ask) -> Result<Bytes> {
        let request = Request::builder()
            .method(ask.method)
            .uri(ask.path)
            .header("Host", ARM)
            .header("Authorization", &self.authorization)
            .header("Content-Type", "application/json")
            .body(Full::new(ask.body))?;
        send(&mut self.sender, request).await
    }
}

/// One request on a connection of its own.
pub(crate) async fn once(target: &Target, ask: &Ask) -> Result<Bytes> {
    Connection::open(target).await?.send(ask.clone()).await
}

/// So many requests on each connection.
pub(crate) async fn exactly(target: &Target, connections: usize, each: usize, ask: Asker) -> Result<()> {
    let mut tasks = JoinSet::new();
    for number in 0..connections {
        let mut connection = Connection::open(target).await?;
        let asks: Vec<Ask> = (0..each).map(|at| ask(number, at)).collect();
        tasks.spawn(async move {
            for ask in asks {
                connection.send(ask).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// As many requests as fit into `time`. Connections are opened before, and each has had an answer.
pub(crate) async fn run(target: &Target, connections: usize, time: Duration, ask: Asker) -> Result<Outcome> {
    let mut open = Vec::new();
    for number in 0..connections {
        let mut connection = Connection::open(target).await?;
        connection.send(ask(number, 0)).await?;
        open.push(connection);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for (number, mut connection) in open.into_iter().enumerate() {
        let ask = ask.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < time {
                let ask = ask(number, 1 + latencies.len());
                let sent = Instant::now();
                connection.send(ask).await?;
                latencies.push(sent.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done??);
    }
    Ok(Outcome { seconds: started.elapsed().as_secs_f64(), latencies })
}
