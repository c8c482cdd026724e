//! Whether the server has a world to make real. [`NoHost`] has none: loopback only, nothing to
//! reconcile; for tests and benches of the control plane.

use std::sync::Arc;

use crate::reconcile::Hands;

/// The world of an environment.
pub trait HostApi: Send + Sync + 'static {
    /// The helper that carries out plans; `None` without a data plane.
    fn hands(&self) -> Option<Arc<dyn Hands>>;

    /// Whether there is a data plane that writes have to reach. Without one, a write is complete
    /// when it is stored.
    fn has_data_plane(&self) -> bool {
        self.hands().is_some()
    }
}

/// No world.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHost;

impl HostApi for NoHost {
    fn hands(&self) -> Option<Arc<dyn Hands>> {
        None
    }
}

/// The helper process, over its socket.
impl HostApi for moat_host::HostClient {
    fn hands(&self) -> Option<Arc<dyn Hands>> {
        Some(Arc::new(self.clone()))
    }

    fn has_data_plane(&self) -> bool {
        true
    }
}
