//! Few Pods alike on one node: the default of PodTopologySpread for Pods with labels, over hostnames.

use k8s_openapi::api::core::v1::Pod;

use crate::{Fleet, NodeInfo};

/// Labels that differ between replicas of one set's generations and so say nothing about likeness.
const IGNORED: &[&str] = &["statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index", "controller-revision-hash"];

pub(super) fn score(fleet: &Fleet, node: &NodeInfo, pod: &Pod) -> i64 {
    let most = fleet.nodes().map(|n| alike(n, pod)).max().unwrap_or(0);
    if most == 0 { 100 } else { 100 * (most - alike(node, pod)) / most }
}

fn alike(node: &NodeInfo, pod: &Pod) -> i64 {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(labels) = pod.metadata.labels.as_ref().filter(|l| !l.is_empty()) else {
        return i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    };
    let same = |found: &skein_object::selector::Labels| {
        labels.iter().filter(|(k, _)| !IGNORED.contains(&k.as_str())).all(|(k, v)| found.get(k) == Some(v))
    };
    let count = node.pods.values().filter(|occupant| occupant.namespace == namespace && same(&occupant.labels)).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}
