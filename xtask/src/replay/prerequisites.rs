//! What a recording takes for granted: groups, parents, documents that it names and never makes.
//!
//! Read from its requests, by rules that are each counted in the report:
//! * **group**: a resource group that is used and not made before;
//! * **parent**: an ancestor of what is addressed;
//! * **target**: what is read and never put, or changed or deleted before it is put;
//! * **version**: a version of an asset that a PUT changes (`200`, where `201` makes one) before the recording has made
//!   it: it is sent once before, as the client had uploaded it on another day;
//! * **element**: for an example of a list, something that the list holds;
//! * **reference**: what a body names by id, or a template by what it computes: the server is asked to validate it and
//!   says what is missing;
//! * **use**: what uses a target or element of an example (a NIC in a subnet, with an address, ...).
//!
//! What the recording itself has made by then, in a parent's body or by a template for the same group that names the
//! type, is not needed. Of what was answered in a session one thing counts, the status, and only to tell what lay there
//! before: what was not found is not made for that request, and what a client found before it put anything was there.
//!
//! An example has no history, and a specification's examples read things that are in use and have
//! every member a client may set. So what an example reads, lists or changes is made *furnished*
//! (`furnished`): the same for every example of a type, with bodies of other examples' requests
//! (`bodies`) laid over it. `make` sends the requests; what it fails to make is told, not hidden.

mod bodies;
mod furnished;
mod hints;
mod make;
mod plain;

use std::collections::{BTreeMap, BTreeSet};

use moat_arm::ResourceId;
use serde_json::Value;

use super::kind;
use super::recording::{Exchange, Origin, Recording, Request};
use super::translate;

pub(crate) use self::bodies::Bodies;
pub(crate) use self::make::Maker;

const ARM: &str = "management.azure.com";
/// How many things the list of an example holds.
const ELEMENTS: usize = 3;

/// A rule by which something is made before a recording is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    Group,
    Parent,
    Target,
    Version,
    Element,
    Reference,
    Use,
}

impl Rule {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Rule::Group => "group",
            Rule::Parent => "parent",
            Rule::Target => "target",
            Rule::Version => "version",
            Rule::Element => "element",
            Rule::Reference => "reference",
            Rule::Use => "use",
        }
    }
}

/// Something that has to be there.
#[derive(Debug)]
pub(crate) struct Need {
    rule: Rule,
    id: ResourceId,
    /// The body that it was sent with, if that is known.
    body: Option<Value>,
}

/// What is needed, in the words of the recording, in order.
pub(crate) fn of(recording: &Recording) -> Vec<Need> {
    let exchanges: Vec<&Exchange> = recording.exchanges.iter().filter(|e| e.request.host == ARM).collect();
    let requests: Vec<&Request> = exchanges.iter().map(|e| &e.request).collect();
    let made = Made::of(&requests);
    let example = recording.origin == Origin::Example;
    let mut needs = Vec::new();
    let mut seen = BTreeSet::new();
    let mut need = |rule, id: ResourceId, body| {
        if seen.insert(id.key().to_owned()) {
            needs.push(Need { rule, id, body });
        }
    };
    for (at, Exchange { request, expected }) in exchanges.iter().enumerate() {
        let path = request.path();
        // An example may tell several answers, and its author no story.
        let status = expected.answers.keys().next().copied().filter(|_| !example);
        let missing = status == Some(404);
        let own = kind::resource(path);
        if let Some(group) = group_of(path).filter(|g| !made.before(g, at)) {
            need(Rule::Group, group, None);
        }
        let body: Value = serde_json::from_str(&request.body).unwrap_or_default();
        if let Some(id) = own.clone().filter(|_| !missing) {
            let mut above = id.parent();
            let mut parents = Vec::new();
            while let Some(parent) = above.filter(|p| p.namespace().is_some()) {
                above = parent.parent();
                parents.push(parent);
            }
            // A client may look whether something is there before it makes it.
            let reads = matches!(request.method.as_str(), "GET" | "HEAD") || asks_before(path);
            let found = status == Some(200) && !asks_before(path);
            let is_made = |id: &ResourceId| if reads && !found { made.anywhere(id) } else { made.earlier(id, at) };
            for parent in parents.into_iter().rev().filter(|p| !is_made(p)) {
                need(Rule::Parent, parent, None);
            }
            if request.method != "PUT" && !is_made(&id) {
                need(Rule::Target, id, None);
            } else if request.method == "PUT"
                && status == Some(200)
                && id.resource_type().to_lowercase().ends_with("/versions")
                && made.first.get(id.key()) == Some(&at)
            {
                need(Rule::Version, id, Some(body.clone()));
            }
        }
        if example && request.method == "GET" {
            for element in elements(path) {
                need(Rule::Element, element, None);
            }
        }
        let near = own.clone().or_else(|| group_of(path));
        for id in near.iter().flat_map(|near| references(near, &body)) {
            if let Some(group) = group_of(id.as_str()).filter(|g| !made.before(g, at)) {
                need(Rule::Group, group, None);
            }
            if !made.earlier(&id, at) {
                need(Rule::Reference, id, None);
            }
        }
    }
    needs
}

