//! NodeResourcesFit: by default the emptier node, or what the profile says.

use super::used;
use crate::demand::Demand;
use crate::fleet::NodeInfo;
use crate::profile::Strategy;

pub(super) fn score(node: &NodeInfo, demand: &Demand) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for resource in &demand.profile.scored {
        let Some(used) = used(node, demand, &resource.name) else { continue };
        let score = match &demand.profile.strategy {
            Strategy::LeastAllocated => 100 - used,
            Strategy::MostAllocated => used,
            Strategy::RequestedToCapacityRatio(shape) => 10 * along(shape, used),
        };
        sum += resource.weight * score;
        weights += resource.weight;
    }
    i64::try_from(sum / weights.max(1)).unwrap_or(0)
}

/// The line through the points; before the first and behind the last it is level.
fn along(points: &[(i128, i128)], at: i128) -> i128 {
    let next = points.iter().position(|(x, _)| at <= *x);
    match next {
        Some(0) => points[0].1,
        Some(next) => {
            let ((x0, y0), (x1, y1)) = (points[next - 1], points[next]);
            y0 + (y1 - y0) * (at - x0) / (x1 - x0)
        }
        None => points.last().map_or(0, |(_, y)| *y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_points_it_is_straight() {
        let points = [(20, 0), (60, 10), (80, 5)];
        for (at, expected) in [(0, 0), (20, 0), (40, 5), (60, 10), (70, 8), (80, 5), (100, 5)] {
            assert_eq!(along(&points, at), expected, "at {at}");
        }
    }
}
