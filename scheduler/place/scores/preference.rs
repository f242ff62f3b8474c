//! The preferred terms of nodeAffinity, and taints that only discourage.

use crate::demand::Demand;
use crate::filters::affinity::matches_term;
use crate::filters::taints::is_tolerated;
use crate::fleet::NodeInfo;

pub(super) fn score(node: &NodeInfo, demand: &Demand) -> i64 {
    let own = demand.spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let all = own.into_iter().chain([&demand.profile.added_affinity]);
    let preferred = || all.clone().flat_map(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    let total: i64 = preferred().map(|p| i64::from(p.weight)).sum();
    let held: i64 = preferred().filter(|p| matches_term(node, &p.preference)).map(|p| i64::from(p.weight)).sum();
    if total == 0 { 0 } else { 100 * held / total }
}

/// What a taint takes off that discourages: a third of what the best node has.
pub(super) fn discouraged(node: &NodeInfo, demand: &Demand) -> i64 {
    let is_discouraged = node.taints.iter().any(|t| t.effect == "PreferNoSchedule" && !is_tolerated(t, demand));
    if is_discouraged { 33 } else { 0 }
}
