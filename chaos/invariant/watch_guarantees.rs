//! A watch is ordered, unique, atomic, reliable and resumable: after its list it shows every change once, in order,
//! whichever node it goes on at.

use std::collections::BTreeMap;

use crate::{Chronicle, Invariant, Observation};

#[derive(Default)]
pub(crate) struct WatchGuarantees {
    /// By watcher: from where it is complete, and the last revision it got.
    watchers: BTreeMap<u64, (u64, Vec<u64>)>,
    complete: Vec<(u64, Vec<u64>)>,
}

impl WatchGuarantees {
    fn check_complete(chronicle: &Chronicle, from: u64, seen: &[u64]) -> Result<(), String> {
        let Some(last) = seen.last() else { return Ok(()) };
        let there: Vec<u64> = chronicle.between(from, *last).map(|change| change.revision).collect();
        if there != seen {
            let missing = there.iter().find(|revision| !seen.contains(revision));
            return Err(format!("a watch from {from} to {last} lacks revision {missing:?}"));
        }
        Ok(())
    }
}

impl Invariant for WatchGuarantees {
    fn name(&self) -> &'static str {
        "watch guarantees"
    }

    fn source(&self) -> &'static str {
        "etcd API guarantees, watch APIs"
    }

    fn observe(&mut self, chronicle: &Chronicle, observation: &Observation) -> Result<(), String> {
        match observation {
            Observation::Listed { watcher, revision } => {
                self.complete.extend(self.watchers.insert(*watcher, (*revision, Vec::new())));
            }
            Observation::Watched { watcher, change } => {
                let (from, seen) = self.watchers.entry(*watcher).or_default();
                let last = seen.last().copied().unwrap_or(*from);
                if change.revision <= last {
                    return Err(format!("watcher {watcher} got revision {} after {last}", change.revision));
                }
                if chronicle.at(change.revision).is_some_and(|known| known != change) {
                    return Err(format!("watcher {watcher} got {change:?}, which is {:?}", chronicle.at(change.revision)));
                }
                seen.push(change.revision);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, chronicle: &Chronicle) -> Result<(), String> {
        let all = self.complete.iter().chain(self.watchers.values());
        for (from, seen) in all {
            Self::check_complete(chronicle, *from, seen)?;
        }
        Ok(())
    }
}
