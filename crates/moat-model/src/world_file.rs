//! Worlds and cases in files: what `moat trace --world FILE --cases CASES` reads and prints.
//!
//! The format is that of the truth vectors: a world is `{"resources": [...], "serviceTags": {...}}`,
//! a case is one JSON object a line, an answer too. Pure: texts in, values out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use moat_arm::document::{array_at, at, str_at, u64_at};
use moat_net::ir::{Net, NicIx, Protocol, Semantics};
use moat_net::packet::Flow;
use moat_net::tags::TagSource;
use moat_net::trace::{From, Stage, Trace, Verdict, trace};
use serde::Serialize;
use serde_json::Value;

use crate::lower::{self, Problem};

/// Why a world or a case cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// Not JSON.
    #[error("not JSON")]
    Json(#[from] serde_json::Error),
    /// A member is absent or of the wrong kind.
    #[error("`{0}` is missing or of the wrong kind")]
    Member(&'static str),
    /// The case's NIC is not in the world.
    #[error("there is no network interface `{0}` in the world")]
    UnknownNic(String),
    /// `kind` is neither `from-nic` nor `from-internet`.
    #[error("`kind` is `{0}`, not `from-nic` or `from-internet`")]
    UnknownKind(String),
}

/// A world as read.
#[derive(Debug, Clone)]
pub struct World {
    /// The network.
    pub net: Net,
    /// What could not be lowered.
    pub problems: Vec<Problem>,
    nics: BTreeMap<String, NicIx>,
}

impl World {
    /// Reads a world. Its semantics are those the truth vectors assume: names of tags compared
    /// with case, and not closed by default. A world without `serviceTags` uses `tags`.
    pub fn parse(text: &str, tags: &TagSource) -> Result<Self, WorldError> {
        let document: Value = serde_json::from_str(text)?;
        let resources = at(&document, "resources").and_then(Value::as_array);
        let resources = resources.ok_or(WorldError::Member("resources"))?;
        let given = at(&document, "serviceTags").map(given_tags);
        let semantics = Semantics { closed_by_default: false, tag_names_case_sensitive: true };
        let documents = resources.iter().filter_map(|r| Some((str_at(r, "id")?, r)));
        let (net, problems) = lower::network_from_resources(documents, semantics, given.as_ref().unwrap_or(tags));
        let nics = net.nics().map(|(ix, nic)| (nic.id.to_lowercase(), ix)).collect();
        Ok(Self { net, problems, nics })
    }

    /// Runs one case.
    pub fn run(&self, case: &Case) -> Result<Answer, WorldError> {
        let nic = self.nics.get(&case.nic.to_lowercase()).copied();
        let nic = nic.ok_or_else(|| WorldError::UnknownNic(case.nic.clone()))?;
        let from = match case.kind {
            Kind::FromNic => From::Nic(nic),
            Kind::FromInternet => From::InternetTo(nic),
        };
        Ok(Answer::new(&case.id, trace(&self.net, from, case.flow)))
    }
}

/// Tags in the layout of Azure's tag files; entries that are no prefix are passed over.
fn given_tags(file: &Value) -> TagSource {
    let prefixes = |tag: &Value| -> Vec<IpNet> {
        let texts = array_at(tag, "properties.addressPrefixes").iter().filter_map(Value::as_str);
        texts.filter_map(|t| t.parse().ok()).collect()
    };
    let values = array_at(file, "values").iter();
    TagSource::Given(values.filter_map(|v| Some((str_at(v, "name")?.to_owned(), prefixes(v)))).collect())
}

/// Where a case's packet sets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It leaves the NIC.
    FromNic,
    /// It arrives at the NIC from a public source, its destination already translated.
    FromInternet,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its id.
    pub id: String,
    /// The file name of its world, if it names one.
    pub topology: Option<String>,
    /// Direction.
    pub kind: Kind,
    /// Id of the NIC.
    pub nic: String,
    /// The packet.
    pub flow: Flow,
}

impl Case {
    /// Reads a line.
    pub fn parse(line: &str) -> Result<Self, WorldError> {
        let case: Value = serde_json::from_str(line)?;
        let text = |path: &str, name: &'static str| str_at(&case, path).ok_or(WorldError::Member(name));
        let kind = match text("kind", "kind")? {
            "from-nic" => Kind::FromNic,
            "from-internet" => Kind::FromInternet,
            other => return Err(WorldError::UnknownKind(other.to_owned())),
        };
        let address = |path: &str, name| text(path, name)?.parse::<IpAddr>().map_err(|_| WorldError::Member(name));
        let port =
            |path: &str, name| u16::try_from(u64_at(&case, path).unwrap_or(0)).map_err(|_| WorldError::Member(name));
        Ok(Self {
            id: text("id", "id")?.to_owned(),
            topology: str_at(&case, "topology").map(str::to_owned),
            kind,
            nic: text("nic", "nic")?.to_owned(),
            flow: Flow {
                source: address("packet.src", "packet.src")?,
                destination: address("packet.dst", "packet.dst")?,
                protocol: Protocol::parse(text("packet.proto", "packet.proto")?)
                    .ok_or(WorldError::Member("packet.proto"))?,
                source_port: port("packet.sport", "packet.sport")?,
                destination_port: port("packet.dport", "packet.dport")?,
            },
        })
    }
}

/// One line of output.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Id of the case.
    pub id: String,
    /// `allow`, `deny` or `drop`.
    pub verdict: Verdict,
    /// Where it ended.
    pub stage: Stage,
    /// `list/rule` that denied.
    pub rule: Option<String>,
    /// Next hop type.
    pub next_hop: Option<String>,
    /// Next hop address.
    pub next_hop_ip: Option<IpAddr>,
    /// The route.
    pub route: Option<String>,
    /// Every list asked: stage, list, rule, access.
    pub trace: Vec<(Stage, String, String, moat_net::ir::Access)>,
}

impl Answer {
    /// The answer that a trace gives to case `id`.
    pub fn new(id: &str, trace: Trace) -> Self {
        let lists = trace.lists.into_iter().map(|l| (l.stage, l.list, l.rule, l.access)).collect();
        Self {
            id: id.to_owned(),
            verdict: trace.verdict,
            stage: trace.stage,
            rule: trace.rule,
            next_hop: trace.next_hop,
            next_hop_ip: trace.next_hop_ip,
            route: trace.route,
            trace: lists,
        }
    }
}
