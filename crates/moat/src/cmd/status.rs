//! `moat status`: what a running environment says about itself.

use std::process::ExitCode;

use clap::Args;
use moat_host::world::Failure;
use serde_json::{Value, json};

use super::{Format, Which};
use crate::control::Control;
use crate::ui;

/// Exit code when it does not run, as init scripts have it.
const EXIT_NOT_RUNNING: u8 = 3;

/// Show a running environment.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    format: Format,
}

/// See the module.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let environment = arguments.which.environment()?;
    let Ok(running) = environment.running() else {
        match arguments.format.is_json() {
            true => ui::out_json(&json!({ "name": environment.name, "running": false })),
            false => ui::out(format_args!("environment `{}` is not running", environment.name)),
        }
        return Ok(ExitCode::from(EXIT_NOT_RUNNING));
    };
    let mut value = json!({
        "name": environment.name,
        "running": true,
        "url": running.url,
        "edition": running.edition,
        "init": running.init,
        "stateDirectory": environment.dir,
        "log": environment.log_path(),
    });
    let server = Control::connect(&environment)?.call("status", &json!({}))?;
    if arguments.format.is_json() {
        value["server"] = server;
        ui::out_json(&value);
        return Ok(ExitCode::SUCCESS);
    }
    ui::out(format_args!("environment `{}` is running", environment.name));
    ui::out(format_args!("  url      {}", running.url));
    ui::out(format_args!("  edition  {}", running.edition));
    ui::out(format_args!("  log      {}", environment.log_path().display()));
    for (name, value) in server.as_object().into_iter().flatten() {
        ui::out(format_args!("  {name:<8} {}", plain(value)));
    }
    Ok(ExitCode::SUCCESS)
}

/// A value as people write it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
