//! Expressions and plans, as `(expression, value)` tables.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Budget, Evaluator, Inputs, Surroundings, plan};
use crate::id::ResourceId;
use crate::syntax::{Node, Span, parse};

struct World;

impl Surroundings for World {
    fn subscription(&self) -> Node {
        node(&json!({"subscriptionId": "S", "id": "/subscriptions/S"}))
    }
    fn resource_group(&self) -> Option<Node> {
        Some(node(&json!({"name": "G", "location": "westus2", "id": "/subscriptions/S/resourceGroups/G"})))
    }
    fn deployment(&self) -> Node {
        node(&json!({"name": "D"}))
    }
    fn tenant(&self) -> Node {
        node(&json!({"tenantId": "T"}))
    }
    fn reference(&self, id: &str, full: bool) -> Result<Node, String> {
        match (id, full) {
            ("/unknown", _) => {
                Ok(Node::new(crate::syntax::Kind::Unknown("nobody deployed it".to_owned()), Span::default()))
            }
            (_, true) => Ok(node(&json!({"id": id, "properties": {"p": 1}}))),
            (_, false) => Ok(node(&json!({"p": 1}))),
        }
    }
    fn utc_now(&self) -> String {
        "20261123T100203Z".to_owned()
    }
    fn new_guid(&self, number: usize) -> String {
        format!("guid-{number}")
    }
}

fn node(value: &Value) -> Node {
    Node::from_json(value, Span::default())
}

/// The value of one expression in a template with a few parameters and variables, or why none.
fn evaluate(expression: &str) -> Result<Value, String> {
    let template = node(&json!({
        "parameters": {
            "name": {"type": "string", "defaultValue": "Moat"},
            "flag": {"type": "bool"},
            "given": {"type": "int", "minValue": 1, "maxValue": 5},
            "missing": {"type": "string"},
            "unset": {"type": "string", "defaultValue": "by default"},
            "none": {"type": "string", "defaultValue": "by default", "nullable": true},
            "list": {"type": "array", "defaultValue": ["a", "b", "c"]},
            "either": {"type": "string", "defaultValue": "c", "allowedValues": ["a", "b"]},
        },
        "variables": {
            "greeting": "[concat('hello ', parameters('name'))]",
            "object": {"a": {"b": ["x", "y"]}, "C": null},
            "self": "[variables('other')]",
            "other": "[variables('self')]",
            "copy": [{"name": "squares", "count": 3, "input": "[mul(copyIndex('squares'), copyIndex('squares'))]"}],
        },
    }));
    let parameters = node(
        &json!({"flag": {"value": "True"}, "given": {"value": 3}, "unset": {"value": null}, "none": {"value": null}}),
    );
    let budget = Budget::default();
    let evaluator = Evaluator::new(Inputs { template: &template, parameters: &parameters }, &World, &budget);
    evaluator.allow_references();
    let value = evaluator.value(&Node::text(expression, Span::default())).map_err(|f| f.message)?;
    match value.unknown() {
        Some(why) => Err(format!("unknown: {why}")),
        None => Ok(value.to_json()),
    }
}

#[track_caller]
fn check(expression: &str, expected: Value) {
    assert_eq!(evaluate(&format!("[{expression}]")), Ok(expected), "{expression}");
}

#[track_caller]
fn fails(expression: &str, expected: &str) {
    assert_eq!(evaluate(&format!("[{expression}]")), Err(expected.to_owned()), "{expression}");
}

#[test]
fn values_come_from_parameters_and_variables() {
    check("parameters('NAME')", json!("Moat"));
    check("variables('greeting')", json!("hello Moat"));
    // As azure-ai-ml sends what it does not set.
    check("parameters('unset')", json!("by default"));
    check("parameters('none')", Value::Null);
    check("variables('object').a.b[1]", json!("y"));
    check("variables('object')['A'].b", json!(["x", "y"]));
    check("variables('squares')", json!([0, 1, 4]));
    check("parameters('list')[sub(parameters('given'), 2)]", json!("b"));
    fails("parameters('nope')", "the template has no parameter `nope`");
    fails("parameters('missing')", "the value for the template parameter `missing` is not provided");
    fails(
        "parameters('either')",
        r#"the provided value "c" for the template parameter `either` is not one of the allowed: ["a","b"]"#,
    );
    fails("variables('self')", "the variable `self` needs its own value");
    fails("variables('object').z", "the property `z` does not exist; it has: a, C");
    fails("parameters('list')[7]", "the index 7 is outside of the array's 3 elements");
}

