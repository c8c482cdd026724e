//! Polls of long-running operations. A client repeats one until something is done, so how often it
//! was sent tells how fast a server was, not what it said: only the last poll of an operation is
//! an exchange.

use super::recording::{Answer, Exchange, Recording, split_url};

/// The path by which an operation is known: without query, in lower case.
pub(crate) fn key(target: &str) -> String {
    target.split('?').next().unwrap_or_default().to_lowercase()
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

/// Leaves of polls that follow each other only the last.
pub(crate) fn collapse(mut recording: Recording) -> Recording {
    let poll = |e: &Exchange| (e.request.method == "GET").then(|| key(e.request.path())).filter(|p| is_operation(p));
    let polls: Vec<_> = recording.exchanges.iter().map(poll).collect();
    let mut next = polls.iter().skip(1).chain([&None]);
    let mut this = polls.iter();
    let before = recording.exchanges.len();
    recording.exchanges.retain(|_| {
        let (this, next) = (this.next(), next.next());
        this.is_none_or(|poll| poll.is_none() || next != Some(poll))
    });
    recording.repeated_polls = before - recording.exchanges.len();
    recording
}
