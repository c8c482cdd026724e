//! What a node does with a job: one run at a time, from the ticket to the last byte of its outputs.
//!
//! [`Jobs`] is what the conversation with the Batch service sees: it takes orders and tells a report. A run itself is
//! [`machine`]: phases in order, each needing one service, every byte over connections made in this namespace
//! ([`http`]). Orders and reports are values; what happens between them is nobody's business but the run's.
//!
//! Invariants:
//! - At most one run; the same attempt is never started twice.
//! - A run that has ended stays in the report until it is told to be forgotten: its end is never lost on the way.
//! - An agent that was started anew has no run, and says so.

mod blob;
mod fetch;
mod harvest;
mod http;
mod identity;
mod image;
mod launched;
mod learning;
mod log;
mod machine;
mod patience;
mod place;
mod program;
mod sandbox;
mod stop;
#[cfg(test)]
mod tests;
mod work;

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{mpsc, watch};

pub use launched::Launched;
pub use sandbox::{Exit, Launch, Mount, Program, Sandbox, StartError};

use self::http::Client;
use self::machine::Cancel;
use self::patience::Patience;
use crate::config::{AgentConfig, Mode};
use crate::egress::Egress;
use crate::work::{Order, Phase, RunReport, Ticket};
use crate::{dns, tls};

/// Attempts that are remembered after they were forgotten, so that a late `Start` starts none of them again.
const FORGOTTEN_MAX: usize = 64;
/// Warnings of one run; more are left out.
const WARNINGS_MAX: usize = 50;
/// Length of one warning or message in a report, in characters.
const TEXT_CHARS_MAX: usize = 600;

/// The run of a node, as the management conversation sees it.
#[derive(Debug)]
pub struct Jobs {
    state: Mutex<State>,
    /// Counts changes of the report.
    changed: watch::Sender<u64>,
    begin: mpsc::UnboundedSender<Begin>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Current>,
    forgotten: VecDeque<Ticket>,
}

#[derive(Debug)]
struct Current {
    report: RunReport,
    /// Grace in seconds, once it is to end.
    cancel: watch::Sender<Option<u32>>,
}

/// A run to begin.
struct Begin {
    ticket: Ticket,
    cancel: Cancel,
}

/// What every run of a node uses.
pub(crate) struct Node {
    pub config: AgentConfig,
    pub key: Arc<[u8]>,
    pub client: Client,
    pub work: PathBuf,
    pub sandbox: Arc<dyn Sandbox>,
}

impl Jobs {
    /// Starts the thread that runs jobs. `egress` is what questions for work carry beside the run's report.
    pub fn start(
        config: &AgentConfig,
        egress: Arc<Egress>,
        sandbox: Arc<dyn Sandbox>,
        work: &Path,
    ) -> std::io::Result<Arc<Self>> {
        let resolvers = config.resolvers.clone();
        let locate = move |host: &str| dns::resolve(host, &resolvers).map(|a| SocketAddrV4::new(a, HTTPS));
        Self::start_with(config, egress, sandbox, work, Box::new(locate), Patience::default())
    }

    fn start_with(
        config: &AgentConfig,
        egress: Arc<Egress>,
        sandbox: Arc<dyn Sandbox>,
        work: &Path,
        locate: Box<http::Locate>,
        patience: Patience,
    ) -> std::io::Result<Arc<Self>> {
        let invalid = |e: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, e);
        let key: Arc<[u8]> = STANDARD.decode(&config.key).map_err(|e| invalid(e.to_string()))?.into();
        let client = Client::new(locate, tls::client_config(&config.ca_pem).map_err(invalid)?, patience);
        let node = Arc::new(Node { config: config.clone(), key, client, work: work.to_owned(), sandbox });
        let (begin, mut begun) = mpsc::unbounded_channel::<Begin>();
        let jobs = Arc::new(Self { state: Mutex::default(), changed: watch::Sender::new(0), begin });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mine = jobs.clone();
        std::thread::Builder::new().name("job".to_owned()).spawn(move || {
            runtime.block_on(async move {
                if node.config.mode == Mode::Simplified {
                    tokio::spawn(work::ask_for_ever(node.clone(), mine.clone(), egress));
                }
                while let Some(run) = begun.recv().await {
                    machine::run(&node, &mine, run.ticket, run.cancel).await;
                }
            });
        })?;
        Ok(jobs)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an order. Taking it twice is as good as once; `false` if it changed nothing.
    pub fn take(&self, order: Order) -> bool {
        let changed = self.taken(order);
        if changed {
            self.changed.send_modify(|n| *n += 1);
        }
        changed
    }

    fn taken(&self, order: Order) -> bool {
        let mut state = self.state();
        match order {
            Order::Start(ticket) => {
                if state.current.is_some() || state.forgotten.contains(&ticket) {
                    return false;
                }
                let (cancel, cancelled) = watch::channel(None);
                let report = RunReport {
                    ticket: ticket.clone(),
                    phase: Phase::Accepted,
                    outcome: None,
                    warnings: Vec::new(),
                    limits: None,
                    log_begun: false,
                };
                state.current = Some(Current { report, cancel });
                // The other end lives as long as the agent.
                self.begin.send(Begin { ticket, cancel: Cancel(cancelled) }).is_ok()
            }
            Order::Cancel { ticket, grace_seconds } => state
                .current
                .as_ref()
                .filter(|c| c.report.ticket == ticket)
                .is_some_and(|c| c.cancel.send_if_modified(|asked| asked.replace(grace_seconds).is_none())),
            Order::Forget(ticket) => {
                let ended = |c: &Current| c.report.ticket == ticket && c.report.outcome.is_some();
                if !state.current.as_ref().is_some_and(ended) {
                    return false;
                }
                state.current = None;
                state.forgotten.push_back(ticket);
                if state.forgotten.len() > FORGOTTEN_MAX {
                    state.forgotten.pop_front();
                }
                true
            }
        }
    }

    /// The run there is, as far as it is.
    pub fn report(&self) -> Option<RunReport> {
        self.state().current.as_ref().map(|c| c.report.clone())
    }

    /// Follows changes of the report.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes the report of the run.
    fn tell(&self, ticket: &Ticket, change: impl FnOnce(&mut RunReport)) {
        if let Some(current) = self.state().current.as_mut().filter(|c| c.report.ticket == *ticket) {
            change(&mut current.report);
            current.report.warnings.truncate(WARNINGS_MAX);
        }
        self.changed.send_modify(|n| *n += 1);
    }
}

/// Port of every service.
const HTTPS: u16 = 443;

fn shorten(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}
