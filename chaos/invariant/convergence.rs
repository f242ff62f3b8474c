//! When the faults are over, all nodes end in one state.

use crate::{Chronicle, Invariant, Observation};

#[derive(Default)]
pub(crate) struct Convergence {
    rested: Vec<(u64, u64, u64)>,
}

impl Invariant for Convergence {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn source(&self) -> &'static str {
        "ARCHITECTURE.md"
    }

    fn observe(&mut self, _: &Chronicle, observation: &Observation) -> Result<(), String> {
        if let Observation::Rested { node, revision, digest } = observation {
            self.rested.push((*node, *revision, *digest));
        }
        Ok(())
    }

    fn finish(&mut self, _: &Chronicle) -> Result<(), String> {
        let differ =
            self.rested.iter().find(|(_, revision, digest)| self.rested.first().is_some_and(|f| (f.1, f.2) != (*revision, *digest)));
        differ
            .map_or(Ok(()), |(node, revision, _)| Err(format!("node {node} ends at revision {revision} with another state than the first")))
    }
}
