//! Events that azureml-core posts about a run: started, completed, failed, canceled, error, warning, heartbeat.

use moat_arm::{ApiError, Batch, Stored, document};
use moat_model::types::microsoft_machinelearningservices::runs::{Kind, Run, Status};
use serde_json::Value;

use super::runs::{self, TEXT_CHARS_MAX, WARNINGS_MAX};
use super::{Right, View};

const PREFIX: &str = "Microsoft.MachineLearning.Run.";

/// Applies one event.
pub fn apply(view: &View<'_>, run: &Stored, event: &Value) -> Result<Batch, ApiError> {
    view.require(Right::WriteRuns)?;
    let name = document::str_at(event, "name").unwrap_or_default();
    let data = document::at(event, "data").cloned().unwrap_or_default();
    let kind = name.strip_prefix(PREFIX).ok_or_else(|| unknown(name))?;
    let mut body = run.body.clone();
    let mut state = Run::of(&body);
    let tracked = state.kind == Kind::Tracked;
    match kind {
        // A job in its sandbox knows nothing that its node does not tell.
        "Heartbeat" | "Queued" | "QueueingInfo" => return Ok(Batch::default()),
        "Canceled" | "CancelRequested" => return runs::cancel(view, run).map(|(_, batch)| batch),
        "Start" | "Completed" | "Failed" => {
            if !tracked {
                return Ok(Batch::default());
            }
            let status = match kind {
                "Start" => Status::Running,
                "Completed" => Status::Completed,
                _ => Status::Failed,
            };
            runs::move_to(&mut body, &mut state, status, view.ctx.now);
        }
        "Error" => {
            if let Some(error) = document::at(&data, "ErrorResponse.error") {
                runs::set_error(&mut state, error);
            }
        }
        "Warning" => {
            let message = document::str_at(&data, "Message").unwrap_or_default();
            if state.warnings.len() < WARNINGS_MAX {
                state.warnings.push(message.chars().take(TEXT_CHARS_MAX).collect());
            }
        }
        _ => return Err(unknown(name)),
    }
    state.put(&mut body);
    Ok(runs::written(view, Right::WriteRuns, run.id.clone(), body))
}

fn unknown(name: &str) -> ApiError {
    ApiError::bad_request("UserError", format!("The run event '{}' is not known here.", name.escape_debug()))
        .with_target("name")
}
