//! `/artifact/v2.0`, and the artifacts of a run below `/history`: where a run's files can be read and written. The
//! files themselves are blobs below `ExperimentRun/dcid.{run}` and nowhere else; a client moves them by itself, over
//! its own connections to the storage account.

use std::collections::{BTreeMap, BTreeSet};

use moat_arm::{ApiError, document};
use moat_control::Method;
use moat_control::history::{Right, time};
use moat_model::types::microsoft_machinelearningservices::runs::{ARTIFACT_CONTAINER, artifact_prefix};
use moat_model::types::microsoft_machinelearningservices::snapshots::is_safe_path;
use serde_json::{Map, Value, json};

use super::ask::{Ask, Fail};
use super::blobs::{self, Found};
use crate::http::reply::Reply;

/// The only origin there is: artifacts of runs.
const ORIGIN: &str = "ExperimentRun";
/// What a container's name begins with; the run follows.
const CONTAINER: &str = "dcid.";
/// Artifacts made by one call; azureml-core sends 50 at a time.
const BATCH_MAX: usize = 1_000;
/// Folders whose files are logs.
const LOG_FOLDERS: [&str; 5] = ["user_logs/", "system_logs/", "azureml-logs/", "logs/azureml/", "job_logs/"];

type Answer = Result<Reply, Fail>;

pub(super) async fn answer(ask: &Ask<'_>, rest: &[&str]) -> Answer {
    let ["artifacts", tail @ ..] = rest else { return Err(not_served(ask)) };
    // azureml-core names the verb first and the path in the path; newer clients the other way round.
    let (verb, origin, container, path) = match tail {
        ["prefix", "contentinfo", origin, container, path @ ..] => ("prefix", *origin, *container, path),
        ["batch", "metadata", origin, container] => ("batch", *origin, *container, &[][..]),
        [verb @ ("contentinfo" | "metadata" | "write" | "content"), origin, container, path @ ..]
            if *origin == ORIGIN =>
        {
            (*verb, *origin, *container, path)
        }
        [origin, container, "prefix", "contentinfo"] => ("prefix", *origin, *container, &[][..]),
        [origin, container, "batch", "metadata"] => ("batch", *origin, *container, &[][..]),
        [origin, container, verb @ ("contentinfo" | "metadata" | "write")] => (*verb, *origin, *container, &[][..]),
        ["register" | "metadata"] => return register(ask).await,
        [origin, container, path @ ..] if *origin == ORIGIN => ("list", *origin, *container, path),
        _ => return Err(not_served(ask)),
    };
    let run = match container.strip_prefix(CONTAINER) {
        Some(run) if origin == ORIGIN => run,
        _ => {
            return Err(Fail::Api(ApiError::new(
                404,
                "ArtifactContainerNotFound",
                format!(
                    "Artifacts of `{}/{}` are not kept here; those of runs are, at `{ORIGIN}/{CONTAINER}` and the run's id.",
                    origin.escape_debug(),
                    container.escape_debug()
                ),
            )));
        }
    };
    verbs(ask, run, verb, &path.join("/")).await
}

/// The artifacts of a run as the run history has them: the verb is behind the run.
pub(super) async fn of_run(ask: &Ask<'_>, run: &str, tail: &[&str]) -> Answer {
    let (verb, path) = match tail {
        [] => ("list", &[][..]),
        ["path", path @ ..] => ("list", path),
        ["prefix", "contentinfo", path @ ..] => ("prefix", path),
        ["batch", "metadata"] => ("batch", &[][..]),
        ["contentinfo" | "artifacturi", path @ ..] => ("contentinfo", path),
        ["metadata", path @ ..] => ("metadata", path),
        _ => return Err(not_served(ask)),
    };
    verbs(ask, run, verb, &path.join("/")).await
}

async fn verbs(ask: &Ask<'_>, run: &str, verb: &str, path: &str) -> Answer {
    let path = if path.is_empty() { ask.query("path").unwrap_or_default() } else { path }.to_owned();
    let right = if matches!(verb, "batch" | "write") { Right::WriteRuns } else { Right::ReadRuns };
    let run = ask.run(right, run)?.id.name().to_owned();
    match (verb, ask.call.method) {
        ("list", Method::Get) => list(ask, &run, &path).await,
        ("prefix", Method::Get) => prefix(ask, &run, &path).await,
        ("contentinfo", Method::Get) => one(ask, &run, &path, true).await,
        ("metadata", Method::Get) => one(ask, &run, &path, false).await,
        ("write", Method::Get) => {
            let url = url(ask, &run, safe(&path)?, "rcw")?;
            Ok(Reply::json(200, &json!(url)))
        }
        ("batch", Method::Post) => create(ask, &run).await,
        _ => Err(not_served(ask)),
    }
}

fn not_served(ask: &Ask<'_>) -> Fail {
    Fail::Api(super::not_served(ask.call))
}

/// A path below a run, or why it is none.
fn safe(path: &str) -> Result<&str, ApiError> {
    let path = path.trim_start_matches('/');
    if is_safe_path(path) {
        return Ok(path);
    }
    Err(ApiError::bad_request(
        "InvalidArtifactPath",
        format!("`{}` is no path of an artifact: use names joined by single slashes.", path.escape_debug()),
    )
    .with_target("path"))
}

/// Every file of a run below `path`, with its path below the run.
async fn files(ask: &Ask<'_>, run: &str, path: &str) -> Result<Vec<Found>, Fail> {
    let root = format!("{}/", artifact_prefix(run));
    let found = blobs::list(ask, Right::ReadRuns, ARTIFACT_CONTAINER, &format!("{root}{path}")).await?;
    let below = |mut blob: Found| {
        blob.name = blob.name.strip_prefix(&root)?.to_owned();
        Some(blob)
    };
    Ok(found.into_iter().filter_map(below).collect())
}

