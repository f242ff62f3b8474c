//! If two logs hold an entry with the same index and term, they are the same up to that entry.
//!
//! An entry is known by its index and term; it must always say the same and follow an entry of the same term. By
//! induction that is the property.

use std::collections::BTreeMap;

use crate::{Chronicle, Entry, Invariant, Observation};

#[derive(Default)]
pub(crate) struct LogMatching {
    /// By index and term: the content, and the term of the entry before it where one was seen.
    entries: BTreeMap<(u64, u64), (u64, Option<u64>)>,
}

impl LogMatching {
    fn check(&mut self, log: &[Entry]) -> Result<(), String> {
        let mut before: Option<Entry> = None;
        for entry in log {
            let previous = before.filter(|b| b.index + 1 == entry.index).map(|b| b.term);
            let known = self.entries.entry((entry.index, entry.term)).or_insert((entry.digest, previous));
            if known.0 != entry.digest {
                return Err(format!("entry {} of term {} differs between two logs", entry.index, entry.term));
            }
            match (known.1, previous) {
                (Some(a), Some(b)) if a != b => {
                    return Err(format!("before entry {} of term {} stands term {a} in one log, {b} in another", entry.index, entry.term));
                }
                (None, Some(_)) => known.1 = previous,
                _ => {}
            }
            before = Some(*entry);
        }
        Ok(())
    }
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log matching"
    }

    fn source(&self) -> &'static str {
        "Raft, figure 3"
    }

    fn observe(&mut self, _: &Chronicle, observation: &Observation) -> Result<(), String> {
        match observation {
            Observation::Leads { log, .. } | Observation::Log { log, .. } => self.check(log),
            _ => Ok(()),
        }
    }
}
