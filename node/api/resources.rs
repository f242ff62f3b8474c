//! The few kinds that behave in a way of their own, and what is added to objects on admission.

pub(crate) mod binding;
pub(crate) mod eviction;
pub(crate) mod log;
pub(crate) mod review;
pub(crate) mod scale;
pub(crate) mod service;
pub(crate) mod stream;

use serde_json::{Value, json};
use skein_object::{Resource, Status};

use crate::route::Target;

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

/// The container that is meant: the one named, the annotated default, or the only one.
pub(crate) fn container(pod: &Value, target: &Target) -> Result<String, Status> {
    let names = |field: &str| -> Vec<String> {
        let list = pod.pointer(&format!("/spec/{field}")).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|c| c["name"].as_str().map(String::from)).collect()
    };
    let (containers, inits) = (names("containers"), names("initContainers"));
    match (target.query.get("container"), containers.as_slice()) {
        (Some(name), _) if containers.iter().chain(&inits).any(|c| c == name) => Ok(name.into()),
        (Some(name), _) => Err(Status::bad_request(format!("container {name} is not valid for pod {}", target.name))),
        (None, [one]) => Ok(one.clone()),
        (None, many) => {
            let extra = if inits.is_empty() { String::new() } else { format!(" or one of the init containers: [{}]", inits.join(" ")) };
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {}, choose one of: [{}]{extra}",
                target.name,
                many.join(" ")
            )))
        }
    }
}
