//! A throw-away user, mount and network namespace for measurements that touch the kernel.
//!
//! Nothing of it outlives the process, nothing in it can reach the host's network.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Where namespaces are pinned: `ip -n NAME` finds them there too.
pub const PINS: &str = "/run/netns";

/// Enters one. Only while the process has one thread.
pub fn enter() -> Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context("making a user, mount and network namespace (does this machine allow user namespaces?)")?;
    fs::write("/proc/self/setgroups", "deny").context("giving up groups")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("mapping the user")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("mapping the group")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("making mounts private")?;
    // Over /run, since ip(8) looks in /run/netns and nowhere else.
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("mounting a tmpfs")?;
    fs::create_dir(PINS).context("making the folder of namespaces")?;
    // As ip(8) would at its first use: done later, it would double every pin made before.
    mount(Some(PINS), PINS, none, MsFlags::MS_BIND, none).context("mounting the folder of namespaces")?;
    mount(none, PINS, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none).context("sharing the folder of namespaces")
}

/// Runs a program that must succeed.
pub fn run(program: &mut Command) -> Result<()> {
    let output = program.output().with_context(|| format!("starting {program:?}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program:?} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Runs a program with a file of input in the network namespace pinned as `ns`.
pub fn run_in(ns: &str, program: &str, arguments: &[&str], input: &Path) -> Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={PINS}/{ns}")).arg("--").arg(program).args(arguments).arg(input);
    run(&mut command)
}
