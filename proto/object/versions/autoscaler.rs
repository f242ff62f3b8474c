//! `autoscaling/v1` shows one target, the CPU; what else an autoscaler of v2 says travels in annotations
//! (`pkg/apis/autoscaling/v1/conversion.go`).

use serde_json::{Map, Value, json};

use crate::meta;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

pub(crate) fn show(autoscaler: &mut Value) {
    let mut notes = Vec::new();
    if let Some(spec) = autoscaler.get_mut("spec").and_then(Value::as_object_mut) {
        let (percent, others) = split(spec.shift_remove("metrics"), "/resource/target/averageUtilization");
        if let Some(percent) = percent {
            spec.insert("targetCPUUtilizationPercentage".into(), percent);
        }
        notes.push((METRICS, others));
        notes.push((BEHAVIOR, spec.shift_remove("behavior")));
    }
    if let Some(status) = autoscaler.get_mut("status").and_then(Value::as_object_mut) {
        let (percent, others) = split(status.shift_remove("currentMetrics"), "/resource/current/averageUtilization");
        if let Some(percent) = percent {
            status.insert("currentCPUUtilizationPercentage".into(), percent);
        }
        status.entry("currentReplicas").or_insert(json!(0));
        notes.push((CURRENT, others));
        notes.push((CONDITIONS, status.shift_remove("conditions")));
    }
    let metadata = meta::edit(autoscaler);
    for (annotation, value) in notes {
        if let Some(value) = value {
            let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
            annotations[annotation] = value.to_string().into();
        }
    }
}

pub(crate) fn store(autoscaler: &mut Value) {
    let metadata = meta::edit(autoscaler);
    let mut take = |annotation: &str| -> Option<Value> {
        let text = metadata.get_mut("annotations")?.as_object_mut()?.shift_remove(annotation)?;
        serde_json::from_str(text.as_str()?).ok()
    };
    let [metrics, behavior, current, conditions] = [METRICS, BEHAVIOR, CURRENT, CONDITIONS].map(&mut take);
    if let Some(spec) = autoscaler.get_mut("spec").and_then(Value::as_object_mut) {
        let percent = spec.shift_remove("targetCPUUtilizationPercentage").filter(|p| !p.is_null());
        let cpu = |percent: Value| json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}});
        join(spec, "metrics", percent.map(cpu), metrics);
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), behavior);
        }
        crate::defaults::policy::autoscaler_spec(spec);
    }
    if let Some(status) = autoscaler.get_mut("status").and_then(Value::as_object_mut) {
        let percent = status.shift_remove("currentCPUUtilizationPercentage").filter(|p| !p.is_null());
        let cpu = |percent: Value| json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent, "averageValue": "0"}}});
        join(status, "currentMetrics", percent.map(cpu), current);
        if let Some(conditions) = conditions {
            status.insert("conditions".into(), conditions);
        }
    }
}

/// Takes the first CPU metric out of a list; what is left, if anything, is for an annotation.
fn split(metrics: Option<Value>, percent: &str) -> (Option<Value>, Option<Value>) {
    let Some(Value::Array(mut list)) = metrics else { return (None, None) };
    let is_cpu = |m: &Value| m.pointer("/resource/name").and_then(Value::as_str) == Some("cpu") && m.pointer(percent).is_some();
    let found = list.iter().position(is_cpu).map(|at| list.remove(at));
    let percent = found.and_then(|metric| metric.pointer(percent).cloned());
    (percent, (!list.is_empty()).then_some(Value::Array(list)))
}

fn join(map: &mut Map<String, Value>, field: &str, first: Option<Value>, others: Option<Value>) {
    let others = others.and_then(|o| o.as_array().cloned()).unwrap_or_default();
    let list: Vec<Value> = first.into_iter().chain(others).collect();
    if !list.is_empty() {
        map.insert(field.into(), list.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_holds_all_that_v2_says() {
        let stored = json!({"metadata": {"name": "a"}, "spec": {"minReplicas": 1, "maxReplicas": 3, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
            {"type": "Pods", "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
        ]}, "status": {"desiredReplicas": 1, "currentReplicas": 1}});
        let mut shown = stored.clone();
        show(&mut shown);
        assert_eq!(shown.pointer("/spec/targetCPUUtilizationPercentage"), Some(&json!(50)));
        store(&mut shown);
        assert_eq!(shown.get("spec"), stored.get("spec"));
    }
}