/// Whether a request asks about a deployment that need not be there yet.
fn asks_before(path: &str) -> bool {
    let action = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_lowercase();
    action == "validate" || action == "whatif"
}

/// What the requests make themselves.
struct Made {
    first: BTreeMap<String, usize>,
    /// Bodies of deployments in lower case, with the group that each is for.
    templates: Vec<(Option<ResourceId>, String)>,
}

impl Made {
    fn of(requests: &[&Request]) -> Self {
        let mut made = Self { first: BTreeMap::new(), templates: Vec::new() };
        for (at, request) in requests.iter().enumerate().filter(|(_, r)| r.method == "PUT") {
            let path = request.path();
            let id = kind::resource(path).or_else(|| group_of(path));
            if path.to_lowercase().contains("/deployments/") {
                made.templates.push((group_of(path), request.body.to_lowercase()));
            }
            if let Some(id) = id {
                made.first.entry(id.key().to_owned()).or_insert(at);
            }
        }
        made
    }

    /// A group is made before anything is asked about it, or it was there.
    fn before(&self, id: &ResourceId, at: usize) -> bool {
        self.first.get(id.key()).is_some_and(|first| *first <= at)
    }

    /// Whether the recording makes it at all.
    fn anywhere(&self, id: &ResourceId) -> bool {
        self.earlier(id, usize::MAX)
    }

    /// Whether a PUT up to this request makes it, or something that it may be part of, or a version in it. Of templates
    /// the order does not count: names in them are computed, so that only the type can be looked for.
    fn earlier(&self, id: &ResourceId, at: usize) -> bool {
        let kind = id.resource_type().to_lowercase();
        let group = group_of(id.as_str());
        let versions = format!("{kind}/versions");
        if moat_control::types().any(|t| t.on_demand && t.name.eq_ignore_ascii_case(&versions)) {
            let below = format!("{}/versions/", id.key());
            if self.first.iter().any(|(made, first)| made.starts_with(&below) && *first <= at) {
                return true;
            }
        }
        let mut here = Some(id.clone());
        while let Some(id) = here.filter(|i| i.namespace().is_some()) {
            if self.first.get(id.key()).is_some_and(|first| *first <= at) {
                return true;
            }
            here = id.parent();
        }
        let for_group = |own: &Option<ResourceId>| {
            own.as_ref().is_none_or(|own| translate::is_blank(own.name()) || Some(own) == group.as_ref())
        };
        self.templates.iter().any(|(own, text)| for_group(own) && text.contains(&kind))
    }
}

fn group_of(path: &str) -> Option<ResourceId> {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    match segments[..] {
        [s, subscription, g, group, ..]
            if s.eq_ignore_ascii_case("subscriptions") && g.eq_ignore_ascii_case("resourceGroups") =>
        {
            ResourceId::parse(&format!("/subscriptions/{subscription}/resourceGroups/{group}")).ok()
        }
        _ => None,
    }
}

