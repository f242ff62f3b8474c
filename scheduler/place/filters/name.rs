//! NodeName: a Pod that names its node goes nowhere else.

use k8s_openapi::api::core::v1::Pod;

use crate::NodeInfo;

pub(super) fn check(node: &NodeInfo, pod: &Pod) -> Result<(), String> {
    match pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) {
        Some(wanted) if !wanted.is_empty() && wanted != node.name => Err("node(s) didn't match the requested node name".into()),
        _ => Ok(()),
    }
}
