//! `onErrorDeployment`: the deployment of the same scope that runs again when this one fails.

use moat_arm::syntax::{Node, Span};
use moat_arm::{ApiError, Batch, ResourceId, document};
use serde_json::{Map, Value, json};

use super::{Asked, Run, target_scope};
use crate::catalogue::DEPLOYMENTS;
use crate::world::World;

const MEMBER: &str = "properties.onErrorDeployment";

/// Which deployment runs again.
pub(super) struct OnError {
    kind: &'static str,
    deployment: ResourceId,
}

impl OnError {
    /// What the `properties` of the deployment `id` ask for.
    pub(super) fn read(w: &World<'_>, id: &ResourceId, properties: &Node) -> Result<Option<Self>, ApiError> {
        let Some(asked) = properties.get("onErrorDeployment") else { return Ok(None) };
        // AZURE: wording not observed.
        let refuse = |why: String| Err(ApiError::bad_request("InvalidOnErrorDeployment", why).with_target(MEMBER));
        let kind = asked.get("type").and_then(Node::as_str).unwrap_or_default();
        let name = asked.get("deploymentName").and_then(Node::as_str);
        let mut ended = w.snapshot.of_type(DEPLOYMENTS).filter(|d| {
            let state = document::str_at(&d.body, "properties.provisioningState");
            d.id != *id && d.id.parent() == id.parent() && state == Some("Succeeded")
        });
        let (kind, found) = match (kind.to_ascii_lowercase().as_str(), name) {
            ("lastsuccessful", None) => ("LastSuccessful", ended.max_by_key(|d| d.seq)),
            ("specificdeployment", Some(name)) => {
                ("SpecificDeployment", ended.find(|d| d.id.name().eq_ignore_ascii_case(name)))
            }
            _ => {
                return refuse(
                    "'onErrorDeployment' needs the type 'LastSuccessful', or 'SpecificDeployment' with a 'deploymentName'."
                        .to_owned(),
                );
            }
        };
        match found {
            Some(found) => Ok(Some(Self { kind, deployment: found.id.clone() })),
            None => refuse(format!(
                "There is no deployment '{}' that succeeded and could run again on an error.",
                name.unwrap_or(kind)
            )),
        }
    }

    /// As the deployment's document shows it.
    pub(super) fn shown(&self) -> Value {
        json!({ "type": self.kind, "deploymentName": self.deployment.name() })
    }

    /// Runs it, and writes into the document of the deployment `failed` how that ended.
    pub(super) fn run(&self, run: &mut Run<'_>, failed: &ResourceId) {
        let failure = run.failure.take();
        let kept = run.world.get(&self.deployment).map(|d| d.body.clone()).unwrap_or_default();
        let node = |value: &Value| Node::from_json(value, Span::default());
        // Secrets are not kept: a template that needs one fails again, and says so.
        let parameters: Map<String, Value> = document::at(&kept, "properties.parameters")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(name, shown)| Some((name.clone(), json!({ "value": shown.get("value")? }))))
            .collect();
        let asked = Asked {
            template: document::at(&kept, "moat.template").map(node).unwrap_or_else(|| node(&json!({}))),
            parameters: node(&Value::Object(parameters)),
            mode: "Incremental".to_owned(),
            link: None,
            on_error: None,
        };
        let outcome = run.deployment(&self.deployment, &asked, &target_scope(&self.deployment), 0);
        let succeeded = outcome.is_ok() && run.failure.is_none();
        run.failure = failure;
        if let Some(mut body) = run.world.get(failed).map(|d| d.body.clone()) {
            let state = if succeeded { "Succeeded" } else { "Failed" };
            document::set(&mut body, &format!("{MEMBER}.provisioningState"), json!(state));
            let mut batch = Batch::default();
            batch.put(failed.clone(), body);
            run.take(batch);
        }
    }
}
