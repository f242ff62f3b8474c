//! `x-kubernetes-validations`: rules in CEL (KEP-2876), at any place of a structural schema.
//!
//! A rule sees `self`, and in updates `oldSelf`, where the value has one: elements of lists only by their keys. What CEL
//! itself defines is there; of Kubernetes' own functions none so far, and a rule that calls one is not evaluated.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::objects::{Key, Map};
use cel::{Context, ExecutionError, Program, Value as Cel};
use serde_json::Value;

use super::kept::Kept;
use crate::field::{Errors, Path, Problem};
use crate::schema::{ListType, Shape};

/// A rule's text, and how many brackets and signs it may open: the parser recurses.
const RULE_BYTES_MAX: usize = 16 << 10;
const OPENINGS_MAX: usize = 256;

/// What one rule may cost: the elements that it may visit.
const VISITS_MAX: u64 = 1 << 22;

/// Checks all rules of a schema; `old` is what an update starts from.
pub(super) fn check(schema: &Value, value: &Value, old: Option<&Value>, path: &Path, errors: &mut Errors) {
    for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        apply(rule, schema, value, old, path, errors);
    }
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                let below = schema.get("properties").and_then(|p| p.get(name));
                let below = below.or_else(|| schema.get("additionalProperties").filter(|a| a.is_object()));
                if let Some(below) = below.filter(|_| name != "metadata" || !path.is_root()) {
                    check(below, child, old.and_then(|o| o.get(name)), &path.child(name), errors);
                }
            }
        }
        Value::Array(list) => {
            let Some(items) = schema.get("items") else { return };
            for (index, child) in list.iter().enumerate() {
                check(items, child, counterpart(schema, child, old), &path.index(index), errors);
            }
        }
        _ => {}
    }
}

/// The element of the old list that has the same keys.
fn counterpart<'a>(schema: &Value, child: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    let ListType::Map(keys) = Shape::new(schema).list_type() else { return None };
    old?.as_array()?.iter().find(|other| keys.iter().all(|key| other.get(*key) == child.get(*key)))
}

/// Why a rule cannot be compiled; for the definition that has it.
pub(crate) fn compile_error(rule: &str) -> Option<String> {
    compiled(rule).err()
}

