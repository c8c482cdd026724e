//! `moat flows`: the kernel's log of accepted and dropped flows.

use std::process::ExitCode;

use clap::Args;
use moat_host::world::Failure;
use serde_json::{Value, json};

use super::{Format, Which};
use crate::control::Control;
use crate::ui;

/// Show what the firewalls accepted and dropped.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    format: Format,
    /// Go on as new ones come, until interrupted.
    #[arg(short, long)]
    follow: bool,
}

/// See the module.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut control = Control::connect(&arguments.which.environment()?)?;
    control.send("flows", &json!({ "follow": arguments.follow }))?;
    while let Some(answer) = control.next()? {
        let rows = match answer {
            serde_json::Value::Array(rows) => rows,
            one => vec![one],
        };
        for row in &rows {
            if arguments.format.is_json() {
                ui::out(row); // one line each, so that a stream can be read
                continue;
            }
            print(row);
        }
        if !arguments.follow {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(row: &Value) {
    let field = |name: &str| row.get(name).map_or_else(|| "-".to_owned(), super::status::plain);
    if row.get("lost").is_some() {
        ui::out(format_args!("({} flows came faster than they could be shown)", field("lost")));
        return;
    }
    let end = |address: &str, port: &str| match row.get(port).and_then(Value::as_u64) {
        Some(number) if number > 0 => format!("{}:{number}", field(address)),
        _ => field(address),
    };
    ui::out(format_args!(
        "{} {:<5} {:<4} {} -> {}  {} ({} {})",
        field("time"),
        field("action"),
        field("protocol"),
        end("source", "sourcePort"),
        end("destination", "destinationPort"),
        field("rule"),
        field("level"),
        field("direction"),
    ));
}
