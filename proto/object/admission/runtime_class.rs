//! What a Pod gets from its RuntimeClass: overhead, and where it may run (KEP-688).

use serde_json::Value;

use crate::Key;
use crate::quantity::Quantity;

pub(super) fn complete(pod: &mut Value, get: &dyn Fn(&Key) -> Option<Value>) -> Result<(), String> {
    let Some(class) = class_of(pod, get)? else { return Ok(()) };
    let spec = &mut pod["spec"];
    let overhead = class.pointer("/overhead/podFixed").filter(|overhead| !overhead.is_null());
    match (overhead, spec.get("overhead").filter(|stated| !stated.is_null())) {
        (Some(overhead), Some(stated)) if amounts(overhead) != amounts(stated) => {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        (Some(overhead), _) => spec["overhead"] = overhead.clone(),
        (None, _) => {}
    }
    for (key, value) in class.pointer("/scheduling/nodeSelector").and_then(Value::as_object).into_iter().flatten() {
        match spec["nodeSelector"].get(key) {
            Some(stated) if stated != value => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    text(value),
                    text(stated)
                ));
            }
            _ => spec["nodeSelector"][key] = value.clone(),
        }
    }
    for toleration in class.pointer("/scheduling/tolerations").and_then(Value::as_array).into_iter().flatten() {
        match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            Some(known) if known.contains(toleration) => {}
            Some(known) => known.push(toleration.clone()),
            None => spec["tolerations"] = vec![toleration.clone()].into(),
        }
    }
    Ok(())
}

/// Only a class gives a Pod overhead.
pub(super) fn judge(pod: &Value, get: &dyn Fn(&Key) -> Option<Value>) -> Result<(), String> {
    let has_overhead = |value: Option<&Value>| value.is_some_and(|overhead| !overhead.is_null());
    let of_class = class_of(pod, get)?.is_some_and(|class| has_overhead(class.pointer("/overhead/podFixed")));
    if has_overhead(pod["spec"].get("overhead")) && !of_class {
        return Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into());
    }
    Ok(())
}

fn class_of(pod: &Value, get: &dyn Fn(&Key) -> Option<Value>) -> Result<Option<Value>, String> {
    let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
    let class = get(&Key::new("runtimeclasses.node.k8s.io", "", name));
    class.map(Some).ok_or_else(|| format!("pod rejected: RuntimeClass {name:?} not found"))
}

/// Names and amounts, however they are written.
fn amounts(map: &Value) -> Vec<(&String, Option<Quantity>)> {
    let mut found: Vec<_> =
        map.as_object().into_iter().flatten().map(|(name, amount)| (name, amount.as_str().and_then(|text| text.parse().ok()))).collect();
    found.sort_by_key(|(name, _)| *name);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_gets_its_classs_overhead_and_place() {
        let class = json!({"overhead": {"podFixed": {"cpu": "10m"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}});
        let check = |spec: Value, expected: Result<Value, &str>| {
            let mut pod = json!({"spec": spec});
            let get = |key: &Key| (key.name() == "c").then(|| class.clone());
            let found = complete(&mut pod, &get).and_then(|()| judge(&pod, &get)).map(|()| pod["spec"].clone());
            assert_eq!(found.as_ref().map_err(String::as_str), expected.as_ref().map_err(|why| *why));
        };
        let full = json!({"runtimeClassName": "c", "overhead": {"cpu": "10m"}, "nodeSelector": {"a": "b"},
            "tolerations": [{"key": "k", "operator": "Exists"}]});
        check(json!({"runtimeClassName": "c"}), Ok(full.clone()));
        check(full.clone(), Ok(full));
        check(json!({}), Ok(json!({})));
        check(json!({"runtimeClassName": "none"}), Err("pod rejected: RuntimeClass \"none\" not found"));
        check(
            json!({"runtimeClassName": "c", "overhead": {"cpu": "1"}}),
            Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"),
        );
        check(json!({"overhead": {"cpu": "1"}}), Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"));
        check(
            json!({"runtimeClassName": "c", "nodeSelector": {"a": "c"}}),
            Err("conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c"),
        );
    }
}
