//! What a recording takes for granted: groups, parents, documents that it names and never makes.
//!
//! Read from its requests only, by four rules, each counted in the report:
//! * **group**: a resource group that is used and not made before;
//! * **parent**: an ancestor of what is addressed;
//! * **target**: what is read and never put, or changed or deleted before it is put;
//! * **reference**: what a body names by id, or a template by what it computes: the server is asked to validate it and
//!   says what is missing.
//!
//! What the recording itself has made by then, in a parent's body or by a template for the same group that names the
//! type, is not needed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use moat_arm::ResourceId;
use serde_json::{Value, json};

use super::kind;
use super::moat::Moat;
use super::recording::{Origin, Recording, Request};
use super::translate::{self, Translator};

const ARM: &str = "management.azure.com";
const API_VERSION: &str = "2024-05-01";
/// A document may need others, which need others.
const DEPTH_MAX: usize = 5;
/// What one template may miss.
const MISSING_MAX: usize = 8;
/// Bodies of examples that are tried before the plain one.
const BODIES_MAX: usize = 4;

/// A rule by which something is made before a recording is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    Group,
    Parent,
    Target,
    Reference,
}

impl Rule {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Rule::Group => "group",
            Rule::Parent => "parent",
            Rule::Target => "target",
            Rule::Reference => "reference",
        }
    }
}

