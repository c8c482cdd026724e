//! Batch node management as compute nodes see it in simplified communication: a node connects out
//! and reports. The report carries a code made with the node's own key; who holds the keys judges
//! it (see `Hooks::set_on_node_report`).

use moat_arm::ApiError;
use moat_control::Method;
use serde_json::Value;

use super::reply::Reply;
use super::request::Call;
use crate::hooks::NodeReport;
use crate::server::Server;

pub(crate) fn answer(server: &Server, call: &Call) -> Reply {
    let segments: Vec<&str> = call.path.split('/').filter(|s| !s.is_empty()).collect();
    let (Method::Post, ["nodes", node, "status"]) = (call.method, segments.as_slice()) else {
        return Reply::error(ApiError::new(404, "NotFound", "This environment emulates node reports only."));
    };
    let body: Option<Value> = call.text().and_then(|text| serde_json::from_str(text).ok());
    let member = |name: &str| body.as_ref()?.get(name)?.as_str().map(str::to_owned);
    let (Some(status), Some(code)) = (member("status"), member("code")) else {
        return Reply::error(ApiError::bad_request("InvalidRequestContent", "A report has a `status` and a `code`."));
    };
    let report = NodeReport { node: (*node).to_owned(), status, code, source: call.peer.ip() };
    if server.hooks.node_report(&report) {
        Reply::empty(204)
    } else {
        Reply::error(ApiError::new(403, "NodeReportRefused", "The report was not made by this node."))
    }
}
