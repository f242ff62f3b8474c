//! What was acknowledged is never lost: whoever is there in the end has reached it.

use crate::{Answer, Chronicle, Invariant, Observation};

#[derive(Default)]
pub(crate) struct Durability {
    acknowledged: u64,
    rested: Vec<(u64, u64)>,
}

impl Invariant for Durability {
    fn name(&self) -> &'static str {
        "no acknowledged write lost"
    }

    fn source(&self) -> &'static str {
        "Jepsen, set workload"
    }

    fn observe(&mut self, _: &Chronicle, observation: &Observation) -> Result<(), String> {
        match observation {
            Observation::Answered { answer: Answer::Done { revision }, .. } => self.acknowledged = self.acknowledged.max(*revision),
            Observation::Rested { node, revision, .. } => self.rested.push((*node, *revision)),
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, _: &Chronicle) -> Result<(), String> {
        match self.rested.iter().find(|(_, revision)| *revision < self.acknowledged) {
            Some((node, revision)) => Err(format!("revision {} was acknowledged, node {node} ends at {revision}", self.acknowledged)),
            None => Ok(()),
        }
    }
}
