//! Rules of autoscalers, budgets and classes (`pkg/apis/autoscaling/validation`, `policy`, `scheduling`, `node`).

use serde_json::{Value, json};

use super::at::At;
use super::pod::affinity;
use super::{resource, text};
use crate::field::{Errors, Path};
use crate::names;

/// User-defined priorities end here; above are the system's (`HighestUserDefinablePriority`).
const PRIORITY_MAX: i64 = 1_000_000_000;

pub fn disruption_budget(budget: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = budget.get("spec").cloned().unwrap_or_default();
    let path = Path::new("spec");
    let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if least.is_some() && most.is_some() {
        let or_null = |field: &str| spec.get(field).cloned().unwrap_or_default();
        let shown = json!({
            "MinAvailable": or_null("minAvailable"),
            "Selector": or_null("selector"),
            "MaxUnavailable": or_null("maxUnavailable"),
            "UnhealthyPodEvictionPolicy": or_null("unhealthyPodEvictionPolicy"),
        });
        errors.invalid(&path, shown, "minAvailable and maxUnavailable cannot be both set");
    }
    let at = At::new(&spec, &path);
    if let Some(selector) = at.given("selector") {
        super::label_selector(selector.value, &selector.path, errors);
    }
    at.supported("unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"], errors);
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
        errors.unsupported(&Path::new("preemptionPolicy"), text(class, "preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
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
    errors.judge(&Path::new("handler"), handler, names::dns1123_label(handler));
    let at = At::new(class, &Path::new(""));
    for (name, amount) in at.given("overhead").iter().flat_map(|overhead| overhead.entries("podFixed")) {
        let path = Path::new("overhead").child("limits").key(name);
        resource::of_container(name, &path, errors);
        resource::amount(name, amount, &path, errors);
    }
    if let Some(scheduling) = at.given("scheduling") {
        crate::meta::validate_labels(scheduling.value.get("nodeSelector"), &scheduling.child("nodeSelector"), errors);
        for (index, one) in scheduling.each("tolerations").enumerate() {
            affinity::toleration(&one, errors);
            if scheduling.each("tolerations").take(index).any(|before| before.value == one.value) {
                errors.duplicate(&one.path, one.value.clone());
            }
        }
    }
    if let Some(old) = old {
        super::immutable(class, old, "/handler", &Path::new("handler"), errors);
    }
}

pub fn lease(lease: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let spec = lease.get("spec").cloned().unwrap_or_default();
    let at = At::new(&spec, &Path::new("spec"));
    at.number("leaseDurationSeconds", 1..=i64::MAX, "must be greater than 0", errors);
    at.non_negative(&["leaseTransitions"], errors);
}
