//! VolumeBinding and NodeVolumeLimits: the Pod's volumes can be reached from the node, or made there, and its drivers can
//! take them.

use std::collections::BTreeSet;
use std::ptr;

use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm};

use super::Refusal;
use super::affinity::matches_term;
use crate::demand::{Demand, Occupant};
use crate::fleet::{Fleet, NodeInfo};

/// What a Pod's volumes ask of its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volumes {
    pub reach: Vec<Reach>,
    /// Those of CSI drivers.
    pub held: BTreeSet<Held>,
    /// Drivers without which a Pod must not come (`preventPodSchedulingIfMissing`).
    pub drivers: BTreeSet<String>,
}

/// A driver's volume. On a node it counts once, however many Pods use it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    pub driver: String,
    pub handle: String,
}

/// Where one volume of a Pod can be reached: on nodes that one of the terms is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    terms: Vec<NodeSelectorTerm>,
    /// What is said of other nodes.
    refusal: &'static str,
}

// === impl Reach ===

impl Reach {
    pub fn on(terms: Vec<NodeSelectorTerm>, refusal: &'static str) -> Self {
        Self { terms, refusal }
    }

    pub fn nowhere(refusal: &'static str) -> Self {
        Self { terms: Vec::new(), refusal }
    }

    pub fn includes(&self, node: &Node) -> bool {
        let mut fleet = Fleet::default();
        fleet.observe_node(node);
        fleet.nodes().any(|info| self.has(info))
    }

    fn has(&self, node: &NodeInfo) -> bool {
        self.terms.iter().any(|term| matches_term(node, term))
    }
}

pub(super) fn check(node: &NodeInfo, demand: &Demand, gone: &[&Occupant]) -> Result<(), Refusal> {
    if let Some(missing) = demand.drivers.iter().find(|driver| !node.drivers.contains_key(*driver)) {
        return Err(Refusal::lasting(format!("{missing} CSI driver is not installed on the node")));
    }
    if !has_room(node, demand, gone) {
        return Err(Refusal::of_others("node(s) exceed max volume count"));
    }
    match demand.reach.iter().find(|volume| !volume.has(node)) {
        Some(volume) => Err(Refusal::lasting(volume.refusal)),
        None => Ok(()),
    }
}

/// Whether each driver can take what is new to it on the node.
fn has_room(node: &NodeInfo, demand: &Demand, gone: &[&Occupant]) -> bool {
    let wanted = &demand.occupant.volumes;
    let limited = |volume: &Held| node.drivers.get(&volume.driver).is_some_and(Option::is_some);
    if !wanted.iter().any(limited) {
        return true;
    }
    let is_gone = |pod: &Occupant| gone.iter().any(|left| ptr::eq(*left, pod));
    let used: BTreeSet<&Held> = node.pods.values().filter(|pod| !is_gone(pod)).flat_map(|pod| &pod.volumes).collect();
    let leaves = |volume: &Held| gone.iter().any(|pod| pod.volumes.contains(volume));
    let there: BTreeSet<&Held> = node.attached.iter().filter(|volume| !leaves(volume)).chain(used).collect();
    node.drivers.iter().filter_map(|(driver, limit)| Some((driver, (*limit)?))).all(|(driver, limit)| {
        let new = wanted.iter().filter(|volume| volume.driver == *driver && !there.contains(volume)).count();
        new == 0 || new + there.iter().filter(|volume| volume.driver == *driver).count() <= limit
    })
}
