//! Defaults of network policies and classes of Ingresses.

use serde_json::{Value, json};

use super::{default, each, fill, object};

pub fn policy(policy: &mut Value) {
    let Some(spec) = object(policy, "spec") else { return };
    default(spec, "podSelector", json!({}));
    for list in ["ingress", "egress"] {
        for rule in each(spec, list) {
            for port in each(rule, "ports") {
                default(port, "protocol", "TCP");
            }
        }
    }
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        spec.insert("policyTypes".into(), if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

/// An empty list of rules goes unsaid, unless it is all that there is: then validation tells.
pub fn prepare_ingress(ingress: &mut Value) {
    if let Some(spec) = object(ingress, "spec")
        && spec.contains_key("defaultBackend")
        && spec.get("rules").and_then(Value::as_array).is_some_and(Vec::is_empty)
    {
        spec.shift_remove("rules");
    }
}

pub fn ingress_class(class: &mut Value) {
    if let Some(parameters) = class.pointer_mut("/spec/parameters").and_then(Value::as_object_mut) {
        fill(parameters, "scope", "Cluster");
    }
}
