//! Values of expressions. Parameters and variables are evaluated when first used, so unused ones
//! cost nothing and cycles are found.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::budget::{self, Budget};
use super::expression::{self, Expression, Meaning};
use super::{Failure, Surroundings, functions};
use crate::syntax::{Kind, Member, Node, Span};

/// Most elements one `copy` may make (Azure's limit).
pub(super) const COPY_MAX: i64 = 800;

/// A template and the parameter values given for it.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The template document.
    pub template: &'a Node,
    /// `{name: {"value": v}}`, or an empty object.
    pub parameters: &'a Node,
}

/// Evaluates the expressions of one template.
pub struct Evaluator<'a> {
    pub(super) inputs: Inputs<'a>,
    pub(super) around: &'a dyn Surroundings,
    pub(super) budget: &'a Budget,
    /// Ids of the template's own resources by lower-case name, and by symbolic name.
    pub(super) own: RefCell<BTreeMap<String, String>>,
    /// Whether `reference` may be asked yet.
    pub(super) may_reference: Cell<bool>,
    pub(super) guids: Cell<usize>,
    values: RefCell<BTreeMap<String, Node>>,
    visiting: RefCell<Vec<String>>,
    /// `copyIndex()` of each loop around, innermost last.
    loops: RefCell<Vec<(String, i64)>>,
}

impl std::fmt::Debug for Evaluator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluator").field("own", &self.own).finish_non_exhaustive()
    }
}

impl<'a> Evaluator<'a> {
    /// An evaluator for `inputs` in `around`, spending of `budget`.
    pub fn new(inputs: Inputs<'a>, around: &'a dyn Surroundings, budget: &'a Budget) -> Self {
        Self {
            inputs,
            around,
            budget,
            own: RefCell::default(),
            may_reference: Cell::new(false),
            guids: Cell::new(0),
            values: RefCell::default(),
            visiting: RefCell::default(),
            loops: RefCell::default(),
        }
    }

    /// Allows `reference` from now on: the resources it names are about to be there.
    pub fn allow_references(&self) {
        self.may_reference.set(true);
    }

