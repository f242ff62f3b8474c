//! Who leads. openraft tells of every entry that it commits; those who wait for an election want to sleep meanwhile.

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{RaftMetrics, ServerState};
use skein_log::{NodeId, Types};
use tokio::sync::watch;

use crate::handle::Raft;

/// Who leads, as far as this node knows.
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
        let is_self = metrics.state == ServerState::Leader && metrics.current_leader == Some(id);
        Self { leader: metrics.current_leader, term: metrics.current_term, is_self }
    }
}

pub(crate) fn channel() -> (watch::Sender<Standing>, watch::Receiver<Standing>) {
    watch::channel(Standing::default())
}

/// Tells of what has changed, until Raft ends.
pub(crate) async fn follow(id: NodeId, raft: Raft, standings: watch::Sender<Standing>) {
    let mut metrics = raft.metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            let failure = metrics.running_state.as_ref().err().map(ToString::to_string);
            Standing { leadership: Leadership::of(id, &metrics), failure }
        };
        standings.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
