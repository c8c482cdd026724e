//! What this kernel lets this user do: each thing is really done, in a process and namespaces thrown away after.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use super::error::WorldError;
use super::{NETNS_DIR, ids, process, view};
use crate::diff::{NetChange, NftOp};
use crate::layout::{End, Hop, LOG_GROUP, PolicyRule, Route, TABLE_LOCAL, Veth};
use crate::ruleset::{
    Base, ChainKind, DataKind, DataValue, Element, Expression, Field, Hook, KeyKind, KeyPart, Rule, SetHeader, Verdict,
};
use crate::{Applier, NsName, Step};

/// Exit code of a probe that could not begin (EX_OSERR of sysexits.h).
const EXIT_BROKEN: i32 = 71;

/// Whether Moat can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Need {
    /// No environment starts without it.
    Required,
    /// Something works less well.
    Optional,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// For people and programs: `network namespace`.
    pub name: String,
    /// Whether it worked.
    pub ok: bool,
    /// Whether it has to.
    pub need: Need,
    /// What was found.
    pub detail: String,
    /// What to do if it did not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Finding {
    fn of(name: &str, need: Need, tried: Result<String, String>, help: &str) -> Self {
        let ok = tried.is_ok();
        let detail = tried.unwrap_or_else(|why| why);
        Finding { name: name.to_owned(), ok, need, detail, help: (!ok).then(|| help.to_owned()) }
    }
}

/// Tries everything. The caller must have one thread.
pub fn probe() -> Vec<Finding> {
    let mut findings = vec![user_namespace()];
    if findings[0].ok {
        match in_throw_away_world() {
            Ok(found) => findings.extend(found),
            Err(error) => {
                let failure = error.to_failure();
                let help = failure.help.unwrap_or_default();
                findings.push(Finding::of("namespaces", Need::Required, Err(failure.what), &help));
            }
        }
    }
    findings.push(cgroups());
    findings
}

fn user_namespace() -> Finding {
    let tried = process::spawn(CloneFlags::CLONE_NEWUSER, || 0).map(process::wait_code);
    let help = match &tried {
        Err(source) => WorldError::UserNamespace { source: *source }.help().unwrap_or_default(),
        Ok(_) => String::new(),
    };
    let tried = tried.map(|_| "works".to_owned()).map_err(|errno: Errno| errno.desc().to_owned());
    Finding::of("user namespace", Need::Required, tried, &help)
}

fn in_throw_away_world() -> Result<Vec<Finding>, WorldError> {
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(WorldError::step("making a pipe"));
    let ((found_in, found_out), (go_in, go_out)) = (pipe()?, pipe()?);
    let wish = ids::Wish::of_caller();
    let far_ends = [found_in.as_raw_fd(), go_out.as_raw_fd()];
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let child = process::spawn(flags, move || {
        for fd in far_ends {
            let _ = nix::unistd::close(fd);
        }
        let mut go = [0u8; 1];
        if File::from(go_in).read_exact(&mut go).is_err() {
            return EXIT_BROKEN;
        }
        let found = inside();
        match serde_json::to_vec(&found).map(|text| File::from(found_out).write_all(&text)) {
            Ok(Ok(())) => 0,
            _ => EXIT_BROKEN,
        }
    })
    .map_err(|source| WorldError::UserNamespace { source })?;
    let ranged = wish.write(child).map(|(uid, _)| uid != ids::IdMap::Single);
    if ranged.is_ok() {
        // If it has ended already, what it found says so.
        let _ = File::from(go_out).write_all(b"g");
    } else {
        drop(go_out);
    }
    let mut text = Vec::new();
    let read = File::from(found_in).read_to_end(&mut text);
    let code = process::wait_code(child);
    let ranged = ranged?;
    read.map_err(WorldError::step("reading what was found"))?;
    let mut found = vec![Finding::of(
        "range of ids",
        Need::Optional,
        match ranged {
            true => Ok("node agents and jobs get users of their own".to_owned()),
            false => Err("everything in an environment runs as this user".to_owned()),
        },
        "install `newuidmap` (package `uidmap`), and give this user a range, as root: `usermod --add-subuids \
         100000-165535 --add-subgids 100000-165535 USER`",
    )];
    let inside: Vec<Finding> = serde_json::from_slice(&text).map_err(|_| WorldError::Ended { code })?;
    found.extend(inside);
    Ok(found)
}

