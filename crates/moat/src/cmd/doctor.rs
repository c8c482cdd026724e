//! `moat doctor`: tries each thing of the kernel that Moat needs, in a throw-away process, and says what is missing.

use std::process::ExitCode;

use clap::Args;
use moat_host::world::Failure;
use moat_host::world::probe::{Need, probe};
use serde_json::json;

use super::Format;
use crate::ui;

/// Try what this machine can do.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    format: Format,
}

/// See the module. Fails if something required is missing.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let findings = probe();
    let ready = findings.iter().all(|finding| finding.ok || finding.need == Need::Optional);
    if arguments.format.is_json() {
        ui::out_json(&json!({ "ready": ready, "findings": findings }));
    } else {
        for finding in &findings {
            let mark = match (finding.ok, finding.need) {
                (true, _) => "ok",
                (false, Need::Required) => "MISSING",
                (false, Need::Optional) => "without",
            };
            ui::out(format_args!("{mark:<8} {:<36} {}", finding.name, finding.detail));
            if let Some(help) = &finding.help {
                ui::out(format_args!("         help: {help}"));
            }
        }
        ui::out(match ready {
            true => "this machine can run environments",
            false => "this machine cannot run environments: see what is MISSING above",
        });
    }
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
