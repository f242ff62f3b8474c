//! At most one leader is elected in a term.

use std::collections::BTreeMap;

use crate::{Chronicle, Invariant, Node, Observation};

#[derive(Default)]
pub(crate) struct ElectionSafety {
    leaders: BTreeMap<u64, Node>,
}

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election safety"
    }

    fn source(&self) -> &'static str {
        "Raft, figure 3"
    }

    fn observe(&mut self, _: &Chronicle, observation: &Observation) -> Result<(), String> {
        let Observation::Leads { node, term, .. } = observation else { return Ok(()) };
        match self.leaders.insert(*term, *node) {
            Some(other) if other != *node => Err(format!("nodes {other} and {node} both lead in term {term}")),
            _ => Ok(()),
        }
    }
}