fn apply(rule: &Value, schema: &Value, value: &Value, old: Option<&Value>, path: &Path, errors: &mut Errors) {
    let text = |field: &str| rule.get(field).and_then(Value::as_str).filter(|t| !t.is_empty());
    let source = text("rule").unwrap_or_default();
    let Ok(program) = compiled(source) else { return };
    if old.is_none() && program.references().has_variable("oldSelf") {
        return;
    }
    let message = text("message").map_or_else(|| format!("failed rule: {source}"), String::from);
    if cost(source, value) > VISITS_MAX {
        let why = "call cost exceeds limit for rule (try adding maxItems, maxProperties and maxLength)";
        return errors.add(path, Problem::Omitted(format!("{why}: {source}")));
    }
    match evaluate(&program, schema, value, old) {
        Ok(Cel::Bool(true)) | Err(Failure::Unsupported) => {}
        Ok(Cel::Bool(false)) => {
            let computed = text("messageExpression").and_then(|expression| compiled(expression).ok());
            let computed = computed.and_then(|program| match evaluate(&program, schema, value, old) {
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

enum Failure {
    /// The rule calls a function that is not here.
    Unsupported,
    Failed(String),
}

fn evaluate(program: &Program, schema: &Value, value: &Value, old: Option<&Value>) -> Result<Cel, Failure> {
    let run = || {
        let mut context = Context::default();
        context.add_variable_from_value("self", to_cel(schema, value));
        if let Some(old) = old {
            context.add_variable_from_value("oldSelf", to_cel(schema, old));
        }
        program.execute(&context)
    };
    // The interpreter is not ours: whatever a rule does to it stays with the rule.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(ExecutionError::UndeclaredReference(_))) => Err(Failure::Unsupported),
        Ok(Err(ExecutionError::NoSuchKey(key))) => Err(Failure::Failed(format!("no such key: {key}"))),
        Ok(Err(why)) => Err(Failure::Failed(why.to_string())),
        Err(_) => Err(Failure::Failed("internal error".into())),
    }
}

/// Integers are integers and numbers are doubles, as the schema says.
fn to_cel(schema: &Value, value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Number(number) if schema.get("type").and_then(Value::as_str) == Some("number") => Cel::Float(number.as_f64().unwrap_or(0.0)),
        Value::Number(number) => number.as_i64().map_or_else(|| Cel::Float(number.as_f64().unwrap_or(0.0)), Cel::Int),
        Value::Array(list) => {
            let items = schema.get("items").unwrap_or(&Value::Null);
            Cel::List(Arc::new(list.iter().map(|item| to_cel(items, item)).collect()))
        }
        Value::Object(map) => {
            let entry = |(name, child): (&String, &Value)| {
                let below = schema.get("properties").and_then(|p| p.get(name)).or_else(|| schema.get("additionalProperties"));
                (Key::String(Arc::new(name.clone())), to_cel(below.unwrap_or(&Value::Null), child))
            };
            let entries: HashMap<Key, Cel> = map.iter().map(entry).collect();
            Cel::Map(Map { map: Arc::new(entries) })
        }
    }
}

/// An upper bound of the elements that a rule visits: all there are, once for each macro inside another.
fn cost(source: &str, value: &Value) -> u64 {
    const MACROS: &[&str] = &[".all(", ".exists(", ".exists_one(", ".map(", ".filter("];
    let macros = u32::try_from(MACROS.iter().map(|m| source.matches(m).count()).sum::<usize>()).unwrap_or(u32::MAX);
    fn elements(value: &Value) -> u64 {
        match value {
            Value::Array(list) => list.iter().map(elements).sum::<u64>() + 1,
            Value::Object(map) => map.values().map(elements).sum::<u64>() + 1,
            Value::String(text) => 1 + text.len() as u64 / 64,
            _ => 1,
        }
    }
    elements(value).saturating_pow(macros.max(1))
}

/// A rule, compiled once.
fn compiled(source: &str) -> Result<Arc<Program>, String> {
    static RULES: Kept<Result<Arc<Program>, String>> = Kept::new();
    RULES.get(source, || {
        let openings = source.chars().filter(|c| matches!(c, '(' | '[' | '{' | '!' | '-' | '?')).count();
        if source.len() > RULE_BYTES_MAX || openings > OPENINGS_MAX {
            return Err("the rule is too long or nests too deeply".into());
        }
        match catch_unwind(|| Program::compile(source)) {
            Ok(Ok(program)) => Ok(Arc::new(program)),
            Ok(Err(why)) => Err(why.to_string()),
            Err(_) => Err("the rule cannot be parsed".into()),
        }
    })
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
                {"rule": "self.max.isGreaterThan(quantity('1'))"}],
            "properties": {"min": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]}, "max": {"type": "integer"},
                "names": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]}}}}}});
        let mut errors = Errors::default();
        let old = old.map(|spec| json!({"spec": spec}));
        check(&schema, &json!({"spec": spec}), old.as_ref(), &Path::default(), &mut errors);
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
    fn bombs_do_not_go_off() {
        assert!(compile_error(&"(".repeat(5000)).is_some());
        // As deep as is allowed, and no stack overflows.
        compile_error(&format!("{}1{}", "(".repeat(OPENINGS_MAX), ")".repeat(OPENINGS_MAX)));
        compile_error(&"!".repeat(OPENINGS_MAX));
        assert!(compile_error("self.a <= ").is_some());
        let list: Vec<u32> = (0..5000).collect();
        assert!(cost("self.all(a, self.all(b, a != b || true))", &json!(list)) > VISITS_MAX);
    }
}
