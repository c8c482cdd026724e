//! The Machine Learning service as a node meets it (AzureMachineLearning): what to run, and how it goes.

use hyper::{Method, StatusCode};

use super::blob::encode;
use super::http::{Ask, Client, Trouble};
use super::identity::Identity;
use super::stop::Stop;
use crate::spec::{Progress, RunSpec};
use crate::work::{Order, RunReport, Ticket};

const LABEL: &str = "AzureMachineLearning";
const SPEC_BYTES_MAX: usize = 8 * 1024 * 1024;
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The endpoint of one run.
#[derive(Clone)]
pub(crate) struct Learning {
    client: Client,
    identity: Identity,
    host: String,
    base: String,
}

impl Learning {
    pub(crate) fn new(client: Client, identity: Identity, ticket: &Ticket) -> Self {
        let workspace: Vec<String> = ticket.workspace.split('/').map(encode).collect();
        let base =
            format!("/node/v1.0{}/runs/{}/attempts/{}", workspace.join("/"), encode(&ticket.run), ticket.attempt);
        Self { client, identity, host: format!("{}.api.azureml.ms", ticket.region), base }
    }

    /// What to run.
    pub(crate) async fn specification(&self, token: &str) -> Result<RunSpec, Stop> {
        let doing = "getting the specification of the run";
        let ask = Ask::new(LABEL, Method::GET, &self.host, &self.base).bearer(token);
        let answer = self.client.expect(&ask).await.map_err(|t| Stop::service(doing, t))?;
        answer.json(SPEC_BYTES_MAX).await.map_err(|t| Stop::service(doing, t))
    }

    /// Tells how it goes; the answer may be an order.
    pub(crate) async fn progress(&self, report: &RunReport) -> Result<Option<Order>, Trouble> {
        let token = self.identity.token().await?;
        let body = serde_json::to_vec(report).map_err(|e| Trouble::garbled(&self.host, e))?;
        let ask = Ask::new(LABEL, Method::POST, &self.host, format!("{}/events", self.base))
            .bearer(&token)
            .body("application/json", body);
        let answer = self.client.expect(&ask).await?;
        if answer.status == StatusCode::NO_CONTENT {
            return answer.done().await.map(|()| None);
        }
        let progress: Progress = answer.json(ANSWER_BYTES_MAX).await?;
        Ok(progress.order)
    }
}
