//! `moat env`: the environments of this user.

use std::process::ExitCode;

use clap::Subcommand;
use moat_host::world::Failure;
use serde_json::json;

use super::Format;
use crate::environment::Environment;
use crate::ui;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List them.
    List {
        #[command(flatten)]
        format: Format,
    },
}

/// See the module.
pub(crate) fn run(command: &Command) -> Result<ExitCode, Failure> {
    let Command::List { format } = command;
    let all = Environment::all()?;
    let rows: Vec<_> = all
        .iter()
        .map(|environment| {
            let running = environment.running().ok();
            json!({
                "name": environment.name,
                "running": running.is_some(),
                "url": running.map(|running| running.url),
                "edition": environment.settings().map(|settings| settings.edition),
            })
        })
        .collect();
    if format.is_json() {
        ui::out_json(&json!(rows));
    } else {
        for row in &rows {
            let state = if row["running"] == true { "running" } else { "stopped" };
            let field = |name: &str| super::status::plain(&row[name]);
            ui::out(format_args!("{:<20} {state:<8} {:<8} {}", field("name"), field("edition"), field("url")));
        }
    }
    Ok(ExitCode::SUCCESS)
}
