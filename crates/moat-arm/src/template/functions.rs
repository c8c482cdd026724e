//! The template functions, as one table.
//!
//! Absent on purpose: `list*` and `getSecret` (keys of services that are not built), lambdas, and
//! user-defined functions; each is refused by name.

use serde_json::Number;
use uuid::Uuid;

use super::evaluate::Evaluator;
use super::expression::Expression;
use super::{Failure, text_functions};
use crate::syntax::{Kind, Member, Node, Span};

/// Namespace that Azure documents for `guid()`.
const GUIDS: Uuid = Uuid::from_u128(0x11fb_06fb_712d_4ddd_98c7_e71b_bd58_8830);

/// Longest list that `range` makes (Azure's limit).
const RANGE_MAX: i64 = 10_000;

pub(super) type Outcome = Result<Node, Failure>;

/// A call with its arguments evaluated.
pub(super) struct Call<'a, 'b> {
    pub(super) evaluator: &'a Evaluator<'b>,
    pub(super) name: &'a str,
    pub(super) arguments: &'a [Node],
    pub(super) span: Span,
}

impl Call<'_, '_> {
    pub(super) fn fail(&self, why: impl std::fmt::Display) -> Failure {
        Failure::new(self.span, format!("the template function `{}` {why}", self.name))
    }

    fn unexpected(&self, at: usize, expected: &str) -> Failure {
        let got = self.arguments.get(at).map_or("nothing", Node::type_name);
        self.fail(format_args!("expects {expected} as argument {}, it got {got}", at + 1))
    }

    pub(super) fn text(&self, at: usize) -> Result<&str, Failure> {
        self.arguments.get(at).and_then(Node::as_str).ok_or_else(|| self.unexpected(at, "a string"))
    }

    pub(super) fn int(&self, at: usize) -> Result<i64, Failure> {
        self.arguments.get(at).and_then(integer).ok_or_else(|| self.unexpected(at, "an integer"))
    }

    fn bool(&self, at: usize) -> Result<bool, Failure> {
        self.arguments.get(at).and_then(boolean).ok_or_else(|| self.unexpected(at, "a boolean"))
    }

    fn node(&self, at: usize) -> Result<&Node, Failure> {
        self.arguments.get(at).ok_or_else(|| self.unexpected(at, "a value"))
    }

    pub(super) fn texts(&self) -> Result<Vec<&str>, Failure> {
        (0..self.arguments.len()).map(|at| self.text(at)).collect()
    }

    /// A text of `bytes`, or a list of as many in all, is about to be made.
    pub(super) fn makes(&self, bytes: usize) -> Result<(), Failure> {
        self.evaluator.budget.value(bytes, self.span)
    }

    fn compares(&self, times: usize) -> Result<(), Failure> {
        self.evaluator.budget.comparisons(times, self.span)
    }

    pub(super) fn make(&self, kind: Kind) -> Node {
        Node::new(kind, self.span)
    }

    pub(super) fn string(&self, text: impl Into<String>) -> Outcome {
        Ok(Node::text(text, self.span))
    }

    pub(super) fn number(&self, n: i64) -> Outcome {
        Ok(self.make(Kind::Number(Number::from(n))))
    }

    pub(super) fn truth(&self, b: bool) -> Outcome {
        Ok(self.make(Kind::Bool(b)))
    }
}

impl Node {
    /// Why this very value is unknown; its elements may be all the same.
    pub(super) fn unknown_itself(&self) -> Option<&str> {
        match &self.kind {
            Kind::Unknown(why) => Some(why),
            _ => None,
        }
    }
}

