//! Who votes: few, of nodes that work, spread over zones. One voter until a third node is there, then three, five or
//! seven; never two, because two voters survive less than one.
//!
//! A change replaces, it never shrinks: a voter that is silent or flaps gives its vote to a node that has all entries, in
//! one joint change (Raft dissertation, section 4.3). Without such a node nothing changes, and the set stays what it was.
//!
//! One of the voters may be a witness, which keeps no state: where there is no other node for the vote, or none in another
//! zone than the other voters'.
//!
//! A few more have the log from the leader, without a vote: the standbys, who may get one (`standbys.rs`). All other nodes
//! are replicas, outside Raft's membership, and follow each other (`follow.rs`).

mod absences;
mod standbys;

use std::collections::{BTreeMap, BTreeSet};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ChangeMembers, RaftMetrics, ServerState};
use skein_log::{NodeId, Types};

use crate::{Error, Handle, MemberStatus, Role};
pub use absences::{Absences, GRACE_MS};

/// A learner is caught up when it lacks at most this many entries.
pub const LAG_ENTRIES_MAX: u64 = 200;

/// How a node fares, in the leader's eyes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Good,
    /// It has not been heard of for longer than a voter may be away.
    Silent,
    /// It went away and came back again and again.
    Flapping,
}

/// What the leader knows of a member beside the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub health: Health,
    /// `REGION/ZONE`, over which voters are spread; empty where none is stated.
    pub zone: String,
}

impl Standing {
    /// The zone's region.
    pub(crate) fn region(&self) -> &str {
        self.zone.split('/').next().unwrap_or_default()
    }
}

/// What the leader should change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub step: Step,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Vote {
        /// All voters after it.
        voters: BTreeSet<NodeId>,
        /// Those that are new among them.
        promote: BTreeSet<NodeId>,
    },
    /// A replica is to have the log from the leader: a standby.
    Attach(NodeId),
    /// A standby that is not needed is to follow other nodes: a replica.
    Detach(NodeId),
}

/// How many voters a cluster of so many nodes has.
fn voters_wanted(nodes: usize) -> usize {
    match nodes {
        0..3 => 1,
        3..7 => 3,
        7..25 => 5,
        _ => 7,
    }
}

/// Decides on the next change; `standing` tells of each node by its name, and those it does not name are well.
pub fn plan(members: &[MemberStatus], standing: &BTreeMap<String, Standing>, last_log_index: u64) -> Option<Change> {
    let cluster = Cluster { members, standing, last_log_index };
    let voters = cluster.grow().or_else(|| cluster.replace()).or_else(|| cluster.relieve()).or_else(|| cluster.spread());
    voters.or_else(|| cluster.attach()).or_else(|| cluster.detach())
}

struct Cluster<'a> {
    members: &'a [MemberStatus],
    standing: &'a BTreeMap<String, Standing>,
    last_log_index: u64,
}

// === impl Cluster ===

