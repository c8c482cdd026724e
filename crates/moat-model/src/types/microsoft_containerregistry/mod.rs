//! `Microsoft.ContainerRegistry`.

pub mod registries;
