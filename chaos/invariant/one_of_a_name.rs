//! A StatefulSet's Pods have names that others know them by: of each there is one that runs, or none.

use std::collections::BTreeMap;

use crate::{Chronicle, Invariant, Node, Observation};

#[derive(Default)]
pub(crate) struct OneOfAName {
    /// By name: whose Pod, and where it runs.
    running: BTreeMap<String, (String, Node)>,
}

impl Invariant for OneOfAName {
    fn name(&self) -> &'static str {
        "one running Pod of a StatefulSet's name"
    }

    fn source(&self) -> &'static str {
        "Kubernetes, \"StatefulSet considerations\": at most one Pod with a given identity"
    }

    fn observe(&mut self, _: &Chronicle, observation: &Observation) -> Result<(), String> {
        match observation {
            Observation::Runs { node, pod, uid, is_unique: true } => match self.running.insert(pod.clone(), (uid.clone(), *node)) {
                Some((other, at)) => Err(format!("{pod} runs on node {node} ({uid}), and on node {at} ({other}), too")),
                None => Ok(()),
            },
            Observation::Ended { uid, .. } => {
                self.running.retain(|_, (running, _)| running != uid);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
