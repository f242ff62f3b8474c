//! The end of the log in memory, bounded in bytes: what followers are sent, almost always.

use std::collections::VecDeque;
use std::ops::Range;

use openraft::type_config::alias::EntryOf;

use crate::Types;

/// A few batches of the largest size.
const TAIL_BYTES_MAX: usize = 16 << 20;

/// The last entries, without a gap; each shares its bytes with whoever proposed it.
#[derive(Default)]
pub(crate) struct Tail {
    entries: VecDeque<(EntryOf<Types>, usize)>,
    bytes: usize,
}

// === impl Tail ===

impl Tail {
    /// Appends an entry that takes so many bytes in the log.
    pub(crate) fn push(&mut self, entry: EntryOf<Types>, bytes: usize) {
        if self.entries.back().is_some_and(|(last, _)| last.log_id.index + 1 != entry.log_id.index) {
            self.clear();
        }
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        while self.bytes > TAIL_BYTES_MAX && self.entries.len() > 1 {
            self.bytes -= self.entries.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    /// Forgets everything from an index on.
    pub(crate) fn truncate_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|(last, _)| last.log_id.index >= index) {
            self.bytes -= self.entries.pop_back().map_or(0, |(_, bytes)| bytes);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Entries of a range, at most so many bytes of them but at least one; `None` if they are not all here.
    pub(crate) fn read(&self, range: Range<u64>, bytes_max: usize) -> Option<Vec<EntryOf<Types>>> {
        let first = self.entries.front()?.0.log_id.index;
        let (skip, end) = (range.start.checked_sub(first)?, first + self.entries.len() as u64);
        if range.end > end {
            return None;
        }
        let mut found = Vec::new();
        let mut bytes = 0;
        for (entry, size) in self.entries.iter().skip(skip as usize).take_while(|(entry, _)| entry.log_id.index < range.end) {
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            bytes += size;
            found.push(entry.clone());
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::log_id;

    fn entry(index: u64) -> EntryOf<Types> {
        openraft::Entry { log_id: log_id(1, index), payload: EntryPayload::Blank }
    }

    fn indexes(tail: &Tail, range: Range<u64>, bytes_max: usize) -> Option<Vec<u64>> {
        Some(tail.read(range, bytes_max)?.iter().map(|entry| entry.log_id.index).collect())
    }

    fn tail(range: Range<u64>, bytes: usize) -> Tail {
        let mut tail = Tail::default();
        range.for_each(|index| tail.push(entry(index), bytes));
        tail
    }

    #[test]
    fn what_is_there_is_read_and_nothing_is_left_out() {
        let tail = tail(5..10, 10);
        assert_eq!(indexes(&tail, 6..9, usize::MAX), Some(vec![6, 7, 8]));
        assert_eq!(indexes(&tail, 5..10, 15), Some(vec![5, 6]), "it may end early, as a read of the disk may");
        assert_eq!((indexes(&tail, 4..9, usize::MAX), indexes(&tail, 6..11, usize::MAX)), (None, None));
    }

    #[test]
    fn it_has_no_gap_and_keeps_to_its_bounds() {
        let mut tail = tail(5..10, TAIL_BYTES_MAX / 2);
        assert_eq!(indexes(&tail, 8..10, usize::MAX), Some(vec![8, 9]));
        assert_eq!(indexes(&tail, 7..10, usize::MAX), None, "it went for the newer ones");
        tail.truncate_from(9);
        assert_eq!((indexes(&tail, 8..9, usize::MAX), indexes(&tail, 8..10, usize::MAX)), (Some(vec![8]), None));
        tail.push(entry(20), 1);
        assert_eq!((indexes(&tail, 8..9, usize::MAX), indexes(&tail, 20..21, usize::MAX)), (None, Some(vec![20])));
    }
}
