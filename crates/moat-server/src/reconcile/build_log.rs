//! Where the log of an environment's build is kept: beside the environment, and among the logs of each run that waited
//! for it, where Azure has it and its clients print it before the job's own.
//!
//! The build is the service's and not the node's, so its log goes to the store without a packet.

use std::convert::Infallible;
use std::sync::Arc;

use moat_arm::Stored;
use moat_store::Store;
use moat_store::blobs::{BlobError, Blobs, Key, Kind, NewBlob, Properties};

use super::environments::{Keeping, LogKeeper, NextToIt};
use super::job_log;

/// Name of the log of a build among the artifacts of a run.
const PATH: &str = "azureml-logs/20_image_build_log.txt";

/// See the module.
pub(super) struct WithTheRuns {
    pub(super) beside: NextToIt,
    pub(super) store: Store,
    pub(super) blobs: Blobs,
}

impl LogKeeper for WithTheRuns {
    fn keep<'a>(&'a self, hash: &'a str, jobs: &'a [Arc<Stored>], text: &'a str) -> Keeping<'a> {
        Box::pin(async move {
            self.beside.keep(hash, text);
            let snapshot = self.store.snapshot();
            for key in jobs.iter().filter_map(|job| job_log::key(&snapshot, job, PATH)) {
                if let Err(error) = put(&self.blobs, key, text.to_owned()).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the log of a build was not stored");
                }
            }
        })
    }
}

async fn put(blobs: &Blobs, key: Key, text: String) -> Result<(), BlobError> {
    let taken = blobs.clone();
    let content = tokio::task::spawn_blocking(move || {
        let mut upload = taken.upload()?;
        upload.write(text.as_bytes())?;
        Ok(upload.finish())
    });
    let content = content.await.unwrap_or(Err(BlobError::Panicked))?;
    let properties = Properties { content_type: Some("text/plain".to_owned()), ..Properties::default() };
    let new = NewBlob { properties, metadata: Vec::new() };
    let written = blobs.put(key, Kind::Block, content, new, |_| Ok::<_, Infallible>(())).await?;
    written.map(drop).map_err(|never| match never {})
}
