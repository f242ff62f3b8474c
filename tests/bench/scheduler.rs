//! The scheduler alone: Pods a second on fleets of several sizes, after the shapes of Kubernetes' `scheduler_perf`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use skein_place::{Fleet, Placement, Preemption, Volumes};

/// How long each shape runs, about.
const BUDGET: Duration = Duration::from_secs(1);

/// Name, what all Pods have in common, how many a node takes.
struct Shape {
    name: &'static str,
    spec: fn(usize) -> Value,
    per_node: usize,
}

const SHAPES: &[Shape] = &[
    Shape { name: "basic", spec: |_| json!({}), per_node: 100 },
    Shape {
        name: "node affinity",
        spec: |_| {
            let terms =
                json!([{"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-0", "zone-1"]}]}]);
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        },
        per_node: 30,
    },
    Shape {
        name: "topology spread over zones",
        spec: |_| {
            json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "bench"}}}]})
        },
        per_node: 100,
    },
    Shape {
        name: "Pod anti-affinity by host",
        spec: |_| {
            let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "bench"}}}]);
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}})
        },
        per_node: 1,
    },
    Shape {
        name: "Pod affinity by zone",
        spec: |_| {
            let term = json!([{"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": "bench"}}}]);
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}})
        },
        per_node: 10,
    },
    Shape { name: "mixed, 16 kinds", spec: |i| json!({"priority": i % 16, "nodeSelector": {"disk": disk(i)}}), per_node: 50 },
];

/// A line of the table for each shape and size.
pub(crate) fn run(mut row: impl FnMut(&str, f64)) -> Result<()> {
    for nodes in [100, 1000, 5000] {
        for shape in SHAPES {
            let mut fleet = fleet(nodes);
            let pods: Vec<Pod> = (0..(nodes * shape.per_node).min(20_000)).map(|i| pod(i, (shape.spec)(i))).collect();
            let begin = Instant::now();
            let mut placed = 0u32;
            for pod in &pods {
                let Placement::Node(node) = fleet.place(pod, &Volumes::default()) else { bail!("{}: there is no room", shape.name) };
                fleet.assume(pod, &Volumes::default(), &node);
                placed += 1;
                if begin.elapsed() > BUDGET {
                    break;
                }
            }
            row(&format!("{}, {nodes} nodes", shape.name), f64::from(placed) / begin.elapsed().as_secs_f64());
        }
        row(&format!("preemption, {nodes} nodes"), preemptions(nodes)?);
    }
    Ok(())
}

/// Every node is full of Pods that do not matter.
fn preemptions(nodes: usize) -> Result<f64> {
    let mut fleet = fleet(nodes);
    let mut victims = std::collections::BTreeMap::new();
    for index in 0..nodes * 4 {
        let mut meek = pod(index, json!({"priority": 1}));
        meek.metadata.name = Some(format!("meek-{index}"));
        set_cpu(&mut meek, "900m");
        let node = format!("node-{}", index / 4);
        fleet.assume(&meek, &Volumes::default(), &node);
        victims.insert(format!("bench/meek-{index}"), node);
    }
    let begin = Instant::now();
    let mut count = 0u32;
    while begin.elapsed() < BUDGET && victims.len() > nodes {
        let mut urgent = pod(1_000_000 + count as usize, json!({"priority": 1000}));
        set_cpu(&mut urgent, "3");
        let Preemption::Victims { node, pods } = fleet.preempt(&urgent, &Volumes::default(), &[]) else {
            bail!("there is somebody to preempt")
        };
        for victim in pods {
            victims.remove(&victim);
            fleet.forget(&victim);
        }
        fleet.assume(&urgent, &Volumes::default(), &node);
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

fn disk(index: usize) -> &'static str {
    if index.is_multiple_of(2) { "ssd" } else { "hdd" }
}

fn fleet(nodes: usize) -> Fleet {
    let mut fleet = Fleet::default();
    for index in 0..nodes {
        let labels = json!({"kubernetes.io/hostname": format!("node-{index}"), "topology.kubernetes.io/zone": format!("zone-{}", index % 5),
            "disk": disk(index)});
        let node: Node = serde_json::from_value(json!({"metadata": {"name": format!("node-{index}"), "labels": labels},
            "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}}}))
        .expect("a Node");
        fleet.observe_node(&node);
    }
    fleet
}

fn pod(index: usize, spec: Value) -> Pod {
    let mut spec = spec;
    spec["containers"] = json!([{"name": "c", "image": "bench", "resources": {"requests": {"cpu": "10m", "memory": "50Mi"}}}]);
    let metadata = json!({"name": format!("pod-{index}"), "namespace": "bench", "labels": {"app": "bench"}});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a Pod")
}

fn set_cpu(pod: &mut Pod, amount: &str) {
    let containers = pod.spec.iter_mut().flat_map(|spec| &mut spec.containers);
    for requests in containers.filter_map(|c| c.resources.as_mut()?.requests.as_mut()) {
        requests.insert("cpu".into(), k8s_openapi::apimachinery::pkg::api::resource::Quantity(amount.into()));
    }
}
