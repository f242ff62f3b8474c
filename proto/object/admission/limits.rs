//! LimitRanges: what containers get that say nothing, and the bounds that nobody may leave
//! (`plugin/pkg/admission/limitranger`).

use serde_json::{Map, Value, json};

use crate::amounts::{Amounts, of_container, of_pod, quantities};
use crate::meta;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Fills in defaults and checks the bounds of all ranges; `Err` has Kubernetes' words.
pub(super) fn pod(pod: &mut Value, ranges: &[Value]) -> Result<(), String> {
    let items: Vec<&Value> = ranges.iter().flat_map(|r| r.pointer("/spec/limits").and_then(Value::as_array)).flatten().collect();
    let mut told = Vec::new();
    for item in items.iter().filter(|item| item["type"] == "Container") {
        for (list, what) in [("initContainers", "init container"), ("containers", "container")] {
            for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                fill(container, item, what, &mut told);
            }
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        meta::edit(pod).entry("annotations").or_insert_with(|| json!({}))[ANNOTATION] = text.into();
    }
    let mut errors = Vec::new();
    for item in items {
        match item["type"].as_str() {
            Some("Container") => {
                for container in ["initContainers", "containers"].iter().flat_map(|list| pod["spec"][*list].as_array()).flatten() {
                    check(item, "Container", &of_container(container, "requests"), &of_container(container, "limits"), &mut errors);
                }
            }
            Some("Pod") => check(item, "Pod", &of_pod(pod, "requests"), &of_pod(pod, "limits"), &mut errors),
            _ => {}
        }
    }
    said(errors)
}

/// A claim against the ranges for claims.
pub(super) fn claim(claim: &Value, ranges: &[Value]) -> Result<(), String> {
    let mut errors = Vec::new();
    let requests = claim.pointer("/spec/resources/requests").map(quantities).unwrap_or_default();
    let items = ranges.iter().flat_map(|r| r.pointer("/spec/limits").and_then(Value::as_array)).flatten();
    for item in items.filter(|item| item["type"] == "PersistentVolumeClaim") {
        check(item, "PersistentVolumeClaim", &requests, &requests, &mut errors);
    }
    said(errors)
}

fn said(errors: Vec<String>) -> Result<(), String> {
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn fill(container: &mut Value, item: &Value, what: &str, told: &mut Vec<String>) {
    let name = container["name"].as_str().unwrap_or_default().to_string();
    for (field, default, word) in [("requests", "defaultRequest", "request"), ("limits", "default", "limit")] {
        let Some(defaults) = item.get(default).and_then(Value::as_object) else { continue };
        let resources = &mut container["resources"];
        if !resources[field].is_object() {
            resources[field] = Value::Object(Map::new());
        }
        let mut set: Vec<&str> = Vec::new();
        for (resource, amount) in defaults {
            if resources[field].get(resource).is_none() {
                resources[field][resource] = amount.clone();
                set.push(resource);
            }
        }
        set.sort_unstable();
        if !set.is_empty() {
            told.push(format!("{} {word} for {what} {name}", set.join(", ")));
        }
    }
}

fn check(item: &Value, kind: &str, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    for (name, least) in item.get("min").map(quantities).unwrap_or_default() {
        match requests.get(&name) {
            None => errors.push(format!("minimum {name} usage per {kind} is {}.  No request is specified", shown(item, "min", &name))),
            Some(found) if *found < least => {
                errors.push(format!("minimum {name} usage per {kind} is {}, but request is {found}", shown(item, "min", &name)));
            }
            Some(_) => {}
        }
    }
    for (name, most) in item.get("max").map(quantities).unwrap_or_default() {
        match limits.get(&name) {
            None => errors.push(format!("maximum {name} usage per {kind} is {}.  No limit is specified", shown(item, "max", &name))),
            Some(found) if *found > most => {
                errors.push(format!("maximum {name} usage per {kind} is {}, but limit is {found}", shown(item, "max", &name)));
            }
            Some(_) => {}
        }
    }
    for (name, ratio) in item.get("maxLimitRequestRatio").map(quantities).unwrap_or_default() {
        let (Some(request), Some(limit)) = (requests.get(&name).filter(|r| r.milli() > 0), limits.get(&name)) else { continue };
        if limit.milli() * 1000 > ratio.milli() * request.milli() {
            let found = limit.milli() as f64 / request.milli() as f64;
            let wanted = shown(item, "maxLimitRequestRatio", &name);
            errors.push(format!("{name} max limit to request ratio per {kind} is {wanted}, but provided ratio is {found:.6}"));
        }
    }
}

fn shown(item: &Value, field: &str, name: &str) -> String {
    item[field][name].as_str().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(limits: Value) -> Vec<Value> {
        vec![json!({"spec": {"limits": [limits]}})]
    }

    fn one(resources: Value) -> Value {
        json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn fills_in_and_says_so() {
        let mut object = one(json!({}));
        let ranges = range(json!({"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m", "memory": "1Mi"}}));
        assert_eq!(pod(&mut object, &ranges), Ok(()));
        let expected = json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m", "memory": "1Mi"}});
        assert_eq!(object.pointer("/spec/containers/0/resources"), Some(&expected));
        let told = "LimitRanger plugin set: cpu, memory request for container c; cpu limit for container c";
        assert_eq!(object["metadata"]["annotations"][ANNOTATION], told);
    }

    #[test]
    fn refuses_what_leaves_the_bounds() {
        let check = |limits: Value, resources: Value, expected: &str| {
            assert_eq!(pod(&mut one(resources), &range(limits)), Err(expected.into()));
        };
        let most = json!({"type": "Container", "max": {"cpu": "500m"}});
        check(most.clone(), json!({"limits": {"cpu": "600m"}}), "maximum cpu usage per Container is 500m, but limit is 600m");
        check(most, json!({}), "maximum cpu usage per Container is 500m.  No limit is specified");
        let least = json!({"type": "Pod", "min": {"cpu": "500m"}});
        check(least, json!({"requests": {"cpu": "100m"}}), "minimum cpu usage per Pod is 500m, but request is 100m");
        let ratio = json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}});
        check(
            ratio,
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "300m"}}),
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        );
    }
}
