//! One run: its phases in order, and the one way out of each of them.
//!
//! [`Machine::phases`] reads top to bottom as the table in docs/adr/0005 does. Every wait of a phase ends at once when
//! the run is cancelled; what a phase cannot do ends the run in that phase, with what it came to as the outcome.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moat_host::run::beneath::Folder;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::blob::Store;
use super::harvest::{self, Harvest, Room};
use super::http::Client;
use super::identity::Identity;
use super::learning::Learning;
use super::place::{ARTIFACT_FOLDERS, Places};
use super::program::{self, Task};
use super::stop::Stop;
use super::{Jobs, Node, fetch, image, log, shorten};
use crate::handshake::Reach;
use crate::spec::{Output, RunSpec, Source};
use crate::work::{Outcome, Phase, Ticket};

/// Where the node's own account of a run lies below its prefix.
const DIARY_PATH: &str = "system_logs/moat/node.log";
const TEXT: &str = "text/plain; charset=utf-8";

/// Tells when the run is to end.
#[derive(Clone)]
pub(super) struct Cancel(pub watch::Receiver<Option<u32>>);

impl Cancel {
    /// Waits until somebody wants the end; the grace for the program.
    pub(super) async fn asked(&mut self) -> Duration {
        match self.0.wait_for(Option::is_some).await {
            Ok(grace) => Duration::from_secs(grace.unwrap_or(0).into()),
            // The run was forgotten, which only happens after its end.
            Err(_) => std::future::pending().await,
        }
    }

    /// What `work` comes to, unless the run is cancelled first.
    async fn unless<T>(&self, work: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        let mut cancel = self.clone();
        tokio::select! {
            biased;
            _ = cancel.asked() => Err(Stop(Outcome::Canceled)),
            done = work => done,
        }
    }
}

/// Runs one attempt to its end. The report says how it ended.
pub(super) async fn run(node: &Arc<Node>, jobs: &Arc<Jobs>, ticket: Ticket, cancel: Cancel) {
    let client = node.client.fresh();
    let identity = Identity::new(client.clone(), &node.config.node_id, node.key.clone(), ticket.clone());
    let mut machine = Machine {
        learning: Learning::new(client.clone(), identity.clone(), &ticket),
        store: Store::new(client.clone(), &ticket.region),
        client,
        identity,
        node: node.clone(),
        jobs: jobs.clone(),
        ticket,
        cancel,
        diary: Diary::begin(),
        spec: None,
        progress: None,
    };
    let (Ok(outcome) | Err(Stop(outcome))) = machine.phases().await;
    machine.end(shortened(outcome)).await;
}

struct Machine {
    node: Arc<Node>,
    jobs: Arc<Jobs>,
    ticket: Ticket,
    cancel: Cancel,
    client: Client,
    identity: Identity,
    learning: Learning,
    store: Store,
    diary: Diary,
    /// Known from its phase on.
    spec: Option<Arc<RunSpec>>,
    /// Tells the Machine Learning service, from there on.
    progress: Option<Task<()>>,
}

/// A named output and where the agent has it.
type Placed<'a> = (&'a Output, Folder, Option<String>);

