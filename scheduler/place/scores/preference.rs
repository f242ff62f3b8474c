//! The preferred terms of nodeAffinity, and taints that only discourage.

use crate::demand::Demand;
use crate::filters::affinity::matches_term;
use crate::filters::taints::is_tolerated;
use crate::fleet::NodeInfo;

pub(super) fn score(node: &NodeInfo, demand: &Demand) -> i64 {
    let affinity = demand.spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default();
    let total: i64 = preferred.iter().map(|p| i64::from(p.weight)).sum();
    let held: i64 = preferred.iter().filter(|p| matches_term(node, &p.preference)).map(|p| i64::from(p.weight)).sum();
    let wanted = if total == 0 { 0 } else { 100 * held / total };
    let discouraged = node.taints.iter().any(|t| t.effect == "PreferNoSchedule" && !is_tolerated(t, demand));
    wanted - if discouraged { 50 } else { 0 }
}
