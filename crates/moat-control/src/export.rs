//! `POST {group}/exportTemplate`: the resources of a group as a template that would make them again.
//!
//! Every resource that the caller may read becomes a template resource: what is stored of it, without what only the
//! service writes. Names become parameters unless the options say no; ids of what is exported too become `resourceId`
//! calls, and what is named so is depended on. What does not exist is told beside the template, as Azure does.

use moat_arm::{ApiError, Batch, ResourceId, Stored, document};
use moat_model::ResourceType;
use moat_model::resource_type::Scope;
use serde_json::{Map, Value, json};

use crate::operation::{self, Follows, Operation};
use crate::request::Decision;
use crate::world::World;
use crate::{access, body};

const SCHEMA: &str = "https://schema.management.azure.com/schemas/2015-01-01/deploymentTemplate.json#";
/// Members of `properties` that only the service writes.
const SERVICE_PROPERTIES: [&str; 4] = ["provisioningState", "resourceGuid", "creationTime", "createdDate"];
/// Members of a document that a template says otherwise or not at all.
const SERVICE_MEMBERS: [&str; 6] = ["id", "name", "type", "etag", "systemData", body::PRIVATE];

/// What the request may ask for.
struct Options {
    parameters: bool,
    default_values: bool,
    comments: bool,
}

impl Options {
    fn read(asked: &Value) -> Self {
        let text = document::str_at(asked, "options").unwrap_or_default();
        let has = |name: &str| text.split(',').any(|o| o.trim().eq_ignore_ascii_case(name));
        Self {
            parameters: !has("SkipResourceNameParameterization") && !has("SkipAllParameterization"),
            default_values: has("IncludeParameterDefaultValue"),
            comments: has("IncludeComments"),
        }
    }
}

/// Decides the export of group `id`.
pub(crate) fn decide(w: &World<'_>, id: &ResourceId) -> Result<Decision, ApiError> {
    access::require(w, "Microsoft.Resources/subscriptions/resourceGroups/read", Some(id))?;
    w.group_of(id)?;
    let asked = body::object_or_empty(w.request.body.as_deref())?;
    let wanted: Vec<&str> = match document::array_at(&asked, "resources") {
        [] => vec!["*"],
        some => some.iter().filter_map(Value::as_str).collect(),
    };
    let all = exportable(w, id);
    let is_wanted = |d: &Stored| wanted.iter().any(|t| *t == "*" || t.eq_ignore_ascii_case(d.id.as_str()));
    let chosen: Vec<_> = all.into_iter().filter(|(_, d)| is_wanted(d)).collect();
    let missing: Vec<Value> = wanted
        .iter()
        .filter(|t| **t != "*" && !chosen.iter().any(|(_, d)| t.eq_ignore_ascii_case(d.id.as_str())))
        .map(|t| json!({"code": "ResourceNotFound", "target": t, "message": format!("The resource '{t}' was not found.")}))
        .collect();
    let mut result = json!({"template": template(&chosen, &Options::read(&asked))});
    if !missing.is_empty() {
        // AZURE: wording not observed.
        result["error"] = json!({
            "code": "ExportTemplateCompletedWithErrors",
            "message": "Export template operation completed with errors. Some resources were not exported. Please see details for more information.",
            "details": missing,
        });
    }
    let mut batch = Batch::default();
    batch.audit.operation = "Microsoft.Resources/subscriptions/resourceGroups/exportTemplate/action".to_owned();
    let follows = Operation { target: id, follows: Follows::Commit, result: Some(result), location: "" };
    let urls = operation::begin(w, &follows, &mut batch);
    Ok(Decision {
        headers: vec![("Location", urls.result), ("Retry-After", operation::RETRY_AFTER_SECONDS.to_owned())],
        batch,
        ..Decision::empty(202)
    })
}

/// What of a group a template can make, in key order.
fn exportable<'a>(w: &World<'a>, group: &ResourceId) -> Vec<(&'static ResourceType, &'a Stored)> {
    let of = |d: &'a Stored| {
        let kind = w.find(&d.id.resource_type())?;
        let made = matches!(kind.scope, Scope::Group | Scope::Child) && !kind.hidden;
        let own = kind.namespace() != "Microsoft.Resources";
        (made && own && access::allowed(w, &format!("{}/read", kind.name), Some(&d.id))).then_some((kind, d))
    };
    w.snapshot.below(group).filter_map(|d| of(d)).collect()
}