/// Calls `name`. `if`, `and`, `or` and `coalesce` evaluate only what they need: the other branch
/// may refer to something absent.
pub(super) fn call(e: &Evaluator<'_>, name: &str, arguments: &[Expression], span: Span) -> Outcome {
    let lower = name.to_ascii_lowercase();
    let bare = Call { evaluator: e, name, arguments: &[], span };
    let one = |at: usize| -> Outcome {
        match arguments.get(at) {
            Some(a) => e.expression(a, span),
            None => Err(bare.fail(format_args!("needs at least {} arguments", at + 1))),
        }
    };
    let unknown = |n: &Node| n.unknown_itself().map(|why| Node::new(Kind::Unknown(why.to_owned()), span));
    match lower.as_str() {
        "if" => {
            if arguments.len() != 3 {
                return Err(bare.fail("needs three arguments"));
            }
            let condition = one(0)?;
            if let Some(u) = unknown(&condition) {
                return Ok(u);
            }
            match boolean(&condition) {
                Some(true) => one(1),
                Some(false) => one(2),
                None => {
                    Err(bare.fail(format_args!("expects a boolean as argument 1, it got {}", condition.type_name())))
                }
            }
        }
        "and" | "or" => {
            let stops = lower == "or";
            let mut seen_unknown = None;
            one(0)?;
            for at in 0..arguments.len() {
                let value = one(at)?;
                match boolean(&value) {
                    Some(b) if b == stops => return bare.truth(stops),
                    Some(_) => {}
                    None if value.unknown_itself().is_some() => seen_unknown = unknown(&value),
                    None => return Err(bare.fail(format_args!("expects booleans, it got {}", value.type_name()))),
                }
            }
            seen_unknown.map_or_else(|| bare.truth(!stops), Ok)
        }
        "coalesce" => {
            for at in 0..arguments.len() {
                let value = one(at)?;
                if value.kind != Kind::Null {
                    return Ok(value);
                }
            }
            Ok(bare.make(Kind::Null))
        }
        _ => {
            let values: Vec<Node> = arguments.iter().map(|a| e.expression(a, span)).collect::<Result<_, _>>()?;
            if let Some(u) = values.iter().find_map(unknown) {
                return Ok(u);
            }
            eager(&Call { evaluator: e, name, arguments: &values, span }, &lower)
        }
    }
}