const MODULES: &str = "use a kernel with these modules, or load them as root: `modprobe -a veth nf_tables nft_ct nft_nat \
                       nft_log nft_hash nft_connlimit nfnetlink_log`";

/// Runs as process 1 of the throw-away world.
fn inside() -> Vec<Finding> {
    let text = |result: Result<(), WorldError>| result.map(|()| "works".to_owned()).map_err(|e| e.to_failure().what);
    let mut found = vec![Finding::of(
        "mount namespace",
        Need::Required,
        text(view::make_private().and_then(|()| view::private_run())),
        "mounts inside a user namespace are needed: in a container, start it with `--security-opt seccomp=unconfined`",
    )];
    // On a mount of its own: a lock is never taken back, and what follows writes to /run.
    let spare = Path::new("/run/probe");
    let locked = view::make_dir(spare, 0o755).and_then(|()| view::tmpfs(spare, "mode=0755,size=4k")).and_then(|()| {
        process::lock_mount(spare, process::Locked::ReadOnly, true)
            .map_err(WorldError::mount("a read-only view", spare))
    });
    let help = "jobs and node agents get locked views of files: use Linux 5.12 or newer";
    found.push(Finding::of("locked mounts (mount_setattr)", Need::Required, text(locked), help));
    let proc = view::fresh_proc();
    let help = proc.as_ref().err().and_then(WorldError::help).unwrap_or_default();
    found.push(Finding::of("PID namespace with its own /proc", Need::Required, text(proc), &help));
    if !found[0].ok {
        return found;
    }
    match Applier::new(NETNS_DIR) {
        Ok(applier) => found.extend(network(applier)),
        Err(error) => found.push(Finding::of("network namespace", Need::Required, Err(error.to_string()), "")),
    }
    found
}

