//! Validation, kind by kind, in Kubernetes' words (`pkg/apis/*/validation`). It runs on defaulted objects.

pub mod access;
pub mod admission;
pub mod amounts;
mod at;
pub mod autoscaler;
pub mod batch;
pub mod config;
pub mod definition;
pub mod device;
pub mod event;
pub mod extension;
pub mod fairness;
pub mod network;
pub mod pod;
pub mod pod_certificate;
pub mod policy;
mod resource;
pub mod service;
pub mod status;
pub mod storage;
mod structural;
mod sysctl;
mod volume;
pub mod workload;

use std::collections::BTreeMap;

use serde_json::Value;

use self::at::At;
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

/// The labels of a template, as Go shows a map.
fn shown_labels(template: Option<&Value>) -> Value {
    let labels = template.and_then(|template| template.pointer("/metadata/labels")).and_then(Value::as_object);
    labels
        .map_or(Value::Null, |labels| labels.iter().collect::<BTreeMap<_, _>>().into_iter().map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// `metav1.LabelSelector`; nothing is said of one that is missing.
fn label_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        let path = path.child("matchLabels");
        errors.judge(&path, key.as_str(), names::qualified_name(key));
        errors.judge(&path, value.clone(), names::label_value(value.as_str().unwrap_or_default()));
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
        errors.judge(&path.child("key"), text(expression, "key"), names::qualified_name(text(expression, "key")));
        for (at, value) in values.iter().enumerate() {
            errors.judge(&path.child("values").index(at), value.clone(), names::label_value(value.as_str().unwrap_or_default()));
        }
    }
}

/// `IsDomainPrefixedPath`: `example.com/controller`.
fn prefixed_path(at: &At<'_>, field: &str, errors: &mut Errors) {
    let (text, path) = (at.str(field), at.child(field));
    if text.is_empty() {
        return errors.required(&path, "");
    }
    let Some((domain, rest)) = text.split_once('/').filter(|(domain, rest)| !domain.is_empty() && !rest.is_empty()) else {
        return errors.invalid(&path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    errors.judge(&path, domain, names::subdomain(domain));
    let is_plain = rest.chars().all(|c| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/%".contains(c));
    if !is_plain {
        let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.invalid(&path, rest, why);
    }
}

pub fn namespace(namespace: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec").child("finalizers");
    for finalizer in namespace.pointer("/spec/finalizers").and_then(Value::as_array).into_iter().flatten() {
        let name = finalizer.as_str().unwrap_or_default();
        let verdict = names::qualified_name(name);
        if !name.contains('/') && name != "kubernetes" {
            errors.invalid(&path, name, "name is neither a standard finalizer name nor is it fully qualified");
        }
        errors.judge(&path, name, verdict);
    }
}

pub fn node(node: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let none = Value::Null;
    let spec = At::new(node.get("spec").unwrap_or(&none), &Path::new("spec"));
    // Kubernetes tells of taints as of metadata.
    let metadata = At::new(spec.value, &Path::new("metadata"));
    for (index, taint) in metadata.each("taints").enumerate() {
        errors.judge(&taint.child("key"), taint.str("key"), names::qualified_name(taint.str("key")));
        if let Err(why) = names::label_value(taint.str("value")) {
            errors.invalid(&taint.child("value"), taint.str("value"), &why.iter().collect::<Vec<_>>().join(";"));
        }
        if taint.str("effect").is_empty() {
            errors.required(&taint.child("effect"), "");
        } else {
            pod::affinity::taint_effect(taint.str("effect"), &taint.child("effect"), errors);
        }
        let same = |before: &At<'_>| ["key", "effect"].iter().all(|field| before.str(field) == taint.str(field));
        if metadata.each("taints").take(index).any(|before| same(&before)) {
            errors.duplicate(&taint.path, taint.value.clone());
        }
    }
    for range in spec.each("podCIDRs") {
        network::cidr(range.value.as_str().unwrap_or_default(), &range.path, errors);
    }
    if spec.given("podCIDRs").is_none() && !spec.str("podCIDR").is_empty() {
        network::cidr(spec.str("podCIDR"), &spec.child("podCIDRs").index(0), errors);
    }
}
