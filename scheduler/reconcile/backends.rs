//! Which Pods stand behind a Service, and at which ports: what EndpointSlices and Endpoints have in common.

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use skein_object::Key;
use skein_object::selector::Selector;

use skein_state::Event;

use crate::pods_of::{is_finished, is_ready};
use crate::snapshot::{Snapshot, Stored, ties};
use crate::{Controller, node_services};

/// A Pod behind a Service.
pub(crate) struct Backend<'a> {
    pub(crate) pod: &'a Stored<Pod>,
    pub(crate) address: String,
    /// Each port as EndpointSlices and Endpoints write it: name, protocol, number.
    pub(crate) ports: Vec<Value>,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
}

/// The Pods that a Service selects, in the order of their keys. None for a Service without a selector: its endpoints
/// are the user's.
pub(crate) fn backends<'a>(snapshot: &'a Snapshot, service: &'a Stored<Service>) -> Option<Vec<Backend<'a>>> {
    let spec = service.object.spec.as_ref()?;
    let labels = spec.selector.as_ref().filter(|s| !s.is_empty())?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let selector = Selector::from_map(labels);
    let publish = spec.publish_not_ready_addresses == Some(true);
    let mut found = Vec::new();
    for stored in snapshot.pods_in(service.key.namespace()) {
        let pod = &stored.object;
        let address = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty());
        let Some(address) = address.filter(|_| selector.matches_optional(pod.metadata.labels.as_ref()) && !is_finished(pod)) else {
            continue;
        };
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let serving = is_ready(pod) || publish;
        found.push(Backend {
            pod: stored,
            address,
            ports: spec.ports.iter().flatten().filter_map(|port| endpoint_port(pod, port)).collect(),
            ready: serving && (!terminating || publish),
            serving,
            terminating,
        });
    }
    Some(found)
}

/// Services that a Pod is or was behind.
pub(crate) fn controllers(snapshot: &Snapshot, event: &Event) -> Vec<(Controller, Key)> {
    let namespace = event.key.namespace();
    let labels: Vec<_> = event.before.iter().chain(&event.after).map(|entry| ties(&entry.record).labels).collect();
    let services = snapshot.services.range(Key::new("services", namespace, "")..).take_while(|(key, _)| key.namespace() == namespace);
    let concerned = services.filter(|(_, service)| {
        let wanted = service.object.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
        wanted.map(Selector::from_map).is_some_and(|selector| labels.iter().any(|labels| selector.matches(labels)))
    });
    concerned.flat_map(|(key, _)| of_service(key)).collect()
}

/// The Service whose endpoints somebody has changed or removed.
pub(crate) fn of_endpoints(snapshot: &Snapshot, event: &Event) -> Vec<(Controller, Key)> {
    let labels = event.subject().map(|entry| ties(&entry.record).labels).unwrap_or_default();
    let name = labels.get("kubernetes.io/service-name").cloned().unwrap_or_else(|| event.key.name().to_string());
    let service = Key::new("services", event.key.namespace(), &name);
    if node_services::keys().any(|known| known == service) {
        return vec![(Controller::NodeServices, service)];
    }
    if snapshot.services.contains_key(&service) { of_service(&service).into() } else { Vec::new() }
}

pub(crate) fn of_service(key: &Key) -> [(Controller, Key); 3] {
    [Controller::EndpointSlice, Controller::Endpoints, Controller::EndpointMirror].map(|controller| (controller, key.clone()))
}

/// The target's number: stated, or that of the container's port of this name.
fn endpoint_port(pod: &Pod, port: &ServicePort) -> Option<Value> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            let mut matching = ports.filter(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol);
            matching.next()?.container_port
        }
    };
    let mut value = json!({"name": port.name.as_deref().unwrap_or_default(), "protocol": protocol, "port": number});
    if let Some(app) = &port.app_protocol {
        value["appProtocol"] = app.clone().into();
    }
    Some(value)
}

/// What an endpoint refers to.
pub(crate) fn target_reference(pod: &Stored<Pod>) -> Value {
    json!({"kind": "Pod", "namespace": pod.key.namespace(), "name": pod.key.name(), "uid": pod.object.metadata.uid})
}
