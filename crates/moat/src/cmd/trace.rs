//! `moat trace`: the model's verdict on a flow, each hop and the rule that decides.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use moat_host::world::Failure;
use moat_model::world_file::{Case, World};
use moat_net::tags::TagSource;
use serde_json::{Value, json};

use super::{Format, Which};
use crate::control::Control;
use crate::ui;

/// Say what would happen to a packet.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    format: Format,
    /// Where it starts: a network interface's name or id, an address, or `internet`.
    #[arg(required_unless_present = "world")]
    from: Option<String>,
    /// Where it goes: the same, or a host name.
    #[arg(required_unless_present = "world")]
    to: Option<String>,
    /// Destination port.
    #[arg(long, default_value_t = 443)]
    port: u16,
    /// Protocol.
    #[arg(long, value_enum, ignore_case = true, default_value = "tcp")]
    protocol: Protocol,
    /// Answer CASES against the world in FILE instead of a running environment.
    #[arg(long, value_name = "FILE", requires = "cases", conflicts_with_all = ["from", "to"])]
    world: Option<PathBuf>,
    /// The cases, one JSON object a line.
    #[arg(long, value_name = "FILE", requires = "world")]
    cases: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

/// See the module.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if let (Some(world), Some(cases)) = (&arguments.world, &arguments.cases) {
        return cases_of(world, cases);
    }
    let protocol = match arguments.protocol {
        Protocol::Tcp => "Tcp",
        Protocol::Udp => "Udp",
        Protocol::Icmp => "Icmp",
    };
    let params = json!({ "from": arguments.from, "to": arguments.to, "port": arguments.port, "protocol": protocol });
    let answer = Control::connect(&arguments.which.environment()?)?.call("trace", &params)?;
    if arguments.format.is_json() {
        ui::out_json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    print(&answer);
    Ok(ExitCode::SUCCESS)
}

/// The verdict first, then why, then each hop.
fn print(answer: &Value) {
    let field = |name: &str| answer.get(name).map_or_else(|| "-".to_owned(), super::status::plain);
    ui::out(format_args!("{}: {} ({})", field("packet"), field("verdict"), field("stage")));
    ui::out(format_args!("  decided by  {}", field("decidedBy")));
    let ip = answer.get("nextHopIp").and_then(Value::as_str).map(|ip| format!(" {ip}")).unwrap_or_default();
    ui::out(format_args!("  route       {} -> {}{ip}", field("route"), field("nextHop")));
    for (index, hop) in answer.get("hops").and_then(Value::as_array).into_iter().flatten().enumerate() {
        ui::out(format_args!("  {:>2}. {}", index + 1, super::status::plain(hop)));
    }
}

/// One answer a line, in the order of the cases. Worlds without tags of their own use those of 2021.
fn cases_of(world: &Path, cases: &Path) -> Result<ExitCode, Failure> {
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|error| Failure::new(format!("`{}`: {error}", path.display()), "check the path"))
    };
    let tags = TagSource::File(moat_net::tags::september_2021());
    let world = World::parse(&read(world)?, &tags)
        .map_err(|error| Failure::bare(format!("the world `{}`: {}", world.display(), ui::with_causes(&error))))?;
    for (index, line) in read(cases)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let answer = Case::parse(line).and_then(|case| world.run(&case)).map_err(|error| {
            Failure::bare(format!("`{}` line {}: {}", cases.display(), index + 1, ui::with_causes(&error)))
        })?;
        ui::out(serde_json::to_string(&answer).map_err(|error| Failure::bare(error.to_string()))?);
    }
    Ok(ExitCode::SUCCESS)
}
