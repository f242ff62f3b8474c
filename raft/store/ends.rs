//! What voters' logs ended with when they voted for this node: what a new leader knows of them without asking.
//!
//! openraft finds by a binary search how much of its leader's log a follower has, one exchange for each step: a dozen for
//! 20 000 entries, before anything of the new term can be committed. But a voter names with its vote what its log ends with.
//! Where the leader's log has that entry, the follower has all before it (Raft paper, section 5.3, log matching), and it
//! takes nothing from anybody else below a higher term. So the steps up to there are answered here.
//!
//! ```text
//!   vote ── granted, my log ends with 4.1071 ──▶ Ends
//!   openraft ── append behind 4.560 ──▶ Ends ── it has 4.560 ──▶ openraft ── append behind 4.815 ──▶ …
//! ```
//!
//! **Invariant:** such an answer is no sign of life. It names the entry before the first that was to be sent, so openraft takes
//! nothing of the append for received, and no lease is prolonged by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::RaftLogReader;
use openraft::raft::{AppendEntriesRequest, VoteRequest, VoteResponse};
use openraft::type_config::alias::{LeaderIdOf, LogIdOf};
use skein_log::{LogStore, NodeId, Types};

/// A cheap clone.
#[derive(Clone)]
pub(crate) struct Ends {
    log: LogStore,
    ends: Arc<Mutex<BTreeMap<NodeId, End>>>,
}

/// Of one voter.
#[derive(Clone, Debug, PartialEq)]
struct End {
    /// Whom it voted for.
    candidate: LeaderIdOf<Types>,
    last: LogIdOf<Types>,
    /// What has been answered for it. Each answer is further on, so whatever openraft makes of them, they come to an end.
    told: Option<LogIdOf<Types>>,
}

// === impl Ends ===

impl Ends {
    pub(crate) fn new(log: LogStore) -> Self {
        Self { log, ends: Arc::default() }
    }

    /// A peer has answered a vote.
    pub(crate) fn voted(&self, peer: NodeId, request: &VoteRequest<Types>, answer: &VoteResponse<Types>) {
        match answer.last_log_id.filter(|_| answer.vote_granted) {
            Some(last) => drop(self.ends().insert(peer, End { candidate: request.vote.leader_id, last, told: None })),
            None => drop(self.ends().remove(&peer)),
        }
    }

    /// The entry that an append comes after, if the peer is known to have it.
    pub(crate) async fn has(&self, peer: NodeId, append: &AppendEntriesRequest<Types>) -> Option<LogIdOf<Types>> {
        let end = self.ends().get(&peer).cloned()?;
        let next = end.step(append)?;
        let at = end.last.index;
        let own = self.log.clone().try_get_log_entries(at..=at).await.ok()?.pop()?;
        if own.log_id != end.last {
            self.ends().remove(&peer);
            return None;
        }
        if let Some(known) = self.ends().get_mut(&peer).filter(|known| **known == end) {
            known.told = Some(next);
        }
        Some(next)
    }

    fn ends(&self) -> MutexGuard<'_, BTreeMap<NodeId, End>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl End ===

impl End {
    /// What can be answered to an append, if the leader's log has what this one ends with.
    fn step(&self, append: &AppendEntriesRequest<Types>) -> Option<LogIdOf<Types>> {
        let previous = append.prev_log_id.filter(|previous| *previous <= self.last && self.told.is_none_or(|told| told < *previous));
        previous.filter(|_| append.vote.leader_id == self.candidate && !append.entries.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use openraft::Vote;
    use openraft::entry::RaftEntry;
    use openraft::impls::leader_id_std::LeaderId;
    use openraft::type_config::alias::EntryOf;
    use openraft::vote::RaftLeaderId;

    use super::*;

    fn id(term: u64, index: u64) -> LogIdOf<Types> {
        LogIdOf::<Types>::new(LeaderId::new(term, 1).to_committed(), index)
    }

    fn append(term: u64, previous: Option<LogIdOf<Types>>, entries: u64) -> AppendEntriesRequest<Types> {
        let first = previous.map_or(0, |previous| previous.index + 1);
        let entries = (first..first + entries).map(|index| EntryOf::<Types>::new_blank(id(4, index))).collect();
        AppendEntriesRequest { vote: Vote::new_committed(term, 1), prev_log_id: previous, entries, leader_commit: None }
    }

    #[test]
    fn answers_what_follows_from_the_vote_and_goes_on_with_each_answer() {
        let end = |told| End { candidate: LeaderId::new(5, 1), last: id(4, 1071), told };
        let check = |told, append, expected| assert_eq!(end(told).step(&append), expected);
        check(None, append(5, Some(id(4, 560)), 8), Some(id(4, 560)));
        check(Some(id(4, 560)), append(5, Some(id(4, 815)), 8), Some(id(4, 815)));
        check(None, append(5, Some(id(4, 1071)), 1), Some(id(4, 1071)));
        // It has been said before: what is sent now is to arrive.
        check(Some(id(4, 560)), append(5, Some(id(4, 560)), 8), None);
        // Beyond what the voter had, in another term, nothing to be sent, or from the beginning.
        check(None, append(5, Some(id(4, 1072)), 8), None);
        check(None, append(6, Some(id(4, 560)), 8), None);
        check(None, append(5, Some(id(4, 560)), 0), None);
        check(None, append(5, None, 8), None);
    }
}
