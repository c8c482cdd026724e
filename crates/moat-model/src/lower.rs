//! Documents to network: ARM JSON read into [`moat_net::ir::Net`].
//!
//! Broken input is data: what cannot be read is left out and reported as a [`Problem`]; nothing
//! here fails or panics. The result depends only on the documents and their order. Not here: any
//! judgement of what the service would refuse (`refusals`), and any meaning of an address (`moat-net`).
//!
//! Children (subnets, rules, routes, peerings) are read from their parent's arrays and, for bare
//! resources such as a template's, from documents of their own.

mod balancer;
mod gateway;
mod nic;
mod read;
mod security;
mod vnet;

pub(crate) use self::read::prefix;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use moat_arm::{ResourceId, Snapshot, document};
use moat_net::ir::{Net, Semantics};
use moat_net::tags::TagSource;
use serde_json::Value;

use crate::edition::Edition;

/// Something in a document that could not be lowered, and was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Id of the document or embedded child.
    pub document: String,
    /// Path of the member inside it.
    pub at: String,
    /// What is wrong.
    pub what: What,
}
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}` {}", self.document, self.at, self.what)
    }
}

/// Kinds of problems.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// The id cannot be parsed.
    #[error("is not a resource id")]
    BadId,
    /// Neither a prefix nor an address.
    #[error("has `{0}`, which is neither an address nor a prefix")]
    BadAddress(String),
    /// Neither a port nor a range.
    #[error("has `{0}`, which is neither a port nor a range of ports")]
    BadPort(String),
    /// A value outside its closed list.
    #[error("has `{0}`, which is not one of its values")]
    BadValue(String),
    /// A needed member is absent.
    #[error("is missing")]
    Missing,
    /// It points at a document that is not there.
    #[error("points at `{0}`, which does not exist")]
    UnknownReference(String),
    /// A service tag that the tag data does not have.
    #[error("names the service tag `{name}`, which does not exist{}", hint.as_ref().map(|h| format!("; did you mean `{h}`")).unwrap_or_default())]
    UnknownTag {
        /// As written.
        name: String,
        /// The tag that was probably meant.
        hint: Option<String>,
    },
    /// It is legal, but not modelled.
    #[error("is not modelled")]
    NotModelled,
}

/// Service tags of an edition (DECISIONS 13).
pub fn tags_of(edition: Edition) -> TagSource {
    match edition {
        Edition::Seed2021 => TagSource::File(moat_net::tags::september_2021()),
        Edition::Current => TagSource::File(moat_net::tags::october_2025()),
    }
}

/// Lowers every network document of `snapshot`, in key order.
pub fn network(snapshot: &Snapshot, semantics: Semantics, tags: &TagSource) -> (Net, Vec<Problem>) {
    let documents = snapshot.all().map(|d| (d.id.as_str(), &d.body));
    network_from_resources(documents, semantics, tags)
}

/// Lowers bare resources: ids with bodies that have `properties` (and `sku`), in the given order.
/// Types that are no part of a network are passed over.
pub fn network_from_resources<'a>(
    resources: impl Iterator<Item = (&'a str, &'a Value)>,
    semantics: Semantics,
    tags: &TagSource,
) -> (Net, Vec<Problem>) {
    let mut lowering = Lowering::new(tags, semantics);
    for (id, body) in resources {
        lowering.add(id, body);
    }
    lowering.run()
}

/// A document or an embedded child.
#[derive(Debug, Clone)]
pub(crate) struct Doc<'a> {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) body: &'a Value,
}

/// Types of documents that can be pointed at, each with an arena of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Vnet,
    Subnet,
    Nsg,
    Asg,
    RouteTable,
    PublicIp,
    PublicIpPrefix,
    NatGateway,
    LoadBalancer,
    Nic,
    PrivateEndpoint,
    Firewall,
    VpnGateway,
    LocalGateway,
    Connection,
}
impl Kind {
    /// The kind of a type under `Microsoft.Network`, in lower case.
    fn of_type(name: &str) -> Option<Self> {
        Some(match name {
            "virtualnetworks" => Kind::Vnet,
            "networksecuritygroups" => Kind::Nsg,
            "applicationsecuritygroups" => Kind::Asg,
            "routetables" => Kind::RouteTable,
            "publicipaddresses" => Kind::PublicIp,
            "publicipprefixes" => Kind::PublicIpPrefix,
            "natgateways" => Kind::NatGateway,
            "loadbalancers" => Kind::LoadBalancer,
            "networkinterfaces" => Kind::Nic,
            "privateendpoints" => Kind::PrivateEndpoint,
            "azurefirewalls" => Kind::Firewall,
            "virtualnetworkgateways" => Kind::VpnGateway,
            "localnetworkgateways" => Kind::LocalGateway,
            "connections" => Kind::Connection,
            _ => return None,
        })
    }
}

/// The work in progress.
pub(crate) struct Lowering<'a> {
    tags: &'a TagSource,
    used_tags: BTreeSet<String>,
    docs: BTreeMap<Kind, Vec<Doc<'a>>>,
    /// Children that came as documents of their own, by lower-case parent id and child type.
    loose: BTreeMap<(String, String), Vec<Doc<'a>>>,
    /// Position in its arena, by kind and lower-case id.
    index: BTreeMap<(Kind, String), u32>,
    pub(crate) net: Net,
    pub(crate) problems: Vec<Problem>,
}

impl<'a> Lowering<'a> {
    fn new(tags: &'a TagSource, semantics: Semantics) -> Self {
        Self {
            tags,
            used_tags: BTreeSet::new(),
            docs: BTreeMap::new(),
            loose: BTreeMap::new(),
            index: BTreeMap::new(),
            net: Net { semantics, ..Net::default() },
            problems: Vec::new(),
        }
    }

    /// Sorts a resource into its kind.
    fn add(&mut self, id: &str, body: &'a Value) {
        let Ok(parsed) = ResourceId::parse(id) else {
            return self.problem(id, "id", What::BadId);
        };
        let kind = parsed.resource_type().to_lowercase();
        let Some(rest) = kind.strip_prefix("microsoft.network/") else { return };
        let doc = Doc { id: id.trim_end_matches('/').to_owned(), name: parsed.name().to_owned(), body };
        match rest.split_once('/') {
            None => {
                if let Some(kind) = Kind::of_type(rest) {
                    self.docs.entry(kind).or_default().push(doc);
                }
            }
            Some((_, child)) if !child.contains('/') => {
                if let Some(parent) = parsed.parent() {
                    self.loose.entry((parent.key().to_owned(), child.to_owned())).or_default().push(doc);
                }
            }
            Some(_) => {}
        }
    }

    /// Referred-to arenas first, so that every reference can be looked up when it is read.
    fn run(mut self) -> (Net, Vec<Problem>) {
        self.security_groups();
        self.route_tables();
        self.public_addresses();
        self.vnets();
        self.gateways();
        self.nics();
        self.balancers();
        self.private_endpoints();
        self.firewalls();
        let tags: BTreeMap<String, Vec<IpNet>> =
            self.used_tags.iter().map(|name| (name.clone(), self.tags.prefixes(name))).collect();
        self.net.tags = Arc::new(tags);
        (self.net, self.problems)
    }

    pub(crate) fn problem(&mut self, document: &str, at: &str, what: What) {
        self.problems.push(Problem { document: document.to_owned(), at: at.to_owned(), what });
    }

    /// Documents of a kind.
    pub(crate) fn docs(&self, kind: Kind) -> Vec<Doc<'a>> {
        self.docs.get(&kind).cloned().unwrap_or_default()
    }

    /// Gives `id` its place in the arena of `kind`.
    pub(crate) fn place(&mut self, kind: Kind, id: &str, at: usize) -> u32 {
        // An arena cannot outgrow 32 bits: each element comes from a document held in memory.
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        self.index.insert((kind, id.to_lowercase()), at);
        at
    }

    /// Where `id` lies in the arena of `kind`.
    pub(crate) fn find(&self, kind: Kind, id: &str) -> Option<u32> {
        self.index.get(&(kind, id.trim_end_matches('/').to_lowercase())).copied()
    }

    /// Follows a reference such as `properties.subnet.id`; an absent one is `None`, a dangling one
    /// is reported.
    pub(crate) fn refer(&mut self, doc: &Doc<'_>, path: &str, kind: Kind) -> Option<u32> {
        let id = document::str_at(doc.body, path)?;
        let found = self.find(kind, id);
        if found.is_none() {
            self.problem(&doc.id, path, What::UnknownReference(id.to_owned()));
        }
        found
    }

    /// Follows a list of references such as `properties.publicIpAddresses` (`[{"id": ...}]`).
    pub(crate) fn refer_all(&mut self, doc: &Doc<'_>, path: &str, kind: Kind) -> Vec<u32> {
        let mut found = Vec::new();
        for item in document::array_at(doc.body, path) {
            let Some(id) = document::str_at(item, "id") else {
                self.problem(&doc.id, path, What::Missing);
                continue;
            };
            match self.find(kind, id) {
                Some(at) => found.push(at),
                None => self.problem(&doc.id, path, What::UnknownReference(id.to_owned())),
            }
        }
        found
    }

    /// Children of `parent`: embedded at `properties.{array}`, then loose documents of the type
    /// `array`; a loose one replaces an embedded one of its name.
    pub(crate) fn children(&mut self, parent: &Doc<'a>, array: &str) -> Vec<Doc<'a>> {
        let path = format!("properties.{array}");
        let mut children: Vec<Doc<'a>> = Vec::new();
        for (position, body) in document::array_at(parent.body, &path).iter().enumerate() {
            let name = document::str_at(body, "name");
            let id = document::str_at(body, "id");
            let name = match (name, id) {
                (Some(name), _) => name.to_owned(),
                (None, Some(id)) => moat_net::trace::last_name(id).to_owned(),
                (None, None) => {
                    self.problem(&parent.id, &format!("{path}[{position}].name"), What::Missing);
                    format!("{position}")
                }
            };
            children.push(Doc { id: format!("{}/{array}/{name}", parent.id), name, body });
        }
        let loose = self.loose.get(&(parent.id.to_lowercase(), array.to_lowercase()));
        for doc in loose.into_iter().flatten() {
            match children.iter_mut().find(|c| c.name.eq_ignore_ascii_case(&doc.name)) {
                Some(old) => *old = doc.clone(),
                None => children.push(doc.clone()),
            }
        }
        children
    }

    /// The canonical spelling of a tag of the tag data, noted as used; an unknown one is reported
    /// and kept as written, so that it matches nothing.
    pub(crate) fn tag(&mut self, document: &str, at: &str, name: &str) -> String {
        match self.tags.canonical(name, self.net.semantics.tag_names_case_sensitive) {
            Some(canonical) => {
                self.used_tags.insert(canonical.clone());
                canonical
            }
            None => {
                let hint = moat_net::tags::spelling_hint(name);
                self.problem(document, at, What::UnknownTag { name: name.to_owned(), hint });
                name.to_owned()
            }
        }
    }

    /// Notes a tag that the network needs though no rule names it, if it exists.
    pub(crate) fn use_tag(&mut self, name: &str) {
        if let Some(canonical) = self.tags.canonical(name, true) {
            self.used_tags.insert(canonical);
        }
    }
}
