//! Batch node management as compute nodes see it in simplified communication: a node connects out, reports, and
//! asks for work. What it says carries a code made with the node's own key; the desk that holds the keys judges it.

use moat_agent::handshake::{WORK_HOLD_MAX, WorkAsk};
use moat_arm::ApiError;
use moat_control::Method;
use serde_json::{Value, json};

use super::reply::Reply;
use super::request::Call;
use crate::server::Server;

pub(crate) async fn answer(server: &Server, call: &Call) -> Reply {
    let segments: Vec<&str> = call.path.split('/').filter(|s| !s.is_empty()).collect();
    match (call.method, segments.as_slice()) {
        (Method::Post, ["nodes", node, "status"]) => status(server, call, node),
        (Method::Post, ["nodes", node, "work"]) => work(server, call, node).await,
        _ => Reply::error(ApiError::new(404, "NotFound", "This environment emulates the nodes' side of Batch only.")),
    }
}

fn refused() -> Reply {
    Reply::error(ApiError::new(403, "NodeReportRefused", "The report was not made by this node."))
}

fn status(server: &Server, call: &Call, node: &str) -> Reply {
    let body: Option<Value> = call.text().and_then(|text| serde_json::from_str(text).ok());
    let member = |name: &str| body.as_ref()?.get(name)?.as_str().map(str::to_owned);
    let (Some(status), Some(code)) = (member("status"), member("code")) else {
        return Reply::error(ApiError::bad_request("InvalidRequestContent", "A report has a `status` and a `code`."));
    };
    if server.desk.report(node, &status, &code) { Reply::empty(204) } else { refused() }
}

/// Held until there is an order for the node, at most [`WORK_HOLD_MAX`].
async fn work(server: &Server, call: &Call, node: &str) -> Reply {
    let Some(ask) = call.text().and_then(|text| serde_json::from_str::<WorkAsk>(text).ok()) else {
        return Reply::error(ApiError::bad_request(
            "InvalidRequestContent",
            "A question for work has a `status`, a `nonce` and a `code`.",
        ));
    };
    let mut documents = server.store.watch();
    documents.mark_unchanged();
    let Some(agent) = server.desk.asked(node, &ask) else { return refused() };
    let deadline = tokio::time::sleep(WORK_HOLD_MAX);
    tokio::pin!(deadline);
    loop {
        // An order follows from documents and from what the node just said; only documents change meanwhile.
        let answer = match server.desk.answer(&agent, &ask) {
            Ok((answer, has_order)) => (answer, has_order || deadline.is_elapsed()),
            Err(error) => return server.internal_error("answering a node", &error),
        };
        if let (answer, true) = answer {
            return Reply::json(200, &json!(answer));
        }
        tokio::select! {
            () = &mut deadline => {}
            changed = documents.changed() => if changed.is_err() {
                return Reply::error(ApiError::new(404, "NotFound", "The environment is ending."));
            },
        }
    }
}
