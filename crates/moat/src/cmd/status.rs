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
    for (label, name) in [("tenant", "tenant"), ("subscr.", "subscription"), ("client", "clientId")] {
        ui::out(format_args!("  {label:<8} {}", server.get(name).map_or_else(|| "-".to_owned(), plain)));
    }
    let number = |name: &str| server.get(name).and_then(Value::as_u64).unwrap_or_default();
    let network = match number("applied") >= number("seq") {
        true => "as written".to_owned(),
        false => format!("behind: made real up to {} of {}", number("applied"), number("seq")),
    };
    ui::out(format_args!("  network  {network}"));
    for (kind, count) in server.get("documents").and_then(Value::as_object).into_iter().flatten() {
        ui::out(format_args!("  {:>6}   {kind}", plain(count)));
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
