//! A value against a structural schema, in the words of kube-openapi's validator.

use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

use super::ratchet::Change;
use crate::field::{Errors, Path, Problem};
use crate::kept::Kept;

pub(super) fn validate(schema: &Value, object: Change<'_>, errors: &mut Errors) {
    visit(schema, object, &Path::default(), errors);
}

fn visit(schema: &Value, change: Change<'_>, path: &Path, errors: &mut Errors) {
    let before = errors.len();
    judge(schema, change, path, errors);
    if errors.len() > before && change.is_unchanged() {
        errors.truncate(before);
    }
}

fn judge(schema: &Value, change: Change<'_>, path: &Path, errors: &mut Errors) {
    let value = change.new;
    if value.is_null() && schema.get("nullable") == Some(&Value::Bool(true)) {
        return;
    }
    if !is_of_type(schema, value) {
        return wrong_type(schema, value, path, errors);
    }
    if let Some(Value::Array(allowed)) = schema.get("enum")
        && !allowed.contains(value)
    {
        let supported: Vec<String> = allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), String::from)).collect();
        errors.unsupported(path, value.clone(), &supported.iter().map(String::as_str).collect::<Vec<_>>());
    }
    match value {
        Value::Object(map) => object(schema, map, change, path, errors),
        Value::Array(list) => array(schema, list, change, path, errors),
        Value::String(text) => string(schema, text, path, errors),
        Value::Number(number) => numeric(schema, number, path, errors),
        _ => {}
    }
    combinations(schema, change.anew(), path, errors);
}

fn is_of_type(schema: &Value, value: &Value) -> bool {
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        _ => true,
    }
}

fn wrong_type(schema: &Value, value: &Value, path: &Path, errors: &mut Errors) {
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let wanted = schema.get("type").and_then(Value::as_str).unwrap_or("integer,string");
    errors.invalid(path, got, &format!("{path} in body must be of type {wanted}: {got:?}"));
}

fn object(schema: &Value, map: &serde_json::Map<String, Value>, change: Change<'_>, path: &Path, errors: &mut Errors) {
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            errors.required(&path.child(name), "");
        }
    }
    let count = |field: &str| schema.get(field).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    if let Some(most) = count("maxProperties").filter(|most| map.len() > *most) {
        errors.invalid(path, map.len(), &format!("{path} in body should have at most {most} properties"));
    }
    if let Some(least) = count("minProperties").filter(|least| map.len() < *least) {
        errors.invalid(path, map.len(), &format!("{path} in body should have at least {least} properties"));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, child) in map {
        if path.is_root() && name == "metadata" {
            continue;
        }
        if let Some(property) = properties.and_then(|p| p.get(name)) {
            visit(property, change.field(name, child), &path.child(name), errors);
        } else if let Some(additional) = schema.get("additionalProperties").filter(|a| a.is_object()) {
            visit(additional, change.field(name, child), &path.child(name), errors);
        }
    }
}

fn array(schema: &Value, list: &[Value], change: Change<'_>, path: &Path, errors: &mut Errors) {
    let count = |field: &str| schema.get(field).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    if let Some(most) = count("maxItems").filter(|most| list.len() > *most) {
        errors.add(path, Problem::TooMany { found: list.len(), most });
    }
    if let Some(least) = count("minItems").filter(|least| list.len() < *least) {
        errors.invalid(path, list.len(), &format!("{path} in body should have at least {least} items"));
    }
    let keys: Option<Vec<&str>> = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => Some(Vec::new()),
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            Some(keys.into_iter().flatten().filter_map(Value::as_str).collect())
        }
        _ => None,
    };
    for (index, item) in list.iter().enumerate() {
        let path = path.index(index);
        if let Some(keys) = &keys {
            let identity = |v: &Value| -> Value {
                if keys.is_empty() {
                    v.clone()
                } else {
                    keys.iter().map(|k| ((*k).to_string(), v.get(*k).cloned().unwrap_or_default())).collect()
                }
            };
            if list[..index].iter().any(|other| identity(other) == identity(item)) {
                errors.duplicate(&path, identity(item));
            }
        }
        if let Some(items) = schema.get("items") {
            visit(items, change.item(schema, item), &path, errors);
        }
    }
}

