//! The emptier node: NodeResourcesFit with the LeastAllocated strategy, and NodeResourcesBalancedAllocation, over CPU
//! and memory. A container that requests nothing weighs as if it had asked for the usual amount.

use skein_object::quantity::Quantity;

use crate::demand::Demand;
use crate::fleet::NodeInfo;

pub(super) fn score(node: &NodeInfo, demand: &Demand) -> i64 {
    let total = |name: &str| node.allocatable.get(name).copied().unwrap_or(Quantity::ZERO);
    let used = |total: i128, used: i128| if total <= 0 { 100 } else { (100 * used / total).clamp(0, 100) };
    let (own, others) = (demand.occupant.weight, node.weight);
    let cpu = used(total("cpu").milli(), own.0 + others.0);
    let memory = used(total("memory").units(), own.1 + others.1);
    let least_allocated = 100 - i128::midpoint(cpu, memory);
    // Half of the deviation of two numbers is the half of their difference.
    let balanced = 100 - (cpu - memory).abs() / 2;
    i64::try_from(least_allocated + balanced).unwrap_or(0)
}
