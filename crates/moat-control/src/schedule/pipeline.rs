//! One step of a pipeline: it goes as the jobs go that are its steps.
//!
//! The jobs were made with it (`moat_model::jobs::pipeline`) and are scheduled as any others, each once those are completed
//! that it waits for. Not here: what the steps are.

use jiff::Timestamp;
use moat_arm::{ResourceId, Snapshot, Stored, document};
use moat_model::types::microsoft_machinelearningservices::runs::{Run, RunError, Status};
use serde_json::Value;

/// Whether a job that waits for others may begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// All are completed.
    Now,
    /// Some have not ended.
    NotYet,
    /// One of them did not end well.
    Never(String),
}

/// Whether it is the turn of `job`.
pub(super) fn turn(snapshot: &Snapshot, job: &Stored) -> Turn {
    let mut turn = Turn::Now;
    for name in &Run::of(&job.body).after {
        match sibling(snapshot, job, name).and_then(|d| Status::of(&d.body)) {
            Some(Status::Completed) => {}
            Some(status) if !status.is_terminal() => turn = Turn::NotYet,
            Some(status) => return Turn::Never(format!("The job '{name}' that it waited for is {status:?}.")),
            None => return Turn::Never(format!("The job '{name}' that it waited for does not exist any more.")),
        }
    }
    turn
}

fn sibling<'a>(snapshot: &'a Snapshot, job: &Stored, name: &str) -> Option<&'a Stored> {
    Some(snapshot.get(&job.id.parent()?.child("jobs", name))?.as_ref())
}

/// What becomes of a pipeline, and of steps that it takes back: the documents that change.
pub(super) fn step(snapshot: &Snapshot, pipeline: &Stored, now: Timestamp) -> Vec<(ResourceId, Value)> {
    let mut run = Run::of(&pipeline.body);
    let status = Status::of(&pipeline.body).unwrap_or(Status::NotStarted);
    let steps: Vec<&Stored> = run.steps.iter().filter_map(|name| sibling(snapshot, pipeline, name)).collect();
    let of = |step: &Stored| Status::of(&step.body).unwrap_or(Status::NotStarted);
    let failed = steps.iter().find(|s| of(s) == Status::Failed);
    let is_cancelled = status == Status::CancelRequested;
    // AZURE: what holds where nothing is said was not observed; here the steps go on that can.
    let go_on = document::bool_at(&pipeline.body, "properties.settings.continue_on_step_failure").unwrap_or(true);

    let mut changed: Vec<(ResourceId, Value)> = Vec::new();
    if is_cancelled || (failed.is_some() && !go_on) {
        changed.extend(steps.iter().filter_map(|step| cancelled(step, now)));
    }
    let next = if steps.iter().any(|s| !of(s).is_terminal()) {
        let begun = steps.iter().any(|s| of(s) != Status::NotStarted);
        if begun && !is_cancelled { Status::Running } else { status }
    } else if is_cancelled {
        Status::Canceled
    } else if let Some(step) = failed {
        let why = Run::of(&step.body).error.unwrap_or_default();
        let message = format!("Its step '{}' failed: {}", step.id.name(), why.message);
        run.error = Some(RunError { message, ..why });
        Status::Failed
    } else if steps.len() < run.steps.len() || steps.iter().any(|s| of(s) == Status::Canceled) {
        Status::Canceled
    } else {
        Status::Completed
    };
    if next != status {
        if next == Status::Running {
            run.started.get_or_insert(now);
        }
        if next.is_terminal() {
            run.ended = Some(now);
            run.verdict = Some(next);
        }
        let mut body = pipeline.body.clone();
        run.put(&mut body);
        next.put(&mut body);
        changed.push((pipeline.id.clone(), body));
    }
    changed
}

