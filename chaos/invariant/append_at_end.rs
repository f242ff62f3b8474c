//! What is written to a log is written at its end: where an entry conflicts with one that is there, that one and all
//! that follow it have gone before.

use crate::{Chronicle, Invariant, Observation};

#[derive(Default)]
pub(crate) struct AppendAtEnd;

impl Invariant for AppendAtEnd {
    fn name(&self) -> &'static str {
        "appending at the end"
    }

    fn source(&self) -> &'static str {
        "Raft, figure 2, AppendEntries, steps 3 and 4"
    }

    fn observe(&mut self, _: &Chronicle, observation: &Observation) -> Result<(), String> {
        match observation {
            Observation::Written { node, index, last: Some(last) } if index <= last => {
                Err(format!("node {node} writes entry {index} before entry {last}, which is still in its log"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_after_all_others() {
        let check = |index, last, holds| {
            let written = Observation::Written { node: 1, index, last };
            assert_eq!(AppendAtEnd.observe(&Chronicle::default(), &written).is_ok(), holds);
        };
        check(1, None, true);
        check(8, Some(7), true);
        // After a snapshot.
        check(90, Some(7), true);
        check(7, Some(7), false);
        check(5, Some(7), false);
    }
}
