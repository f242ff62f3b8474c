//! Events (`pkg/apis/core/validation/events.go`): lenient in the core group, strict in their own.

use serde_json::Value;

use super::text;
use crate::field::{Errors, Path};
use crate::{meta, names, versions};

const CHARACTERS_MAX: usize = 128;
const MESSAGE_CHARACTERS_MAX: usize = 1024;

/// Cluster-scoped objects have their Events here.
const DEFAULT_NAMESPACE: &str = "default";
const SYSTEM_NAMESPACE: &str = "kube-system";

pub fn core(event: &Value, _old: Option<&Value>, errors: &mut Errors) {
    legacy(event, "reportingComponent", errors);
}

/// An Event as `events.k8s.io` shows it; errors name the fields as they are stored.
pub fn strict(event: &Value, old: Option<&Value>, errors: &mut Errors) {
    let stored = |event: &Value| {
        let mut event = event.clone();
        versions::event::store(&mut event);
        event
    };
    let event = stored(event);
    legacy(&event, "reportingController", errors);
    if let Some(old) = old.map(stored) {
        for field in FIXED {
            super::immutable(&event, &old, &format!("/{field}"), &Path::new(field), errors);
        }
        return;
    }
    if is_unset(&event, "eventTime") {
        errors.required(&Path::new("eventTime"), "");
    }
    let kind = text(&event, "type");
    if !["Normal", "Warning"].contains(&kind) {
        errors.invalid(&Path::new("type"), "", &format!("has invalid value: {kind}"));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if !is_unset(&event, field) {
            errors.invalid(&Path::new(field), "", "needs to be unset");
        }
    }
    if let Some(series) = event.get("series").filter(|series| series.is_object()) {
        if series["count"].as_i64().unwrap_or(0) < 2 {
            errors.invalid(&Path::new("series.count"), "", "should be at least 2");
        }
        if is_unset(series, "lastObservedTime") {
            errors.required(&Path::new("series.lastObservedTime"), "");
        }
    }
}

/// What an update may not change.
const FIXED: [&str; 12] = [
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "action",
    "related",
    "reportingComponent",
    "reportingInstance",
];

fn is_unset(object: &Value, field: &str) -> bool {
    match object.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::Number(number)) => number.as_i64() == Some(0),
        Some(Value::Object(map)) => map.values().all(|value| value.as_str().is_some_and(str::is_empty)),
        Some(_) => false,
    }
}

fn legacy(event: &Value, controller_field: &str, errors: &mut Errors) {
    let (home, about) = (meta::text(event, "namespace"), event["involvedObject"]["namespace"].as_str().unwrap_or_default());
    let has_time = !is_unset(event, "eventTime");
    let agrees = match (has_time, about) {
        (false, "") => home.is_empty() || home == DEFAULT_NAMESPACE,
        (false, about) => home == about,
        (true, "") => home == DEFAULT_NAMESPACE || home == SYSTEM_NAMESPACE,
        (true, _) => true,
    };
    if !agrees {
        errors.invalid(&Path::new("involvedObject").child("namespace"), about, "does not match event.namespace");
    }
    if !has_time {
        return;
    }
    let controller = text(event, "reportingComponent");
    if controller.is_empty() {
        errors.required(&Path::new(controller_field), "");
    }
    errors.judge(&Path::new(controller_field), controller, names::qualified_name(controller));
    for field in ["reportingInstance", "action", "reason"] {
        if text(event, field).is_empty() {
            errors.required(&Path::new(field), "");
        }
    }
    let limits = [("reportingInstance", CHARACTERS_MAX), ("action", CHARACTERS_MAX), ("reason", CHARACTERS_MAX)];
    for (field, most) in limits.into_iter().chain([("message", MESSAGE_CHARACTERS_MAX)]) {
        if text(event, field).len() > most {
            errors.invalid(&Path::new(field), "", &format!("can have at most {most} characters"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(validate: crate::registry::Validate, event: Value, expected: &[&str]) {
        let mut errors = Errors::default();
        validate(&event, None, &mut errors);
        let found: Vec<String> = errors.causes().into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        assert_eq!(found, expected, "{event}");
    }

    #[test]
    fn the_core_group_asks_for_little_and_its_own_for_all() {
        let about = json!({"namespace": "n"});
        check(core, json!({"metadata": {"namespace": "n"}, "involvedObject": about}), &[]);
        check(core, json!({"metadata": {"namespace": "default"}}), &[]);
        check(
            core,
            json!({"metadata": {"namespace": "m"}, "involvedObject": about}),
            &["involvedObject.namespace: Invalid value: \"n\": does not match event.namespace"],
        );
        let whole = json!({"metadata": {"namespace": "n"}, "regarding": about, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
            "reportingController": "c", "reportingInstance": "i", "action": "a", "reason": "r"});
        check(strict, whole.clone(), &[]);
        let mut old = whole;
        old["deprecatedCount"] = 1.into();
        old["action"] = "".into();
        check(strict, old, &["action: Required value", "count: Invalid value: \"\": needs to be unset"]);
    }
}
