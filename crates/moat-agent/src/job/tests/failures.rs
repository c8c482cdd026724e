//! What goes wrong, in each phase: services away, answers that refuse, names that lead elsewhere, cancel, time limit.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};

use hyper::Method;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn};

use super::world::{Fault, LEARNING, LOGIN, REGISTRY, STORAGE, World, impatient, prefix, script, spec};
use crate::config::Mode;
use crate::job::patience::Patience;
use crate::spec::{Image, Input, Output, RunSpec, Source};
use crate::work::{Outcome, Phase, RunReport};

/// A run that needs every service.
fn needy() -> RunSpec {
    let mut spec = script("echo hello; echo x > outputs/x");
    spec.environment.image = Some(Image {
        host: REGISTRY.to_owned(),
        repository: "azureml/base".to_owned(),
        reference: "latest".to_owned(),
    });
    spec.code = Some(Source::Folder(prefix("code")));
    spec.inputs = vec![Input {
        name: "d".to_owned(),
        source: Source::Folder(prefix("data")),
        path: "/mnt/azureml/cr/j/r/INPUT_d".to_owned(),
        read_only: false,
    }];
    spec
}

fn stocked() -> World {
    let world = World::new();
    world.put("code/main.py", "");
    world.put("data/d", "");
    world
}

fn failure(report: &RunReport) -> (Phase, String, String) {
    match &report.outcome {
        Some(Outcome::Failed { code, message }) => (report.phase, code.clone(), message.clone()),
        other => panic!("{other:?} in {:?}", report.phase),
    }
}

#[test]
fn a_service_that_cannot_be_reached_ends_the_run_in_the_phase_that_needs_it() {
    let cases = [
        (LOGIN, Phase::Identity, "AzureActiveDirectory"),
        (LEARNING, Phase::Specification, "AzureMachineLearning"),
        (REGISTRY, Phase::Image, "MicrosoftContainerRegistry"),
        (STORAGE, Phase::Code, "Storage.westus2"),
    ];
    for (host, phase, label) in cases {
        let world = stocked();
        world.down(host, true);
        let report = world.run(needy());
        let Some(Outcome::Unreachable(finding)) = &report.outcome else { panic!("{:?}", report.outcome) };
        assert_eq!((report.phase, finding.label.as_str()), (phase, label));
        assert_eq!(finding.address.as_deref(), Some("127.0.0.1"));
        assert!(!world.log().contains("hello"));
    }
}

/// A port whose queue is full: packets to it are dropped, as by a rule.
fn dropping() -> (std::os::fd::OwnedFd, Vec<TcpStream>, SocketAddrV4) {
    let listener = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    socket::bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &any).unwrap();
    socket::listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let bound: SockaddrIn = socket::getsockname(std::os::fd::AsRawFd::as_raw_fd(&listener)).unwrap();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, bound.port());
    let mut fill = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&SocketAddr::V4(address), std::time::Duration::from_millis(300)) {
        fill.push(stream);
    }
    (listener, fill, address)
}

#[test]
fn a_packet_that_is_dropped_is_known_by_its_source_port() {
    let world = World::with(Mode::Classic, Patience { connect_tries: 1, ..impatient() });
    let (_listener, _fill, address) = dropping();
    world.moved(LEARNING, address);
    let report = world.run(spec());
    let Some(Outcome::Unreachable(finding)) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!((report.phase, finding.port), (Phase::Specification, address.port()));
    assert!(finding.source_port.is_some_and(|p| p > 0));
}

#[test]
fn a_service_that_is_not_the_environments_is_not_believed() {
    // The registry's connections go to who has no certificate for this name.
    let world = stocked();
    let mut spec = needy();
    spec.environment.image =
        Some(Image { host: "evil.azurecr.io".to_owned(), repository: "a".to_owned(), reference: "b".to_owned() });
    let report = world.run(spec);
    let Some(Outcome::Unreachable(finding)) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!((report.phase, finding.label.as_str()), (Phase::Image, "AzureContainerRegistry"));
    assert_eq!(world.count(&Method::GET, "evil.azurecr.io", ""), 0);
}

#[test]
fn services_that_refuse_are_quoted() {
    let world = World::new();
    world.fault(|seen| seen.is(&Method::POST, LOGIN, "").then_some(Fault::Status(401)));
    let (phase, code, message) = failure(&world.run(spec()));
    assert_eq!((phase, code.as_str()), (Phase::Identity, "ServiceError"));
    assert!(message.contains("`login.microsoftonline.com` answered 401"), "{message}");

    let world = stocked();
    let report = world.run(RunSpec { code: Some(Source::Folder(prefix("nothing"))), ..spec() });
    let (phase, code, message) = failure(&report);
    assert_eq!((phase, code.as_str()), (Phase::Code, "InputMissing"));
    assert!(message.contains("the code at `nothing` of the container `c`"), "{message}");

    for (repository, expected) in [("no/such", "ImageNotFound"), ("closed/base", "")] {
        let world = stocked();
        let mut spec = needy();
        spec.environment.image.as_mut().unwrap().repository = repository.to_owned();
        let report = world.run(spec);
        if expected.is_empty() {
            assert_eq!(report.outcome, Some(Outcome::Exited { code: 0 }), "anonymous reading, as docker does");
        } else {
            assert_eq!((failure(&report).0, failure(&report).1.as_str()), (Phase::Image, expected));
        }
    }
}

