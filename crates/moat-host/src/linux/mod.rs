//! Hands: executes [`Step`]s on this kernel and says what is there.
//!
//! Everything works without privilege beyond those inside one's own user namespace. Nothing here
//! decides anything: what to do comes in, what happened goes out.

mod netns;
mod observe;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use observe::{LinkObserved, NsObserved, Observed};
pub use sockets::SocketSpec;

use crate::diff::{NetChange, Step};
use crate::layout::{Hop, NsName};
use crate::netlink::{self, Socket, nflog, nft, route};

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The kernel refused a netlink request.
    #[error("in namespace `{ns}`")]
    Netlink {
        /// Where.
        ns: NsName,
        /// Cause.
        #[source]
        source: netlink::Error,
    },
    /// Another system call failed.
    #[error("{doing} `{ns}`")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        ns: NsName,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A step names a namespace that does not exist.
    #[error("there is no namespace `{0}`")]
    NoNamespace(NsName),
    /// A link was made but does not carry packets.
    #[error("link `{link}` in namespace `{ns}` does not come up")]
    LinkDown {
        /// Where.
        ns: NsName,
        /// Link.
        link: String,
    },
    /// A step names a link that does not exist.
    #[error("there is no link `{link}` in namespace `{ns}`")]
    NoLink {
        /// Where.
        ns: NsName,
        /// Link.
        link: String,
    },
}

/// How long the kernel may take to make new links carry packets. It takes a millisecond or so
/// when idle; the work is queued behind everything else that holds the network lock.
const LINK_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often that is asked.
const LINK_POLL: Duration = Duration::from_millis(1);

/// Result of applying.
pub type Result<T> = std::result::Result<T, ApplyError>;

/// What is open of one namespace. Sockets belong to the namespace they were opened in, so the
/// applier itself never has to enter one.
#[derive(Debug)]
struct Namespace {
    fd: OwnedFd,
    route: Option<Socket>,
    nft: Option<Socket>,
    /// Index of each link; asked again when a name is missing.
    links: BTreeMap<String, u32>,
}

/// Executes steps. Namespaces are kept alive by mounts in one directory, which no one else uses.
#[derive(Debug)]
pub struct Applier {
    directory: PathBuf,
    namespaces: BTreeMap<NsName, Namespace>,
    /// Index of the next link: no two links get the same, whatever their namespaces.
    next_index: u32,
}

/// Above what the kernel itself hands out in a new namespace.
const FIRST_LINK_INDEX: u32 = 1_000;

