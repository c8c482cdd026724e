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
    let rows = answer.as_array().cloned().unwrap_or_else(|| match answer.get("clusters").and_then(Value::as_array) {
        Some(rows) => rows.clone(),
        None => vec![answer.clone()],
    });
    for row in rows {
        let fields: Vec<String> = row
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}={}", super::status::plain(value)))
            .collect();
        ui::out(fields.join("  "));
    }
    Ok(ExitCode::SUCCESS)
}
