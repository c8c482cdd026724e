//! Programs run inside an environment: who they are, what they see, what they cannot reach, how they end.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Stdio};

use common::{all_processes, each_user, eventually, host_state, listing, lives};
use nix::sys::signal::Signal;

#[test]
fn a_program_is_the_same_user_in_the_same_folder_without_rights() {
    each_user(|user| {
        user.up(&[]);
        let ran = user.exec("id -u; id -g; pwd; cat /proc/self/status").succeeded();
        let mut lines = ran.out.lines();
        assert_eq!(lines.next().unwrap(), user.uid().to_string());
        assert_eq!(lines.next().unwrap(), user.uid().to_string());
        assert_eq!(lines.next().unwrap(), user.home().display().to_string());
        for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(ran.out.contains(&format!("{field}:\t0000000000000000")), "{field}: {}", ran.out);
        }
        assert!(ran.out.contains("NoNewPrivs:\t1"));
        // What it writes is its user's.
        user.exec("touch made").succeeded();
        let made = std::fs::metadata(user.home().join("made")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), user.uid());
    });
}

#[test]
fn commands_to_the_server_work_from_inside_but_not_another_exec() {
    each_user(|user| {
        user.up(&[]);
        let moat = format!("MOAT_HOME={} {}", user.state().display(), user.moat.display());
        user.exec(&format!("{moat} cluster list -o json")).succeeded();
        user.exec(&format!("{moat} exec -- true")).failed_saying(&["from here", "outside"]);
    });
}

#[test]
fn azure_answers_under_its_own_name() {
    each_user(|user| {
        user.up(&[]);
        let url = "https://management.azure.com/subscriptions?api-version=2022-12-01";
        let script = format!("curl --silent --show-error --output /dev/null --write-out '%{{http_code}}' '{url}'");
        let ran = user.exec(&script).succeeded();
        assert_eq!(ran.out, "401", "TLS by the bundle, and no token");
    });
}

#[test]
fn codes_and_signals_pass_through() {
    each_user(|user| {
        user.up(&[]);
        user.exec("exit 7").exited(7);
        user.exec("kill -TERM $$").exited(143);
        user.run(&["exec", "--", "no-such-program"]).exited(127).failed_saying(&["no-such-program"]);
        user.run(&["exec", "--", "/etc/passwd"]).exited(126);
        user.run(&["exec", "-e", "absent", "--", "true"]).exited(125).failed_saying(&["not running", "moat up"]);

        let script = "trap 'echo told; exit 9' USR1; echo begun; while :; do sleep 0.02; done";
        let mut front = user.start(&["exec", "--", "bash", "-c", script]);
        assert_eq!(front.line(), "begun");
        front.signal(Signal::SIGUSR1);
        assert_eq!(front.line(), "told");
        assert_eq!(front.code(), 9);
    });
}

