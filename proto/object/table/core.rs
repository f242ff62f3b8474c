//! Columns of the core group and of what belongs to it.

use jiff::Timestamp;
use serde_json::Value;

use super::{Column, age, column, items, joined, labels_text, name, number, since, text_or, wide};

pub(crate) fn config_map() -> Vec<Column> {
    vec![name(), column("Data", "string", |o, _| (count(o, "data") + count(o, "binaryData")).into()), age()]
}

pub(crate) fn secret() -> Vec<Column> {
    vec![
        name(),
        column("Type", "string", |o, _| text_or(o, "/type", "").into()),
        column("Data", "string", |o, _| count(o, "data").into()),
        age(),
    ]
}

pub(crate) fn namespace() -> Vec<Column> {
    vec![name(), column("Status", "string", |o, _| text_or(o, "/status/phase", "").into()), age()]
}

pub(crate) fn lease() -> Vec<Column> {
    vec![name(), column("Holder", "string", |o, _| text_or(o, "/spec/holderIdentity", "").into()), age()]
}

/// Of both groups: the fields have other names in `events.k8s.io`.
pub(crate) fn event() -> Vec<Column> {
    vec![
        column("Last Seen", "string", |o, now| since(&last_seen(o), now).into()),
        column("Type", "string", |o, _| text_or(o, "/type", "").into()),
        column("Reason", "string", |o, _| text_or(o, "/reason", "").into()),
        column("Object", "string", |o, _| {
            let kind = either(o, "/involvedObject/kind", "/regarding/kind").to_lowercase();
            format!("{kind}/{}", either(o, "/involvedObject/name", "/regarding/name")).into()
        }),
        wide("Subobject", "string", |o, _| either(o, "/involvedObject/fieldPath", "/regarding/fieldPath").into()),
        wide("Source", "string", |o, _| either(o, "/source/component", "/deprecatedSource/component").into()),
        column("Message", "string", |o, _| either(o, "/message", "/note").trim().into()),
        wide("First Seen", "string", |o, now| since(&either(o, "/firstTimestamp", "/deprecatedFirstTimestamp"), now).into()),
        wide("Count", "string", |o, _| number(o, "/count").max(number(o, "/deprecatedCount")).max(1).into()),
        Column { priority: 1, ..name() },
    ]
}

fn either(object: &Value, pointer: &str, other: &str) -> String {
    text_or(object, pointer, &text_or(object, other, ""))
}

fn last_seen(event: &Value) -> String {
    let first = ["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp", "/eventTime"]
        .iter()
        .map(|p| text_or(event, p, ""))
        .find(|t| !t.is_empty());
    first.unwrap_or_else(|| crate::meta::text(event, "creationTimestamp").into())
}

pub(crate) fn node() -> Vec<Column> {
    vec![
        name(),
        column("Status", "string", |o, _| node_status(o).into()),
        column("Roles", "string", |o, _| node_roles(o).into()),
        age(),
        column("Version", "string", |o, _| text_or(o, "/status/nodeInfo/kubeletVersion", "").into()),
        wide("Internal-IP", "string", |o, _| node_address(o, "InternalIP").into()),
        wide("External-IP", "string", |o, _| node_address(o, "ExternalIP").into()),
        wide("OS-Image", "string", |o, _| text_or(o, "/status/nodeInfo/osImage", "<unknown>").into()),
        wide("Kernel-Version", "string", |o, _| text_or(o, "/status/nodeInfo/kernelVersion", "<unknown>").into()),
        wide("Container-Runtime", "string", |o, _| text_or(o, "/status/nodeInfo/containerRuntimeVersion", "<unknown>").into()),
    ]
}

fn node_status(node: &Value) -> String {
    let ready = items(node, "/status/conditions").iter().find(|c| c["type"] == "Ready");
    let state = match ready.map(|c| text_or(c, "/status", "")) {
        Some(status) if status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) { format!("{state},SchedulingDisabled") } else { state.into() }
}

fn node_roles(node: &Value) -> String {
    let labels = crate::meta::labels(node);
    let roles: Vec<&str> = labels.keys().filter_map(|k| k.strip_prefix("node-role.kubernetes.io/")).collect();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}

fn node_address(node: &Value, kind: &str) -> String {
    let found = items(node, "/status/addresses").iter().find(|a| a["type"] == kind);
    found.map_or_else(|| "<none>".into(), |a| text_or(a, "/address", "<none>"))
}

