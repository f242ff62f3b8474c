//! Filters: one file each. A filter returns Kubernetes' reason when the node will not do.

pub(crate) mod affinity;
mod name;
mod ports;
mod resources;
mod taints;

use k8s_openapi::api::core::v1::Pod;

use crate::NodeInfo;

/// Every filter in the order in which Kubernetes runs them; the first refusal counts.
pub(crate) fn check(node: &NodeInfo, pod: &Pod) -> Result<(), String> {
    if node.unschedulable && !taints::tolerates_unschedulable(pod) {
        return Err("node(s) were unschedulable".into());
    }
    name::check(node, pod)?;
    taints::check(node, pod)?;
    affinity::check(node, pod)?;
    ports::check(node, pod)?;
    resources::check(node, pod)
}

/// What does not depend on what else runs on the node.
pub(crate) fn belongs(node: &NodeInfo, pod: &Pod) -> bool {
    name::check(node, pod).is_ok() && taints::check(node, pod).is_ok() && affinity::check(node, pod).is_ok()
}