/// Every id in the body of a document, and what it names without one.
fn references(of: &ResourceId, body: &Value) -> Vec<ResourceId> {
    let mut found = ids(body);
    // A datastore names its account, which lies anywhere.
    let account = body["properties"]["accountName"].as_str().filter(|a| !a.is_empty());
    let group = of.resource_group().map(|_| of.as_str().split("/providers/").next().unwrap_or_default());
    if let (Some(account), Some(group)) = (account, group) {
        let id = format!("{group}/providers/Microsoft.Storage/storageAccounts/{account}");
        found.extend(ResourceId::parse(&id));
    }
    found
}

/// Every id in a body.
pub(crate) fn ids(body: &Value) -> Vec<ResourceId> {
    match body {
        Value::String(text) if text.to_lowercase().starts_with("/subscriptions/") => {
            kind::resource(text).into_iter().collect()
        }
        Value::Array(items) => items.iter().flat_map(ids).collect(),
        Value::Object(members) => members.values().flat_map(ids).collect(),
        _ => Vec::new(),
    }
}

/// What lies in the collection that a path names.
fn elements(path: &str) -> Vec<ResourceId> {
    let mut segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    let Some(block) = segments.iter().rposition(|s| s.eq_ignore_ascii_case("providers")) else { return Vec::new() };
    if (segments.len() - block).is_multiple_of(2) {
        return Vec::new();
    }
    if block == 2 && segments[0].eq_ignore_ascii_case("subscriptions") {
        segments.splice(2..2, ["resourceGroups".to_owned(), "moat-replay".to_owned()]);
    }
    let path = segments.join("/");
    let element = |n: usize| {
        let id = ResourceId::parse(&format!("/{path}/element{n}")).ok()?;
        let id = ResourceId::parse(&format!("/{path}/{}", plain::name(&id.resource_type(), n))).ok()?;
        known(&id.resource_type()).then_some(id)
    };
    (1..=ELEMENTS).filter_map(element).collect()
}

/// Moat has this type.
fn known(kind: &str) -> bool {
    moat_control::types().any(|t| !t.hidden && t.name.eq_ignore_ascii_case(kind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_list_has_elements_wherever_it_is() {
        let first = |path: &str| elements(path).first().map(ToString::to_string).unwrap_or_default();
        let in_group = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks";
        assert_eq!(first(in_group), format!("{in_group}/element1"));
        assert_eq!(first(&format!("{in_group}/v/subnets")), format!("{in_group}/v/subnets/element1"));
        assert_eq!(first(&format!("{in_group}/v")), "", "one VNet is no list");
        assert_eq!(
            first("/subscriptions/s/providers/Microsoft.Network/virtualNetworks"),
            in_group.replace("/g/", "/moat-replay/") + "/element1"
        );
        assert_eq!(
            first("/subscriptions/s/resourceGroups/g/providers/Microsoft.Wat/wats"),
            "",
            "Moat has no such type"
        );
    }

    #[test]
    fn what_a_body_asks_of_others_is_noted() {
        let vnet = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v";
        let body = serde_json::json!({"properties": {
            "remoteVirtualNetwork": {"id": vnet},
            "ipConfigurations": [{"subnet": {"id": format!("{vnet}/subnets/s")}, "privateIPAddress": "10.1.2.3"}],
            "rule": {"id": vnet.replace("virtualNetworks/v", "loadBalancers/lb/frontendIPConfigurations/front")},
        }});
        let mut hints = hints::Hints::default();
        let id = |text: &str| ResourceId::parse(text).unwrap();
        hints.note(&id(&format!("{vnet}2/virtualNetworkPeerings/p")), &body);
        assert_eq!(hints.remote(&id(vnet)), Some(0));
        assert_eq!(hints.address(&id(&format!("{vnet}/subnets/s"))), Some([10, 1, 2, 3].into()));
        let balancer = id(&vnet.replace("virtualNetworks/v", "loadBalancers/lb"));
        assert_eq!(hints.names(&balancer, "frontendIPConfigurations", "other"), ["front"]);
    }
}
