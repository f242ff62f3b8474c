//! Each node gets a range of Pod addresses out of the cluster's, never one that another node has.

use std::collections::BTreeSet;

use serde_json::json;
use skein_command::Transaction;
use skein_object::Key;

use crate::snapshot::Snapshot;
use crate::write::edit;

/// The cluster's Pod range is 10.244.0.0/16, a node's a /24 of it: 256 nodes of 254 Pods.
const CLUSTER: [u8; 2] = [10, 244];

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key) -> Vec<Transaction> {
    let range_of = |node: &k8s_openapi::api::core::v1::Node| node.spec.as_ref().and_then(|s| s.pod_cidr.clone());
    let Some(node) = snapshot.nodes.get(key) else { return Vec::new() };
    if range_of(&node.object).is_some() {
        return Vec::new();
    }
    let taken: BTreeSet<String> = snapshot.nodes.values().filter_map(|n| range_of(&n.object)).collect();
    let [a, b] = CLUSTER;
    let free = (0..=255u8).map(|c| format!("{a}.{b}.{c}.0/24")).find(|range| !taken.contains(range));
    let assign = |range: String| {
        edit(node, |object| {
            object["spec"]["podCIDR"] = json!(range);
            object["spec"]["podCIDRs"] = json!([range]);
        })
    };
    free.and_then(assign).into_iter().collect()
}