fn template(chosen: &[(&'static ResourceType, &Stored)], options: &Options) -> Value {
    let names: Vec<Name> = chosen.iter().map(|(kind, d)| Name::of(kind, &d.id, options)).collect();
    let mut parameters = Map::new();
    for name in names.iter().filter(|n| options.parameters && n.id.names().len() == 1) {
        let default = if options.default_values { json!(name.id.name()) } else { Value::Null };
        parameters.insert(name.parameter(), json!({"defaultValue": default, "type": "String"}));
    }
    let resources: Vec<Value> =
        chosen.iter().zip(&names).map(|((kind, d), name)| resource(kind, d, name, &names, options)).collect();
    json!({
        "$schema": SCHEMA, "contentVersion": "1.0.0.0", "parameters": parameters, "variables": {}, "resources": resources,
    })
}

/// A resource's name in expressions.
struct Name {
    id: ResourceId,
    kind: &'static str,
    parameters: bool,
}

impl Name {
    fn of(kind: &'static ResourceType, id: &ResourceId, options: &Options) -> Self {
        Self { id: id.clone(), kind: kind.name, parameters: options.parameters }
    }

    /// The parameter for the first of its names.
    fn parameter(&self) -> String {
        let kind = self.kind.split('/').nth(1).unwrap_or_default();
        let first = self.id.names().first().map(|n| n.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
        format!("{kind}_{}_name", first.unwrap_or_default())
    }

    /// Each of its names as an argument of a function.
    fn arguments(&self) -> Vec<String> {
        let quoted = |name: &&str| format!("'{}'", name.replace('\'', "''"));
        let mut arguments: Vec<String> = self.id.names().iter().map(quoted).collect();
        if let Some(first) = arguments.first_mut().filter(|_| self.parameters) {
            *first = format!("parameters('{}')", self.parameter());
        }
        arguments
    }

    /// The `name` of the resource.
    fn name(&self) -> String {
        if !self.parameters {
            return self.id.names().join("/");
        }
        match &self.id.names()[..] {
            [_] => format!("[parameters('{}')]", self.parameter()),
            names => {
                let rest = names.iter().skip(1).copied().collect::<Vec<_>>().join("/").replace('\'', "''");
                format!("[concat(parameters('{}'), '/{rest}')]", self.parameter())
            }
        }
    }

    fn resource_id(&self) -> String {
        format!("resourceId('{}', {})", self.kind, self.arguments().join(", "))
    }
}

fn resource(kind: &ResourceType, stored: &Stored, name: &Name, names: &[Name], options: &Options) -> Value {
    let mut out = Map::new();
    out.insert("type".to_owned(), json!(kind.name));
    out.insert("apiVersion".to_owned(), json!(kind.api_versions.first().unwrap_or(&"2024-11-01")));
    out.insert("name".to_owned(), json!(name.name()));
    if options.comments {
        out.insert("comments".to_owned(), json!(format!("Generalized from resource: '{}'.", stored.id)));
    }
    let mut whole = stored.body.clone();
    for member in SERVICE_PROPERTIES {
        document::remove(&mut whole, &format!("properties.{member}"));
    }
    let mut used = Vec::new();
    for (member, value) in whole.as_object().into_iter().flatten() {
        if !SERVICE_MEMBERS.iter().any(|m| m.eq_ignore_ascii_case(member)) && !value.is_null() {
            out.insert(member.clone(), expressions(value, names, &mut used));
        }
    }
    // Parents first, then what it names; nobody depends on itself.
    used.sort_unstable();
    used.dedup();
    let depends: Vec<String> = names
        .iter()
        .enumerate()
        .filter(|(at, other)| {
            stored.id != other.id && (stored.id.is_within(&other.id) || used.binary_search(at).is_ok())
        })
        .map(|(_, other)| format!("[{}]", other.resource_id()))
        .collect();
    if !depends.is_empty() {
        out.insert("dependsOn".to_owned(), json!(depends));
    }
    Value::Object(out)
}

/// A value with ids of `names` as calls; `used` collects which.
fn expressions(value: &Value, names: &[Name], used: &mut Vec<usize>) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(name, v)| (name.clone(), expressions(v, names, used))).collect(),
        Value::Array(items) => items.iter().map(|v| expressions(v, names, used)).collect(),
        Value::String(text) => json!(expression(text, names, used)),
        other => other.clone(),
    }
}

fn expression(text: &str, names: &[Name], used: &mut Vec<usize>) -> String {
    let Ok(id) = ResourceId::parse(text) else {
        // What would be read as an expression is escaped.
        return if text.starts_with('[') { format!("[{text}") } else { text.to_owned() };
    };
    // The nearest: a subnet's id is its VNet's with a tail.
    let nearest = names.iter().enumerate().filter(|(_, n)| id.is_within(&n.id)).max_by_key(|(_, n)| n.id.key().len());
    let Some((at, name)) = nearest else { return text.to_owned() };
    used.push(at);
    match &id.as_str()[name.id.as_str().len()..] {
        "" => format!("[{}]", name.resource_id()),
        tail => format!("[concat({}, '{}')]", name.resource_id(), tail.replace('\'', "''")),
    }
}
