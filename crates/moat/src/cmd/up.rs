//! `moat up`: starts an environment, in the foreground, detached, or around one command.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use moat_host::world::process::wait_signal;
use moat_host::world::{self, Failure, World, WorldSpec, ending_signals};
use moat_model::Edition;
use moat_server::packages::Index;
use nix::sys::signal::Signal;

use super::{Which, exec, exit_code};
use crate::environment::{Environment, ROOT_VARIABLE, Running, Settings, start_ticks, storage_failure};
use crate::{serve, ui};

/// Tried first when no port is asked for and none remembered.
const PORT_DEFAULT: u16 = 7443;
/// Space of a node for a job's files. Memory, but only what is used; a node has one job.
const JOB_DISK_BYTES_DEFAULT: u64 = 2 << 30;
/// What `--package-index` takes for none.
const NO_INDEX: &str = "none";
/// How long a start may take: a cold one makes keys, and a large state makes many namespaces.
const START_TIME_MAX: Duration = Duration::from_secs(120);

/// Start an environment.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Which text applies: `2021-09` (the 2021 document) or `current` (Azure today). Kept with the environment.
    #[arg(long)]
    edition: Option<Edition>,
    /// Port on 127.0.0.1; without it the one used last, 7443 or a free one.
    #[arg(long)]
    port: Option<u16>,
    /// Space of each node for a job's files, in memory while they are there: `512M`, `2G`.
    #[arg(long, value_name = "SIZE", default_value_t = Size(JOB_DISK_BYTES_DEFAULT), env = "MOAT_JOB_DISK")]
    job_disk: Size,
    /// Index that environments of jobs get their packages from, or `none`. Kept with the environment; <https://pypi.org/simple>
    /// where nothing was ever said.
    #[arg(long, env = "MOAT_PACKAGE_INDEX", value_name = "URL")]
    package_index: Option<PackageIndex>,
    /// Return when it is ready, and leave it running.
    #[arg(long, conflicts_with = "ephemeral")]
    detach: bool,
    /// Run COMMAND in a new environment, exit with its code, and leave nothing behind.
    #[arg(long, requires = "command")]
    ephemeral: bool,
    /// Where the command runs: `internet` or `VNET/SUBNET`.
    #[arg(long, default_value = "internet", requires = "ephemeral")]
    at: String,
    /// The command of `--ephemeral`.
    #[arg(last = true, value_name = "COMMAND", requires = "ephemeral")]
    command: Vec<std::ffi::OsString>,
}

/// A number of bytes, written as people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(u64);

/// Powers of 1,024, largest first.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl std::str::FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.trim().to_ascii_uppercase();
        let number = upper.strip_suffix("IB").or(upper.strip_suffix('B')).unwrap_or(&upper);
        let unit = UNITS.into_iter().find_map(|(unit, shift)| Some((number.strip_suffix(unit)?, shift)));
        let (digits, shift) = unit.unwrap_or((number, 0));
        let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).filter(|bytes| *bytes > 0);
        bytes.map(Size).ok_or_else(|| format!("`{text}` is no size; write it as 512M or 2G"))
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match UNITS.into_iter().find(|(_, shift)| self.0.is_multiple_of(1 << shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A package index, or none.
#[derive(Debug, Clone)]
struct PackageIndex(Option<Index>);

impl std::str::FromStr for PackageIndex {
    type Err = moat_server::packages::IndexError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == NO_INDEX { Ok(Self(None)) } else { Index::parse(text).map(|index| Self(Some(index))) }
    }
}

impl std::fmt::Display for PackageIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_ref().map_or(NO_INDEX, Index::id))
    }
}

/// See the module.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    if arguments.ephemeral {
        return ephemeral(&arguments);
    }
    // A pipe of the caller kept open by a long-lived process would hang whoever reads it to its end.
    world::process::close_all_but(&[]);
    let environment = arguments.which.environment()?;
    let mut started = start(&environment, &arguments)?;
    summary(&environment, &started.running, arguments.detach);
    if arguments.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let result = started.wait_in_foreground(&environment);
    environment.forget_running();
    result
}

struct Started {
    world: World,
    running: Running,
}

