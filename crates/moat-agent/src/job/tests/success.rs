//! What goes well: a whole run, its orders, its programs' surroundings.

use hyper::Method;

use super::world::{BATCH, Fault, LEARNING, LOGIN, STORAGE, World, blob, impatient, prefix, script, spec, ticket};
use crate::config::Mode;
use crate::spec::{Image, Input, Output, RunSpec, Source};
use crate::work::{Order, Outcome, Phase, Ticket};

fn whole() -> RunSpec {
    let wd = "/mnt/azureml/cr/j/r/exe/wd";
    let mut spec = script(&format!(
        "cat main.txt {wd}/INPUT_d/deep/data.txt {wd}/INPUT_f/one.txt; echo $AZUREML_RUN_TOKEN; \
         echo loss > outputs/metric.txt; echo l > logs/my.log; mkdir -p {wd}/out/sub; echo m > {wd}/out/sub/model.bin; \
         echo one > {wd}/single/file.csv; command -v python"
    ));
    spec.token_variables = vec!["AZUREML_RUN_TOKEN".to_owned()];
    spec.environment.python = Some("/bin/true".to_owned());
    let image = Image {
        host: super::world::REGISTRY.to_owned(),
        repository: "azureml/base".to_owned(),
        reference: "latest".to_owned(),
    };
    spec.environment.image = Some(image);
    spec.code = Some(Source::Folder(prefix("code")));
    let input = |name: &str, source| Input {
        name: name.to_owned(),
        source,
        path: format!("{wd}/INPUT_{name}"),
        read_only: true,
    };
    spec.inputs =
        vec![input("d", Source::Folder(prefix("data"))), input("f", Source::Files(vec![blob("single/one.txt")]))];
    if let Source::Files(files) = &mut spec.inputs[1].source {
        files[0].path = "one.txt".to_owned();
    }
    let output = |name: &str, path: &str, file, to: &str| Output {
        name: name.to_owned(),
        path: format!("{wd}/{path}"),
        file,
        destination: prefix(to),
        even_if_failed: false,
    };
    spec.outputs = vec![output("o", "out", false, "named/o"), output("s", "single/file.csv", true, "named/s.csv")];
    spec
}

fn stocked(mode: Mode) -> World {
    let world = World::with(mode, impatient());
    world.put("code/main.txt", "code\n");
    world.put("code/lib/a & b/x.py", "x");
    world.put("code/lib/y.py", "y");
    world.put("data/deep/data.txt", "data\n");
    world.put("single/one.txt", "one\n");
    world
}

#[test]
fn a_whole_run_ends_with_its_outputs_in_their_places() {
    let world = stocked(Mode::Classic);
    let report = world.run(whole());
    assert_eq!(report.outcome, Some(Outcome::Exited { code: 0 }), "{}", world.log());
    assert_eq!(report.phase, Phase::Ended);
    assert_eq!(report.limits.as_deref(), Some("none"));
    assert_eq!(report.warnings, Vec::<String>::new());
    // The private folder is found by its place inside, which this sandbox does not have.
    assert!(world.log().starts_with("code\ndata\none\nthe-token-of-the-run\n"), "{}", world.log());
    assert_eq!(world.text("run/outputs/metric.txt").as_deref(), Some("loss\n"));
    assert_eq!(world.text("run/logs/my.log").as_deref(), Some("l\n"));
    assert_eq!(world.text("named/o/sub/model.bin").as_deref(), Some("m\n"));
    assert_eq!(world.text("named/s.csv").as_deref(), Some("one\n"));
    let diary = world.text("run/system_logs/moat/node.log").unwrap();
    for part in ["phase Identity", "the code: 3 files", "the input `d`: 1 files", "ended: exit code 0"] {
        assert!(diary.contains(part), "{part} in {diary}");
    }
    assert!(!diary.contains("s3cret") && !diary.contains("the-token"));

    let phases: Vec<Phase> = world.events().iter().map(|e| e.phase).collect();
    assert!(phases.is_sorted(), "{phases:?}");
    // The last word may come a little after the report.
    world.until_report("the end", |r| r.outcome.is_some());
    world.until_seen(&Method::POST, LEARNING, "/events");
}

