//! The resources of a template: loops unrolled, conditions decided, names and ids known, in an
//! order in which dependencies come first. Bodies are left unevaluated: they may refer to what
//! is not there yet.

use std::collections::{BTreeMap, BTreeSet};

use super::{Evaluator, Failure, budget};
use crate::id::ResourceId;
use crate::syntax::{Kind, Node, Span};

/// Most resources of one template (Azure's limit).
const RESOURCES_MAX: usize = 800;
/// Deepest nesting of child resources.
const DEPTH_MAX: usize = 8;

/// One resource to be written.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Its id in the target scope.
    pub id: ResourceId,
    /// `apiVersion`.
    pub api_version: String,
    /// Where its type is written.
    pub span: Span,
    /// It is only read (`existing` of symbolic templates).
    pub existing: bool,
    /// The resources of the template that come before it, since it says so or refers to them.
    pub after: Vec<ResourceId>,
    node: Node,
    /// The copy loop it came from.
    index: Option<(String, i64)>,
}

/// Members of a template resource that are no members of the document.
const META: [&str; 11] = [
    "type",
    "name",
    "apiVersion",
    "dependsOn",
    "condition",
    "copy",
    "comments",
    "resources",
    "scope",
    "existing",
    "asserts",
];

impl Planned {
    /// The document to write, expressions evaluated.
    pub fn body(&self, evaluator: &Evaluator<'_>) -> Result<Node, Failure> {
        self.members(evaluator, &[])
    }

    /// [`Planned::body`] with members of `properties` called `raw` left as they are written (inner
    /// templates evaluate their own expressions).
    pub fn members(&self, evaluator: &Evaluator<'_>, raw: &[&str]) -> Result<Node, Failure> {
        self.looped(evaluator, || {
            let mut out = Vec::new();
            for member in self.node.members() {
                if META.iter().any(|m| m.eq_ignore_ascii_case(&member.name)) {
                    continue;
                }
                let mut member = member.clone();
                let is_properties = member.name.eq_ignore_ascii_case("properties");
                if let (true, Kind::Object(inner)) = (is_properties && !raw.is_empty(), &mut member.value.kind) {
                    for m in inner.iter_mut() {
                        if !raw.iter().any(|r| r.eq_ignore_ascii_case(&m.name)) {
                            m.value = evaluator.value(&m.value)?;
                        }
                    }
                } else {
                    member.value = evaluator.value(&member.value)?;
                }
                out.push(member);
            }
            let body = Node::new(Kind::Object(out), self.node.span);
            evaluator.budget.value(budget::weight(&body), self.span)?;
            Ok(body)
        })
    }

    /// The member `path` of the template resource, as it is written.
    pub fn written(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(&self.node, |n, name| n.get(name))
    }

    fn looped<T>(&self, e: &Evaluator<'_>, make: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        match &self.index {
            Some((name, index)) => e.in_loop(name, *index, make),
            None => make(),
        }
    }
}

/// What a template will do.
#[derive(Debug)]
pub struct Plan {
    /// Resources in the order to write them.
    pub resources: Vec<Planned>,
}

/// Where resources go: types in a group below it, types of the subscription below that.
fn id_of(scope: &ResourceId, kind: &str, name: &str, span: Span) -> Result<ResourceId, Failure> {
    let names: Vec<&str> = name.split('/').collect();
    let mut segments = kind.split('/');
    let namespace = segments.next().unwrap_or_default();
    let kinds: Vec<&str> = segments.collect();
    // An extension resource in the old spelling: `Type/providers/locks`, name `x/Microsoft.Authorization/l`.
    if kinds.is_empty() || kinds.len() != names.len() || names.iter().any(|n| n.is_empty()) {
        return Err(Failure::new(
            span,
            format!(
                "the template resource `{name}` of type `{kind}` has incorrect segment lengths: a type needs as many names as it has segments after the namespace"
            ),
        ));
    }
    if kind.eq_ignore_ascii_case("Microsoft.Resources/resourceGroups") {
        return Ok(ResourceId::resource_group_scope(scope.subscription().unwrap_or_default(), name));
    }
    let mut id = scope.provider(namespace, kinds[0], names[0]);
    for (kind, name) in kinds.iter().zip(&names).skip(1) {
        id = id.child(kind, name);
    }
    Ok(id)
}

