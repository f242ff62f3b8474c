//! Who votes. One voter until a third node is there, then three; never two, because two voters survive less than one.
//!
//! A stage of what is planned: every other node follows as an openraft learner, of which the first two are called
//! standbys and the rest replicas. Five and seven voters, regions and zones come later.

use std::collections::BTreeSet;

use openraft::{ChangeMembers, RaftMetrics, ServerState};
use skein_log::{NodeId, Types};

use crate::{Error, Handle, MemberStatus, Role};

/// A learner is caught up when it lacks at most this many entries.
const LAG_ENTRIES_MAX: u64 = 200;
const STANDBYS: usize = 2;
const VOTERS: usize = 3;

/// A change of the voters that the leader should make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub promote: BTreeSet<NodeId>,
}

/// Decides on the next change: three voters as soon as there are two caught-up learners beside the one voter.
pub fn plan(members: &[MemberStatus], last_log_index: u64) -> Option<Change> {
    let voters = members.iter().filter(|m| matches!(m.role, Role::Leader | Role::Voter)).count();
    let caught_up = |m: &&MemberStatus| {
        matches!(m.role, Role::Standby | Role::Replica) && m.matched.is_some_and(|at| at + LAG_ENTRIES_MAX >= last_log_index)
    };
    let promote: BTreeSet<NodeId> = members.iter().filter(caught_up).map(|m| m.id).take(VOTERS.saturating_sub(voters)).collect();
    (voters < VOTERS && voters + promote.len() == VOTERS).then_some(Change { promote })
}

pub(crate) fn statuses(metrics: &RaftMetrics<Types>) -> Vec<MemberStatus> {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    let mut followers = 0;
    let mut status = |(id, member): (&NodeId, &skein_log::Member)| {
        let role = if metrics.current_leader == Some(*id) {
            Role::Leader
        } else if voters.contains(id) {
            Role::Voter
        } else {
            followers += 1;
            if followers <= STANDBYS { Role::Standby } else { Role::Replica }
        };
        let replicated = metrics.replication.as_ref().and_then(|r| r.get(id).copied().flatten()).map(|log| log.index);
        let own = (*id == metrics.id).then_some(metrics.last_log_index).flatten();
        MemberStatus { id: *id, member: member.clone(), role, matched: replicated.or(own) }
    };
    membership.nodes().map(&mut status).collect()
}

impl Handle {
    /// The change that this node should make now, if it leads and there is one.
    pub fn planned_change(&self) -> Option<Change> {
        use openraft::async_runtime::watch::WatchReceiver;
        let metrics = self.raft().metrics().borrow_watched().clone();
        if metrics.state != ServerState::Leader || metrics.committed_membership_config != metrics.membership_config {
            return None;
        }
        plan(&statuses(&metrics), metrics.last_log_index.unwrap_or(0))
    }

    pub async fn change_voters(&self, change: Change) -> Result<(), Error> {
        let members = ChangeMembers::AddVoterIds(change.promote);
        self.raft().change_membership(members, true).await.map(|_| ()).map_err(|e| Error::Refused(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: NodeId, role: Role, matched: u64) -> MemberStatus {
        MemberStatus { id, member: skein_log::Member::default(), role, matched: Some(matched) }
    }

    #[test]
    fn one_voter_becomes_three_and_never_two() {
        let check = |members: &[MemberStatus], expected: Option<&[NodeId]>| {
            let promoted = plan(members, 1000).map(|change| change.promote.into_iter().collect::<Vec<_>>());
            assert_eq!(promoted.as_deref(), expected);
        };
        let leader = member(1, Role::Leader, 1000);
        check(std::slice::from_ref(&leader), None);
        check(&[leader.clone(), member(2, Role::Standby, 1000)], None);
        check(&[leader.clone(), member(2, Role::Standby, 1000), member(3, Role::Standby, 10)], None);
        check(&[leader.clone(), member(2, Role::Standby, 1000), member(3, Role::Standby, 900)], Some(&[2, 3]));
        check(&[leader, member(2, Role::Voter, 1000), member(3, Role::Voter, 900), member(4, Role::Standby, 1000)], None);
    }
}
