//! Defaults of Deployments, ReplicaSets and ReplicationControllers.

use serde_json::{Map, Value, json};

use super::pod::pod_spec;
use super::{default, fill, object};

pub fn deployment(deployment: &mut Value) {
    let Some(spec) = object(deployment, "spec") else { return };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    default(spec, "strategy", json!({}));
    if let Some(strategy) = spec.get_mut("strategy").and_then(Value::as_object_mut) {
        fill(strategy, "type", "RollingUpdate");
        if strategy.get("type") == Some(&json!("RollingUpdate")) {
            default(strategy, "rollingUpdate", json!({}));
            if let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                default(rolling, "maxUnavailable", "25%");
                default(rolling, "maxSurge", "25%");
            }
        }
    }
    template(spec);
}

pub fn replica_set(set: &mut Value) {
    if let Some(spec) = object(set, "spec") {
        default(spec, "replicas", 1);
        template(spec);
    }
    if let Some(status) = object(set, "status") {
        default(status, "replicas", 0);
    }
}

/// Counts the templates that a DaemonSet has had; in `extensions/v1beta1` this was a field.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// The count goes on when the template changes, and is nobody's to write.
pub fn count_template(set: &mut Value, old: &Value) {
    let count: i64 = old["metadata"]["annotations"][TEMPLATE_GENERATION].as_str().and_then(|text| text.parse().ok()).unwrap_or(1);
    let changed = set["spec"]["template"] != old["spec"]["template"];
    let annotations = crate::meta::edit(set).entry("annotations").or_insert_with(|| json!({}));
    annotations[TEMPLATE_GENERATION] = (count + i64::from(changed)).to_string().into();
}

pub fn daemon_set(set: &mut Value) {
    let annotations = crate::meta::edit(set).entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        default(annotations, TEMPLATE_GENERATION, "1");
    }
    let Some(spec) = object(set, "spec") else { return };
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "updateStrategy", json!({}));
    if let Some(strategy) = spec.get_mut("updateStrategy").and_then(Value::as_object_mut) {
        fill(strategy, "type", "RollingUpdate");
        if strategy.get("type") == Some(&json!("RollingUpdate")) {
            default(strategy, "rollingUpdate", json!({}));
            if let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                default(rolling, "maxUnavailable", 1);
                default(rolling, "maxSurge", 0);
            }
        }
    }
    template(spec);
    if let Some(status) = object(set, "status") {
        for field in ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"] {
            default(status, field, 0);
        }
    }
}

pub fn stateful_set(set: &mut Value) {
    let Some(spec) = object(set, "spec") else { return };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    fill(spec, "podManagementPolicy", "OrderedReady");
    default(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
    if let Some(policy) = spec.get_mut("persistentVolumeClaimRetentionPolicy").and_then(Value::as_object_mut) {
        fill(policy, "whenDeleted", "Retain");
        fill(policy, "whenScaled", "Retain");
    }
    default(spec, "updateStrategy", json!({}));
    if let Some(strategy) = spec.get_mut("updateStrategy").and_then(Value::as_object_mut) {
        fill(strategy, "type", "RollingUpdate");
        if strategy.get("type") == Some(&json!("RollingUpdate")) {
            default(strategy, "rollingUpdate", json!({}));
            if let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                default(rolling, "partition", 0);
                default(rolling, "maxUnavailable", 1);
            }
        }
    }
    for claim in spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten() {
        super::storage::claim(claim);
        for (field, value) in [("apiVersion", "v1"), ("kind", "PersistentVolumeClaim")] {
            claim[field] = value.into();
        }
    }
    template(spec);
    if let Some(status) = object(set, "status") {
        for field in ["replicas", "availableReplicas"] {
            default(status, field, 0);
        }
    }
}

pub fn pod_template(template: &mut Value) {
    if let Some(spec) = template.pointer_mut("/template/spec").and_then(Value::as_object_mut) {
        pod_spec(spec);
    }
}

/// A ReplicationController takes selector and labels from its template (SetDefaults_ReplicationController).
pub fn replication_controller(controller: &mut Value) {
    let labels = controller.pointer("/spec/template/metadata/labels").cloned().filter(|l| l.as_object().is_some_and(|m| !m.is_empty()));
    if let Some(spec) = object(controller, "spec") {
        default(spec, "replicas", 1);
        if let Some(labels) = &labels {
            default(spec, "selector", labels.clone());
        }
        template(spec);
    }
    if let Some(labels) = labels {
        let metadata = crate::meta::edit(controller);
        default(metadata, "labels", labels);
    }
    if let Some(status) = object(controller, "status") {
        default(status, "replicas", 0);
    }
}

/// Fields of features that Kubernetes v1.37 has switched off; what is said there is not kept.
pub fn forget_disabled(set: &mut Value) {
    set.pointer_mut("/spec/template").into_iter().for_each(super::pod::forget_disabled);
}

/// What is 0 goes unsaid, unlike in newer kinds.
pub fn prepare_replication_controller(controller: &mut Value) {
    forget_disabled(controller);
    if let Some(spec) = object(controller, "spec")
        && spec.get("minReadySeconds") == Some(&json!(0))
    {
        spec.shift_remove("minReadySeconds");
    }
}

pub(super) fn template(spec: &mut Map<String, Value>) {
    if let Some(pod) = spec.get_mut("template").and_then(|t| t.get_mut("spec")).and_then(Value::as_object_mut) {
        pod_spec(pod);
    }
}
