//! The few kinds that behave in a way of their own, and what is added to objects on admission.

pub(crate) mod binding;
pub(crate) mod eviction;
pub(crate) mod log;
pub(crate) mod review;
pub(crate) mod scale;
pub(crate) mod service;

use serde_json::{Value, json};
use skein_object::Resource;

/// What the admission plugins of Kubernetes add to a new object: ServiceAccount and Priority.
pub(crate) fn admit_creation(resource: &Resource, object: &mut Value) {
    if resource.plural != "pods" {
        return;
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for (field, value) in [("serviceAccountName", json!("default")), ("serviceAccount", json!("default"))] {
        spec.entry(field).or_insert(value);
    }
    spec.entry("priority").or_insert(json!(0));
    spec.entry("preemptionPolicy").or_insert(json!("PreemptLowerPriority"));
}
