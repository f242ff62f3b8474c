//! The emptier node: NodeResourcesFit with the LeastAllocated strategy, over CPU and memory.

use k8s_openapi::api::core::v1::Pod;
use skein_object::quantity::Quantity;

use crate::NodeInfo;
use crate::fleet::requests;

pub(super) fn score(node: &NodeInfo, pod: &Pod) -> i64 {
    let wanted = requests(pod);
    let free = |name: &str| {
        let total = node.allocatable.get(name).copied().unwrap_or(Quantity::ZERO).milli();
        let used = node.requested.get(name).copied().unwrap_or(Quantity::ZERO).milli()
            + wanted.get(name).copied().unwrap_or(Quantity::ZERO).milli();
        if total <= 0 { 0 } else { i64::try_from(100 * (total - used).max(0) / total).unwrap_or(0) }
    };
    i64::midpoint(free("cpu"), free("memory"))
}
