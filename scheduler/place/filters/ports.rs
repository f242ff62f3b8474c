//! NodePorts: a host port is free on the node.

use k8s_openapi::api::core::v1::Pod;

use crate::NodeInfo;
use crate::fleet::host_ports;

pub(super) fn check(node: &NodeInfo, pod: &Pod) -> Result<(), String> {
    let wanted = pod.spec.as_ref().map(host_ports).unwrap_or_default();
    let taken = |port| node.pods.values().any(|occupant| occupant.host_ports.contains(port));
    if wanted.iter().any(taken) { Err("node(s) didn't have free ports for the requested pod ports".into()) } else { Ok(()) }
}
