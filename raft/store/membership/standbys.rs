//! Who has the log from the leader without a vote: up to two nodes of each region, of the zones with the fewest voters, so
//! that there is somebody for the next vote wherever it goes. The leader's work does not grow with the other nodes: it
//! leaves each to its peers as soon as it follows one of them.
//!
//! ```text
//!   joins ──▶ learner ──caught up, follows a peer──▶ replica ──a region lacks a standby──▶ learner
//! ```
//!
//! **Invariant:** a node that the leader leaves is in the state before it is out of the membership, and one that the leader
//! takes back is in the membership before it is out of the state: whatever breaks off, it is in one of them.

use std::collections::BTreeSet;

use openraft::ChangeMembers;
use skein_command::Transaction;
use skein_log::NodeId;
use skein_peer::{Request, Response};
use tokio::time::timeout;

use super::{Change, Cluster, Health, LAG_ENTRIES_MAX, Standing, Step};
use crate::follow::FOLLOWS_WITHIN;
use crate::{Error, Handle, MemberStatus, Role, replicas};

/// In each region.
const STANDBYS_MAX: usize = 2;

// === impl Cluster ===

impl<'a> Cluster<'a> {
    /// A replica becomes a standby where its region lacks one.
    pub(super) fn attach(&self) -> Option<Change> {
        let wanted = self.standbys();
        let next = self.members.iter().find(|m| m.role == Role::Replica && wanted.contains(&m.id))?;
        let why = format!("{} follows the leader, ready to vote", next.member.name);
        Some(Change { step: Step::Attach(next.id), why })
    }

    /// A standby that nobody needs becomes a replica, once it has what it needs to follow others.
    pub(super) fn detach(&self) -> Option<Change> {
        let wanted = self.standbys();
        let has_log = |m: &&MemberStatus| m.matched.is_some_and(|at| at + LAG_ENTRIES_MAX >= self.last_log_index);
        let idle = |m: &&MemberStatus| m.role == Role::Standby && !wanted.contains(&m.id) && self.health(m) == Health::Good;
        let next = self.members.iter().filter(idle).find(has_log)?;
        let why = format!("{} is one node more than the leader needs to feed", next.member.name);
        Some(Change { step: Step::Detach(next.id), why })
    }

    fn region(&self, member: &MemberStatus) -> &'a str {
        self.standing.get(&member.member.name).map_or("", Standing::region)
    }

    /// Who should be standbys: of nodes that are alike those that are it already.
    fn standbys(&self) -> BTreeSet<NodeId> {
        let may = |m: &&MemberStatus| matches!(m.role, Role::Standby | Role::Replica) && self.health(m) == Health::Good;
        let mut left: Vec<&MemberStatus> = self.members.iter().filter(may).collect();
        let mut chosen: Vec<&MemberStatus> = Vec::new();
        while !left.is_empty() {
            let crowd = |m: &MemberStatus| self.crowd(m, &chosen);
            let Some(at) = (0..left.len()).min_by_key(|at| (crowd(left[*at]), left[*at].role == Role::Replica, left[*at].id)) else {
                break;
            };
            let next = left.remove(at);
            let region = self.region(next);
            if chosen.iter().filter(|other| self.region(other) == region).count() < STANDBYS_MAX {
                chosen.push(next);
            } else {
                left.retain(|other| self.region(other) != region);
            }
        }
        chosen.into_iter().map(|m| m.id).collect()
    }
}

impl Handle {
    pub(super) async fn attach(&self, id: NodeId) -> Result<(), Error> {
        let replica = replicas::find(&self.local().state, id);
        let replica = replica.ok_or_else(|| Error::Refused(format!("node {id} is no replica")))?;
        let added = self.raft().add_learner(id, replica.member.clone(), false).await;
        added.map_err(|why| Error::Refused(why.to_string()))?;
        self.propose_as_leader(replica.forgotten()).await
    }

    pub(super) async fn detach(&self, id: NodeId) -> Result<(), Error> {
        let member = self.member(id).ok_or_else(|| Error::Refused(format!("node {id} is no member")))?;
        let asked = timeout(FOLLOWS_WITHIN * 2, self.call(&member, Request::Follow(true))).await;
        if !matches!(asked, Ok(Ok(Response::Raft(_)))) {
            return Err(Error::Refused(format!("{} follows nobody else yet", member.name)));
        }
        self.propose_as_leader(replicas::known(id, &member)).await?;
        if replicas::find(&self.local().state, id).is_none() {
            return Err(Error::Refused(format!("the state does not know {}", member.name)));
        }
        self.change_members(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await
    }

    /// A write that holds only while this node leads in its present term. What it asks for may be there already.
    async fn propose_as_leader(&self, write: skein_command::Write) -> Result<(), Error> {
        let transaction = Transaction { epoch: self.leadership().term, ..Transaction::from(write) };
        self.propose(transaction).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::membership::plan;

    /// Nodes by role (`L`eader, `V`oter, `S`tandby, `R`eplica) and zone, numbered from 1; a small letter is a silent node.
    fn check(nodes: &[(char, &str)], expected: Option<Step>) {
        let mut standing = BTreeMap::new();
        let member = |(at, (letter, zone)): (usize, &(char, &str))| {
            let role = match letter.to_ascii_uppercase() {
                'L' => Role::Leader,
                'V' => Role::Voter,
                'S' => Role::Standby,
                _ => Role::Replica,
            };
            let id = at as NodeId + 1;
            let member = skein_log::Member { name: format!("n{id}"), ..Default::default() };
            let health = if letter.is_ascii_lowercase() { Health::Silent } else { Health::Good };
            standing.insert(member.name.clone(), Standing { health, zone: (*zone).into() });
            MemberStatus { id, member, role, matched: (role != Role::Replica).then_some(1000) }
        };
        let members: Vec<MemberStatus> = nodes.iter().enumerate().map(member).collect();
        assert_eq!(plan(&members, &standing, 1000).map(|change| change.step), expected, "{nodes:?}");
    }

    #[test]
    fn a_region_has_two_standbys_and_no_more() {
        let same = |roles: &str| roles.chars().map(|role| (role, "")).collect::<Vec<_>>();
        check(&same("LVVSS"), None);
        check(&same("LVVSSR"), None);
        check(&same("LVVSSS"), Some(Step::Detach(6)));
        check(&same("LVVSRR"), Some(Step::Attach(5)));
        // One that is away is no standby, and is left alone until it is back.
        check(&same("LVVsSR"), Some(Step::Attach(6)));
        check(&same("LVVsSS"), None);
    }

    #[test]
    fn standbys_are_where_the_next_vote_may_go() {
        let voters = [('L', "eu/1"), ('V', "us/1"), ('V', "as/1")];
        let with = |others: &[(char, &'static str)]| [&voters[..], others].concat();
        // Two of each region.
        check(&with(&[('S', "eu/1"), ('S', "eu/1"), ('R', "us/1")]), Some(Step::Attach(6)));
        check(&with(&[('S', "eu/1"), ('S', "eu/1"), ('S', "eu/1")]), Some(Step::Detach(6)));
        // A zone without a voter comes before one with, though it has two already.
        check(&with(&[('S', "eu/1"), ('S', "eu/1"), ('R', "eu/2")]), Some(Step::Attach(6)));
        check(&with(&[('S', "eu/1"), ('S', "eu/1"), ('S', "eu/2")]), Some(Step::Detach(5)));
    }
}