fn url(ask: &Ask<'_>, run: &str, path: &str, permissions: &str) -> Result<String, Fail> {
    let right = if permissions == "r" { Right::ReadRuns } else { Right::WriteRuns };
    blobs::url(ask, right, ARTIFACT_CONTAINER, &format!("{}/{path}", artifact_prefix(run)), permissions)
}

/// Logs of a run, with addresses at which they can be read.
pub(super) async fn log_files(ask: &Ask<'_>, run: &str) -> Result<BTreeMap<String, String>, Fail> {
    let mut logs = BTreeMap::new();
    for blob in files(ask, run, "").await? {
        if LOG_FOLDERS.iter().any(|folder| blob.name.starts_with(folder)) {
            logs.insert(blob.name.clone(), url(ask, run, &blob.name, "r")?);
        }
    }
    Ok(logs)
}

/// What lies directly in a folder of a run, in MLflow's words.
pub(super) async fn folder(ask: &Ask<'_>, run: &str, path: &str) -> Result<Vec<Value>, Fail> {
    let start = if path.is_empty() { String::new() } else { format!("{path}/") };
    let (mut shown, mut folders) = (Vec::new(), BTreeSet::new());
    for blob in files(ask, run, &start).await? {
        let Some(rest) = blob.name.strip_prefix(&start) else { continue };
        match rest.split_once('/') {
            Some((folder, _)) => {
                if folders.insert(folder.to_owned()) {
                    shown.push(json!({"path": format!("{start}{folder}"), "is_dir": true}));
                }
            }
            None => shown.push(json!({"path": blob.name, "is_dir": false, "file_size": blob.size})),
        }
    }
    Ok(shown)
}

fn artifact(run: &str, path: &str, found: Option<&Found>) -> Value {
    let container = format!("{CONTAINER}{run}");
    json!({
        "artifactId": format!("{ORIGIN}/{container}/{path}"),
        "origin": ORIGIN,
        "container": container,
        "path": path,
        "etag": found.map(|f| f.etag.clone()),
        "createdTime": found.map(|f| time(f.modified)),
        "dataPath": null,
        "tags": {},
    })
}

fn content_info(run: &str, path: &str, url: &str) -> Value {
    json!({"contentUri": url, "origin": ORIGIN, "container": format!("{CONTAINER}{run}"), "path": path, "tags": {}})
}

async fn list(ask: &Ask<'_>, run: &str, path: &str) -> Answer {
    let shown = files(ask, run, path.trim_start_matches('/')).await?;
    Ok(Reply::json(200, &super::list(shown.iter().map(|f| artifact(run, &f.name, Some(f))).collect())))
}

/// Addresses of everything below a prefix: how azureml-core follows logs.
async fn prefix(ask: &Ask<'_>, run: &str, path: &str) -> Answer {
    let mut shown = Vec::new();
    for file in files(ask, run, path.trim_start_matches('/')).await? {
        shown.push(content_info(run, &file.name, &url(ask, run, &file.name, "r")?));
    }
    super::history::see_log(ask, run).await?;
    Ok(Reply::json(200, &super::list(shown)))
}

async fn one(ask: &Ask<'_>, run: &str, path: &str, with_url: bool) -> Answer {
    let path = safe(path)?;
    let name = format!("{}/{path}", artifact_prefix(run));
    let found = blobs::find(ask, Right::ReadRuns, ARTIFACT_CONTAINER, &name).await?.ok_or_else(|| {
        ApiError::new(404, "ArtifactNotFound", format!("Run '{run}' has no artifact `{}`.", path.escape_debug()))
    })?;
    let body =
        if with_url { content_info(run, path, &url(ask, run, path, "r")?) } else { artifact(run, path, Some(&found)) };
    Ok(Reply::json(200, &body))
}

/// Places for new files: the client uploads to the addresses. A file is there once it was uploaded.
async fn create(ask: &Ask<'_>, run: &str) -> Answer {
    let body = ask.body()?;
    let paths = document::array_at(&body, "paths");
    if paths.len() > BATCH_MAX {
        return Err(Fail::Api(ApiError::bad_request("BadArgument", format!("A batch has at most {BATCH_MAX} paths."))));
    }
    let (mut artifacts, mut infos, mut errors) = (Map::new(), Map::new(), Map::new());
    for path in paths.iter().filter_map(|p| document::str_at(p, "path").or(p.as_str())) {
        match safe(path) {
            Ok(clean) => {
                artifacts.insert(path.to_owned(), artifact(run, clean, None));
                infos.insert(path.to_owned(), content_info(run, clean, &url(ask, run, clean, "rcw")?));
            }
            Err(refusal) => {
                errors.insert(path.to_owned(), refusal.to_body());
            }
        }
    }
    Ok(Reply::json(200, &json!({"artifacts": artifacts, "artifactContentInformation": infos, "errors": errors})))
}

/// Makes known what was uploaded already. Blobs are listed as they are, so there is nothing to remember.
async fn register(ask: &Ask<'_>) -> Answer {
    let body = ask.body()?;
    let text = |name: &str| document::str_at(&body, name).unwrap_or_default();
    let container = text("container").strip_prefix(CONTAINER).unwrap_or_default();
    let run = ask.run(Right::WriteRuns, container)?.id.name().to_owned();
    Ok(Reply::json(200, &artifact(&run, safe(text("path"))?, None)))
}
