//! A Pod that has a node keeps it, and no node is given more Pods than it has room for: whoever leads next has seen what
//! those before have placed, and those before place nothing more.

use std::collections::BTreeMap;

use crate::{Chronicle, Invariant, Observation, Share};

#[derive(Default)]
pub(crate) struct Placement {
    /// Of revisions that are not all known up to there.
    later: BTreeMap<u64, (String, Option<Share>)>,
    /// Everything up to this revision is counted.
    counted: u64,
    placed: BTreeMap<String, Share>,
}

impl Placement {
    fn count(&mut self, revision: u64) -> Result<(), String> {
        let Some((uid, share)) = self.later.remove(&revision) else { return Ok(()) };
        let Some(share) = share else {
            self.placed.remove(&uid);
            return Ok(());
        };
        let before = self.placed.insert(uid.clone(), share.clone());
        if let Some(before) = before.filter(|before| before.node != share.node) {
            return Err(format!("at revision {revision} the Pod {uid} moves from {} to {}", before.node, share.node));
        }
        let taken: u64 = self.placed.values().filter(|other| other.node == share.node).map(|other| other.milli_cpu).sum();
        if taken > share.of_milli_cpu {
            return Err(format!("at revision {revision} {} of {} mCPU of {} are taken", taken, share.of_milli_cpu, share.node));
        }
        Ok(())
    }
}

impl Invariant for Placement {
    fn name(&self) -> &'static str {
        "placement"
    }

    fn source(&self) -> &'static str {
        "Kubernetes, pods/binding and NodeResourcesFit"
    }

    fn observe(&mut self, chronicle: &Chronicle, observation: &Observation) -> Result<(), String> {
        match observation {
            Observation::Placed { revision, uid, share } if *revision > self.counted => {
                self.later.insert(*revision, (uid.clone(), share.clone()));
            }
            // A node that got a snapshot shows nothing of what is in it: another fills the gap.
            Observation::Changed { .. } => {
                while chronicle.at(self.counted + 1).is_some() {
                    self.counted += 1;
                    self.count(self.counted)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
