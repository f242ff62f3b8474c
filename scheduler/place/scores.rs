//! Scores: how good a node is, each from 0 to 100 and weighted; one file each.

mod balance;
mod preference;
mod spread;

use k8s_openapi::api::core::v1::Pod;

use crate::{Fleet, NodeInfo};

/// Spreading outweighs balance: a set's Pods land on different nodes even when these are not equally full.
pub(crate) fn score(fleet: &Fleet, node: &NodeInfo, pod: &Pod) -> i64 {
    4 * spread::score(fleet, node, pod) + balance::score(node, pod) + 2 * preference::score(node, pod)
}