/// A step that is asked to end, as the action `cancel` does; `None` where that is so already.
fn cancelled(step: &Stored, now: Timestamp) -> Option<(ResourceId, Value)> {
    let mut run = Run::of(&step.body);
    let status = Status::of(&step.body).filter(|s| !s.is_terminal() && run.cancel_requested.is_none())?;
    run.cancel_requested = Some(now);
    let mut body = step.body.clone();
    run.put(&mut body);
    // What is being stored stays so: the program has ended.
    if status != Status::Finalizing {
        Status::CancelRequested.put(&mut body);
    }
    Some((step.id.clone(), body))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use moat_arm::Batch;
    use moat_model::types::microsoft_machinelearningservices::runs::Kind;
    use serde_json::json;

    fn id(name: &str) -> ResourceId {
        let workspace = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w";
        ResourceId::parse(workspace).unwrap().child("jobs", name)
    }

    /// A pipeline `p` of `a` and of `b`, which waits for `a`.
    struct Lab(Snapshot);

    impl Lab {
        fn new(a: Status, b: Status) -> Self {
            let mut lab = Self(Snapshot::default());
            let named = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
            lab.have("a", a, Run::default());
            lab.have("b", b, Run { after: named(&["a"]), ..Run::default() });
            lab.have("p", Status::Running, Run { kind: Kind::Pipeline, steps: named(&["a", "b"]), ..Run::default() });
            lab
        }

        fn have(&mut self, name: &str, status: Status, run: Run) {
            let mut body = json!({"properties": {}});
            run.put(&mut body);
            status.put(&mut body);
            self.put(id(name), body);
        }

        fn put(&mut self, id: ResourceId, body: Value) {
            let mut batch = Batch::default();
            batch.put(id, body);
            self.0.apply(&batch);
        }

        fn stored(&self, name: &str) -> &Stored {
            self.0.get(&id(name)).unwrap()
        }

        /// Status of the pipeline and of the second step after one step of the pipeline.
        fn after(mut self) -> (Status, Status) {
            for (id, body) in step(&self.0, self.stored("p"), Timestamp::UNIX_EPOCH) {
                self.put(id, body);
            }
            // A second one changes nothing more.
            assert!(step(&self.0, self.stored("p"), Timestamp::UNIX_EPOCH).is_empty());
            (Status::of(&self.stored("p").body).unwrap(), Status::of(&self.stored("b").body).unwrap())
        }
    }

    use Status::{CancelRequested, Canceled, Completed, Failed, NotStarted, Running};

    #[test]
    fn a_pipeline_goes_as_its_steps_go() {
        assert_eq!(Lab::new(Running, NotStarted).after(), (Running, NotStarted));
        assert_eq!(Lab::new(Completed, Running).after(), (Running, Running));
        assert_eq!(Lab::new(Completed, Completed).after(), (Completed, Completed));
        assert_eq!(Lab::new(Failed, NotStarted).after(), (Running, NotStarted));
        assert_eq!(Lab::new(Failed, Canceled).after(), (Failed, Canceled));
        assert_eq!(Lab::new(Completed, Canceled).after(), (Canceled, Canceled));
    }

    #[test]
    fn who_ends_a_pipeline_ends_its_steps() {
        let cancelled = |a, b| {
            let mut lab = Lab::new(a, b);
            let mut body = lab.stored("p").body.clone();
            CancelRequested.put(&mut body);
            lab.put(id("p"), body);
            lab.after()
        };
        assert_eq!(cancelled(Completed, Running), (CancelRequested, CancelRequested));
        assert_eq!(cancelled(Completed, Status::Finalizing), (CancelRequested, Status::Finalizing));
        assert_eq!(cancelled(Completed, Canceled), (Canceled, Canceled));
    }

    #[test]
    fn a_pipeline_may_stop_at_the_first_failure() {
        let mut lab = Lab::new(Failed, Running);
        let mut body = lab.stored("p").body.clone();
        document::set(&mut body, "properties.settings.continue_on_step_failure", json!(false));
        lab.put(id("p"), body);
        assert_eq!(lab.after(), (Running, CancelRequested));
    }

    #[test]
    fn a_step_begins_when_all_before_it_are_completed() {
        let turn = |a| {
            let lab = Lab::new(a, NotStarted);
            super::turn(&lab.0, lab.stored("b"))
        };
        assert_eq!(turn(Completed), Turn::Now);
        assert_eq!(turn(Running), Turn::NotYet);
        assert_eq!(turn(Failed), Turn::Never("The job 'a' that it waited for is Failed.".to_owned()));
    }
}