#[test]
fn stdin_and_open_files_are_the_callers() {
    each_user(|user| {
        user.up(&[]);
        let mut child = user.moat(&["exec", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"through").unwrap();
        assert_eq!(child.wait_with_output().unwrap().stdout, b"through");
        let inside = user.exec("ls /proc/self/fd").succeeded();
        let outside = user.command("bash").args(["-c", "ls /proc/self/fd"]).output().unwrap();
        assert_eq!(inside.out, String::from_utf8_lossy(&outside.stdout), "the caller's, and none of ours");
    });
}

#[test]
fn the_hosts_network_cannot_be_reached() {
    each_user(|user| {
        user.up(&[]);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
        assert!(Command::new("bash").args(["-c", &connect]).status().unwrap().success(), "it can be reached outside");
        assert_ne!(user.exec(&connect).code, 0);

        let name = format!("moat-test-{}-{}", std::process::id(), user.uid());
        let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        assert!(std::fs::read_to_string("/proc/net/unix").unwrap().contains(&name));
        let inside = user.exec("cat /proc/net/unix").succeeded();
        assert!(!inside.out.contains(&name));

        let host_links = host_state()["links"].clone();
        let inside = user.exec("cat /proc/net/dev").succeeded();
        for link in host_links.split(' ').filter(|link| *link != "lo" && *link != "eth0") {
            assert!(!inside.out.contains(&format!("{link}:")), "{link}");
        }
    });
}

#[test]
fn what_is_no_ip_network_leads_nowhere() {
    each_user(|user| {
        user.up(&[]);
        // Nothing is connected to: to open the socket is what must fail.
        let script = r#"
import ctypes, errno, fcntl, os, pty, socket, termios
libc = ctypes.CDLL(None, use_errno=True)
for family in (40, 38, 31, 44, 16, 1, 2, 10):  # vsock, alg, bluetooth, xdp; netlink, unix, IPv4, IPv6
    s = libc.socket(family, socket.SOCK_DGRAM, 0)
    print(family, "open" if s >= 0 else errno.errorcode[ctypes.get_errno()])
print("io_uring", libc.syscall(425, 4, ctypes.create_string_buffer(120)), errno.errorcode[ctypes.get_errno()])
try: print("typed", fcntl.ioctl(pty.openpty()[1], termios.TIOCSTI, b"x"))
except OSError as e: print("typing", errno.errorcode[e.errno])
"#;
        let ran = user.run(&["exec", "--", "/usr/bin/python3", "-c", script]).succeeded();
        let expected = "40 EAFNOSUPPORT\n38 EAFNOSUPPORT\n31 EAFNOSUPPORT\n44 EAFNOSUPPORT\n\
                        16 open\n1 open\n2 open\n10 open\nio_uring -1 ENOSYS\ntyping EPERM\n";
        assert_eq!(ran.out, expected);
    });
}

#[test]
fn daemons_of_the_host_and_state_of_the_server_are_out_of_sight() {
    each_user(|user| {
        user.up(&[]);
        let ran = user.exec("ls -A /run").succeeded();
        let allowed = ["moat", "current-system", "booted-system", "opengl-driver", "media", "host"];
        assert!(ran.out.lines().all(|name| allowed.contains(&name)), "{}", ran.out);
        let data = user.state().join("default/data");
        let ran = user.exec(&format!("ls -A {}; ls -A /run/moat", data.display())).succeeded();
        assert!(!ran.out.contains("key") && !ran.out.contains("sqlite") && !ran.out.contains("netns"), "{}", ran.out);
        let ran = user.exec("ls /proc").succeeded();
        let processes = ran.out.lines().filter(|name| name.parse::<u32>().is_ok()).count();
        assert!(processes <= 3, "sees only its own processes: {}", ran.out);
        assert_ne!(user.exec("echo 1 > /proc/sys/kernel/core_uses_pid").code, 0);
        assert_ne!(user.exec("unshare --mount true").code, 0, "no rights for mounts");
    });
}

#[test]
fn names_are_asked_of_the_platform_only() {
    each_user(|user| {
        user.up(&[]);
        let ran = user.exec("cat /etc/resolv.conf").succeeded();
        let servers: Vec<&str> = ran.out.lines().filter_map(|l| l.strip_prefix("nameserver ")).collect();
        assert_eq!(servers, ["168.63.129.16"]);
        assert_ne!(std::fs::read_to_string("/etc/resolv.conf").unwrap(), ran.out, "the host has its own");
    });
}

#[test]
fn the_hosts_azure_is_left_outside() {
    each_user(|user| {
        user.up(&[]);
        for dir in [".azure", ".azureml/auth"] {
            std::fs::create_dir_all(user.home().join(dir)).unwrap();
        }
        for dir in [".azure", ".azureml"] {
            std::fs::write(user.home().join(dir).join("secret"), "of the host").unwrap();
            std::os::unix::fs::chown(user.home().join(dir), Some(user.uid()), None).unwrap();
        }
        let output = user
            .moat(&["exec", "--", "bash", "-c", "env; cat ~/.azure/secret ~/.azureml/secret; echo new > ~/.azure/new"])
            .envs([
                ("AZURE_CLIENT_ID", "of-the-host"),
                ("AZURE_FEDERATED_TOKEN_FILE", "of-the-host"),
                ("ARM_CLIENT_SECRET", "of-the-host"),
                ("IDENTITY_ENDPOINT", "of-the-host"),
                ("MSI_ENDPOINT", "of-the-host"),
                ("https_proxy", "of-the-host"),
                ("LOCATION", "kept"),
            ])
            .output()
            .unwrap();
        let ran = common::Ran::of(output, &["exec"]);
        assert!(!ran.out.contains("of-the-host") && !ran.out.contains("of the host"), "{}", ran.out);
        assert!(ran.out.contains("LOCATION=kept"), "{}{}", ran.out, ran.err);
        for name in [
            "AZURE_TENANT_ID",
            "AZURE_CLIENT_ID",
            "AZURE_CLIENT_SECRET",
            "AZURE_SUBSCRIPTION_ID",
            "ARM_TENANT_ID",
            "ARM_CLIENT_ID",
            "ARM_CLIENT_SECRET",
            "ARM_SUBSCRIPTION_ID",
            "REQUESTS_CA_BUNDLE",
            "SSL_CERT_FILE",
            "CURL_CA_BUNDLE",
            "NODE_EXTRA_CA_CERTS",
            "AZURE_CONFIG_DIR",
            "AZUREML_AUTH_CONFIG_DIR",
        ] {
            assert!(ran.out.lines().any(|l| l.strip_prefix(name).is_some_and(|v| v.len() > 1)), "{name}: {}", ran.out);
        }
        let secret = |dir: &str| std::fs::read_to_string(user.home().join(dir).join("secret")).unwrap();
        assert_eq!((secret(".azure").as_str(), secret(".azureml").as_str()), ("of the host", "of the host"));
        assert!(!user.home().join(".azure/new").exists(), "what it writes there is the environment's");
        // System certificates and ours.
        let ran = user.exec("grep -c BEGIN $REQUESTS_CA_BUNDLE; cat $REQUESTS_CA_BUNDLE").succeeded();
        let ours = std::fs::read_to_string(user.state().join("default/data/ca.pem")).unwrap();
        assert!(ran.out.contains(ours.trim()));
    });
}

#[test]
fn what_a_program_leaves_running_ends_with_it() {
    each_user(|user| {
        user.up(&[]);
        let mark = format!("86399.{}{}", std::process::id(), user.uid());
        let running = || {
            all_processes().into_iter().any(|pid| {
                lives(pid)
                    // The program, and not `moat exec`, whose last argument is the same.
                    && std::fs::read(format!("/proc/{pid}/cmdline"))
                        .is_ok_and(|c| c == format!("sleep\0{mark}\0").into_bytes())
            })
        };
        user.exec(&format!("setsid sleep {mark} & exit 0")).succeeded();
        assert!(!running());

        // And with the caller, and with the environment.
        let start = || {
            let child = user.start(&["exec", "--", "sleep", &mark]);
            eventually("the program to run", running);
            child
        };
        let mut front = start();
        front.signal(Signal::SIGKILL);
        front.code();
        eventually("the program to end with its caller", || !running());
        let mut front = start();
        user.run(&["down"]).succeeded();
        assert_eq!(front.code(), 137);
        assert!(!running());
    });
}

#[test]
fn an_ephemeral_environment_leaves_its_exit_code_and_nothing_else() {
    each_user(|user| {
        let before = host_state();
        user.run(&["up", "--ephemeral", "--", "bash", "-c", "test -n \"$AZURE_TENANT_ID\" && exit 3"]).exited(3);
        user.run(&["up", "--ephemeral", "--", "bash", "-c", "kill -KILL $$"]).exited(137);
        user.run(&["up", "--ephemeral", "--", "no-such-program"]).exited(127);
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let mut front = user.start(&["up", "--ephemeral", "--", "bash", "-c", "echo begun; exec sleep 86399"]);
            assert_eq!(front.line(), "begun");
            front.signal(signal);
            assert_eq!(front.code(), 128 + signal as i32);
        }
        assert_eq!(listing(&user.tmp()), Vec::<String>::new());
        assert_eq!(listing(&user.state()), Vec::<String>::new());
        assert_eq!(before, host_state());
    });
}
