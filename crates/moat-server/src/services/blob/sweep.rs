//! Blobs of containers that are gone, and blocks that nobody committed, are removed in the background.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use moat_model::types::microsoft_storage::containers as documents;

use super::body;
use crate::server::Server;

/// Between two looks at which containers are gone.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Looks after which a sweep is made although no container is gone: for staged blocks.
const LOOKS_TO_SWEEP: u32 = 60;

/// Sweeps until the server stops.
pub(crate) async fn run(server: Arc<Server>) {
    let mut stopping = server.stopping();
    let mut known = BTreeSet::new();
    // The first look is a sweep: containers may have gone just before the last end.
    let mut looks = LOOKS_TO_SWEEP;
    loop {
        let alive = alive(&server);
        if looks >= LOOKS_TO_SWEEP || known.difference(&alive).next().is_some() {
            looks = 0;
            let sweeper = server.clone();
            let swept = body::blocking(move || sweeper.blobs.sweep(|| self::alive(&sweeper))).await;
            match swept {
                Ok(swept) if swept == moat_store::blobs::Swept::default() => {}
                Ok(swept) => tracing::info!(?swept, "blobs that belong to nobody are gone"),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "sweeping blobs failed"),
            }
        }
        known = alive;
        looks += 1;
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn alive(server: &Server) -> BTreeSet<String> {
    documents::generations(&server.store.snapshot()).map(str::to_owned).collect()
}
