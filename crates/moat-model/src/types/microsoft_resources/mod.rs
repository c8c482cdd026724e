//! `Microsoft.Resources`: what of it is documents. Groups, deployments and tags are the control plane's own.

pub mod template_specs;
