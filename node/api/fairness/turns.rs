//! Who goes next: seats that are shared between levels, and queues in which the flows of a level take turns.
//!
//! A level always gets its own seats. Those that others may lend and do not use now it may have besides. What finds no
//! seat waits in one of its level's queues: each flow has a hand of them, drawn by its hash, and takes the shortest, so
//! that a flow which fills its hand fills nobody else's whole hand (shuffle sharding, KEP-1040). Queues take turns.

use std::collections::{BTreeMap, VecDeque};

/// What a level may have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Quota {
    /// In proportion to the other levels.
    pub(crate) shares: usize,
    /// How much of its seats others may use while it does not.
    pub(crate) lendable_percent: usize,
    /// How many more seats than its own it may have, in percent of them; without an end where it says nothing.
    pub(crate) borrowing_percent: Option<usize>,
    /// Queues, hand, and length of each; without them, what finds no seat is refused.
    pub(crate) queueing: Option<Queueing>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Queueing {
    pub(crate) queues: usize,
    pub(crate) hand: usize,
    pub(crate) length_max: usize,
}

/// `T` stands for whoever waits.
pub(crate) struct Turns<T> {
    seats: usize,
    levels: BTreeMap<String, Level<T>>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    Seated,
    Waits,
    /// The queues of its flow are full, or there are none.
    Refused,
}

struct Level<T> {
    quota: Quota,
    /// Its own seats.
    seats: usize,
    taken: usize,
    queues: Vec<VecDeque<T>>,
    /// The queue whose turn is next.
    turn: usize,
}

/// How a level fares: own seats, taken ones, how many wait.
pub(crate) struct Standing {
    pub(crate) level: String,
    pub(crate) seats: usize,
    pub(crate) taken: usize,
    pub(crate) waiting: usize,
}

// === impl Turns ===

impl<T> Turns<T> {
    pub(crate) fn new(seats: usize) -> Self {
        Self { seats, levels: BTreeMap::new() }
    }

    /// Takes these levels from now on. Whoever waits in one that is gone is let go by being dropped.
    pub(crate) fn configure(&mut self, quotas: &BTreeMap<String, Quota>) {
        let all: usize = quotas.values().map(|quota| quota.shares).sum::<usize>().max(1);
        // A level that is gone stays while somebody sits in it, so that his seat can be given back.
        self.levels.retain(|name, level| quotas.contains_key(name) || level.taken > 0);
        for (name, quota) in quotas {
            let level = self.levels.entry(name.clone()).or_insert_with(|| Level::new(quota));
            level.seats = (self.seats * quota.shares).div_ceil(all);
            let queues = quota.queueing.map_or(0, |queueing| queueing.queues);
            if level.queues.len() != queues {
                let waiting: Vec<T> = level.queues.drain(..).flatten().collect();
                level.queues.resize_with(queues, VecDeque::new);
                if queues > 0 {
                    waiting.into_iter().enumerate().for_each(|(index, one)| level.queues[index % queues].push_back(one));
                }
            }
            level.quota = quota.clone();
        }
    }

    /// `flow` is the flow's hash; `is_gone` tells who waits no longer.
    pub(crate) fn arrive(&mut self, level: &str, flow: u64, one: impl FnOnce() -> T, is_gone: impl Fn(&T) -> bool) -> Verdict {
        let may_sit = self.may_sit(level);
        let Some(level) = self.levels.get_mut(level) else { return Verdict::Refused };
        if may_sit && level.queues.iter().all(VecDeque::is_empty) {
            level.taken += 1;
            return Verdict::Seated;
        }
        let Some(queueing) = level.quota.queueing else { return Verdict::Refused };
        let hand = hand(flow, queueing.queues, queueing.hand);
        let Some(shortest) = hand.into_iter().min_by_key(|queue| level.queues[*queue].len()) else { return Verdict::Refused };
        let queue = &mut level.queues[shortest];
        if queue.len() >= queueing.length_max {
            queue.retain(|one| !is_gone(one));
        }
        if queue.len() >= queueing.length_max {
            return Verdict::Refused;
        }
        queue.push_back(one());
        Verdict::Waits
    }

    /// Gives a seat back; returns who sits down now, and in which level.
    pub(crate) fn leave(&mut self, level: &str) -> Vec<(String, T)> {
        if let Some(level) = self.levels.get_mut(level) {
            level.taken = level.taken.saturating_sub(1);
        }
        let mut seated = Vec::new();
        let names: Vec<String> = std::iter::once(level.to_string()).chain(self.levels.keys().filter(|l| *l != level).cloned()).collect();
        for name in names {
            while self.may_sit(&name) {
                let Some(level) = self.levels.get_mut(&name) else { break };
                let Some(one) = level.next() else { break };
                level.taken += 1;
                seated.push((name.clone(), one));
            }
        }
        seated
    }

    pub(crate) fn standings(&self) -> Vec<Standing> {
        let standing = |(name, level): (&String, &Level<T>)| Standing {
            level: name.clone(),
            seats: level.seats,
            taken: level.taken,
            waiting: level.queues.iter().map(VecDeque::len).sum(),
        };
        self.levels.iter().map(standing).collect()
    }

    fn may_sit(&self, name: &str) -> bool {
        let Some(level) = self.levels.get(name) else { return false };
        if level.taken < level.seats {
            return true;
        }
        let limit = level.quota.borrowing_percent.map_or(usize::MAX, |percent| level.seats + level.seats * percent / 100);
        // What the others sit on, or keep for themselves.
        let others = self.levels.iter().filter(|(other, _)| *other != name).map(|(_, other)| other.taken.max(other.kept()));
        level.taken < limit && level.taken + others.sum::<usize>() < self.seats
    }
}

