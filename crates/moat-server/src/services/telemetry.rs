//! Application Insights ingestion, as az's background process uses it: taken and thrown away.

use serde_json::json;

use crate::http::reply::Reply;
use crate::http::request::Call;

pub(super) fn answer(call: &Call) -> Reply {
    // The SDK sends one JSON item a line, or one array.
    let items = call.text().map_or(0, |text| text.lines().filter(|line| !line.trim().is_empty()).count().max(1));
    Reply::json(200, &json!({"itemsReceived": items, "itemsAccepted": items, "errors": []}))
}
