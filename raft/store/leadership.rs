//! Who leads, and when a leader lets another lead. openraft tells of every entry that it commits; those who wait for an
//! election want to sleep meanwhile.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{LogIdOptionExt, RaftMetrics, ServerState};
use skein_log::{NodeId, Types};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::handle::Raft;
use crate::{Handle, Role};

/// A handover is an election that nobody waits for; if it fails, the next one comes by itself.
const HANDOVER_TIMEOUT: Duration = Duration::from_millis(500);

/// A leader is slow whose disk was more than this far behind the majority's, in so many looks one after the other.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const SLOW_LOOKS: usize = 4;

/// Who leads, as far as this node knows. One whose Raft has stopped does not lead, though it was the last that did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Leadership {
    pub leader: Option<NodeId>,
    pub term: u64,
    /// Whether that is this node.
    pub is_self: bool,
}

/// What changes seldom.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Standing {
    pub(crate) leadership: Leadership,
    /// Why Raft has stopped here, if it has.
    pub(crate) failure: Option<String>,
}

// === impl Leadership ===

impl Leadership {
    pub(crate) fn of(id: NodeId, metrics: &RaftMetrics<Types>) -> Self {
        let leads = |leader: NodeId| leader != id || (metrics.state == ServerState::Leader && metrics.running_state.is_ok());
        let leader = metrics.current_leader.filter(|leader| leads(*leader));
        Self { leader, term: metrics.current_term, is_self: leader == Some(id) }
    }
}

impl Handle {
    /// Lets the voter lead that has most of the log, if this node leads; says who it is, once somebody else leads.
    pub async fn hand_over(&self) -> Option<String> {
        if !self.leadership().is_self {
            return None;
        }
        let voters = self.members().into_iter().filter(|member| member.role == Role::Voter);
        self.hand_over_to(voters.max_by_key(|member| member.matched)?.id).await
    }

    /// Lets this voter lead, if this node leads; says who it is, once somebody else leads.
    pub async fn hand_over_to(&self, next: NodeId) -> Option<String> {
        if !self.leadership().is_self {
            return None;
        }
        let moved = async {
            self.raft().trigger().transfer_leader(next).await.ok()?;
            self.watch_leadership(|now| now.is_self || now.leader.is_none()).await;
            self.member(self.leadership().leader?).map(|member| member.name)
        };
        timeout(self.patience().real(HANDOVER_TIMEOUT), moved).await.ok()?
    }

    /// Returns when this node has led for two seconds on end with a disk that is half a second behind the majority's.
    pub async fn until_slow(&self) {
        let mut committed = None;
        let mut slow = 0;
        while slow < SLOW_LOOKS {
            sleep(LOOK_INTERVAL).await;
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            let leads = metrics.state == ServerState::Leader;
            let flushed = self.raft().watch_log_progress().get().and_then(|point| point.last_log_id);
            // What others had on disk at the last look is not on this one yet.
            let behind = leads && committed.is_some_and(|before| flushed.next_index() <= before);
            slow = if behind { slow + 1 } else { 0 };
            committed = metrics.cluster_committed.filter(|_| leads).map(|id| id.index);
        }
    }
}

pub(crate) fn channel() -> (watch::Sender<Standing>, watch::Receiver<Standing>) {
    watch::channel(Standing::default())
}

/// Tells of what has changed, until Raft ends.
pub(crate) async fn follow(id: NodeId, raft: Raft, standings: watch::Sender<Standing>) {
    let mut metrics = raft.metrics();
    let mut known_membership = None;
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            let membership = Some(*metrics.membership_config.log_id());
            if membership != known_membership {
                known_membership = membership;
                // Whoever does not vote needs no clock for elections and heartbeats.
                raft.runtime_config().tick(metrics.membership_config.voter_ids().any(|voter| voter == id));
            }
            let failure = metrics.running_state.as_ref().err().map(ToString::to_string);
            Standing { leadership: Leadership::of(id, &metrics), failure }
        };
        standings.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        if metrics.changed().await.is_err() {
            return standings.send_modify(|known| known.leadership = Leadership { term: known.leadership.term, ..Leadership::default() });
        }
    }
}
