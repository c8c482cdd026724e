//! The system call filter of programs in a sandbox: what they could only use to get out of it, or against the kernel.
//!
//! A second filter: that of the agent (`crate::world::fence`) holds too. A list of what is refused, since a program
//! of unknown make must run; but calls younger than the list are absent, so that it cannot fall behind.
//!
//! Pure: builds the filter.

use crate::world::fence::{
    ABSENT_CALLS, ALLOW, AND, IF_ANY, IF_EQUAL, IF_LARGER, IOCTLS, LOAD, at_argument, instruction, own_calls_only,
    refuse,
};

/// Calls from here on are younger than this list (both architectures number new calls alike): `mseal` is the last known.
const YOUNGEST: u32 = 463;

/// Calls that are refused with `EPERM` whatever their arguments.
const REFUSED: [libc::c_long; 54] = [
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Namespaces of others.
    libc::SYS_setns,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Programs and watchers in the kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_lookup_dcookie,
    // Keys: they belong to a user, not to a namespace's files.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Files without their folders.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // The machine.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Memory that is nobody's, or elsewhere.
    libc::SYS_memfd_secret,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_remap_file_pages,
    libc::SYS_nfsservctl,
    // Registers that a page table does not guard.
    PORTS,
];
#[cfg(target_arch = "x86_64")]
const PORTS: libc::c_long = libc::SYS_iopl;
#[cfg(not(target_arch = "x86_64"))]
const PORTS: libc::c_long = libc::SYS_nfsservctl;

/// Calls of one architecture only.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: [libc::c_long; 4] = [libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib, libc::SYS_ustat];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: [libc::c_long; 0] = [];

/// Flags of clone(2) and unshare(2) that make namespaces.
const NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u32;
/// And that one of unshare(2) only: to clone(2) it is a part of the signal.
const NEWTIME: u32 = 0x80;

/// The bits of socket(2)'s type that are the type.
const TYPE_BITS: u32 = 0xf;
/// What an internet socket may be: type and protocols. No packet of its own making, no protocol of which the
/// security rules know nothing.
const INTERNET: [(libc::c_int, &[libc::c_int]); 2] = [
    (libc::SOCK_STREAM, &[0, libc::IPPROTO_TCP]),
    (libc::SOCK_DGRAM, &[0, libc::IPPROTO_UDP, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6]),
];
/// `personality(2)` that only asks.
const PERSONALITY_ASK: u32 = 0xffff_ffff;

type Program = Vec<libc::sock_filter>;

/// The filter.
pub(super) fn filter() -> Program {
    let mut program = own_calls_only();
    program.extend([instruction(IF_LARGER, YOUNGEST, 0, 1), refuse(libc::ENOSYS)]);
    for call in ABSENT_CALLS {
        program.extend(when(call, vec![refuse(libc::ENOSYS)]));
    }
    // Its flags are in memory, where no filter sees them. C libraries go on with clone(2).
    program.extend(when(libc::SYS_clone3, vec![refuse(libc::ENOSYS)]));
    for call in REFUSED.iter().chain(&REFUSED_HERE) {
        program.extend(when(*call, vec![refuse(libc::EPERM)]));
    }
    program.extend(when(libc::SYS_clone, refuse_any(0, NAMESPACES)));
    program.extend(when(libc::SYS_unshare, refuse_any(0, NAMESPACES | NEWTIME)));
    program.extend(when(libc::SYS_setrlimit, core_limit(0)));
    program.extend(when(libc::SYS_prlimit64, core_limit(1)));
    program.extend(when(libc::SYS_personality, personality()));
    program.extend(when(libc::SYS_ioctl, ioctl()));
    program.extend(when(libc::SYS_socket, socket()));
    program.extend(when(libc::SYS_socketpair, socket()));
    program.push(ALLOW);
    program
}

/// `block` for one call. It must end in every case; else the number of the call is still loaded.
fn when(call: libc::c_long, block: Program) -> Program {
    let mut program = vec![instruction(IF_EQUAL, call as u32, 0, block.len() as u8)];
    program.extend(block);
    program
}

fn refuse_any(argument: u32, bits: u32) -> Program {
    vec![instruction(LOAD, at_argument(argument), 0, 0), instruction(IF_ANY, bits, 0, 1), refuse(libc::EPERM), ALLOW]
}

/// Old ways of laying out memory switch off protections.
fn personality() -> Program {
    vec![
        instruction(LOAD, at_argument(0), 0, 0),
        instruction(IF_EQUAL, 0, 1, 0),
        instruction(IF_EQUAL, PERSONALITY_ASK, 0, 1),
        ALLOW,
        refuse(libc::EPERM),
    ]
}

