//! A watch is ordered, unique, atomic, reliable and resumable: after its list it shows every change once, in order,
//! whichever node it goes on at.

use std::collections::BTreeMap;

use crate::{Chronicle, Invariant, Observation};

#[derive(Default)]
pub(crate) struct WatchGuarantees {
    by_watcher: BTreeMap<u64, Watch>,
    complete: Vec<Watch>,
}

#[derive(Default)]
struct Watch {
    resource: &'static str,
    /// The revision of its list.
    from: u64,
    /// Of what it got.
    seen: Vec<u64>,
}

impl WatchGuarantees {
    fn check_complete(chronicle: &Chronicle, Watch { resource, from, seen }: &Watch) -> Result<(), String> {
        let Some(last) = seen.last() else { return Ok(()) };
        let is_of = |key: &str| key.strip_prefix(*resource).is_some_and(|rest| rest.starts_with('/'));
        let there: Vec<u64> = chronicle.between(*from, *last).filter(|change| is_of(&change.key)).map(|change| change.revision).collect();
        if there != *seen {
            let missing = there.iter().find(|revision| !seen.contains(revision));
            return Err(format!("a watch of {resource} from {from} to {last} lacks revision {missing:?}"));
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
            Observation::Listed { watcher, resource, revision } => {
                let watch = Watch { resource, from: *revision, seen: Vec::new() };
                self.complete.extend(self.by_watcher.insert(*watcher, watch));
            }
            Observation::Watched { watcher, change } => {
                let Watch { from, seen, .. } = self.by_watcher.entry(*watcher).or_default();
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
        self.complete.iter().chain(self.by_watcher.values()).try_for_each(|watch| Self::check_complete(chronicle, watch))
    }
}
