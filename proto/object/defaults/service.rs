//! Defaults of Services.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

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

/// What v1beta1 had is not taken any more (`dropTopologyOnV1`).
pub fn prepare_endpoint_slice(slice: &mut Value) {
    let Some(map) = slice.as_object_mut() else { return };
    each(map, "endpoints").for_each(|endpoint| drop(endpoint.shift_remove("deprecatedTopology")));
}

pub fn service(service: &mut Value) {
    let is_balanced = service.pointer("/spec/type").is_some_and(|kind| kind == "LoadBalancer");
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
        if let Some(balancer) = status.get_mut("loadBalancer").and_then(Value::as_object_mut).filter(|_| is_balanced) {
            for ingress in each(balancer, "ingress").filter(|ingress| ingress.contains_key("ip")) {
                fill(ingress, "ipMode", "VIP");
            }
        }
    }
}

/// The cluster's one address family.
pub fn prepare_service(service: &mut Value) {
    if let Some(spec) = object(service, "spec").filter(|spec| spec.get("type") != Some(&json!("ExternalName"))) {
        default(spec, "ipFamilies", json!(["IPv4"]));
        default(spec, "ipFamilyPolicy", "SingleStack");
    }
}

/// What an update keeps of what was allocated where it says nothing of it, and what goes with the type that needed it
/// where it is unchanged (`patchAllocatedValues`, `dropTypeDependentFields`).
pub fn carry_over_service(service: &mut Value, old: &Value) {
    let (Some(new), Some(old)) = (object(service, "spec"), old.get("spec").and_then(Value::as_object)) else { return };
    let (kind, before) = (kind(new), kind(old));
    let has_node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    match (before == "ExternalName", kind == "ExternalName") {
        (false, false) => {
            keep(new, old, "clusterIP");
            if new.get("clusterIP") == old.get("clusterIP") {
                keep(new, old, "clusterIPs");
            }
        }
        (false, true) => forget(new, old, &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]),
        _ => {}
    }
    if has_node_ports(&before) && has_node_ports(&kind) {
        keep_node_ports(new, old);
    } else if has_node_ports(&before) && node_ports(new) == node_ports(old) {
        each(new, "ports").for_each(|port| drop(port.shift_remove("nodePort")));
    }
    if before == "LoadBalancer" && kind != "LoadBalancer" {
        forget(new, old, &["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"]);
    }
    if is_external(old) && !is_external(new) {
        forget(new, old, &["externalTrafficPolicy"]);
    }
}

fn kind(spec: &Map<String, Value>) -> String {
    spec.get("type").and_then(Value::as_str).filter(|kind| !kind.is_empty()).unwrap_or("ClusterIP").into()
}

/// Whether it can be reached from outside by an address of its own or of a node.
fn is_external(spec: &Map<String, Value>) -> bool {
    let has_addresses = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|addresses| !addresses.is_empty());
    matches!(kind(spec).as_str(), "NodePort" | "LoadBalancer") || has_addresses
}

/// Takes a field from the old object where the new one says nothing.
fn keep(new: &mut Map<String, Value>, old: &Map<String, Value>, field: &str) {
    let says_nothing = new.get(field).is_none_or(|value| value.is_null() || value == "" || value == &json!([]));
    if let Some(value) = old.get(field).filter(|_| says_nothing) {
        new.insert(field.into(), value.clone());
    }
}

/// Drops what is as it was.
fn forget(new: &mut Map<String, Value>, old: &Map<String, Value>, fields: &[&str]) {
    for field in fields {
        if new.get(*field) == old.get(*field) {
            new.shift_remove(*field);
        }
    }
}

fn ports(spec: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    spec.get("ports").and_then(Value::as_array).into_iter().flatten()
}

fn node_ports(spec: &Map<String, Value>) -> BTreeSet<u64> {
    ports(spec).filter_map(|port| port.get("nodePort")?.as_u64()).filter(|number| *number > 0).collect()
}

/// A port that names no node port keeps the one that the port of its name had, unless another has it now.
fn keep_node_ports(new: &mut Map<String, Value>, old: &Map<String, Value>) {
    let name = |port: &Value| port.get("name").and_then(Value::as_str).unwrap_or_default().to_string();
    let before: BTreeMap<String, u64> = ports(old).filter_map(|port| Some((name(port), port.get("nodePort")?.as_u64()?))).collect();
    let used = node_ports(new);
    for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let number = before.get(&name(port)).filter(|number| !used.contains(number));
        if let Some(number) = number.filter(|_| port.get("nodePort").and_then(Value::as_u64).unwrap_or_default() == 0) {
            port["nodePort"] = (*number).into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &Value, new: &Value, expected: &Value) {
        let mut service = json!({"spec": new});
        carry_over_service(&mut service, &json!({"spec": old}));
        assert_eq!(&service["spec"], expected, "{new}");
    }

    #[test]
    fn what_a_type_needed_goes_with_it() {
        let balanced = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "externalTrafficPolicy": "Cluster",
            "allocateLoadBalancerNodePorts": true, "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "a", "port": 80, "nodePort": 30001}]});
        let changed = |changes: Value| {
            let mut changed = balanced.clone();
            changes.as_object().into_iter().flatten().for_each(|(field, value)| changed[field] = value.clone());
            changed
        };
        check(
            &balanced,
            &changed(json!({"type": "ClusterIP"})),
            &json!({"type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack", "ports": [{"name": "a", "port": 80}]}),
        );
        check(
            &balanced,
            &changed(json!({"type": "ExternalName", "externalName": "a.b"})),
            &json!({"type": "ExternalName", "externalName": "a.b", "ports": [{"name": "a", "port": 80}]}),
        );
        // What was changed along with the type is for validation to judge.
        let ports = json!([{"name": "a", "port": 80, "nodePort": 30002}]);
        let mut kept = changed(json!({"type": "ClusterIP", "ports": ports}));
        for field in ["allocateLoadBalancerNodePorts", "externalTrafficPolicy"] {
            kept.as_object_mut().expect("a map").shift_remove(field);
        }
        check(&balanced, &changed(json!({"type": "ClusterIP", "ports": ports})), &kept);
    }

    #[test]
    fn what_was_allocated_stays() {
        let old = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30002}]});
        check(
            &old,
            &json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30002}, {"name": "b", "port": 82}, {"name": "c", "port": 83}]}),
            &json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30002}, {"name": "b", "port": 82}, {"name": "c", "port": 83}],
                "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}),
        );
        check(
            &old,
            &json!({"type": "NodePort", "ports": [{"name": "b", "port": 80}]}),
            &json!({"type": "NodePort", "ports": [{"name": "b", "port": 80, "nodePort": 30002}], "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}),
        );
    }
}