// === impl Level ===

impl<T> Level<T> {
    fn new(quota: &Quota) -> Self {
        Self { quota: quota.clone(), seats: 0, taken: 0, queues: Vec::new(), turn: 0 }
    }

    /// The seats that are not lent.
    fn kept(&self) -> usize {
        self.seats - (self.seats * self.quota.lendable_percent.min(100)) / 100
    }

    fn next(&mut self) -> Option<T> {
        let count = self.queues.len();
        let found = (0..count).map(|step| (self.turn + step) % count).find(|queue| !self.queues[*queue].is_empty())?;
        self.turn = (found + 1) % count;
        self.queues[found].pop_front()
    }
}

/// Draws a hand of distinct queues out of a hash, as a dealer does from a deck.
fn hand(flow: u64, queues: usize, size: usize) -> Vec<usize> {
    let mut entropy = flow;
    let mut hand: Vec<usize> = Vec::with_capacity(size);
    for dealt in 0..size.min(queues) {
        let left = (queues - dealt) as u64;
        let mut card = usize::try_from(entropy % left).unwrap_or(0);
        entropy /= left;
        // Counts only the queues that are still in the deck.
        let mut before: Vec<usize> = hand.clone();
        before.sort_unstable();
        before.into_iter().for_each(|taken| card += usize::from(taken <= card));
        hand.push(card);
    }
    hand
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(shares: usize, lendable_percent: usize, queueing: Option<Queueing>) -> Quota {
        Quota { shares, lendable_percent, borrowing_percent: None, queueing }
    }

    fn turns(seats: usize, quotas: &[(&str, Quota)]) -> Turns<u32> {
        let mut turns = Turns::new(seats);
        turns.configure(&quotas.iter().map(|(name, quota)| ((*name).to_string(), quota.clone())).collect());
        turns
    }

    #[test]
    fn a_level_keeps_its_seats_and_borrows_idle_ones() {
        let mut turns = turns(10, &[("a", level(1, 50, None)), ("b", level(1, 0, None))]);
        let mut arrive = |level: &str| turns.arrive(level, 1, || 0, |_| false);
        for _ in 0..5 {
            assert_eq!(arrive("a"), Verdict::Seated);
        }
        assert_eq!(arrive("a"), Verdict::Refused, "b lends nothing");
        for _ in 0..5 {
            assert_eq!(arrive("b"), Verdict::Seated);
        }
        for _ in 0..2 {
            turns.leave("a");
        }
        assert_eq!(turns.arrive("b", 1, || 0, |_| false), Verdict::Seated, "a lends what it does not use");
        assert_eq!(turns.arrive("b", 1, || 0, |_| false), Verdict::Seated);
        assert_eq!(turns.arrive("b", 1, || 0, |_| false), Verdict::Refused);
        assert_eq!(turns.arrive("a", 1, || 0, |_| false), Verdict::Seated, "its own seat, though it is lent");
    }

    #[test]
    fn flows_take_turns() {
        let queueing = Some(Queueing { queues: 8, hand: 1, length_max: 50 });
        let mut turns = turns(1, &[("a", level(1, 0, queueing))]);
        assert_eq!(turns.arrive("a", 0, || 0, |_| false), Verdict::Seated);
        for one in 0..20 {
            assert_eq!(turns.arrive("a", 3, || one, |_| false), Verdict::Waits);
        }
        assert_eq!(turns.arrive("a", 5, || 100, |_| false), Verdict::Waits);
        let first: Vec<u32> = (0..3).flat_map(|_| turns.leave("a")).map(|(_, one)| one).collect();
        assert!(first.contains(&100), "the modest flow waits for one of the greedy one, not for twenty: {first:?}");
    }

    #[test]
    fn full_queues_refuse_and_forget_who_left() {
        let queueing = Some(Queueing { queues: 2, hand: 1, length_max: 2 });
        let mut turns = turns(1, &[("a", level(1, 0, queueing))]);
        let mut arrive = |one: u32, is_gone: fn(&u32) -> bool| turns.arrive("a", 0, || one, is_gone);
        assert_eq!(arrive(0, |_| false), Verdict::Seated);
        assert_eq!((arrive(1, |_| false), arrive(2, |_| false)), (Verdict::Waits, Verdict::Waits));
        assert_eq!(arrive(3, |_| false), Verdict::Refused);
        assert_eq!(arrive(4, |one| *one == 1), Verdict::Waits, "one of those who waited has gone");
        let next: Vec<Vec<u32>> = (0..3).map(|_| turns.leave("a").into_iter().map(|(_, one)| one).collect()).collect();
        assert_eq!(next, [vec![2], vec![4], vec![]]);
    }

    #[test]
    fn who_waits_outlives_a_change_of_the_levels() {
        let queueing = |queues| Some(Queueing { queues, hand: 1, length_max: 5 });
        let mut turns = turns(1, &[("a", level(1, 0, queueing(4)))]);
        turns.arrive("a", 0, || 0, |_| false);
        turns.arrive("a", 0, || 7, |_| false);
        turns.configure(&[("a".to_string(), level(1, 0, queueing(2)))].into());
        assert_eq!(turns.leave("a"), vec![("a".to_string(), 7)]);
    }

    #[test]
    fn hands_are_of_distinct_queues() {
        for flow in [0, 1, 12_345_678_901_234, u64::MAX] {
            let mut hand = hand(flow, 64, 6);
            hand.sort_unstable();
            hand.dedup();
            assert!(hand.len() == 6 && hand.iter().all(|queue| *queue < 64), "{hand:?}");
        }
        assert_eq!(hand(5, 2, 6).len(), 2);
    }
}
