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
    let index = server.get("packageIndex").filter(|i| !i.is_null()).map_or_else(|| "none".to_owned(), plain);
    ui::out(format_args!("  packages {index}"));
    ui::out(format_args!("  python   {}", interpreters(&server)));
    if let Some((count, bytes)) = environments(&server) {
        ui::out(format_args!("  built    {count} environments, {} MiB", bytes >> 20));
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

/// `3.11.2 (/usr/bin/python3.11)`, newest first.
fn interpreters(server: &Value) -> String {
    let all = server.get("interpreters").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let shown: Vec<String> = all
        .iter()
        .map(|i| {
            let numbers = i["version"].as_array().map_or(&[][..], Vec::as_slice);
            let version: Vec<String> = numbers.iter().map(Value::to_string).collect();
            format!("{} ({})", version.join("."), plain(&i["path"]))
        })
        .collect();
    if shown.is_empty() { "none: jobs with Python fail".to_owned() } else { shown.join(", ") }
}

/// How many environments lie on the disk, and their size.
fn environments(server: &Value) -> Option<(usize, u64)> {
    let all = server.get("environments")?.as_array()?;
    Some((all.len(), all.iter().filter_map(|e| e["bytes"].as_u64()).sum()))
}

/// A value as people write it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
