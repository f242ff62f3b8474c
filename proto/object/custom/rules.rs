//! `x-kubernetes-validations`: rules in CEL (KEP-2876), at any place of a structural schema.
//!
//! A rule sees `self`, and in updates `oldSelf`, where the value has one, or always as an optional value where it says
//! `optionalOldSelf`. A rule that calls a function which is not in [`crate::expression`] is not evaluated.

use std::sync::Arc;

use cel::Program;
use cel::objects::OptionalValue;
use serde_json::Value;

use super::ratchet::Change;

use crate::expression::{self, Cel, Failure, VISITS_MAX, compile, cost, to_cel};
use crate::field::{Errors, Path, Problem};

/// Checks all rules of a schema.
pub(super) fn check(schema: &Value, change: Change<'_>, path: &Path, errors: &mut Errors) {
    for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        apply(rule, schema, change, path, errors);
    }
    match change.new {
        Value::Object(map) => {
            for (name, child) in map {
                let below = schema.get("properties").and_then(|p| p.get(name));
                let below = below.or_else(|| schema.get("additionalProperties").filter(|a| a.is_object()));
                if let Some(below) = below.filter(|_| name != "metadata" || !path.is_root()) {
                    check(below, change.field(name, child), &path.child(name), errors);
                }
            }
        }
        Value::Array(list) => {
            let Some(items) = schema.get("items") else { return };
            for (index, child) in list.iter().enumerate() {
                check(items, change.item(schema, child), &path.index(index), errors);
            }
        }
        _ => {}
    }
}

fn apply(rule: &Value, schema: &Value, change: Change<'_>, path: &Path, errors: &mut Errors) {
    let value = change.new;
    let text = |field: &str| rule.get(field).and_then(Value::as_str).filter(|t| !t.is_empty());
    let source = text("rule").unwrap_or_default();
    let Ok(program) = compile(source) else { return };
    let (is_of_transition, is_optional) = (program.references().has_variable("oldSelf"), rule["optionalOldSelf"] == true);
    if is_of_transition && change.old.is_none() && !is_optional {
        return;
    }
    let old = match change.old.map(|old| to_cel(schema, old)) {
        old if is_optional => Some(Cel::Opaque(Arc::new(old.map_or_else(OptionalValue::none, OptionalValue::of)))),
        old => old,
    };
    let message = text("message").map_or_else(|| format!("failed rule: {source}"), String::from);
    if cost(source, value) > VISITS_MAX {
        let why = "call cost exceeds limit for rule (try adding maxItems, maxProperties and maxLength)";
        return errors.add(path, Problem::Omitted(format!("{why}: {source}")));
    }
    let evaluate = |program: &Program| {
        let mut variables = vec![("self", to_cel(schema, value))];
        variables.extend(old.clone().map(|old| ("oldSelf", old)));
        expression::evaluate(program, &variables)
    };
    match evaluate(&program) {
        Ok(Cel::Bool(true)) | Err(Failure::Unsupported) => {}
        Ok(Cel::Bool(false)) if !is_of_transition && change.is_settled() => {}
        Ok(Cel::Bool(false)) => {
            let computed = text("messageExpression").and_then(|expression| compile(expression).ok());
            let computed = computed.and_then(|program| match evaluate(&program) {
                Ok(Cel::String(text)) if !text.trim().is_empty() => Some(text.to_string()),
                _ => None,
            });
            let message = computed.unwrap_or(message);
            let path = text("fieldPath").map_or_else(|| path.clone(), |below| path.child(below.trim_start_matches('.')));
            match text("reason") {
                Some("FieldValueForbidden") => errors.forbidden(&path, &message),
                Some("FieldValueRequired") => errors.required(&path, &message),
                Some("FieldValueDuplicate") => errors.duplicate(&path, value.clone()),
                _ if value.is_object() || value.is_array() => errors.add(&path, Problem::Omitted(message)),
                _ => errors.invalid(&path, value.clone(), &message),
            }
        }
        Ok(_) => {}
        Err(Failure::Failed(why)) => {
            let kind = schema.get("type").and_then(Value::as_str).unwrap_or("object");
            errors.invalid(path, kind, &format!("{why} evaluating rule: {}", text("message").unwrap_or(source)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_spec(spec: Value, old: Option<Value>, expected: &str) {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
            "x-kubernetes-validations": [
                {"rule": "self.min <= self.max", "message": "min must not be above max"},
                {"rule": "self.max < 100", "messageExpression": "'max is ' + string(self.max)"},
                {"rule": "self.min == oldSelf.min", "reason": "FieldValueForbidden", "fieldPath": ".min"},
                {"rule": "self.max.semverSomething('1')"}],
            "properties": {"min": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]}, "max": {"type": "integer"},
                "names": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]}}}}}});
        let mut errors = Errors::default();
        let old = old.map(|spec| json!({"spec": spec}));
        check(&schema, Change::new(&json!({"spec": spec}), old.as_ref()), &Path::default(), &mut errors);
        assert_eq!(errors.to_string(), expected);
    }

    #[test]
    fn says_what_kubernetes_says() {
        check_spec(json!({"min": 1, "max": 3}), None, "[]");
        check_spec(json!({"min": 5, "max": 3}), None, "spec: Invalid value: min must not be above max");
        check_spec(
            json!({"min": 0, "max": 300}),
            None,
            "[spec: Invalid value: max is 300, spec.min: Invalid value: 0: failed rule: self > 0]",
        );
        check_spec(
            json!({"min": 1, "max": 3, "names": ["b", "ab"]}),
            None,
            "spec.names[0]: Invalid value: \"b\": failed rule: self.startsWith('a')",
        );
        check_spec(
            json!({"min": 2, "max": 3}),
            Some(json!({"min": 1, "max": 3})),
            "spec.min: Forbidden: failed rule: self.min == oldSelf.min",
        );
        check_spec(json!({"max": 3}), None, "spec: Invalid value: \"object\": no such key: min evaluating rule: min must not be above max");
    }

    #[test]
    fn what_was_there_before_is_not_judged_again() {
        let schema = json!({"type": "object", "properties": {
            "name": {"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]},
            "list": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]}},
            "once": {"type": "string", "x-kubernetes-validations": [
                {"rule": "oldSelf.hasValue() || self == 'new'", "optionalOldSelf": true}]}}});
        let check_change = |new: Value, old: Value, expected: &str| {
            let mut errors = Errors::default();
            check(&schema, Change::new(&new, Some(&old)), &Path::default(), &mut errors);
            assert_eq!(errors.to_string(), expected);
        };
        check_change(json!({"name": "b", "list": []}), json!({"name": "b"}), "[]");
        check_change(json!({"name": "b"}), json!({"name": "c"}), "name: Invalid value: \"b\": failed rule: self.startsWith('a')");
        // Elements cannot be told apart, but the whole list is as it was.
        check_change(json!({"list": ["b"], "name": "a"}), json!({"list": ["b"]}), "[]");
        check_change(
            json!({"list": ["b", "a"]}),
            json!({"list": ["b"]}),
            "list[0]: Invalid value: \"b\": failed rule: self.startsWith('a')",
        );
        check_change(json!({"once": "old"}), json!({"once": "older"}), "[]");
        check_change(json!({"once": "old"}), json!({}), "once: Invalid value: \"old\": failed rule: oldSelf.hasValue() || self == 'new'");
    }
}
