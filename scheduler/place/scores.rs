//! Scores: how good a node is; one file each, from 0 to 100, weighted here.
//!
//! Each score stands for itself: none is scaled by what other nodes have, so that one node's can change alone.

mod balance;
mod images;
mod preference;

use crate::demand::Demand;
use crate::fleet::NodeInfo;

/// What depends on the node alone.
pub(crate) fn score(node: &NodeInfo, demand: &Demand) -> i64 {
    balance::score(node, demand) + images::score(node, demand) + 2 * preference::score(node, demand)
}

/// Spreading outweighs balance: a set's Pods land on different nodes even when these are not equally full. Wishes about
/// other Pods stay within bounds, however many Pods have them.
pub(crate) fn of_topology(crowd: i64, wishes: i64) -> i64 {
    2 * wishes.clamp(-100, 100) - 40 * crowd
}
