//! `moat cluster`: compute clusters, until jobs drive them.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use moat_host::world::Failure;
use serde_json::{Value, json};

use super::{Format, Which};
use crate::control::Control;
use crate::ui;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List them with their nodes.
    List(List),
    /// Ask a cluster for a number of nodes.
    Scale(Scale),
}

/// List clusters.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    format: Format,
}

/// Scale a cluster.
#[derive(Debug, Args)]
pub(crate) struct Scale {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    format: Format,
    /// Name of the cluster, `WORKSPACE/NAME` where two workspaces have one of that name.
    #[arg(value_name = "NAME")]
    cluster: String,
    /// Nodes wanted.
    nodes: u32,
}

/// See the module.
pub(crate) fn run(command: &Command) -> Result<ExitCode, Failure> {
    let (which, format, method, params) = match command {
        Command::List(list) => (&list.which, &list.format, "cluster_list", json!({})),
        Command::Scale(scale) => {
            (&scale.which, &scale.format, "cluster_scale", json!({ "name": scale.cluster, "nodes": scale.nodes }))
        }
    };
    let answer = Control::connect(&which.environment()?)?.call(method, &params)?;
    if format.is_json() {
        ui::out_json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    match answer.as_array() {
        Some(clusters) => clusters.iter().for_each(print),
        None => ui::out(format_args!(
            "cluster `{}` will have {} nodes",
            plain_at(&answer, "cluster"),
            plain_at(&answer, "nodes")
        )),
    }
    Ok(ExitCode::SUCCESS)
}

fn plain_at(value: &Value, name: &str) -> String {
    value.get(name).map_or_else(|| "-".to_owned(), super::status::plain)
}

/// A cluster, its errors and its nodes.
fn print(cluster: &Value) {
    let list = |name: &str| cluster.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let nodes = list("nodes");
    ui::out(format_args!(
        "{}  {}  {}  {} of {} nodes",
        plain_at(cluster, "name"),
        plain_at(cluster, "provisioningState"),
        plain_at(cluster, "allocationState"),
        nodes.len(),
        plain_at(cluster, "target"),
    ));
    for node in &nodes {
        let reason = node.get("reason").and_then(Value::as_str).map(|why| format!("  {why}")).unwrap_or_default();
        ui::out(format_args!(
            "  {}  {:<12} {:<15} {}{reason}",
            plain_at(node, "name"),
            plain_at(node, "state"),
            plain_at(node, "privateIpAddress"),
            plain_at(node, "publicIpAddress"),
        ));
    }
    for error in list("errors") {
        let message = error.pointer("/error/message").or_else(|| error.get("message")).unwrap_or(&error);
        ui::out(format_args!("  error: {}", super::status::plain(message)));
    }
}