impl<'a> Cluster<'a> {
    fn voters(&self) -> impl Iterator<Item = &'a MemberStatus> {
        self.members.iter().filter(|m| m.role.votes())
    }

    fn health(&self, member: &MemberStatus) -> Health {
        // Who leads is heard of by itself.
        let known = self.standing.get(&member.member.name).filter(|_| member.role != Role::Leader);
        known.map_or(Health::Good, |standing| standing.health)
    }

    fn zone(&self, member: &MemberStatus) -> &'a str {
        self.standing.get(&member.member.name).map_or("", |standing| standing.zone.as_str())
    }

    /// How many in a node's zone vote, or have just been chosen.
    fn crowd(&self, member: &MemberStatus, chosen: &[&MemberStatus]) -> usize {
        let zone = self.zone(member);
        self.voters().chain(chosen.iter().copied()).filter(|other| self.zone(other) == zone).count()
    }

    /// Nodes that could vote at once, those of zones with the fewest voters first, and a witness last of these.
    fn candidates(&self, without: Option<NodeId>) -> Vec<&'a MemberStatus> {
        let has_witness = self.voters().any(|m| m.is_witness() && Some(m.id) != without);
        let may_vote = |m: &&MemberStatus| !m.role.votes() && (!m.is_witness() || !has_witness);
        let in_zone = |zone: &str| self.voters().filter(|m| Some(m.id) != without && self.zone(m) == zone).count();
        let caught_up = |m: &&MemberStatus| m.matched.is_some_and(|at| at + LAG_ENTRIES_MAX >= self.last_log_index);
        let learners = self.members.iter().filter(may_vote);
        let mut able: Vec<&MemberStatus> = learners.filter(|m| self.health(m) == Health::Good).filter(caught_up).collect();
        able.sort_by_key(|m| (in_zone(self.zone(m)), m.is_witness(), m.id));
        able
    }

    /// From one voter to three and so on, when there are enough who can: there are standbys for two more at a time.
    fn grow(&self) -> Option<Change> {
        let current = self.voters().count();
        let wanted = voters_wanted(self.members.len()).min(current + 2);
        let mut chosen: Vec<&MemberStatus> = Vec::new();
        let mut left = self.candidates(None);
        while current + chosen.len() < wanted && !left.is_empty() {
            let crowd = |m: &MemberStatus| self.crowd(m, &chosen);
            let at = (0..left.len()).min_by_key(|at| (crowd(left[*at]), left[*at].is_witness(), left[*at].id))?;
            let next = left.remove(at);
            left.retain(|other| !(next.is_witness() && other.is_witness()));
            chosen.push(next);
        }
        let is_enough = current < wanted && current + chosen.len() == wanted;
        is_enough.then(|| self.change(None, chosen.iter().map(|m| m.id), format!("{wanted} voters for {} nodes", self.members.len())))
    }

    /// A voter that does not work gives its vote to a node that does.
    fn replace(&self) -> Option<Change> {
        let bad = self.voters().find(|m| self.health(m) != Health::Good)?;
        let good = self.voters().filter(|m| self.health(m) == Health::Good).count();
        // The old set must have a majority that works, or the change would not end; the new one has one more.
        let is_safe = 2 * good > self.voters().count();
        let successor = self.candidates(Some(bad.id)).into_iter().next().filter(|_| is_safe)?;
        let what = if self.health(bad) == Health::Silent { "is silent" } else { "comes and goes" };
        let why = format!("{} {what}, {} votes instead", bad.member.name, successor.member.name);
        Some(self.change(Some(bad.id), [successor.id].into_iter(), why))
    }

    /// A witness gives its vote to a node that keeps the state, where that is as well in another zone than all other voters.
    fn relieve(&self) -> Option<Change> {
        let witness = self.voters().find(|m| m.is_witness())?;
        let others: Vec<&str> = self.voters().filter(|m| m.id != witness.id).map(|m| self.zone(m)).collect();
        let is_alone = |zone: &str| !zone.is_empty() && !others.contains(&zone);
        let serves = |m: &&MemberStatus| !m.is_witness() && (is_alone(self.zone(m)) || !is_alone(self.zone(witness)));
        let successor = self.candidates(Some(witness.id)).into_iter().find(serves)?;
        let why = format!("{} votes instead of the witness {}", successor.member.name, witness.member.name);
        Some(self.change(Some(witness.id), [successor.id].into_iter(), why))
    }

    /// Of two voters in one zone one moves to a zone that has none.
    fn spread(&self) -> Option<Change> {
        let zones: Vec<&str> = self.voters().map(|m| self.zone(m)).collect();
        let twin = self.voters().find(|m| {
            let zone = self.zone(m);
            m.role != Role::Leader && !zone.is_empty() && zones.iter().filter(|other| **other == zone).count() > 1
        })?;
        let is_free = |m: &&MemberStatus| !self.zone(m).is_empty() && !zones.contains(&self.zone(m));
        let successor = self.candidates(Some(twin.id)).into_iter().find(is_free)?;
        let why = format!("{} votes instead of {}, for the sake of zone {}", successor.member.name, twin.member.name, self.zone(successor));
        Some(self.change(Some(twin.id), [successor.id].into_iter(), why))
    }

    fn change(&self, without: Option<NodeId>, promote: impl Iterator<Item = NodeId>, why: String) -> Change {
        let promote: BTreeSet<NodeId> = promote.collect();
        let kept = self.voters().map(|m| m.id).filter(|id| Some(*id) != without);
        Change { step: Step::Vote { voters: kept.chain(promote.iter().copied()).collect(), promote }, why }
    }
}

