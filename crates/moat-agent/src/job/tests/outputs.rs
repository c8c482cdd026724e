//! Taking outputs from folders that a stranger filled.

use super::world::{World, script};
use crate::work::{Outcome, Phase};

#[test]
fn links_lead_nowhere_and_are_said() {
    let world = World::new();
    let report = world.run(script(
        "echo good > outputs/good; ln -s /etc/passwd outputs/passwd; ln -s /etc outputs/etc; mkfifo outputs/pipe; \
         mkdir -p outputs/empty",
    ));
    assert_eq!(report.outcome, Some(Outcome::Exited { code: 0 }));
    let taken: Vec<_> = world.names().into_iter().filter(|n| n.contains("/outputs/")).collect();
    assert_eq!(taken, ["run/outputs/good"]);
    assert_eq!(report.warnings.len(), 3, "{:?}", report.warnings);
}

#[test]
fn a_folder_that_became_a_link_is_not_followed() {
    let world = World::new();
    let report = world.run(script("rmdir outputs; ln -s /etc outputs; echo l > logs/l"));
    assert_eq!(report.outcome, Some(Outcome::Exited { code: 0 }));
    assert!(!world.names().iter().any(|n| n.contains("/outputs/")), "{:?}", world.names());
    assert_eq!(world.text("run/logs/l").as_deref(), Some("l\n"));
}

#[test]
fn the_programs_folder_may_be_gone() {
    let world = World::new();
    let report = world.run(script("cd /; rm -rf /mnt/azureml/cr/j/r/exe; ln -s /etc /mnt/azureml/cr/j/r/exe"));
    assert_eq!(report.phase, Phase::Outputs);
    assert!(matches!(report.outcome, Some(Outcome::Failed { .. })), "{:?}", report.outcome);
}

#[test]
fn a_large_file_arrives_whole() {
    let world = World::new();
    let report = world.run(script("head -c 9437185 /dev/zero | tr '\\0' x > outputs/large; : > outputs/nothing"));
    assert_eq!(report.outcome, Some(Outcome::Exited { code: 0 }));
    let large = world.bytes("run/outputs/large").unwrap();
    assert!(large.len() == 9_437_185 && large.iter().all(|b| *b == b'x'));
    assert_eq!(world.bytes("run/outputs/nothing"), Some(Vec::new()));
}

#[test]
fn what_a_run_leaves_is_bounded_before_anything_of_it_is_sent() {
    // Files of holes: nothing on the node's disk, and each alone within the bound.
    let holes = "truncate -s 40G outputs/a; truncate -s 40G outputs/b; echo kept > logs/kept";
    let world = World::new();
    let report = world.run(script(holes));
    let Some(Outcome::Failed { code, message }) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!((report.phase, code.as_str()), (Phase::Outputs, "LimitExceeded"), "{message}");
    assert!(message.contains("85899345920 bytes in the folder `outputs`"), "{message}");
    assert!(!world.names().iter().any(|n| n.contains("/outputs/")), "{:?}", world.names());
    // A program that failed has failed first of all; what was not stored is a warning.
    let world = World::new();
    let report = world.run(script(&format!("{holes}; exit 3")));
    assert_eq!(report.outcome, Some(Outcome::Exited { code: 3 }));
    assert!(report.warnings.iter().any(|w| w.contains("LimitExceeded")), "{:?}", report.warnings);
}