    /// Checks that the parameters given are those declared, of their types and allowed values.
    pub fn check_parameters(&self) -> Result<(), Failure> {
        let declared = self.inputs.template.get("parameters");
        for given in self.inputs.parameters.members() {
            if declared.and_then(|d| d.get(&given.name)).is_none() {
                return Err(Failure::new(
                    given.name_span,
                    format!(
                        "the parameter `{}` is given but the template does not declare it; it declares: {}",
                        given.name,
                        declared
                            .map(|d| d.members().iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "))
                            .unwrap_or_default()
                    ),
                ));
            }
        }
        for member in declared.map(Node::members).unwrap_or_default() {
            self.parameter(&member.name, member.name_span)?;
        }
        Ok(())
    }

    /// The value of a parameter, given or by default.
    pub fn parameter_value(&self, name: &str) -> Result<Node, Failure> {
        self.parameter(name, Span::default())
    }

    pub(super) fn parameter(&self, name: &str, span: Span) -> Result<Node, Failure> {
        let Some(declaration) = self.inputs.template.get("parameters").and_then(|p| p.get(name)) else {
            return Err(Failure::new(span, format!("the template has no parameter `{name}`")));
        };
        self.once(&format!("parameter `{name}`"), span, || {
            let given = self.inputs.parameters.get(name);
            let value = match given {
                Some(g) if g.get("reference").is_some() => {
                    return Err(Failure::new(
                        g.span,
                        format!("the parameter `{name}` refers to a key vault, which is not supported"),
                    ));
                }
                Some(g) => {
                    // Not `get`: a given `null` is a value.
                    g.members().iter().find(|m| m.name.eq_ignore_ascii_case("value")).map(|m| m.value.clone())
                }
                None => None,
            };
            let default = declaration.members().iter().find(|m| m.name.eq_ignore_ascii_case("defaultValue"));
            // azure-ai-ml sends `null` for what it does not set, and gets the default; only a parameter that may be
            // null is null then.
            let said = |v: &Node| v.kind != Kind::Null || default.is_none() || nullable(declaration);
            let value = match value.filter(said) {
                Some(v) => v,
                None => match default {
                    Some(m) => self.value(&m.value)?,
                    None if nullable(declaration) => Node::new(Kind::Null, span),
                    None => {
                        return Err(Failure::new(
                            declaration.span,
                            format!("the value for the template parameter `{name}` is not provided"),
                        ));
                    }
                },
            };
            accepts(name, declaration, &value)?;
            Ok(value)
        })
    }

    pub(super) fn variable(&self, name: &str, span: Span) -> Result<Node, Failure> {
        let variables = self.inputs.template.get("variables");
        let found = variables.and_then(|v| v.members().iter().find(|m| m.name.eq_ignore_ascii_case(name)));
        if let Some(member) = found {
            return self.once(&format!("variable `{name}`"), span, || self.value(&member.value));
        }
        // `"variables": {"copy": [...]}` makes variables by loops.
        let loops = variables.and_then(|v| v.get("copy")).map(Node::elements).unwrap_or_default();
        for one in loops {
            if one.get("name").and_then(Node::as_str).is_some_and(|n| n.eq_ignore_ascii_case(name)) {
                return self.once(&format!("variable `{name}`"), span, || self.copied(one).map(|m| m.value));
            }
        }
        Err(Failure::new(span, format!("the template has no variable `{name}`")))
    }

    /// Evaluates once and remembers; a value that needs itself is a failure.
    fn once(&self, what: &str, span: Span, make: impl FnOnce() -> Result<Node, Failure>) -> Result<Node, Failure> {
        let key = what.to_lowercase();
        if let Some(known) = self.values.borrow().get(&key) {
            return Ok(known.clone());
        }
        if self.visiting.borrow().contains(&key) {
            return Err(Failure::new(span, format!("the {what} needs its own value")));
        }
        self.visiting.borrow_mut().push(key.clone());
        let made = make();
        self.visiting.borrow_mut().pop();
        let value = made?;
        self.values.borrow_mut().insert(key, value.clone());
        Ok(value)
    }

    /// The value of a node: expressions in it evaluated, `copy` loops in objects unrolled.
    pub fn value(&self, node: &Node) -> Result<Node, Failure> {
        match &node.kind {
            Kind::String(text) => match expression::meaning(text) {
                Meaning::Literal(text) => Ok(Node::text(text, node.span)),
                Meaning::Expression(text) => {
                    let parsed = expression::parse(text, node.span)?;
                    self.expression(&parsed, node.span)
                }
            },
            Kind::Array(elements) => {
                let elements = elements.iter().map(|e| self.value(e)).collect::<Result<_, _>>()?;
                Ok(Node::new(Kind::Array(elements), node.span))
            }
            Kind::Object(members) => {
                let mut out = Vec::with_capacity(members.len());
                for member in members {
                    if member.name.eq_ignore_ascii_case("copy") && is_copy(&member.value) {
                        for one in member.value.elements() {
                            out.push(self.copied(one)?);
                        }
                        continue;
                    }
                    out.push(Member {
                        name: self.member_name(&member.name, member.name_span)?,
                        name_span: member.name_span,
                        value: self.value(&member.value)?,
                    });
                }
                Ok(Node::new(Kind::Object(out), node.span))
            }
            _ => Ok(node.clone()),
        }
    }

    /// Names may be expressions too (tags).
    fn member_name(&self, name: &str, span: Span) -> Result<String, Failure> {
        match expression::meaning(name) {
            Meaning::Literal(text) => Ok(text.to_owned()),
            Meaning::Expression(text) => {
                let value = self.expression(&expression::parse(text, span)?, span)?;
                value.as_str().map(str::to_owned).ok_or_else(|| {
                    Failure::new(span, format!("the member name `{name}` is no text but {}", value.type_name()))
                })
            }
        }
    }

    /// One property loop: `{"name", "count", "input"}`.
    fn copied(&self, one: &Node) -> Result<Member, Failure> {
        let name = one.get("name").and_then(Node::as_str).unwrap_or_default().to_owned();
        let count = self.count(one)?;
        let input =
            one.get("input").ok_or_else(|| Failure::new(one.span, format!("the loop `{name}` has no `input`")))?;
        let mut elements = Vec::new();
        for index in 0..count {
            let element = self.in_loop(&name, index, || self.value(input))?;
            self.budget.value(budget::weight(&element), one.span)?;
            elements.push(element);
        }
        Ok(Member { name, name_span: one.span, value: Node::new(Kind::Array(elements), one.span) })
    }

    /// How often a `copy` object asks to repeat.
    pub(super) fn count(&self, copy: &Node) -> Result<i64, Failure> {
        let node = copy.get("count").ok_or_else(|| Failure::new(copy.span, "this loop has no `count`"))?;
        let count = functions::integer(&self.value(node)?)
            .ok_or_else(|| Failure::new(node.span, "the `count` of a loop is not a number"))?;
        if !(0..=COPY_MAX).contains(&count) {
            return Err(Failure::new(
                node.span,
                format!("the `count` of a loop is {count}; 0 to {COPY_MAX} are allowed"),
            ));
        }
        Ok(count)
    }

    /// Runs `make` with `copyIndex(name)` at `index`.
    pub(super) fn in_loop<T>(
        &self,
        name: &str,
        index: i64,
        make: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.loops.borrow_mut().push((name.to_owned(), index));
        let made = make();
        self.loops.borrow_mut().pop();
        made
    }

    pub(super) fn copy_index(&self, name: Option<&str>) -> Option<i64> {
        let loops = self.loops.borrow();
        let mut inner_first = loops.iter().rev();
        match name {
            None => inner_first.next().map(|(_, i)| *i),
            Some(name) => inner_first.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, i)| *i),
        }
    }

    /// What the expression in `text` refers to by `reference` with an argument that can be known
    /// now: names and ids of resources that must be there before it is evaluated. (Azure allows
    /// `reference` in no variable, so the text itself is all there is to look at.)
    pub(super) fn referenced(&self, text: &str, span: Span) -> Vec<String> {
        let mut out = Vec::new();
        if let Meaning::Expression(inner) = expression::meaning(text)
            && let Ok(parsed) = expression::parse(inner, span)
        {
            self.collect(&parsed, span, &mut out);
        }
        out
    }

    fn collect(&self, expression: &Expression, span: Span, out: &mut Vec<String>) {
        match expression {
            Expression::Text(_) | Expression::Number(_) => {}
            Expression::Member { of, .. } => self.collect(of, span, out),
            Expression::Index { of, index } => {
                self.collect(of, span, out);
                self.collect(index, span, out);
            }
            Expression::Call { name, arguments } => {
                if name.eq_ignore_ascii_case("reference")
                    && let Some(first) = arguments.first()
                    && let Ok(target) = self.expression(first, span)
                    && let Some(target) = target.as_str()
                {
                    out.push(target.to_owned());
                }
                for argument in arguments {
                    self.collect(argument, span, out);
                }
            }
        }
    }

    pub(super) fn expression(&self, expression: &Expression, span: Span) -> Result<Node, Failure> {
        let made = self.evaluated(expression, span)?;
        self.budget.value(budget::weight(&made), span)?;
        Ok(made)
    }

    fn evaluated(&self, expression: &Expression, span: Span) -> Result<Node, Failure> {
        match expression {
            Expression::Text(text) => Ok(Node::text(text.clone(), span)),
            Expression::Number(n) => Ok(Node::new(Kind::Number((*n).into()), span)),
            Expression::Call { name, arguments } => functions::call(self, name, arguments, span),
            Expression::Member { of, name } => {
                let of = self.expression(of, span)?;
                member(&of, name, span)
            }
            Expression::Index { of, index } => {
                let of = self.expression(of, span)?;
                let index = self.expression(index, span)?;
                if let Some(why) = of.unknown_itself().or(index.unknown_itself()) {
                    return Ok(Node::new(Kind::Unknown(why.to_owned()), span));
                }
                match (&of.kind, &index.kind) {
                    (_, Kind::String(name)) => member(&of, name, span),
                    (Kind::Array(elements), _) => {
                        let at = functions::integer(&index);
                        let found = at.and_then(|i| usize::try_from(i).ok()).and_then(|i| elements.get(i));
                        found.cloned().ok_or_else(|| {
                            Failure::new(
                                span,
                                format!(
                                    "the index {} is outside of the array's {} elements",
                                    index.to_json(),
                                    elements.len()
                                ),
                            )
                        })
                    }
                    _ => Err(Failure::new(span, format!("a value of type {} has no elements", of.type_name()))),
                }
            }
        }
    }
}