fn start(environment: &Environment, arguments: &Arguments) -> Result<Started, Failure> {
    environment.prepare()?;
    let lock = environment.lock()?;
    let kept = environment.settings();
    let edition = edition(environment, arguments.edition, kept.as_ref())?;
    let listen = listen(arguments.port, kept.as_ref().map(|kept| kept.port))?;
    let port = listen.local_addr().map_err(|error| Failure::bare(format!("the listening port: {error}")))?.port();
    let index = package_index(arguments.package_index.as_ref(), kept.as_ref())?;
    environment.keep_settings(&Settings { edition, port, package_index: Some(index.to_string()) })?;
    let control = environment.listen_control()?;
    let log = environment.open_log()?;
    // The lock belongs to the open file, not to this value: it lives as long as a copy does in the world.
    let hold = lock.try_clone().map_err(|error| storage_failure(&environment.dir, &error))?;

    ui::note(format_args!("starting environment `{}` (edition {edition})", environment.name));
    let spec = WorldSpec {
        name: environment.name.clone(),
        data_dir: environment.data_dir(),
        hide: hidden(environment),
        job_disk_bytes: arguments.job_disk.0,
        log: Some(OwnedFd::from(log)),
        detach: arguments.detach,
        hold: vec![OwnedFd::from(hold)],
    };
    init_logging();
    let name = environment.name.clone();
    let made = world::create(
        spec,
        move |seat| serve::serve(name, edition, listen, control, index.0, seat),
        serve::hands,
        serve::agent,
    );
    let mut world = made.map_err(|error| error.to_failure())?;
    std::mem::forget(lock); // dropping it would unlock the file the world holds
    if let Err(error) = world.wait_ready(START_TIME_MAX) {
        world.kill();
        environment.forget_running();
        let mut failure = error.to_failure();
        let log = format!("the log is `{}`", environment.log_path().display());
        failure.help = Some(failure.help.map_or(log.clone(), |help| format!("{help}; {log}")));
        return Err(failure);
    }
    let init = world.init().as_raw();
    let running = Running {
        init,
        started: start_ticks(init).unwrap_or_default(),
        url: format!("https://127.0.0.1:{port}"),
        edition,
    };
    environment.keep_running(&running).inspect_err(|_| world.kill())?;
    Ok(Started { world, running })
}

impl Started {
    /// Waits until it ends, or until we are told to end it.
    fn wait_in_foreground(&mut self, environment: &Environment) -> Result<ExitCode, Failure> {
        let mut told = false;
        let mut signals = ending_signals();
        signals.add(Signal::SIGCHLD);
        loop {
            if let Some(code) = self.world.ended() {
                return match code {
                    0 => Ok(ExitCode::SUCCESS),
                    _ if told => Ok(ExitCode::SUCCESS),
                    code => Err(Failure::new(
                        format!("environment `{}` ended by itself (exit code {code})", environment.name),
                        format!("`{}` says why; `moat up` brings it back", environment.log_path().display()),
                    )),
                };
            }
            match wait_signal(&signals, None) {
                Ok(Some(got)) if got.number != Signal::SIGCHLD as i32 => {
                    if !told {
                        ui::note("ending");
                    }
                    told = true;
                    self.world.stop();
                }
                _ => {}
            }
        }
    }
}

fn edition(environment: &Environment, asked: Option<Edition>, kept: Option<&Settings>) -> Result<Edition, Failure> {
    match (asked, kept.map(|kept| kept.edition)) {
        (Some(asked), Some(kept)) if asked != kept => Err(Failure::new(
            format!("environment `{}` is of edition {kept}", environment.name),
            format!(
                "start another with `-e NAME --edition {asked}`, or `moat down --purge -e {}` first",
                environment.name
            ),
        )),
        (asked, kept) => Ok(asked.or(kept).unwrap_or(Edition::Seed2021)),
    }
}

/// What is asked for now, what was asked for last, or the default.
fn package_index(asked: Option<&PackageIndex>, kept: Option<&Settings>) -> Result<PackageIndex, Failure> {
    if let Some(asked) = asked {
        return Ok(asked.clone());
    }
    let kept = kept.and_then(|kept| kept.package_index.as_deref()).unwrap_or(moat_server::packages::index::DEFAULT);
    kept.parse().map_err(|error| {
        Failure::new(format!("the package index that was kept: {error}"), "name one with `--package-index`")
    })
}

