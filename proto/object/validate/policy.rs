//! Rules of autoscalers, budgets and classes (`pkg/apis/autoscaling/validation`, `policy`, `scheduling`, `node`).

use serde_json::Value;

use super::text;
use crate::field::{Errors, Path};
use crate::names;

/// User-defined priorities end here; above are the system's (`HighestUserDefinablePriority`).
const PRIORITY_MAX: i64 = 1_000_000_000;

pub fn autoscaler(autoscaler: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = autoscaler.get("spec").cloned().unwrap_or_default();
    let path = Path::new("spec");
    let number = |field: &str| spec.get(field).and_then(Value::as_i64).unwrap_or(0);
    let (least, most) = (number("minReplicas"), number("maxReplicas"));
    if most == 0 {
        errors.required(&path.child("maxReplicas"), "");
    }
    if least < 1 {
        errors.invalid(&path.child("minReplicas"), least, "must be greater than or equal to 1");
    }
    if most < 0 {
        errors.invalid(&path.child("maxReplicas"), most, "must be greater than 0");
    }
    if most < least {
        errors.invalid(&path.child("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
    }
    let target = spec.get("scaleTargetRef").cloned().unwrap_or_default();
    if text(&target, "apiVersion").is_empty() {
        errors.invalid(&path.child("scaleTargetRef").child("apiVersion"), "", "apiVersion must specify API group");
    }
    for field in ["kind", "name"] {
        if text(&target, field).is_empty() {
            errors.required(&path.child("scaleTargetRef").child(field), "");
        }
    }
}

pub fn disruption_budget(budget: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = budget.get("spec").cloned().unwrap_or_default();
    let path = Path::new("spec");
    let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if least.is_some() && most.is_some() {
        errors.invalid(&path, Value::Null, "minAvailable and maxUnavailable cannot be both set");
    }
    for (field, value) in [("minAvailable", least), ("maxUnavailable", most)] {
        match value {
            Some(Value::Number(n)) if n.as_i64().is_some_and(|n| n < 0) => {
                errors.invalid(&path.child(field), n.as_i64().unwrap_or(0), "must be greater than or equal to 0");
            }
            Some(Value::String(percent)) if percent.strip_suffix('%').is_none_or(|n| n.parse::<u32>().is_err()) => {
                let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                errors.invalid(&path.child(field), percent.as_str(), why);
            }
            _ => {}
        }
    }
}

pub fn priority_class(class: &Value, old: Option<&Value>, errors: &mut Errors) {
    let value = class.get("value").and_then(Value::as_i64).unwrap_or(0);
    let name = crate::meta::name(class);
    if name.starts_with("system-") && !matches!(name, "system-node-critical" | "system-cluster-critical") {
        let why = "priority class names with 'system-' prefix are reserved for system use only. error: ";
        errors.forbidden(&Path::new("metadata").child("name"), &format!("{why}{name} is not a known system priority class"));
    }
    if !name.starts_with("system-") && value > PRIORITY_MAX {
        let why = format!("maximum allowed value of a user defined priority is {PRIORITY_MAX}");
        errors.forbidden(&Path::new("value"), &why);
    }
    if !matches!(text(class, "preemptionPolicy"), "PreemptLowerPriority" | "Never") {
        errors.unsupported(&Path::new("preemptionPolicy"), text(class, "preemptionPolicy"), &["Never", "PreemptLowerPriority"]);
    }
    if let Some(old) = old {
        let before = old.get("value").and_then(Value::as_i64).unwrap_or(0);
        if before != value {
            errors.invalid(&Path::new("value"), value, "field is immutable");
        }
    }
}

pub fn runtime_class(class: &Value, old: Option<&Value>, errors: &mut Errors) {
    let handler = text(class, "handler");
    if handler.is_empty() {
        return errors.required(&Path::new("handler"), "");
    }
    if let Err(why) = names::dns1123_label(handler) {
        errors.invalid(&Path::new("handler"), handler, &why);
    }
    if let Some(old) = old {
        super::immutable(class, old, "/handler", &Path::new("handler"), errors);
    }
}
