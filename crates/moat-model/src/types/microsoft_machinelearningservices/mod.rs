//! `Microsoft.MachineLearningServices`: workspaces, their compute clusters, and what the service
//! makes for those.

pub mod auto_network;
pub mod computes;