fn eager(c: &Call<'_, '_>, lower: &str) -> Outcome {
    let n = c.arguments.len();
    match lower {
        "parameters" => c.evaluator.parameter(c.text(0)?, c.span).map(|v| Node { span: c.span, ..v }),
        "variables" => c.evaluator.variable(c.text(0)?, c.span).map(|v| Node { span: c.span, ..v }),
        "copyindex" => copy_index(c),
        "reference" => reference(c),
        "resourcegroup" => {
            c.evaluator.around.resource_group().ok_or_else(|| c.fail("needs a resource group to deploy to"))
        }
        "subscription" => Ok(c.evaluator.around.subscription()),
        "deployment" => Ok(c.evaluator.around.deployment()),
        "tenant" => Ok(c.evaluator.around.tenant()),
        "resourceid" => resource_id(c, true),
        "subscriptionresourceid" => resource_id(c, false),
        "tenantresourceid" => c.string(format!("/providers/{}", typed_name(c, 0)?)),
        "extensionresourceid" => {
            c.string(format!("{}/providers/{}", c.text(0)?.trim_end_matches('/'), typed_name(c, 1)?))
        }
        "utcnow" => text_functions::utc_now(c),
        "newguid" => {
            let number = c.evaluator.guids.get();
            c.evaluator.guids.set(number + 1);
            c.string(c.evaluator.around.new_guid(number))
        }
        "guid" => c.string(Uuid::new_v5(&GUIDS, c.texts()?.join("-").as_bytes()).to_string()),

        "true" => c.truth(true),
        "false" => c.truth(false),
        "null" => Ok(c.make(Kind::Null)),
        "not" => c.truth(!c.bool(0)?),
        "equals" => c.truth(equal(c.node(0)?, c.node(1)?)),
        "less" => compare(c, |o| o.is_lt()),
        "lessorequals" => compare(c, |o| o.is_le()),
        "greater" => compare(c, |o| o.is_gt()),
        "greaterorequals" => compare(c, |o| o.is_ge()),
        "bool" => boolean(c.node(0)?).map_or_else(|| Err(c.unexpected(0, "something like a boolean")), |b| c.truth(b)),
        "int" => c.int(0).and_then(|i| c.number(i)),

        "add" => arithmetic(c, i64::checked_add),
        "sub" => arithmetic(c, i64::checked_sub),
        "mul" => arithmetic(c, i64::checked_mul),
        "div" => arithmetic(c, i64::checked_div),
        "mod" => arithmetic(c, i64::checked_rem),
        "min" | "max" => {
            let numbers: Option<Vec<i64>> = match c.arguments {
                [one] if matches!(one.kind, Kind::Array(_)) => one.elements().iter().map(integer).collect(),
                many => many.iter().map(integer).collect(),
            };
            let numbers = numbers.ok_or_else(|| c.fail("expects integers"))?;
            let found = if lower == "min" { numbers.iter().min() } else { numbers.iter().max() };
            found.map_or_else(|| Err(c.fail("expects at least one integer")), |x| c.number(*x))
        }

        "createarray" => Ok(c.make(Kind::Array(c.arguments.to_vec()))),
        "array" => match &c.node(0)?.kind {
            Kind::Array(_) => Ok(c.arguments[0].clone()),
            _ => Ok(c.make(Kind::Array(vec![c.arguments[0].clone()]))),
        },
        "createobject" => create_object(c),
        "range" => {
            let (start, count) = (c.int(0)?, c.int(1)?);
            if !(0..=RANGE_MAX).contains(&count) {
                return Err(c.fail(format_args!("makes at most {RANGE_MAX} elements")));
            }
            let elements = (0..count).map(|i| c.number(start.saturating_add(i))).collect::<Result<_, _>>()?;
            Ok(c.make(Kind::Array(elements)))
        }
        "union" => union(c),
        "intersection" => {
            let (first, rest) = c.arguments.split_first().ok_or_else(|| c.unexpected(0, "an array"))?;
            let others: usize = rest.iter().map(|r| r.elements().len()).sum();
            c.compares(first.elements().len().saturating_mul(others))?;
            let kept = first
                .elements()
                .iter()
                .filter(|e| rest.iter().all(|r| r.elements().iter().any(|o| o.to_json() == e.to_json())))
                .cloned()
                .collect();
            Ok(c.make(Kind::Array(kept)))
        }
        "length" => match &c.node(0)?.kind {
            Kind::String(s) => c.number(count(s.chars().count())),
            Kind::Array(a) => c.number(count(a.len())),
            Kind::Object(o) => c.number(count(o.len())),
            _ => Err(c.unexpected(0, "a string, an array or an object")),
        },
        "empty" => match &c.node(0)?.kind {
            Kind::Null => c.truth(true),
            Kind::String(s) => c.truth(s.is_empty()),
            Kind::Array(a) => c.truth(a.is_empty()),
            Kind::Object(o) => c.truth(o.is_empty()),
            _ => Err(c.unexpected(0, "a string, an array or an object")),
        },
        "contains" => {
            let wanted = c.node(1)?;
            match &c.node(0)?.kind {
                Kind::Array(a) => c.truth(a.iter().any(|e| e.to_json() == wanted.to_json())),
                Kind::Object(o) => {
                    c.truth(wanted.as_str().is_some_and(|w| o.iter().any(|m| m.name.eq_ignore_ascii_case(w))))
                }
                Kind::String(s) => c.truth(s.contains(&*text_functions::plain(wanted))),
                _ => Err(c.unexpected(0, "a string, an array or an object")),
            }
        }
        "first" | "last" | "take" | "skip" => text_functions::part(c, lower),
        "items" => items(c),
        "tryget" if n >= 2 => {
            let found = match integer(c.node(1)?) {
                Some(at) if matches!(c.arguments[0].kind, Kind::Array(_)) => {
                    usize::try_from(at).ok().and_then(|i| c.arguments[0].elements().get(i))
                }
                _ => c.arguments[0].get(c.text(1)?),
            };
            Ok(found.cloned().unwrap_or_else(|| c.make(Kind::Null)))
        }
        "concat" if matches!(c.arguments.first().map(|a| &a.kind), Some(Kind::Array(_))) => {
            if let Some(at) = c.arguments.iter().position(|a| !matches!(a.kind, Kind::Array(_))) {
                return Err(c.unexpected(at, "an array, like argument 1,"));
            }
            Ok(c.make(Kind::Array(c.arguments.iter().flat_map(|a| a.elements().iter().cloned()).collect())))
        }
        _ => text_functions::call(c, lower),
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A whole number, or a text of one.
pub(super) fn integer(node: &Node) -> Option<i64> {
    match &node.kind {
        Kind::Number(n) => n.as_i64(),
        Kind::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

/// A boolean, or what Azure takes for one.
pub(super) fn boolean(node: &Node) -> Option<bool> {
    match &node.kind {
        Kind::Bool(b) => Some(*b),
        Kind::String(s) if s.eq_ignore_ascii_case("true") => Some(true),
        Kind::String(s) if s.eq_ignore_ascii_case("false") => Some(false),
        Kind::Number(n) => n.as_i64().map(|n| n != 0),
        _ => None,
    }
}

/// `equals`: texts without case (PROTOCOL 5), everything else by value.
pub(super) fn equal(a: &Node, b: &Node) -> bool {
    match (&a.kind, &b.kind) {
        (Kind::String(a), Kind::String(b)) => a.to_lowercase() == b.to_lowercase(),
        _ => a.to_json() == b.to_json(),
    }
}

fn compare(c: &Call<'_, '_>, holds: fn(std::cmp::Ordering) -> bool) -> Outcome {
    let (a, b) = (c.node(0)?, c.node(1)?);
    match (&a.kind, &b.kind) {
        (Kind::String(a), Kind::String(b)) => c.truth(holds(a.cmp(b))),
        _ => {
            let (a, b) = (c.int(0)?, c.int(1)?);
            c.truth(holds(a.cmp(&b)))
        }
    }
}

fn arithmetic(c: &Call<'_, '_>, with: fn(i64, i64) -> Option<i64>) -> Outcome {
    let (a, b) = (c.int(0)?, c.int(1)?);
    with(a, b).map_or_else(|| Err(c.fail(format_args!("has no result for {a} and {b}"))), |n| c.number(n))
}

fn copy_index(c: &Call<'_, '_>) -> Outcome {
    let (name, offset) = match c.arguments {
        [] => (None, 0),
        [one] if integer(one).is_some() && one.as_str().is_none() => (None, c.int(0)?),
        [_] => (Some(c.text(0)?), 0),
        _ => (Some(c.text(0)?), c.int(1)?),
    };
    match c.evaluator.copy_index(name) {
        Some(index) => c.number(index.saturating_add(offset)),
        None => Err(c.fail("is used outside of a copy loop")),
    }
}

/// `reference(name or id[, apiVersion[, 'Full']])`.
fn reference(c: &Call<'_, '_>) -> Outcome {
    if !c.evaluator.may_reference.get() {
        return Err(c.fail("is not expected at this location"));
    }
    let wanted = c.text(0)?;
    let full = c.arguments.get(2).and_then(Node::as_str).is_some_and(|f| f.eq_ignore_ascii_case("Full"));
    let id = if wanted.starts_with('/') {
        wanted.to_owned()
    } else {
        let own = c.evaluator.own.borrow().get(&wanted.to_lowercase()).cloned();
        own.ok_or_else(|| {
            c.fail(format_args!("names `{wanted}`, which is no resource of this template and no full id"))
        })?
    };
    let found = c.evaluator.around.reference(&id, full).map_err(|why| c.fail(why))?;
    Ok(Node { span: c.span, ..found })
}

/// `Type/Segments` and as many names, from argument `at`: `N/a/name1/b/name2`.
fn typed_name(c: &Call<'_, '_>, at: usize) -> Result<String, Failure> {
    let kind = c.text(at)?;
    let mut segments = kind.split('/').filter(|s| !s.is_empty());
    let mut out = segments.next().unwrap_or_default().to_owned();
    let kinds: Vec<&str> = segments.collect();
    let mut names = Vec::new();
    for i in at + 1..c.arguments.len() {
        // One argument may hold several names.
        names.extend(c.text(i)?.split('/').filter(|s| !s.is_empty()));
    }
    if kinds.is_empty() || kinds.len() != names.len() {
        return Err(c.fail(format_args!("got {} names for the type `{kind}`, which has {}", names.len(), kinds.len())));
    }
    for (kind, name) in kinds.iter().zip(names) {
        out.push_str(&format!("/{kind}/{name}"));
    }
    Ok(out)
}

/// `resourceId([subscription], [group], type, names...)`, or the same without the group.
fn resource_id(c: &Call<'_, '_>, in_group: bool) -> Outcome {
    let most = if in_group { 2 } else { 1 };
    let at = c
        .arguments
        .iter()
        .take(most + 1)
        .position(|a| a.as_str().is_some_and(|t| t.contains('/')))
        .ok_or_else(|| c.fail("expects a resource type such as `Microsoft.Network/virtualNetworks`"))?;
    let own = |node: Node, member: &str| node.get(member).and_then(Node::as_str).map(str::to_owned).unwrap_or_default();
    let around = c.evaluator.around;
    let (subscription, group) = match (at, in_group) {
        (0, _) => (None, None),
        (1, true) => (None, Some(c.text(0)?.to_owned())),
        (1, false) => (Some(c.text(0)?.to_owned()), None),
        _ => (Some(c.text(0)?.to_owned()), Some(c.text(1)?.to_owned())),
    };
    let subscription = subscription.unwrap_or_else(|| own(around.subscription(), "subscriptionId"));
    let mut id = format!("/subscriptions/{subscription}");
    if in_group {
        let group = match (group, around.resource_group()) {
            (Some(group), _) => Some(group),
            (None, Some(here)) => Some(own(here, "name")),
            (None, None) => None,
        };
        if let Some(group) = group {
            id.push_str(&format!("/resourceGroups/{group}"));
        }
    }
    c.string(format!("{id}/providers/{}", typed_name(c, at)?))
}

fn create_object(c: &Call<'_, '_>) -> Outcome {
    if !c.arguments.len().is_multiple_of(2) {
        return Err(c.fail("expects pairs of a name and a value"));
    }
    let mut members = Vec::new();
    for at in (0..c.arguments.len()).step_by(2) {
        members.push(Member { name: c.text(at)?.to_owned(), name_span: c.span, value: c.node(at + 1)?.clone() });
    }
    Ok(c.make(Kind::Object(members)))
}

/// Arrays: all different elements. Objects: all members, later ones win, deeply.
fn union(c: &Call<'_, '_>) -> Outcome {
    if matches!(c.node(0)?.kind, Kind::Array(_)) {
        let all: usize = c.arguments.iter().map(|a| a.elements().len()).sum();
        c.compares(all.saturating_mul(all))?;
        let mut out: Vec<Node> = Vec::new();
        for element in c.arguments.iter().flat_map(|a| a.elements()) {
            if !out.iter().any(|o| o.to_json() == element.to_json()) {
                out.push(element.clone());
            }
        }
        return Ok(c.make(Kind::Array(out)));
    }
    let mut out = c.make(Kind::Object(Vec::new()));
    for (at, argument) in c.arguments.iter().enumerate() {
        if !matches!(argument.kind, Kind::Object(_)) {
            return Err(c.unexpected(at, "an object"));
        }
        merge(c, &mut out, argument)?;
    }
    Ok(out)
}

fn merge(c: &Call<'_, '_>, into: &mut Node, from: &Node) -> Result<(), Failure> {
    let Kind::Object(members) = &mut into.kind else {
        *into = from.clone();
        return Ok(());
    };
    c.compares(members.len().saturating_mul(from.members().len()))?;
    for member in from.members() {
        match members.iter_mut().find(|m| m.name.eq_ignore_ascii_case(&member.name)) {
            Some(old) if matches!((&old.value.kind, &member.value.kind), (Kind::Object(_), Kind::Object(_))) => {
                merge(c, &mut old.value, &member.value)?;
            }
            Some(old) => old.value = member.value.clone(),
            None => members.push(member.clone()),
        }
    }
    Ok(())
}

fn items(c: &Call<'_, '_>) -> Outcome {
    let mut pairs: Vec<&Member> = c.node(0)?.members().iter().collect();
    pairs.sort_by(|a, b| a.name.cmp(&b.name));
    let elements = pairs
        .into_iter()
        .map(|m| {
            let member = |name: &str, value| Member { name: name.to_owned(), name_span: c.span, value };
            c.make(Kind::Object(vec![member("key", Node::text(&m.name, c.span)), member("value", m.value.clone())]))
        })
        .collect();
    Ok(c.make(Kind::Array(elements)))
}
