//! What runs inside a sandbox for the cases of `jobs`: this test program itself, under another name.
//!
//! Prints what came of each attempt; the case outside says what should have.
#![allow(unsafe_code, reason = "the attempts are system calls as an attacker makes them")]

use std::io::Error;

/// Name of the argument by which the program knows that it is inside.
pub const FLAG: &str = "--attack";

pub fn run(name: &str) -> i32 {
    match name {
        "calls" => calls(),
        "forks" => forks(),
        "memory" => memory(),
        "terminal" => terminal(),
        "loopback" => println!("{}", loopback().map_or_else(|error| error.to_string(), |()| "works".to_owned())),
        other => {
            println!("no attack `{other}`");
            return 1;
        }
    }
    0
}

/// 0, or the error number.
fn code(result: libc::c_long) -> i32 {
    if result == -1 { Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

macro_rules! call {
    ($number:ident $(, $argument:expr)*) => {
        // SAFETY: attempts on nothing of this program's own: no pointer here leads to memory that is written.
        code(unsafe { libc::syscall(libc::$number $(, $argument as libc::c_long)*) })
    };
}

/// What is refused, with the answer that a case expects. The answer of the kernel is printed when it is another.
fn calls() {
    const NULL: libc::c_long = 0;
    let path = c"/tmp".as_ptr();
    let kind = c"user".as_ptr();
    let attempts: Vec<(&str, i32, i32)> = vec![
        ("user namespace", libc::EPERM, call!(SYS_unshare, libc::CLONE_NEWUSER)),
        ("mount namespace", libc::EPERM, call!(SYS_unshare, libc::CLONE_NEWNS)),
        ("network namespace", libc::EPERM, call!(SYS_unshare, libc::CLONE_NEWNET)),
        (
            "clone with a user namespace",
            libc::EPERM,
            call!(SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, NULL, NULL, NULL, NULL),
        ),
        ("clone3", libc::ENOSYS, call!(SYS_clone3, NULL, NULL)),
        ("setns", libc::EPERM, call!(SYS_setns, NULL, NULL)),
        ("mount", libc::EPERM, call!(SYS_mount, path, path, c"tmpfs".as_ptr(), NULL, NULL)),
        ("umount", libc::EPERM, call!(SYS_umount2, path, libc::MNT_DETACH)),
        ("fsopen", libc::EPERM, call!(SYS_fsopen, c"tmpfs".as_ptr(), NULL)),
        ("open_tree", libc::EPERM, call!(SYS_open_tree, libc::AT_FDCWD, path, 1)),
        ("mount_setattr", libc::EPERM, call!(SYS_mount_setattr, libc::AT_FDCWD, path, NULL, NULL, NULL)),
        ("pivot_root", libc::EPERM, call!(SYS_pivot_root, path, path)),
        ("chroot", libc::EPERM, call!(SYS_chroot, path)),
        ("ptrace of process 1", libc::EPERM, call!(SYS_ptrace, libc::PTRACE_ATTACH, 1, NULL, NULL)),
        ("memory of process 1", libc::EPERM, call!(SYS_process_vm_readv, 1, NULL, NULL, NULL, NULL, NULL)),
        ("keyctl", libc::EPERM, call!(SYS_keyctl, NULL, NULL)),
        ("add_key", libc::EPERM, call!(SYS_add_key, kind, kind, kind, 1, -3)),
        ("request_key", libc::EPERM, call!(SYS_request_key, kind, kind, NULL, NULL)),
        ("bpf", libc::EPERM, call!(SYS_bpf, NULL, NULL, NULL)),
        ("perf", libc::EPERM, call!(SYS_perf_event_open, NULL, NULL, -1, -1, NULL)),
        ("io_uring", libc::ENOSYS, call!(SYS_io_uring_setup, 8, NULL)),
        ("userfaultfd", libc::EPERM, call!(SYS_userfaultfd, NULL)),
        ("open_by_handle_at", libc::EPERM, call!(SYS_open_by_handle_at, NULL, NULL, NULL)),
        ("packet socket", libc::EAFNOSUPPORT, call!(SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0x300)),
        ("raw socket", libc::EPERM, call!(SYS_socket, libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)),
        ("raw socket, version 6", libc::EPERM, call!(SYS_socket, libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)),
        ("hypervisor socket", libc::EAFNOSUPPORT, call!(SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, NULL)),
        ("crypto socket", libc::EAFNOSUPPORT, call!(SYS_socket, libc::AF_ALG, libc::SOCK_SEQPACKET, NULL)),
        (
            "firewall socket",
            libc::EPROTONOSUPPORT,
            call!(SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
        ),
        ("personality", libc::EPERM, call!(SYS_personality, libc::ADDR_NO_RANDOMIZE)),
        ("clock", libc::EPERM, call!(SYS_settimeofday, NULL, NULL)),
        ("module", libc::EPERM, call!(SYS_init_module, NULL, NULL, kind)),
        ("kexec", libc::EPERM, call!(SYS_kexec_load, NULL, NULL, NULL, NULL)),
        ("reboot", libc::EPERM, call!(SYS_reboot, NULL, NULL, NULL, NULL)),
        ("swap", libc::EPERM, call!(SYS_swapon, path, NULL)),
        ("host name", libc::EPERM, call!(SYS_sethostname, kind, 4)),
        ("device", libc::EPERM, call!(SYS_mknodat, libc::AT_FDCWD, c"/tmp/sda".as_ptr(), libc::S_IFBLK | 0o600, 0x800)),
        ("user 0", libc::EINVAL, call!(SYS_setuid, 0)),
        ("group 0", libc::EINVAL, call!(SYS_setgid, 0)),
        ("groups", libc::EPERM, call!(SYS_setgroups, 0, NULL)),
        ("more open files", libc::EPERM, raise(libc::RLIMIT_NOFILE)),
        ("core files, by more or less", 1, core_limit()),
        ("another priority", libc::EACCES, call!(SYS_setpriority, libc::PRIO_PROCESS, 0, -5)),
        ("dumping process 1's memory", libc::ENOENT, open(c"/proc/1/mem")),
    ];
    for (name, expected, got) in attempts {
        if got == expected { println!("refused: {name}") } else { println!("OPEN: {name}: {got} and not {expected}") }
    }
}

fn open(path: &std::ffi::CStr) -> i32 {
    // SAFETY: the path ends with NUL.
    code(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) }.into())
}

fn raise(resource: libc::__rlimit_resource_t) -> i32 {
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to a live value.
    code(unsafe { libc::setrlimit(resource, &raw const all) }.into())
}

/// Sets it, and says what it is then.
fn core_limit() -> i32 {
    raise(libc::RLIMIT_CORE);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both pointers are to live values.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const limit);
        libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit);
    }
    limit.rlim_max as i32
}

