//! NodeResourcesBalancedAllocation: the node whose resources are equally full.

use super::used;
use crate::demand::Demand;
use crate::fleet::NodeInfo;

pub(super) fn score(node: &NodeInfo, demand: &Demand) -> i64 {
    let used: Vec<i128> = demand.profile.balanced.iter().filter_map(|resource| used(node, demand, resource)).collect();
    let deviation = match used[..] {
        // Half of the deviation of two numbers is the half of their difference.
        [a, b] => (a - b).abs() / 2,
        _ => {
            let count = i128::try_from(used.len().max(1)).unwrap_or(1);
            let mean = used.iter().sum::<i128>() / count;
            (used.iter().map(|one| (one - mean).pow(2)).sum::<i128>() / count).isqrt()
        }
    };
    100 - i64::try_from(deviation).unwrap_or(0)
}
