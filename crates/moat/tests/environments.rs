//! Environments from the outside: start, end, crash, refusals, and what stays on the host (nothing).
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use common::{User, each_user, eventually, host_state, kill, listing, lives};
use nix::sys::signal::Signal;

#[test]
fn an_environment_starts_says_how_it_is_and_ends() {
    each_user(|user| {
        user.run(&["status"]).exited(3);
        let up = user.run(&["up", "--detach"]).succeeded();
        assert!(up.out.contains("https://127.0.0.1:"), "{}", up.out);
        assert!(up.out.contains("edition  2021-09"), "{}", up.out);
        let status = user.run(&["status", "-o", "json"]).succeeded().json();
        assert_eq!(status["running"], true);
        assert_eq!(status["edition"], "2021-09");
        let list = user.run(&["env", "list", "-o", "json"]).succeeded().json();
        assert_eq!(list[0]["name"], "default");
        assert_eq!(list[0]["running"], true);
        user.run(&["up", "--detach"]).failed_saying(&["default", "running already"]);

        let processes = user.processes("default");
        user.run(&["down"]).succeeded();
        assert!(processes.values().all(|pid| !lives(*pid)), "{processes:?}");
        user.run(&["status"]).exited(3);
        assert!(user.state().join("default/data").is_dir(), "state stays");
        user.run(&["down", "--purge"]).succeeded();
        assert!(!user.state().join("default").exists(), "state is gone");
        user.run(&["down"]).succeeded();
    });
}

#[test]
fn state_and_port_stay_from_one_start_to_the_next() {
    each_user(|user| {
        user.up(&["--edition", "current"]);
        let first = user.run(&["status", "-o", "json"]).json();
        user.run(&["down"]).succeeded();
        user.up(&[]);
        let second = user.run(&["status", "-o", "json"]).json();
        for same in ["/url", "/edition", "/server/subscription", "/server/tenant"] {
            assert_eq!(first.pointer(same), second.pointer(same), "{same}");
        }
        user.run(&["down"]).succeeded();
        user.run(&["up", "--detach", "--edition", "2021-09"]).failed_saying(&["edition current", "--purge"]);
    });
}

#[test]
fn several_environments_run_side_by_side() {
    each_user(|user| {
        user.up(&["-e", "one"]);
        user.up(&["-e", "two"]);
        let status = |name: &str| user.run(&["status", "-e", name, "-o", "json"]).succeeded().json();
        let (one, two) = (status("one"), status("two"));
        assert_ne!(one["url"], two["url"]);
        assert_ne!(one["server"]["subscription"], two["server"]["subscription"]);
        user.run(&["down", "-e", "one"]).succeeded();
        status("two");
    });
}

#[test]
fn a_named_port_that_is_taken_is_said_so() {
    each_user(|user| {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        user.run(&["up", "--detach", "--port", &port]).failed_saying(&["port", &port, "--port"]);
        drop(taken);
        user.up(&["--port", &port]);
        let url = user.run(&["status", "-o", "json"]).json()["url"].clone();
        assert_eq!(url, format!("https://127.0.0.1:{port}"));
    });
}

#[test]
fn a_state_directory_that_cannot_be_written_is_said_so() {
    each_user(|user| {
        let sealed = user.tmp().join("sealed");
        std::fs::create_dir(&sealed).unwrap();
        std::fs::set_permissions(&sealed, std::fs::Permissions::from_mode(0o555)).unwrap();
        // Root may write anywhere but into /proc.
        let home = if user.uid() == 0 { "/proc/sealed".into() } else { sealed };
        let output = user.moat(&["up", "--detach"]).env("MOAT_HOME", &home).output().unwrap();
        common::Ran::of(output, &["up"]).failed_saying(&["state directory", home.to_str().unwrap(), "MOAT_HOME"]);
    });
}

#[test]
fn a_full_or_read_only_disk_is_said_so() {
    let user = User::new(None);
    for (options, word) in [("size=256k", "No space left"), ("ro", "Read-only")] {
        let disk = user.tmp();
        let script =
            format!("mount -t tmpfs -o {options} none {} && exec {} up --detach", disk.display(), user.moat.display());
        // A mount of our own, so in namespaces of our own.
        let output = user
            .command("unshare")
            .args(["--user", "--map-root-user", "--mount", "bash", "-c", &script])
            .env("MOAT_HOME", disk.join("state"))
            .output()
            .unwrap();
        common::Ran::of(output, &["up"]).failed_saying(&["state directory", word]);
    }
}

#[test]
fn a_kernel_that_refuses_user_namespaces_is_said_so() {
    let user = User::new(None);
    // The limit counts for the namespaces below the one it is set in.
    let inside = |command: &str| {
        let script = format!("echo 0 > /proc/sys/user/max_user_namespaces && exec {} {command}", user.moat.display());
        let args = ["--user", "--map-root-user", "bash", "-c", &script];
        common::Ran::of(user.command("unshare").args(args).output().unwrap(), &[command])
    };
    inside("up --detach").failed_saying(&["refused a user namespace", "max_user_namespaces"]);
    let report = inside("doctor -o json").exited(1).json();
    assert_eq!(report["ready"], false);
    assert_eq!(report["findings"][0]["name"], "user namespace");
    assert_eq!(report["findings"][0]["ok"], false);
    assert_eq!(listing(&user.state().join("default/data")), Vec::<String>::new());
}

