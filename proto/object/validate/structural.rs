//! Structural schemas: a schema must say what every value is (`apiextensions/schema`, KEP-693).

use serde_json::{Value, json};

use super::at::At;
use crate::expression;
use crate::field::{Errors, Path};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// What JSON Schema has and a structural schema has not.
const FOREIGN: [&str; 6] = ["$ref", "additionalItems", "definitions", "dependencies", "id", "patternProperties"];

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    Field,
    Item,
}

pub(super) fn root(schema: &Value, path: &Path, errors: &mut Errors) {
    visit(&At::new(schema, path), Place::Root, errors);
}

fn visit(at: &At<'_>, place: Place, errors: &mut Errors) {
    let kind = at.str("type");
    kinds(at, place, errors);
    let is_whole = place == Place::Root || at.flag("x-kubernetes-embedded-resource");
    if let Some(default) = at.given("default").filter(|default| is_whole && default.value.is_object()) {
        default.require(&["apiVersion", "kind"], errors);
    }
    for field in FOREIGN.into_iter().filter(|field| at.given(field).is_some()) {
        errors.forbidden(&at.child(field), &format!("{field} is not supported"));
    }
    if at.given("$schema").is_some() {
        errors.invalid(&at.path, "", "OpenAPIV3Schema 'schema' is not supported");
    }
    if at.flag("uniqueItems") {
        errors.forbidden(&at.child("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic");
    }
    if place == Place::Root && at.flag("nullable") {
        errors.forbidden(&at.child("nullable"), "nullable cannot be true at the root");
    }
    extensions(at, errors);
    at.each("x-kubernetes-validations").for_each(|one| rule(&one, errors));
    let properties = at.given("properties");
    let additional = at.given("additionalProperties");
    if properties.as_ref().is_some_and(|given| given.value.as_object().is_some_and(|map| !map.is_empty())) && additional.is_some() {
        errors.forbidden(&at.child("additionalProperties"), "additionalProperties and properties are mutual exclusive");
    }
    if place == Place::Root && additional.is_some() {
        errors.forbidden(&at.child("additionalProperties"), "must not be used at the root");
    }
    for (name, property) in at.entries("properties") {
        if place != Place::Root || name != "metadata" {
            visit(&At::new(property, &at.child("properties").key(name)), Place::Field, errors);
        }
    }
    match at.given("items") {
        Some(items) if items.value.is_object() => visit(&items, Place::Item, errors),
        None if kind == "array" => errors.required(&at.child("items"), "must be specified"),
        _ => {}
    }
    if let Some(additional) = additional.filter(|additional| additional.value.is_object()) {
        visit(&additional, Place::Field, errors);
    }
}

fn kinds(at: &At<'_>, place: Place, errors: &mut Errors) {
    let kind = at.str("type");
    let says_otherwise = at.flag("x-kubernetes-int-or-string") || at.flag("x-kubernetes-preserve-unknown-fields");
    if kind.is_empty() && !says_otherwise {
        let what = match place {
            Place::Root => "must not be empty at the root",
            Place::Field => "must not be empty for specified object fields",
            Place::Item => "must not be empty for specified array items",
        };
        errors.required(&at.child("type"), what);
    }
    if place == Place::Root && !kind.is_empty() && kind != "object" {
        errors.invalid(&at.child("type"), kind, "must be object at the root");
    }
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.unsupported(&at.child("type"), kind, &TYPES);
    }
    let fits = |value: &Value| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    };
    if let Some(default) = at.given("default").filter(|default| !fits(default.value)) {
        let (name, shown) = match default.value {
            Value::String(text) => ("string", format!("{text:?}")),
            Value::Array(_) => ("array", default.value.to_string()),
            Value::Object(_) => ("object", default.value.to_string()),
            Value::Bool(_) => ("boolean", default.value.to_string()),
            _ => ("number", default.value.to_string()),
        };
        // Kubernetes shows the type of what it refuses, quoted in the same way.
        let shown = if name == "string" { "\"string\"".to_owned() } else { shown };
        errors.mistyped(&default.path, name, &format!(" in body must be of type {kind}: {shown}"));
    }
}

