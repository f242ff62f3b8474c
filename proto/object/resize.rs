//! `pods/resize` (KEP-1287): the resources of containers change while they run, and nothing else does.

use serde_json::Value;

use crate::defaults::pod::qos_class;
use crate::field::{Errors, Path};
use crate::validate::pod::pod_spec;

const LISTS: [&str; 2] = ["containers", "initContainers"];

/// What may be resized.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// The object as it was, with the resources and the resize policies that are wanted. Containers that are other ones, or
/// in another order, are left for [`validate`] to refuse.
pub fn taken(wanted: Value, old: &Value) -> Value {
    let names = |pod: &Value, list: &str| -> Vec<Value> { containers(pod, list).iter().map(|c| c["name"].clone()).collect() };
    if LISTS.iter().any(|list| names(&wanted, list) != names(old, list)) {
        return wanted;
    }
    let mut taken = old.clone();
    for list in LISTS {
        let new = containers(&wanted, list);
        for (container, new) in taken["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().zip(new) {
            for field in ["resources", "resizePolicy"] {
                match new.get(field) {
                    Some(value) => container[field] = value.clone(),
                    None => drop(container.as_object_mut().and_then(|map| map.shift_remove(field))),
                }
            }
        }
    }
    taken
}

fn containers<'a>(pod: &'a Value, list: &str) -> &'a [Value] {
    pod["spec"].get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// `ValidatePodResize`
pub fn validate(pod: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    pod_spec(&pod["spec"], &path, errors);
    if old["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some() {
        return errors.forbidden(&Path::new(""), "static pods cannot be resized");
    }
    if qos_class(&pod["spec"]) != qos_class(&old["spec"]) {
        errors.invalid(&path, qos_class(&old["spec"]), "Pod QOS Class may not change as a result of resizing");
    }
    for list in LISTS {
        let (new, before) = (containers(pod, list), containers(old, list));
        if new.len() != before.len() {
            return errors.forbidden(&path.child(list), &format!("{list} may not be added or removed on resize"));
        }
        for (index, (new, before)) in new.iter().zip(before).enumerate() {
            let path = path.child(list).index(index);
            if new["name"] != before["name"] {
                errors.forbidden(&path.child("name"), "containers may not be renamed or reordered on resize");
                continue;
            }
            if list == "initContainers" && before["restartPolicy"] != "Always" && new != before {
                errors.forbidden(&path, "resources for non-sidecar init containers are immutable");
                continue;
            }
            resources(&new["resources"], &before["resources"], &path.child("resources"), errors);
        }
    }
}

fn resources(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    for kind in ["requests", "limits"] {
        let map = |value: &Value| value[kind].as_object().cloned().unwrap_or_default();
        let (new, old) = (map(new), map(old));
        if old.keys().any(|name| !new.contains_key(name)) {
            errors.forbidden(&path.child(kind), &format!("resource {kind} cannot be removed"));
        }
        let others = |map: &serde_json::Map<String, Value>| -> Vec<(String, Value)> {
            map.iter().filter(|(name, _)| !RESIZABLE.contains(&name.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect()
        };
        if others(&new) != others(&old) {
            errors.forbidden(&Path::new("spec"), "only cpu and memory resources are mutable");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(resources: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x", "resources": resources}]}});
        crate::defaults::pod::pod(&mut pod);
        pod
    }

    #[test]
    fn only_resources_change() {
        let old = pod(json!({"requests": {"cpu": "1"}}));
        let mut wanted = pod(json!({"requests": {"cpu": "2"}}));
        wanted["spec"]["containers"][0]["image"] = "y".into();
        wanted["metadata"]["labels"] = json!({"a": "b"});
        let taken = taken(wanted, &old);
        assert_eq!(taken["spec"]["containers"][0]["resources"]["requests"]["cpu"], "2");
        assert_eq!((&taken["spec"]["containers"][0]["image"], taken["metadata"].get("labels")), (&json!("x"), None));
    }

    #[test]
    fn what_a_resize_may_not_do_is_said() {
        let check = |old: Value, new: Value, expected: &str| {
            let mut errors = Errors::default();
            validate(&pod(new), &pod(old), &mut errors);
            let found: Vec<String> = errors.causes().into_iter().map(|cause| cause.message).collect();
            assert_eq!(found.join("; "), expected);
        };
        let with = |resources: Value| json!({"requests": resources});
        check(with(json!({"cpu": "1"})), with(json!({"cpu": "2"})), "");
        check(with(json!({"cpu": "1"})), with(json!({"cpu": "1", "memory": "1Mi"})), "");
        check(with(json!({"cpu": "1", "memory": "1Mi"})), with(json!({"cpu": "1"})), "Forbidden: resource requests cannot be removed");
        check(
            with(json!({"cpu": "1"})),
            with(json!({"cpu": "1", "ephemeral-storage": "1Mi"})),
            "Forbidden: only cpu and memory resources are mutable",
        );
        check(json!({}), with(json!({"cpu": "1"})), "Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of resizing");
    }
}
