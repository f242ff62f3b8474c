//! What the state's digest was after each of the last log entries, to be compared with that of other nodes.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nodes that are further apart than this do not compare.
const KEPT: usize = 4096;

#[derive(Default)]
pub struct Digests(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    /// The index of the first that is kept.
    first: u64,
    kept: VecDeque<u64>,
}

// === impl Digests ===

impl Digests {
    pub(crate) fn push(&self, index: u64, digest: u64) {
        let mut ring = self.ring();
        if ring.first + ring.kept.len() as u64 != index {
            *ring = Ring { first: index, ..Ring::default() };
        }
        ring.kept.push_back(digest);
        if ring.kept.len() > KEPT {
            ring.kept.pop_front();
            ring.first += 1;
        }
    }

    /// Forgets all but the last.
    pub(crate) fn restart_at(&self, index: u64, digest: u64) {
        *self.ring() = Ring { first: index, kept: [digest].into() };
    }

    pub fn at(&self, index: u64) -> Option<u64> {
        let ring = self.ring();
        ring.kept.get(usize::try_from(index.checked_sub(ring.first)?).ok()?).copied()
    }

    /// The last index and the digest there.
    pub fn last(&self) -> Option<(u64, u64)> {
        let ring = self.ring();
        let digest = *ring.kept.back()?;
        Some((ring.first + ring.kept.len() as u64 - 1, digest))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_ones_without_a_gap() {
        let digests = Digests::default();
        assert_eq!((digests.last(), digests.at(1)), (None, None));
        let last = KEPT as u64 + 10;
        (1..=last).for_each(|index| digests.push(index, index * 2));
        assert_eq!(digests.last(), Some((last, last * 2)));
        assert_eq!((digests.at(10), digests.at(11), digests.at(last + 1)), (None, Some(22), None));
        digests.push(last + 5, 7);
        assert_eq!((digests.at(last), digests.last()), (None, Some((last + 5, 7))));
        digests.restart_at(3, 4);
        assert_eq!(digests.last(), Some((3, 4)));
    }
}