/// A resource found in the template, before the order is known.
struct Found {
    planned: Planned,
    active: bool,
    symbol: Option<String>,
    loop_name: Option<String>,
    depends: Vec<(String, Span)>,
}

/// Finds the resources of the evaluator's template and orders them. `scope` is the group or the
/// subscription that is deployed to.
pub fn plan(evaluator: &Evaluator<'_>, scope: &ResourceId) -> Result<Plan, Failure> {
    let template = evaluator.inputs.template;
    let mut walk = Walk { evaluator, scope, found: Vec::new() };
    if let Some(resources) = template.get("resources") {
        walk.all(resources, None, 0)?;
    }
    let found = walk.found;
    unique(&found)?;
    for f in &found {
        let mut own = evaluator.own.borrow_mut();
        let id = f.planned.id.as_str().to_owned();
        let kind = f.planned.id.resource_type().to_lowercase();
        own.insert(f.planned.id.names().join("/").to_lowercase(), id.clone());
        own.insert(format!("{kind}/{}", f.planned.id.names().join("/").to_lowercase()), id.clone());
        if let Some(symbol) = &f.symbol {
            own.insert(symbol.to_lowercase(), id);
        }
    }
    let edges = edges(evaluator, &found)?;
    let order = order(&found, &edges)?;
    let after = |i: usize| edges[i].iter().filter(|b| found[**b].active).map(|b| found[*b].planned.id.clone());
    let planned = |i: usize| Planned { after: after(i).collect(), ..found[i].planned.clone() };
    let resources = order.into_iter().filter(|i| found[*i].active).map(planned).collect();
    Ok(Plan { resources })
}

struct Walk<'a, 'b> {
    evaluator: &'a Evaluator<'b>,
    scope: &'a ResourceId,
    found: Vec<Found>,
}

impl Walk<'_, '_> {
    /// `resources`: a list, or an object of symbolic names.
    fn all(&mut self, resources: &Node, parent: Option<(&str, &str, bool)>, depth: usize) -> Result<(), Failure> {
        for node in resources.elements() {
            self.one(node, None, parent, depth)?;
        }
        for member in resources.members() {
            self.one(&member.value, Some(&member.name), parent, depth)?;
        }
        Ok(())
    }

    fn one(
        &mut self,
        node: &Node,
        symbol: Option<&str>,
        parent: Option<(&str, &str, bool)>,
        depth: usize,
    ) -> Result<(), Failure> {
        if depth > DEPTH_MAX {
            return Err(Failure::new(node.span, "child resources are nested too deeply"));
        }
        let Some(copy) = node.get("copy") else { return self.instance(node, symbol, parent, None, depth) };
        let name = copy.get("name").and_then(Node::as_str).unwrap_or_default().to_owned();
        for index in 0..self.evaluator.count(copy)? {
            let evaluator = self.evaluator;
            evaluator
                .in_loop(&name, index, || self.instance(node, symbol, parent, Some((name.clone(), index)), depth))?;
        }
        Ok(())
    }

