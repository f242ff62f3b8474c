//! NodeResourcesFit: what is requested fits into what is left.

use k8s_openapi::api::core::v1::Pod;
use skein_object::quantity::Quantity;

use crate::NodeInfo;
use crate::fleet::requests;

pub(super) fn check(node: &NodeInfo, pod: &Pod) -> Result<(), String> {
    for (name, wanted) in requests(pod) {
        let total = node.allocatable.get(&name).copied().unwrap_or(Quantity::ZERO);
        let used = node.requested.get(&name).copied().unwrap_or(Quantity::ZERO);
        if wanted > Quantity::ZERO && used + wanted > total {
            return Err(if name == "pods" { "Too many pods".into() } else { format!("Insufficient {name}") });
        }
    }
    Ok(())
}
