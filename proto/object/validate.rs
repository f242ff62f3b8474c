//! Validation, kind by kind, in Kubernetes' words (`pkg/apis/*/validation`). It runs on defaulted objects.

pub mod access;
pub mod admission;
pub mod batch;
pub mod config;
pub mod event;
pub mod extension;
pub mod network;
pub mod pod;
pub mod policy;
pub mod service;
pub mod storage;
mod sysctl;
pub mod workload;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::names;

/// Reports fields that must say something: each with its path and what follows "Required value".
pub fn required(object: &Value, fields: &[(&str, &str)], errors: &mut Errors) {
    for (field, why) in fields {
        let found = object.pointer(&format!("/{}", field.replace('.', "/")));
        let says_nothing = match found {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(_) => false,
        };
        if says_nothing {
            errors.required(&Path::new(field), why);
        }
    }
}

/// Reports a change of `pointer` between two versions.
fn immutable(new: &Value, old: &Value, pointer: &str, path: &Path, errors: &mut Errors) {
    let (new, old) = (new.pointer(pointer), old.pointer(pointer));
    if new != old {
        errors.invalid(path, new.cloned().unwrap_or_default(), "field is immutable");
    }
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn non_negative(value: &Value, field: &str, path: &Path, errors: &mut Errors) {
    if let Some(number) = value.get(field).and_then(Value::as_i64)
        && number < 0
    {
        errors.invalid(&path.child(field), number, "must be greater than or equal to 0");
    }
}

/// One of a closed set; `required` says what an empty value means.
fn one_of(value: &Value, field: &str, supported: &[&str], path: &Path, errors: &mut Errors) {
    let found = text(value, field);
    if !supported.contains(&found) {
        if found.is_empty() {
            errors.required(&path.child(field), "");
        } else {
            errors.unsupported(&path.child(field), found, supported);
        }
    }
}

/// `metav1.LabelSelector`; nothing is said of one that is missing.
fn label_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        let path = path.child("matchLabels");
        if let Err(why) = names::qualified_name(key) {
            errors.invalid(&path, key.as_str(), &why);
        }
        if let Err(why) = names::label_value(value.as_str().unwrap_or_default()) {
            errors.invalid(&path.key(key), value.clone(), &why);
        }
    }
    for (index, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        if let Err(why) = names::qualified_name(text(expression, "key")) {
            errors.invalid(&path.child("key"), text(expression, "key"), &why);
        }
        for (at, value) in values.iter().enumerate() {
            if let Err(why) = names::label_value(value.as_str().unwrap_or_default()) {
                errors.invalid(&path.child("values").index(at), value.clone(), &why);
            }
        }
    }
}

fn port_number(value: &Value, path: &Path, errors: &mut Errors) {
    if let Some(port) = value.as_i64()
        && !(1..=65535).contains(&port)
    {
        errors.invalid(path, port, "must be between 1 and 65535, inclusive");
    }
}

pub fn node(node: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec").child("taints");
    for (index, taint) in node.pointer("/spec/taints").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let path = path.index(index);
        if let Err(why) = names::qualified_name(text(taint, "key")) {
            errors.invalid(&path.child("key"), text(taint, "key"), &why);
        }
        one_of(taint, "effect", &["NoSchedule", "NoExecute", "PreferNoSchedule"], &path, errors);
    }
}
