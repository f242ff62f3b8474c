//! The preferred terms of nodeAffinity, and taints that only discourage.

use k8s_openapi::api::core::v1::Pod;

use crate::NodeInfo;
use crate::filters::affinity::matches_term;

pub(super) fn score(node: &NodeInfo, pod: &Pod) -> i64 {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default();
    let total: i64 = preferred.iter().map(|p| i64::from(p.weight)).sum();
    let held: i64 = preferred.iter().filter(|p| matches_term(node, &p.preference)).map(|p| i64::from(p.weight)).sum();
    let wanted = if total == 0 { 0 } else { 100 * held / total };
    let discouraged = node.taints.iter().any(|t| t.effect == "PreferNoSchedule");
    wanted - if discouraged { 50 } else { 0 }
}
