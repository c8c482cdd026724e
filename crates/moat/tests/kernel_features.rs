//! What a user sees on a kernel without nftables. A seccomp filter plays that kernel: it refuses
//! the netlink family of netfilter with the error such a kernel gives.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

/// Refuses `socket(AF_NETLINK, _, NETLINK_NETFILTER)` with EPROTONOSUPPORT, then runs the rest.
const WITHOUT_NFTABLES: &str = r#"
import ctypes, os, struct, sys
step = lambda code, yes, no, k: struct.pack("HBBI", code, yes, no, k)
load, equal, end = 0x20, 0x15, 0x06
filter = b"".join([
    step(load, 0, 0, 0), step(equal, 0, 5, 41),
    step(load, 0, 0, 16), step(equal, 0, 3, 16),
    step(load, 0, 0, 32), step(equal, 0, 1, 12),
    step(end, 0, 0, 0x00050000 | 93), step(end, 0, 0, 0x7fff0000)])
text = ctypes.create_string_buffer(filter)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 8, ctypes.addressof(text)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn a_kernel_without_nftables_is_named() {
    common::each_user(|user| {
        let moat = user.moat.to_str().unwrap().to_owned();
        let run = |args: &[&str]| {
            let out =
                user.command("/usr/bin/python3").args(["-c", WITHOUT_NFTABLES, &moat]).args(args).output().unwrap();
            common::Ran::of(out, args)
        };
        run(&["up", "--detach"]).failed_saying(&["no nftables", "Protocol not supported", "moat doctor"]);
        let doctor = run(&["doctor"]);
        assert_ne!(doctor.code, 0);
        assert!(doctor.out.contains("MISSING  nftables"), "{}", doctor.out);
        // The same user on the real kernel goes on where it was.
        user.up(&[]);
        user.exec("true").succeeded();
    });
}
