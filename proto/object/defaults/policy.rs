//! Defaults of autoscalers and priority classes.

use serde_json::{Map, Value, json};

use super::{default, fill, object};

pub fn priority_class(class: &mut Value) {
    if let Some(map) = class.as_object_mut() {
        default(map, "preemptionPolicy", "PreemptLowerPriority");
    }
}

pub fn priority_level(level: &mut Value) {
    if let Some(limited) = object(level, "spec").and_then(|spec| spec.get_mut("limited")).and_then(Value::as_object_mut) {
        default(limited, "nominalConcurrencyShares", 30);
        default(limited, "lendablePercent", 0);
    }
}

pub fn autoscaler_v1(autoscaler: &mut Value) {
    if let Some(spec) = object(autoscaler, "spec") {
        default(spec, "minReplicas", 1);
    }
}

/// `autoscaling/v2`, the stored version.
pub fn autoscaler(autoscaler: &mut Value) {
    if let Some(spec) = object(autoscaler, "spec") {
        autoscaler_spec(spec);
    }
    if let Some(status) = object(autoscaler, "status") {
        default(status, "desiredReplicas", 0);
        status.entry("currentMetrics").or_insert(Value::Null);
    }
}

pub(crate) fn autoscaler_spec(spec: &mut Map<String, Value>) {
    default(spec, "minReplicas", 1);
    if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        spec.insert("metrics".into(), json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    if let Some(behavior) = spec.get_mut("behavior").and_then(Value::as_object_mut) {
        rules(
            behavior,
            "scaleUp",
            &json!([
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15},
            ]),
        );
        if let Some(up) = behavior.get_mut("scaleUp").and_then(Value::as_object_mut) {
            default(up, "stabilizationWindowSeconds", 0);
        }
        rules(behavior, "scaleDown", &json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
    }
}

fn rules(behavior: &mut Map<String, Value>, direction: &str, policies: &Value) {
    default(behavior, direction, json!({}));
    let Some(rules) = behavior.get_mut(direction).and_then(Value::as_object_mut) else { return };
    default(rules, "selectPolicy", "Max");
    default(rules, "policies", policies.clone());
}

/// Fields of a feature that Kubernetes v1.37 has switched off (KEP-4355); what is said there is not kept.
pub fn forget_coordination(lease: &mut Value) {
    if let Some(spec) = lease.get_mut("spec").and_then(Value::as_object_mut) {
        for field in ["preferredHolder", "strategy"] {
            spec.shift_remove(field);
        }
    }
}

/// One that says nothing comes after most (FlowSchemaDefaultMatchingPrecedence).
pub fn flow_schema(schema: &mut Value) {
    if let Some(spec) = object(schema, "spec") {
        fill(spec, "matchingPrecedence", 1000);
    }
}
