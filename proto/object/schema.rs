//! Schemas of the built-in types, and the check of a value against one: types, unknown fields, quantities.
//!
//! The definitions are those that Kubernetes v1.37 publishes as OpenAPI (`schema/kubernetes-v1.37.json`), and those of
//! metrics-server (`schema/metrics-v1beta1.json`); they say which fields there are, how lists merge, and what a field means. The same definitions are served as OpenAPI.

mod shape;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Map, Value};

pub use shape::{ListType, PatchStrategy, Shape};

use crate::quantity::canonical;

/// The deepest nesting that a body may have. Kubernetes bounds it through its decoder.
const DEPTH_MAX: usize = 100;

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
    let mut checker = Checker::default();
    checker.visit(shape, value, Place { path: "", owner: "", fields: "", depth: 0 });
    checker.findings
}

/// Writes what Go writes though nothing was said: fields held by value, with their defaults, and lists that are always
/// written, as null.
pub fn fill(shape: Shape<'_>, value: &mut Value) {
    match value {
        Value::Object(map) => {
            let properties = shape.schema().get("properties").and_then(Value::as_object);
            for (name, property) in properties.into_iter().flatten() {
                if map.contains_key(name) {
                    continue;
                }
                if let Some(default) = property.get("default").filter(|d| !d.is_null()) {
                    map.insert(name.clone(), default.clone());
                } else if shape.requires(name) && Shape::new(property).kind() == "array" {
                    map.insert(name.clone(), Value::Null);
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

/// Removes from a custom object what its schema does not know. What is of the wrong type is for validation to say.
pub fn prune(shape: Shape<'_>, value: &mut Value) -> Findings {
    let mut checker = Checker { is_custom: true, ..Checker::default() };
    checker.visit(shape, value, Place { path: "", owner: "", fields: "", depth: 0 });
    checker.findings
}

#[derive(Default)]
struct Checker {
    findings: Findings,
    /// Structural schemas say everything: an object without properties has no fields.
    is_custom: bool,
}

/// Where the check is, as unknown fields are named, and as Go's decoder names wrong types.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// `spec.containers[0].name`
    path: &'a str,
    /// The type that has the field: `Container`.
    owner: &'a str,
    /// Without indexes and keys of maps: `spec.containers.name`.
    fields: &'a str,
    depth: usize,
}

impl Checker {
    fn visit(&mut self, shape: Shape<'_>, value: &mut Value, at: Place<'_>) {
        if at.depth > DEPTH_MAX {
            self.findings.mismatched.push(format!("{}: exceeded max depth", at.path));
            return;
        }
        let schema = shape.schema();
        if shape.reference().is_some_and(|name| name.ends_with("api.resource.Quantity")) {
            return self.quantity(value, at);
        }
        if schema.get("format").and_then(Value::as_str) == Some("int-or-string") {
            if !value.is_string() && !value.is_i64() && !value.is_null() {
                self.mismatch(value, at, "int32");
            }
            return;
        }
        match shape.kind() {
            "object" => self.object(shape, value, at),
            "array" => self.array(shape, value, at),
            "string" if !value.is_string() && !value.is_null() => self.mismatch(value, at, "string"),
            "integer" if !value.is_i64() && !value.is_u64() && !value.is_null() => {
                self.mismatch(value, at, schema.get("format").and_then(Value::as_str).unwrap_or("int64"));
            }
            "number" if !value.is_number() && !value.is_null() => self.mismatch(value, at, "float64"),
            "boolean" if !value.is_boolean() && !value.is_null() => self.mismatch(value, at, "bool"),
            _ => {}
        }
    }

    fn object(&mut self, shape: Shape<'_>, value: &mut Value, at: Place<'_>) {
        let short = shape.reference().and_then(|name| name.rsplit('.').next());
        let Some(map) = value.as_object_mut() else {
            if !value.is_null() {
                let wanted = short.map_or_else(|| "map[string]string".into(), |short| format!("v1.{short}"));
                self.mismatch(value, at, &wanted);
            }
            return;
        };
        let is_struct = shape.schema().get("properties").is_some();
        // Metadata, inside a custom object, is a built-in type.
        let is_custom = self.is_custom && shape.reference().is_none();
        if is_struct && !is_custom || is_custom && !shape.keeps_unknown() {
            let is_known = |key: &str| {
                let of_any_object = matches!(key, "apiVersion" | "kind" | "metadata") && shape.is_embedded();
                shape.declares(key) || shape.field(key).is_some() || of_any_object
            };
            let unknown: Vec<String> = map.keys().filter(|k| !is_known(k)).cloned().collect();
            for key in unknown {
                map.shift_remove(&key);
                self.findings.unknown.push(join(at.path, &key));
            }
        }
        for (key, child) in map.iter_mut() {
            let Some(below) = shape.field(key) else { continue };
            let path = join(at.path, key);
            let declared = shape.declares(key);
            let fields = if declared { join(at.fields, key) } else { at.fields.to_string() };
            let owner = if declared { short.unwrap_or(at.owner) } else { at.owner };
            self.visit(below, child, Place { path: &path, owner, fields: &fields, depth: at.depth + 1 });
        }
    }

    fn array(&mut self, shape: Shape<'_>, value: &mut Value, at: Place<'_>) {
        let item = shape.item();
        let Some(list) = value.as_array_mut() else {
            if !value.is_null() {
                let element = item.and_then(Shape::reference).and_then(|n| n.rsplit('.').next());
                self.mismatch(value, at, &element.map_or_else(|| "[]string".into(), |name| format!("[]v1.{name}")));
            }
            return;
        };
        for (index, child) in list.iter_mut().enumerate() {
            if let Some(item) = item {
                let path = format!("{}[{index}]", at.path);
                self.visit(item, child, Place { path: &path, depth: at.depth + 1, ..at });
            }
        }
    }

    fn quantity(&mut self, value: &mut Value, at: Place<'_>) {
        let text = match &*value {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            Value::Null => return,
            _ => return self.mismatch(value, at, "resource.Quantity"),
        };
        match canonical(&text) {
            Ok(canonical) => *value = canonical.into(),
            Err(why) => self.findings.mismatched.push(why.to_string()),
        }
    }

    fn mismatch(&mut self, value: &Value, at: Place<'_>, wanted: &str) {
        if self.is_custom && !at.path.starts_with("metadata") {
            return;
        }
        let got = match value {
            Value::Null => "null".into(),
            Value::Bool(_) => "bool".into(),
            Value::Number(number) if number.is_f64() => format!("number {number}"),
            Value::Number(_) => "number".into(),
            Value::String(_) => "string".into(),
            Value::Array(_) => "array".into(),
            Value::Object(_) => "object".to_string(),
        };
        self.findings
            .mismatched
            .push(format!("json: cannot unmarshal {got} into Go struct field {}.{} of type {wanted}", at.owner, at.fields));
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
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
