//! Work that waits for a time. Each piece waits for one time only, the nearest that was asked for.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(crate) struct Alarms<Work, Time> {
    by_time: BTreeSet<(Time, Work)>,
    by_work: BTreeMap<Work, Time>,
}

impl<Work, Time> Default for Alarms<Work, Time> {
    fn default() -> Self {
        Self { by_time: BTreeSet::new(), by_work: BTreeMap::new() }
    }
}

impl<Work: Clone + Ord, Time: Copy + Ord> Alarms<Work, Time> {
    pub(crate) fn set(&mut self, work: Work, at: Time) {
        match self.by_work.get(&work).copied() {
            Some(known) if known <= at => return,
            Some(known) => drop(self.by_time.remove(&(known, work.clone()))),
            None => {}
        }
        self.by_work.insert(work.clone(), at);
        self.by_time.insert((at, work));
    }

    /// The work whose time has come.
    pub(crate) fn due(&mut self, now: Time) -> Vec<Work> {
        let mut due = Vec::new();
        while self.by_time.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, work)) = self.by_time.pop_first()
        {
            self.by_work.remove(&work);
            due.push(work);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_once_at_the_nearest_time() {
        let mut alarms = Alarms::default();
        alarms.set("a", 5);
        alarms.set("a", 9);
        alarms.set("b", 7);
        alarms.set("b", 3);
        assert_eq!(alarms.due(2), Vec::<&str>::new());
        assert_eq!(alarms.due(6), ["b", "a"]);
        assert_eq!(alarms.due(100), Vec::<&str>::new());
    }
}
