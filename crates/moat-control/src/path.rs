//! A request path as a target: which document, which collection, which action.
//!
//! ARM reads paths without regard to case, and clients send doubled slashes when a scope is pasted
//! into a template that has its own; both are accepted. What exists is not decided here.

use moat_arm::{ApiError, ResourceId};

/// What a path points at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    /// `/tenants`.
    Tenants,
    /// `/subscriptions`.
    Subscriptions,
    /// `/subscriptions/{s}/locations`.
    Locations,
    /// `[/subscriptions/{s}]/providers[/{namespace}[/register|unregister]]`.
    Providers {
        /// Only this provider.
        namespace: Option<String>,
        /// `register` or `unregister`.
        verb: Option<String>,
    },
    /// `/subscriptions/{s}/resourceGroups`.
    Groups(ResourceId),
    /// `{scope}/resources`: all resources of a subscription or group.
    Resources(ResourceId),
    /// A subscription, group or resource.
    Item(ResourceId),
    /// `{scope}/providers/{type}`: documents of one type at or below a scope (`None`: tenant).
    Members {
        /// Where.
        scope: Option<ResourceId>,
        /// `{namespace}/{type}`.
        kind: String,
    },
    /// `{id}/{name}`: a collection of children, an action or a reading.
    Below {
        /// The resource (or subscription, or group) before it.
        id: ResourceId,
        /// The last segment.
        name: String,
    },
    /// A long-running operation, at any of the URLs that are handed out for one.
    Operation {
        /// Its guid.
        guid: String,
        /// The collection segment; `operationResults` answers with the result, the others with the
        /// status.
        result: bool,
    },
}

/// Path segments under which operations are polled, lower-case.
const STATUS: [&str; 4] = ["operations", "operationstatuses", "computeoperationsstatus", "mfeoperationsstatus"];
/// Path segments under which results of operations are fetched, lower-case.
const RESULTS: [&str; 2] = ["operationresults", "mfeoperationresults"];

const DEPLOYMENTS: &str = "Microsoft.Resources";

fn not_a_path(path: &str, why: &str) -> ApiError {
    // AZURE: wording not observed
    ApiError::new(404, "InvalidRequestUri", format!("The request path '{path}' leads nowhere: {why}."))
}