#[test]
fn an_end_is_told_until_it_is_forgotten_and_the_next_run_finds_a_clean_node() {
    let world = World::new();
    world.run(script("echo kept > outputs/left; touch left"));
    assert!(world.jobs.report().is_some());
    let other = Ticket { attempt: 9, ..ticket() };
    world.jobs.take(Order::Start(other.clone()));
    world.jobs.take(Order::Forget(other));
    assert_eq!(world.jobs.report().map(|r| r.ticket), Some(ticket()), "one at a time, and nobody else's");
    world.jobs.take(Order::Forget(ticket()));
    assert_eq!(world.jobs.report(), None);
    world.jobs.take(Order::Start(ticket()));
    assert_eq!(world.jobs.report(), None, "the same attempt is never run twice");
}

#[test]
fn connections_of_one_run_carry_no_other() {
    let world = World::new();
    assert_eq!(world.run(script("true")).outcome, Some(Outcome::Exited { code: 0 }));
    world.jobs.take(Order::Forget(ticket()));
    // Where a connection stands it would still be answered.
    world.down(LOGIN, true);
    world.jobs.take(Order::Start(Ticket { attempt: 2, ..ticket() }));
    let report = world.end();
    assert!(matches!(report.outcome, Some(Outcome::Unreachable(_))), "{report:?}");
    assert_eq!(report.phase, Phase::Identity);
}

#[test]
fn a_run_that_goes_on_is_not_forgotten() {
    let world = World::new();
    world.begin(script("sleep 1000"));
    world.until_report("limits", |r| r.limits.is_some());
    world.jobs.take(Order::Forget(ticket()));
    world.jobs.take(Order::Start(ticket()));
    assert_eq!(world.jobs.report().map(|r| r.phase), Some(Phase::Running));
    world.cancel(0);
    assert_eq!(world.end().outcome, Some(Outcome::Canceled));
}

#[test]
fn in_simplified_communication_the_node_asks_and_tells_by_itself() {
    let world = stocked(Mode::Simplified);
    world.publish(whole());
    world.work(vec![Order::Start(ticket())], false);
    let report = world.end();
    assert_eq!(report.outcome, Some(Outcome::Exited { code: 0 }), "{}", world.log());
    world.until_asked(|run| run.outcome.is_some());
}

#[test]
fn an_order_that_only_the_network_makes_is_not_taken() {
    let world = World::with(Mode::Simplified, impatient());
    world.publish(spec());
    world.work(vec![Order::Start(ticket())], true);
    world.until_count(&Method::POST, BATCH, "/work", 3);
    assert_eq!(world.jobs.report(), None);
    assert_eq!(world.count(&Method::POST, LOGIN, ""), 0);
}

#[test]
fn a_cancel_may_come_as_answer_to_progress() {
    let world = World::new();
    world.answer_event(Order::Cancel { ticket: ticket(), grace_seconds: 0 });
    let report = world.run(script("sleep 1000"));
    assert_eq!(report.outcome, Some(Outcome::Canceled));
}

#[test]
fn what_passes_is_tried_again() {
    let world = stocked(Mode::Classic);
    world.faults(Method::POST, LOGIN, "token", Fault::Status(503), 2);
    world.faults(Method::GET, LEARNING, "/attempts/", Fault::Cut, 1);
    world.faults(Method::GET, STORAGE, "comp=list", Fault::Status(429), 1);
    world.faults(Method::GET, STORAGE, "data.txt", Fault::Half, 2);
    world.faults(Method::PUT, STORAGE, "metric.txt", Fault::Lost, 1);
    world.faults(Method::POST, LEARNING, "/events", Fault::Status(500), 2);
    let report = world.run(whole());
    assert_eq!(report.outcome, Some(Outcome::Exited { code: 0 }), "{}", world.log());
    assert!(world.log().contains("\ndata\n"));
}