pub(crate) fn pod() -> Vec<Column> {
    vec![
        name(),
        column("Ready", "string", |o, _| {
            let sidecars: Vec<&Value> = items(o, "/spec/initContainers").iter().filter(|c| c["restartPolicy"] == "Always").collect();
            let is_sidecar = |status: &&Value| sidecars.iter().any(|c| c["name"] == status["name"]);
            let lasting = items(o, "/status/initContainerStatuses").iter().filter(is_sidecar).chain(items(o, "/status/containerStatuses"));
            let ready = lasting.filter(|c| c["ready"] == true).count();
            format!("{ready}/{}", items(o, "/spec/containers").len() + sidecars.len()).into()
        }),
        column("Status", "string", |o, _| pod_status(o).into()),
        column("Restarts", "string", |o, now| pod_restarts(o, now).into()),
        age(),
        wide("IP", "string", |o, _| text_or(o, "/status/podIP", "<none>").into()),
        wide("Node", "string", |o, _| text_or(o, "/spec/nodeName", "<none>").into()),
        wide("Nominated Node", "string", |o, _| text_or(o, "/status/nominatedNodeName", "<none>").into()),
        wide("Readiness Gates", "string", |_, _| "<none>".into()),
    ]
}

/// The STATUS column: `printPod` in `pkg/printers/internalversion`.
fn pod_status(pod: &Value) -> String {
    let mut reason = text_or(pod, "/status/reason", &text_or(pod, "/status/phase", ""));
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    if conditions.into_iter().flatten().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let inits = items(pod, "/status/initContainerStatuses");
    let total = items(pod, "/spec/initContainers").len();
    let mut initializing = false;
    for (index, container) in inits.iter().enumerate() {
        let waiting = text_or(container, "/state/waiting/reason", "");
        let is_sidecar =
            items(pod, "/spec/initContainers").iter().any(|c| c["name"] == container["name"] && c["restartPolicy"] == "Always");
        if container.pointer("/state/terminated").is_some_and(|t| t["exitCode"] == 0) || (is_sidecar && container["started"] == true) {
            continue;
        }
        initializing = true;
        reason = match container.pointer("/state/terminated") {
            Some(ended) => format!("Init:{}", ended_reason(ended)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{index}/{total}"),
        };
        break;
    }
    // A Pod that was initialized stays so, whatever becomes of a sidecar.
    if !initializing || condition_is_true(pod, "Initialized") {
        if initializing {
            reason = text_or(pod, "/status/reason", &text_or(pod, "/status/phase", ""));
        }
        let mut running = false;
        for container in items(pod, "/status/containerStatuses").iter().rev() {
            let waiting = text_or(container, "/state/waiting/reason", "");
            if !waiting.is_empty() {
                reason = waiting;
            } else if let Some(ended) = container.pointer("/state/terminated") {
                reason = ended_reason(ended);
            } else if container["ready"] == true && container.pointer("/state/running").is_some() {
                running = true;
            }
        }
        if reason == "Completed" && running {
            reason = if condition_is_true(pod, "Ready") { "Running".into() } else { "NotReady".into() };
        }
    }
    match (crate::meta::is_terminating(pod), text_or(pod, "/status/reason", "").as_str()) {
        (true, "NodeLost") => "Unknown".into(),
        (true, _) if !matches!(text_or(pod, "/status/phase", "").as_str(), "Succeeded" | "Failed") => "Terminating".into(),
        _ => reason,
    }
}

fn ended_reason(ended: &Value) -> String {
    let reason = text_or(ended, "/reason", "");
    match (reason.is_empty(), number(ended, "/signal")) {
        (false, _) => reason,
        (true, 0) => format!("ExitCode:{}", number(ended, "/exitCode")),
        (true, signal) => format!("Signal:{signal}"),
    }
}

fn condition_is_true(object: &Value, kind: &str) -> bool {
    items(object, "/status/conditions").iter().any(|c| c["type"] == kind && c["status"] == "True")
}

fn pod_restarts(pod: &Value, now: Timestamp) -> String {
    let statuses = items(pod, "/status/containerStatuses");
    let restarts: i64 = statuses.iter().map(|c| number(c, "/restartCount")).sum();
    let last = statuses.iter().map(|c| text_or(c, "/lastState/terminated/finishedAt", "")).max().unwrap_or_default();
    if restarts == 0 || last.is_empty() { restarts.to_string() } else { format!("{restarts} ({} ago)", since(&last, now)) }
}

pub(crate) fn service() -> Vec<Column> {
    vec![
        name(),
        column("Type", "string", |o, _| text_or(o, "/spec/type", "").into()),
        column("Cluster-IP", "string", |o, _| text_or(o, "/spec/clusterIP", "<none>").into()),
        column("External-IP", "string", |o, _| service_external(o).into()),
        column("Port(s)", "string", |o, _| service_ports(o).into()),
        age(),
        wide("Selector", "string", |o, _| labels_text(o.pointer("/spec/selector")).into()),
    ]
}

fn service_external(service: &Value) -> String {
    let external = joined(items(service, "/spec/externalIPs").iter().filter_map(|v| v.as_str().map(Into::into)));
    let ingress = joined(items(service, "/status/loadBalancer/ingress").iter().map(|i| text_or(i, "/ip", "")));
    match text_or(service, "/spec/type", "").as_str() {
        "ExternalName" => text_or(service, "/spec/externalName", "<none>"),
        "LoadBalancer" if ingress.is_empty() && external.is_empty() => "<pending>".into(),
        "LoadBalancer" if !ingress.is_empty() => ingress,
        _ if external.is_empty() => "<none>".into(),
        _ => external,
    }
}

fn service_ports(service: &Value) -> String {
    let ports = items(service, "/spec/ports").iter().map(|port| {
        let node_port = number(port, "/nodePort");
        let middle = if node_port == 0 { String::new() } else { format!(":{node_port}") };
        format!("{}{middle}/{}", number(port, "/port"), text_or(port, "/protocol", "TCP"))
    });
    let text = joined(ports);
    if text.is_empty() { "<none>".into() } else { text }
}

pub(crate) fn endpoints() -> Vec<Column> {
    vec![
        name(),
        column("Endpoints", "string", |o, _| {
            let mut all = Vec::new();
            for subset in items(o, "/subsets") {
                for address in items(subset, "/addresses") {
                    let ip = text_or(address, "/ip", "");
                    all.extend(items(subset, "/ports").iter().map(|p| format!("{ip}:{}", number(p, "/port"))));
                }
            }
            shortened(all).into()
        }),
        age(),
    ]
}

pub(crate) fn endpoint_slice() -> Vec<Column> {
    vec![
        name(),
        column("AddressType", "string", |o, _| text_or(o, "/addressType", "").into()),
        column("Ports", "string", |o, _| shortened(items(o, "/ports").iter().map(|p| number(p, "/port").to_string()).collect()).into()),
        column("Endpoints", "string", |o, _| {
            let addresses = items(o, "/endpoints").iter().flat_map(|e| items(e, "/addresses"));
            shortened(addresses.filter_map(|a| a.as_str().map(Into::into)).collect()).into()
        }),
        age(),
    ]
}

/// Kubernetes prints three endpoints and says how many more there are.
fn shortened(mut all: Vec<String>) -> String {
    let count = all.len();
    if all.is_empty() {
        return "<none>".into();
    }
    all.truncate(3);
    let text = all.join(",");
    if count > 3 { format!("{text} + {} more...", count - 3) } else { text }
}

fn count(object: &Value, field: &str) -> usize {
    object.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

pub(crate) fn component_status() -> Vec<Column> {
    fn condition(status: &Value, field: &str) -> String {
        text_or(status, &format!("/conditions/0/{field}"), "")
    }
    vec![
        name(),
        column("Status", "string", |o, _| if condition(o, "status") == "True" { "Healthy" } else { "Unhealthy" }.into()),
        column("Message", "string", |o, _| condition(o, "message").into()),
        column("Error", "string", |o, _| condition(o, "error").into()),
    ]
}

pub(crate) fn resource_quota() -> Vec<Column> {
    vec![
        name(),
        column("Request", "string", |o, _| quota_text(o, |key| !key.starts_with("limits.")).into()),
        column("Limit", "string", |o, _| quota_text(o, |key| key.starts_with("limits.")).into()),
        age(),
    ]
}

fn quota_text(quota: &Value, wanted: fn(&str) -> bool) -> String {
    let hard = quota.pointer("/status/hard").and_then(Value::as_object).into_iter().flatten();
    let used = |key: &str| quota.pointer("/status/used").and_then(|u| u.get(key)).and_then(Value::as_str).unwrap_or("0").to_string();
    let mut parts: Vec<String> = hard
        .filter(|(key, _)| wanted(key))
        .map(|(key, amount)| format!("{key}: {}/{}", used(key), amount.as_str().unwrap_or_default()))
        .collect();
    parts.sort();
    parts.join(", ")
}
