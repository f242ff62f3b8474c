//! Whether a Pod that was bound to this node can be here at all. The scheduler asks before it binds; who names a node
//! by hand does not.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::eviction::{EVICTED, is_critical};
use crate::pod::phase_is_final;
use crate::pressure::Pressure;
use crate::shutdown::NOT_ADMITTED;

/// The words of the kubelet for a Pod that it will not run.
#[derive(Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    why: String,
}

/// An address (empty: all), a protocol and a port of the node.
type HostPort<'a> = (&'a str, &'a str, i32);

// === impl Refusal ===

impl Refusal {
    pub(crate) fn message(&self) -> String {
        if [EVICTED, NOT_ADMITTED].contains(&self.reason) {
            self.why.clone()
        } else {
            format!("Predicate {} failed: {}", self.reason, self.why)
        }
    }

    /// The status that ends the Pod.
    pub(crate) fn status(&self, pod: &Pod, now: &str) -> Value {
        let mut status = serde_json::to_value(&pod.status).unwrap_or_default();
        if !status.is_object() {
            status = json!({});
        }
        status["phase"] = "Failed".into();
        status["reason"] = self.reason.into();
        status["message"] = format!("Pod was rejected: {}", self.message()).into();
        status["startTime"] = now.into();
        status
    }
}

/// Whether the node takes new Pods: none while its machine goes down; while it is short of something
/// (`pkg/kubelet/eviction`, `Admit`) critical ones always, and where only memory is short those that have asked for some.
pub(crate) fn fits(pod: &Pod, pressure: &Pressure) -> Result<(), Refusal> {
    if pressure.is_going_down() {
        return Err(Refusal { reason: NOT_ADMITTED, why: "Pod was rejected as the node is shutting down.".into() });
    }
    let best_effort = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) == Some("BestEffort");
    let holding: Vec<&str> = ["MemoryPressure", "DiskPressure", "PIDPressure"].into_iter().filter(|kind| pressure.holds(kind)).collect();
    if is_critical(pod) || holding.is_empty() || (holding == ["MemoryPressure"] && !best_effort) {
        return Ok(());
    }
    Err(Refusal { reason: EVICTED, why: format!("The node had condition: [{}]. ", holding.join(" ")) })
}

/// Whether a new Pod goes together with those that are here.
pub(crate) fn admit<'a>(pod: &Pod, others: impl IntoIterator<Item = &'a Pod>) -> Result<(), Refusal> {
    let wanted = host_ports(pod);
    if wanted.is_empty() {
        return Ok(());
    }
    let mut taken = others.into_iter().filter(|other| !phase_is_final(other)).flat_map(host_ports);
    if taken.any(|port| wanted.iter().any(|other| clash(*other, port))) {
        return Err(Refusal { reason: "NodePorts", why: "node(s) didn't have free ports for the requested pod ports".into() });
    }
    Ok(())
}

/// Whether there is anything to ask: a Pod that was taken on before, or is on its way out, stays.
pub(crate) fn is_due(pod: &Pod) -> bool {
    let begun = phase_is_final(pod) || pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
    !begun && pod.metadata.deletion_timestamp.is_none()
}

fn host_ports(pod: &Pod) -> Vec<HostPort<'_>> {
    let spec = pod.spec.as_ref();
    let sidecars =
        spec.into_iter().flat_map(|s| s.init_containers.iter().flatten()).filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let containers = spec.into_iter().flat_map(|s| &s.containers).chain(sidecars);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let host = |port: &'_ k8s_openapi::api::core::v1::ContainerPort| port.host_port.filter(|number| *number > 0);
    ports
        .filter_map(|port| {
            let address = port.host_ip.as_deref().filter(|ip| !matches!(*ip, "0.0.0.0" | "::")).unwrap_or_default();
            Some((address, port.protocol.as_deref().unwrap_or("TCP"), host(port)?))
        })
        .collect()
}

fn clash(one: HostPort<'_>, other: HostPort<'_>) -> bool {
    (one.1, one.2) == (other.1, other.2) && (one.0 == other.0 || one.0.is_empty() || other.0.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ports: Value, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "ports": ports}]}, "status": {"phase": phase},
        }))
        .expect("a Pod")
    }

    fn port(ip: &str, protocol: &str, number: i32) -> Value {
        json!([{"containerPort": 80, "hostPort": number, "hostIP": ip, "protocol": protocol}])
    }

    #[test]
    fn a_port_of_the_node_has_one_owner() {
        let here = pod(port("", "TCP", 8080), "Running");
        let refused = |new: Value, here: &Pod| admit(&pod(new, "Pending"), [here]).err().map(|r| r.reason);
        assert_eq!(refused(port("127.0.0.1", "TCP", 8080), &here), Some("NodePorts"));
        assert_eq!((refused(port("", "UDP", 8080), &here), refused(port("", "TCP", 8081), &here)), (None, None));
        assert_eq!(refused(json!([{"containerPort": 8080}]), &here), None, "a container's own port is its own");
        let bound = pod(port("10.0.0.1", "TCP", 8080), "Running");
        assert_eq!(
            (refused(port("10.0.0.2", "TCP", 8080), &bound), refused(port("0.0.0.0", "TCP", 8080), &bound)),
            (None, Some("NodePorts"))
        );
        assert_eq!(refused(port("", "TCP", 8080), &pod(port("", "TCP", 8080), "Failed")), None, "who has ended has let go");
    }

    #[test]
    fn a_refused_pod_has_failed_and_says_why() {
        let (new, here) = (pod(port("", "TCP", 1), "Pending"), pod(port("", "TCP", 1), "Running"));
        let refusal = admit(&new, [&here]).expect_err("the port is taken");
        let status = refusal.status(&new, "2030-01-01T00:00:00Z");
        assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("NodePorts")));
        let message = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        assert_eq!(status["message"], message);
    }
}