fn listen(asked: Option<u16>, kept: Option<u16>) -> Result<TcpListener, Failure> {
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    if let Some(port) = asked {
        return bind(port).map_err(|error| {
            Failure::new(
                format!("port {port} on 127.0.0.1 cannot be used: {error}"),
                "name another with `--port`, or leave it out to take a free one",
            )
        });
    }
    bind(kept.unwrap_or(PORT_DEFAULT))
        .or_else(|_| bind(0))
        .map_err(|error| Failure::bare(format!("no port on 127.0.0.1 can be used: {error}")))
}

/// What programs in the world must not see: the server's data, of each environment.
pub(super) fn hidden(environment: &Environment) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(&environment.root)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path().join("data"))).collect())
        .unwrap_or_default();
    dirs.push(environment.data_dir());
    dirs.sort();
    dirs.dedup();
    dirs
}

/// What the processes of the world write to the log; `MOAT_LOG` chooses, as `RUST_LOG` does elsewhere.
fn init_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MOAT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second call in one process would be refused; nothing is lost then.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}

fn summary(environment: &Environment, running: &Running, detached: bool) {
    let e = if environment.name == "default" { String::new() } else { format!(" -e {}", environment.name) };
    ui::out(format_args!("environment `{}` is ready", environment.name));
    ui::out(format_args!("  url      {}", running.url));
    ui::out(format_args!("  edition  {}", running.edition));
    ui::out(format_args!("  log      {}", environment.log_path().display()));
    ui::out(format_args!("  use it   moat exec{e} -- az group list"));
    ui::out(format_args!("  end it   {}", if detached { format!("moat down{e}") } else { "Ctrl-C".to_owned() }));
}

/// A new environment around one command.
fn ephemeral(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let root = TemporaryRoot::new()?;
    let environment = Environment::below(root.0.clone(), &arguments.which.name)?;
    let mut started = start(&environment, arguments)?;
    // A process of its own: running a program moves the process into the world, which this one has to outlive.
    let child = world::process::spawn(nix::sched::CloneFlags::empty(), || {
        // Blocked for this process's own waiting, not for the command.
        if let Err(error) = world::process::unblock_signals() {
            ui::error(&Failure::bare(format!("unblocking signals: {error}")));
        }
        match exec::at(&environment, &arguments.at, &arguments.command, &[(ROOT_VARIABLE, root.0.as_os_str())]) {
            Ok(code) => code,
            Err(not_run) => {
                ui::error(&not_run.failure);
                not_run.code
            }
        }
    })
    .map_err(|error| Failure::bare(format!("starting a process: {error}")))?;
    let code = started.wait_for_command(child);
    started.world.stop();
    started.world.wait();
    root.remove()?;
    Ok(exit_code(code))
}

impl Started {
    fn wait_for_command(&mut self, child: nix::unistd::Pid) -> i32 {
        let mut signals = ending_signals();
        signals.add(Signal::SIGCHLD);
        loop {
            if let Ok(Some(got)) = wait_signal(&signals, None)
                && got.number != Signal::SIGCHLD as i32
            {
                // The terminal has told the command itself.
                if let (true, Ok(signal)) = (got.by_process, Signal::try_from(got.number)) {
                    let _ = nix::sys::signal::kill(child, signal);
                }
                continue;
            }
            use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
            match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => return code,
                Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
                Ok(_) => {}
                Err(_) => return 1,
            }
        }
    }
}

/// A directory of this user only, gone at the end whatever happened.
struct TemporaryRoot(PathBuf);

impl TemporaryRoot {
    fn new() -> Result<Self, Failure> {
        let template = std::env::temp_dir().join("moat-XXXXXX");
        nix::unistd::mkdtemp(&template).map(TemporaryRoot).map_err(|error| storage_failure(&template, &error.into()))
    }
    fn remove(mut self) -> Result<(), Failure> {
        let path = std::mem::take(&mut self.0);
        world::remove_all(&path).map_err(|error| storage_failure(&path, &error))
    }
}

impl Drop for TemporaryRoot {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(text: &str, bytes: Option<u64>) {
        assert_eq!(text.parse::<Size>().ok(), bytes.map(Size), "{text}");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        check("2G", Some(2 << 30));
        check("512m", Some(512 << 20));
        check("16MiB", Some(16 << 20));
        check("4096", Some(4_096));
        check("1T", Some(1 << 40));
        for bad in ["", "0", "G", "-1G", "2X", "1.5G", "99999999999T"] {
            check(bad, None);
        }
        for text in ["2G", "512M", "1T", "1000"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
    }
}