fn string(schema: &Value, text: &str, path: &Path, errors: &mut Errors) {
    let count = |field: &str| schema.get(field).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let length = text.chars().count();
    if let Some(most) = count("maxLength").filter(|most| length > *most) {
        errors.add(path, Problem::TooLong(most));
    }
    if let Some(least) = count("minLength").filter(|least| length < *least) {
        errors.invalid(path, text, &format!("{path} in body should be at least {least} chars long"));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && compiled(pattern).is_some_and(|regex| !regex.is_match(text))
    {
        errors.invalid(path, text, &format!("{path} in body should match '{pattern}'"));
    }
    if let Some(format) = schema.get("format").and_then(Value::as_str)
        && !fits(format, text)
    {
        errors.invalid(path, text, &format!("{path} in body must be of type {format}: {text:?}"));
    }
}

/// Whether a text is of a format (`kube-openapi/pkg/validation/strfmt`); formats that are not known are not judged.
pub(crate) fn fits(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "byte" => {
            compiled("^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$").is_some_and(|r| r.is_match(text))
        }
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "uuid" => compiled("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$").is_some_and(|r| r.is_match(text)),
        _ => true,
    }
}

fn numeric(schema: &Value, number: &serde_json::Number, path: &Path, errors: &mut Errors) {
    let value = number.as_f64().unwrap_or(0.0);
    let bound = |field: &str| schema.get(field).filter(|b| b.is_number());
    let exclusive = |field: &str| schema.get(field) == Some(&Value::Bool(true));
    let of = |bound: &Value| bound.as_f64().unwrap_or(0.0);
    if let Some(least) = bound("minimum") {
        let exclusive = exclusive("exclusiveMinimum");
        if value < of(least) || exclusive && value <= of(least) {
            let or_equal = if exclusive { "" } else { " or equal to" };
            errors.invalid(path, number.clone(), &format!("{path} in body should be greater than{or_equal} {least}"));
        }
    }
    if let Some(most) = bound("maximum") {
        let exclusive = exclusive("exclusiveMaximum");
        if value > of(most) || exclusive && value >= of(most) {
            let or_equal = if exclusive { "" } else { " or equal to" };
            errors.invalid(path, number.clone(), &format!("{path} in body should be less than{or_equal} {most}"));
        }
    }
    if let Some(factor) = bound("multipleOf")
        && (value / of(factor)).fract() != 0.0
    {
        errors.invalid(path, number.clone(), &format!("{path} in body should be a multiple of {factor}"));
    }
}

fn combinations(schema: &Value, change: Change<'_>, path: &Path, errors: &mut Errors) {
    let value = change.new;
    let branches = |field: &str| schema.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let holds = |branch: &Value| {
        let mut found = Errors::default();
        visit(branch, change, path, &mut found);
        found.is_empty()
    };
    branches("allOf").iter().for_each(|branch| visit(branch, change, path, errors));
    let any = branches("anyOf");
    if !any.is_empty() && !any.iter().any(holds) {
        errors.invalid(path, shown(value), &format!("{path} in body must validate at least one schema (anyOf)"));
    }
    let one = branches("oneOf");
    let fitting = one.iter().filter(|branch| holds(branch)).count();
    if !one.is_empty() && fitting != 1 {
        let found = if fitting == 0 { "Found none valid" } else { "Found 2 valid alternatives" };
        errors.invalid(path, shown(value), &format!("{path} in body must validate one and only one schema (oneOf). {found}"));
    }
    if let Some(not) = schema.get("not")
        && holds(not)
    {
        errors.invalid(path, shown(value), &format!("{path} in body must not validate the schema (not)"));
    }
}

/// Objects are not printed in errors.
fn shown(value: &Value) -> Value {
    if value.is_object() { "object".into() } else { value.clone() }
}

/// A pattern, compiled once. The engine is linear in its input, whatever the pattern.
fn compiled(pattern: &str) -> Option<Arc<Regex>> {
    static PATTERNS: Kept<Option<Arc<Regex>>> = Kept::new();
    PATTERNS.get(pattern, || Regex::new(pattern).ok().map(Arc::new))
}
