//! Which node a Pod goes to: filters say where it can, scores say where it should, preemption says who must make room.
//!
//! ```text
//!   Fleet (nodes and what is on each) ── place(pod) ──▶ node, or why no node will do ── preempt(pod) ──▶ victims
//! ```
//!
//! Pure: the fleet is a value that the caller keeps up to date; many Pods are placed against one fleet by calling
//! [`Fleet::assume`] after each. Pods that ask the same are one class, whose nodes stay sorted by merit.

mod class;
mod demand;
mod filters;
mod fleet;
mod preempt;
mod profile;
mod scores;
mod topology;

pub use filters::taints::tolerates;
pub use filters::volumes::{Held, Reach, Volumes};
pub use fleet::{Fleet, NodeInfo, scheduler};
pub use preempt::{Budget, Preemption};
pub use profile::Profile;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use demand::Demand;

/// Where a Pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    Node(String),
    /// No node will do; the text is Kubernetes' explanation.
    Unschedulable(String),
}

/// Whether a Pod of a DaemonSet belongs on a node: by name, selector, affinity and taints, not by room.
pub fn belongs(node: &Node, pod: &Pod) -> bool {
    let mut fleet = Fleet::default();
    fleet.observe_node(node);
    fleet.nodes().all(|info| filters::belongs(info, &Demand::of(pod, &Volumes::default(), Arc::default())))
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s).`
fn explain(nodes: usize, reasons: &BTreeMap<Cow<'static, str>, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut parts: Vec<String> = reasons.iter().map(|(why, count)| format!("{count} {why}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
        let got = fleet(nodes).place(&pod("p", spec), &Volumes::default());
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
            let Placement::Node(name) = fleet.place(&pod, &Volumes::default()) else { panic!("there is room") };
            fleet.assume(&pod, &Volumes::default(), &name);
            chosen.push(name);
        }
        assert_eq!(chosen, ["a", "b", "c", "a", "b", "c"]);
    }

    #[test]
    fn counts_pods_against_the_nodes_limit() {
        let mut fleet = fleet(&[node("a", json!({}))]);
        (0..3).for_each(|i| fleet.assume(&pod(&format!("p{i}"), json!({})), &Volumes::default(), "a"));
        assert_eq!(
            fleet.place(&pod("p", json!({})), &Volumes::default()),
            Placement::Unschedulable("0/1 nodes are available: 1 Too many pods.".into())
        );
        fleet.forget("n/p0");
        assert_eq!(fleet.place(&pod("p", json!({})), &Volumes::default()), Placement::Node("a".into()));
    }

    fn zoned(name: &str, zone: &str) -> Node {
        let mut zoned = node(name, json!({}));
        zoned.metadata.labels.get_or_insert_default().insert("topology.kubernetes.io/zone".into(), zone.into());
        zoned
    }

    fn run(fleet: &mut Fleet, name: &str, spec: Value) -> String {
        let pod = pod(name, spec);
        match fleet.place(&pod, &Volumes::default()) {
            Placement::Node(node) => {
                fleet.assume(&pod, &Volumes::default(), &node);
                node
            }
            Placement::Unschedulable(why) => why,
        }
    }

    #[test]
    fn keeps_the_skew_between_zones_within_bounds() {
        let mut fleet = fleet(&[zoned("a", "x"), zoned("b", "x"), zoned("c", "y")]);
        let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "a"}}}]});
        let chosen: Vec<String> = (0..6).map(|i| run(&mut fleet, &format!("p{i}"), spread.clone())).collect();
        let in_y = chosen.iter().filter(|node| *node == "c").count();
        assert_eq!(in_y, 3, "{chosen:?}");
        // The zone y is full; x has room, but would be two ahead.
        assert_eq!(run(&mut fleet, "p6", spread.clone()), "b");
        let why = "0/3 nodes are available: 1 Too many pods, 2 node(s) didn't match pod topology spread constraints.";
        assert_eq!(run(&mut fleet, "p7", spread), why);
    }

    #[test]
    fn pods_stay_near_those_they_want_and_far_from_those_they_do_not() {
        let mut fleet = fleet(&[zoned("a", "x"), zoned("b", "x"), zoned("c", "y")]);
        let term = |key: &str, app: &str| json!([{"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}]);
        let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term("kubernetes.io/hostname", "a")}}});
        let mut chosen: Vec<String> = (0..3).map(|i| run(&mut fleet, &format!("p{i}"), apart.clone())).collect();
        chosen.sort();
        assert_eq!(chosen, ["a", "b", "c"]);
        assert_eq!(run(&mut fleet, "p3", apart), "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.");
        // Those that are there refuse it as well, though it has no wish of its own.
        assert_eq!(
            run(&mut fleet, "p4", json!({})),
            "0/3 nodes are available: 3 node(s) didn't satisfy existing pods anti-affinity rules."
        );
        (0..3).for_each(|i| fleet.forget(&format!("n/p{i}")));
        let near = |app: &str| json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term("topology.kubernetes.io/zone", app)}}});
        assert_eq!(run(&mut fleet, "p5", near("b")), "0/3 nodes are available: 3 node(s) didn't match pod affinity rules.");
        let mut other = pod("q", json!({}));
        other.metadata.labels = Some([("app".to_string(), "b".to_string())].into());
        fleet.assume(&other, &Volumes::default(), "c");
        assert_eq!(run(&mut fleet, "p6", near("b")), "c");
    }

    #[test]
    fn the_first_of_a_set_may_want_its_own_kind_near() {
        let mut fleet = fleet(&[zoned("a", "x"), zoned("b", "y")]);
        let term = json!([{"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": "a"}}}]);
        let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
        let chosen: Vec<String> = (0..3).map(|i| run(&mut fleet, &format!("p{i}"), near.clone())).collect();
        assert_eq!(chosen, ["a", "a", "a"]);
    }

    #[test]
    fn the_least_important_make_room() {
        let mut fleet = fleet(&[node("a", json!({})), node("b", json!({}))]);
        let big = |priority: i32| json!({"requests": {"cpu": "1500m"}, "priority": priority});
        assert_eq!((run(&mut fleet, "p1", big(5)), run(&mut fleet, "p2", big(3))), ("a".into(), "b".into()));
        let urgent = pod("urgent", big(9));
        assert_eq!(
            fleet.place(&urgent, &Volumes::default()),
            Placement::Unschedulable("0/2 nodes are available: 2 Insufficient cpu.".into())
        );
        let preempted =
            |node: &str, pods: &[&str]| Preemption::Victims { node: node.into(), pods: pods.iter().map(|p| (*p).into()).collect() };
        assert_eq!(fleet.preempt(&urgent, &Volumes::default(), &[]), preempted("b", &["n/p2"]));
        // A budget makes the more important Pod the cheaper victim.
        fleet.assume(
            &{
                let mut other = pod("p2", big(3));
                other.metadata.labels = Some([("app".to_string(), "b".to_string())].into());
                other
            },
            &Volumes::default(),
            "b",
        );
        let selector = skein_object::selector::Selector::parse("app=b").expect("a selector");
        let budget = Budget { namespace: "n".into(), selector, allowed: 0 };
        assert_eq!(fleet.preempt(&urgent, &Volumes::default(), &[budget]), preempted("a", &["n/p1"]));
        let hopeless = |why: &str| Preemption::Hopeless(why.into());
        let why = "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
        assert_eq!(fleet.preempt(&pod("meek", big(1)), &Volumes::default(), &[]), hopeless(why));
        let why = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
        assert_eq!(fleet.preempt(&pod("huge", json!({"requests": {"cpu": "8"}, "priority": 9})), &Volumes::default(), &[]), hopeless(why));
    }

    #[test]
    fn a_pod_goes_where_its_volumes_are() {
        let mut fleet = fleet(&[node("a", json!({})), node("b", json!({}))]);
        let term = |disk: &str| json!([{"matchExpressions": [{"key": "disk", "operator": "In", "values": [disk]}]}]);
        let on = |disk: &str| Reach::on(serde_json::from_value(term(disk)).expect("terms"), "no disk");
        let pod = pod("p", json!({}));
        let check = |fleet: &mut Fleet, reach: Vec<Reach>, expected: Placement| {
            assert_eq!(fleet.place(&pod, &Volumes { reach, ..Volumes::default() }), expected);
        };
        check(&mut fleet, vec![on("b")], Placement::Node("b".into()));
        check(&mut fleet, vec![on("a")], Placement::Node("a".into()));
        let nowhere = Placement::Unschedulable("0/2 nodes are available: 2 no disk.".into());
        check(&mut fleet, vec![on("a"), on("b")], nowhere.clone());
        check(&mut fleet, vec![Reach::nowhere("no disk")], nowhere);
    }

    #[test]
    fn drivers_take_so_many_volumes() {
        let mut fleet = fleet(&[node("a", json!({})), node("b", json!({}))]);
        fleet.observe_drivers("a", [("d".to_string(), Some(2))].into());
        let held = |handles: &[&str]| -> BTreeSet<Held> {
            handles.iter().map(|handle| Held { driver: "d".into(), handle: (*handle).into() }).collect()
        };
        let with = |handles: &[&str], drivers: &[&str]| Volumes {
            held: held(handles),
            drivers: drivers.iter().map(|driver| (*driver).to_string()).collect(),
            ..Volumes::default()
        };
        let pod = |name: &str| pod(name, json!({}));
        fleet.observe_drivers("b", [("d".to_string(), Some(0))].into());
        assert_eq!(fleet.place(&pod("p"), &with(&["1", "2"], &["d"])), Placement::Node("a".into()));
        fleet.assume(&pod("p"), &with(&["1", "2"], &[]), "a");
        let full = Placement::Unschedulable("0/2 nodes are available: 2 node(s) exceed max volume count.".into());
        assert_eq!(fleet.place(&pod("q"), &with(&["3"], &[])), full);
        // A volume counts once, however many Pods use it.
        assert_eq!(fleet.place(&pod("q"), &with(&["2"], &[])), Placement::Node("a".into()));
        // What is still attached counts, too.
        fleet.forget("n/p");
        fleet.observe_attached("a", held(&["1", "2"]));
        assert_eq!(fleet.place(&pod("q"), &with(&["3"], &[])), full);
        fleet.observe_drivers("b", BTreeMap::new());
        assert_eq!(fleet.place(&pod("q"), &with(&["3"], &[])), Placement::Node("b".into()));
        let missing = "0/2 nodes are available: 1 d CSI driver is not installed on the node, 1 node(s) exceed max volume count.";
        assert_eq!(fleet.place(&pod("q"), &with(&["3"], &["d"])), Placement::Unschedulable(missing.into()));
    }

    #[test]
    fn each_profile_places_its_own_pods_its_own_way() {
        let mut fleet = fleet(&[node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
        let config = r#"
            apiVersion: kubescheduler.config.k8s.io/v1
            kind: KubeSchedulerConfiguration
            profiles:
            - {}
            - schedulerName: packer
              plugins: {score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit}]}}
              pluginConfig:
              - name: NodeResourcesFit
                args: {scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}}}
            - schedulerName: only-b
              plugins: {postFilter: {disabled: [{name: '*'}]}, filter: {disabled: [{name: NodeResourcesFit}]}}
              pluginConfig:
              - name: NodeAffinity
                args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: In, values: [b]}]}]}}}
        "#;
        fleet.observe_profiles(Profile::read(config).expect("it is right"));
        let by = |name: &str| json!({"schedulerName": name, "requests": {"cpu": "100m"}});
        let run = |fleet: &mut Fleet, prefix: &str, name: &str, count: usize| -> Vec<String> {
            (0..count).map(|i| run(fleet, &format!("{prefix}{i}"), by(name))).collect()
        };
        assert_eq!(run(&mut fleet, "d", "default-scheduler", 2), ["a", "b"]);
        assert_eq!(run(&mut fleet, "p", "packer", 5), ["a", "a", "b", "b", "c"]);
        assert_eq!(run(&mut fleet, "o", "only-b", 1), ["b"], "there is no room, but nobody looks");
        assert!(fleet.is_for(&pod("x", by("packer"))) && !fleet.is_for(&pod("x", by("another"))));
        let away = pod("y", json!({"schedulerName": "only-b", "nodeSelector": {"disk": "c"}, "priority": 9}));
        assert_eq!(fleet.preempt(&away, &Volumes::default(), &[]), Preemption::Hopeless(String::new()));
    }

    #[test]
    fn room_is_kept_for_a_nominated_pod() {
        let mut fleet = fleet(&[node("a", json!({}))]);
        let mut urgent = pod("urgent", json!({"requests": {"cpu": "1500m"}, "priority": 9}));
        urgent.status = Some(serde_json::from_value(json!({"nominatedNodeName": "a"})).expect("a status"));
        fleet.observe_pod(&urgent, &Volumes::default());
        assert_eq!(run(&mut fleet, "p", json!({"requests": {"cpu": "1"}})), "0/1 nodes are available: 1 Insufficient cpu.");
        assert_eq!(fleet.place(&urgent, &Volumes::default()), Placement::Node("a".into()));
    }
}
