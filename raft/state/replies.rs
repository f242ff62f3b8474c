//! The replies of recent proposals, so that a retry of one that was applied gets its answer and is not applied twice.
//!
//! The window is counted in log indexes, so it is the same on every node, whether it got there by the log, from its
//! disk or by a snapshot.

use imbl::{OrdMap, Vector};
use skein_command::{ProposalId, Reply};

/// Enough for every proposal that is under way anywhere: at 20 000 entries a second, more than three seconds, which is
/// longer than a proposer retries.
pub const REPLY_WINDOW: u64 = 65_536;

#[derive(Clone, Debug, Default)]
pub(crate) struct Replies {
    by_id: OrdMap<ProposalId, Reply>,
    /// The same ids by the log index that they were applied at.
    order: Vector<(u64, ProposalId)>,
}

impl Replies {
    pub(crate) fn find(&self, id: ProposalId) -> Option<&Reply> {
        self.by_id.get(&id)
    }

    pub(crate) fn remember(&mut self, index: u64, id: ProposalId, reply: Reply) {
        self.by_id.insert(id, reply);
        self.order.push_back((index, id));
        while self.order.front().is_some_and(|(oldest, _)| oldest + REPLY_WINDOW < index) {
            if let Some((_, id)) = self.order.pop_front() {
                self.by_id.remove(&id);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, ProposalId, &Reply)> {
        self.order.iter().filter_map(|(index, id)| Some((*index, *id, self.by_id.get(id)?)))
    }
}
