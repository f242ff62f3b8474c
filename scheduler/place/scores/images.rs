//! ImageLocality: the node that has the Pod's images already.

use crate::demand::Demand;
use crate::fleet::NodeInfo;

/// Below this nothing is gained, and above that no more (`minThreshold`, `maxContainerThreshold`).
const BYTES_MIN: i64 = 23 << 20;
const BYTES_MAX: i64 = 1000 << 20;

pub(super) fn score(node: &NodeInfo, demand: &Demand) -> i64 {
    let there: i64 = demand.images.iter().filter_map(|image| node.images.get(image)).sum();
    let most = BYTES_MAX * i64::try_from(demand.images.len()).unwrap_or(1).max(1);
    100 * (there.clamp(BYTES_MIN, most) - BYTES_MIN) / (most - BYTES_MIN)
}
