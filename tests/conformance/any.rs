//! Whatever a client may send, and more: nothing of it stops a node, and what is said of patches and of server-side apply
//! holds for all of it. Objects are samples of every kind, in which fields are set at random, by their schemas and
//! against them.
//!
//! `make fuzz` runs the tests named `any_…`, here and beside what reads bytes, with many more cases than `make test`.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use skein_conformance_tests::samples;
use skein_object::field::Errors;
use skein_object::managed::{self, Writer};
use skein_object::schema::{Shape, definitions};
use skein_object::selector::{FieldSelector, Selector};
use skein_object::{Resource, expression, meta, patch, registry, table};

/// What a draw of numbers decides.
type Draws = std::iter::Cycle<std::vec::IntoIter<u16>>;

/// A resource that failures can name.
#[derive(Clone, Copy)]
struct Of(&'static Resource);

impl std::fmt::Debug for Of {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.kind)
    }
}

const TEXTS: &[&str] = &[
    "",
    "a",
    "web",
    "Bad Value!",
    "10.0.0.1",
    "::1",
    "80",
    "1Gi",
    "500m",
    "-1",
    "1e3",
    "2026-01-01T00:00:00Z",
    "a.b/c",
    "0 * * * *",
    "self.a > 1",
    "Always",
    "None",
    "TCP",
    "../..",
    "\u{0}",
    "ä",
    "*",
    "{}",
];

const NUMBERS: &[i64] = &[0, 1, 2, 80, -1, 65_536, i64::MAX, i64::MIN, 1 << 31];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![proptest::sample::select(TEXTS).prop_map(String::from), "\\PC{0,12}"]
}

/// Any JSON.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        proptest::sample::select(NUMBERS).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let entries = vec((text(), inner.clone()), 0..4).prop_map(|entries| Value::Object(entries.into_iter().collect()));
        prop_oneof![vec(inner, 0..4).prop_map(Value::from), entries]
    })
}

fn draws() -> impl Strategy<Value = Draws> {
    vec(any::<u16>(), 1..200).prop_map(|draws| draws.into_iter().cycle())
}

fn pick<'a, T>(draws: &mut Draws, from: &'a [T]) -> Option<&'a T> {
    let drawn = usize::from(draws.next().unwrap_or_default());
    (!from.is_empty()).then(|| &from[drawn % from.len()])
}

/// A value as its schema would have it, more or less.
fn value_of(shape: Shape<'_>, draws: &mut Draws, depth: usize) -> Value {
    match shape.kind() {
        "boolean" => draws.next().is_some_and(|drawn| drawn % 2 == 0).into(),
        "integer" | "number" => pick(draws, NUMBERS).copied().into(),
        "array" if depth > 0 => {
            let count = draws.next().unwrap_or_default() % 3;
            (0..count).filter_map(|_| Some(value_of(shape.item()?, draws, depth - 1))).collect()
        }
        "array" => json!([]),
        "object" => {
            let mut object = Map::new();
            for (name, _) in shape.fields().filter(|_| depth > 0) {
                if draws.next().is_some_and(|drawn| drawn % 3 == 0)
                    && let Some(value) = field_of(shape, name, draws, depth - 1)
                {
                    object.insert(name.into(), value);
                }
            }
            Value::Object(object)
        }
        _ => pick(draws, TEXTS).copied().into(),
    }
}

/// A value of a field: where its definition says which there are, one of these.
fn field_of(shape: Shape<'_>, name: &str, draws: &mut Draws, depth: usize) -> Option<Value> {
    let said = || definitions().get(shape.reference()?)?.get("properties")?.get(name)?.get("enum")?.as_array();
    let one = said().and_then(|said| pick(draws, said)).cloned();
    one.or_else(|| Some(value_of(shape.field(name)?, draws, depth)))
}

/// Sets something somewhere: on the way down a draw says where, and whether deeper.
fn disturb(value: &mut Value, shape: Option<Shape<'_>>, draws: &mut Draws, new: Option<&Value>) {
    let stays = draws.next().is_none_or(|drawn| drawn % 4 == 0);
    match value {
        Value::Object(map) => {
            let declared = shape.into_iter().flat_map(Shape::fields).map(|(name, _)| name.to_owned());
            let known: Vec<String> = map.keys().cloned().chain(declared).collect();
            let Some(name) = pick(draws, &known) else { return };
            let below = shape.and_then(|shape| shape.field(name));
            match map.get_mut(name) {
                Some(child) if !stays && (child.is_object() || child.is_array()) => disturb(child, below, draws, new),
                _ => {
                    let made = new.cloned().or_else(|| field_of(shape?, name, draws, 4));
                    drop(map.insert(name.clone(), made.unwrap_or_default()));
                }
            }
        }
        Value::Array(list) if !list.is_empty() && !stays => {
            let at = usize::from(draws.next().unwrap_or_default()) % list.len();
            disturb(&mut list[at], shape.and_then(Shape::item), draws, new);
        }
        Value::Array(list) => {
            let made = new.cloned().or_else(|| shape.and_then(Shape::item).map(|item| value_of(item, draws, 3)));
            list.push(made.unwrap_or_default());
        }
        other => *other = new.cloned().unwrap_or_default(),
    }
}

