//! The way of the log: soon, whole, in order, once, bounded.

use hyper::Method;

use super::world::{Fault, STORAGE, World, script};
use crate::spec::LOG_PATH;
use crate::work::{Outcome, Phase};

const APPEND: &str = "comp=appendblock";

#[test]
fn a_line_is_there_while_the_program_runs() {
    let world = World::new();
    world.begin(script("echo first; exec sleep 1000"));
    world.until_log("first\n");
    let report = world.until_report("the first line", |report| report.log_begun);
    assert_eq!(report.outcome, None);
    world.cancel(0);
    world.end();
}

#[test]
fn a_log_without_a_line_has_not_begun() {
    let world = World::new();
    let report = world.run(script("exit 0"));
    assert_eq!((report.outcome, report.log_begun), (Some(Outcome::Exited { code: 0 }), false));
}

#[test]
fn the_beginning_of_a_line_does_not_wait_for_ever() {
    let world = World::new();
    world.begin(script("printf 'half a line'; exec sleep 1000"));
    world.until_log("half a line");
    world.cancel(0);
    world.end();
}

#[test]
fn a_batch_whose_answer_was_lost_is_there_once() {
    let world = World::new();
    world.faults(Method::PUT, STORAGE, APPEND, Fault::Lost, 3);
    let report = world.run(script("for i in 1 2 3 4 5; do echo line $i; sleep 0.05; done"));
    assert_eq!(report.outcome, Some(Outcome::Exited { code: 0 }));
    assert_eq!(world.log(), "line 1\nline 2\nline 3\nline 4\nline 5\n");
}

#[test]
fn a_second_attempt_goes_on_after_the_first() {
    let world = World::new();
    world.put(&format!("run/{LOG_PATH}"), "of the first attempt\n");
    world.run(script("echo of the second"));
    assert_eq!(world.log(), "of the first attempt\nof the second\n");
}

#[test]
fn a_store_that_comes_back_has_every_line_in_order() {
    let world = World::new();
    // Down from the second batch on, by refused connections and faults both.
    let mut batches = 0;
    world.fault(move |seen| {
        if !seen.is(&Method::PUT, STORAGE, APPEND) {
            return None;
        }
        batches += 1;
        (batches > 1).then_some(Fault::Cut)
    });
    world.begin(script(
        "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); [ $i = 1 ] && sleep 0.2; done; exit 0",
    ));
    world.until_log("line 0\n");
    world.until_count(&Method::PUT, STORAGE, APPEND, 8);
    world.heal();
    let report = world.end();
    assert_eq!(report.outcome, Some(Outcome::Exited { code: 0 }));
    let expected: String = (0..2000).map(|i| format!("line {i}\n")).collect();
    assert_eq!(world.log(), expected);
}

#[test]
fn a_store_that_stays_away_ends_the_run_where_it_is() {
    let patience =
        crate::job::patience::Patience { store: std::time::Duration::from_millis(200), ..super::world::impatient() };
    let world = World::with(crate::config::Mode::Classic, patience);
    world.fault(|seen| seen.is(&Method::PUT, STORAGE, APPEND).then_some(Fault::Cut));
    let report = world.run(script("echo lost; exec sleep 1000"));
    let Some(Outcome::Unreachable(finding)) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!((report.phase, finding.label.as_str()), (Phase::Running, "Storage.westus2"));
}

#[test]
fn a_flood_is_cut_counted_and_said() {
    let world = World::new();
    let mut spec = script("yes 0123456789abcde | head -c 20000000; echo the end");
    spec.limits.log_bytes = 1_000_000;
    let report = world.run(spec);
    assert_eq!(report.outcome, Some(Outcome::Exited { code: 0 }), "a flood is no failure");
    let log = world.log();
    assert!(log.len() < 1_000_400, "{}", log.len());
    assert!(
        log.ends_with("[moat] 1000000 bytes of the log were kept, 19000008 bytes were not.\n"),
        "{}",
        &log[999_990..]
    );
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
}

#[test]
fn a_flood_against_a_slow_store_can_be_cancelled() {
    let world = World::new();
    world.fault(|seen| seen.is(&Method::PUT, STORAGE, APPEND).then_some(Fault::Hang));
    world.begin(script("exec yes"));
    world.until_seen(&Method::PUT, STORAGE, APPEND);
    world.cancel(0);
    assert_eq!(world.end().outcome, Some(Outcome::Canceled));
}