#[test]
fn texts() {
    check("concat('a', 1, true())", json!("a1True"));
    check("format('{0}-{1}-{{x}}', 'a', 2)", json!("a-2-{x}"));
    check("format('{0:D3}{0:000}', 7)", json!("007007"));
    check("toLower('ÄB')", json!("äb"));
    check("toUpper('a')", json!("A"));
    check("trim(' a ')", json!("a"));
    check("replace('a-b', '-', '')", json!("ab"));
    check("split('a,b;c', createArray(',', ';'))", json!(["a", "b", "c"]));
    check("join(createArray('a', 'b'), '-')", json!("a-b"));
    check("substring('hello', 1, 3)", json!("ell"));
    check("indexOf('Hello', 'L')", json!(2));
    check("startsWith('Hello', 'he')", json!(true));
    check("padLeft('7', 3, '0')", json!("007"));
    check("string(createObject('a', 1))", json!(r#"{"a":1}"#));
    check("json('{\"a\": [1]}').a[0]", json!(1));
    check("uri('https://a/b/', '/c')", json!("https://a/b/c"));
    check("utcNow()", json!("20261123T100203Z"));
    check("utcNow('yyyy-MM-dd HH:mm:ss')", json!("2026-11-23 10:02:03"));
    check("concat(newGuid(), newGuid())", json!("guid-0guid-1"));
    check("guid('a', 'b')", json!("2d796349-8c7e-55ec-9624-54ece82ed031"));
    check("length(uniqueString('a'))", json!(13));
    check("equals(uniqueString('a'), uniqueString('b'))", json!(false));
    fails(
        "substring('a', 0, 9)",
        "the template function `substring` asks for a part outside of the 1 characters of its text",
    );
    fails("json('{')", "the template function `json` cannot read `{` as JSON");
    fails("format('{3}', 1)", "the template function `format` has no argument for the place `{3}`");
}

#[test]
fn logic_is_lazy_where_it_must_be() {
    check("if(true(), 1, parameters('missing'))", json!(1));
    check("if(parameters('flag'), 'y', 'n')", json!("y"));
    check("and(false(), variables('self'))", json!(false));
    check("or(true(), variables('self'))", json!(true));
    check("coalesce(null(), 'x', variables('self'))", json!("x"));
    check("equals('A', 'a')", json!(true));
    check("equals(1, 2)", json!(false));
    check("not(empty(parameters('list')))", json!(true));
    check("empty(null())", json!(true));
    check("greaterOrEquals(2, 2)", json!(true));
    check("less('a', 'b')", json!(true));
    fails("if(3, 1)", "the template function `if` needs three arguments");
    fails("not('x')", "the template function `not` expects a boolean as argument 1, it got string");
}

#[test]
fn lists_and_objects() {
    check("union(createArray('a'), createArray('a', 'b'))", json!(["a", "b"]));
    check(
        "union(createObject('a', createObject('x', 1)), createObject('a', createObject('y', 2)))",
        json!({"a": {"x": 1, "y": 2}}),
    );
    check("intersection(createArray('a', 'b'), createArray('b'))", json!(["b"]));
    check("concat(createArray(1), createArray(2))", json!([1, 2]));
    check("contains(parameters('list'), 'b')", json!(true));
    check("contains(variables('object'), 'c')", json!(true));
    check("contains('abc', 'b')", json!(true));
    check("first(parameters('list'))", json!("a"));
    check("last('abc')", json!("c"));
    check("take(parameters('list'), 2)", json!(["a", "b"]));
    check("skip('abc', 1)", json!("bc"));
    check("range(3, 2)", json!([3, 4]));
    check("max(createArray(1, 5, 2))", json!(5));
    check("div(7, 2)", json!(3));
    check("items(createObject('b', 1, 'a', 2))", json!([{"key": "a", "value": 2}, {"key": "b", "value": 1}]));
    check("array('a')", json!(["a"]));
    fails("div(1, 0)", "the template function `div` has no result for 1 and 0");
    fails("range(0, 99999)", "the template function `range` makes at most 10000 elements");
    fails("copyIndex()", "the template function `copyIndex` is used outside of a copy loop");
}

#[test]
fn ids_and_references() {
    check("resourceId('N.A/b', 'x')", json!("/subscriptions/S/resourceGroups/G/providers/N.A/b/x"));
    check("resourceId('N.A/b/c', 'x', 'y')", json!("/subscriptions/S/resourceGroups/G/providers/N.A/b/x/c/y"));
    check("resourceId('H', 'N.A/b', 'x')", json!("/subscriptions/S/resourceGroups/H/providers/N.A/b/x"));
    check("resourceId('S2', 'H', 'N.A/b', 'x')", json!("/subscriptions/S2/resourceGroups/H/providers/N.A/b/x"));
    check("subscriptionResourceId('N.A/b', 'x')", json!("/subscriptions/S/providers/N.A/b/x"));
    check("extensionResourceId('/x', 'N.A/b', 'y')", json!("/x/providers/N.A/b/y"));
    check("reference('/any').p", json!(1));
    check("reference('/any', '2020-01-01', 'Full').id", json!("/any"));
    fails(
        "resourceId('N.A/b', 'x', 'y')",
        "the template function `resourceId` got 2 names for the type `N.A/b`, which has 1",
    );
    fails(
        "reference('wat')",
        "the template function `reference` names `wat`, which is no resource of this template and no full id",
    );
    fails("concat('a', reference('/unknown').p)", "unknown: nobody deployed it");
    fails("listKeys('/x', '2020')", "the template function `listKeys` is not known");
}

/// The names of a template's resources in order, or why there is no order.
fn names(template: &str) -> Result<Vec<String>, String> {
    let (template, problems) = parse(template);
    assert_eq!(problems, []);
    let parameters = node(&json!({}));
    let budget = Budget::default();
    let evaluator = Evaluator::new(Inputs { template: &template, parameters: &parameters }, &World, &budget);
    let scope = ResourceId::resource_group_scope("S", "G");
    plan(&evaluator, &scope)
        .map(|p| p.resources.iter().map(|r| r.id.names().join("/")).collect())
        .map_err(|f| f.message)
}

#[test]
fn what_others_need_comes_first() {
    let by = |depends: &str, body: &str| {
        names(&format!(
            "{{resources: [{{type: 'N.A/b', name: 'first', dependsOn: [{depends}], properties: {{x: \"{body}\"}}}}, {{type: 'N.A/b', name: 'second'}}]}}"
        ))
    };
    let swapped = Ok(vec!["second".to_owned(), "first".to_owned()]);
    assert_eq!(by("", ""), Ok(vec!["first".to_owned(), "second".to_owned()]));
    assert_eq!(by("'second'", ""), swapped);
    assert_eq!(by("'n.a/B/Second'", ""), swapped);
    assert_eq!(by("\"[resourceId('N.A/b', 'second')]\"", ""), swapped);
    assert_eq!(by("", "[reference('second').y]"), swapped);
    assert_eq!(by("", "[concat('a', reference(resourceId('N.A/b', 'second')).y)]"), swapped);
    assert_eq!(by("'third'", ""), Err("the resource `third` is not defined in the template".to_owned()));
}

#[test]
fn children_loops_and_conditions() {
    assert_eq!(
        names(
            "{resources: [{type: 'N.A/b', name: 'p', resources: [{type: 'c', name: 'k'}, {type: 'N.A/b/c', name: 'p/l'}]}]}"
        ),
        Ok(vec!["p".to_owned(), "p/k".to_owned(), "p/l".to_owned()])
    );
    assert_eq!(
        names("{resources: [{type: 'N.A/b', name: \"[concat('r', copyIndex(1))]\", copy: {name: 'l', count: 2}}]}"),
        Ok(vec!["r1".to_owned(), "r2".to_owned()])
    );
    // A condition takes the resource away, not the name others depend on.
    assert_eq!(
        names(
            "{resources: [{type: 'N.A/b', name: 'a', condition: false}, {type: 'N.A/b', name: 'z', dependsOn: ['a']}]}"
        ),
        Ok(vec!["z".to_owned()])
    );
    // Of what is left out neither names nor dependencies have to make sense.
    assert_eq!(
        names(
            "{resources: [{type: 'N.A/b/c', name: 'a/', condition: false, dependsOn: [\"[resourceId('N.A/b/c', 'a', '')]\"]}, {type: 'N.A/b', name: 'z'}]}"
        ),
        Ok(vec!["z".to_owned()])
    );
    assert_eq!(
        names(
            "{resources: {sym: {type: 'N.A/b', name: 'a', dependsOn: ['other']}, other: {type: 'N.A/b', name: 'z'}}}"
        ),
        Ok(vec!["z".to_owned(), "a".to_owned()])
    );
    assert_eq!(
        names("{resources: [{type: 'N.A/b/c', name: 'a'}]}").map_err(|e| e.contains("incorrect segment lengths")),
        Err(true)
    );
    assert_eq!(names("{resources: [{name: 'a'}]}"), Err("a resource of the template has no `type`".to_owned()));
    assert_eq!(
        names("{resources: [{type: 'N.A/b', name: 'a', copy: {name: 'l', count: 900}}]}"),
        Err("the `count` of a loop is 900; 0 to 800 are allowed".to_owned())
    );
}

proptest! {
    #[test]
    fn any_expression_is_survived(name in prop::sample::select(vec![
        "concat", "format", "substring", "split", "join", "union", "if", "and", "resourceId", "reference", "take", "max", "padLeft",
        "createObject", "contains", "first", "json", "range", "copyIndex", "utcNow", "int", "bool", "items", "tryGet", "lastIndexOf",
        "intersection", "min", "mod", "div", "not", "equals", "length", "empty", "extensionResourceId", "uri", "string", "less",
    ]), arguments in prop::collection::vec(prop::sample::select(vec![
        "'a'", "''", "-1", "9223372036854775807", "true()", "null()", "createArray()", "createArray('x', 2)", "createObject('k', 'v')",
        "'N.A/b'", "'{0}'", "'{9999999999999999999999}'", "'é'", "parameters('list')",
    ]), 0..5)) {
        let _ = evaluate(&format!("[{name}({})]", arguments.join(", ")));
    }
}

/// What comes of `o` in a template with these variables.
fn of_variables(variables: &Value, expression: &str) -> Result<Value, String> {
    let template = node(&json!({ "variables": variables, "resources": [] }));
    let parameters = node(&json!({}));
    let budget = Budget::default();
    let evaluator = Evaluator::new(Inputs { template: &template, parameters: &parameters }, &World, &budget);
    evaluator.value(&node(&json!(expression))).map(|v| v.to_json()).map_err(|f| f.message)
}

#[test]
fn a_short_template_cannot_make_a_large_value() {
    let mut doubled = json!({"v0": "0123456789abcdef", "million": "[replace(variables('v16'), '0123456789abcdef', 'x')]",
        "many": {"copy": [{"name": "list", "count": 800, "input": "[variables('v12')]"}]}});
    for i in 1..40 {
        doubled[format!("v{i}")] = json!(format!("[concat(variables('v{0}'), variables('v{0}'))]", i - 1));
    }
    let check = |expression: &str, expected: &str| {
        let got = of_variables(&doubled, expression).map(|v| v.to_string().len());
        assert!(got.as_ref().is_err_and(|e| e.contains(expected)), "{expression}: {got:?}");
    };
    assert_eq!(of_variables(&doubled, "[length(variables('v10'))]"), Ok(json!(16 << 10)), "small ones are made");
    check("[variables('v39')]", "larger than");
    check("[replace(variables('v16'), '0', variables('v16'))]", "larger than");
    check("[join(split(variables('v12'), '0'), variables('v12'))]", "larger than");
    check("[split(variables('v17'), '0')]", "larger than");
    check("[variables('many')]", "more than a deployment may make");
    let places = format!("[format('{}', variables('v15'))]", "{0}".repeat(200));
    check(&places, "more than a deployment may make");
    check("[intersection(range(0, 10000), range(0, 10000))]", "more than a deployment may make");
    check("[union(range(0, 10000), range(5, 10000))]", "more than a deployment may make");
}

#[test]
fn a_loop_cannot_repeat_a_large_resource() {
    let large = "x".repeat(1 << 20);
    let plan_of = |count: u32| {
        let template = node(
            &json!({"resources": [{"type": "Microsoft.Network/networkSecurityGroups", "name": "[concat('n', copyIndex())]",
            "apiVersion": "1", "copy": {"name": "c", "count": count}, "properties": {"junk": large}}]}),
        );
        let parameters = node(&json!({}));
        let budget = Budget::default();
        let evaluator = Evaluator::new(Inputs { template: &template, parameters: &parameters }, &World, &budget);
        let group = ResourceId::parse("/subscriptions/S/resourceGroups/G").unwrap();
        plan(&evaluator, &group).map(|p| p.resources.len()).map_err(|f| f.message)
    };
    assert_eq!(plan_of(10), Ok(10));
    assert!(plan_of(800).is_err_and(|e| e.contains("more than a deployment may make")));
}
