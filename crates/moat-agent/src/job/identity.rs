//! The run's token (AzureActiveDirectory): the node proves with its own key that it has the run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::blob::encode;
use super::http::{Ask, Client, Trouble};
use crate::handshake::{ASSERTION_TYPE, RunAssertion};
use crate::work::Ticket;

const HOST: &str = "login.microsoftonline.com";
const SCOPE: &str = "https://ml.azure.com/.default";
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// A token is not used when it ends sooner than this.
const LEFT_MIN: Duration = Duration::from_secs(300);

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

/// The token of one run, renewed before it ends.
#[derive(Clone)]
pub(crate) struct Identity {
    client: Client,
    node_id: Arc<str>,
    key: Arc<[u8]>,
    ticket: Ticket,
    held: Arc<Mutex<Option<(String, Instant)>>>,
}

impl Identity {
    pub(crate) fn new(client: Client, node_id: &str, key: Arc<[u8]>, ticket: Ticket) -> Self {
        Self { client, node_id: node_id.into(), key, ticket, held: Arc::default() }
    }

    /// A token that is good for a while.
    pub(crate) async fn token(&self) -> Result<String, Trouble> {
        let mut held = self.held.lock().await;
        if let Some((token, until)) = &*held
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let granted = match self.ask().await {
            // A proof counts once: if the answer to it was lost, the try after that was refused.
            Err(trouble) if trouble.status() == Some(StatusCode::UNAUTHORIZED) => self.ask().await?,
            other => other?,
        };
        // A token that lives shorter than the margin is used for half its life.
        let life = Duration::from_secs(granted.expires_in.min(24 * 3600));
        let until = Instant::now() + life.saturating_sub(LEFT_MIN).max(life / 2);
        *held = Some((granted.access_token.clone(), until));
        Ok(granted.access_token)
    }

    async fn ask(&self) -> Result<Granted, Trouble> {
        let garbled = |e: std::io::Error| Trouble::garbled(HOST, e);
        let proof = RunAssertion::new(&self.key, &self.node_id, &self.ticket).map_err(garbled)?;
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &*self.node_id),
            ("scope", SCOPE),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", &proof.encode().map_err(garbled)?),
        ]
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .join("&");
        let target = format!("/{}/oauth2/v2.0/token", encode(&self.ticket.tenant));
        let ask = Ask::new("AzureActiveDirectory", Method::POST, HOST, target)
            .body("application/x-www-form-urlencoded", form);
        self.client.expect(&ask).await?.json(ANSWER_BYTES_MAX).await
    }
}
