//! Replays what others recorded against Azure, each recording against a fresh Moat, and says how
//! much of it is answered alike: `cargo xtask replay PATH... [--report FILE]`.
//!
//! `read` finds and reads recordings; `prerequisites` makes what they take for granted; `play` sends
//! their requests to a server of `moat`, in the words of `translate`; `score` compares; `report`
//! counts. Of what was answered then `prerequisites` sees the status, to know what lay there before, `blanks` the names
//! that were blanked out of requests, `score` and `translate::learn` everything, after the server has answered.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod blanks;
mod kind;
mod moat;
mod play;
mod polls;
mod prerequisites;
mod read;
mod recording;
mod report;
mod score;
#[cfg(test)]
mod tests;
mod translate;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use moat_model::Edition;

use self::moat::Mould;
use self::play::Played;
use self::prerequisites::Bodies;
use self::report::Report;

/// What to replay.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Files and folders with recordings.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Writes everything to a file: JSON, or Markdown if it ends with `.md`.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Leaves types that Moat does not have out of the table.
    #[arg(long)]
    in_scope_only: bool,
    /// Lists every difference of types whose name contains this.
    #[arg(long, value_name = "TYPE")]
    show: Option<String>,
    /// Which text applies.
    #[arg(long, default_value = "current")]
    edition: String,
    /// Replays only each N-th recording.
    #[arg(long, value_name = "N", default_value = "1")]
    every: std::num::NonZeroUsize,
    /// Fails if less than this much of what is in scope is answered alike.
    #[arg(long, value_name = "PERCENT")]
    floor: Option<f64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let edition = match args.edition.as_str() {
        "2021-09" => Edition::Seed2021,
        "current" => Edition::Current,
        other => bail!("there is no edition '{other}'; there are 2021-09 and current"),
    };
    let found = read::all(&args.paths)?;
    let bodies = Bodies::of(&found.recordings);
    let recordings: Vec<_> = found.recordings.into_iter().step_by(args.every.get()).collect();
    if recordings.is_empty() {
        bail!("nothing there can be replayed ({} files cannot be read)", found.unreadable.len());
    }
    let mould = Mould::new(edition)?;
    let next = AtomicUsize::new(0);
    let played = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(recording) = recordings.get(index) else { return Ok(()) };
            let done = runtime
                .block_on(play::play(recording, &mould, &bodies))
                .with_context(|| format!("replaying {}", recording.name))?;
            played.lock().map_err(|_| anyhow::anyhow!("another replay panicked"))?.push((index, done));
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow::anyhow!("a replay panicked"))?)
    })?;
    let mut played = played.into_inner().map_err(|_| anyhow::anyhow!("a replay panicked"))?;
    played.sort_by_key(|(index, _)| *index);
    let played: Vec<Played> = played.into_iter().map(|(_, p)| p).collect();
    let report = Report::of(&recordings, &played, found.unreadable);
    if let Some(wanted) = &args.show {
        print!("{}", report::differences(&recordings, &played, wanted));
    }
    print!("{}", report.text(args.in_scope_only));
    if let Some(file) = &args.report {
        let text = if file.extension().is_some_and(|e| e == "md") { report.markdown() } else { report.json() };
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    match args.floor {
        Some(floor) if report.in_scope().percent() < floor => {
            bail!(
                "only {:.1} % of what is in scope is answered alike; the floor is {floor} %",
                report.in_scope().percent()
            )
        }
        _ => Ok(()),
    }
}
