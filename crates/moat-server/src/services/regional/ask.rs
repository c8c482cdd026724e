//! One call to a workspace of the regional endpoint, and the ways to answer it: by the published snapshot, by the
//! store's writer, by the tracking store.

use moat_arm::{ApiError, Batch, ResourceId, Snapshot, Stored};
use moat_control::Principal;
use moat_control::history::mlflow::{Logged, Metric};
use moat_control::history::{Right, View, runs};
use moat_store::StoreError;
use moat_store::blobs::{BlobError, Blobs};
use moat_store::tracking::{self, TrackingError};
use serde_json::Value;

use crate::http::request::Call;
use crate::random;
use crate::server::Server;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Fail {
    /// A refusal for the client.
    Api(ApiError),
    /// The disk.
    Store(StoreError),
}

impl From<ApiError> for Fail {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TrackingError> for Fail {
    fn from(error: TrackingError) -> Self {
        match error {
            TrackingError::Store(error) => Self::Store(error),
            refused => Self::Api(ApiError::bad_request("INVALID_PARAMETER_VALUE", refused.to_string())),
        }
    }
}

impl From<BlobError> for Fail {
    fn from(error: BlobError) -> Self {
        let lasting = |code: &str| {
            // Not 5xx: clients would repeat for minutes what a person has to mend.
            tracing::error!(error = &error as &dyn std::error::Error, "blobs were not read");
            Self::Api(ApiError::new(409, code, error.to_string()))
        };
        match &error {
            BlobError::Full | BlobError::ReadOnly => lasting("StateNotWritable"),
            BlobError::Damaged(_) | BlobError::Cut | BlobError::File(_) => lasting("StateDamaged"),
            BlobError::Index(error) => Self::Store(StoreError::Database(error.clone())),
            BlobError::Panicked => Self::Store(StoreError::Panicked),
            BlobError::Stopped => Self::Store(StoreError::Stopped),
        }
    }
}

/// A path: `/{service}/v{version}/subscriptions/.../workspaces/{name}/{rest...}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) service: String,
    pub(super) workspace: ResourceId,
    pub(super) rest: Vec<String>,
}

/// Segments of a workspace's id.
const ID_SEGMENTS: usize = 8;

impl Route {
    pub(super) fn parse(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let (service, tail) = segments.split_first()?;
        let (version, tail) = tail.split_first()?;
        if !version.starts_with('v') || tail.len() < ID_SEGMENTS {
            return None;
        }
        let (id, rest) = tail.split_at(ID_SEGMENTS);
        let workspace = ResourceId::parse(&format!("/{}", id.join("/"))).ok()?;
        if !workspace.resource_type().eq_ignore_ascii_case(moat_control::history::WORKSPACE) {
            return None;
        }
        let rest = rest.iter().map(|s| (*s).to_owned()).collect();
        Some(Self { service: service.to_ascii_lowercase(), workspace, rest })
    }
}

/// A call whose caller is known.
pub(super) struct Ask<'a> {
    pub(super) server: &'a Server,
    pub(super) call: &'a Call,
    pub(super) principal: Principal,
    pub(super) workspace: ResourceId,
}