#[test]
fn a_signature_is_in_no_text() {
    let world = stocked();
    world.fault(|seen| seen.is(&Method::GET, STORAGE, "comp=list").then_some(Fault::Status(403)));
    let (phase, _, message) = failure(&world.run(needy()));
    assert_eq!(phase, Phase::Code);
    assert!(message.contains("403") && !message.contains("s3cret"), "{message}");
}

#[test]
fn a_redirect_is_not_followed() {
    let world = stocked();
    world.faults(Method::GET, STORAGE, "code/main.py", Fault::Status(302), 1);
    assert_eq!(failure(&world.run(needy())).0, Phase::Code);
}

#[test]
fn blobs_whose_names_lead_elsewhere_are_refused() {
    for (names, expected) in [
        (&["../evil"][..], "has `.` or `..` in it"),
        (&["a/../../evil"][..], "has `.` or `..` in it"),
        (&["a//b"][..], "empty"),
        (&["a/\0/b"][..], "NUL"),
        (&["a", "a/b"][..], "both as a file and as a folder"),
    ] {
        let world = stocked();
        for name in names {
            world.put(&format!("data/{name}"), "evil");
        }
        let (phase, code, message) = failure(&world.run(needy()));
        assert_eq!((phase, code.as_str()), (Phase::Inputs, "InputRefused"), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_cancel_ends_every_phase_at_once() {
    let cases: [(Method, &str, &str, Phase); 7] = [
        (Method::POST, LOGIN, "token", Phase::Identity),
        (Method::GET, LEARNING, "/attempts/1", Phase::Specification),
        (Method::GET, REGISTRY, "/manifests/", Phase::Image),
        (Method::GET, STORAGE, "prefix=code", Phase::Code),
        (Method::GET, STORAGE, "/c/data/d", Phase::Inputs),
        (Method::PUT, STORAGE, "std_log.txt", Phase::Running),
        (Method::PUT, STORAGE, "outputs/x", Phase::Outputs),
    ];
    for (method, host, part, phase) in cases {
        let world = stocked();
        world.faults(method.clone(), host, part, Fault::Hang, usize::MAX);
        world.begin(needy());
        world.until_seen(&method, host, part);
        world.heal();
        world.cancel(5);
        let report = world.end();
        assert_eq!((report.phase, report.outcome), (phase, Some(Outcome::Canceled)), "{host} {part}");
    }
}

#[test]
fn a_program_is_asked_to_end_and_then_ended() {
    let world = World::new();
    world.begin(script(
        "trap 'echo goodbye; echo x > outputs/last; exit 0' TERM; echo ready; while :; do sleep 0.05; done",
    ));
    world.until_log("ready");
    world.cancel(30);
    let report = world.end();
    assert_eq!(report.outcome, Some(Outcome::Canceled));
    // The shell may also say that its `sleep` was terminated.
    assert!(world.log().starts_with("ready\n") && world.log().ends_with("goodbye\n"), "{}", world.log());
    assert_eq!(world.text("run/outputs/last").as_deref(), Some("x\n"), "its artifacts are kept");

    let world = World::new();
    world.begin(script("trap '' TERM; echo ready; while :; do sleep 0.05; done"));
    world.until_log("ready");
    world.cancel(0);
    assert_eq!(world.end().outcome, Some(Outcome::Canceled));
}

#[test]
fn the_time_limit_ends_a_program() {
    let world = World::new();
    let mut spec = script("echo begun; exec sleep 1000");
    spec.limits.timeout_seconds = Some(1);
    let report = world.run(spec);
    assert_eq!(report.outcome, Some(Outcome::TimedOut { seconds: 1 }));
    assert_eq!(world.log(), "begun\n");
}

#[test]
fn a_program_that_fails_keeps_its_artifacts_and_what_was_asked_for() {
    let world = World::new();
    let wd = "/mnt/azureml/cr/j/r/exe/wd";
    let mut spec = script(&format!("echo a > outputs/a; echo m > {wd}/always/m; echo m > {wd}/well/m; exit 3"));
    spec.outputs = [("always", true), ("well", false)]
        .map(|(name, even_if_failed)| Output {
            name: name.to_owned(),
            path: format!("{wd}/{name}"),
            file: false,
            destination: prefix(name),
            even_if_failed,
        })
        .to_vec();
    let report = world.run(spec);
    assert_eq!((report.phase, report.outcome), (Phase::Ended, Some(Outcome::Exited { code: 3 })));
    let names = world.names();
    assert!(names.contains(&"run/outputs/a".to_owned()) && names.contains(&"always/m".to_owned()), "{names:?}");
    assert!(!names.contains(&"well/m".to_owned()), "{names:?}");
}

#[test]
fn a_signal_and_a_missing_program_are_told_apart() {
    let killed = World::new().run(script("kill -9 $$"));
    assert_eq!(killed.outcome, Some(Outcome::Exited { code: 137 }));
    let missing = World::new().run(RunSpec { program: vec!["/no/such/program".to_owned()], ..spec() });
    assert_eq!((failure(&missing).0, failure(&missing).1.as_str()), (Phase::Running, "UserError"));
}

#[test]
fn places_outside_are_refused() {
    for folder in ["/etc", "/mnt/azureml/cr/j/r/../../etc", "wd"] {
        let report = World::new().run(RunSpec { folder: folder.to_owned(), ..spec() });
        assert_eq!(failure(&report).1, "NodeError", "{folder}");
    }
}
