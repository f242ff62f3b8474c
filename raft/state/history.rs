//! The recent events of each resource, from which watches are served.
//!
//! Watchers hold a cursor, not copies: a slow one costs nothing until the history has moved past it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::Event;

/// Memory for events on one node. The oldest go first, whatever their resource.
const BYTES_MAX: usize = 64 << 20;

/// The events since a revision are no longer known.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct Compacted {
    pub asked: u64,
    pub oldest: u64,
}

#[derive(Debug, Default)]
pub struct History {
    by_resource: BTreeMap<String, VecDeque<Arc<Event>>>,
    /// The resources of the events in order, so that the oldest event overall can be dropped.
    order: VecDeque<(u64, String)>,
    bytes: usize,
    /// Nothing is known of what was up to and including this revision.
    start: u64,
    /// The last revision of each resource that was dropped since.
    dropped: BTreeMap<String, u64>,
    /// Some event up to and including this revision is gone.
    compacted: u64,
}

impl History {
    /// A history that starts after `revision`: what was before is unknown.
    pub fn starting_at(revision: u64) -> Self {
        Self { start: revision, compacted: revision, ..Self::default() }
    }

    pub fn push(&mut self, event: Event) {
        let resource = event.key.resource().to_string();
        self.bytes += weight(&event);
        self.order.push_back((event.revision, resource.clone()));
        self.by_resource.entry(resource).or_default().push_back(Arc::new(event));
        while self.bytes > BYTES_MAX {
            self.drop_oldest();
        }
    }

    /// The events of a resource after `revision`, oldest first, at most `limit`.
    ///
    /// Where few things happen, more of the past is known: only what is gone of this resource matters.
    pub fn since(&self, resource: &str, revision: u64, limit: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        let oldest = self.dropped.get(resource).copied().unwrap_or(self.start);
        if revision < oldest {
            return Err(Compacted { asked: revision, oldest });
        }
        let Some(events) = self.by_resource.get(resource) else { return Ok(Vec::new()) };
        let start = events.partition_point(|event| event.revision <= revision);
        Ok(events.iter().skip(start).take(limit).cloned().collect())
    }

    /// The events of all resources after `revision`, oldest first, at most `limit`.
    pub fn all_since(&self, revision: u64, limit: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        if revision < self.compacted {
            return Err(Compacted { asked: revision, oldest: self.compacted });
        }
        let start = self.order.partition_point(|(at, _)| *at <= revision);
        let find = |(at, resource): &(u64, String)| {
            let events = self.by_resource.get(resource)?;
            events.get(events.partition_point(|event| event.revision < *at)).cloned()
        };
        Ok(self.order.iter().skip(start).take(limit).filter_map(find).collect())
    }

    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    fn drop_oldest(&mut self) {
        let Some((revision, resource)) = self.order.pop_front() else { return };
        if let Some(event) = self.by_resource.get_mut(&resource).and_then(VecDeque::pop_front) {
            self.bytes -= weight(&event);
        }
        self.dropped.insert(resource, revision);
        self.compacted = revision;
    }
}

/// What an event keeps alive: the object before is usually shared with the event before.
fn weight(event: &Event) -> usize {
    200 + event.key.as_str().len() + event.after.as_ref().map_or(0, |e| e.record.size())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_object::Key;

    fn event(revision: u64, resource: &str) -> Event {
        Event { revision, key: Key::new(resource, "n", "x"), before: None, after: None }
    }

    #[test]
    fn serves_each_resource_from_a_revision() {
        let mut history = History::starting_at(10);
        for revision in 11..=14 {
            history.push(event(revision, if revision % 2 == 0 { "pods" } else { "services" }));
        }
        let revisions = |resource, after| history.since(resource, after, 100).map(|e| e.iter().map(|e| e.revision).collect::<Vec<_>>());
        assert_eq!(revisions("pods", 10), Ok(vec![12, 14]));
        assert_eq!(revisions("pods", 12), Ok(vec![14]));
        assert_eq!(revisions("nodes", 10), Ok(vec![]));
        assert_eq!(revisions("pods", 9), Err(Compacted { asked: 9, oldest: 10 }));
    }

    #[test]
    fn serves_all_resources_in_order() {
        let mut history = History::starting_at(10);
        for revision in 11..=14 {
            history.push(event(revision, if revision % 2 == 0 { "pods" } else { "services" }));
        }
        let revisions = |after, limit| history.all_since(after, limit).map(|e| e.iter().map(|e| e.revision).collect::<Vec<_>>());
        assert_eq!(revisions(11, 2), Ok(vec![12, 13]));
        assert_eq!(revisions(14, 2), Ok(vec![]));
        assert!(revisions(9, 2).is_err());
    }

    #[test]
    fn forgets_the_oldest_when_full() {
        let mut history = History { bytes: BYTES_MAX, ..History::default() };
        history.push(event(1, "pods"));
        history.push(event(2, "pods"));
        assert_eq!(history.compacted(), 2);
        assert_eq!(history.since("pods", 1, 9), Err(Compacted { asked: 1, oldest: 2 }));
        assert!(history.since("services", 0, 9).is_ok_and(|events| events.is_empty()), "of services nothing is gone");
    }
}
