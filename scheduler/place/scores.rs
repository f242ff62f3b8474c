//! Scores: how good a node is; one file each, from 0 to 100, weighted here.
//!
//! Each score stands for itself: none is scaled by what other nodes have, so that one node's can change alone.

mod balance;
mod fit;
mod images;
mod preference;

use skein_object::quantity::Quantity;

use crate::demand::Demand;
use crate::fleet::NodeInfo;
use crate::profile::Weights;

/// What depends on the node alone.
pub(crate) fn score(node: &NodeInfo, demand: &Demand) -> i64 {
    let Weights { taints, node_affinity, fit, balance, images, .. } = demand.profile.weights;
    let wishes = node_affinity * preference::score(node, demand) - taints * preference::discouraged(node, demand);
    fit * fit::score(node, demand) + balance * balance::score(node, demand) + images * images::score(node, demand) + wishes
}

/// Spreading outweighs balance: a set's Pods land on different nodes even when these are not equally full. Wishes about
/// other Pods stay within bounds, however many Pods have them.
pub(crate) fn of_topology(weights: &Weights, crowd: i64, wishes: i64) -> i64 {
    weights.pod_affinity * wishes.clamp(-100, 100) - 20 * weights.spread * crowd
}

/// How much of a resource is taken once the Pod is there, in percent; `None` of what it does not ask for. A container
/// that requests no CPU or memory weighs as if it had asked for the usual amount.
fn used(node: &NodeInfo, demand: &Demand, resource: &str) -> Option<i128> {
    let total = node.allocatable.get(resource).copied().unwrap_or(Quantity::ZERO);
    let (own, others) = (demand.occupant.weight, node.weight);
    let (total, taken) = match resource {
        "cpu" => (total.milli(), own.0 + others.0),
        "memory" => (total.units(), own.1 + others.1),
        other => {
            let wanted = demand.occupant.requests.get(other).filter(|wanted| **wanted > Quantity::ZERO)?;
            (total.milli(), wanted.milli() + node.requested.get(other).map_or(0, |amount| amount.milli()))
        }
    };
    Some(if total <= 0 { 100 } else { (100 * taken / total).clamp(0, 100) })
}