/// A sample of some kind.
fn sample() -> impl Strategy<Value = (Of, Value)> {
    let of = |object: Value| Some((Of(registry::by_kind(object["apiVersion"].as_str()?, object["kind"].as_str()?)?), object));
    let known: Vec<(Of, Value)> = samples().into_iter().filter_map(of).collect();
    assert!(known.len() > 50, "samples of every kind");
    proptest::sample::select(known)
}

/// A sample in which up to four things were set.
fn object() -> impl Strategy<Value = (Of, Value)> {
    let changes = vec((draws(), proptest::option::weighted(0.3, any_json())), 0..4);
    (sample(), changes).prop_map(|((of, mut object), changes)| {
        for (mut draws, new) in changes {
            disturb(&mut object, of.0.shape(), &mut draws, new.as_ref());
        }
        (of, object)
    })
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, api_version: "v1", subresource: "", now: "2026-01-01T00:00:00Z", status_apart: true }
}

/// A Pod with one container that has these labels and variables.
fn pod(labels: &std::collections::BTreeMap<String, String>, variables: &std::collections::BTreeMap<String, String>) -> Value {
    let variables: Vec<Value> = variables.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels},
        "spec": {"containers": [{"name": "c", "env": variables}]}})
}

fn texts() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    btree_map("[a-e]", "[x-z]", 0..5)
}

fn shape_of_pods() -> Option<Shape<'static>> {
    registry::find("", "v1", "pods").and_then(|pods| pods.shape())
}

/// What differs between two values, as a merge patch (RFC 7386).
fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let gone = from.keys().filter(|name| !to.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let changed = to.iter().filter(|(name, value)| from.get(*name) != Some(value));
    gone.chain(changed.map(|(name, value)| (name.clone(), difference(from.get(name).unwrap_or(&Value::Null), value)))).collect()
}

