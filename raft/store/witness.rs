//! What a witness does: a voter that keeps no state, so that two nodes with one can lose any of the three.
//!
//! It has the log like every voter, for an entry that it has acknowledged may be on no other disk that is left: of two
//! nodes and a witness the leader may die with a follower behind. Then nobody but the witness can win the election; it
//! brings the follower up to date and lets it lead. It answers nobody meanwhile, and proposes nothing. For the same reason
//! its log goes only when every voter that keeps the state has it.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use skein_peer::{Request, Response};
use tokio::time::sleep;

use crate::start::{ELECTION_MS_MAX, LOG_ENTRIES_KEPT, RETENTION_INTERVAL};
use crate::{Handle, MemberStatus, Role};

const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Others have had their elections by then, if one of them could win.
const ELECTION_DELAY: Duration = Duration::from_millis(4 * ELECTION_MS_MAX);

/// What is kept for a voter that is away. It needs another's snapshot after so much.
const LOG_ENTRIES_MAX: u64 = 1_000_000;

/// Stands for election where nobody else is elected, and leads no longer than it must.
pub(crate) async fn step_back(handle: Handle) {
    let mut waited = Duration::ZERO;
    while handle.failure().is_none() {
        sleep(LOOK_INTERVAL).await;
        waited += LOOK_INTERVAL;
        if handle.leadership().is_self {
            waited = Duration::ZERO;
            handle.hand_over_to_whole().await;
        } else if waited.min(handle.leader_silence()) >= handle.patience().real(ELECTION_DELAY) {
            waited = Duration::ZERO;
            let _ = handle.raft().trigger().elect(true).await;
        }
    }
}

/// Purges what nobody lacks.
pub(crate) async fn retain(handle: Handle) {
    while handle.failure().is_none() {
        sleep(RETENTION_INTERVAL).await;
        let kept = handle.log().entries();
        if kept <= 2 * LOG_ENTRIES_KEPT {
            continue;
        }
        let applied = handle.local().applied;
        let wanted = match handle.ask_leader(Request::Replicated(true)).await {
            Ok(Response::ReadIndex(index)) => index,
            _ => 0,
        };
        let end = wanted.min(applied.saturating_sub(LOG_ENTRIES_KEPT)).max(applied.saturating_sub(LOG_ENTRIES_MAX));
        tracing::debug!(kept, applied, end, "the log goes where nobody lacks it");
        if end > 0 && handle.raft().trigger().snapshot().await.is_ok() {
            let _ = handle.raft().trigger().purge_log(end).await;
        }
    }
}

impl Handle {
    /// Lets a voter lead that has the whole log, as soon as there is one.
    async fn hand_over_to_whole(&self) {
        let last = self.raft().metrics().borrow_watched().last_log_index;
        let whole = |member: &MemberStatus| member.role == Role::Voter && member.matched.is_some() && member.matched >= last;
        if let Some(next) = self.members().into_iter().find(whole) {
            self.hand_over_to(next.id).await;
        }
    }

    /// The last entry that every voter has which keeps the state, if this node leads.
    pub(crate) fn replicated(&self) -> Option<u64> {
        let voters = self.members().into_iter().filter(MemberStatus::is_full_voter);
        let all = voters.map(|member| member.matched.unwrap_or(0)).min();
        all.filter(|_| self.leadership().is_self)
    }
}