/// Those of Raft's membership.
pub(crate) fn statuses(metrics: &RaftMetrics<Types>) -> Vec<MemberStatus> {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    let status = |(id, member): (&NodeId, &skein_log::Member)| {
        let role = match (voters.contains(id), member.witness.is_some()) {
            _ if metrics.current_leader == Some(*id) => Role::Leader,
            (true, false) => Role::Voter,
            (true, true) => Role::Witness,
            (false, true) => Role::Spare,
            (false, false) => Role::Standby,
        };
        let replicated = metrics.replication.as_ref().and_then(|r| r.get(id).copied().flatten()).map(|log| log.index);
        let own = (*id == metrics.id).then_some(metrics.last_log_index).flatten();
        MemberStatus { id: *id, member: member.clone(), role, matched: replicated.or(own) }
    };
    membership.nodes().map(status).collect()
}

impl Handle {
    /// The change that this node should make now, if it leads and there is one.
    pub fn planned_change(&self, standing: &BTreeMap<String, Standing>) -> Option<Change> {
        let metrics = self.raft().metrics().borrow_watched().clone();
        if metrics.state != ServerState::Leader || metrics.committed_membership_config != metrics.membership_config {
            return None;
        }
        plan(&self.members(), standing, metrics.last_log_index.unwrap_or(0))
    }

    /// Whose majorities decide: one set of voters, or two in the middle of a change.
    pub fn voter_sets(&self) -> Vec<BTreeSet<NodeId>> {
        self.raft().metrics().borrow_watched().membership_config.membership().get_joint_config().clone()
    }

    /// Makes a change; whoever loses his vote goes on following.
    pub async fn change(&self, change: &Change) -> Result<(), Error> {
        match &change.step {
            Step::Vote { voters, .. } => self.change_members(ChangeMembers::ReplaceAllVoters(voters.clone())).await,
            Step::Attach(id) => self.attach(*id).await,
            Step::Detach(id) => self.detach(*id).await,
        }
    }

