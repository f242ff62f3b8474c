//! An entry that was committed in a term is in the logs of the leaders of all later terms.

use crate::{Chronicle, Invariant, Observation};

#[derive(Default)]
pub(crate) struct LeaderCompleteness {
    /// Index and term of the last entry that any node has applied.
    committed: (u64, u64),
}

impl Invariant for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "leader completeness"
    }

    fn source(&self) -> &'static str {
        "Raft, figure 3"
    }

    fn observe(&mut self, _: &Chronicle, observation: &Observation) -> Result<(), String> {
        match observation {
            Observation::Applied { index, term, .. } => self.committed = self.committed.max((*index, *term)),
            Observation::Leads { node, term, log } if *term > self.committed.1 => {
                let (index, committed_in) = self.committed;
                let found = log.iter().find(|entry| entry.index == index).map(|entry| entry.term);
                let purged = log.first().is_some_and(|first| first.index > index);
                if index > 0 && found != Some(committed_in) && !purged {
                    return Err(format!(
                        "node {node} leads in term {term} without the committed entry {index} of term {committed_in} (there: {found:?})"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