/// The limit on core files is kept, even from being lowered (see `super::limits`). Many programs that guard secrets
/// set it to 0; they are told that it is done. `resource` is the number of the argument, the new limit the next.
fn core_limit(resource: u32) -> Program {
    vec![
        instruction(LOAD, at_argument(resource), 0, 0),
        instruction(IF_EQUAL, libc::RLIMIT_CORE, 1, 0),
        ALLOW,
        // Without a new limit it only asks.
        instruction(LOAD, at_argument(resource + 1), 0, 0),
        instruction(IF_EQUAL, 0, 0, 3),
        instruction(LOAD, at_argument(resource + 1) + 4, 0, 0),
        instruction(IF_EQUAL, 0, 0, 1),
        ALLOW,
        refuse(0),
    ]
}

fn ioctl() -> Program {
    let mut block = vec![instruction(LOAD, at_argument(1), 0, 0)];
    for request in IOCTLS {
        block.extend([instruction(IF_EQUAL, request, 0, 1), refuse(libc::EPERM)]);
    }
    block.push(ALLOW);
    block
}

/// By family: local sockets of any type, routes to be read, and internet sockets by [`INTERNET`].
fn socket() -> Program {
    let mut internet = Vec::new();
    for (kind, protocols) in INTERNET {
        let mut block = vec![instruction(LOAD, at_argument(2), 0, 0)];
        for protocol in protocols {
            block.extend([instruction(IF_EQUAL, *protocol as u32, 0, 1), ALLOW]);
        }
        block.push(refuse(libc::EPROTONOSUPPORT));
        internet.push(instruction(LOAD, at_argument(1), 0, 0));
        internet.push(instruction(AND, TYPE_BITS, 0, 0));
        internet.push(instruction(IF_EQUAL, kind as u32, 0, block.len() as u8));
        internet.extend(block);
    }
    internet.push(refuse(libc::EPERM));

    let mut block = vec![instruction(LOAD, at_argument(0), 0, 0)];
    block.extend([instruction(IF_EQUAL, libc::AF_UNIX as u32, 0, 1), ALLOW]);
    block.extend([
        instruction(IF_EQUAL, libc::AF_NETLINK as u32, 0, 4),
        instruction(LOAD, at_argument(2), 0, 0),
        instruction(IF_EQUAL, libc::NETLINK_ROUTE as u32, 0, 1),
        ALLOW,
        refuse(libc::EPROTONOSUPPORT),
    ]);
    block.extend([
        instruction(IF_EQUAL, libc::AF_INET as u32, 2, 0),
        instruction(IF_EQUAL, libc::AF_INET6 as u32, 1, 0),
        refuse(libc::EAFNOSUPPORT),
    ]);
    block.extend(internet);
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::fence::{ARCH, X32_BIT, verdict};

    #[track_caller]
    fn check(number: libc::c_long, arguments: &[u64], expected: Option<libc::c_int>) {
        let expected = expected.map_or(libc::SECCOMP_RET_ALLOW, |e| libc::SECCOMP_RET_ERRNO | e as u32);
        let arguments: Vec<u64> = arguments.iter().copied().chain([0; 6]).collect();
        let got = verdict(&filter(), ARCH, number as u32, &arguments);
        assert_eq!(got, expected, "call {number} {arguments:?}");
    }

    #[test]
    fn what_only_leads_out_is_refused() {
        for call in REFUSED.iter().chain(&REFUSED_HERE) {
            check(*call, &[], Some(libc::EPERM));
        }
    }

    #[test]
    fn no_namespace_is_made() {
        let bits = (0..32).map(|n| 1u64 << n).filter(|bit| *bit as u32 & NAMESPACES != 0);
        assert_eq!(bits.clone().count(), 7);
        for bit in bits {
            for call in [libc::SYS_clone, libc::SYS_unshare] {
                check(call, &[bit], Some(libc::EPERM));
                check(call, &[bit | libc::SIGCHLD as u64], Some(libc::EPERM));
            }
        }
        check(libc::SYS_unshare, &[u64::from(NEWTIME)], Some(libc::EPERM));
        check(libc::SYS_clone3, &[], Some(libc::ENOSYS));
        // Forks, threads, and a private file table.
        check(libc::SYS_clone, &[libc::SIGCHLD as u64], None);
        let thread = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        check(libc::SYS_clone, &[thread as u64], None);
        check(libc::SYS_unshare, &[libc::CLONE_FILES as u64], None);
    }

    #[test]
    fn sockets_are_of_the_namespace_and_of_known_kinds() {
        let (flags, raw) = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, libc::SOCK_RAW);
        for family in [libc::AF_INET, libc::AF_INET6] {
            let on = |kind: libc::c_int, protocol: libc::c_int, expected| {
                check(libc::SYS_socket, &[family as u64, kind as u64, protocol as u64], expected);
                check(libc::SYS_socket, &[family as u64, (kind | flags) as u64, protocol as u64], expected);
            };
            on(libc::SOCK_STREAM, 0, None);
            on(libc::SOCK_STREAM, libc::IPPROTO_TCP, None);
            on(libc::SOCK_DGRAM, libc::IPPROTO_UDP, None);
            on(libc::SOCK_DGRAM, libc::IPPROTO_ICMP, None);
            on(libc::SOCK_STREAM, libc::IPPROTO_SCTP, Some(libc::EPROTONOSUPPORT));
            on(libc::SOCK_STREAM, libc::IPPROTO_MPTCP, Some(libc::EPROTONOSUPPORT));
            on(libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE, Some(libc::EPROTONOSUPPORT));
            for protocol in [0, libc::IPPROTO_RAW, libc::IPPROTO_ICMP, libc::IPPROTO_TCP] {
                on(raw, protocol, Some(libc::EPERM));
                on(libc::SOCK_SEQPACKET, protocol, Some(libc::EPERM));
                on(10, protocol, Some(libc::EPERM)); // SOCK_PACKET
            }
        }
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
            check(libc::SYS_socket, &[libc::AF_UNIX as u64, kind as u64], None);
            check(libc::SYS_socketpair, &[libc::AF_UNIX as u64, kind as u64], None);
        }
        check(libc::SYS_socket, &[libc::AF_NETLINK as u64, raw as u64, libc::NETLINK_ROUTE as u64], None);
        for protocol in 1..32 {
            let arguments = [libc::AF_NETLINK as u64, raw as u64, protocol];
            check(libc::SYS_socket, &arguments, Some(libc::EPROTONOSUPPORT));
        }
        let known = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
        for family in (0..64).filter(|family| !known.contains(family)) {
            check(libc::SYS_socket, &[family as u64, 1], Some(libc::EAFNOSUPPORT));
        }
        // The kernel reads ints: what stands above hides nothing.
        let above = 1u64 << 32;
        check(libc::SYS_socket, &[above | libc::AF_PACKET as u64, above | 3], Some(libc::EAFNOSUPPORT));
        check(libc::SYS_socket, &[above | libc::AF_INET as u64, above | 3], Some(libc::EPERM));
    }

    #[test]
    fn calls_of_other_kinds_or_of_the_future_are_absent() {
        let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        let all = filter();
        assert_eq!(verdict(&all, 0x4000_0003, libc::SYS_getpid as u32, &[0; 6]), absent, "another architecture");
        assert_eq!(verdict(&all, ARCH, X32_BIT | 39, &[0; 6]), absent, "x32");
        for number in [YOUNGEST, YOUNGEST + 4, 1_000, u32::MAX] {
            assert_eq!(verdict(&all, ARCH, number, &[0; 6]), absent, "{number}");
        }
        for call in ABSENT_CALLS {
            check(call, &[], Some(libc::ENOSYS));
        }
    }

    #[test]
    fn personalities_and_terminals() {
        check(libc::SYS_personality, &[0], None);
        check(libc::SYS_personality, &[u64::from(PERSONALITY_ASK)], None);
        for old in [0x004_0000, 0x040_0000, 0x8] {
            check(libc::SYS_personality, &[old], Some(libc::EPERM));
        }
        check(libc::SYS_ioctl, &[0, 0x5412], Some(libc::EPERM));
        check(libc::SYS_ioctl, &[0, 1 << 32 | 0x5412], Some(libc::EPERM));
        check(libc::SYS_ioctl, &[0, 0x5413], None);
    }

    #[test]
    fn the_limit_on_core_files_is_only_read() {
        let (core, files) = (libc::RLIMIT_CORE as u64, libc::RLIMIT_NOFILE as u64);
        for pointer in [1, 1 << 32, u64::MAX] {
            check(libc::SYS_prlimit64, &[0, core, pointer], Some(0));
            check(libc::SYS_prlimit64, &[0, 1 << 32 | core, pointer], Some(0));
            check(libc::SYS_prlimit64, &[0, files, pointer], None);
            check(libc::SYS_setrlimit, &[core, pointer], Some(0));
            check(libc::SYS_setrlimit, &[files, pointer], None);
        }
        check(libc::SYS_prlimit64, &[0, core, 0], None);
    }

    #[test]
    fn ordinary_programs_work() {
        let calls = [
            libc::SYS_read,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_execve,
            libc::SYS_connect,
            libc::SYS_futex,
            libc::SYS_mmap,
            libc::SYS_memfd_create,
            libc::SYS_prlimit64,
            libc::SYS_sched_setaffinity,
            libc::SYS_set_mempolicy,
            libc::SYS_rseq,
            libc::SYS_statx,
            libc::SYS_faccessat2,
            libc::SYS_close_range,
        ];
        for call in calls {
            check(call, &[u64::MAX; 6], None);
        }
        assert!(filter().len() < 4_096, "what the kernel takes");
    }
}
