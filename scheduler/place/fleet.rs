//! The nodes and what is requested on each, kept incrementally.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use skein_object::quantity::Quantity;
use skein_object::selector::Labels;

pub(crate) type Amounts = BTreeMap<String, Quantity>;

/// Placements against one snapshot are made on a fleet, and recorded in it.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    nodes: BTreeMap<String, NodeInfo>,
    /// The node of each Pod that occupies one, by `namespace/name`.
    pods: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: String,
    pub(crate) labels: Labels,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) known: bool,
    pub(crate) allocatable: Amounts,
    pub(crate) requested: Amounts,
    pub(crate) pods: BTreeMap<String, Occupant>,
}

/// What a Pod takes on its node.
#[derive(Clone, Debug)]
pub(crate) struct Occupant {
    pub(crate) namespace: String,
    pub(crate) labels: Labels,
    pub(crate) requests: Amounts,
    pub(crate) host_ports: Vec<(i32, String)>,
}

// === impl Fleet ===

impl Fleet {
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|node| node.known)
    }

    pub fn observe_node(&mut self, node: &Node) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let info = self.nodes.entry(name.clone()).or_default();
        let spec = node.spec.as_ref();
        info.name = name;
        info.known = true;
        info.labels = node.metadata.labels.clone().unwrap_or_default();
        info.taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        info.unschedulable = spec.and_then(|s| s.unschedulable).unwrap_or(false);
        info.allocatable = amounts(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
    }

    pub fn forget_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.known = false;
        }
    }

    /// A Pod as it is in the snapshot: it occupies its node until it has ended.
    pub fn observe_pod(&mut self, pod: &Pod) {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        self.forget(&key(pod));
        if !node.is_empty() && phase != "Succeeded" && phase != "Failed" {
            self.assume(pod, node);
        }
    }

    /// Counts a Pod on a node, before or after it is bound there.
    pub fn assume(&mut self, pod: &Pod, node: &str) {
        let occupant = Occupant {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            requests: requests(pod),
            host_ports: pod.spec.as_ref().map(host_ports).unwrap_or_default(),
        };
        let info = self.nodes.entry(node.into()).or_default();
        for (name, amount) in &occupant.requests {
            let sum = info.requested.get(name).copied().unwrap_or_default() + *amount;
            info.requested.insert(name.clone(), sum);
        }
        info.pods.insert(key(pod), occupant);
        self.pods.insert(key(pod), node.into());
    }

    /// Frees what the Pod `namespace/name` occupies.
    pub fn forget(&mut self, pod: &str) {
        let Some(info) = self.pods.remove(pod).and_then(|node| self.nodes.get_mut(&node)) else { return };
        let Some(occupant) = info.pods.remove(pod) else { return };
        for (name, amount) in occupant.requests {
            let rest = info.requested.get(&name).copied().unwrap_or_default() - amount;
            info.requested.insert(name, rest);
        }
    }
}

fn key(pod: &Pod) -> String {
    format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default())
}

/// What a Pod asks for: its containers and sidecars together, or an init container with the sidecars before it where
/// that is more (KEP-753); its overhead; one Pod.
pub(crate) fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let of = |c: &k8s_openapi::api::core::v1::Container| amounts(c.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let (mut lasting, mut most) = (Amounts::new(), Amounts::new());
    for init in spec.init_containers.iter().flatten() {
        let mut now = lasting.clone();
        add(&mut now, of(init));
        if init.restart_policy.as_deref() == Some("Always") {
            lasting = now;
            continue;
        }
        for (name, amount) in now {
            let known = most.get(&name).copied().unwrap_or_default();
            most.insert(name, known.max(amount));
        }
    }
    spec.containers.iter().for_each(|container| add(&mut lasting, of(container)));
    for (name, amount) in most {
        let known = lasting.get(&name).copied().unwrap_or_default();
        lasting.insert(name, known.max(amount));
    }
    add(&mut lasting, amounts(spec.overhead.as_ref()));
    lasting.insert("pods".into(), Quantity::from_units(1));
    lasting
}

fn add(total: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        let sum = total.get(&name).copied().unwrap_or_default() + amount;
        total.insert(name, sum);
    }
}

pub(crate) fn host_ports(spec: &PodSpec) -> Vec<(i32, String)> {
    let ports = spec.containers.iter().flat_map(|c| c.ports.iter().flatten());
    ports.filter_map(|p| Some((p.host_port.filter(|n| *n > 0)?, p.protocol.clone().unwrap_or_else(|| "TCP".into())))).collect()
}

fn amounts(texts: Option<&BTreeMap<String, Text>>) -> Amounts {
    texts.into_iter().flatten().filter_map(|(name, text)| Some((name.clone(), text.0.parse().ok()?))).collect()
}