    fn text(&self, node: &Node, member: &str) -> Result<Option<String>, Failure> {
        let Some(written) = node.get(member) else { return Ok(None) };
        let value = self.evaluator.value(written)?;
        match value.as_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(Failure::new(
                written.span,
                format!("the `{member}` of a resource is no text but {}", value.type_name()),
            )),
        }
    }

    fn instance(
        &mut self,
        node: &Node,
        symbol: Option<&str>,
        parent: Option<(&str, &str, bool)>,
        index: Option<(String, i64)>,
        depth: usize,
    ) -> Result<(), Failure> {
        if self.found.len() >= RESOURCES_MAX {
            return Err(Failure::new(node.span, format!("a template may have at most {RESOURCES_MAX} resources")));
        }
        // Kept as it is written, for each turn of a loop.
        self.evaluator.budget.spend(budget::weight(node), node.span)?;
        let missing = |what: &str| Failure::new(node.span, format!("a resource of the template has no `{what}`"));
        let mut kind = self.text(node, "type")?.ok_or_else(|| missing("type"))?;
        let mut name = self.text(node, "name")?.ok_or_else(|| missing("name"))?;
        let existing = node.get("existing").is_some_and(|e| e.kind == Kind::Bool(true));
        let mut active = match node.get("condition") {
            None => true,
            Some(written) => {
                let value = self.evaluator.value(written)?;
                super::functions::boolean(&value)
                    .ok_or_else(|| Failure::new(written.span, "the `condition` of a resource is no boolean"))?
            }
        };
        if let Some((parent_kind, parent_name, parent_active)) = parent {
            if !kind.contains('/') || !kind.split('/').next().unwrap_or_default().contains('.') {
                kind = format!("{parent_kind}/{kind}");
                name = format!("{parent_name}/{name}");
            }
            active = active && parent_active;
        }
        // Of what is left out nothing else is read: templates name such resources by parameters that nobody gave.
        let mut depends = if active { self.depends(node)? } else { Vec::new() };
        if let Some((parent_kind, parent_name, _)) = parent {
            depends.push((format!("{parent_kind}/{parent_name}"), node.span));
        }
        let type_span = node.get("type").map_or(node.span, |t| t.span);
        let scope = match self.text(node, "scope")? {
            Some(scope) => self.extended(&scope, node.span)?,
            None => self.scope.clone(),
        };
        let id = match id_of(&scope, &kind, &name, type_span) {
            Ok(id) => id,
            Err(_) if !active => return Ok(()),
            Err(wrong) => return Err(wrong),
        };
        let api_version = self.text(node, "apiVersion")?.unwrap_or_default();
        let loop_name = index.as_ref().map(|(n, _)| n.clone());
        self.found.push(Found {
            planned: Planned {
                id,
                api_version,
                span: type_span,
                existing,
                after: Vec::new(),
                node: node.clone(),
                index,
            },
            active: active && !existing,
            symbol: symbol.map(str::to_owned),
            loop_name,
            depends,
        });
        let is_deployment = kind.eq_ignore_ascii_case("Microsoft.Resources/deployments");
        if let Some(children) = node.get("resources").filter(|_| !is_deployment) {
            self.all(children, Some((&kind, &name, active)), depth + 1)?;
        }
        Ok(())
    }

    /// `scope` of an extension resource: an id, or `Type/name` in the target group.
    fn extended(&self, scope: &str, span: Span) -> Result<ResourceId, Failure> {
        if scope.starts_with('/') {
            return ResourceId::parse(scope).map_err(|e| Failure::new(span, e.to_string()));
        }
        let mut parts = scope.split('/');
        let namespace = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.collect();
        let kinds: Vec<&str> = rest.iter().step_by(2).copied().collect();
        let names: Vec<&str> = rest.iter().skip(1).step_by(2).copied().collect();
        id_of(self.scope, &format!("{namespace}/{}", kinds.join("/")), &names.join("/"), span)
    }

    fn depends(&self, node: &Node) -> Result<Vec<(String, Span)>, Failure> {
        let mut out = Vec::new();
        for written in node.get("dependsOn").map(Node::elements).unwrap_or_default() {
            let value = self.evaluator.value(written)?;
            let text =
                value.as_str().ok_or_else(|| Failure::new(written.span, "an element of `dependsOn` is no text"))?;
            out.push((text.to_owned(), written.span));
        }
        Ok(out)
    }
}

