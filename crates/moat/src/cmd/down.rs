//! `moat down`: ends an environment; with `--purge`, removes its state.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use moat_host::world::Failure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Which;
use crate::control::Control;
use crate::environment::{Environment, Running, start_ticks};
use crate::ui;

/// How long it may take to end by itself before it is killed. What was acknowledged is on disk either way.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// End an environment; its state stays.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Remove its state too: documents, keys, logs.
    #[arg(long)]
    purge: bool,
}

/// See the module.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let environment = arguments.which.environment()?;
    if !environment.exists() {
        ui::out(format_args!("environment `{}` does not exist", environment.name));
        return Ok(ExitCode::SUCCESS);
    }
    match environment.running() {
        Ok(running) => {
            end(&environment, &running)?;
            ui::out(format_args!("environment `{}` ended", environment.name));
        }
        Err(_) => ui::out(format_args!("environment `{}` was not running", environment.name)),
    }
    if arguments.purge {
        let lock = environment.lock()?;
        environment.purge()?;
        drop(lock);
        ui::out(format_args!("environment `{}` and its state are gone", environment.name));
    }
    Ok(ExitCode::SUCCESS)
}

fn end(environment: &Environment, running: &Running) -> Result<(), Failure> {
    // A server that does not answer is killed below.
    let asked = Control::connect(environment).and_then(|mut control| control.call("stop", &json!({})));
    let deadline = Instant::now() + if asked.is_ok() { STOP_TIME_MAX } else { Duration::ZERO };
    let alive = || start_ticks(running.init) == Some(running.started) || environment.is_locked();
    while alive() && Instant::now() < deadline {
        std::thread::sleep(LOOK_EVERY);
    }
    if start_ticks(running.init) == Some(running.started) {
        let _ = kill(Pid::from_raw(running.init), Signal::SIGKILL);
        let deadline = Instant::now() + STOP_TIME_MAX;
        while alive() && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
    }
    if alive() {
        return Err(Failure::new(
            format!("environment `{}` does not end", environment.name),
            format!("process {} is its first; `{}` may say why", running.init, environment.log_path().display()),
        ));
    }
    environment.forget_running();
    Ok(())
}