#[test]
fn bad_names_are_refused() {
    let user = User::new(None);
    for name in ["../x", "A", "a b", ""] {
        user.run(&["up", "--detach", "-e", name]).failed_saying(&["no name for an environment"]);
    }
}

#[test]
fn killing_any_process_ends_everything_and_a_new_start_brings_it_back() {
    each_user(|user| {
        let before = host_state();
        for role in ["init", "server", "helper"] {
            user.up(&[]);
            let subscription = user.run(&["status", "-o", "json"]).json()["server"]["subscription"].clone();
            let processes = user.processes("default");
            assert!(processes.contains_key("server") && processes.contains_key("helper"), "{processes:?}");
            kill(processes[role], Signal::SIGKILL);
            eventually("every process to end", || processes.values().all(|pid| !lives(*pid)));
            user.run(&["status"]).exited(3);
            user.up(&[]);
            let after = user.run(&["status", "-o", "json"]).json()["server"]["subscription"].clone();
            assert_eq!(subscription, after, "after killing {role}");
            user.run(&["down"]).succeeded();
        }
        assert_eq!(before, host_state());
    });
}

#[test]
fn the_host_is_the_same_before_during_and_after() {
    each_user(|user| {
        let before = host_state();
        user.up(&[]);
        assert_eq!(before, host_state(), "while it runs");
        user.run(&["down", "--purge"]).succeeded();
        assert_eq!(before, host_state(), "after");
        assert_eq!(listing(&user.state()), Vec::<String>::new());
        assert_eq!(listing(&user.home()), Vec::<String>::new());
        assert_eq!(listing(&user.tmp()), Vec::<String>::new());
    });
}

#[test]
fn in_the_foreground_it_lives_as_long_as_its_command() {
    each_user(|user| {
        for (signal, code) in [(Signal::SIGINT, Some(0)), (Signal::SIGTERM, Some(0)), (Signal::SIGKILL, None)] {
            let mut front = user.start(&["up"]);
            assert!(front.line().contains("is ready"));
            let processes = user.processes("default");
            front.signal(signal);
            let got = front.code();
            assert!(code.is_none_or(|code| code == got), "{signal}: {got}");
            eventually("every process to end", || processes.values().all(|pid| !lives(*pid)));
            user.run(&["status"]).exited(3);
        }
    });
}

#[test]
fn a_foreground_environment_that_breaks_says_so() {
    each_user(|user| {
        let mut front = user.moat(&["up"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(front.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("is ready"));
        kill(user.processes("default")["server"], Signal::SIGKILL);
        let output = front.wait_with_output().unwrap();
        common::Ran::of(output, &["up"]).failed_saying(&["ended by itself", "moat up"]);
    });
}

#[test]
fn the_processes_have_the_rights_they_need_and_no_more() {
    each_user(|user| {
        user.up(&[]);
        let processes = user.processes("default");
        let status = |role: &str| std::fs::read_to_string(format!("/proc/{}/status", processes[role])).unwrap();
        let field = |role: &str, name: &str| {
            status(role)
                .lines()
                .find_map(|l| l.strip_prefix(name))
                .unwrap()
                .split_whitespace()
                .next()
                .unwrap()
                .to_owned()
        };
        for role in ["init", "helper", "server"] {
            assert_eq!(field(role, "NoNewPrivs:"), "1", "{role}");
            assert_eq!(field(role, "CapBnd:"), "0000000000000000", "{role}");
        }
        assert_eq!(field("server", "CapPrm:"), "0000000000000000");
        // KILL, SETGID, SETUID, NET_BIND_SERVICE, NET_ADMIN, NET_RAW, SYS_ADMIN; and SETFCAP where the world has one
        // user, whose agents get theirs from a namespace in between.
        let expected = if user.uid() == 0 { "00000000002034e0" } else { "00000000802034e0" };
        assert_eq!(field("helper", "CapPrm:"), expected);
        if user.uid() == 0 {
            assert_ne!(field("server", "Uid:"), "0", "the server is not root of the host");
            assert_ne!(field("helper", "Uid:"), "0", "the helper is not root of the host");
        }
        let fds: Vec<_> =
            std::fs::read_dir(format!("/proc/{}/fd", processes["helper"])).into_iter().flatten().collect();
        assert!(fds.len() < 10, "the helper holds {} descriptors", fds.len());
    });
}

#[test]
fn doctor_finds_this_machine_fit() {
    each_user(|user| {
        let found = user.run(&["doctor", "-o", "json"]);
        let report = found.json();
        assert_eq!(report["ready"], true, "{report:#}");
        assert!(report["findings"].as_array().unwrap().len() > 12);
    });
}