fn is_copy(node: &Node) -> bool {
    matches!(&node.kind, Kind::Array(loops) if !loops.is_empty() && loops.iter().all(|l| l.get("count").is_some() && l.get("name").is_some()))
}

fn nullable(declaration: &Node) -> bool {
    declaration.get("nullable").is_some_and(|n| n.kind == Kind::Bool(true))
}

fn member(of: &Node, name: &str, span: Span) -> Result<Node, Failure> {
    if let Some(why) = of.unknown_itself() {
        return Ok(Node::new(Kind::Unknown(why.to_owned()), span));
    }
    let found = of.members().iter().rev().find(|m| m.name.eq_ignore_ascii_case(name));
    match found {
        Some(m) => Ok(Node { span, ..m.value.clone() }),
        None => {
            let names: Vec<&str> = of.members().iter().map(|m| m.name.as_str()).collect();
            let has = if names.is_empty() {
                "it has no properties".to_owned()
            } else {
                format!("it has: {}", names.join(", "))
            };
            Err(Failure::new(span, format!("the property `{name}` does not exist; {has}")))
        }
    }
}

/// Whether a value is of the declared type and among the allowed ones.
fn accepts(name: &str, declaration: &Node, value: &Node) -> Result<(), Failure> {
    if value.unknown_itself().is_some() || (value.kind == Kind::Null && nullable(declaration)) {
        return Ok(());
    }
    let kind = declaration.get("type").and_then(Node::as_str).unwrap_or_default().to_lowercase();
    let fits = match (kind.as_str(), &value.kind) {
        ("string" | "securestring", Kind::String(_)) => true,
        ("int", Kind::Number(n)) => n.is_i64() || n.is_u64(),
        ("bool", Kind::Bool(_)) | ("array", Kind::Array(_)) | ("object" | "secureobject", Kind::Object(_)) => true,
        // Clients send booleans and numbers as texts, and Azure converts them.
        ("bool", Kind::String(s)) => s.eq_ignore_ascii_case("true") || s.eq_ignore_ascii_case("false"),
        ("int", Kind::String(s)) => s.parse::<i64>().is_ok(),
        _ => false,
    };
    if !fits {
        return Err(Failure::new(
            value.span,
            format!(
                "the provided value for the template parameter `{name}` is of type {}, expected is {kind}",
                value.type_name()
            ),
        ));
    }
    if let Some(allowed) = declaration.get("allowedValues")
        && !allowed.elements().iter().any(|a| functions::equal(a, value))
    {
        return Err(Failure::new(
            value.span,
            format!(
                "the provided value {} for the template parameter `{name}` is not one of the allowed: {}",
                value.to_json(),
                allowed.to_json()
            ),
        ));
    }
    let size = match &value.kind {
        Kind::String(s) => Some(("Length", i64::try_from(s.chars().count()).unwrap_or(i64::MAX))),
        Kind::Array(a) => Some(("Length", i64::try_from(a.len()).unwrap_or(i64::MAX))),
        Kind::Number(n) => n.as_i64().map(|n| ("Value", n)),
        _ => None,
    };
    if let Some((of, size)) = size {
        for (limit, too) in [("min", -1), ("max", 1)] {
            let bound = declaration.get(&format!("{limit}{of}")).and_then(functions::integer);
            if bound.is_some_and(|b| (size - b).signum() == too) {
                return Err(Failure::new(
                    value.span,
                    format!(
                        "the template parameter `{name}` has {} {size}, outside of its {limit}{of}",
                        of.to_lowercase()
                    ),
                ));
            }
        }
    }
    Ok(())
}
