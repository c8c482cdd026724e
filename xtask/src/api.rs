//! A client of the real API: HTTPS on the loopback port, with the environment's CA and a token.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use serde_json::Value;

use crate::https::{self, Https, Sender};

const ARM: &str = "management.azure.com";
const LOGIN: &str = "login.microsoftonline.com";
const API_VERSION: &str = "2023-11-01";

/// Where the server is and who asks.
#[derive(Clone)]
pub(crate) struct Api {
    https: Https,
    variables: Arc<BTreeMap<String, String>>,
}

/// One connection, with a token.
pub(crate) struct Connection {
    sender: Sender,
    token: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Api {
    /// `place` is the control socket's answer to `place`: credentials and CA.
    pub(crate) fn new(port: u16, place: Value) -> Result<Self> {
        let pem = place["caPem"].as_str().context("the place has no CA")?;
        let variables = serde_json::from_value(place["env"].clone()).context("the place has no variables")?;
        Ok(Self { https: Https::new(port, pem.as_bytes())?, variables: Arc::new(variables) })
    }

    fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    /// Tenant id.
    pub(crate) fn tenant(&self) -> &str {
        self.variable("AZURE_TENANT_ID")
    }

    /// `/subscriptions/ID`.
    pub(crate) fn subscription(&self) -> String {
        format!("/subscriptions/{}", self.variable("AZURE_SUBSCRIPTION_ID"))
    }

    /// A token for the environment's own principal.
    async fn token(&self, resource: &str) -> Result<String> {
        let mut login = self.https.open(LOGIN).await.context("connecting")?;
        let form = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}&scope={}%2F.default",
            self.variable("AZURE_CLIENT_ID"),
            self.variable("AZURE_CLIENT_SECRET"),
            resource.replace(':', "%3A").replace('/', "%2F"),
        );
        let request = Request::post(format!("/{}/oauth2/v2.0/token", self.variable("AZURE_TENANT_ID")))
            .header("host", LOGIN)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(form))?;
        let answer = https::send(&mut login, request).await.context("asking for a token")?;
        let (status, body) = (answer.status, answer.json()?);
        match body["access_token"].as_str() {
            Some(token) => Ok(format!("Bearer {token}")),
            None => bail!("no token was issued: {status} {body}"),
        }
    }

    /// Reads one blob: status and bytes.
    pub(crate) async fn blob(&self, account: &str, path: &str) -> Result<(u16, Bytes)> {
        let host = format!("{account}.blob.core.windows.net");
        let request = Request::get(format!("/{path}"))
            .header("host", &host)
            .header("x-ms-version", "2021-08-06")
            .header("authorization", self.token("https://storage.azure.com").await?)
            .body(Full::default())?;
        let answer = https::send(&mut self.https.open(&host).await?, request).await?;
        Ok((answer.status, answer.body))
    }

    /// A connection to Resource Manager, with a fresh token.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        Ok(Connection { token: self.token("https://management.azure.com").await?, sender: self.https.open(ARM).await? })
    }

    /// Reads one document on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        self.connect().await?.send("GET", path, None).await
    }
}

impl Connection {
    /// One request.
    pub(crate) async fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let request = Request::builder()
            .method(method)
            .uri(if path.contains('?') { path.to_owned() } else { format!("{path}?api-version={API_VERSION}") })
            .header("host", ARM)
            .header("authorization", &self.token)
            .header("content-type", "application/json")
            .body(Full::from(body.map(Value::to_string).unwrap_or_default()))?;
        let answer = https::send(&mut self.sender, request).await?;
        Ok(Answer { status: answer.status, body: answer.json()? })
    }
}