    async fn change_members(&self, members: ChangeMembers<NodeId, skein_log::Member>) -> Result<(), Error> {
        self.raft().change_membership(members, true).await.map(|_| ()).map_err(|e| Error::Refused(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: NodeId, role: Role, matched: u64) -> MemberStatus {
        let member = skein_log::Member { name: format!("n{id}"), ..Default::default() };
        MemberStatus { id, member, role, matched: Some(matched) }
    }

    /// The leader and so many voters, then standbys that have everything.
    fn cluster(voters: u64, standbys: u64) -> Vec<MemberStatus> {
        let role = |id| match id {
            1 => Role::Leader,
            id if id <= voters => Role::Voter,
            _ => Role::Standby,
        };
        (1..=voters + standbys).map(|id| member(id, role(id), 1000)).collect()
    }

    fn check(members: &[MemberStatus], standing: &[(&str, Health, &str)], expected: Option<&[NodeId]>) {
        let standing =
            standing.iter().map(|(name, health, zone)| ((*name).to_string(), Standing { health: *health, zone: (*zone).into() }));
        let voters = match plan(members, &standing.collect(), 1000).map(|change| change.step) {
            Some(Step::Vote { voters, .. }) => Some(voters.into_iter().collect::<Vec<_>>()),
            _ => None,
        };
        assert_eq!(voters.as_deref(), expected);
    }

    #[test]
    fn one_voter_becomes_three_and_never_two() {
        check(&cluster(1, 0), &[], None);
        check(&cluster(1, 1), &[], None);
        check(&cluster(1, 2), &[], Some(&[1, 2, 3]));
        let mut lagging = cluster(1, 2);
        lagging[2].matched = Some(10);
        check(&lagging, &[], None);
        check(&cluster(1, 2), &[("n3", Health::Silent, "")], None);
        check(&cluster(3, 1), &[], None);
        check(&cluster(3, 4), &[], Some(&[1, 2, 3, 4, 5]));
        check(&cluster(3, 22), &[], Some(&[1, 2, 3, 4, 5]));
        check(&cluster(3, 5), &[("n4", Health::Silent, "")], Some(&[1, 2, 3, 5, 6]));
    }

    #[test]
    fn a_witness_votes_where_no_other_node_would_do() {
        let with_witnesses = |mut members: Vec<MemberStatus>, witnesses: &[NodeId]| {
            for id in witnesses {
                let member = &mut members[*id as usize - 1];
                member.member.witness = Some(String::new());
                member.role = if member.role == Role::Voter { Role::Witness } else { Role::Spare };
            }
            members
        };
        let good = Health::Good;
        check(&with_witnesses(cluster(1, 2), &[3]), &[], Some(&[1, 2, 3]));
        check(&with_witnesses(cluster(1, 2), &[2, 3]), &[], None);
        check(&with_witnesses(cluster(1, 3), &[2, 3]), &[], Some(&[1, 2, 4]));
        check(&with_witnesses(cluster(1, 3), &[2]), &[], Some(&[1, 3, 4]));
        // It goes where it is not needed any more, and stays where it is alone in its zone.
        check(&with_witnesses(cluster(3, 1), &[3]), &[], Some(&[1, 2, 4]));
        check(&with_witnesses(cluster(3, 1), &[3]), &[("n1", good, "a"), ("n2", good, "b"), ("n3", good, "c"), ("n4", good, "a")], None);
        let zones = [("n1", good, "a"), ("n2", good, "b"), ("n3", good, "c"), ("n4", good, "d")];
        check(&with_witnesses(cluster(3, 1), &[3]), &zones, Some(&[1, 2, 4]));
        check(
            &with_witnesses(cluster(3, 1), &[4]),
            &[("n1", good, "a"), ("n2", good, "a"), ("n3", good, "b"), ("n4", good, "c")],
            Some(&[1, 3, 4]),
        );
        // Two of them never vote.
        check(&with_witnesses(cluster(3, 1), &[3, 4]), &[("n3", Health::Silent, "")], Some(&[1, 2, 4]));
        check(&with_witnesses(cluster(3, 1), &[3, 4]), &[("n2", Health::Silent, "")], None);
    }

    #[test]
    fn a_voter_that_does_not_work_is_replaced_by_one_that_does() {
        check(&cluster(3, 1), &[("n2", Health::Silent, "")], Some(&[1, 3, 4]));
        check(&cluster(3, 1), &[("n2", Health::Flapping, "")], Some(&[1, 3, 4]));
        check(&cluster(3, 0), &[("n2", Health::Silent, "")], None);
        check(&cluster(3, 1), &[("n2", Health::Silent, ""), ("n4", Health::Flapping, "")], None);
        // Without a majority that works there is nothing that could be changed.
        check(&cluster(3, 1), &[("n2", Health::Silent, ""), ("n3", Health::Silent, "")], None);
        // A leader that hears nothing of itself is not silent.
        check(&cluster(3, 1), &[("n1", Health::Silent, "")], None);
    }

    #[test]
    fn voters_are_spread_over_zones() {
        let good = Health::Good;
        check(
            &cluster(1, 4),
            &[("n1", good, "a"), ("n2", good, "a"), ("n3", good, "b"), ("n4", good, "b"), ("n5", good, "c")],
            Some(&[1, 3, 5]),
        );
        check(&cluster(3, 1), &[("n1", good, "a"), ("n2", good, "a"), ("n3", good, "b"), ("n4", good, "c")], Some(&[1, 3, 4]));
        check(&cluster(3, 1), &[("n1", good, "a"), ("n2", good, "b"), ("n3", good, "c"), ("n4", good, "a")], None);
        check(
            &cluster(3, 2),
            &[("n2", Health::Silent, "b"), ("n1", good, "a"), ("n3", good, "c"), ("n4", good, "a"), ("n5", good, "b")],
            Some(&[1, 3, 5]),
        );
    }
}
