//! What a request is about: the resource type that a report counts it under.

use moat_arm::ResourceId;
use serde_json::Value;

use super::recording::Request;

const ARM: &str = "management.azure.com";

/// Parts of Resource Manager itself that have no provider block in their path.
const OF_THE_MANAGER: [&str; 6] = [
    "Microsoft.Resources/subscriptions",
    "Microsoft.Resources/resourceGroups",
    "Microsoft.Resources/resources",
    "Microsoft.Resources/providers",
    "Microsoft.Resources/tenants",
    "Microsoft.Resources/locations",
];

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    /// A resource type, or a host that is not Resource Manager.
    pub(crate) name: String,
    /// Moat has this type.
    pub(crate) in_scope: bool,
}

/// Every type that Moat has, sorted.
pub(crate) fn in_scope() -> Vec<&'static str> {
    let mut all: Vec<_> = moat_control::types().filter(|t| !t.hidden).map(|t| t.name).collect();
    all.extend(OF_THE_MANAGER);
    all.sort_unstable();
    all.dedup();
    all
}

impl Kind {
    fn new(name: &str) -> Self {
        match in_scope().into_iter().find(|t| t.eq_ignore_ascii_case(name)) {
            Some(known) => Self { name: known.to_owned(), in_scope: true },
            None => Self { name: name.to_owned(), in_scope: false },
        }
    }

    /// What a request is about.
    pub(crate) fn of(request: &Request) -> Self {
        if request.host != ARM {
            return Self { name: format!("({})", service(&request.host)), in_scope: false };
        }
        let path = request.path().replace("%2F", "/").replace("%2f", "/");
        let mut segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let is = |at: usize, word: &str| segments.get(at).is_some_and(|s| s.eq_ignore_ascii_case(word));
        // The short form of deployments.
        let at = if is(2, "resourceGroups") { 4 } else { 2 };
        if is(0, "subscriptions") && is(at, "deployments") {
            segments.splice(at..at, ["providers", "Microsoft.Resources"]);
        }
        let block = segments.iter().rposition(|s| s.eq_ignore_ascii_case("providers"));
        let Some(block) = block.map(|at| &segments[at + 1..]).filter(|b| b.len() > 1) else {
            return Self::of_manager(&segments);
        };
        if matches!(block[1].to_ascii_lowercase().as_str(), "register" | "unregister") && block.len() == 2 {
            return Self::new("Microsoft.Resources/providers");
        }
        let mut types: Vec<&str> = block[1..].iter().step_by(2).copied().collect();
        let names = block.len() - 1 - types.len();
        if names < types.len() && names > 0 {
            // The last word names no resource: children, a reading or an action.
            let parent = Self::new(&format!("{}/{}", block[0], types[..names].join("/")));
            let reads = request.method == "GET" || request.method == "HEAD";
            let last = types[names];
            if parent.in_scope && (!reads || has_reading(&parent.name, last)) {
                return parent;
            }
            if !reads {
                types.pop();
            }
        }
        Self::new(&format!("{}/{}", block[0], types.join("/")))
    }

    /// A deployment with something in its template that Moat does not have, and refuses by name.
    pub(crate) fn deployment_with(foreign: &str) -> Self {
        Self { name: format!("Microsoft.Resources/deployments with {foreign}"), in_scope: false }
    }

    fn of_manager(segments: &[&str]) -> Self {
        let has = |word: &str| segments.iter().any(|s| s.eq_ignore_ascii_case(word));
        let name = match segments {
            [one] if one.eq_ignore_ascii_case("tenants") => "tenants",
            [_, _, one] if one.eq_ignore_ascii_case("locations") => "locations",
            _ if has("providers") => "providers",
            [.., last] if last.eq_ignore_ascii_case("resources") => "resources",
            _ if has("tagNames") => "tagNames",
            _ if has("resourceGroups") => "resourceGroups",
            [one, ..] if one.eq_ignore_ascii_case("subscriptions") => "subscriptions",
            [one, ..] => return Self { name: format!("({ARM}/{one})"), in_scope: false },
            [] => return Self { name: format!("({ARM})"), in_scope: false },
        };
        Self::new(&format!("Microsoft.Resources/{name}"))
    }
}

fn has_reading(kind: &str, name: &str) -> bool {
    let kind = moat_control::types().find(|t| t.name.eq_ignore_ascii_case(kind));
    kind.is_some_and(|t| t.readings.iter().any(|r| r.name.eq_ignore_ascii_case(name)))
}

/// The first type in the template of a deployment's body that Moat does not have. What stands under a condition may not
/// be wanted, and a type that is computed is not known: both do not count.
pub(crate) fn foreign_type(body: &Value) -> Option<String> {
    let known = in_scope();
    let mut pending = vec![(String::new(), &body["properties"]["template"]["resources"])];
    while let Some((parent, resources)) = pending.pop() {
        // Symbolic names make an object of what else is an array.
        let each: Vec<&Value> = match resources {
            Value::Array(all) => all.iter().collect(),
            Value::Object(all) => all.values().collect(),
            _ => continue,
        };
        for resource in each {
            let certain = resource["condition"].is_null();
            let Some(own) = resource["type"].as_str().filter(|t| certain && !t.starts_with('[')) else { continue };
            let kind = if parent.is_empty() || own.contains('.') { own.to_owned() } else { format!("{parent}/{own}") };
            if !known.iter().any(|t| t.eq_ignore_ascii_case(&kind)) {
                return Some(kind);
            }
            pending.push((kind, &resource["resources"]));
            pending.push((String::new(), &resource["properties"]["template"]["resources"]));
        }
    }
    None
}

