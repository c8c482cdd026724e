//! `moat job`: what became of jobs, step by step; their logs; ending them.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use moat_host::world::Failure;
use serde_json::{Value, json};

use super::{Format, Which};
use crate::control::Control;
use crate::ui;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List jobs, oldest first.
    List(List),
    /// Show one job: its steps with their times, its error and its warnings.
    Show(One),
    /// Print the log of a job.
    Logs(Logs),
    /// Ask a job to end.
    Cancel(One),
}

/// List jobs.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    format: Format,
}

/// One job.
#[derive(Debug, Args)]
pub(crate) struct One {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    format: Format,
    /// Name of the job, `WORKSPACE/NAME` where two workspaces have one of that name.
    #[arg(value_name = "NAME")]
    job: String,
}

/// The log of a job.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    one: One,
    /// Go on as lines come, until the job has ended.
    #[arg(short, long)]
    follow: bool,
}

/// See the module.
pub(crate) fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::List(list) => {
            let answer = Control::connect(&list.which.environment()?)?.call("job_list", &json!({}))?;
            if list.format.is_json() {
                ui::out_json(&answer);
            } else {
                answer.as_array().into_iter().flatten().for_each(line);
            }
        }
        Command::Show(one) => {
            let answer = call(one, "job_show")?;
            if one.format.is_json() {
                ui::out_json(&answer);
            } else {
                show(&answer);
            }
        }
        Command::Cancel(one) => {
            let answer = call(one, "job_cancel")?;
            if one.format.is_json() {
                ui::out_json(&answer);
            } else {
                ui::out(format_args!("job `{}` is asked to end", plain_at(&answer, "job")));
            }
        }
        Command::Logs(logs) => print_log(logs)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn call(one: &One, method: &str) -> Result<Value, Failure> {
    Control::connect(&one.which.environment()?)?.call(method, &json!({ "name": one.job }))
}

fn plain_at(value: &Value, name: &str) -> String {
    value.get(name).map_or_else(|| "-".to_owned(), super::status::plain)
}

fn line(job: &Value) {
    ui::out(format_args!(
        "{:<32} {:<16} {:<16} {:<20} {}",
        plain_at(job, "name"),
        plain_at(job, "status"),
        plain_at(job, "cluster"),
        plain_at(job, "created").split('.').next().unwrap_or_default(),
        error(job).unwrap_or_default(),
    ));
}

fn error(job: &Value) -> Option<String> {
    let error = job.get("error").filter(|e| !e.is_null())?;
    Some(format!("{}: {}", plain_at(error, "code"), plain_at(error, "message")))
}

fn show(job: &Value) {
    ui::out(format_args!("job `{}` of workspace `{}`", plain_at(job, "name"), plain_at(job, "workspace")));
    for (label, name) in [
        ("status", "status"),
        ("experiment", "experiment"),
        ("cluster", "cluster"),
        ("node", "node"),
        ("attempt", "attempt"),
        ("exit code", "exitCode"),
        ("limits", "limits"),
    ] {
        ui::out(format_args!("  {label:<11} {}", plain_at(job, name)));
    }
    if let Some(error) = error(job) {
        ui::out(format_args!("  error       {error}"));
    }
    for warning in job.get("warnings").and_then(Value::as_array).into_iter().flatten() {
        ui::out(format_args!("  warning     {}", super::status::plain(warning)));
    }
    for step in job.get("steps").and_then(Value::as_array).into_iter().flatten() {
        let took = step.get("milliseconds").and_then(Value::as_u64).unwrap_or_default();
        ui::out(format_args!("  {took:>8} ms  {}", plain_at(step, "step")));
    }
}

/// Pieces of the log as they come; a piece is text, or an object that says why there is no more.
fn print_log(logs: &Logs) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut control = Control::connect(&logs.one.which.environment()?)?;
    control.send("job_logs", &json!({ "name": logs.one.job, "follow": logs.follow }))?;
    while let Some(answer) = control.next()? {
        if logs.one.format.is_json() {
            ui::out(&answer);
            continue;
        }
        if let Some(text) = answer.get("text").and_then(Value::as_str) {
            let mut out = std::io::stdout().lock();
            // A closed pipe is not our business.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    }
    Ok(())
}
