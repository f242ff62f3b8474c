//! Defaults of Pods and Pod templates.

use serde_json::{Map, Value, json};

use super::{default, each, fill, object, object_in};

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
    // The older name of the field is still read, and written.
    if let Some(account) = spec.get("serviceAccountName").or(spec.get("serviceAccount")).cloned() {
        fill(spec, "serviceAccountName", account.clone());
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
            if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
                default(grpc, "service", "");
            }
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
        if let Some(from) = env.get_mut("valueFrom").and_then(Value::as_object_mut) {
            field_ref(from);
        }
    }
}

fn field_ref(source: &mut Map<String, Value>) {
    if let Some(field) = source.get_mut("fieldRef").and_then(Value::as_object_mut) {
        fill(field, "apiVersion", "v1");
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
    volume_source(volume);
    for file in source(volume, "downwardAPI").into_iter().flat_map(|downward| each(downward, "items")) {
        field_ref(file);
    }
    for one in source(volume, "projected").into_iter().flat_map(|projected| each(projected, "sources")) {
        for file in source(one, "downwardAPI").into_iter().flat_map(|downward| each(downward, "items")) {
            field_ref(file);
        }
        if let Some(token) = source(one, "serviceAccountToken") {
            default(token, "expirationSeconds", 3600);
        }
    }
    if let Some(image) = source(volume, "image") {
        let policy = if is_latest(image.get("reference").and_then(Value::as_str).unwrap_or_default()) { "Always" } else { "IfNotPresent" };
        fill(image, "pullPolicy", policy);
    }
    if let Some(template) = source(volume, "ephemeral").and_then(|ephemeral| source(ephemeral, "volumeClaimTemplate"))
        && let Some(spec) = object_in(template, "spec")
    {
        default(spec, "volumeMode", "Filesystem");
    }
}

/// What volumes of Pods and PersistentVolumes have in common.
pub(super) fn volume_source(volume: &mut Map<String, Value>) {
    if let Some(path) = source(volume, "hostPath") {
        default(path, "type", "");
    }
    if let Some(iscsi) = source(volume, "iscsi") {
        fill(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = source(volume, "rbd") {
        fill(rbd, "pool", "rbd");
        fill(rbd, "user", "admin");
        fill(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = source(volume, "azureDisk") {
        for (field, value) in
            [("cachingMode", json!("ReadWrite")), ("kind", json!("Shared")), ("fsType", json!("ext4")), ("readOnly", json!(false))]
        {
            default(disk, field, value);
        }
    }
    if let Some(scale_io) = source(volume, "scaleIO") {
        fill(scale_io, "storageMode", "ThinProvisioned");
        fill(scale_io, "fsType", "xfs");
    }
}

fn source<'a>(volume: &'a mut Map<String, Value>, kind: &str) -> Option<&'a mut Map<String, Value>> {
    volume.get_mut(kind).and_then(Value::as_object_mut)
}

/// Fields of features that Kubernetes v1.37 has switched off; what is said there is not kept.
pub fn forget_disabled(pod: &mut Value) {
    const SPEC: [&str; 2] = ["evictionResponders", "schedulingGroup"];
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    // Less than nothing is as little as there is.
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds < 0) {
        spec.insert("terminationGracePeriodSeconds".into(), 1.into());
    }
    SPEC.iter().for_each(|field| drop(spec.shift_remove(*field)));
    for one in ["containers", "initContainers", "ephemeralContainers"] {
        for container in each(spec, one) {
            if let Some(lifecycle) = source(container, "lifecycle") {
                let was_said = lifecycle.shift_remove("stopSignal").is_some();
                for hook in ["postStart", "preStop"] {
                    forget_in_handler(source(lifecycle, hook));
                }
                if was_said && lifecycle.is_empty() {
                    container.shift_remove("lifecycle");
                }
            }
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                forget_in_handler(source(container, probe));
            }
            each(container, "volumeMounts").for_each(|mount| drop(mount.shift_remove("bindMountOptions")));
        }
    }
    for volume in each(spec, "volumes") {
        if let Some(directory) = source(volume, "emptyDir") {
            directory.shift_remove("mode");
        }
        for kind in ["secret", "configMap", "downwardAPI", "projected"] {
            forget_users(source(volume, kind));
        }
        for one in source(volume, "projected").into_iter().flat_map(|projected| each(projected, "sources")) {
            for kind in ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"] {
                forget_users(source(one, kind));
            }
        }
    }
}

fn forget_in_handler(handler: Option<&mut Map<String, Value>>) {
    let Some(handler) = handler else { return };
    if let Some(get) = source(handler, "httpGet") {
        get.shift_remove("protocol");
    }
    if let Some(grpc) = source(handler, "grpc") {
        grpc.shift_remove("mode");
    }
}

/// Who owns files of a volume.
fn forget_users(source: Option<&mut Map<String, Value>>) {
    let Some(source) = source else { return };
    for field in ["defaultUser", "user"] {
        source.shift_remove(field);
    }
    each(source, "items").for_each(|item| drop(item.shift_remove("user")));
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
    let is_reference = image.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._:/@[]".contains(&c));
    if image.contains('@') || !is_reference {
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
