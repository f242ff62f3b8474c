//! Defaults of Services.

use serde_json::{Value, json};

use super::{default, each, fill, object};

pub fn endpoints(endpoints: &mut Value) {
    let Some(map) = endpoints.as_object_mut() else { return };
    for subset in each(map, "subsets") {
        each(subset, "ports").for_each(|port| fill(port, "protocol", "TCP"));
    }
}

pub fn endpoint_slice(slice: &mut Value) {
    let Some(map) = slice.as_object_mut() else { return };
    for port in each(map, "ports") {
        default(port, "name", "");
        default(port, "protocol", "TCP");
    }
}

pub fn service(service: &mut Value) {
    if let Some(spec) = object(service, "spec") {
        fill(spec, "sessionAffinity", "None");
        fill(spec, "type", "ClusterIP");
        let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_string();
        for port in each(spec, "ports") {
            fill(port, "protocol", "TCP");
            if let Some(number) = port.get("port").cloned() {
                fill(port, "targetPort", number);
            }
        }
        if kind != "ExternalName" {
            default(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "NodePort" || kind == "LoadBalancer" {
            fill(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
        if spec.get("sessionAffinity") == Some(&json!("ClientIP")) {
            default(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
        } else if spec.get("sessionAffinity") == Some(&json!("None")) {
            spec.shift_remove("sessionAffinityConfig");
        }
    }
    if let Some(status) = object(service, "status") {
        default(status, "loadBalancer", json!({}));
    }
}

/// The cluster's one address family.
pub fn prepare_service(service: &mut Value) {
    if let Some(spec) = object(service, "spec").filter(|spec| spec.get("type") != Some(&json!("ExternalName"))) {
        default(spec, "ipFamilies", json!(["IPv4"]));
        default(spec, "ipFamilyPolicy", "SingleStack");
    }
}
