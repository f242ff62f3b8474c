//! VolumeBinding: the Pod's volumes can be reached from the node, or made there.

use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm};

use super::Refusal;
use super::affinity::matches_term;
use crate::demand::Demand;
use crate::fleet::{Fleet, NodeInfo};

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

pub(super) fn check(node: &NodeInfo, demand: &Demand) -> Result<(), Refusal> {
    match demand.volumes.iter().find(|volume| !volume.has(node)) {
        Some(volume) => Err(Refusal::lasting(volume.refusal)),
        None => Ok(()),
    }
}