/// Types into its own terminal.
fn terminal() {
    match pty::pair() {
        Ok((_master, slave)) => {
            let letter = b'x';
            // SAFETY: the pointer is to a live byte.
            println!("{}", code(unsafe { libc::ioctl(slave, libc::TIOCSTI, &raw const letter) }.into()));
        }
        Err(error) => println!("no terminal: {error}"),
    }
}

mod pty {
    /// A pseudo terminal of the sandbox's own.
    pub fn pair() -> std::io::Result<(std::fs::File, i32)> {
        use std::os::fd::AsRawFd as _;
        let master = std::fs::File::options().read(true).write(true).open("/dev/ptmx")?;
        let unlock: i32 = 0;
        // SAFETY: TIOCSPTLCK reads an int; TIOCGPTPEER takes flags and gives a descriptor.
        let slave = unsafe {
            libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock);
            libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY)
        };
        if slave == -1 { Err(std::io::Error::last_os_error()) } else { Ok((master, slave)) }
    }
}

/// Forks until it may not, and keeps them until somebody writes `/job/enough`.
fn forks() {
    const MANY: u32 = 10_000;
    let mut count = 0;
    let error = loop {
        // SAFETY: this program has one thread.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            },
            -1 => break code(-1),
            _ => count += 1,
        }
        if count > MANY {
            break 0;
        }
    };
    println!("{count} {error}");
    std::fs::write("/job/forked", "").unwrap();
    while !std::path::Path::new("/job/enough").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Takes memory until it is stopped.
fn memory() {
    const PIECE: usize = 1 << 20;
    let mut all: Vec<Vec<u8>> = Vec::new();
    for n in 0..2_048 {
        let mut piece: Vec<u8> = Vec::new();
        if piece.try_reserve_exact(PIECE).is_err() {
            println!("refused after {n} MiB");
            std::process::exit(3);
        }
        piece.resize(PIECE, 1);
        all.push(piece);
    }
    println!("took {} MiB", all.len());
}

fn loopback() -> std::io::Result<()> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    std::net::TcpStream::connect(listener.local_addr()?)?;
    listener.accept().map(drop)
}