/// `x-kubernetes-*`, and what goes with what.
fn extensions(at: &At<'_>, errors: &mut Errors) {
    if at.value.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        errors.invalid(&at.child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
    }
    at.supported("x-kubernetes-map-type", &["atomic", "granular"], errors);
    if at.given("x-kubernetes-map-type").is_some() && at.str("type") != "object" {
        errors.invalid(&at.child("type"), at.str("type"), "must be object if x-kubernetes-map-type is specified");
    }
    let list = at.given("x-kubernetes-list-type");
    at.supported("x-kubernetes-list-type", &["atomic", "set", "map"], errors);
    if list.is_some() && at.str("type") != "array" {
        errors.invalid(&at.child("type"), at.str("type"), "must be array if x-kubernetes-list-type is specified");
    }
    let keys = at.count("x-kubernetes-list-map-keys");
    let is_map = at.str("x-kubernetes-list-type") == "map";
    if keys > 0 && !is_map {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        if list.is_some() {
            errors.invalid(&at.child("x-kubernetes-list-type"), at.str("x-kubernetes-list-type"), why);
        } else {
            errors.required(&at.child("x-kubernetes-list-type"), why);
        }
    }
    if keys == 0 && is_map {
        errors.required(&at.child("x-kubernetes-list-map-keys"), "must not be empty if x-kubernetes-list-type is map");
    }
    let items = at.given("items");
    for (index, key) in at.each("x-kubernetes-list-map-keys").enumerate().filter(|_| is_map) {
        let name = key.value.as_str().unwrap_or_default();
        let is_property = items.as_ref().is_some_and(|items| items.value.pointer("/properties").is_some_and(|all| all.get(name).is_some()));
        if items.is_some() && !is_property {
            errors.invalid(&key.path, name, "entries must all be names of item properties");
        }
        if at.each("x-kubernetes-list-map-keys").take(index).any(|before| before.value == key.value) {
            errors.duplicate(&key.path, name);
        }
    }
}

fn rule(at: &At<'_>, errors: &mut Errors) {
    const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    let before = errors.len();
    at.supported("reason", &REASONS, errors);
    let path = at.str("fieldPath");
    if !path.is_empty() && !path.starts_with(['.', '[']) {
        errors.invalid(&at.child("fieldPath"), path, "must be a valid path");
    }
    // With one of those the rule is not looked at.
    let is_sound = errors.len() == before;
    let source = at.str("rule");
    if source.trim().is_empty() {
        errors.required(&at.child("rule"), "rule is not specified");
    } else if is_sound && let Some(why) = expression::compile(source).err().or_else(|| expression::undeclared(source, &["self", "oldSelf"]))
    {
        errors.invalid(&at.child("rule"), in_go(at), &format!("compilation failed: {why}"));
    }
    for field in ["message", "messageExpression"] {
        if at.given(field).is_some_and(|message| message.value.as_str().is_some_and(|text| text.trim().is_empty())) {
            errors.invalid(&at.child(field), at.str(field), &format!("{field} must be non-empty if specified"));
        }
    }
    if let Some(optional) = at.given("optionalOldSelf").filter(|_| !source.contains("oldSelf")) {
        errors.invalid(&optional.path, optional.value.clone(), "may not be set if oldSelf is not used in rule");
    }
}

/// A rule as Go prints its internal type.
fn in_go(rule: &At<'_>) -> Value {
    let or_null = |field: &str| rule.value.get(field).cloned().unwrap_or_default();
    json!({
        "Rule": rule.str("rule"), "Message": rule.str("message"), "MessageExpression": rule.str("messageExpression"),
        "Reason": or_null("reason"), "FieldPath": rule.str("fieldPath"), "OptionalOldSelf": or_null("optionalOldSelf"),
    })
}