/// Parses a percent-decoded path.
pub(crate) fn parse(path: &str) -> Result<Target, ApiError> {
    if path.chars().any(char::is_control) {
        return Err(not_a_path(&path.escape_debug().to_string(), "it holds control characters"));
    }
    let mut segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let is = |s: Option<&&str>, word: &str| s.is_some_and(|s| s.eq_ignore_ascii_case(word));

    // The short form of deployments: `.../resourcegroups/{g}/deployments/{name}/...` (PROTOCOL 5).
    if is(segments.first(), "subscriptions") {
        let at = if is(segments.get(2), "resourceGroups") { 4 } else { 2 };
        if is(segments.get(at), "deployments") {
            segments.splice(at..at, ["providers", DEPLOYMENTS]);
        }
    }

    if let [.., collection, guid] = segments[..]
        && segments.len() >= 4
    {
        let lower = collection.to_ascii_lowercase();
        let deployment_steps = lower == "operations"
            && segments.len() >= 5
            && segments[segments.len() - 4].eq_ignore_ascii_case("deployments");
        let result = RESULTS.contains(&lower.as_str());
        if (result || STATUS.contains(&lower.as_str())) && !deployment_steps {
            return Ok(Target::Operation { guid: guid.to_owned(), result });
        }
    }

    match segments[..] {
        [] => return Err(not_a_path(path, "it is empty")),
        [one] if one.eq_ignore_ascii_case("tenants") => return Ok(Target::Tenants),
        [one] if one.eq_ignore_ascii_case("subscriptions") => return Ok(Target::Subscriptions),
        _ => {}
    }

    let in_subscription = is(segments.first(), "subscriptions") && segments.len() >= 2;
    let rest = if in_subscription { &segments[2..] } else { &segments[..] };
    let subscription = in_subscription.then(|| ResourceId::subscription_scope(segments[1]));
    match rest {
        [one] if in_subscription && one.eq_ignore_ascii_case("locations") => return Ok(Target::Locations),
        [one] if one.eq_ignore_ascii_case("providers") => {
            return Ok(Target::Providers { namespace: None, verb: None });
        }
        [one, namespace] if one.eq_ignore_ascii_case("providers") => {
            return Ok(Target::Providers { namespace: Some((*namespace).to_owned()), verb: None });
        }
        [one, namespace, verb]
            if one.eq_ignore_ascii_case("providers")
                && (verb.eq_ignore_ascii_case("register") || verb.eq_ignore_ascii_case("unregister")) =>
        {
            return Ok(Target::Providers {
                namespace: Some((*namespace).to_owned()),
                verb: Some(verb.to_ascii_lowercase()),
            });
        }
        _ => {}
    }
    if let (Some(subscription), [one]) = (&subscription, rest) {
        if one.eq_ignore_ascii_case("resourceGroups") {
            return Ok(Target::Groups(subscription.clone()));
        }
        if one.eq_ignore_ascii_case("resources") {
            return Ok(Target::Resources(subscription.clone()));
        }
    }

    let id = |segments: &[&str]| {
        ResourceId::parse(&format!("/{}", segments.join("/"))).map_err(|e| not_a_path(path, &e.to_string()))
    };
    // Within the last provider block (or the scope) an even number of segments is a name.
    let block = segments.iter().rposition(|s| s.eq_ignore_ascii_case("providers"));
    let from_block = block.map_or(segments.len(), |at| segments.len() - at);
    match block {
        Some(at) if from_block == 3 => {
            let scope = if at == 0 { None } else { Some(id(&segments[..at])?) };
            Ok(Target::Members { scope, kind: format!("{}/{}", segments[at + 1], segments[at + 2]) })
        }
        Some(_) if from_block < 3 => Err(not_a_path(path, "a resource type is missing after the provider")),
        _ if from_block % 2 == 0 => Ok(Target::Item(id(&segments)?)),
        _ => {
            let (name, before) = match segments.split_last() {
                Some(parts) => parts,
                None => return Err(not_a_path(path, "it is empty")),
            };
            let id = id(before)?;
            if name.eq_ignore_ascii_case("resources") && id.namespace().is_none() {
                return Ok(Target::Resources(id));
            }
            Ok(Target::Below { id, name: (*name).to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: &str) {
        let got = match parse(path) {
            Ok(Target::Item(id)) => format!("item {id}"),
            Ok(Target::Members { scope, kind }) => {
                format!("members {} {kind}", scope.map(|s| s.to_string()).unwrap_or_default())
            }
            Ok(Target::Below { id, name }) => format!("below {id} {name}"),
            Ok(Target::Resources(id)) => format!("resources {id}"),
            Ok(Target::Groups(id)) => format!("groups {id}"),
            Ok(Target::Operation { guid, result }) => format!("operation {guid} {result}"),
            Ok(other) => format!("{other:?}"),
            Err(e) => format!("{} {}", e.status, e.code),
        };
        assert_eq!(got, expected, "{path}");
    }

    #[test]
    fn paths_lead_where_azure_leads() {
        let g = "/subscriptions/s/resourceGroups/g";
        check("/subscriptions", "Subscriptions");
        check("/Subscriptions/s", "item /subscriptions/s");
        check("/subscriptions/s/resourcegroups", "groups /subscriptions/s");
        check("/subscriptions/s/resourcegroups/g/", &format!("item {g}"));
        check("/subscriptions/s/resourcegroups/g/resources", &format!("resources {g}"));
        check("/subscriptions/s/resources", "resources /subscriptions/s");
        check(&format!("{g}/providers/A.B/c"), &format!("members {g} A.B/c"));
        check(&format!("/{g}/providers/A.B/c/d"), &format!("item {g}/providers/A.B/c/d"));
        check(&format!("{g}/providers/A.B/c/d/e"), &format!("below {g}/providers/A.B/c/d e"));
        check(&format!("{g}/exportTemplate"), &format!("below {g} exportTemplate"));
        check("/providers/A.B/c", "members  A.B/c");
        check("/providers/A.B/c/d", "item /providers/A.B/c/d");
        check(
            "/subscriptions/s/providers/A.B/register",
            "Providers { namespace: Some(\"A.B\"), verb: Some(\"register\") }",
        );
        check("/subscriptions/s/providers", "Providers { namespace: None, verb: None }");
        check("/subscriptions/s/providers/A.B/locations/l/operations/x", "operation x false");
        check("/subscriptions/s/providers/A.B/locations/l/operationResults/x", "operation x true");
        check("/subscriptions/s/operationresults/x", "operation x true");
        let d = format!("{g}/providers/Microsoft.Resources/deployments/d");
        check("/subscriptions/s/resourcegroups/g/deployments/d/operations", &format!("below {d} operations"));
        check(&format!("{d}/operationStatuses/x"), "operation x false");
        check(&format!("{d}/operations/7"), &format!("item {d}/operations/7"));
        check("/", "404 InvalidRequestUri");
        check("/wat", "404 InvalidRequestUri");
        check("/subscriptions/s/resourceGroups/g/providers/A.B", "404 InvalidRequestUri");
        check("/subscriptions/s/\u{0}", "404 InvalidRequestUri");
    }
}
