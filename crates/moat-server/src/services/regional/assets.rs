//! `/data/v1.0` and `/modelregistry/v1.0`: where named outputs of runs lie, which `jobs.download` asks before it fetches
//! them. All else about assets goes through Azure Resource Manager.

use moat_arm::document;
use moat_control::Method;
use moat_control::history::{Right, outputs};
use serde_json::{Map, Value, json};

use super::ask::{Ask, Fail};
use crate::http::reply::Reply;

/// `member` is what clients of this service call the address: `uri` of data, `path` of models.
pub(super) async fn answer(ask: &Ask<'_>, rest: &[&str], member: &str) -> Result<Reply, Fail> {
    let (Method::Post, [_, "batchGetResolvedUris"]) = (ask.call.method, rest) else {
        return Err(Fail::Api(super::not_served(ask.call)));
    };
    let body = ask.body()?;
    let found = ask.read(Right::ReadRuns, |view| {
        let ids = document::array_at(&body, "values").iter().filter_map(Value::as_str);
        let found = ids.filter_map(|id| Some((id.to_owned(), outputs::find(view, id)?)));
        Ok(found.map(|(id, output)| (id, json!({(member): output.uri, "type": output.kind}))).collect::<Map<_, _>>())
    })?;
    Ok(Reply::json(200, &json!({ "values": found })))
}
