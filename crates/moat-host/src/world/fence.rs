//! The ways out of a network namespace that are no network: closed by a system call filter.
//!
//! A namespace holds IP and what is built on it. Some address families reach past it: `AF_VSOCK` talks to the
//! hypervisor whatever the namespace, others to devices and kernel services. `io_uring` makes sockets that no filter
//! sees, and 32-bit system calls have other numbers, so those are absent too. `TIOCSTI` types into the caller's
//! terminal, whose shell is outside.
//!
//! Pure: builds the filter. [`super::process::fence`] hands it to the kernel. Programs in a sandbox get a stricter one
//! made of the same parts (`crate::run`).

/// Address families that are the namespace's own, or files: the rest does not exist for a fenced program.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// Calls that make a socket; the first argument is the family.
const SOCKET_CALLS: [libc::c_long; 2] = [libc::SYS_socket, libc::SYS_socketpair];
/// Calls that do as if the kernel had none of it.
pub(crate) const ABSENT_CALLS: [libc::c_long; 3] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
/// Requests of ioctl(2) that put text into a terminal's input (`TIOCLINUX` pastes on a console).
pub(crate) const IOCTLS: [u32; 2] = [0x5412, 0x541c];

/// `AUDIT_ARCH_*` of the calls this program itself makes.
#[cfg(target_arch = "x86_64")]
pub(crate) const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(crate) const ARCH: u32 = 0xc000_00b7;
/// Calls of the x32 kind have this bit in their number; no other architecture has numbers so large.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

// Offsets in `struct seccomp_data`, and where the low half of an argument lies (both architectures: little endian).
pub(crate) const AT_NUMBER: u32 = 0;
pub(crate) const AT_ARCH: u32 = 4;
pub(crate) const fn at_argument(index: u32) -> u32 {
    16 + 8 * index
}

pub(crate) const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
pub(crate) const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
pub(crate) const IF_LARGER: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
pub(crate) const IF_ANY: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
pub(crate) const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
pub(crate) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

pub(crate) const ALLOW: libc::sock_filter = instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);

pub(crate) const fn instruction(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

pub(crate) const fn refuse(errno: libc::c_int) -> libc::sock_filter {
    instruction(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0)
}

/// The beginning of a filter: calls of other kinds do not exist. Leaves the number of the call loaded.
pub(crate) fn own_calls_only() -> Vec<libc::sock_filter> {
    vec![
        instruction(LOAD, AT_ARCH, 0, 0),
        instruction(IF_EQUAL, ARCH, 1, 0),
        refuse(libc::ENOSYS),
        instruction(LOAD, AT_NUMBER, 0, 0),
        instruction(IF_LARGER, X32_BIT, 0, 1),
        refuse(libc::ENOSYS),
    ]
}

/// The filter.
pub(super) fn filter() -> Vec<libc::sock_filter> {
    let mut program = own_calls_only();
    for call in ABSENT_CALLS {
        program.extend([instruction(IF_EQUAL, call as u32, 0, 1), refuse(libc::ENOSYS)]);
    }
    for call in SOCKET_CALLS {
        // Load the family; allow each of ours; refuse; and, after the block, go on with the number still loaded.
        program.push(instruction(IF_EQUAL, call as u32, 0, 2 + 2 * FAMILIES.len() as u8));
        program.push(instruction(LOAD, at_argument(0), 0, 0));
        for family in FAMILIES {
            program.extend([instruction(IF_EQUAL, family as u32, 0, 1), ALLOW]);
        }
        program.push(refuse(libc::EAFNOSUPPORT));
    }
    program.push(instruction(IF_EQUAL, libc::SYS_ioctl as u32, 0, 1 + 2 * IOCTLS.len() as u8));
    program.push(instruction(LOAD, at_argument(1), 0, 0));
    for request in IOCTLS {
        program.extend([instruction(IF_EQUAL, request, 0, 1), refuse(libc::EPERM)]);
    }
    program.push(ALLOW);
    program
}

/// What a filter says to a call: the few instructions these are made of, run as the kernel runs them.
#[cfg(test)]
pub(crate) fn verdict(program: &[libc::sock_filter], arch: u32, number: u32, arguments: &[u64]) -> u32 {
    let (mut at, mut loaded) = (0, 0);
    loop {
        let i = program[at];
        at += 1;
        match i.code {
            LOAD => {
                loaded = match i.k {
                    AT_ARCH => arch,
                    AT_NUMBER => number,
                    k if (k - 16) % 8 == 4 => (arguments[(k as usize - 20) / 8] >> 32) as u32,
                    k => arguments[(k as usize - 16) / 8] as u32,
                }
            }
            IF_EQUAL => at += usize::from(if loaded == i.k { i.jt } else { i.jf }),
            IF_LARGER => at += usize::from(if loaded >= i.k { i.jt } else { i.jf }),
            IF_ANY => at += usize::from(if loaded & i.k != 0 { i.jt } else { i.jf }),
            AND => loaded &= i.k,
            RETURN => return i.k,
            code => panic!("unexpected instruction {code}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(number: libc::c_long, arguments: [u64; 2], expected: Option<libc::c_int>) {
        let expected = expected.map_or(libc::SECCOMP_RET_ALLOW, |e| libc::SECCOMP_RET_ERRNO | e as u32);
        assert_eq!(verdict(&filter(), ARCH, number as u32, &arguments), expected, "call {number} {arguments:?}");
    }

    #[test]
    fn only_families_of_the_namespace_make_sockets() {
        for family in 0..64 {
            let expected = if FAMILIES.contains(&family) { None } else { Some(libc::EAFNOSUPPORT) };
            check(libc::SYS_socket, [family as u64, 0], expected);
            check(libc::SYS_socketpair, [family as u64, 0], expected);
        }
        // The kernel reads an int: what stands above must not hide the family.
        check(libc::SYS_socket, [1 << 32 | libc::AF_VSOCK as u64, 0], Some(libc::EAFNOSUPPORT));
    }

    #[test]
    fn calls_that_no_filter_sees_are_absent() {
        for call in ABSENT_CALLS {
            check(call, [0, 0], Some(libc::ENOSYS));
        }
        let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(verdict(&filter(), 0x4000_0003, libc::SYS_socket as u32, &[40, 0]), absent, "another architecture");
        assert_eq!(verdict(&filter(), ARCH, X32_BIT | 41, &[40, 0]), absent, "x32");
    }

    #[test]
    fn terminals_take_no_typing_and_all_else_works() {
        check(libc::SYS_ioctl, [0, 0x5412], Some(libc::EPERM));
        check(libc::SYS_ioctl, [0, 1 << 32 | 0x5412], Some(libc::EPERM));
        check(libc::SYS_ioctl, [0, 0x5413], None);
        for call in [libc::SYS_read, libc::SYS_execve, libc::SYS_clone, libc::SYS_connect, libc::SYS_sendmsg] {
            check(call, [40, 40], None);
        }
    }
}
