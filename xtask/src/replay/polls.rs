//! Polls of long-running operations. A client repeats one until something is done, so how often it
//! was sent tells how fast a server was, not what it said: only the last poll of an operation is
//! an exchange.

use super::recording::{Answer, Exchange, Recording, split_url};

/// The path by which an operation is known, in lower case. Of the query only `type` counts: by it some services tell
/// the state of an operation from its result.
pub(crate) fn key(target: &str) -> String {
    let target = target.to_lowercase();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let kind = query.split('&').find(|p| p.starts_with("type="));
    kind.map_or_else(|| path.to_owned(), |kind| format!("{path}?{kind}"))
}

/// Whether a path is one of an operation, not of a resource.
pub(crate) fn is_operation(path: &str) -> bool {
    let path = key(path);
    let mut from_end = path.rsplit('/').skip(1);
    let Some(collection) = from_end.next().filter(|c| c.contains("operation")) else { return false };
    // `deployments/{name}/operations/{id}` is a step of a deployment, and nobody polls it.
    collection != "operations" || from_end.nth(1) != Some("deployments")
}

/// The operations whose URLs an answer tells, by header.
pub(crate) fn announced(answer: &Answer) -> impl Iterator<Item = (&'static str, String)> {
    ["azure-asyncoperation", "location"].into_iter().filter_map(|header| {
        let (_, target) = split_url(answer.headers.get(header)?)?;
        is_operation(&target).then(|| (header, key(&target)))
    })
}

/// Leaves of polls that follow each other only the last of each operation: clients may poll several in turn.
pub(crate) fn collapse(mut recording: Recording) -> Recording {
    let poll = |e: &Exchange| (e.request.method == "GET").then(|| key(e.request.path())).filter(|p| is_operation(p));
    let polls: Vec<_> = recording.exchanges.iter().map(poll).collect();
    let again = |at: usize| {
        let run = polls.iter().skip(at + 1).take_while(|p| p.is_some());
        polls.get(at).is_some_and(|this| this.is_some() && run.into_iter().any(|later| later == this))
    };
    let before = recording.exchanges.len();
    let mut at = 0..before;
    recording.exchanges.retain(|_| at.next().is_none_or(|at| !again(at)));
    recording.repeated_polls = before - recording.exchanges.len();
    recording
}
