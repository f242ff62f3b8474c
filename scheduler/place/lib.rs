//! Which node a Pod goes to: filters say where it can, scores say where it should.
//!
//! ```text
//!   Fleet (nodes and what is requested on each) ── place(pod) ──▶ node, or why no node will do
//! ```
//!
//! Pure: the fleet is a value that the caller keeps up to date; many Pods are placed against one fleet by calling
//! [`Fleet::assume`] after each.

mod filters;
mod fleet;
mod scores;

pub use fleet::{Fleet, NodeInfo};

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};

/// Where a Pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    Node(String),
    /// No node will do; the text is Kubernetes' explanation.
    Unschedulable(String),
}

/// Chooses a node for a Pod.
pub fn place(fleet: &Fleet, pod: &Pod) -> Placement {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(i64, &str)> = None;
    for node in fleet.nodes() {
        match filters::check(node, pod) {
            Ok(()) => {
                let score = scores::score(fleet, node, pod);
                // Names break ties downwards, so that equal nodes are chosen in one order everywhere.
                if best.is_none_or(|(top, name)| score > top || (score == top && node.name.as_str() < name)) {
                    best = Some((score, &node.name));
                }
            }
            Err(why) => *reasons.entry(why).or_default() += 1,
        }
    }
    match best {
        Some((_, name)) => Placement::Node(name.into()),
        None => Placement::Unschedulable(explain(fleet.nodes().count(), &reasons)),
    }
}

/// Whether a Pod of a DaemonSet belongs on a node: by name, selector, affinity and taints, not by room.
pub fn belongs(node: &Node, pod: &Pod) -> bool {
    let mut fleet = Fleet::default();
    fleet.observe_node(node);
    fleet.nodes().all(|info| filters::belongs(info, pod))
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s).`
fn explain(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut parts: Vec<String> = reasons.iter().map(|(why, count)| format!("{count} {why}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, spec: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "disk": name}}, "spec": spec,
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}, "conditions": [{"type": "Ready", "status": "True"}]}}))
        .expect("a node")
    }

    fn pod(name: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "c", "resources": {"requests": spec.get("requests").cloned().unwrap_or(json!({}))}}]);
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": "a"}}, "spec": spec}))
            .expect("a pod")
    }

    fn fleet(nodes: &[Node]) -> Fleet {
        let mut fleet = Fleet::default();
        nodes.iter().for_each(|n| fleet.observe_node(n));
        fleet
    }

    fn check(nodes: &[Node], spec: Value, expected: Result<&str, &str>) {
        let got = place(&fleet(nodes), &pod("p", spec));
        let expected = match expected {
            Ok(name) => Placement::Node(name.into()),
            Err(why) => Placement::Unschedulable(why.into()),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn filters_by_resources_taints_selectors_and_affinity() {
        let tainted = node("b", json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}));
        let nodes = [node("a", json!({})), tainted];
        check(&nodes, json!({}), Ok("a"));
        check(&nodes, json!({"nodeSelector": {"disk": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}), Ok("b"));
        check(
            &nodes,
            json!({"requests": {"cpu": "3"}}),
            Err("0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s)."),
        );
        let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["a"]}]}]}}}});
        check(
            &nodes,
            affinity,
            Err("0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint(s)."),
        );
        check(&[node("a", json!({"unschedulable": true}))], json!({}), Err("0/1 nodes are available: 1 node(s) were unschedulable."));
        check(&[], json!({}), Err("no nodes available to schedule pods"));
    }

    #[test]
    fn spreads_equal_pods_over_nodes() {
        let mut fleet = fleet(&[node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
        let mut chosen = Vec::new();
        for index in 0..6 {
            let pod = pod(&format!("p{index}"), json!({}));
            let Placement::Node(name) = place(&fleet, &pod) else { panic!("there is room") };
            fleet.assume(&pod, &name);
            chosen.push(name);
        }
        assert_eq!(chosen, ["a", "b", "c", "a", "b", "c"]);
    }

    #[test]
    fn counts_pods_against_the_nodes_limit() {
        let mut fleet = fleet(&[node("a", json!({}))]);
        (0..3).for_each(|i| fleet.assume(&pod(&format!("p{i}"), json!({})), "a"));
        assert_eq!(place(&fleet, &pod("p", json!({}))), Placement::Unschedulable("0/1 nodes are available: 1 Too many pods.".into()));
        fleet.forget("n/p0");
        assert_eq!(place(&fleet, &pod("p", json!({}))), Placement::Node("a".into()));
    }
}
