//! Defaults of Pods and Pod templates.

use serde_json::{Map, Value, json};

use super::{default, each, fill, object};

pub fn pod(pod: &mut Value) {
    if let Some(spec) = object(pod, "spec") {
        pod_spec(spec);
        // A Pod, unlike a template, starts with its requests made from its limits (SetDefaults_Pod).
        for list in ["containers", "initContainers"] {
            for container in each(spec, list) {
                requests_from_limits(container);
            }
        }
        default(spec, "enableServiceLinks", true);
    }
    let class = qos_class(pod.pointer("/spec").unwrap_or(&Value::Null));
    if let Some(status) = object(pod, "status") {
        default(status, "phase", "Pending");
        default(status, "qosClass", class);
    }
    mark_gated(pod);
}

/// A Pod with scheduling gates says from its first moment why it has no node (`applySchedulingGatedCondition`).
fn mark_gated(pod: &mut Value) {
    let is_gated = pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty());
    let Some(status) = object(pod, "status").filter(|_| is_gated) else { return };
    default(status, "conditions", json!([]));
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    if conditions.iter().all(|condition| condition["type"] != "PodScheduled") {
        conditions.push(json!({"type": "PodScheduled", "status": "False", "lastProbeTime": null, "lastTransitionTime": null,
            "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates"}));
    }
}

pub(super) fn pod_spec(spec: &mut Map<String, Value>) {
    fill(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "securityContext", json!({}));
    fill(spec, "schedulerName", "default-scheduler");
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        fill(spec, "serviceAccount", account);
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for one in each(spec, list) {
            container(one, host_network);
        }
    }
    for one in each(spec, "volumes") {
        volume(one);
    }
}

fn container(container: &mut Map<String, Value>, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    fill(container, "imagePullPolicy", policy);
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    for port in each(container, "ports") {
        fill(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            fill(port, "hostPort", number);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
            for (field, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)] {
                fill(probe, field, value);
            }
            http_get(probe);
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = lifecycle.get_mut(hook).and_then(Value::as_object_mut) {
                http_get(hook);
            }
        }
    }
    for env in each(container, "env") {
        if let Some(field) = env.get_mut("valueFrom").and_then(|v| v.get_mut("fieldRef")).and_then(Value::as_object_mut) {
            fill(field, "apiVersion", "v1");
        }
    }
}

fn http_get(handler: &mut Map<String, Value>) {
    if let Some(get) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        fill(get, "path", "/");
        fill(get, "scheme", "HTTP");
    }
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.len() == 1 {
        volume.insert("emptyDir".into(), json!({}));
    }
    for (source, mode) in [("secret", 0o644), ("configMap", 0o644), ("downwardAPI", 0o644), ("projected", 0o644)] {
        if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
            default(source, "defaultMode", mode);
        }
    }
    if let Some(path) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        default(path, "type", "");
    }
}

fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    default(resources, "requests", json!({}));
    if let Some(requests) = resources.get_mut("requests").and_then(Value::as_object_mut) {
        for (name, limit) in limits {
            default(requests, &name, limit);
        }
    }
}

/// Whether an image reference asks for a moving tag: `:latest`, or neither tag nor digest.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    match image.rsplit('/').next().unwrap_or_default().split_once(':') {
        None => true,
        Some((_, tag)) => tag == "latest",
    }
}

/// The quality of service class (`pkg/apis/core/helper/qos`).
pub fn qos_class(spec: &Value) -> &'static str {
    let of = |list: &str| spec.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
    let containers: Vec<Value> = of("containers").into_iter().chain(of("initContainers")).collect();
    let amount = |c: &Value, kind: &str, name: &str| {
        let text = c.pointer(&format!("/resources/{kind}/{name}")).and_then(Value::as_str)?;
        text.parse::<crate::quantity::Quantity>().ok().filter(|q| q.milli() > 0)
    };
    let mut any = false;
    let mut guaranteed = true;
    for container in &containers {
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount(container, "requests", name), amount(container, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_what_kubernetes_fills_in() {
        let mut object = json!({"metadata": {"name": "a"}, "spec": {"containers": [
            {"name": "c", "image": "nginx", "resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 80}]}]}});
        pod(&mut object);
        let expect = |pointer: &str, value: Value| assert_eq!(object.pointer(pointer), Some(&value), "{pointer}");
        expect("/spec/restartPolicy", json!("Always"));
        expect("/spec/containers/0/imagePullPolicy", json!("Always"));
        expect("/spec/containers/0/ports/0/protocol", json!("TCP"));
        expect("/spec/containers/0/resources/requests/cpu", json!("1"));
        expect("/status/qosClass", json!("Burstable"));
    }

    #[test]
    fn knows_moving_tags() {
        let check = |image: &str, latest: bool| assert_eq!(is_latest(image), latest, "{image}");
        check("nginx", true);
        check("localhost:5000/nginx", true);
        check("nginx:1.22", false);
        check("nginx:latest", true);
        check("nginx@sha256:00", false);
    }
}