/// JSON without null, which a merge patch cannot set.
fn without_null(value: Value) -> Value {
    match value {
        Value::Null => json!(false),
        Value::Object(map) => map.into_iter().map(|(name, value)| (name, without_null(value))).collect(),
        Value::Array(list) => list.into_iter().map(without_null).collect(),
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_object_is_judged((Of(resource), object) in object(), (_, other) in object()) {
        let mut object = object;
        if !object.is_object() || !resource.conform(&mut object).mismatched.is_empty() {
            return Ok(());
        }
        resource.fill_defaults(&mut object);
        let mut errors = Errors::default();
        meta::validate(&object, resource, &mut errors);
        resource.check(&object, None, &mut errors);
        let mut of_update = Errors::default();
        resource.check(&object, Some(&other), &mut of_update);
        meta::validate_update(&object, &other, &mut of_update);
        let record = resource.record(&object);
        let shown = resource.show(&record, 7);
        let _ = table::row(&resource.columns(), shown.clone(), table::Include::Metadata, jiff::Timestamp::UNIX_EPOCH);
        managed::update(Some(&other), &mut object.clone(), resource.shape(), &writer("a"));
        managed::update(None, &mut object.clone(), resource.shape(), &writer("a"));
        if !errors.is_empty() {
            return Ok(());
        }
        // What is stored after it was pruned and filled in is not pruned and filled in again.
        let mut again = object.clone();
        let findings = resource.conform(&mut again);
        prop_assert!(findings.unknown.is_empty(), "{:?}", findings);
        resource.fill_defaults(&mut again);
        prop_assert_eq!(again, object);
    }

    #[test]
    fn any_patch_is_applied_or_refused((Of(resource), object) in object(), patch in any_json(), (_, other) in object()) {
        for kind in [patch::Kind::Json, patch::Kind::Merge, patch::Kind::Strategic] {
            for patch in [&patch, &other] {
                if let Ok(patched) = patch::apply(kind, &object, patch, resource.shape()) {
                    prop_assert!(patched.is_object() || !object.is_object(), "{}", patched);
                }
            }
        }
    }

    #[test]
    fn any_operations_are_applied_or_refused(
        (Of(resource), object) in sample(),
        operations in vec((0..6_usize, "(/(metadata|spec|labels|name|0|-|-1|a~1b|~|)){0,4}", any_json()), 0..4),
    ) {
        const NAMES: [&str; 6] = ["add", "remove", "replace", "move", "copy", "test"];
        let operation = |(name, path, value): &(usize, String, Value)| json!({"op": NAMES[*name], "path": path, "from": "/metadata", "value": value});
        let patch: Value = operations.iter().map(operation).collect();
        let _ = patch::apply(patch::Kind::Json, &object, &patch, resource.shape());
    }

    #[test]
    fn any_configuration_is_applied_or_refused((Of(resource), live) in object(), (_, config) in object()) {
        let _ = managed::undeclared(&config, resource.shape().unwrap_or_else(|| shape_of_pods().expect("Pods have one")), false);
        let _ = managed::apply(Some(&live), &config, resource.shape(), &writer("a"), true);
    }

    #[test]
    fn any_selector_is_read_or_refused(text in "[a-c=!<>(), ./_\\-\\PC]{0,24}") {
        if let Ok(selector) = Selector::parse(&text) {
            let _ = selector.matches(&[("a".to_string(), "b".to_string())].into());
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            let _ = selector.matches(&json!({"a": "b"}));
        }
    }

    #[test]
    fn any_expression_is_evaluated_or_refused(words in vec(proptest::sample::select(WORDS), 0..24), any in "\\PC{0,24}") {
        for source in [words.concat(), any] {
            if let Ok(program) = expression::compile(&source) {
                let object = json!({"a": [1, 2], "b": {"c": "x"}});
                let _ = expression::evaluate(&program, &[("self", expression::to_cel(&Value::Null, &object))]);
            }
        }
    }

    #[test]
    fn applying_twice_changes_nothing((Of(resource), config) in sample()) {
        let once = managed::apply(None, &config, resource.shape(), &writer("a"), false).expect("nobody else is there");
        // Who owns nothing is forgotten, there as here.
        prop_assume!(once["metadata"]["managedFields"].is_array());
        let twice = managed::apply(Some(&once), &config, resource.shape(), &writer("a"), false).expect("nobody else is there");
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn another_applier_conflicts_on_exactly_what_differs(labels in texts(), env in texts(), others in texts(), other_env in texts()) {
        let live = managed::apply(None, &pod(&labels, &env), shape_of_pods(), &writer("a"), false).expect("nobody else is there");
        let differs = |one: &std::collections::BTreeMap<String, String>, two: &std::collections::BTreeMap<String, String>| -> Vec<String> {
            two.iter().filter(|(name, value)| one.get(*name).is_some_and(|own| own != *value)).map(|(name, _)| name.clone()).collect()
        };
        let in_labels = differs(&labels, &others).into_iter().map(|name| format!(".metadata.labels.{name}"));
        let in_env = differs(&env, &other_env).into_iter().map(|name| format!(".spec.containers[name=\"c\"].env[name=\"{name}\"].value"));
        let expected: Vec<String> = in_labels.chain(in_env).collect();
        let applied = managed::apply(Some(&live), &pod(&others, &other_env), shape_of_pods(), &writer("b"), false);
        let found: Vec<String> = applied.err().into_iter().flatten().map(|conflict| conflict.path).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_merge_of_the_difference_restores_the_target(from in any_json(), to in any_json()) {
        let (from, to) = (without_null(from), without_null(to));
        if let (Value::Object(_), Value::Object(_)) = (&from, &to) {
            let patched = patch::apply(patch::Kind::Merge, &from, &difference(&from, &to), None).expect("objects");
            prop_assert_eq!(patched, to);
        }
    }

    #[test]
    fn a_strategic_merge_of_the_difference_restores_the_target(labels in texts(), env in texts(), others in texts(), other_env in texts()) {
        let (from, to) = (pod(&labels, &env), pod(&others, &other_env));
        let changed = other_env.iter().filter(|(name, value)| env.get(*name) != Some(value));
        let changed = changed.map(|(name, value)| json!({"name": name, "value": value}));
        let gone = env.keys().filter(|name| !other_env.contains_key(*name)).map(|name| json!({"name": name, "$patch": "delete"}));
        let order: Vec<Value> = other_env.keys().map(|name| json!({"name": name})).collect();
        let list: Vec<Value> = changed.chain(gone).collect();
        let patch = json!({
            "metadata": {"labels": difference(&json!(labels), &json!(others))},
            "spec": {"containers": [{"name": "c", "$setElementOrder/env": order, "env": list}]},
        });
        let patched = patch::apply(patch::Kind::Strategic, &from, &patch, shape_of_pods()).expect("it fits");
        prop_assert_eq!(patched, to);
    }
}

const WORDS: &[&str] = &[
    "self",
    ".a",
    ".b",
    ".c",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ".all(x, ",
    ".map(x, ",
    ".exists(x, ",
    "x",
    " == ",
    " + ",
    " && ",
    " ? ",
    " : ",
    "!",
    "-",
    "'s'",
    "1",
    "1u",
    "1.5",
    "true",
    "null",
    "size(",
    "quantity('1')",
    "has(",
    "duration('1s')",
    ",",
    " in ",
    "cidr('10.0.0.0/8')",
    ".split(',')",
    ".matches('(a+)+')",
    "%",
    "/",
];