/// A host without the names of accounts and regions in front.
fn service(host: &str) -> String {
    let known = ["core.windows.net", "azureml.ms", "azureml.net", "vault.azure.net", "azurecr.io", "azure.com"];
    match known.iter().find(|k| host.ends_with(&format!(".{k}"))) {
        Some(&"core.windows.net") => {
            let kind = host.split('.').nth(1).unwrap_or_default();
            format!("*.{kind}.core.windows.net")
        }
        Some(known) => format!("*.{known}"),
        None => host.to_owned(),
    }
}

/// The document that a path names, if it names one.
pub(crate) fn resource(path: &str) -> Option<ResourceId> {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let block = segments.iter().rposition(|s| s.eq_ignore_ascii_case("providers"))?;
    let length = segments.len() - block;
    let whole = if length.is_multiple_of(2) { segments.len() } else { segments.len() - 1 };
    if length < 4 {
        return None;
    }
    ResourceId::parse(&format!("/{}", segments[..whole].join("/"))).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[track_caller]
    fn check(line: &str, expected: &str) {
        let (method, url) = line.split_once(' ').unwrap();
        let (host, target) = crate::replay::recording::split_url(&format!("https://{url}")).unwrap();
        let request =
            Request { method: method.to_owned(), host, target, headers: BTreeMap::new(), body: String::new() };
        let Kind { name, in_scope } = Kind::of(&request);
        assert_eq!(format!("{}{name}", if in_scope { "" } else { "- " }), expected, "{line}");
    }

    #[test]
    fn a_template_is_of_types_that_moat_has_or_names_one_that_it_has_not() {
        let check = |resources: Value| foreign_type(&json!({"properties": {"template": {"resources": resources}}}));
        let vnet = json!({"type": "Microsoft.Network/virtualNetworks", "resources": [{"type": "subnets"}]});
        let nested = |inner: Value| json!({"type": "Microsoft.Resources/deployments", "properties": {"template": {"resources": [inner]}}});
        let wat = json!({"type": "Microsoft.Wat/wats"});
        assert_eq!(check(json!([vnet, nested(vnet.clone()), {"type": "[parameters('t')]"}])), None);
        assert_eq!(check(json!([{"type": "Microsoft.Wat/wats", "condition": "[parameters('w')]"}])), None);
        assert_eq!(check(json!({"name": wat})).as_deref(), Some("Microsoft.Wat/wats"));
        assert_eq!(check(json!([nested(wat)])).as_deref(), Some("Microsoft.Wat/wats"));
        let child = json!({"type": "Microsoft.Network/virtualNetworks", "resources": [{"type": "wats"}]});
        assert_eq!(check(json!([child])).as_deref(), Some("Microsoft.Network/virtualNetworks/wats"));
        assert_eq!(foreign_type(&Value::Null), None);
    }

    #[test]
    fn a_request_is_counted_under_the_type_it_is_about() {
        let g = "management.azure.com/subscriptions/s/resourceGroups/g";
        check(&format!("GET {g}"), "Microsoft.Resources/resourceGroups");
        check(
            &format!("PUT {g}/providers/microsoft.network/virtualnetworks/v?a=b"),
            "Microsoft.Network/virtualNetworks",
        );
        check(&format!("GET {g}/providers/Microsoft.Network/virtualNetworks"), "Microsoft.Network/virtualNetworks");
        check(
            &format!("GET {g}/providers/Microsoft.Network/virtualNetworks/v/subnets"),
            "Microsoft.Network/virtualNetworks/subnets",
        );
        check(
            &format!("GET {g}/providers/Microsoft.Network/virtualNetworks/v/wat"),
            "- Microsoft.Network/virtualNetworks/wat",
        );
        check(
            &format!("POST {g}/providers/Microsoft.Network/virtualNetworks/v/wat"),
            "Microsoft.Network/virtualNetworks",
        );
        check(&format!("POST {g}/providers/Microsoft.Wat/wats/w/do"), "- Microsoft.Wat/wats");
        check(&format!("PUT {g}/deployments/d"), "Microsoft.Resources/deployments");
        check(
            "POST management.azure.com/subscriptions/s/providers/Microsoft.Network/register",
            "Microsoft.Resources/providers",
        );
        check("GET management.azure.com/subscriptions/s/providers/Microsoft.Network", "Microsoft.Resources/providers");
        check("GET management.azure.com/subscriptions", "Microsoft.Resources/subscriptions");
        check("PUT a.blob.core.windows.net/c/b", "- (*.blob.core.windows.net)");
    }
}
