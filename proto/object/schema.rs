//! Schemas of the built-in types, and the check of a value against one: types, unknown fields, quantities.
//!
//! The schemas are those of k8s-openapi, generated once; the same definitions are served as OpenAPI.

use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::registry;

/// The deepest nesting that a body may have. Kubernetes bounds it through its decoder.
const DEPTH_MAX: usize = 100;

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
        let settings = schemars::generate::SchemaSettings::openapi3();
        let mut generator = settings.into_generator();
        for resource in registry::all() {
            (resource.schema)(&mut generator);
        }
        generator.take_definitions(false)
    })
}

/// Checks `value` against the named definition, removes what is unknown and normalises quantities given as numbers.
pub fn check(definition: &str, value: &mut Value) -> Findings {
    let mut checker = Checker { definitions: definitions(), findings: Findings::default() };
    if let Some(schema) = checker.definitions.get(definition) {
        checker.visit(schema, value, definition, "", 0);
    }
    checker.findings
}

struct Checker {
    definitions: &'static Map<String, Value>,
    findings: Findings,
}

impl Checker {
    fn visit(&mut self, schema: &'static Value, value: &mut Value, type_name: &str, path: &str, depth: usize) {
        if depth > DEPTH_MAX {
            self.findings.mismatched.push(format!("{path}: exceeded max depth"));
            return;
        }
        if let Some(name) = reference(schema) {
            if name.ends_with("api.resource.Quantity") {
                self.quantity(value, path);
            } else if let Some(target) = self.definitions.get(name) {
                self.visit(target, value, name, path, depth + 1);
            }
            return;
        }
        if schema.get("x-kubernetes-int-or-string").is_some() {
            if !value.is_string() && !value.is_i64() && !value.is_null() {
                self.mismatch(value, path, "intstr.IntOrString");
            }
            return;
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("object") => self.object(schema, value, type_name, path, depth),
            Some("array") => self.array(schema, value, type_name, path, depth),
            Some("string") if !value.is_string() && !value.is_null() => self.mismatch(value, path, "string"),
            Some("integer") if !value.is_i64() && !value.is_u64() && !value.is_null() => {
                self.mismatch(value, path, schema.get("format").and_then(Value::as_str).unwrap_or("int64"));
            }
            Some("number") if !value.is_number() && !value.is_null() => self.mismatch(value, path, "float64"),
            Some("boolean") if !value.is_boolean() && !value.is_null() => self.mismatch(value, path, "bool"),
            _ => {}
        }
    }

    fn object(&mut self, schema: &'static Value, value: &mut Value, type_name: &str, path: &str, depth: usize) {
        let short = type_name.rsplit('.').next().unwrap_or(type_name);
        let Some(map) = value.as_object_mut() else {
            if !value.is_null() {
                self.mismatch(value, path, &format!("v1.{short}"));
            }
            return;
        };
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let unknown: Vec<String> = map.keys().filter(|k| !properties.contains_key(*k)).cloned().collect();
            for key in unknown {
                map.shift_remove(&key);
                self.findings.unknown.push(join(path, &key));
            }
            for (key, child) in map.iter_mut() {
                self.visit(&properties[key], child, type_name, &join(path, key), depth + 1);
            }
        } else if let Some(items) = schema.get("additionalProperties").filter(|s| s.is_object()) {
            for (key, child) in map.iter_mut() {
                self.visit(items, child, type_name, &join(path, key), depth + 1);
            }
        }
    }

    fn array(&mut self, schema: &'static Value, value: &mut Value, type_name: &str, path: &str, depth: usize) {
        let Some(list) = value.as_array_mut() else {
            if !value.is_null() {
                let element = schema.get("items").and_then(reference).and_then(|n| n.rsplit('.').next()).unwrap_or("string");
                self.mismatch(value, path, &format!("[]v1.{element}"));
            }
            return;
        };
        if let Some(items) = schema.get("items") {
            for (index, child) in list.iter_mut().enumerate() {
                self.visit(items, child, type_name, &format!("{path}[{index}]"), depth + 1);
            }
        }
    }

    fn quantity(&mut self, value: &mut Value, path: &str) {
        if let Value::Number(number) = value {
            *value = Value::String(number.to_string());
        }
        match value.as_str().map(str::parse::<Quantity>) {
            Some(Ok(_)) => {}
            Some(Err(why)) => self.findings.mismatched.push(format!("{path}: {why}")),
            None if value.is_null() => {}
            None => self.mismatch(value, path, "resource.Quantity"),
        }
    }

    fn mismatch(&mut self, value: &Value, path: &str, wanted: &str) {
        let got = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        self.findings.mismatched.push(format!("json: cannot unmarshal {got} into Go struct field {path} of type {wanted}"));
    }
}

fn reference(schema: &Value) -> Option<&str> {
    let pointer = schema.get("$ref").or_else(|| schema.pointer("/allOf/0/$ref"))?.as_str()?;
    pointer.rsplit('/').next()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_pod(mut value: Value, unknown: &[&str], mismatched: usize) -> Value {
        let findings = check("io.k8s.api.core.v1.Pod", &mut value);
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
    }

    #[test]
    fn takes_quantities_as_numbers() {
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": 2}}}]}});
        let checked = check_pod(pod, &[], 0);
        assert_eq!(checked.pointer("/spec/containers/0/resources/limits/cpu"), Some(&json!("2")));
    }
}
