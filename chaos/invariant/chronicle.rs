//! Every change that any node has ever shown, by revision.

use std::collections::{BTreeMap, BTreeSet};

use crate::Observation;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    pub revision: u64,
    pub key: String,
    /// The object's digest; `None` for a deletion.
    pub digest: Option<u64>,
}

#[derive(Default)]
pub struct Chronicle {
    changes: BTreeMap<u64, Change>,
    by_key: BTreeMap<String, BTreeSet<u64>>,
}

impl Chronicle {
    /// The first to show a revision is believed; who differs breaks state machine safety.
    pub(crate) fn observe(&mut self, observation: &Observation) {
        if let Observation::Changed { change, .. } = observation
            && !self.changes.contains_key(&change.revision)
        {
            self.by_key.entry(change.key.clone()).or_default().insert(change.revision);
            self.changes.insert(change.revision, change.clone());
        }
    }

    pub fn at(&self, revision: u64) -> Option<&Change> {
        self.changes.get(&revision)
    }

    /// The last change of a key up to and including a revision.
    pub fn last_of(&self, key: &str, upto: u64) -> Option<&Change> {
        let revision = self.by_key.get(key)?.range(..=upto).next_back()?;
        self.changes.get(revision)
    }

    pub fn between(&self, after: u64, upto: u64) -> impl Iterator<Item = &Change> {
        self.changes
            .range(after.saturating_add(1)..=upto.max(after.saturating_add(1)))
            .map(|(_, change)| change)
            .filter(move |c| c.revision <= upto)
    }

    pub fn latest(&self) -> u64 {
        self.changes.last_key_value().map_or(0, |(revision, _)| *revision)
    }
}