impl Ask<'_> {
    /// Answers from the published snapshot.
    pub(super) fn read<T>(
        &self,
        right: Right,
        answer: impl FnOnce(&View<'_>) -> Result<T, ApiError>,
    ) -> Result<T, Fail> {
        let (snapshot, ctx) = (self.server.store.snapshot(), self.server.context(random::uuid()));
        let view = View::open(&snapshot, &self.workspace, &self.principal, &ctx, right)?;
        self.in_its_region(&view)?;
        Ok(answer(&view)?)
    }

    /// Answers by the store's writer; what is answered is on disk.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        right: Right,
        decide: impl FnOnce(&View<'_>) -> Result<(T, Batch), ApiError> + Send + 'static,
    ) -> Result<T, Fail> {
        let ctx = self.server.context(random::uuid());
        let (workspace, principal) = (self.workspace.clone(), self.principal.clone());
        let decided = self
            .server
            .store
            .submit(move |snapshot: &Snapshot| {
                let decided = View::open(snapshot, &workspace, &principal, &ctx, right).and_then(|view| decide(&view));
                match decided {
                    Ok((answer, mut batch)) => {
                        batch.audit.correlation = ctx.correlation();
                        (batch, Ok(answer))
                    }
                    Err(refusal) => (Batch::default(), Err(refusal)),
                }
            })
            .await?;
        Ok(decided?)
    }

    /// Every region has an endpoint of its own, which knows the workspaces of its region.
    fn in_its_region(&self, view: &View<'_>) -> Result<(), ApiError> {
        let here = self.call.host.split('.').next().unwrap_or_default();
        match moat_model::refs::location_of(view.snapshot, &view.workspace.id) {
            Some(location) if location != here => Err(ApiError::new(
                404,
                "WorkspaceNotFound",
                format!(
                    "Workspace '{}' lies in {location}: its endpoint is https://{location}.api.azureml.ms, not https://{}.",
                    view.workspace.id.name(),
                    self.call.host
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The JSON body; an empty one is an empty object.
    pub(super) fn body(&self) -> Result<Value, ApiError> {
        let malformed =
            |why: String| ApiError::bad_request("BadArgument", format!("The request body is not JSON: {why}."));
        match self.call.text() {
            Some(text) => serde_json::from_str(text).map_err(|e| malformed(e.to_string())),
            None if self.call.is_binary() => Err(malformed("it is not UTF-8 text".to_owned())),
            None => Ok(serde_json::json!({})),
        }
    }

    /// A parameter of the query.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.call.query.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// What a run logged, but the history of its metrics.
    pub(super) async fn logged(&self, run: &Stored) -> Result<Logged, Fail> {
        let key = runs::series_key(run);
        let summary = self.tracked(move |tracking| tracking.summary(&key)).await?;
        Ok(Self::from_summary(summary))
    }

    /// The tracking store's words in the run history's.
    pub(super) fn from_summary(summary: tracking::Summary) -> Logged {
        let metric = |p: tracking::Point| Some(Metric { key: p.key, value: p.value?, timestamp: p.time, step: p.step });
        Logged {
            metrics: summary.latest.into_iter().filter_map(metric).collect(),
            params: summary.params,
            inputs: summary.inputs,
        }
    }

    /// Reads the tracking store, away from the threads that answer.
    pub(super) async fn tracked<T: Send + 'static>(
        &self,
        read: impl FnOnce(&tracking::Tracking) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Fail> {
        let tracking = self.server.tracking.clone();
        match tokio::task::spawn_blocking(move || read(&tracking)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Fail::Store(StoreError::Panicked)),
        }
    }

    /// Reads the index of blobs, away from the threads that answer.
    pub(super) async fn blobs<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Blobs) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, Fail> {
        let blobs = self.server.blobs.clone();
        let answer = tokio::task::spawn_blocking(move || read(&blobs)).await;
        Ok(answer.unwrap_or(Err(BlobError::Panicked))?)
    }

    /// Writes to the tracking store what a run logged. The caller has checked the right to write the run.
    pub(super) async fn log(&self, run: &Stored, batch: tracking::Batch) -> Result<(), Fail> {
        Ok(self.server.tracking.log(&runs::series_key(run), batch).await?)
    }

    /// The document of a run, for a caller with the right.
    pub(super) fn run(&self, right: Right, name: &str) -> Result<std::sync::Arc<Stored>, Fail> {
        self.read(right, |view| view.run(name).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_name_a_service_and_a_workspace() {
        let workspace = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w";
        let route = Route::parse(&format!("/history/v1.0{workspace}/runs/r/details")).unwrap();
        assert_eq!(route.service, "history");
        assert_eq!(route.rest, ["runs", "r", "details"]);
        assert!(Route::parse(&format!("/history/v1.0{workspace}")).unwrap().rest.is_empty());
        for bad in [
            "/history".to_owned(),
            format!("/history{workspace}"),
            format!("/history/v1.0{}", workspace.replace("workspaces", "registries")),
            format!("/history/v1.0{}", workspace.replace("/g/", "//")),
        ] {
            assert_eq!(Route::parse(&bad), None, "{bad}");
        }
    }
}