impl Machine {
    async fn phases(&mut self) -> Result<Outcome, Stop> {
        let (cancel, store) = (self.cancel.clone(), self.store.clone());

        self.enter(Phase::Identity);
        let token = cancel.unless(async { self.identity.token().await.map_err(refused) }).await?;

        self.enter(Phase::Specification);
        let spec = Arc::new(cancel.unless(self.learning.specification(&token)).await?);
        self.spec = Some(spec.clone());
        self.progress = Some(self.tell_progress());

        if let Some(named) = &spec.environment.image {
            self.enter(Phase::Image);
            let digest = cancel.unless(image::digest(&self.client, named)).await?;
            self.diary.note(&format!("image {}/{} is {digest}", named.host, named.repository));
        }

        self.enter(Phase::Code);
        let mut places = Places::make(&self.node.work, &spec)?;
        if let Some(code) = &spec.code {
            self.bring(code, places.program_folder()?, "the code").await?;
        }

        self.enter(Phase::Inputs);
        for input in &spec.inputs {
            let folder = places.input(&input.path, input.read_only)?;
            self.bring(&input.source, folder, &format!("the input `{}`", input.name)).await?;
        }
        let mut outputs = Vec::new();
        for output in &spec.outputs {
            let (folder, name) = places.output(output)?;
            outputs.push((output, folder, name));
        }

        self.enter(Phase::Running);
        let path = places.finish(&spec.environment)?;
        let opened =
            async { log::open(&store, &spec.artifacts).await.map_err(|t| Stop::service("opening the log", t)) };
        let (jobs, ticket) = (self.jobs.clone(), self.ticket.clone());
        let plan = program::Plan {
            spec: &spec,
            variables: program::variables(&spec, &token, &path, &places.home()),
            mounts: places.mounts(),
            end: cancel.unless(opened).await?,
            log_begun: Box::new(move || jobs.tell(&ticket, |report| report.log_begun = true)),
        };
        let started = |limits| self.jobs.tell(&self.ticket, |report| report.limits = Some(limits));
        let ran = program::run(&self.node.sandbox, &store, plan, cancel.clone(), started).await?;
        self.diary.note(&format!("the program ended: {}", told(&ran.outcome)));
        self.diary.note(&format!("log: {} bytes kept, {} not", ran.tally.kept, ran.tally.lost));
        self.warn(ran.warnings);

        self.enter(Phase::Outputs);
        self.outputs(&spec, &places, outputs, ran.outcome).await
    }

    /// The outputs, and what the run comes to with them.
    async fn outputs(
        &mut self,
        spec: &RunSpec,
        places: &Places,
        named: Vec<Placed<'_>>,
        ended: Outcome,
    ) -> Result<Outcome, Stop> {
        let well = matches!(ended, Outcome::Exited { code: 0 });
        let limit = self.client.patience().farewell;
        let work = take(&self.store, spec, places, named, well);
        let taken = if matches!(ended, Outcome::Canceled) {
            // Somebody waits for the end: what cannot be stored soon is not.
            let late = Stop::failed("OutputRefused", "The run was cancelled while they were stored.");
            timeout(limit, work).await.unwrap_or(Err(late))
        } else {
            self.cancel.unless(work).await
        };
        match taken {
            Ok((harvest, warnings)) => {
                self.diary.note(&format!("outputs: {} files, {} bytes", harvest.files, harvest.bytes));
                self.warn(warnings);
                Ok(ended)
            }
            Err(Stop(Outcome::Canceled)) => Err(Stop(Outcome::Canceled)),
            Err(stop) if well => Err(stop),
            Err(Stop(other)) => {
                // That it failed is what its person has to know first.
                self.warn(vec![format!("Not all outputs were stored: {}", told(&other))]);
                Ok(ended)
            }
        }
    }

    async fn bring(&mut self, source: &Source, to: Folder, what: &str) -> Result<(), Stop> {
        let brought = self.cancel.unless(fetch::bring(&self.store, source, to, what)).await?;
        self.diary.note(&format!("{what}: {} files, {} bytes", brought.files, brought.bytes));
        Ok(())
    }

    fn enter(&mut self, phase: Phase) {
        self.diary.enter(phase);
        self.jobs.tell(&self.ticket, |report| report.phase = phase);
    }

    fn warn(&self, warnings: Vec<String>) {
        if !warnings.is_empty() {
            self.jobs.tell(&self.ticket, |report| report.warnings.extend(warnings.iter().map(|w| shorten(w))));
        }
    }