fn unique(found: &[Found]) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for f in found.iter().filter(|f| f.active) {
        if !seen.insert(f.planned.id.key()) {
            return Err(Failure::new(
                f.planned.span,
                format!("the resource `{}` at this place is defined multiple times in the template", f.planned.id),
            ));
        }
    }
    Ok(())
}

/// For each resource, the ones that must come before it.
fn edges(evaluator: &Evaluator<'_>, found: &[Found]) -> Result<Vec<BTreeSet<usize>>, Failure> {
    let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, f) in found.iter().enumerate() {
        let names = f.planned.id.names().join("/").to_lowercase();
        let kind = f.planned.id.resource_type().to_lowercase();
        let mut keys = vec![f.planned.id.key().to_owned(), format!("{kind}/{names}"), names.clone()];
        // `Namespace/type/name/childtype/childname`, the id without its scope.
        keys.extend(f.planned.id.key().rsplit_once("/providers/").map(|(_, rest)| rest.to_owned()));
        keys.extend(f.symbol.as_ref().map(|s| s.to_lowercase()));
        keys.extend(f.loop_name.as_ref().map(|s| s.to_lowercase()));
        keys.sort();
        keys.dedup();
        for key in keys {
            by_name.entry(key).or_default().push(i);
        }
    }
    let mut edges = vec![BTreeSet::new(); found.len()];
    for (i, f) in found.iter().enumerate() {
        for (text, span) in &f.depends {
            match by_name.get(text.to_lowercase().trim_end_matches('/')) {
                Some(before) => edges[i].extend(before.iter().copied().filter(|b| *b != i)),
                None => {
                    return Err(Failure::new(*span, format!("the resource `{text}` is not defined in the template")));
                }
            }
        }
        if !f.active {
            continue;
        }
        // What a body refers to comes first, said or not.
        let mut texts = Vec::new();
        expressions(&f.planned.node, &mut texts);
        for (text, span) in texts {
            for target in f.planned.looped(evaluator, || Ok(evaluator.referenced(text, span)))? {
                if let Some(before) = by_name.get(&target.to_lowercase()) {
                    edges[i].extend(before.iter().copied().filter(|b| *b != i));
                }
            }
        }
    }
    Ok(edges)
}

/// Texts in the parts of a resource that are evaluated with it.
fn expressions<'a>(node: &'a Node, out: &mut Vec<(&'a str, Span)>) {
    match &node.kind {
        Kind::String(text) => out.push((text, node.span)),
        Kind::Array(elements) => elements.iter().for_each(|e| expressions(e, out)),
        Kind::Object(members) => {
            for m in members {
                if !["resources", "template", "dependsOn"].iter().any(|s| s.eq_ignore_ascii_case(&m.name)) {
                    expressions(&m.value, out);
                }
            }
        }
        _ => {}
    }
}

/// Depth first in the order written, so that equal templates deploy equally.
fn order(found: &[Found], edges: &[BTreeSet<usize>]) -> Result<Vec<usize>, Failure> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; found.len()];
    let mut out = Vec::with_capacity(found.len());
    for start in 0..found.len() {
        // (resource, its dependencies still to visit)
        let mut stack: Vec<(usize, Vec<usize>)> = Vec::new();
        if marks[start] == Mark::New {
            marks[start] = Mark::Open;
            stack.push((start, edges[start].iter().rev().copied().collect()));
        }
        while let Some((here, rest)) = stack.last_mut() {
            let here = *here;
            match rest.pop() {
                None => {
                    marks[here] = Mark::Done;
                    out.push(here);
                    stack.pop();
                }
                Some(next) if marks[next] == Mark::New => {
                    marks[next] = Mark::Open;
                    stack.push((next, edges[next].iter().rev().copied().collect()));
                }
                Some(next) if marks[next] == Mark::Open => {
                    let circle = &found[next].planned;
                    return Err(Failure::new(
                        circle.span,
                        format!("a circular dependency was detected on the resource `{}`", circle.id),
                    ));
                }
                Some(_) => {}
            }
        }
    }
    Ok(out)
}