impl Applier {
    /// An applier whose namespaces are pinned in `directory` (made if absent). Best on a private
    /// tmpfs: the pins then go with the mount namespace.
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        std::fs::create_dir_all(&directory)?;
        Ok(Self { directory, namespaces: BTreeMap::new(), next_index: FIRST_LINK_INDEX })
    }

    /// Names of the namespaces there are.
    pub fn namespaces(&self) -> impl Iterator<Item = &NsName> {
        self.namespaces.keys()
    }

    /// The namespace's own descriptor, for `setns` by a child.
    pub fn ns_fd(&self, ns: &NsName) -> Option<BorrowedFd<'_>> {
        self.namespaces.get(ns).map(|n| n.fd.as_fd())
    }

    /// Where the namespace is pinned: `ip netns`-like tools of the same mount namespace can use it.
    pub fn ns_path(&self, ns: &NsName) -> PathBuf {
        self.directory.join(ns.as_str())
    }

    /// Executes steps in order; stops at the first that fails. What was done stays: the caller
    /// observes and plans again.
    pub fn apply(&mut self, steps: &[Step]) -> Result<()> {
        let mut result = Ok(());
        let mut rest = steps;
        while let Some(step) = rest.first() {
            let run = rest.iter().take_while(|s| same_veth_home(step, s)).count().max(1);
            result = match step {
                Step::CreateVeth(_) => self.create_veths(&rest[..run]),
                other => self.step(other),
            };
            if result.is_err() {
                break;
            }
            rest = &rest[if matches!(step, Step::CreateVeth(_)) { run } else { 1 }..];
        }
        if result.is_ok() {
            result = self.wait_for_links(steps);
        }
        // Two descriptors a namespace would not fit an ordinary limit with hundreds of nodes.
        for namespace in self.namespaces.values_mut() {
            namespace.route = None;
            namespace.nft = None;
        }
        result
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::CreateNs { ns, sysctls } => {
                let path = self.ns_path(ns);
                let fd = netns::create(&path, sysctls).map_err(io_error("creating namespace", ns))?;
                self.namespaces.insert(ns.clone(), Namespace { fd, route: None, nft: None, links: BTreeMap::new() });
                self.route(ns)?.request(route::link_up(1), "switch loopback on").map_err(refused(ns))
            }
            Step::DeleteNs { ns } => {
                self.namespaces.remove(ns).ok_or_else(|| ApplyError::NoNamespace(ns.clone()))?;
                netns::remove(&self.ns_path(ns)).map_err(io_error("removing namespace", ns))
            }
            Step::CreateVeth(_) => self.create_veths(std::slice::from_ref(step)),
            Step::DeleteVeth { ns, link } => {
                let what = format!("delete link {link}");
                let requests = vec![(route::delete_link(link), what)];
                // A link whose other end's namespace is gone already went with it.
                self.route(ns)?.request_all(requests, |_, e| e == libc::ENODEV).map_err(refused(ns))?;
                self.forget_links();
                Ok(())
            }
            Step::Net { ns, changes } => self.net(ns, changes),
            Step::Nft { ns, ops } => {
                let socket = self.nft(ns)?;
                nft::transaction(socket, ops).map_err(refused(ns))
            }
        }
    }

    /// Indices may be reused by the kernel: after a deletion all are asked again.
    fn forget_links(&mut self) {
        for namespace in self.namespaces.values_mut() {
            namespace.links.clear();
        }
    }

    /// Pairs whose first ends are in one namespace go to the kernel together.
    fn create_veths(&mut self, steps: &[Step]) -> Result<()> {
        let veths: Vec<_> = steps
            .iter()
            .filter_map(|s| match s {
                Step::CreateVeth(v) => Some(v),
                _ => None,
            })
            .collect();
        let Some(home) = veths.first().map(|v| v.a.ns.clone()) else { return Ok(()) };
        let mut requests = Vec::with_capacity(veths.len());
        for veth in &veths {
            let peer = self.namespaces.get(&veth.b.ns).ok_or_else(|| ApplyError::NoNamespace(veth.b.ns.clone()))?;
            let indices = [self.next_index, self.next_index + 1];
            self.next_index += 2;
            requests.push((route::add_veth(veth, indices, peer.fd.as_fd()), format!("add link {}", veth.a.link)));
        }
        self.route(&home)?.request_all(requests, |_, _| false).map_err(refused(&home))?;
        for veth in veths {
            let (ns, link) = (&veth.b.ns, &veth.b.link);
            let what = format!("switch link {link} on");
            self.route(ns)?.request(route::link_up_named(link), &what).map_err(refused(ns))?;
        }
        Ok(())
    }

    /// Waits until the links made by `steps` carry packets.
    fn wait_for_links(&mut self, steps: &[Step]) -> Result<()> {
        let mut open: BTreeMap<&NsName, BTreeSet<&str>> = BTreeMap::new();
        for step in steps {
            if let Step::CreateVeth(veth) = step {
                for end in [&veth.a, &veth.b] {
                    open.entry(&end.ns).or_default().insert(&end.link);
                }
            }
        }
        let deadline = Instant::now() + LINK_WAIT_MAX;
        while let Some((ns, links)) = open.first_key_value() {
            let (ns, missing) = (*ns, links.clone());
            let seen = route::links(self.route(ns)?).map_err(refused(ns))?;
            let ready = |l: &str| seen.iter().any(|s| s.name == l && s.ready);
            match missing.iter().find(|l| !ready(l)) {
                None => {
                    open.remove(ns);
                }
                Some(link) if Instant::now() >= deadline => {
                    return Err(ApplyError::LinkDown { ns: ns.clone(), link: (*link).to_owned() });
                }
                Some(_) => std::thread::sleep(LINK_POLL),
            }
        }
        Ok(())
    }

    fn net(&mut self, ns: &NsName, changes: &[NetChange]) -> Result<()> {
        let wanted: BTreeSet<&str> = changes.iter().filter_map(link_of).collect();
        let known = self.namespaces.get(ns).ok_or_else(|| ApplyError::NoNamespace(ns.clone()))?;
        if wanted.iter().any(|l| !known.links.contains_key(*l)) {
            let seen = route::links(self.route(ns)?).map_err(refused(ns))?;
            if let Some(n) = self.namespaces.get_mut(ns) {
                n.links = seen.into_iter().map(|l| (l.name, l.index)).collect();
            }
        }
        let links = self.namespaces.get(ns).map(|n| n.links.clone()).unwrap_or_default();
        let index = |link: &str| {
            links.get(link).copied().ok_or_else(|| ApplyError::NoLink { ns: ns.clone(), link: link.to_owned() })
        };
        let mut requests = Vec::with_capacity(changes.len());
        let mut removal = Vec::with_capacity(changes.len());
        for change in changes {
            let (request, what, removes) = match change {
                NetChange::AddAddress(l, net) => {
                    (route::address(true, index(l)?, *net), format!("add address {net} to {l}"), false)
                }
                NetChange::DelAddress(l, net) => {
                    (route::address(false, index(l)?, *net), format!("delete address {net} of {l}"), true)
                }
                NetChange::AddNeighbour(n) => (
                    route::neighbour(true, index(&n.link)?, n),
                    format!("add neighbour {} on {}", n.address, n.link),
                    false,
                ),
                NetChange::DelNeighbour(n) => (
                    route::neighbour(false, index(&n.link)?, n),
                    format!("delete neighbour {} on {}", n.address, n.link),
                    true,
                ),
                NetChange::AddRoute(r) | NetChange::DelRoute(r) => {
                    let add = matches!(change, NetChange::AddRoute(_));
                    let out = match &r.hop {
                        Hop::Link(l) | Hop::Via(_, l) => Some(index(l)?),
                        Hop::Local => Some(index("lo")?),
                        Hop::Blackhole | Hop::Throw => None,
                    };
                    let verb = if add { "add" } else { "delete" };
                    (route::route(add, out, r), format!("{verb} route {} in table {}", r.prefix, r.table), !add)
                }
                NetChange::AddRule(r) => (route::policy_rule(true, r), format!("add rule for mark {}", r.mark), false),
                NetChange::DelRule(r) => {
                    (route::policy_rule(false, r), format!("delete rule for mark {}", r.mark), true)
                }
            };
            requests.push((request, what));
            removal.push(removes);
        }
        // What should go may have gone with its link.
        let gone = [libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENODEV];
        self.route(ns)?
            .request_all(requests, |i, e| removal.get(i) == Some(&true) && gone.contains(&e))
            .map_err(refused(ns))
    }

    /// Removes every namespace; links and firewalls go with them.
    pub fn destroy(&mut self) -> Result<()> {
        let all: Vec<NsName> = self.namespaces.keys().cloned().collect();
        for ns in all {
            self.step(&Step::DeleteNs { ns })?;
        }
        Ok(())
    }

    /// A socket that belongs to `ns`.
    pub fn socket_in(&self, ns: &NsName, spec: &SocketSpec) -> Result<OwnedFd> {
        let namespace = self.namespaces.get(ns).ok_or_else(|| ApplyError::NoNamespace(ns.clone()))?;
        netns::inside(namespace.fd.as_fd(), || sockets::open(spec)).map_err(io_error("making a socket in", ns))
    }

    /// A socket on which the firewall log of `ns` arrives: read datagrams, give them to
    /// [`nflog::parse`]. One subscriber per group and namespace.
    pub fn nflog_in(&self, ns: &NsName, group: u16) -> Result<OwnedFd> {
        let mut socket = self.open_socket(ns, Socket::netfilter)?;
        nflog::subscribe(&mut socket, group).map_err(refused(ns))?;
        Ok(socket.into_fd())
    }

    /// Runs `work` in a thread inside `ns`.
    pub fn run_in<T: Send>(&self, ns: &NsName, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        let namespace = self.namespaces.get(ns).ok_or_else(|| ApplyError::NoNamespace(ns.clone()))?;
        netns::inside(namespace.fd.as_fd(), work).map_err(io_error("working in", ns))
    }

    fn open_socket(&self, ns: &NsName, open: fn() -> netlink::Result<Socket>) -> Result<Socket> {
        let namespace = self.namespaces.get(ns).ok_or_else(|| ApplyError::NoNamespace(ns.clone()))?;
        netns::inside(namespace.fd.as_fd(), || open().map_err(io::Error::other))
            .map_err(io_error("opening netlink in", ns))
    }

    fn route(&mut self, ns: &NsName) -> Result<&mut Socket> {
        self.cached(ns, Socket::route, |n| &mut n.route)
    }

    fn nft(&mut self, ns: &NsName) -> Result<&mut Socket> {
        self.cached(ns, Socket::netfilter, |n| &mut n.nft)
    }

    fn cached(
        &mut self,
        ns: &NsName,
        open: fn() -> netlink::Result<Socket>,
        slot: fn(&mut Namespace) -> &mut Option<Socket>,
    ) -> Result<&mut Socket> {
        let missing = || ApplyError::NoNamespace(ns.clone());
        if slot(self.namespaces.get_mut(ns).ok_or_else(missing)?).is_none() {
            let socket = self.open_socket(ns, open)?;
            *slot(self.namespaces.get_mut(ns).ok_or_else(missing)?) = Some(socket);
        }
        slot(self.namespaces.get_mut(ns).ok_or_else(missing)?).as_mut().ok_or_else(missing)
    }
}

fn same_veth_home(a: &Step, b: &Step) -> bool {
    matches!((a, b), (Step::CreateVeth(a), Step::CreateVeth(b)) if a.a.ns == b.a.ns)
}

fn link_of(change: &NetChange) -> Option<&str> {
    match change {
        NetChange::AddAddress(l, _) | NetChange::DelAddress(l, _) => Some(l),
        NetChange::AddNeighbour(n) | NetChange::DelNeighbour(n) => Some(&n.link),
        NetChange::AddRoute(r) | NetChange::DelRoute(r) => match &r.hop {
            Hop::Link(l) | Hop::Via(_, l) => Some(l),
            Hop::Local => Some("lo"),
            Hop::Blackhole | Hop::Throw => None,
        },
        NetChange::AddRule(_) | NetChange::DelRule(_) => None,
    }
}

fn refused(ns: &NsName) -> impl FnOnce(netlink::Error) -> ApplyError + '_ {
    move |source| ApplyError::Netlink { ns: ns.clone(), source }
}

fn io_error<'a>(doing: &'static str, ns: &'a NsName) -> impl FnOnce(io::Error) -> ApplyError + 'a {
    move |source| ApplyError::Io { doing, ns: ns.clone(), source }
}
