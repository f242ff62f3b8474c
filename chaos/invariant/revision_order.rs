//! The revision grows by one for each changed object, on every node, for as long as the node runs.

use std::collections::BTreeMap;

use crate::{Chronicle, Invariant, Node, Observation};

#[derive(Default)]
pub(crate) struct RevisionOrder {
    last: BTreeMap<Node, u64>,
    applied: BTreeMap<Node, (u64, u64)>,
}

impl Invariant for RevisionOrder {
    fn name(&self) -> &'static str {
        "strictly growing resourceVersion"
    }

    fn source(&self) -> &'static str {
        "Kubernetes API concepts, resource versions"
    }

    fn observe(&mut self, _: &Chronicle, observation: &Observation) -> Result<(), String> {
        match observation {
            Observation::Started { node, revision } => {
                self.last.insert(*node, *revision);
                self.applied.remove(node);
            }
            Observation::Changed { node, change } => {
                let last = self.last.insert(*node, change.revision).unwrap_or(0);
                if change.revision != last + 1 {
                    return Err(format!("on node {node} revision {} follows {last}", change.revision));
                }
            }
            Observation::Applied { node, index, revision, .. } => {
                let last = self.applied.insert(*node, (*index, *revision)).unwrap_or((0, 0));
                if *index < last.0 || *revision < last.1 {
                    return Err(format!("node {node} went from (index, revision) {last:?} back to {:?}", (index, revision)));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
