//! What Pods use, as their nodes have reported it to the leader.

use std::collections::BTreeMap;
use std::sync::Arc;

use skein_object::usage::{NodeUsage, PodUsage};

/// The newest measurement of each node. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    nodes: BTreeMap<String, Arc<NodeUsage>>,
}

/// A Pod's part of its node's measurement.
pub(crate) struct Measured<'a> {
    pub(crate) pod: &'a PodUsage,
    pub(crate) time_ms: i64,
    pub(crate) window_ms: i64,
}

impl Usage {
    pub fn observe(&mut self, node: &str, usage: NodeUsage) {
        self.nodes.insert(node.into(), Arc::new(usage));
    }

    pub(crate) fn of_pod(&self, node: &str, namespace: &str, name: &str) -> Option<Measured<'_>> {
        let usage = self.nodes.get(node)?;
        let pod = usage.pods.iter().find(|pod| pod.name == name && pod.namespace == namespace)?;
        Some(Measured { pod, time_ms: usage.time_ms, window_ms: usage.window_ms })
    }
}
