//! Pods that do not tolerate a node's `NoExecute` taints have to leave it, at once or after as long as they tolerate
//! them (`pkg/controller/tainteviction`). Of lost nodes' taints [`crate::node_lifecycle`] knows the time, and evicts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use skein_object::Key;
use skein_object::fence::UNREACHABLE;
use skein_state::Event;

use crate::node_lifecycle::evicted;
use crate::snapshot::{Snapshot, Stored};
use crate::{Controller, Mint, Outcome};

/// Since when a Pod has been on a node with taints that it tolerates for a time only: a new leader begins anew.
pub(crate) type Waits = BTreeMap<String, Timestamp>;

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Outcome {
    let taints: Vec<&Taint> =
        snapshot.nodes.get(key).map(|node| no_execute(node.object.spec.iter().flat_map(|s| s.taints.iter().flatten()))).unwrap_or_default();
    let before = mint.memory.taints.remove(key).unwrap_or_default();
    let mut outcome = Outcome::default();
    if taints.is_empty() {
        return outcome;
    }
    let mut waits = Waits::new();
    let on_node = |pod: &&Stored<Pod>| pod.object.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(key.name());
    for pod in snapshot.pods.values().filter(on_node).filter(|pod| pod.object.metadata.deletion_timestamp.is_none()) {
        let tolerations = pod.object.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        let Some(tolerated_s) = tolerated_s(&taints, tolerations) else { continue };
        let uid = pod.object.metadata.uid.clone().unwrap_or_default();
        let since = before.get(&uid).copied().unwrap_or(mint.now);
        let left_s = tolerated_s - (mint.now.as_second() - since.as_second());
        if left_s <= 0 {
            outcome.transactions.extend(evicted(pod, mint));
            continue;
        }
        waits.insert(uid, since);
        let left_ms = u64::try_from(left_s).unwrap_or(0) * 1000;
        outcome.again_ms = Some(outcome.again_ms.map_or(left_ms, |known| known.min(left_ms)));
    }
    if !waits.is_empty() {
        mint.memory.taints.insert(key.clone(), waits);
    }
    outcome
}

/// The taints that drive Pods away, as far as they are this controller's.
fn no_execute<'a>(taints: impl Iterator<Item = &'a Taint>) -> Vec<&'a Taint> {
    taints.filter(|taint| taint.effect == "NoExecute" && taint.key != UNREACHABLE).collect()
}

/// For how many seconds all taints are tolerated; `None` for ever.
fn tolerated_s(taints: &[&Taint], tolerations: &[Toleration]) -> Option<i64> {
    let mut least: Option<i64> = None;
    for taint in taints {
        let matching: Vec<&Toleration> = tolerations.iter().filter(|t| skein_place::tolerates(t, taint)).collect();
        if matching.is_empty() {
            return Some(0);
        }
        let times = matching.iter().filter_map(|t| t.toleration_seconds).map(|seconds| seconds.max(0));
        least = least.into_iter().chain(times).min();
    }
    least
}

/// Nodes whose taints may drive Pods away, or did.
pub(crate) fn interested(snapshot: &Snapshot, event: &Event) -> Vec<(Controller, Key)> {
    let drives = |node: &Node| !no_execute(node.spec.iter().flat_map(|s| s.taints.iter().flatten())).is_empty();
    let is_tainted = |node: &Key| snapshot.nodes.get(node).is_some_and(|node| drives(&node.object));
    let work = |node: Key| vec![(Controller::TaintEviction, node)];
    match event.key.resource() {
        "nodes" => {
            // Where a taint has gone, what was waited for is forgotten.
            let was = event.before.as_ref().and_then(|entry| entry.record.typed::<Node>(entry.revision)).is_some_and(|node| drives(&node));
            if was || is_tainted(&event.key) { work(event.key.clone()) } else { Vec::new() }
        }
        "pods" => {
            let pod = snapshot.pods.get(&event.key);
            let node = pod.and_then(|pod| pod.object.spec.as_ref()?.node_name.as_deref()).map(|name| Key::new("nodes", "", name));
            node.filter(is_tainted).map(work).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_shortest_time_of_all_tolerations_that_match_counts() {
        let taint = |key: &str| -> Taint { serde_json::from_value(json!({"key": key, "effect": "NoExecute"})).expect("a taint") };
        let (a, b) = (taint("a"), taint("b"));
        let check = |taints: &[&Taint], tolerations: Value, expected: Option<i64>| {
            let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).expect("tolerations");
            assert_eq!(tolerated_s(taints, &tolerations), expected);
        };
        check(&[&a], json!([]), Some(0));
        check(&[&a], json!([{"key": "a", "operator": "Exists"}]), None);
        check(&[&a], json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 60}]), Some(60));
        check(&[&a, &b], json!([{"operator": "Exists"}, {"key": "b", "operator": "Exists", "tolerationSeconds": 5}]), Some(5));
        check(&[&a, &b], json!([{"key": "a", "operator": "Exists"}]), Some(0));
        check(&[&a], json!([{"key": "a", "operator": "Exists", "tolerationSeconds": -3}]), Some(0));
    }
}