/// What is needed, in the words of the recording, in order.
pub(crate) fn of(recording: &Recording) -> Vec<(Rule, ResourceId)> {
    let requests: Vec<&Request> = recording.exchanges.iter().map(|e| &e.request).filter(|r| r.host == ARM).collect();
    let made = Made::of(&requests);
    let mut needs = Vec::new();
    let mut seen = BTreeSet::new();
    let mut need = |rule, id: ResourceId| {
        if seen.insert(id.key().to_owned()) {
            needs.push((rule, id));
        }
    };
    for (at, request) in requests.iter().enumerate() {
        let path = request.path();
        let own = kind::resource(path);
        if let Some(group) = group_of(path).filter(|g| !made.before(g, at)) {
            need(Rule::Group, group);
        }
        if let Some(id) = own {
            let mut above = id.parent();
            let mut parents = Vec::new();
            while let Some(parent) = above.filter(|p| p.namespace().is_some()) {
                above = parent.parent();
                parents.push(parent);
            }
            // A client may look whether something is there before it makes it.
            let reads = matches!(request.method.as_str(), "GET" | "HEAD") || asks_before(path);
            let is_made = |id: &ResourceId| if reads { made.anywhere(id) } else { made.earlier(id, at) };
            for parent in parents.into_iter().rev().filter(|p| !is_made(p)) {
                need(Rule::Parent, parent);
            }
            if request.method != "PUT" && !is_made(&id) {
                need(Rule::Target, id);
            }
        }
        let body: Value = serde_json::from_str(&request.body).unwrap_or_default();
        for id in references(&body) {
            if let Some(group) = group_of(id.as_str()).filter(|g| !made.before(g, at)) {
                need(Rule::Group, group);
            }
            if !made.earlier(&id, at) {
                need(Rule::Reference, id);
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
            if self.first.keys().any(|made| made.starts_with(&below)) {
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

/// Every id in a body.
pub(crate) fn references(body: &Value) -> Vec<ResourceId> {
    match body {
        Value::String(text) if text.to_lowercase().starts_with("/subscriptions/") => {
            kind::resource(text).into_iter().collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Object(members) => members.values().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

/// Bodies that examples put, by type in lower case, richest first.
#[derive(Debug, Default)]
pub(crate) struct Bodies(BTreeMap<String, Vec<Value>>);

impl Bodies {
    pub(crate) fn of(recordings: &[Recording]) -> Self {
        let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for recording in recordings.iter().filter(|r| r.origin == Origin::Example) {
            for request in recording.exchanges.iter().map(|e| &e.request).filter(|r| r.method == "PUT") {
                let (Some(id), Ok(body)) = (kind::resource(request.path()), serde_json::from_str(&request.body)) else {
                    continue;
                };
                found.entry(id.resource_type().to_lowercase()).or_default().push(body);
            }
        }
        for bodies in found.values_mut() {
            bodies.sort_by_key(|body| std::cmp::Reverse(body.to_string().len()));
            bodies.dedup();
            bodies.truncate(BODIES_MAX);
        }
        Self(found)
    }
}

/// Makes things at a server.
pub(crate) struct Maker<'a> {
    pub(crate) moat: &'a mut Moat,
    pub(crate) translator: &'a Translator,
    /// Bodies to prefer; empty for recordings of whole sessions.
    pub(crate) bodies: &'a Bodies,
    /// Where groups and resources are made.
    pub(crate) location: String,
    /// How many were made, by rule and type.
    pub(crate) made: BTreeMap<(Rule, String), usize>,
    /// Tags of groups.
    tags: Value,
    subnets: u8,
}

impl<'a> Maker<'a> {
    pub(crate) fn new(
        moat: &'a mut Moat,
        translator: &'a Translator,
        bodies: &'a Bodies,
        recording: &Recording,
    ) -> Self {
        // The preparer of azure-cli's tests tags every group that it makes.
        let tags = match recording.origin {
            Origin::Cassette => json!({
                "product": "azurecli", "cause": "automation", "date": "2024-01-01T00:00:00Z", "test": "test", "module": "m",
            }),
            Origin::Proxy | Origin::Example => Value::Null,
        };
        Self { moat, translator, bodies, location: location(recording), made: BTreeMap::new(), tags, subnets: 0 }
    }

    /// Makes `id` (of the recording) if it is of a type that Moat has and is not there.
    pub(crate) async fn ensure(&mut self, rule: Rule, id: &ResourceId) -> Result<()> {
        let Ok(id) = ResourceId::parse(&self.translator.text(id.as_str())) else { return Ok(()) };
        self.ensure_here(rule, id, DEPTH_MAX).await
    }

    /// Makes what the template of a request (in the server's words) refers to and the recording does not make.
    pub(crate) async fn ensure_for_template(&mut self, request: &Request, recording: &Recording) -> Result<()> {
        let requests: Vec<&Request> =
            recording.exchanges.iter().map(|e| &e.request).filter(|r| r.host == ARM).collect();
        let made = Made::of(&requests);
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let target = format!("{}/validate?{query}", path.trim_end_matches('/'));
        let asked = Request { method: "POST".to_owned(), target, ..request.clone() };
        for _ in 0..MISSING_MAX {
            let said = self.moat.send(&asked).await?;
            let text = said.answer.body.json().map(Value::to_string).unwrap_or_default();
            let missing = missing_reference(&text).and_then(|id| ResourceId::parse(id).ok());
            // What the template makes itself is not missing when it is referred to.
            let Some(id) = missing.filter(|id| !made.first.contains_key(id.key())) else { break };
            self.ensure_here(Rule::Reference, id.clone(), DEPTH_MAX).await?;
            if !self.get(&id).await? {
                break;
            }
        }
        Ok(())
    }

    async fn ensure_here(&mut self, rule: Rule, id: ResourceId, depth: usize) -> Result<()> {
        let kind = id.resource_type();
        let known = moat_control::types().any(|t| !t.hidden && t.name.eq_ignore_ascii_case(&kind));
        let group = id.namespace().is_none();
        if depth == 0 || (!known && !group) {
            // Part of a document (a frontend, an IP configuration): what it is part of.
            return match id.parent().filter(|p| depth > 0 && p.namespace().is_some()) {
                Some(parent) => Box::pin(self.ensure_here(rule, parent, depth - 1)).await,
                None => Ok(()),
            };
        }
        if self.get(&id).await? {
            return Ok(());
        }
        if let Some(parent) = id.parent().filter(|p| p.resource_group().is_some()) {
            let rule = if parent.namespace().is_none() { Rule::Group } else { Rule::Parent };
            Box::pin(self.ensure_here(rule, parent, depth - 1)).await?;
        }
        let mut bodies = self.bodies.0.get(&kind.to_lowercase()).cloned().unwrap_or_default();
        bodies.extend(self.plain(&id));
        for body in bodies {
            let body = self.translator.value(&body);
            for reference in references(&body) {
                if reference.key() != id.key() {
                    Box::pin(self.ensure_here(Rule::Reference, reference, depth - 1)).await?;
                }
            }
            let request = request("PUT", id.as_str(), body.to_string());
            if self.moat.send(&request).await?.status < 300 {
                *self.made.entry((rule, kind.clone())).or_default() += 1;
                break;
            }
        }
        Ok(())
    }

    async fn get(&mut self, id: &ResourceId) -> Result<bool> {
        Ok(self.moat.send(&request("GET", id.as_str(), String::new())).await?.status == 200)
    }

    /// The least that a document of a type can be.
    fn plain(&mut self, id: &ResourceId) -> Option<Value> {
        let location = self.location.clone();
        let kind = id.resource_type().to_lowercase();
        let group = id.as_str().split("/providers/").next().unwrap_or_default();
        let network = format!("{group}/providers/Microsoft.Network");
        let at = |properties: Value| json!({"location": location, "properties": properties});
        Some(match kind.as_str() {
            "microsoft.resources/resourcegroups" | "" => json!({"location": location, "tags": self.tags}),
            "microsoft.network/virtualnetworks" => at(json!({"addressSpace": {"addressPrefixes": ["10.0.0.0/8"]}})),
            "microsoft.network/virtualnetworks/subnets" => {
                self.subnets = self.subnets.wrapping_add(1);
                json!({"properties": {"addressPrefix": format!("10.250.{}.0/24", self.subnets)}})
            }
            "microsoft.network/virtualnetworks/virtualnetworkpeerings" => json!({"properties": {
                "remoteVirtualNetwork": {"id": format!("{network}/virtualNetworks/moat-replay-remote")},
            }}),
            "microsoft.network/networksecuritygroups/securityrules" => json!({"properties": {
                "protocol": "*", "access": "Allow", "direction": "Inbound", "priority": 4000,
                "sourceAddressPrefix": "*", "sourcePortRange": "*",
                "destinationAddressPrefix": "*", "destinationPortRange": "80",
            }}),
            "microsoft.network/routetables/routes" => {
                json!({"properties": {"addressPrefix": "192.0.2.0/24", "nextHopType": "None"}})
            }
            "microsoft.network/publicipaddresses" => json!({
                "location": location, "sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"},
            }),
            "microsoft.network/natgateways" => {
                json!({"location": location, "sku": {"name": "Standard"}, "properties": {}})
            }
            "microsoft.network/loadbalancers" => json!({
                "location": location, "sku": {"name": "Standard"},
                "properties": {"frontendIPConfigurations": [{"name": "frontend", "properties": {
                    "publicIPAddress": {"id": format!("{network}/publicIPAddresses/moat-replay-frontend")},
                }}]},
            }),
            "microsoft.network/networkinterfaces" => {
                at(json!({"ipConfigurations": [{"name": "ipconfig1", "properties": {
                    "subnet": {"id": format!("{network}/virtualNetworks/moat-replay/subnets/default")},
                }}]}))
            }
            "microsoft.network/privateendpoints" => at(json!({
                "subnet": {"id": format!("{network}/virtualNetworks/moat-replay/subnets/default")},
                "privateLinkServiceConnections": [{"name": "connection", "properties": {
                    "privateLinkServiceId": format!("{group}/providers/Microsoft.Storage/storageAccounts/moatreplay"),
                    "groupIds": ["blob"],
                }}],
            })),
            "microsoft.network/privatednszones" => json!({"location": "global", "properties": {}}),
            "microsoft.network/privatednszones/virtualnetworklinks" => json!({"location": "global", "properties": {
                "virtualNetwork": {"id": format!("{network}/virtualNetworks/moat-replay-linked")},
                "registrationEnabled": false,
            }}),
            "microsoft.network/privatednszones/a" => {
                json!({"properties": {"ttl": 3600, "aRecords": [{"ipv4Address": "10.0.0.4"}]}})
            }
            "microsoft.network/privatednszones/aaaa" => {
                json!({"properties": {"ttl": 3600, "aaaaRecords": [{"ipv6Address": "fd00::4"}]}})
            }
            "microsoft.network/privatednszones/cname" => {
                json!({"properties": {"ttl": 3600, "cnameRecord": {"cname": "moat.example"}}})
            }
            "microsoft.network/privatednszones/txt" => {
                json!({"properties": {"ttl": 3600, "txtRecords": [{"value": ["moat"]}]}})
            }
            "microsoft.machinelearningservices/workspaces" => json!({
                "location": location, "identity": {"type": "SystemAssigned"}, "properties": {
                    "friendlyName": id.name(),
                    "storageAccount": format!("{group}/providers/Microsoft.Storage/storageAccounts/moatreplay"),
                    "keyVault": format!("{group}/providers/Microsoft.KeyVault/vaults/moatreplay"),
                    "applicationInsights": format!("{group}/providers/Microsoft.Insights/components/moatreplay"),
                    "containerRegistry": format!("{group}/providers/Microsoft.ContainerRegistry/registries/moatreplay"),
                },
            }),
            "microsoft.machinelearningservices/workspaces/computes" => at(json!({
                "computeType": "AmlCompute", "properties": {
                    "vmSize": "STANDARD_D2_V2", "vmPriority": "Dedicated",
                    "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 1},
                },
            })),
            // As every client uploads code, which looks for it by its hash.
            "microsoft.machinelearningservices/workspaces/codes/versions" => json!({"properties": {
                "codeUri": "https://moatreplay.blob.core.windows.net/code/moat",
                "properties": {"hash_sha256": "0".repeat(64), "hash_version": "202208"},
            }}),
            "microsoft.machinelearningservices/workspaces/data/versions" => {
                json!({"properties": {"dataType": "uri_folder", "dataUri": "azureml://datastores/workspaceblobstore/paths/moat/"}})
            }
            "microsoft.machinelearningservices/workspaces/environments/versions" => {
                json!({"properties": {"image": "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest"}})
            }
            "microsoft.machinelearningservices/workspaces/models/versions" => {
                json!({"properties": {"modelUri": "azureml://datastores/workspaceblobstore/paths/moat/model"}})
            }
            "microsoft.storage/storageaccounts" => json!({
                "location": location, "sku": {"name": "Standard_LRS"}, "kind": "StorageV2", "properties": {},
            }),
            "microsoft.keyvault/vaults" => at(json!({
                "tenantId": self.moat.tenant(), "sku": {"family": "A", "name": "standard"},
                // Whoever makes one by a client is let in by it.
                "accessPolicies": [{
                    "tenantId": self.moat.tenant(), "objectId": "5ca1ab1e-0000-4000-8000-000000000001",
                    "permissions": {"keys": ["all"], "secrets": ["all"], "certificates": ["all"], "storage": ["all"]},
                }],
            })),
            "microsoft.insights/components" => {
                json!({"location": location, "kind": "web", "properties": {"Application_Type": "web"}})
            }
            "microsoft.containerregistry/registries" => {
                json!({"location": location, "sku": {"name": "Standard"}, "properties": {}})
            }
            "microsoft.authorization/roleassignments" => json!({"properties": {
                "principalId": "5ca1ab1e-0000-4000-8000-000000000001",
                "roleDefinitionId":
                    "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7",
            }}),
            "microsoft.resources/deployments" => json!({"properties": {"mode": "Incremental", "template": {
                "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
                "contentVersion": "1.0.0.0", "resources": [],
            }}}),
            // Has nothing that must be given, or nothing that could be guessed.
            _ => at(json!({})),
        })
    }
}

/// What an answer says was referred to and is not there.
fn missing_reference(answer: &str) -> Option<&str> {
    let (_, rest) = answer.split_once("Resource /subscriptions/")?;
    let (id, _) = rest.split_once(" referenced by")?;
    let start = answer.len() - rest.len() - "/subscriptions/".len();
    answer.get(start..start + "/subscriptions/".len() + id.len())
}

/// The first location that the requests name: where a person who records has everything.
fn location(recording: &Recording) -> String {
    let named = recording.exchanges.iter().find_map(|e| {
        let body: Value = serde_json::from_str(&e.request.body).ok()?;
        body["location"].as_str().filter(|l| !l.eq_ignore_ascii_case("global")).map(str::to_owned)
    });
    named.unwrap_or_else(|| "westus".to_owned())
}

fn request(method: &str, path: &str, body: String) -> Request {
    Request {
        method: method.to_owned(),
        host: ARM.to_owned(),
        target: format!("{}?api-version={API_VERSION}", path.replace(' ', "%20")),
        headers: BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]),
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_misses_is_read_out_of_it() {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a";
        let said =
            format!("{{\"message\": \"Resource {id} referenced by resource /subscriptions/s/x was not found.\"}}");
        assert_eq!(missing_reference(&said), Some(id));
        assert_eq!(missing_reference("something else"), None);
    }
}
