//! Schemas of the built-in types, and the check of a value against one: types, unknown fields, quantities.
//!
//! The definitions are those that Kubernetes v1.37 publishes as OpenAPI (`schema/kubernetes-v1.37.json`), and those of
//! metrics-server (`schema/metrics-v1beta1.json`); they say which fields there are, how lists merge, and what a field
//! means. The same definitions are served as OpenAPI. What only Go's types know stands in `schema/go.txt`.

mod check;
mod format;
mod go;
mod shape;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Map, Value};

pub use shape::{ListType, PatchStrategy, Shape, Site};

use check::Checker;

const PUBLISHED: [&str; 2] = [include_str!("schema/kubernetes-v1.37.json"), include_str!("schema/metrics-v1beta1.json")];

/// What a check found. Unknown fields have been removed from the value.
#[derive(Debug, Default, PartialEq)]
pub struct Findings {
    /// Paths of fields that the schema does not have: `spec.foo`.
    pub unknown: Vec<String>,
    /// Values of the wrong type, in the words of Go's JSON decoder.
    pub mismatched: Vec<String>,
}

/// All definitions by name (`io.k8s.api.core.v1.Pod`), as JSON Schema with `$ref` to `#/components/schemas/NAME`.
pub fn definitions() -> &'static Map<String, Value> {
    static DEFINITIONS: OnceLock<Map<String, Value>> = OnceLock::new();
    DEFINITIONS.get_or_init(|| {
        let parsed =
            PUBLISHED.iter().map(|text| serde_json::from_str::<Map<String, Value>>(text).expect("the published definitions are JSON"));
        parsed.flatten().collect()
    })
}

/// The name of the definition of a kind.
pub fn definition_of(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    static KINDS: OnceLock<BTreeMap<(&str, &str, &str), &str>> = OnceLock::new();
    let kinds = KINDS.get_or_init(|| {
        let mut kinds = BTreeMap::new();
        for (name, definition) in definitions() {
            let text = |entry: &'static Value, field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
            for entry in definition.get("x-kubernetes-group-version-kind").and_then(Value::as_array).into_iter().flatten() {
                kinds.insert((text(entry, "group"), text(entry, "version"), text(entry, "kind")), name.as_str());
            }
        }
        kinds
    });
    kinds.get(&(group, version, kind)).copied()
}

/// Checks `value` against a shape, removes what is unknown and writes quantities in their canonical form.
pub fn check(shape: Shape<'_>, value: &mut Value) -> Findings {
    Checker::run(shape, value, false)
}

/// Writes what Go writes though nothing was said: fields held by value, with their defaults, and lists that are always
/// written, as null.
pub fn fill(shape: Shape<'_>, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, zero) in shape.zeros() {
                if !map.contains_key(name) {
                    map.insert(name.clone(), zero.clone());
                }
            }
            for (name, child) in map.iter_mut() {
                if let Some(below) = shape.field(name) {
                    fill(below, child);
                }
            }
        }
        Value::Array(list) => {
            if let Some(item) = shape.item() {
                list.iter_mut().for_each(|element| fill(item, element));
            }
        }
        _ => {}
    }
}

/// Writes null for lists that are always written and empty: conversion to Go's internal types forgets that they were said.
pub fn settle(shape: Shape<'_>, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, child) in map.iter_mut() {
                match shape.field(name) {
                    Some(_) if go::is_judged_when_empty(None, shape, name) => {}
                    Some(_) if child.as_array().is_some_and(Vec::is_empty) && shape.writes_null(name) => *child = Value::Null,
                    Some(below) => settle(below, child),
                    None => {}
                }
            }
        }
        Value::Array(list) => {
            if let Some(item) = shape.item() {
                list.iter_mut().for_each(|element| settle(item, element));
            }
        }
        _ => {}
    }
}

/// Removes from a custom object what its schema does not know. What is of the wrong type is for validation to say.
pub fn prune(shape: Shape<'_>, value: &mut Value) -> Findings {
    Checker::run(shape, value, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_pod(mut value: Value, unknown: &[&str], mismatched: usize) -> Value {
        let findings = check(Shape::named("io.k8s.api.core.v1.Pod").expect("a definition"), &mut value);
        assert_eq!(findings.unknown, unknown);
        assert_eq!(findings.mismatched.len(), mismatched, "{:?}", findings.mismatched);
        value
    }

    #[test]
    fn finds_unknown_fields_and_removes_them() {
        let pod = json!({"metadata": {"name": "a", "nam": 1}, "spec": {"containers": [{"name": "c", "imag": "x"}]}});
        let pruned = check_pod(pod, &["metadata.nam", "spec.containers[0].imag"], 0);
        assert_eq!(pruned, json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}}));
    }

    #[test]
    fn finds_wrong_types() {
        check_pod(json!({"spec": {"containers": "x", "hostNetwork": 1, "terminationGracePeriodSeconds": "3"}}), &[], 3);
        check_pod(json!({"spec": 3}), &[], 1);
        let mut pod = json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": "x"}]}]}});
        let findings = check(Shape::named("io.k8s.api.core.v1.Pod").expect("a definition"), &mut pod);
        let words = "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32";
        assert_eq!(findings.mismatched, [words]);
    }

    #[test]
    fn takes_quantities_as_numbers() {
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": 2}}}]}});
        let checked = check_pod(pod, &[], 0);
        assert_eq!(checked.pointer("/spec/containers/0/resources/limits/cpu"), Some(&json!("2")));
    }
}
