//! No two nodes apply different entries at one index: one index has one revision, one revision one change.

use std::collections::BTreeMap;

use crate::{Chronicle, Invariant, Observation};

#[derive(Default)]
pub(crate) struct StateMachineSafety {
    /// Term and revision by index.
    applied: BTreeMap<u64, (u64, u64)>,
}

impl Invariant for StateMachineSafety {
    fn name(&self) -> &'static str {
        "state machine safety"
    }

    fn source(&self) -> &'static str {
        "Raft, figure 3"
    }

    fn observe(&mut self, chronicle: &Chronicle, observation: &Observation) -> Result<(), String> {
        match observation {
            Observation::Applied { node, index, term, revision } => {
                let known = *self.applied.entry(*index).or_insert((*term, *revision));
                if known != (*term, *revision) {
                    return Err(format!(
                        "after entry {index} node {node} is at (term, revision) {:?}, another at {known:?}",
                        (term, revision)
                    ));
                }
            }
            Observation::Changed { node, change } => {
                let known = chronicle.at(change.revision);
                if known != Some(change) {
                    return Err(format!("node {node} has {change:?}, another {known:?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