fn network(mut applier: Applier) -> Vec<Finding> {
    let (a, b) = (NsName::from("probe-a"), NsName::from("probe-b"));
    let end = |ns: &NsName, last: u8| End { ns: ns.clone(), link: "probe".to_owned(), mac: [2, 0, 0, 0, 0, last] };
    let make = |ns: &NsName| Step::CreateNs { ns: ns.clone(), sysctls: Default::default() };
    let net = |change: NetChange| Step::Net { ns: a.clone(), changes: vec![change] };
    let nft = |ops: Vec<NftOp>| Step::Nft { ns: a.clone(), ops };
    let route = |prefix: [u8; 4], table: u32, hop: Hop| Route {
        table,
        prefix: ipnet::Ipv4Net::new_assert(Ipv4Addr::from(prefix), 24),
        metric: 0,
        hop,
    };
    let chain = |name: &str, kind: ChainKind, hook: Hook| {
        NftOp::AddChain(name.to_owned(), Some(Base { kind, hook, priority: 0, drop: false }))
    };
    let rule = |chain: &str, expressions: Vec<Expression>| NftOp::AddRules {
        chain: chain.to_owned(),
        rules: vec![Rule { expressions }],
    };
    let tags = SetHeader { key: vec![KeyKind::Address, KeyKind::Port], interval: true, data: None };
    let links = SetHeader { key: vec![KeyKind::Ifname], interval: false, data: Some(DataKind::Verdict) };
    let address = Ipv4Addr::new(192, 0, 2, 1);
    let steps: Vec<(&str, Vec<Step>)> = vec![
        ("network namespace", vec![make(&a), make(&b)]),
        ("virtual link (veth)", vec![Step::CreateVeth(Veth { a: end(&a, 1), b: end(&b, 2) })]),
        (
            "addresses nobody has (AnyIP)",
            vec![net(NetChange::AddRoute(route([192, 0, 2, 0], TABLE_LOCAL, Hop::Local)))],
        ),
        (
            "policy routing (ip rule)",
            vec![
                net(NetChange::AddRoute(route([198, 51, 100, 0], 1_000, Hop::Blackhole))),
                net(NetChange::AddRule(PolicyRule { mark: 1_000, table: 1_000 })),
            ],
        ),
        (
            "nftables",
            vec![nft(vec![NftOp::AddTable, chain("forward", ChainKind::Filter, Hook::Forward), {
                NftOp::AddChain("target".to_owned(), None)
            }])],
        ),
        (
            "nftables: interval sets",
            vec![nft(vec![
                NftOp::AddSet("tags".to_owned(), tags.clone()),
                NftOp::AddElements {
                    set: "tags".to_owned(),
                    header: tags,
                    elements: vec![Element {
                        key: vec![
                            KeyPart::AddressRange(address, Ipv4Addr::new(192, 0, 2, 9)),
                            KeyPart::PortRange(1, 9),
                        ],
                        value: None,
                    }],
                },
            ])],
        ),
        (
            "nftables: verdict maps",
            vec![nft(vec![
                NftOp::AddSet("links".to_owned(), links.clone()),
                NftOp::AddElements {
                    set: "links".to_owned(),
                    header: links,
                    elements: vec![Element {
                        key: vec![KeyPart::Ifname("probe".to_owned())],
                        value: Some(DataValue::Verdict(Verdict::Jump("target".to_owned()))),
                    }],
                },
                rule("forward", vec![Expression::VerdictMap { fields: vec![Field::InLink], map: "links".to_owned() }]),
            ])],
        ),
        (
            "nftables: connection tracking",
            vec![nft(vec![rule("forward", vec![Expression::Established, Expression::Verdict(Verdict::Accept)])])],
        ),
        (
            "nftables: limit of connections",
            vec![nft(vec![rule(
                "forward",
                vec![Expression::ConnectionsOver(1_000), Expression::Verdict(Verdict::Drop)],
            )])],
        ),
        (
            "nftables: address translation",
            vec![nft(vec![
                chain("dstnat", ChainKind::Nat, Hook::Prerouting),
                chain("srcnat", ChainKind::Nat, Hook::Postrouting),
                rule("dstnat", vec![Expression::ProtocolIs(6), Expression::Dnat { address, port: Some(80) }]),
                rule("srcnat", vec![Expression::Snat { address }]),
            ])],
        ),
        (
            "nftables: hash for load balancing",
            vec![nft(vec![rule(
                "forward",
                vec![Expression::HashSlot { of: 2, slot: 0 }, Expression::Verdict(Verdict::Accept)],
            )])],
        ),
        (
            "nftables: log",
            vec![nft(vec![rule(
                "forward",
                vec![Expression::Counter, Expression::Log { group: LOG_GROUP, prefix: "probe".to_owned() }],
            )])],
        ),
    ];
    let mut found = Vec::new();
    for (name, steps) in steps {
        let tried = applier.apply(&steps).map(|()| "works".to_owned()).map_err(|e| crate::helper::chain(&e));
        found.push(Finding::of(name, Need::Required, tried, MODULES));
    }
    let read = applier.nflog_in(&a, LOG_GROUP).map(|_| "works".to_owned()).map_err(|e| crate::helper::chain(&e));
    found.push(Finding::of("reading the firewall log (NFLOG)", Need::Required, read, MODULES));
    found
}

/// Which limits a job could get. Looked at, not tried: these groups belong to the host.
fn cgroups() -> Finding {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let writable = |path: &Path| nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok();
    let v2 = own.lines().find_map(|line| line.strip_prefix("0::/")).and_then(|path| {
        ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .map(|root| Path::new(root).join(path))
            .into_iter()
            .find(|dir| dir.join("cgroup.controllers").exists())
    });
    let controllers = v2.as_ref().and_then(|dir| std::fs::read_to_string(dir.join("cgroup.controllers")).ok());
    let useful = |list: &str| list.split_whitespace().any(|name| matches!(name, "memory" | "cpu" | "pids"));
    let v1 = ["memory", "cpu", "pids"].iter().all(|name| {
        let line = own.lines().find(|line| line.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == *name)));
        let path = line.and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or("/");
        writable(&Path::new("/sys/fs/cgroup").join(name).join(path.trim_start_matches('/')))
    });
    let tried = match (&v2, controllers.as_deref()) {
        (Some(dir), Some(list)) if useful(list) && writable(dir) => Ok("version 2, delegated".to_owned()),
        _ if v1 => Ok("version 1, writable".to_owned()),
        _ => Err("none that this user may use: jobs get rlimits, nice and affinity only".to_owned()),
    };
    Finding::of(
        "control groups",
        Need::Optional,
        tried,
        "run Moat as root, or in a session of systemd that delegates them: `systemd-run --user --scope -p Delegate=yes moat up`",
    )
}