    /// Tells the Machine Learning service of every change. It need not hear them all: the management conversation
    /// says the same, and the last one is told by [`Machine::end`].
    fn tell_progress(&self) -> Task<()> {
        let (jobs, learning, ticket) = (self.jobs.clone(), self.learning.clone(), self.ticket.clone());
        let pause = self.client.patience().pause_max;
        Task(tokio::spawn(async move {
            let mut changes = jobs.changes();
            loop {
                changes.borrow_and_update();
                let Some(report) = jobs.report().filter(|r| r.ticket == ticket) else { return };
                match learning.progress(&report).await {
                    Ok(Some(order)) => drop(jobs.take(order)),
                    Ok(None) => {}
                    Err(_) => {
                        sleep(pause).await;
                        continue;
                    }
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }))
    }

    /// Last words: the diary, the report, and the report again to who asks no more.
    async fn end(mut self, outcome: Outcome) {
        let limit = self.client.patience().farewell;
        self.diary.note(&format!("ended: {}", told(&outcome)));
        if let Some(spec) = &self.spec
            && !is_storage(&outcome)
        {
            let text = self.diary.text(&self.node.config.node_id, &self.ticket);
            let _ = timeout(limit, self.store.write(&spec.artifacts, DIARY_PATH, TEXT, text.into())).await;
        }
        self.progress = None;
        self.jobs.tell(&self.ticket, |report| {
            if matches!(outcome, Outcome::Exited { .. }) {
                report.phase = Phase::Ended;
            }
            report.outcome = Some(outcome);
        });
        if self.spec.is_some()
            && let Some(report) = self.jobs.report().filter(|r| r.ticket == self.ticket)
        {
            let _ = timeout(limit, self.learning.progress(&report)).await;
        }
    }
}

/// Takes artifacts and named outputs.
async fn take(
    store: &Store,
    spec: &RunSpec,
    places: &Places,
    named: Vec<Placed<'_>>,
    well: bool,
) -> Result<(Harvest, Vec<String>), Stop> {
    let mut room = Room::default();
    let mut all = Harvest::default();
    let mut warnings = Vec::new();
    let mut add = |one: Harvest| {
        all.files += one.files;
        all.bytes += one.bytes;
        warnings.extend(one.warnings);
    };
    let start = places.program_folder()?;
    for name in ARTIFACT_FOLDERS {
        // A program may remove it, or put something else in its place.
        let Ok(folder) = start.folder(name) else { continue };
        let what = format!("the folder `{name}`");
        add(harvest::folder(store, folder, &spec.artifacts, &format!("{name}/"), &what, &mut room).await?);
    }
    for (output, folder, file) in named {
        if !well && !output.even_if_failed {
            continue;
        }
        let what = format!("the output `{}`", output.name);
        add(match file {
            Some(file) => harvest::file(store, &folder, &file, &output.destination, &what, &mut room).await?,
            None => harvest::folder(store, folder, &output.destination, "", &what, &mut room).await?,
        });
    }
    Ok((all, warnings))
}

fn refused(trouble: super::http::Trouble) -> Stop {
    Stop::service("getting the run's token", trouble)
}

fn is_storage(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unreachable(finding) if finding.label.starts_with("Storage."))
}

fn shortened(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed { code, message } => Outcome::Failed { code, message: shorten(&message) },
        other => other,
    }
}

/// An outcome in words.
fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Exited { code } => format!("exit code {code}"),
        Outcome::Canceled => "cancelled".to_owned(),
        Outcome::TimedOut { seconds } => format!("longer than {seconds} seconds"),
        Outcome::Unreachable(finding) => {
            let address = finding.address.as_deref().unwrap_or("no address");
            let why = match &finding.reach {
                Reach::Failed(why) => why.as_str(),
                Reach::Untried | Reach::Reached => "no answer",
            };
            format!("{} was not reached ({address}, port {}): {why}", finding.label, finding.port)
        }
        Outcome::Failed { code, message } => format!("{code}: {message}"),
    }
}

/// What the node did, with how long it took, for `system_logs`. No time of day: nodes have no clock anybody set.
struct Diary {
    begun: Instant,
    entered: Option<(Phase, Instant)>,
    text: String,
}

impl Diary {
    fn begin() -> Self {
        Self { begun: Instant::now(), entered: None, text: String::new() }
    }

    fn note(&mut self, what: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        // Writing to a text cannot fail.
        let _ = writeln!(self.text, "{at:9.3} s  {what}");
    }

    fn enter(&mut self, phase: Phase) {
        let now = Instant::now();
        if let Some((last, since)) = self.entered.replace((phase, now)) {
            self.note(&format!("phase {last:?} took {:.3} s", (now - since).as_secs_f64()));
        }
        self.note(&format!("phase {phase:?}"));
    }

    fn text(&self, node: &str, ticket: &Ticket) -> String {
        format!("node {node}, run {}, attempt {}\n{}", ticket.run, ticket.attempt, self.text)
    }
}
