//! There are one, three, five or seven voters, never two: two survive less than one.

use crate::{Chronicle, Invariant, Observation};

#[derive(Default)]
pub(crate) struct Membership;

impl Invariant for Membership {
    fn name(&self) -> &'static str {
        "an odd number of voters"
    }

    fn source(&self) -> &'static str {
        "ARCHITECTURE.md"
    }

    fn observe(&mut self, _: &Chronicle, observation: &Observation) -> Result<(), String> {
        match observation {
            Observation::Voters { node, voters } if !matches!(voters.len(), 0 | 1 | 3 | 5 | 7) => {
                Err(format!("node {node} knows the voters {voters:?}"))
            }
            _ => Ok(()),
        }
    }
}
